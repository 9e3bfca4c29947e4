"""Rules of thumb. The paper's: repeated content and dirty words (its third, the divergence from the corpus, is divergence.py).
And the public rules of Gopher (arXiv 2112.11446, table A1 and section A.1.1), C4 (1910.10683) and FineWeb (2406.17557), by
option; their limits are datatrove's.

The public rules are for English prose. C4's drop pages with code and mathematics, which the paper keeps, and all text whose
sentences end with other marks than English ones, such as Chinese.
"""

import re
from pathlib import Path

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.filters.c4_filters import CITATION_REGEX, END_PUNCTUATION, POLICY_SUBSTRINGS
from datatrove.pipeline.filters.gopher_quality_filter import STOP_WORDS
from datatrove.utils.text import TERMINAL_PUNCTUATION

from llmdata.errors import InputError
from llmdata.words import UNSPACED_LANGUAGES, hash_words, ngrams, run_length, words

from .rules import Rule, Ruled, Text, duplicates, schema_of, share
from .step import Context, Filter, Verdict

# ---- repeated content

_DIGITS = re.compile(r"\d+")
_LETTER = re.compile(r"[^\W\d_]")


def repeated_share(text: str, size: int) -> float:
    """The share of a text's words that lie in runs of `size` words which occur again in it.

    Numbers count as equal, as the lines of a log differ in them; runs without a letter (tables of numbers) do not count.
    """
    found = words(_DIGITS.sub("0", text))
    hashes = hash_words(" ".join(found))
    runs = ngrams(hashes, size)
    if not len(runs):
        return 0.0
    lettered = np.concatenate([[0], np.cumsum([_LETTER.search(word) is not None for word in found])])
    _, place, count = np.unique(runs, return_inverse=True, return_counts=True)
    starts = np.flatnonzero((count[place] > 1) & (lettered[size:] > lettered[:-size]))
    covered = np.zeros(len(found) + 1, np.int64)
    np.add.at(covered, starts, 1)
    np.add.at(covered, starts + size, -1)
    return float(np.count_nonzero(np.cumsum(covered[:-1]))) / len(found)


class Repetition(Filter):
    """Lines that consist of repeated content go, as they may be long and unique; and documents that do, such as logs."""

    name = "repetition"
    SCHEMA = {"properties": {
        "ngram": {"type": "integer", "minimum": 2, "default": 6, "description": "words of a run"},
        "document": {"type": ["number", "null"], "default": 0.6, "description": "more repeated words drop the document"},
        "line": {"type": ["number", "null"], "default": 0.5, "description": "a greater share within a line removes the line"},
        "line_words": {"type": "integer", "minimum": 1, "default": 50, "description": "shorter lines are not judged"},
    }}  # fmt: skip

    def change(self, document: Document) -> int:
        if self.settings["line"] is None:
            return 0
        lines = document.text.split("\n")
        kept = [line for line in lines if not self._repeats(line, document)]
        if len(kept) < len(lines):
            document.text = "\n".join(kept).strip("\n")
        return len(lines) - len(kept)

    def _repeats(self, line: str, document: Document) -> bool:
        long = len(line) >= self.settings["line_words"] and len(words(line)) >= self.settings["line_words"]
        return long and repeated_share(line, self._size(document)) > self.settings["line"]

    def _size(self, document: Document) -> int:
        return run_length(self.settings["ngram"], document.metadata.get("language"))

    def judge(self, document: Document) -> Verdict:
        limit = self.settings["document"]
        if not document.text:
            return Verdict(False, 0.0, limit, "no line left")
        value = round(repeated_share(document.text, self._size(document)), 4)
        return Verdict(limit is None or value <= limit, value, limit, "repeated content")


# ---- dirty words


class DirtyWords(Filter):
    """Drops documents by the share of listed words; a single one drops none."""

    name = "dirty_words"
    SCHEMA = {"properties": {
        "list": {"type": "string", "minLength": 1, "description": "file of words and phrases, one a line; # begins a comment"},
        "share": {"type": "number", "minimum": 0, "default": 0.01, "description": "of the words; more drops the document"},
        "least": {"type": "integer", "minimum": 1, "default": 3, "description": "fewer drop no document"},
    }, "required": ["list"]}  # fmt: skip

    def __init__(self, settings: dict, context: Context):
        super().__init__(settings, context)
        if not Path(settings["list"]).is_file():
            raise InputError(f"steps.dirty_words.list: found no file {settings['list']}, expected a list of words, one a line")

    def start(self, rank: int) -> None:
        lines = Path(self.settings["list"]).read_text(encoding="utf-8", errors="replace").splitlines()
        phrases = [hash_words(line.split("#")[0]) for line in lines]
        self.listed = {size: np.unique(np.concatenate([ngrams(phrase, size) for phrase in phrases if len(phrase) == size]))
                       for size in {len(phrase) for phrase in phrases} - {0}}  # fmt: skip

    def judge(self, document: Document) -> Verdict:
        hashes, limit = hash_words(document.text), self.settings["share"]
        found = sum(int(np.isin(ngrams(hashes, size), listed).sum()) for size, listed in self.listed.items())
        value = round(share(found, len(hashes)), 4)
        return Verdict(found < self.settings["least"] or value <= limit, value, limit, "dirty words")


# ---- the public rules


def _mean_length(text: Text) -> float:
    return share(sum(map(len, text.words)), len(text.words))


def _alphabetic(text: Text) -> float:
    return share(sum(_LETTER.search(word) is not None for word in text.words), len(text.words))


