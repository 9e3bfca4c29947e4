"""The first step of a run: reads the files of a task, whatever their format, as documents."""

import time
from abc import abstractmethod
from pathlib import Path
from typing import Callable, Iterator

from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from .counts import Counts, measure
from .files import read_json_or
from .inputs import read_list
from .pages import BadPage, decode, domain_of, read_page
from .rows import read_rows
from .supervise import Mark, Place
from .verdict import KEEP
from .warc import read_warc


class Marked(PipelineStep):
    """A reader that marks where it is, and leaves out documents at which an earlier process died."""

    type = "Reader"
    name = "read"

    def __init__(self, folder: Path):
        super().__init__()
        self.folder = folder  # of the pass
        self.counts = Counts()

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        place, self.counts = Place(self.folder, rank), Counts()
        mark, skipped = Mark(place.mark), read_json_or(place.skipped, {})
        begun = time.process_time()
        for number, (document, done) in enumerate(self.read(rank, world_size), 1):
            if why := skipped.get(str(number)):
                self.counts.add_fault(why, document.id)
                continue
            self.counts.add(document, measure(document), KEEP, 0)
            self.counts.seconds += time.process_time() - begun
            mark.set(number, number, done)
            yield document
            mark.set(0, number, done)  # what follows is not this document's work
            begun = time.process_time()

    @abstractmethod
    def read(self, rank: int, tasks: int) -> Iterator[tuple[Document, int]]:
        """Yields documents, and how much of the task's input is read: bytes of files, or documents."""


class InputReader(Marked):
    """Reads the files of the list that belong to this task."""

    def __init__(self, folder: Path, files: Path, most_bytes: int, limit: int | None = None):
        super().__init__(folder)
        self.files, self.most_bytes, self.limit = files, most_bytes, limit

    def read(self, rank: int, tasks: int) -> Iterator[tuple[Document, int]]:
        left = None if self.limit is None else self.limit // tasks + (rank < self.limit % tasks)
        before = 0
        for entry in read_list(self.files, rank, tasks):
            for number, (fields, done) in enumerate(self._fields(entry), 1):
                if left is not None and (left := left - 1) < 0:
                    return
                self.counts.counters[f"type/{fields['type']}"] += 1
                yield _document(fields, entry, number), before + done
            before += entry["bytes"]

    def _fields(self, entry: dict) -> Iterator[tuple[dict, int]]:
        """The documents of a file. What nobody has thought of costs the rest of the file, not the task."""
        path, fault = Path(entry["path"]), self.counts.add_fault
        read = {"html": _read_html, "warc": read_warc}.get(entry["format"], read_rows)
        try:
            for fields, done in read(path, self.most_bytes, fault):
                if fields["text"].strip():
                    yield fields, done
                else:
                    fault("empty text", str(fields.get("id") or fields.get("url") or path))
        except Exception as error:
            fault(f"unreadable ({type(error).__name__})", f"{path}: {error}")


def _read_html(path: Path, most_bytes: int, fault: Callable[[str, str], None]) -> Iterator[tuple[dict, int]]:
    try:
        data = read_page(path, most_bytes)
        if not data.strip():
            raise BadPage("empty file")
        yield {"text": decode(data, None), "type": "html", "url": path.absolute().as_uri()}, len(data)
    except BadPage as error:
        fault(str(error), str(path))


def _document(fields: dict, entry: dict, number: int) -> Document:
    text, path = fields.pop("text"), Path(entry["path"])
    inside = path.name if entry["root"] == entry["path"] else path.relative_to(entry["root"]).as_posix()
    identity = str(fields.pop("id", None) or f"{entry['source']}/{inside}#{number}")
    url = fields["url"] = str(fields.get("url") or "")
    if url.startswith("file:"):
        fields["domain"] = inside.split("/")[0] if "/" in inside else ""
    else:
        fields["domain"] = domain_of(url)
    fields["source"] = entry["source"]
    if "language" in entry:
        fields["language"] = entry["language"]
    fields.pop("token_count", None)
    return Document(text=text, id=identity, metadata={name: value for name, value in fields.items() if value is not None})
