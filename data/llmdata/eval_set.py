"""The file format of evaluation items, which llmc/eval/items.h describes."""

import os
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .output import sync

MAGIC = b"L3EVALS\0"
VERSION = 1
BYTE_ORDER = 0x01020304
HEADER_BYTES = 256
CHOICE, DOCUMENTS, NEEDLES = 1, 2, 3
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
