"""Drops near duplicates: documents of one language that share most of their runs of five words with an earlier document.

    collect   16 bands of 6 minimal hashes of each document's runs of five words (MinHash), and the runs' own hashes
    pairs     documents that agree in a band are candidates
    compare   a candidate counts if the Jaccard similarity of both sets of runs, computed in full, reaches the setting "jaccard"
    clusters  how many documents stand for the same text

A pair of similarity s becomes a candidate with probability 1 - (1 - s^6)^16: 0.22 at 0.5, 0.96 at 0.75, 0.992 at 0.8. The comparison
then leaves no false positives, so the bands can be wide enough for recall. Sizes and threshold are our choice: the paper (arXiv
2407.21783, section 3.1.1) has global deduplication by MinHash and says neither.

datatrove's blocks for this keep the clusters of the whole data set in memory, cannot compare, and fail where a task has fewer
documents than workers sort; so ours stand on `tables`. Of a document the files hold 256 bytes for the bands and 4 for each word.
"""

from functools import lru_cache
from pathlib import Path

import numpy as np
from datatrove.data import Document, DocumentsPipeline
from xxhash import xxh3_64_intdigest

from llmdata.errors import Fault
from llmdata.words import hash_text, hash_words, ngrams

from . import tables
from .clusters import FindClusters, Members, read_clusters
from .files import whole_file
from .step import Barrier, BarrierStep, Pass, Verdict

WORDS, BANDS, ROWS = 5, 16, 6
_BAND = [("hash", "<u8"), *tables.PLACE]
_PAIR = [*_BAND, ("other_file", "<u4"), ("other_document", "<u4")]  # the earlier one
_CHUNK = 1024  # runs of words whose hashes are in memory at once
_RANDOM = np.random.Generator(np.random.PCG64(2407_21783)).integers(0, 2**64, (2, BANDS * ROWS), np.uint64)
_FACTORS, _SUMMANDS = _RANDOM[0] | np.uint64(1), _RANDOM[1]


def shingles(text: str, language: str | None = None) -> np.ndarray:
    """Hashes of the runs of words; of all words where they are too few. Texts of different languages have none in common."""
    words = hash_words(text)
    return ngrams(words, min(WORDS, max(1, len(words))), hash_text(str(language or "")))


def bands(runs: np.ndarray) -> np.ndarray:
    """uint64 (BANDS): documents have the same hash in a band if all ROWS minimal hashes are the same."""
    least = np.full(BANDS * ROWS, 2**64 - 1, np.uint64)
    for first in range(0, len(runs), _CHUNK):
        np.minimum(least, (runs[first : first + _CHUNK, None] * _FACTORS + _SUMMANDS).min(axis=0), out=least)
    numbered = np.c_[np.arange(BANDS, dtype=np.uint64), least.reshape(BANDS, ROWS)]
    return np.array([xxh3_64_intdigest(band.tobytes()) for band in numbered], np.uint64)


def jaccard(one: np.ndarray, other: np.ndarray) -> float:
    """Of two sorted sets."""
    both = np.sort(np.concatenate((one, other)), kind="stable")
    common = np.count_nonzero(both[1:] == both[:-1])
    return common / max(1, len(both) - common)


class MinHash(Barrier):
    name = "minhash"
    SCHEMA = {"properties": {"jaccard": {"type": "number", "minimum": 0.5, "maximum": 1, "default": 0.75,
                                         "description": "similarity from which on the later of two documents is dropped"}}}  # fmt: skip

    def collect(self) -> BarrierStep:
        return _Collect(self.context.folder)

    def between(self) -> list[Pass]:
        folder, tasks = self.context.folder, self.context.tasks
        return [
            Pass("pairs", [_FindPairs(folder)], tasks),
            Pass("compare", [_Compare(folder, self.settings["jaccard"])], tasks),
            Pass("clusters", [FindClusters(folder, self.settings["jaccard"])], 1),
        ]

    def decide(self) -> tables.Decision:
        return _First(self.settings, self.context)


class _Collect(BarrierStep):
    name = "MinHash"

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> None:
        runs, ends = tables.Runs(self.folder / "bands", rank, _BAND), [0]
        path = _path(self.folder, rank)
        with whole_file(path) as file:
            for place, document in enumerate(data):
                found = np.unique(shingles(document.text, document.metadata.get("language")))
                if len(found):
                    records = np.zeros(BANDS, _BAND)
                    records["hash"], records["file"], records["document"] = bands(found), rank, place
                    runs.add(records)
                found = np.unique((found >> np.uint64(32)).astype("<u4"))
                file.write(found.tobytes())
                ends.append(ends[-1] + len(found))
        runs.flush()
        tables.write(path.with_suffix(".npy"), np.array(ends, "<u8"))


