"""Where a text can be cut without changing its tokens, so that long documents are encoded piece by piece.

A cut point lies between two neighbouring characters a and b such that, whatever stands before a and after b, the tokens of the
whole are those of the part up to a, followed by those of the part from b on. The latter are encode(a + part) without encode(a),
so that what a tokenizer puts in front of a text is not put in front of a part. Each step of the tokenizer answers, for a pair:

- True: pieces certainly end between them, so that no later step sees both;
- False: it may treat the two together;
- (a, b): it does to both sides what it does to the whole, and leaves these two characters side by side there.

Any other step, or setting of one, is Unknown: such a tokenizer has no cut points.
"""

import json
import re
import unicodedata
from dataclasses import replace
from functools import lru_cache
from typing import Callable, Iterable, Iterator

from tokenizers import Tokenizer, models

from .encode import Unit
from .glushkov import Pattern, Unknown
from .tokenizer import as_json, byte_letters, parts_of

Step = Callable[[str, str], bool | tuple[str, str]]

GPT2_SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# These look at one character at a time, so that a text of two characters shows what they do to any text.
SPLITS_BY_CHARACTER = ("Digits", "Punctuation", "CharDelimiterSplit", "WhitespaceSplit")
NORMALIZES_BY_CHARACTER = ("Lowercase", "StripAccents", "ByteLevel")
# Ideographs and their two commonest punctuation marks: no accent changes them.
CJK = r"\u3001\u3002\u4e00-\u9fff"
# None of these is changed by what follows it. There is no letter among them, as an accent may follow (é), and no <, = or >.
_NEVER_COMPOSED = re.compile(rf"[\x00-;?@\[-`{{-\x7f{CJK}]")
_STARTS_ALONE = re.compile(rf"[\x00-\x7f{CJK}]")
_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")


UNIT_CHARS = 1 << 18


class CutPoints:
    """`unknown` names the part of the tokenizer that forbids every cut; None: there is no such part."""

    def __init__(self, tokenizer: Tokenizer):
        self.unknown: str | None = None
        self._steps: list[Step] = []
        try:
            self._steps = _steps(tokenizer)
        except Unknown as error:
            self.unknown = str(error)
        self._fits = lru_cache(1 << 16)(self._find_fit)

    def find(self, text: str, low: int) -> int | None:
        """The first place in the text, from `low` on, where it can be cut; None: there is none."""
        if self.unknown is not None:
            return None
        return next((at for at in range(max(low, 1), len(text)) if self._fits(text[at - 1 : at + 1])), None)

    def _find_fit(self, pair: str) -> bool:
        here, there = pair
        for step in self._steps:
            after = step(here, there)
            if isinstance(after, bool):
                return after
            here, there = after
        return False


def cut_units(units: Iterable[Unit], cut_points: CutPoints, chars: int = UNIT_CHARS) -> Iterator[Unit]:
    """The documents of `units` in units of about `chars` characters, or longer ones where no cut point comes sooner."""
    text, before, begins, searched = "", "", True, chars
    for unit in units:
        text += unit.text
        while (at := cut_points.find(text, searched)) is not None:
            yield replace(unit, text=text[:at], begins=begins, ends=False, before=before)
            text, before, begins, searched = text[at:], text[at - 1], False, chars
        searched = max(chars, len(text))
        if unit.ends:
            yield replace(unit, text=text, begins=begins, before=before)
            text, before, begins, searched = "", "", True, chars


def _steps(tokenizer: Tokenizer) -> list[Step]:
    raw = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    normalized = [tokenizer.normalizer.normalize_str(text) for text in raw] if tokenizer.normalizer else []
    steps = [_added_tokens(raw)]
    steps += [_normalizer(part) for part in parts_of(tokenizer.normalizer, "normalizers")]
    steps.append(_added_tokens(raw + normalized))
    splits = False
    for part in parts_of(tokenizer.pre_tokenizer, "pretokenizers"):
        added, makes_pieces = _pre_tokenizer(part)
        steps += added
        splits |= makes_pieces
    return steps + [_model(tokenizer, splits)]


def _added_tokens(contents: list[str]) -> Step:
    """Added tokens are searched for in the whole text and may swallow white space on either side.

    A token that ends with a may look at b. One that begins with b looks at a, but a stands in front of the second part too.
    """
    inner = {text[at : at + 2] for text in contents for at in range(len(text) - 1)}
    ends = {text[-1] for text in contents if text}
    return lambda a, b: False if a.isspace() or a in ends or a + b in inner else (a, b)


# ---- normalizers


