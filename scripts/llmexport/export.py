"""One run on its way into one tool. A journal beside what is written knows how far it has come: no line is written twice."""

from pathlib import Path
from typing import Callable, Protocol

from llmdata.text_file import read_object
from llmtext.journal import Journal

from .log_file import LogFile
from .records import Record, record_of

JOURNAL = "exported.jsonl"


class Tool(Protocol):
    """Writes one run. `goes_on`: a later process can add to what one has written."""

    goes_on: bool

    def __init__(self, folder: Path, name: str, settings: dict): ...

    def begin(self) -> None:
        """Removes what was written of this run."""

    def write(self, record: Record, back: bool) -> None:
        """back: the run has gone back, and what it wrote of this step and of those behind it no longer counts."""

    def flush(self) -> None: ...

    def close(self) -> None: ...


class Export:
    """`unreadable` counts lines that are not JSON objects with a step, `written` the others."""

    def __init__(self, log: Path, folder: Path, name: str, kind: type[Tool]):
        folder.mkdir(parents=True, exist_ok=True)
        self.journal = Journal(folder / JOURNAL, {"log": str(log.resolve()), "run": name})
        last = self.journal.rows[-1] if self.journal.rows else {}
        settings = {key: value for key, value in read_object(log.parent / "trainer_options.json").items() if value is not None}
        self.name, self.folder, self.tool = name, folder, kind(folder, name, settings)
        self.log, self.step = LogFile(log, last.get("bytes", 0), last.get("sha256", "")), last.get("step", 0)
        self.adds = self.log.goes_on  # to what is written. A process that was killed left no position: all is written anew
        self.began, self.position = False, None
        self.written = self.unreadable = 0

    def update(self, tell: Callable[[int], None]) -> bool:
        """Writes what has come since the last call, and returns whether there was any. tell(bytes of the log that are read)."""
        same = self.log.reopen()
        if same and self.adds and not self.log.has_more():
            return False
        self.position = None
        self.journal.append({"writing": True})
        if not (same and self.adds and (self.began or self.tool.goes_on)):
            self._begin()
        self.adds = self.began = True
        for line in self.log.lines():
            self._write(line)
            tell(self.log.taken)
        self.tool.flush()
        self.position = {"bytes": self.log.taken, "sha256": self.log.sum.hexdigest(), "step": self.step}
        if self.tool.goes_on:
            self.journal.append(self.position)
        return True

    def _begin(self) -> None:
        self.tool.begin()
        self.log.rewind()
        self.step = self.written = self.unreadable = 0

    def _write(self, line: bytes) -> None:
        record = record_of(line)
        if record is None:
            self.unreadable += 1
            return
        self.tool.write(record, record.step < self.step)
        self.step = record.step
        self.written += 1

    def close(self) -> None:
        self.tool.close()
        if self.position and not self.tool.goes_on:  # such a tool's files are whole only now
            self.journal.append(self.position)
        self.log.close()
        self.journal.close()
