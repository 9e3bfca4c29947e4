"""Rules about numbers that are measured on a text, and the filter that applies a table of them."""

import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Callable

import numpy as np
from datatrove.data import Document

from llmdata.words import UNSPACED, ngrams

from .step import KEEP, Filter, Verdict

_TOKEN = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+|[^\w\s]+")


class Text:
    """A document's text and what rules measure it by, each computed once, when a rule asks for it."""

    def __init__(self, document: Document):
        self.text, self.language = document.text, document.metadata.get("language") or "en"

    @cached_property
    def tokens(self) -> list[str]:
        """Words and runs of marks. datatrove's rules use a tokenizer for each language here, which takes most of their time."""
        return _TOKEN.findall(self.text)

    @cached_property
    def words(self) -> list[str]:
        return [token for token in self.tokens if token[0].isalnum() or token[0] == "_"]

    @cached_property
    def lines(self) -> list[str]:
        return [line for line in self.text.split("\n") if line.strip()]

    @cached_property
    def paragraphs(self) -> list[str]:
        return re.split(r"\n{2,}", self.text.strip())

    @cached_property
    def hashes(self) -> np.ndarray:
        """uint64 of each token."""
        numbers: dict[str, int] = {}
        ids = np.fromiter((numbers.setdefault(token, len(numbers)) for token in self.tokens), np.uint64, len(self.tokens))
        return (ids + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)

    @cached_property
    def lengths(self) -> np.ndarray:
        return np.fromiter(map(len, self.tokens), np.int64, len(self.tokens))

    def ngram_lengths(self, size: int) -> np.ndarray:
        """Characters of each run of `size` tokens."""
        ends = np.concatenate([[0], np.cumsum(self.lengths)])
        return ends[size:] - ends[:-size] if len(ends) > size else np.zeros(0, np.int64)

    def ngrams(self, size: int) -> np.ndarray:
        return ngrams(self.hashes, size)


@dataclass(frozen=True)
class Rule:
    """Drops a document whose measure is above `limit`, or below it where `least`. A setting of its name moves the limit."""

    name: str
    measure: Callable[[Text], float]
    limit: float
    least: bool = False

    def broken(self, value: float, limit: float) -> bool:
        return value < limit if self.least else value > limit


def schema_of(rules: tuple[Rule, ...], more: dict | None = None) -> dict:
    limits = {rule.name: {"type": ["number", "null"], "default": rule.limit,
                          "description": f"{'fewer' if rule.least else 'more'} drops a document; null: no such rule"}
              for rule in rules}  # fmt: skip
    return {"properties": {**limits, **(more or {})}}


class Ruled(Filter):
    """Drops a document at the first rule that it breaks; of those that stay it tells the rule that came closest."""

    RULES: tuple[Rule, ...] = ()

    def applies(self, rule: Rule, text: Text) -> bool:
        return True

    def judge(self, document: Document) -> Verdict:
        text, closest, distance = Text(document), KEEP, float("inf")
        for rule in self.RULES:
            limit = self.settings[rule.name]
            if limit is None or not self.applies(rule, text):
                continue
            value = float(rule.measure(text))
            if rule.broken(value, limit):
                return Verdict(False, round(value, 4), limit, rule.name)
            away = abs(value - limit) / max(abs(limit), abs(value), 1e-9)
            if away < distance:
                closest, distance = Verdict(True, round(value, 4), limit, rule.name), away
        return closest


def share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def duplicates(pieces: list[str]) -> tuple[int, int]:
    """Pieces that stood before in the list, and their characters."""
    counts = Counter(pieces)
    return len(pieces) - len(counts), sum((count - 1) * len(piece) for piece, count in counts.items())