def _normalizer(part: dict) -> Step:
    kind = part["type"]
    if kind == "Prepend":
        return lambda a, b: (a, b)
    if kind == "Strip":
        return lambda a, b: (a, b) if not a.isspace() else False
    if kind in NORMALIZES_BY_CHARACTER or (kind == "Replace" and len(part["pattern"].get("String", "")) == 1):
        return _mapped(part)
    if kind in ("NFC", "NFD", "NFKC", "NFKD"):
        mapped = _mapped(part)
        return lambda a, b: mapped(a, b) if _starts_alone(a) and _NEVER_COMPOSED.match(b) else False
    if kind == "Replace":
        pattern = _pattern(part)
        return lambda a, b: (a, b) if not pattern.touches(a) and not pattern.touches(b) else False
    raise Unknown(f"normalizer {kind}")


def _mapped(part: dict) -> Step:
    engine = _engine(normalizer=part).normalizer

    def step(a: str, b: str):
        left, right = engine.normalize_str(a), engine.normalize_str(b)
        return (left[-1], right[0]) if left and right else False

    return step


def _starts_alone(character: str) -> bool:
    """Whether no preceding character changes it. Jamo, of which Hangul syllables are composed, are changed."""
    if _STARTS_ALONE.match(character):
        return True
    letter = unicodedata.category(character)[0] == "L" and character <= "\uffff"
    return letter and not "\u1100" <= character <= "\u11ff" and unicodedata.normalize("NFKD", character) == character


def _engine(**component) -> Tokenizer:
    """A tokenizer that has only this component."""
    return Tokenizer.from_str(json.dumps({"model": {"type": "BPE", "vocab": {}, "merges": []}, **component}))


def _pattern(part: dict) -> Pattern:
    source = part["pattern"]
    try:
        return Pattern(source["Regex"]) if "Regex" in source else Pattern.literal(source["String"])
    except Unknown:
        raise Unknown(f"pattern {json.dumps(source)}") from None


# ---- pre-tokenizers


def _pre_tokenizer(part: dict) -> tuple[list[Step], bool]:
    """Its steps, and whether it splits text into pieces."""
    kind = part["type"]
    if kind == "ByteLevel":
        return [_split(Pattern(GPT2_SPLIT))] * part["use_regex"] + [_as_bytes], part["use_regex"]
    if kind == "Split":
        return [_split(_pattern(part), part["behavior"] in ("Isolated", "Removed"))], True
    if kind in SPLITS_BY_CHARACTER:
        return [_split_by_character(part)], True
    if kind == "Metaspace":
        return [_metaspace(part)], part["split"]
    raise Unknown(f"pre-tokenizer {kind}")


def _split(pattern: Pattern, each_match_alone: bool = True) -> Step:
    def step(a: str, b: str):
        ends = pattern.between(a, b)
        if ends is False:  # a lies outside all matches, and whether one begins with b depends only on what follows b
            return a, b
        return bool(ends and each_match_alone)

    return step


def _split_by_character(part: dict) -> Step:
    engine = _engine(pre_tokenizer=part).pre_tokenizer

    def step(a: str, b: str):
        return (a, b) if [piece for piece, _ in engine.pre_tokenize_str(a + b)] == [a + b] else True

    return step


def _metaspace(part: dict) -> Step:
    mark = part["replacement"]

    def step(a: str, b: str):
        a, b = (mark if character == " " else character for character in (a, b))
        return True if part["split"] and b == mark else (a, b)

    return step


def _as_bytes(a: str, b: str) -> tuple[str, str]:
    letters = byte_letters()
    return letters[a.encode()[-1]], letters[b.encode()[0]]


# ---- model


def _model(tokenizer: Tokenizer, splits: bool) -> Step:
    """What the model does within a piece; no model joins pieces."""
    merges = _merges(tokenizer) if isinstance(tokenizer.model, models.BPE) else None
    if merges is None and not splits:
        raise Unknown(f"model {type(tokenizer.model).__name__} without a pre-tokenizer that splits")
    return merges or (lambda a, b: False)


def _merges(tokenizer: Tokenizer) -> Step | None:
    """A merge across the cut joins a token that ends with a and one that begins with b; without such a merge nothing crosses.

    Characters that are neither tokens nor bytes allow no cut: unknown ones may be joined or dropped. None is returned where
    the rest of the piece matters in some other way.
    """
    model = tokenizer.model
    if any(getattr(model, name) for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges")):
        return None
    content = as_json(model)
    vocab, merges = content["vocab"], content["merges"]
    bytes_merge = model.byte_fallback and any(_BYTE_TOKEN.fullmatch(token) for merge in merges for token in merge)
    if bytes_merge or len(vocab) < tokenizer.get_vocab_size(with_added_tokens=False):  # two names of one id
        return None
    across = {left[-1] + right[0] for left, right in merges}
    bytes_known = model.byte_fallback and all(f"<0x{byte:02X}>" in vocab for byte in range(256))
    known = (lambda character: True) if bytes_known else vocab.__contains__
    return lambda a, b: bool(known(a) and known(b) and a + b not in across)
