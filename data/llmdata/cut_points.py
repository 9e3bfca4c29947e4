"""Where a text can be cut without a change of its tokens.

A seam lies between two neighbouring characters a and b such that, whatever stands before a and behind b, the tokens of the
whole are those of the part up to a and then those of the part from b on; the latter are encode(a + part) without encode(a), so
that what a tokenizer puts in front of a text is not put in front of a part. Each step of the tokenizer tells of a pair that

- True: its pieces end there for certain, so that nothing behind it sees both;
- False: it may take both together;
- (a, b): it does the same on both sides as on the whole, and leaves these two characters side by side there.

Every other step, or setting of one, is Unknown: such a tokenizer gets no seams.
"""

import json
import re
import unicodedata
from functools import lru_cache
from typing import Callable

from tokenizers import Tokenizer, models

from .glushkov import Pattern, Unknown
from .tokenizer import as_json, byte_letters, parts_of

Step = Callable[[str, str], bool | tuple[str, str]]

GPT2_SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# These look at one character at a time, so that two of them show what they do in any text.
SPLITS_BY_CHARACTER = ("Digits", "Punctuation", "CharDelimiterSplit", "WhitespaceSplit")
NORMALIZES_BY_CHARACTER = ("Lowercase", "StripAccents", "ByteLevel")
# Ideographs, and two signs between them: no accent changes them.
CJK = r"\u3001\u3002\u4e00-\u9fff"
# No character of these is changed by what stands behind it; no letter, as é may follow as e and an accent, no <, = or >.
_NEVER_COMPOSED = re.compile(rf"[\x00-;?@\[-`{{-\x7f{CJK}]")
_STARTS_ALONE = re.compile(rf"[\x00-\x7f{CJK}]")
_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")


class Seams:
    """`find` gives the next place for a cut; `unknown` is what of the tokenizer forbids every cut, or None."""

    def __init__(self, tokenizer: Tokenizer):
        self.unknown: str | None = None
        self._steps: list[Step] = []
        try:
            self._steps = _steps(tokenizer)
        except Unknown as error:
            self.unknown = str(error)
        self._fits = lru_cache(1 << 16)(self._find_fit)

    def find(self, text: str, low: int) -> int | None:
        """The first place from `low` on, within the text, where it can be cut."""
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
    """Tokens that are looked for in the text as a whole, and may take white space on their sides with them.

    A token that ends with a may look at b; one that begins with b looks at a, but then a stands in front of the part too.
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
    """Whether what stands before it never changes it. Letters of which Hangul syllables are made are not among these."""
    if _STARTS_ALONE.match(character):
        return True
    letter = unicodedata.category(character)[0] == "L" and character <= "\uffff"
    return letter and not "\u1100" <= character <= "\u11ff" and unicodedata.normalize("NFKD", character) == character


def _engine(**component) -> Tokenizer:
    """A tokenizer that has this component alone."""
    return Tokenizer.from_str(json.dumps({"model": {"type": "BPE", "vocab": {}, "merges": []}, **component}))


def _pattern(part: dict) -> Pattern:
    source = part["pattern"]
    try:
        return Pattern(source["Regex"]) if "Regex" in source else Pattern.literal(source["String"])
    except Unknown:
        raise Unknown(f"pattern {json.dumps(source)}") from None


# ---- pre-tokenizers


def _pre_tokenizer(part: dict) -> tuple[list[Step], bool]:
    """Its steps, and whether it makes pieces."""
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
        if ends is False:  # a lies between matches, and whether one begins with b depends on what comes behind b only
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
    """What a model does within a piece; pieces are apart in all of them."""
    merges = _merges(tokenizer) if isinstance(tokenizer.model, models.BPE) else None
    if merges is None and not splits:
        raise Unknown(f"model {type(tokenizer.model).__name__} without a pre-tokenizer that splits")
    return merges or (lambda a, b: False)


def _merges(tokenizer: Tokenizer) -> Step | None:
    """A merge across is one of a token that ends with a and one that begins with b; where there is none, none gets across.

    Characters that are neither tokens nor bytes are left out: unknown ones may be taken together or dropped. None where it
    matters in another way what stands in a piece.
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
