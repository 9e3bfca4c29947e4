"""Documents in files: between passes, and at the end. A task's file appears when the task is done."""

import contextlib
import io
import time
from pathlib import Path
from typing import BinaryIO, Iterator

import orjson
import pyarrow
import pyarrow.parquet
import zstandard
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from .counts import Counts
from .files import whole_file
from .readers import Marked

ENDING = {"jsonl": ".jsonl.zst", "parquet": ".parquet"}
_COLUMNS = ("url", "date", "domain", "source", "language", "language_score", "token_count")
_PLACE = "_place"
_NOT_STORED = ("type", _PLACE)  # in the final files
_READ_BYTES = 1 << 20
_BATCH_BYTES = 1 << 24  # of a Parquet file's row group


class DocumentReader(Marked):
    """Reads the file that the task of the same number wrote in an earlier pass. Notes a document's place in it, from 0."""

    PLACE = _PLACE

    def __init__(self, folder: Path, documents: Path):
        super().__init__(folder)
        self.documents = documents

    def read(self, rank: int, tasks: int) -> Iterator[tuple[Document, int]]:
        with open(self.documents / f"{rank:05d}.jsonl.zst", "rb") as packed:
            lines = io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(packed), _READ_BYTES)
            for number, line in enumerate(lines, 1):
                document = Document(**orjson.loads(line))
                document.metadata[self.PLACE] = number - 1
                yield document, number


class DocumentWriter(PipelineStep):
    """Writes documents for the next pass, and hands them on to what a barrier collects, whose time it counts under that name."""

    type, name = "Writer", "write"

    def __init__(self, documents: Path, barrier: str):
        super().__init__()
        self.documents, self.counts_of, self.counts = documents, barrier, Counts()

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        self.counts = Counts()
        with _packed_file(self.documents / f"{rank:05d}.jsonl.zst") as file:
            for document in data:
                file.write(orjson.dumps({"text": document.text, "id": document.id, "metadata": document.metadata},
                                        option=orjson.OPT_APPEND_NEWLINE))  # fmt: skip
                begun = time.process_time()
                yield document
                self.counts.seconds += time.process_time() - begun


class FinalWriter(PipelineStep):
    """Writes FOLDER/SOURCE/TASK.jsonl.zst or .parquet: a folder for each source, each of which has a file of each task."""

    type, name = "Writer", "output"

    def __init__(self, folder: Path, form: str, sources: list[str]):
        super().__init__()
        self.folder, self.form, self.sources = folder, form, sources

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        make = _Lines if self.form == "jsonl" else _Table
        with contextlib.ExitStack() as stack:
            files = {}
            for source in self.sources:
                path = self.folder / source / f"{rank:05d}{ENDING[self.form]}"
                files[source] = stack.enter_context(make(path))
            for document in data:
                files[document.metadata["source"]].write(_row(document))
                yield document


def _row(document: Document) -> dict:
    more = {name: value for name, value in document.metadata.items() if name not in _NOT_STORED}
    row = {"text": document.text, "id": document.id, **{name: more.pop(name, None) for name in _COLUMNS}}
    return {**row, "metadata": more}


@contextlib.contextmanager
def _packed_file(path: Path) -> Iterator[BinaryIO]:
    with whole_file(path) as file, zstandard.ZstdCompressor(3).stream_writer(file, closefd=False) as packed:
        yield packed


class _Lines(contextlib.AbstractContextManager):
    def __init__(self, path: Path):
        self._stack = contextlib.ExitStack()
        self._file = self._stack.enter_context(_packed_file(path))

    def write(self, row: dict) -> None:
        row = {name: value for name, value in row.items() if value not in (None, {})}
        self._file.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))

    def __exit__(self, *fault) -> None:
        self._stack.__exit__(*fault)


class _Table(contextlib.AbstractContextManager):
    """The step's own metadata differs from document to document: it is one column of JSON."""

    SCHEMA = pyarrow.schema([(name, pyarrow.string()) for name in ("text", "id", *_COLUMNS[:5])] + [
        ("language_score", pyarrow.float64()), ("token_count", pyarrow.int64()), ("metadata", pyarrow.string())])  # fmt: skip

    def __init__(self, path: Path):
        self._stack = contextlib.ExitStack()
        file = self._stack.enter_context(whole_file(path))
        self._table = self._stack.enter_context(pyarrow.parquet.ParquetWriter(file, self.SCHEMA, compression="zstd"))
        self._rows, self._bytes = [], 0

    def write(self, row: dict) -> None:
        self._rows.append({**row, "metadata": orjson.dumps(row["metadata"]).decode()})
        self._bytes += len(row["text"])
        if self._bytes >= _BATCH_BYTES:
            self._flush()

    def _flush(self) -> None:
        self._table.write_batch(pyarrow.RecordBatch.from_pylist(self._rows, schema=self.SCHEMA))
        self._rows, self._bytes = [], 0

    def __exit__(self, *fault) -> None:
        if fault[0] is None:
            self._flush()
        self._stack.__exit__(*fault)
