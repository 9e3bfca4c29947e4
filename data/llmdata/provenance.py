"""Text that knows where each of its characters comes from, even after a template has cut it, joined it or written it as JSON.

A template's own text is plain `str`; what it is given is Text. Text behaves like the same `str`, so that the template takes the
same branches; the result is the same text, with its origins.
"""

import functools
import json
import re
import secrets
from collections.abc import Iterator, MappingView
from types import BuiltinMethodType

import jinja2.ext
import jinja2.nodes
from jinja2.compiler import CodeGenerator
from jinja2.sandbox import ImmutableSandboxedEnvironment

# An origin is one character: its two lowest bits are flags, the bits above them the number of a source (0: the template itself).
OWN = "\0"
GENERATED, LOST = 1, 2  # inside {% generation %}; changed in a way that cannot be followed
FLAG_BITS = 2

# Filters that only use methods of Text, or return one of their arguments.
KEEPING = (
    "trim", "replace", "string", "lower", "upper", "capitalize", "first", "last", "min", "max", "random", "default", "d", "attr",
    "reverse",
)  # fmt: skip


class Text(str):
    """`_origins` has one character for each of the text. Its underscore hides it from templates."""

    def __new__(cls, text: str, origins: str):
        self = super().__new__(cls, text)
        self._origins = origins
        return self

    encode = None  # bytes have no origins

    def __str__(self):
        return self

    def __add__(self, other):
        return join((self, other)) if isinstance(other, str) else NotImplemented

    def __radd__(self, other):
        return join((other, self)) if isinstance(other, str) else NotImplemented

    def __getitem__(self, key):
        return Text(super().__getitem__(key), self._origins[key])

    def __iter__(self):
        return (self[place] for place in range(len(self)))

    def lstrip(self, chars=None):
        return self[len(self) - len(super().lstrip(chars)) :]

    def rstrip(self, chars=None):
        return self[: len(super().rstrip(chars))]

    def strip(self, chars=None):
        return self.lstrip(chars).rstrip(chars)

    def removeprefix(self, prefix):
        return self[len(prefix) :] if self.startswith(prefix) else self

    def removesuffix(self, suffix):
        return self[: -len(suffix)] if suffix and self.endswith(suffix) else self

    def _cased(self, text):
        """A change of case may make several characters of one; then it is not known of which, and the origins are lost."""
        return Text(text, self._origins) if len(text) == len(self) else _lost(text, [self])

    def lower(self):
        return self._cased(super().lower())

    def upper(self):
        return self._cased(super().upper())

    def capitalize(self):
        return self._cased(super().capitalize())

    def _cut(self, parts, gap):
        """`parts` of this text in order, at least `gap` characters apart, with their origins."""
        found, place = [], 0
        for part in parts:
            place = self.index(part, place)
            found.append(self[place : place + len(part)])
            place = min(len(self), place + len(part) + gap)
        return found

    def split(self, sep=None, maxsplit=-1):
        return self._cut(super().split(sep, maxsplit), len(sep or ""))

    def rsplit(self, sep=None, maxsplit=-1):
        return self._cut(super().rsplit(sep, maxsplit), len(sep or ""))

    def splitlines(self, keepends=False):
        return self._cut(super().splitlines(keepends), 0)

    def partition(self, sep):
        return tuple(self._cut(super().partition(sep), 0))

    def rpartition(self, sep):
        return tuple(self._cut(super().rpartition(sep), 0))

    def replace(self, old, new, count=-1):
        if not old:
            return _follow(str.replace, self, old, new, count)
        parts = self.split(old, count)
        return join([piece for part in parts for piece in (new, part)][1:])

    def join(self, parts):
        return join([piece for part in parts for piece in (self, part)][1:])


def origins_of(text: str) -> str:
    return text._origins if isinstance(text, Text) else OWN * len(text)


def join(parts) -> str:
    parts = list(parts)
    if not any(isinstance(part, Text) for part in parts):
        return "".join(parts)
    return Text("".join(parts), "".join(map(origins_of, parts)))


def of_source(value, number: int):
    """The JSON value with all its texts, keys included, marked as coming from that source."""
    origin = chr(number << FLAG_BITS)
    return _replace_texts(value, str, lambda text: Text(text, origin * len(text)))


def runs(text: str) -> list[tuple[str, int, int]]:
    """The text as runs of one origin: (text, source, flags)."""
    found = re.finditer(r"(.)\1*", origins_of(text), re.DOTALL)
    plain = _plain(text)
    return [(plain[m.start() : m.end()], ord(m[1]) >> FLAG_BITS, ord(m[1]) & (GENERATED | LOST)) for m in found]


def _flagged(text: str, flag: int) -> str:
    return Text(_plain(text), "".join(chr(ord(origin) | flag) for origin in origins_of(text)))


def _plain(text: str) -> str:
    return str.__str__(text) if isinstance(text, Text) else text


def _replace_texts(value, kind: type, replace):
    """A copy of lists, tuples and dicts in which each text of that kind is replaced."""
    if isinstance(value, kind):
        return replace(value)
    if isinstance(value, dict):
        return {_replace_texts(key, kind, replace): _replace_texts(item, kind, replace) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_replace_texts(item, kind, replace) for item in value)
    return value