class _FindPairs(BarrierStep):
    """Of the documents that agree in a band, each one with the first and with the one before it."""

    name = "pairs"

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> None:
        pairs = tables.Runs(self.folder / "pairs", rank, _PAIR)
        held = np.zeros(0, _BAND)  # of the last hash, the first document and the last one so far
        for seen in tables.merged(tables.runs_of(self.folder / "bands"), rank, world_size, whole=False):
            if len(held) and held["hash"][0] == seen["hash"][0]:
                seen = np.concatenate((held, seen))
            firsts = tables.groups(seen)
            first = np.repeat(firsts, np.diff(np.r_[firsts, len(seen)]))
            later = np.setdiff1d(np.arange(len(seen)), firsts, assume_unique=True)
            for earlier in (first[later], later - 1):
                pairs.add(_pairs(seen[earlier], seen[later], world_size))
            held = seen[sorted({int(firsts[-1]), len(seen) - 1})]
        pairs.flush()


def _pairs(earlier: np.ndarray, later: np.ndarray, tasks: int) -> np.ndarray:
    """Runs are merged in the order of tasks and documents, so the earlier one really is.

    The hash is the later one's place, such that each task's documents are a range of the hashes.
    """
    records = np.zeros(len(later), _PAIR)
    begins = np.array([2**64 * task // tasks for task in range(tasks)], np.uint64)
    records["hash"] = begins[later["file"]] + later["document"]
    records["file"], records["document"] = later["file"], later["document"]
    records["other_file"], records["other_document"] = earlier["file"], earlier["document"]
    return records


class _Compare(BarrierStep):
    """For each document that has candidates: the earliest one that is similar enough, or else the most similar one."""

    name = "compare"

    def __init__(self, folder: Path, threshold: float):
        super().__init__(folder)
        self.threshold = threshold

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> None:
        rows = [np.zeros(0, tables.SIMILAR)]
        for records in tables.merged(tables.runs_of(self.folder / "pairs"), rank, world_size):
            records = np.unique(records)  # sorted by all fields: a document's candidates follow each other, the earliest first
            found = [self._best(candidates.tolist()) for candidates in np.split(records, tables.groups(records)[1:])]
            rows.append(np.array(found, tables.SIMILAR))
        tables.write_rows(self.folder / "duplicates" / f"{rank:06d}.npy", np.concatenate(rows))

    def _best(self, candidates: list[tuple]) -> tuple:
        _, file, place, _, _ = candidates[0]
        own, best = _set(self.folder, file, place), (-1.0, 0, 0)
        for *_, other_file, other_place in candidates:
            found = jaccard(own, _set(self.folder, other_file, other_place))
            best = max(best, (found, other_file, other_place), key=lambda each: each[0])
            if found >= self.threshold:
                break
        return file, place, *best[1:], best[0]


def _path(folder: Path, rank: int) -> Path:
    return folder / "shingles" / f"{rank:06d}.u32"


@lru_cache(256)
def _sets(path: Path) -> tuple[np.ndarray, np.ndarray]:
    ends, size = tables.read(path.with_suffix(".npy")), path.stat().st_size
    if size != 4 * ends[-1]:
        raise Fault(f"{path}: has {size} bytes, expected {4 * ends[-1]}; remove the folder of the step, and run again")
    return ends, np.memmap(path, "<u4", "r") if size else np.zeros(0, "<u4")


def _set(folder: Path, rank: int, place: int) -> np.ndarray:
    ends, sets = _sets(_path(folder, rank))
    return sets[ends[place] : ends[place + 1]]


class _First(tables.Decision):
    """Drops what is similar to an earlier document, and notes how many documents the ones that stay stand for."""

    name = MinHash.name

    def start(self, rank: int) -> None:
        self.similar = tables.rows_of(self.context.folder / "duplicates", rank)
        self.members = Members(self.context.folder, rank)
        if rank == 0:
            sizes = read_clusters(self.context.folder)["sizes"]
            self.counts.counters.update({f"cluster size/{size}": count for size, count in sizes.items()})

    def judge(self, document: Document) -> Verdict:
        value, threshold = tables.value_of(self.similar, self.place, "jaccard") or 0.0, self.settings["jaccard"]
        self.members.see(self.place, document, value)
        return Verdict(value < threshold, value, threshold, "near duplicate")

    def finish(self) -> None:
        self.members.write()
