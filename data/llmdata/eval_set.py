"""The file format of evaluation items, which llmc/eval/items.h describes."""

import os
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .errors import InputError
from .output import sync

MAGIC = b"L3EVALS\0"
VERSION = 1
BYTE_ORDER = 0x01020304
HEADER_BYTES = 256
CHOICE, DOCUMENTS, NEEDLES = 1, 2, 3
KINDS = {CHOICE: "questions with endings", DOCUMENTS: "documents", NEEDLES: "needles, of --needle-lengths"}
WHOLE_DEPTH = 10000  # depths of needles are hundredths of a percent
MAX_BYTES = 1 << 30  # of a file, as the trainer reads it
MAX_DEPTHS = 128  # different ones in a file

_HEADER = struct.Struct("<8sIIIIQQQ32s")


@dataclass
class Ending:
    """The tokens of an ending, or of a whole document, for which `characters` counts words."""

    tokens: list[int]
    characters: int
    bytes: int


@dataclass
class Item:
    context: list[int] | np.ndarray
    endings: list[Ending]
    label: int = 0
    depth: int = 0  # of needles


def write(path: Path, kind: int, items: list[Item], vocab_size: int, sha256: bytes) -> None:
    """The file appears under its name as a whole or not at all."""
    endings = [ending for item in items for ending in item.endings]
    tokens = [ids for item in items for ids in (item.context, *(ending.tokens for ending in item.endings))]
    flat = np.concatenate([np.asarray(ids, "<u4") for ids in tokens])
    header = _HEADER.pack(MAGIC, VERSION, BYTE_ORDER, kind, vocab_size, len(items), len(endings), flat.size, sha256)
    parts = [
        header.ljust(HEADER_BYTES, b"\0"),
        np.array([[len(item.context), len(item.endings), item.label, item.depth] for item in items], "<u4").tobytes(),
        np.array([[len(e.tokens), e.characters, e.bytes, 0] for e in endings], "<u4").tobytes(),
        flat.tobytes(),
    ]
    partial = path.with_name(path.name + ".partial")
    try:
        with open(partial, "wb") as file:
            for part in parts:
                file.write(part)
        sync(partial)
        os.replace(partial, path)
        sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def read(path: Path, expected: int | None = None) -> tuple[list[Item], bytes]:
    """The items of this kind (None: of any), and the SHA-256 of the tokenizer.json that their tokens belong to."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    if len(data) < HEADER_BYTES or not data.startswith(MAGIC):
        raise InputError(f"{path}: no evaluation items, expected a file that prepare_eval.py wrote")
    _, version, order, kind, _, items, endings, tokens, sha256 = _HEADER.unpack_from(data)
    size = HEADER_BYTES + 16 * (items + endings) + 4 * tokens
    if (version, order, size) != (VERSION, BYTE_ORDER, len(data)):
        raise InputError(f"{path}: version {version} of {len(data)} bytes, expected version {VERSION} of {size} bytes: prepare it anew")
    if expected not in (None, kind):
        raise InputError(f"{path}: items of kind {kind}, expected {expected}: {KINDS[expected]}")
    entries = np.frombuffer(data, "<u4", 4 * (items + endings), HEADER_BYTES).reshape(-1, 4).tolist()
    rest, left = iter(entries[items:]), np.frombuffer(data, "<u4", tokens, size - 4 * tokens)
    found = []
    try:
        for context, count, label, depth in entries[:items]:
            taken, left = left[:context], left[context:]
            item = Item(taken, [], label, depth)
            for length, characters, bytes_, _ in (next(rest) for _ in range(count)):
                item.endings.append(Ending(left[:length].tolist(), characters, bytes_))
                left = left[length:]
            item.endings[label]
            found.append(item)
    except (RuntimeError, IndexError):
        raise InputError(f"{path}: item {len(found)} has more endings than the file, or no right one: prepare it anew") from None
    return found, sha256
