"""Drops documents whose words are distributed unlike the corpus': with too many words that are rare in their language.

The value is the Kullback-Leibler divergence in nats of a document's words from those of all documents in its language, over
65,536 classes of words by hash. A short text shows few of the words that its writer uses, so that its entropy is estimated with
the correction of Miller and Madow.
"""

from pathlib import Path

import numpy as np
from datatrove.data import Document, DocumentsPipeline

from llmdata.words import hash_words

from . import tables
from .step import KEEP, Barrier, BarrierStep, Filter, Pass, Verdict

CLASSES = 1 << 16
MOST_LANGUAGES = 200  # of a task; documents in others (rows may claim any) are not judged


def count_words(text: str) -> np.ndarray:
    """int64 of shape [CLASSES]."""
    return np.bincount((hash_words(text) & np.uint64(CLASSES - 1)).astype(np.int64), minlength=CLASSES)


def divergence(counts: np.ndarray, corpus: np.ndarray) -> float:
    """`corpus` are counts too, with this document's among them; one is added to each class."""
    found = np.flatnonzero(counts)
    of_document = counts[found] / counts.sum()
    of_corpus = (corpus[found] + 1) / (corpus.sum() + CLASSES)
    entropy = -np.sum(of_document * np.log(of_document)) + (len(found) - 1) / (2 * counts.sum())
    return float(-np.sum(of_document * np.log(of_corpus)) - entropy)


def _language(document: Document) -> str:
    return "".join(letter for letter in str(document.metadata.get("language") or "none") if letter.isalnum())[:16]


class Divergence(Barrier):
    name = "divergence"
    SCHEMA = {"properties": {
        "most": {"type": "number", "minimum": 0, "default": 5.0, "description": "nats; more drops the document"},
        "least_words": {"type": "integer", "minimum": 1, "default": 50, "description": "shorter documents are not judged"},
        "least_corpus": {"type": "integer", "minimum": 1, "default": 1_000_000,
                         "description": "words; with fewer in its language a document is not judged"},
    }}  # fmt: skip

    def collect(self) -> BarrierStep:
        return _Count(self.context.folder)

    def between(self) -> list[Pass]:
        return [Pass("add words up", [_Add(self.context.folder)], 1)]

    def decide(self) -> Filter:
        return _Judge(self.settings, self.context)


class _Count(BarrierStep):
    name = "words by language"

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> None:
        counts: dict[str, np.ndarray] = {}
        for document in data:
            language = _language(document)
            if language not in counts and len(counts) >= MOST_LANGUAGES:
                continue
            counts[language] = counts.get(language, 0) + count_words(document.text)
        for language, found in counts.items():
            tables.write(self.folder / "tasks" / language / f"{rank:06d}.npy", found)


class _Add(BarrierStep):
    name = "words of the corpus"

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> None:
        for folder in sorted((self.folder / "tasks").glob("*")):
            total = sum(tables.read(path) for path in sorted(folder.glob("*.npy")))
            tables.write(self.folder / "corpus" / f"{folder.name}.npy", total)


class _Judge(Filter):
    name = Divergence.name

    def start(self, rank: int) -> None:
        self.corpora = {path.stem: tables.read(path) for path in (self.context.folder / "corpus").glob("*.npy")}

    def judge(self, document: Document) -> Verdict:
        counts, corpus = count_words(document.text), self.corpora.get(_language(document))
        if corpus is None or counts.sum() < self.settings["least_words"] or corpus.sum() < self.settings["least_corpus"]:
            return KEEP
        value, most = round(divergence(counts, corpus), 4), self.settings["most"]
        return Verdict(value <= most, value, most, "words unlike the corpus'")
