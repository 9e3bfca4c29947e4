"""Cuts documents into pieces that can be held out for validation, so that memory is bounded by a piece.

The cuts fall where a reader would break a text: at paragraphs, else at lines.
"""

import re
from dataclasses import dataclass
from typing import Iterator

_PARAGRAPH_START = re.compile(r"\n[ \t]*\r?\n(?=\S)")
_LINE_START = re.compile(r"\n(?=\S)")


@dataclass
class Piece:
    """A stretch of one document. `consumed` is how far its file has been read, in bytes."""

    text: str
    first: bool
    last: bool
    consumed: int


def cut_document(chunks: Iterator[tuple[str, int]], piece_chars: int) -> Iterator[Piece]:
    """Joins chunks and cuts them anew near `piece_chars`. White space alone makes no document."""
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
            end = _find_break(buffer, start + piece_chars, start + 2 * piece_chars)
            yield buffer[start:end], consumed
            start = end
        buffer = buffer[start:]
    if buffer:
        yield buffer, consumed


def _find_break(text: str, low: int, high: int) -> int:
    """The first start of a paragraph in [low, high), else the first start of a line, else `high`."""
    for pattern in (_PARAGRAPH_START, _LINE_START):
        match = pattern.search(text, low, high)
        if match:
            return match.end()
    return high
