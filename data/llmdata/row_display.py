"""Prints rows of tokens as text, with what is trained set off from what is not."""

import itertools
import re
import shutil
import unicodedata
from typing import Iterable, Iterator

import numpy as np

from .detokenizer import decode_behind

from .characters import harmless
from .rows import COMPARISONS, FORMAT, ID_MASK, TRAINED, Row, trained_tokens

GREEN, YELLOW, CYAN, DIM, PLAIN = "\x1b[32m", "\x1b[33m", "\x1b[36m", "\x1b[2m", "\x1b[0m"
OPEN, CLOSE = "[[", "]]"  # mark trained text where there are no colours

Words = list[tuple[str, str]]  # (style, text)


class RowDisplay:
    """Rows of one kind as lines of text. Escape codes mark what is trained, or [[ and ]] without `color`."""

    def __init__(self, tokenizer, kind: int, color: bool, width: int):
        self.tokenizer, self.kind, self.color, self.width = tokenizer, kind, color, max(20, width)

    def legend(self) -> str:
        if not self.color:
            return f"{OPEN}trained{CLOSE}, not trained"
        ends = "end of a turn (trained)" if self.kind != COMPARISONS else "end of a turn (DPO does not train it)"
        return f"{GREEN}trained{PLAIN}, {YELLOW}{ends}{PLAIN}, {DIM}not trained{PLAIN}, {CYAN}format (not trained){PLAIN}"

    def row(self, title: str, row: Row) -> Iterator[str]:
        trained = sum(trained_tokens(part, self.kind) for part in (row.answers or [row.prompt]))
        yield f"--- {title}: {len(row)} tokens, {trained} trained"
        yield from self._lines(row.prompt)
        for number, answer in enumerate(row.answers, 1):
            yield f"--- answer {number} of {len(row.answers)}, {len(answer)} tokens"
            yield from self._lines(answer)

    def _lines(self, tokens: np.ndarray) -> Iterator[str]:
        return (self._paint(line) for line in wrap(self._words(tokens), self.width))

    def _words(self, tokens: np.ndarray) -> Iterator[tuple[str, str]]:
        """Yields (style, word, space or newline). Neighbours of one style are decoded together, for whole characters."""
        behind = False
        flags = (tokens & (TRAINED | FORMAT)).tolist()
        for bits, group in itertools.groupby(zip(flags, (tokens & ID_MASK).tolist()), lambda pair: pair[0]):
            ids = [number for _, number in group]
            text = decode_behind(self.tokenizer, ids, False) if behind else self.tokenizer.decode(ids, skip_special_tokens=False)
            behind = True
            text = harmless(text).replace("\t", "    ")
            for word in re.findall(r"\n|[^\S\n]+|\S+", text):
                yield self._style(bits), word

    def _style(self, bits: int) -> str:
        trained, format = bits & int(TRAINED), bits & int(FORMAT)
        if self.color:
            return (YELLOW if format else GREEN) if trained else (CYAN if format else DIM)
        return OPEN if trained and not (format and self.kind == COMPARISONS) else ""

    def _paint(self, line: Words) -> str:
        parts = []
        for style, words in itertools.groupby(line, lambda word: word[0]):
            close = (PLAIN if self.color else CLOSE) if style else ""
            parts.append(style + "".join(text for _, text in words) + close)
        return "".join(parts)


def wrap(words: Iterable[tuple[str, str]], width: int) -> Iterator[Words]:
    """Lines of at most `width` columns. White space where a line is wrapped is dropped; a word wider than a line is split."""
    line: Words = []
    used = 0
    for style, word in words:
        if word == "\n":
            yield line
            line, used = [], 0
            continue
        if used + columns(word) > width:
            yield line
            line, used = [], 0
            if not word.strip():
                continue
        while columns(word) > width:
            fits = next(n for n in range(width, 0, -1) if n == 1 or columns(word[:n]) <= width)
            yield [(style, word[:fits])]
            word = word[fits:]
        line.append((style, word))
        used += columns(word)
    if line:
        yield line


def columns(text: str) -> int:
    return len(text) + sum(unicodedata.east_asian_width(c) in "WF" for c in text)


def terminal_width() -> int:
    return shutil.get_terminal_size((120, 24)).columns
