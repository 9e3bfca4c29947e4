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


def join(path: Path, tables: list[Path]) -> None:
    """One table of several of the same type, of which one is in memory at a time."""
    with whole_file(path) as file:
        parts = [read(part) for part in tables]
        header = np.lib.format.header_data_from_array_1_0(parts[0])
        np.lib.format.write_array_header_1_0(file, {**header, "shape": (sum(map(len, parts)),)})
        for part in parts:
            file.write(part.tobytes())


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


def merged(paths: list[Path], part: int, parts: int, whole: bool = True) -> Iterator[np.ndarray]:
    """The records of all runs whose hash lies in the part-th of `parts` equal ranges: sorted arrays of at most MOST records.

    Records of the same hash are in the order of the runs. They are in one array, however many there are, unless not `whole`.
    """
    low, high = (2**64 * edge // parts for edge in (part, part + 1))
    yield from _merged(_cut(_cut([(path, 0, len(read(path))) for path in paths], low)[1], high)[0], low, high, whole)


_Places = list[tuple[Path, int, int]]  # run, first record, end


def _merged(places: _Places, low: int, high: int, whole: bool) -> Iterator[np.ndarray]:
    """Of these records, whose hashes lie from `low` to `high`. The range is halved until what is in it is few, or one hash."""
    if sum(end - first for _, first, end in places) > MOST and high - low > 1:
        middle = (low + high) // 2
        below, above = _cut(places, middle)
        yield from _merged(below, low, middle, whole)
        yield from _merged(above, middle, high, whole)
    elif places:  # tables are opened anew: there may be more of them than files can be open
        records = (np.array(read(path)[first:end]) for path, first, end in places)
        if high - low == 1 and not whole:
            yield from records
        else:
            records = np.concatenate(list(records))
            yield records[np.argsort(records["hash"], kind="stable")]


def _cut(places: _Places, edge: int) -> tuple[_Places, _Places]:
    """What is below a hash, and the rest; without runs that have nothing there."""
    cuts = [(path, first, bisect.bisect_left(read(path)["hash"], edge, first, end) if edge < 2**64 else end, end)
            for path, first, end in places]  # fmt: skip
    return ([(path, first, cut) for path, first, cut, _ in cuts if first < cut],
            [(path, cut, end) for path, _, cut, end in cuts if cut < end])  # fmt: skip


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


def value_of(rows: np.ndarray, document: int, field: str):
    """What the row of a document says; None: it has none. `rows` are of `rows_of`."""
    place = int(np.searchsorted(rows["document"], document))
    return rows[field][place].item() if place < len(rows) and rows["document"][place] == document else None


class Decision(Filter):
    """A filter that knows each document's place among those that its task collected, some of which a reader may leave out later."""

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        yield from super().run(self._placed(data), rank, world_size)

    def _placed(self, data: DocumentsPipeline) -> Iterator[Document]:
        for document in data:
            self.place = document.metadata.pop(DocumentReader.PLACE)
            yield document