def _texts_in(value) -> list[Text]:
    found: list[Text] = []
    _replace_texts(value, Text, lambda text: found.append(text) or text)
    return found


def _listed(values: tuple) -> tuple:
    """The values, with iterators and views of dicts as lists."""
    return tuple(list(value) if isinstance(value, (Iterator, MappingView)) else value for value in values)


class _Marks:
    """Random words that stand in for texts in calls of functions that would lose their origins."""

    WORD = f"m{secrets.token_hex(8)}n"
    PATTERN = re.compile(WORD + r"(\d+)z")
    QUOTED = re.compile(f"'{WORD}" + r"(\d+)z'")

    def __init__(self):
        self.texts: list[Text] = []

    def put(self, value):
        return _replace_texts(value, Text, self._mark)

    def _mark(self, text: Text) -> str:
        self.texts.append(text)
        return f"{self.WORD}{len(self.texts) - 1}z"

    def resolve(self, shown: str, write=lambda text: text, pattern=PATTERN) -> str:
        parts = pattern.split(shown)  # text, number, text, ...
        return join(write(self.texts[int(part)]) if place % 2 else part for place, part in enumerate(parts))


def _follow(function, *values, keeps=True):
    """The function's result; if it is a text, with origins, which a second call with marks in place of texts reveals.

    `keeps`: where the function returns Text, its origins are right.
    """
    result = function(*values)
    if not isinstance(result, str) or (keeps and isinstance(result, Text)):
        return result
    texts = _texts_in(values)
    if not texts:
        return result
    marks = _Marks()
    try:
        shown = str(function(*marks.put(values)))
    except Exception:  # it depends on what the text is
        return _lost(result, texts)
    ways = ((marks.PATTERN, lambda text: text), (marks.QUOTED, _as_python))
    tries = (marks.resolve(shown, write, pattern) for pattern, write in ways)
    return next((found for found in tries if found == result), None) or _lost(result, texts)


def _as_python(text: Text) -> Text:
    """The text as Python writes it inside a list."""
    shown = repr(_plain(text))
    return Text(shown, (text._origins[:1] or OWN) * len(shown))


def _lost(result: str, texts: list[Text]) -> Text:
    first = next((origin for text in texts for origin in text._origins), OWN)
    return Text(result, chr(ord(first) | LOST) * len(result))


def _sorted(value):
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(item) for item in value] if isinstance(value, (list, tuple)) else value


def to_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False) -> str:
    """The filter tojson as transformers defines it."""
    marks = _Marks()
    shown = json.dumps(marks.put(_sorted(value) if sort_keys else value), ensure_ascii=ensure_ascii, indent=indent,
                       separators=separators)  # fmt: skip

    def escaped(text: Text) -> str:
        same = re.finditer(r"(.)\1*", text._origins, re.DOTALL)
        parts = ((json.dumps(_plain(text[m.start() : m.end()]), ensure_ascii=ensure_ascii)[1:-1], m[1]) for m in same)
        return join(Text(part, origin * len(part)) for part, origin in parts)

    return marks.resolve(shown, escaped)


class _Code(CodeGenerator):
    def visit_Concat(self, node, frame):
        """a ~ b"""
        self.write("environment.joined((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")


class _GenerationBlocks(jinja2.ext.Extension):
    """{% generation %} ... {% endgeneration %}, which some templates put around an assistant's words."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_generated"), [], [], body, lineno=line)

    def _generated(self, caller):
        return _flagged(caller(), GENERATED)


class Environment(ImmutableSandboxedEnvironment):
    """jinja2's sandbox with transformers' settings, in which Text keeps its origins."""

    code_generator_class = _Code
    intercepted_binops = frozenset("%*")

    def __init__(self):
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols, _GenerationBlocks],
                         finalize=self._written)  # fmt: skip
        self.concat = join
        for name, function in self.filters.items():
            self.filters[name] = self._followed(function, name in KEEPING)
        self.filters["tojson"] = to_json

    @staticmethod
    def _written(value):
        return value if isinstance(value, str) else _follow(str, value) if _texts_in(value) else value

    def joined(self, parts) -> str:
        return join(str(self._written(part)) for part in parts)

    @staticmethod
    def _followed(function, keeps: bool):
        @functools.wraps(function)
        def followed(*values, **options):
            return _follow(lambda given, named: function(*given, **named), _listed(values), options, keeps=keeps)

        return followed

    def call_binop(self, context, operator, left, right):
        return _follow(self.binop_table[operator], left, right)

    def call(self, context, obj, *values, **options):
        of = getattr(obj, "__self__", None)
        if not isinstance(obj, BuiltinMethodType) or not isinstance(of, str):
            return super().call(context, obj, *values, **options)
        call = super().call
        return _follow(
            lambda text, given, named: call(context, getattr(text, obj.__name__), *given, **named), of, _listed(values), options
        )

    def wrap_str_format(self, value):
        wrap = super().wrap_str_format
        if wrap(value) is None:
            return None

        def formatted(text, given, named):
            return wrap(getattr(_plain(text), value.__name__))(*given, **named)

        return lambda *values, **options: _follow(formatted, value.__self__, values, options)
