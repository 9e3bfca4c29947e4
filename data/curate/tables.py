"""Tables of records on disk, with which steps decide about more documents than memory holds.

A table is a NumPy file that appears whole or not at all, and whose length is checked when it is opened. What a barrier collects are
runs: tables of at most MOST records, sorted by the field "hash". `merged` reads all runs slice by slice of the hashes' range.
What a barrier decides are rows about documents, (file, document, ...): the number of the task that wrote the document, and its place.
"""

import bisect
from pathlib import Path
from typing import Iterator

import numpy as np
from datatrove.data import Document, DocumentsPipeline

from llmdata.errors import Fault

from .documents import DocumentReader
from .files import whole_file
from .step import Filter

MOST = 1 << 19  # records that are in memory at once
PLACE = [("file", "<u4"), ("document", "<u4")]
SIMILAR = [*PLACE, ("other_file", "<u4"), ("other_document", "<u4"), ("jaccard", "<f4")]


def write(path: Path, records: np.ndarray) -> None:
    with whole_file(path) as file:
        np.save(file, records)


def read(path: Path) -> np.ndarray:
    """The table, mapped into memory: only what is looked at is read."""
    try:
        return np.load(path, mmap_mode="r" if path.stat().st_size > 1 << 16 else None)
    except (ValueError, EOFError, OSError) as error:
        raise Fault(f"{path}: not a whole table ({error}); remove the folder that it lies in, and run again with --overwrite") from None


class Runs:
    """Writes one task's records as runs. Runs of an earlier, killed attempt are removed."""

    def __init__(self, folder: Path, rank: int, dtype):
        self.folder, self.rank, self.dtype, self.count, self.parts, self.size = folder, rank, dtype, 0, [], 0
        for path in runs_of(folder, rank):
            path.unlink()

    def add(self, records: list | np.ndarray) -> None:
        self.parts.append(np.asarray(records, self.dtype))
        self.size += len(records)
        if self.size >= MOST:
            self.flush()

    def flush(self) -> None:
        if self.size:
            records = np.concatenate(self.parts)
            write(self.folder / f"{self.rank:06d}.{self.count:06d}.npy", records[np.argsort(records["hash"], kind="stable")])
            self.count, self.parts, self.size = self.count + 1, [], 0


def runs_of(folder: Path, rank: int | None = None) -> list[Path]:
    return sorted(folder.glob("*.npy" if rank is None else f"{rank:06d}.*.npy"))


def merged(paths: list[Path], part: int, parts: int) -> Iterator[np.ndarray]:
    """The records of all runs whose hash lies in the part-th of `parts` equal ranges: sorted arrays of about MOST records.

    Records of the same hash are in the same array, in the order of the runs.
    """
    low, high = (2**64 * edge // parts for edge in (part, part + 1))
    slices = max(1, -(-sum(len(read(path)) for path in paths) // (parts * MOST)))
    edges = [low + (high - low) * number // slices for number in range(slices + 1)]
    cuts = [_cuts(read(path), edges) for path in paths]
    for index in range(slices):
        chosen = [(path, slice(*cut[index : index + 2])) for path, cut in zip(paths, cuts) if cut[index] < cut[index + 1]]
        if chosen:  # tables are opened anew: there may be more of them than files can be open
            records = np.concatenate([np.array(read(path)[place]) for path, place in chosen])
            yield records[np.argsort(records["hash"], kind="stable")]


def _cuts(records: np.ndarray, edges: list[int]) -> list[int]:
    return [bisect.bisect_left(records["hash"], edge) if edge < 2**64 else len(records) for edge in edges]


def groups(records: np.ndarray) -> np.ndarray:
    """Where a new hash begins in sorted records."""
    return np.flatnonzero(np.r_[True, records["hash"][1:] != records["hash"][:-1]])


def write_rows(path: Path, rows: np.ndarray) -> None:
    write(path, np.sort(rows, order=["file", "document"]))


def rows_of(folder: Path, rank: int) -> np.ndarray:
    """What all tables of the folder say about the documents of a task, sorted by document."""
    found = []
    for path in sorted(folder.glob("*.npy")):
        rows = read(path)
        first, last = (bisect.bisect_left(rows["file"], file) for file in (rank, rank + 1))
        found.append(np.array(rows[first:last]))
    rows = np.concatenate(found) if found else np.zeros(0, PLACE)
    return rows[np.argsort(rows["document"], kind="stable")]


class Decision(Filter):
    """A filter that knows each document's place among those that its task collected, some of which a reader may leave out later."""

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        yield from super().run(self._placed(data), rank, world_size)

    def _placed(self, data: DocumentsPipeline) -> Iterator[Document]:
        for document in data:
            self.place = document.metadata.pop(DocumentReader.PLACE)
            yield document
