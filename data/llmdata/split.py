"""Chooses the text that is held out for validation, and marks where documents begin and end within each split."""

import hashlib
import math
from pathlib import Path
from typing import Iterator

from .encode import Unit
from .files import Notes
from .documents import read_pieces
from .text_file import TEXT, format_of, text_bytes

# .txt files are often few and long (books, plays). Holding out whole files would be a lottery, and holding out their ends would
# validate on last chapters only, so blocks are held out. A block is cut at a blank line where there is one.
LARGEST_BLOCK = 16_384
SMALLEST_BLOCK = 1_024
BLOCKS_WANTED = 400
# Rows of the other formats are documents by themselves and are held out whole.
ROW_PIECE = 1 << 18
NEVER = 1 << 62  # more units than any data have; finite, as 1 / fraction may not be


class HeldOut:
    """Holds out one unit of each stratum of about 1/fraction units, chosen by a hash of the seed.

    So the held-out text is spread evenly over the corpus and its share is exact, in one pass and whatever the size.
    """

    def __init__(self, fraction: float, seed: int | str):
        self.fraction, self.seed = fraction, seed
        self.unit = -1
        self.stratum = -1
        self.end = 0
        self.chosen = -1

    def next_is_held_out(self) -> bool:
        self.unit += 1
        if self.fraction <= 0:
            return False
        if self.unit == self.end:
            self._next_stratum()
        return self.unit == self.chosen

    def _next_stratum(self) -> None:
        self.stratum += 1
        begin, self.end = self.end, math.ceil(min((self.stratum + 1) / self.fraction, NEVER))
        digest = hashlib.sha256(f"{self.seed} {self.stratum}".encode()).digest()
        self.chosen = begin + int.from_bytes(digest[:8], "little") % (self.end - begin)


def block_size(files: list[Path]) -> int:
    """Characters in a block of .txt: fewer in a small corpus, so that it too has some held-out blocks."""
    total = text_bytes([path for path in files if format_of(path) == TEXT], LARGEST_BLOCK * BLOCKS_WANTED)
    return min(LARGEST_BLOCK, max(SMALLEST_BLOCK, total // BLOCKS_WANTED))


def read_units(files: list[Path], fraction: float, seed: int, notes: Notes) -> Iterator[Unit]:
    """Yields all text in order. A document ends where held-out text interrupts it, and begins anew after that."""
    held_out = HeldOut(fraction, seed)
    block = block_size(files)
    before = 0
    for path in files:
        by_block = format_of(path) == TEXT
        waiting: Unit | None = None
        split = "train"
        for piece in read_pieces(path, block if by_block else ROW_PIECE):
            if by_block or piece.first:
                split = "val" if held_out.next_is_held_out() else "train"
            unit = Unit(piece.text, split, piece.first, piece.last, before + piece.consumed)
            if waiting is not None:
                if not unit.begins and waiting.split != split:
                    waiting.ends = unit.begins = True
                yield waiting
            waiting = unit
        if waiting is None:
            notes.add_blank(path)
        else:
            yield waiting
        before += path.stat().st_size
    notes.check_some(files)
