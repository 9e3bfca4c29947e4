"""Cuts documents into pieces, so that memory is bounded by a piece.

Twice: into pieces of which some can be held out, wherever a reader would make a break; and what is then one document into
units that are encoded one by one, only where that changes no token.
"""

import re
from dataclasses import dataclass, replace
from typing import Iterable, Iterator

from .encode import Unit
from .cut_points import Seams

UNIT_CHARS = 1 << 18

_PARAGRAPH_START = re.compile(r"\n[ \t]*\r?\n(?=\S)")
_LINE_START = re.compile(r"\n(?=\S)")


@dataclass
class Piece:
    """A stretch of one document. `consumed` is how far the source has been read, in bytes of the file."""

    text: str
    first: bool
    last: bool
    consumed: int


def cut_document(chunks: Iterator[tuple[str, int]], piece_chars: int) -> Iterator[Piece]:
    """Joins chunks and cuts them anew near `piece_chars`; white space alone makes no document."""
    held: Piece | None = None
    for text, consumed in _cut_text(chunks, piece_chars):
        if held is not None and held.first and held.text.isspace():
            held.text, held.consumed = held.text + text, consumed
            continue
        if held is not None:
            yield held
        held = Piece(text, first=held is None, last=False, consumed=consumed)
    if held is None or (held.first and held.text.isspace()):
        return
    held.last = True
    yield held


def _cut_text(chunks: Iterator[tuple[str, int]], piece_chars: int) -> Iterator[tuple[str, int]]:
    buffer, consumed = "", 0
    for text, consumed in chunks:
        buffer += text
        start = 0
        while len(buffer) - start >= 2 * piece_chars:
            end = _cut_point(buffer, start + piece_chars, start + 2 * piece_chars)
            yield buffer[start:end], consumed
            start = end
        buffer = buffer[start:]
    if buffer:
        yield buffer, consumed


def _cut_point(text: str, low: int, high: int) -> int:
    """First paragraph start in [low, high), else first line start, else `high`."""
    for pattern in (_PARAGRAPH_START, _LINE_START):
        match = pattern.search(text, low, high)
        if match:
            return match.end()
    return high


def cut_at_seams(units: Iterable[Unit], seams: Seams, chars: int = UNIT_CHARS) -> Iterator[Unit]:
    """The documents of `units` in units of about `chars` characters; one that has no seam for longer stays together there."""
    text, before, begins, searched = "", "", True, chars
    for unit in units:
        text += unit.text
        while (at := seams.find(text, searched)) is not None:
            yield replace(unit, text=text[:at], begins=begins, ends=False, before=before)
            text, before, begins, searched = text[at:], text[at - 1], False, chars
        searched = max(chars, len(text))
        if unit.ends:
            yield replace(unit, text=text, begins=begins, before=before)
            text, before, begins, searched = "", "", True, chars
