"""Converts SentencePiece's tokenizer.model of a BPE, such as Llama 2's, to a tokenizer.json that encodes alike.

The file is a protocol buffer (sentencepiece_model.proto) of pieces with scores and types, and two records of settings. A
setting that has no counterpart in a tokenizer.json is refused by its name.
"""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

from .errors import InputError

MAGIC = b"\n"  # the tag of the first piece; Meta's rank files begin with base64
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
BLANK = "▁"
BPE = 2
VARINT, EIGHT_BYTES, LENGTH, FOUR_BYTES = 0, 1, 2, 5
ADVICE = "convert it to a tokenizer.json by transformers (AutoTokenizer.from_pretrained, save_pretrained)"
# (record, field number, default value, expected value, name)
EXPECTED = (
    ("trainer", 3, 1, BPE, "model_type"),
    ("trainer", 24, 0, 0, "treat_whitespace_as_suffix"),
    ("normalizer", 2, b"", b"", "precompiled_charsmap"),
    ("normalizer", 4, 1, 0, "remove_extra_whitespaces"),
    ("normalizer", 5, 1, 1, "escape_whitespaces"),
)


@dataclass
class Piece:
    text: str = ""
    score: float = 0.0
    kind: int = NORMAL


@dataclass
class Model:
    """`bos` and `eos` begin and end a text; None where there is no such token."""

    pieces: list[Piece]
    trainer: dict
    normalizer: dict
    bos: str | None = None
    eos: str | None = None


# ---- read


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        value |= (data[at] & 0x7F) << shift
        at += 1
        if data[at - 1] < 0x80:
            return value & (1 << 64) - 1, at
    raise ValueError("a number longer than 10 bytes")


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yields (number, value) of each field of a record."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        if tag & 7 == VARINT:
            value, at = _varint(data, at)
        else:
            length, at = _varint(data, at) if tag & 7 == LENGTH else ({EIGHT_BYTES: 8, FOUR_BYTES: 4}[tag & 7], at)
            value, at = data[at : at + length], at + length
            if at > len(data):
                raise ValueError("a field longer than the file")
        yield tag >> 3, value


def _piece(data: bytes) -> Piece:
    fields = dict(_fields(data))
    score = struct.unpack("<f", fields[2])[0] if 2 in fields else 0.0
    return Piece(fields.get(1, b"").decode(), score, fields.get(3, NORMAL))


def read(path: Path) -> Model:
    model = Model([], {}, {})
    try:
        for number, value in _fields(path.read_bytes()):
            if number == 1:
                model.pieces.append(_piece(value))
            elif number in (2, 3):
                (model.trainer if number == 2 else model.normalizer).update(_fields(value))
        ids = model.trainer.get(41, 1), model.trainer.get(42, 2)
        model.bos, model.eos = (model.pieces[n].text if n < len(model.pieces) else None for n in ids)
    except (ValueError, LookupError, TypeError, AttributeError, struct.error):
        raise InputError(f"{path}: neither Meta's ranks nor a SentencePiece model: damaged, or cut off") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    _check(path, model)
    return model


def _check(path: Path, model: Model) -> None:
    for record, number, default, expected, name in EXPECTED:
        found = getattr(model, record).get(number, default)
        if found != expected:
            shown = f"{len(found)} bytes, expected none" if isinstance(found, bytes) else f"{found}, expected {expected}"
            raise InputError(f"{path}: {name} is {shown}, as in Llama 2's: {ADVICE}")
    for number, piece in enumerate(model.pieces):
        if piece.kind in (USER_DEFINED, UNUSED):
            what = "user-defined" if piece.kind == USER_DEFINED else "unused"
            raise InputError(f"{path}: piece {number} is {what}, expected none as in Llama 2's: {ADVICE}")
    if len({piece.text for piece in model.pieces}) < len(model.pieces):
        raise InputError(f"{path}: a piece occurs twice")


# ---- convert


def _merges(pieces: list[Piece]) -> list[tuple[str, str]]:
    """SentencePiece always joins the neighbours whose union is the piece with the best score. As merges: every way to split a
    piece into two others, in the order of the pieces' scores."""
    known = {piece.text: (-piece.score, number) for number, piece in enumerate(pieces) if piece.kind == NORMAL}
    ranked = []
    for text, rank in known.items():
        cuts = [(text[:i], text[i:]) for i in range(1, len(text))]
        ranked += [(rank, pair) for pair in cuts if pair[0] in known and pair[1] in known]
    return [pair for _, pair in sorted(ranked)]


def convert(model: Model, add_bos: bool, add_eos: bool) -> Tokenizer:
    """`add_bos` and `add_eos` say which tokens an encoded text gets."""
    pieces, prefix = model.pieces, bool(model.normalizer.get(3, 1))
    unknown = next((piece.text for piece in pieces if piece.kind == UNKNOWN), None)
    vocab = {piece.text: number for number, piece in enumerate(pieces)}
    byte_fallback = bool(model.trainer.get(35, 0))
    tokenizer = Tokenizer(models.BPE(vocab, _merges(pieces), unk_token=unknown, fuse_unk=True, byte_fallback=byte_fallback))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(BLANK)] * prefix + [normalizers.Replace(" ", BLANK)])
    parts = [decoders.Replace(BLANK, " ")] + [decoders.ByteFallback()] * byte_fallback + [decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(parts + [decoders.Strip(" ", 1, 0)] * prefix)
    special = [piece.text for piece in pieces if piece.kind in (UNKNOWN, CONTROL)]
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    around = [model.bos if add_bos else None, model.eos if add_eos else None]
    tokenizer.post_processor = _around(*around, vocab)
    return tokenizer


def _around(begin: str | None, end: str | None, vocab: dict[str, int]) -> processors.TemplateProcessing:
    one = [[begin, part, end] for part in ("$A", "$B:1")]
    single, second = (" ".join(part for part in parts if part) for parts in one)
    tokens = [(token, vocab[token]) for token in dict.fromkeys((begin, end)) if token]
    return processors.TemplateProcessing(single=single, pair=f"{single} {second}", special_tokens=tokens)