def _starting(text: Text, marks: tuple[str, ...]) -> float:
    return share(sum(line.lstrip().startswith(marks) for line in text.lines), len(text.lines))


def _ending(text: Text, marks: tuple[str, ...]) -> float:
    return share(sum(line.rstrip().endswith(marks) for line in text.lines), len(text.lines))


def _top_ngram(length: int):
    """Characters of the most frequent run of so many tokens, with spaces between them; none if no run occurs twice."""
    def measure(text: Text) -> float:
        size = run_length(length, text.language)
        _, first, counts = np.unique(text.ngrams(size), return_index=True, return_counts=True)
        most = int(counts.max(initial=0))
        if most < 2:
            return 0.0
        top = int(first[counts == most].min())
        return share((int(text.ngram_lengths(size)[top]) + size - 1) * most, len(text.text))

    return measure


def _duplicated_ngrams(length: int):
    """Characters of runs of so many tokens that stood before, none counted twice."""
    def measure(text: Text) -> float:
        size = run_length(length, text.language)
        runs, seen, place, repeated = text.ngrams(size).tolist(), set(), 0, 0
        lengths = text.ngram_lengths(size)
        while place < len(runs):
            again = runs[place] in seen
            repeated += int(lengths[place]) if again else 0
            seen.add(runs[place])
            place += size if again else 1
        return share(repeated, len(text.text))

    return measure


class GopherQuality(Ruled):
    name = "gopher_quality"
    RULES = (
        Rule("min_words", lambda text: len(text.words), 50, least=True),
        Rule("max_words", lambda text: len(text.words), 100_000),
        Rule("min_mean_length", _mean_length, 3, least=True),
        Rule("max_mean_length", _mean_length, 10),
        Rule("hashes_per_word", lambda text: share(text.text.count("#"), len(text.words)), 0.1),
        Rule("ellipses_per_word", lambda text: share(text.text.count("...") + text.text.count("…"), len(text.words)), 0.1),
        Rule("bullet_lines", lambda text: _starting(text, ("•", "-")), 0.9),
        Rule("ellipsis_lines", lambda text: _ending(text, ("...", "…")), 0.3),
        Rule("alphabetic_words", _alphabetic, 0.8, least=True),
        Rule("stop_words", lambda text: len(set(STOP_WORDS).intersection(text.words)), 2, least=True),
    )
    SCHEMA = schema_of(RULES)

    def applies(self, rule: Rule, text: Text) -> bool:
        """The stop words are English; where no spaces divide words, each character counts as one."""
        if rule.name in ("min_mean_length", "max_mean_length"):
            return text.language not in UNSPACED_LANGUAGES
        return rule.name != "stop_words" or text.language == "en"


class GopherRepetition(Ruled):
    name = "gopher_repetition"
    RULES = (
        Rule("paragraphs", lambda text: share(duplicates(text.paragraphs)[0], len(text.paragraphs)), 0.3),
        Rule("paragraph_characters", lambda text: share(duplicates(text.paragraphs)[1], len(text.text)), 0.2),
        Rule("lines", lambda text: share(duplicates(text.lines)[0], len(text.lines)), 0.3),
        Rule("line_characters", lambda text: share(duplicates(text.lines)[1], len(text.text)), 0.2),
        *(Rule(f"top_{size}_gram", _top_ngram(size), limit) for size, limit in ((2, 0.2), (3, 0.18), (4, 0.16))),
        *(Rule(f"duplicated_{size}_grams", _duplicated_ngrams(size), limit)
          for size, limit in ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10))),
    )  # fmt: skip
    SCHEMA = schema_of(RULES)


class FineWeb(Ruled):
    name = "fineweb"
    RULES = (
        Rule("ending_lines", lambda text: _ending(text, tuple(TERMINAL_PUNCTUATION)), 0.12, least=True),
        Rule("short_lines", lambda text: share(sum(len(line) <= 30 for line in text.lines), len(text.lines)), 0.67),
        Rule("duplicate_characters", lambda text: share(duplicates(text.lines)[1], len(text.text.replace("\n", ""))), 0.01),
        Rule("newlines_per_word", lambda text: share(text.text.count("\n"), len(text.words)), 0.3),
    )
    SCHEMA = schema_of(RULES)


class C4(Ruled):
    """Lines that are no sentences go, then documents with too few that are."""

    name = "c4"
    RULES = (
        Rule("lorem_ipsum", lambda text: text.text.lower().count("lorem ipsum"), 0),
        Rule("curly_brackets", lambda text: text.text.count("{"), 0),
        Rule("sentences", lambda text: len(re.findall(r"[.!?]+[\"')\]]*(?:\s|$)", text.text)), 5, least=True),
    )
    SCHEMA = schema_of(RULES, {
        "line_words": {"type": "integer", "default": 3, "description": "shorter lines are removed"},
        "word_characters": {"type": "integer", "default": 1000, "description": "lines with longer words are removed, too"},
    })  # fmt: skip

    def change(self, document: Document) -> int:
        lines = document.text.split("\n")
        stripped = [CITATION_REGEX.sub("", line.strip()) for line in lines]
        kept = [line for line in stripped if self._is_sentence(line)]
        document.text = "\n".join(kept)
        return len(lines) - len(kept)

    def _is_sentence(self, line: str) -> bool:
        found, low = line.split(), line.lower()
        return (line.endswith(END_PUNCTUATION) and not line.endswith("...") and len(found) >= self.settings["line_words"]
                and max(map(len, found)) <= self.settings["word_characters"] and "javascript" not in low
                and not any(phrase in low for phrase in POLICY_SUBSTRINGS))  # fmt: skip
