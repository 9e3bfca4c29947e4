"""Conversations as text and ids: the chat template of a model's own folder, or Llama 3's where it has none.

Templates are programs that came with a model, so they run in jinja2's sandbox. Their text is known in pieces: what the
template itself wrote may be special tokens, what a message says never is, whatever it looks like.
"""

import datetime
import functools
import hashlib
import itertools
import json
import re
import secrets
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llmdata import textfile

from .errors import InputError
from .prefix import without_prefix
from .stream import harmless

LLAMA3_TEMPLATE = """{{ bos_token }}{% for message in messages %}<|start_header_id|>\
{{ 'ipython' if message['role'] == 'tool' else message['role'] }}<|end_header_id|>

{{ message['content'] | trim }}<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>

{% endif %}"""
LLAMA3_TOKENS = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
OWN, CONFIG, LLAMA3 = "chat_template.jinja", "tokenizer_config.json", "Llama 3"  # where a template comes from

# White space that no template writes by itself: a template that trims a message takes it away.
_EDGE = "\u2003"


def read_json(path: Path) -> dict:
    if not path.exists():
        return {}
    value = textfile.read_json(path)
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object")
    return value


def token_text(value) -> str:
    """tokenizer_config.json has a token as its text or as an object with it."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else ""


def find_template(folder: Path, fields: dict) -> tuple[str | None, str]:
    """chat_template.jinja, or the field of tokenizer_config.json (a text, or a list of named ones), and where it was found."""
    own = folder / OWN
    if own.exists():
        return textfile.read_text(own), OWN
    template = fields.get("chat_template")
    if isinstance(template, list):
        template = _default_of(template, folder / CONFIG)
    return (template, CONFIG) if isinstance(template, str) else (None, LLAMA3)


def _default_of(entries: list, path: Path) -> str | None:
    named = {}
    for entry in entries:
        if not isinstance(entry, dict) or not all(isinstance(entry.get(name), str) for name in ("name", "template")):
            raise InputError(f'{path}: "chat_template": expected a text, or a list of objects with texts under "name" and '
                             '"template"')  # fmt: skip
        named[entry["name"]] = entry["template"]
    return named.get("default")


def _one_line(said: object) -> str:
    """What a template says may have in it what a message says."""
    return harmless(" ".join(str(said).split()))


@dataclass(frozen=True)
class Piece:
    """A stretch of a conversation's text: the template's own (`message` is None), or what message number `message` says."""

    text: str
    message: int | None = None


class _Mark:
    """Stands in for what a message says while the template runs, and tells afterwards what the template did with it.

    Between two numbers that no text can hold by chance is a quotation mark, so that a template which writes the message as JSON
    is seen to do so; around them is white space, so that one which trims it is seen too.
    """

    PATTERN = re.compile(_EDGE + r'?([0-9a-f]{16})\\?"([0-9a-f]{16})' + _EDGE + "?")

    def __init__(self, content: str):
        self.content = content
        self.numbers = secrets.token_hex(8), secrets.token_hex(8)
        self.text = f'{_EDGE}{self.numbers[0]}"{self.numbers[1]}{_EDGE}'

    def meaning(self, found: str) -> str:
        """What the template writes of the content where it writes `found` of the mark."""
        content = self.content if found.startswith(_EDGE) else self.content.lstrip()
        content = content if found.endswith(_EDGE) else content.rstrip()
        return json.dumps(content, ensure_ascii=False)[1:-1] if '\\"' in found else content


class Template:
    """A folder's chat template. `date` is the day that a template may write; None: today."""

    def __init__(self, folder: Path, tokenizer, date: datetime.date | None = None):
        self.folder, self.tokenizer, self.date = folder, tokenizer, date
        self.fields = read_json(folder / "tokenizer_config.json")
        self.bos, self.eos = token_text(self.fields.get("bos_token")), token_text(self.fields.get("eos_token"))
        source, self.origin = find_template(folder, self.fields)
        if source is None:
            source, self.bos = LLAMA3_TEMPLATE, self.bos or LLAMA3_TOKENS[0]
            missing = [token for token in LLAMA3_TOKENS[1:] if tokenizer.token_to_id(token) is None]
            if missing:
                raise InputError(f"{folder}: no chat template, and the tokenizer has no {' '.join(missing)} for Llama 3's")
        self.sha256 = hashlib.sha256(source.encode()).hexdigest()
        self.program = self._compile(source)
        self.special_ids = np.array(sorted(tokenizer.get_added_tokens_decoder()), int)

    def _compile(self, source: str):
        import jinja2.ext
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        extensions = [jinja2.ext.loopcontrols, _generation_blocks()]
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
        environment.filters["tojson"] = lambda value, **options: json.dumps(value, **{"ensure_ascii": False} | options)
        environment.globals.update(raise_exception=self._refuse, strftime_now=self._now)
        if self.date is not None:
            environment.globals["date_string"] = self.date.strftime("%d %b %Y")
        try:
            return environment.from_string(source)
        except jinja2.TemplateError as error:
            raise InputError(f"{self.folder}: chat template: {_one_line(error)}") from None

    def _refuse(self, message: str) -> None:
        raise InputError(f"{self.folder}: the chat template says: {_one_line(message)}")

    def _now(self, form: str) -> str:
        now = datetime.datetime.now()
        return (now if self.date is None else datetime.datetime.combine(self.date, datetime.time())).strftime(form)

    def render(self, messages: list[dict], add_generation_prompt: bool) -> str:
        try:
            return self.program.render(messages=messages, add_generation_prompt=add_generation_prompt,
                                       bos_token=self.bos, eos_token=self.eos)  # fmt: skip
        except InputError:
            raise
        except Exception as error:  # whatever a template may do wrong
            raise InputError(f"{self.folder}: chat template: {_one_line(error)}") from None

    def pieces(self, messages: list[dict], add_generation_prompt: bool) -> list[Piece]:
        """The conversation's text in order. Messages are {"role", "content"}, their contents not empty."""
        marks = [_Mark(message["content"]) for message in messages]
        whole = self.render([m | {"content": mark.text} for m, mark in zip(messages, marks)], add_generation_prompt)
        pieces, place = [], 0
        numbers = {mark.numbers: number for number, mark in enumerate(marks)}
        for match in _Mark.PATTERN.finditer(whole):
            number = numbers[match.groups()]
            pieces += [Piece(whole[place : match.start()]), Piece(marks[number].meaning(match.group()), number)]
            place = match.end()
        pieces.append(Piece(whole[place:]))
        self._check(messages, pieces, add_generation_prompt)
        return [piece for piece in pieces if piece.text]

    def _check(self, messages: list[dict], pieces: list[Piece], add_generation_prompt: bool) -> None:
        """The pieces are what the template makes of the messages themselves: it may look at what they say."""
        numbers = [piece.message for piece in pieces if piece.message is not None]
        if sorted(numbers) == list(range(len(messages))):
            if "".join(piece.text for piece in pieces) == self.render(messages, add_generation_prompt):
                return
            wrong = range(len(messages))
        else:
            wrong = [number for number in range(len(messages)) if numbers.count(number) != 1]
        roles = dict.fromkeys(str(messages[number]["role"]) for number in wrong)
        raise InputError(f"{self.folder}: the chat template leaves out or changes the {' or '.join(roles)} message")

    def ask(self, messages: list[dict]) -> list[int]:
        """Ids of what a model reads that is to answer."""
        return np.concatenate(self.encode(self.pieces(messages, True), [])).tolist()

    def encode(self, pieces: list[Piece], begins: list[int]) -> list[np.ndarray]:
        """Ids of each piece. Special tokens of the template's pieces are tokens, of a message's they are text.

        They are those of the whole text, of which a piece has the ones that begin in it; unless one that a message
        would bring about is a token of the template, or one lies across the begin of a piece in `begins`: then each is by itself.
        """
        whole = self._encode_whole(pieces, begins)
        return self._encode_apart(pieces) if whole is None else whole

    def _encode_whole(self, pieces: list[Piece], begins: list[int]) -> list[np.ndarray] | None:
        encoding = self.tokenizer.encode("".join(piece.text for piece in pieces), add_special_tokens=False)
        ids, offsets = np.array(encoding.ids), np.array(encoding.offsets).reshape(-1, 2)
        starts = np.array([0, *itertools.accumulate(len(piece.text) for piece in pieces)])
        owner = np.searchsorted(starts, offsets[:, 0], "right") - 1
        across = offsets[:, 1] > starts[np.minimum(owner + 1, len(pieces))]
        of_message = np.array([piece.message is not None for piece in pieces], bool)[np.minimum(owner, len(pieces) - 1)]
        wrong = np.isin(ids, self.special_ids) & (of_message | across)
        for start in starts[begins]:
            wrong |= (offsets[:, 0] < start) & (start < offsets[:, 1])
        if wrong.any() or (np.diff(owner) < 0).any():
            return None
        return np.split(ids, np.searchsorted(owner, np.arange(1, len(pieces))))

    @functools.cached_property
    def _bare(self):
        """See without_prefix: (the tokenizer of text that goes on, whether a special token is followed by a blank)"""
        return without_prefix(self.tokenizer)

    def _encode_apart(self, pieces: list[Piece]) -> list[np.ndarray]:
        """Each piece by itself, with the blank in front that some tokenizers put there only where the whole text has it too."""
        found: list[np.ndarray] = []
        behind_special = False
        for piece in pieces:
            goes_on = bool(found) and not (behind_special and self._bare[1])
            ids = self._encode_piece(piece.text, piece.message is not None, goes_on)
            found.append(np.array(ids, int))
            behind_special = bool(ids) and ids[-1] in self.special_ids
        return found

    def _encode_piece(self, text: str, said: bool, goes_on: bool) -> list[int]:
        """said: by a message, so that nothing in it is a special token."""
        if not goes_on:
            return self._encode_as(self.tokenizer, text, said).ids
        bare, behind_specials = self._bare
        encoding = self._encode_as(bare, text, said)
        special = next((place for place, number in enumerate(encoding.ids) if number in self.special_ids), None)
        if special is None or not behind_specials:
            return encoding.ids
        return encoding.ids[:special] + self._encode_as(self.tokenizer, text[encoding.offsets[special][0] :], said).ids

    @staticmethod
    def _encode_as(tokenizer, text: str, said: bool):
        tokenizer.encode_special_tokens = said
        encoding = tokenizer.encode(text, add_special_tokens=False)
        tokenizer.encode_special_tokens = False
        return encoding


def _generation_blocks():
    """{% generation %} ... {% endgeneration %}, which some templates put around what an assistant says, changes nothing."""
    import jinja2.ext
    import jinja2.nodes

    class GenerationBlocks(jinja2.ext.Extension):
        tags = {"generation"}

        def parse(self, parser):
            line = next(parser.stream).lineno
            return jinja2.nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)

    return GenerationBlocks


class Chat:
    """encode(text) → ids of a conversation in which the user says that and the assistant's turn begins."""

    def __init__(self, folder: Path, tokenizer, system: str | None):
        self.template, self.system = Template(folder, tokenizer), system

    def encode(self, text: str) -> list[int]:
        messages = [{"role": "system", "content": self.system}] if self.system else []
        return self.template.ask([*messages, {"role": "user", "content": text}])
