"""What every step of curation is made of.

A run is a list of passes over the documents. A `Filter` judges documents one by one within a pass. A `Barrier` must see all
documents before it can judge any: it ends a pass (`collect`), may have passes of its own that read no documents (`between`),
and begins the next one (`decide`). All count what they do in `Counts`, which `statistics` merges.
"""

import signal
import time
from abc import ABC, abstractmethod
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator

from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from .counts import Counts, measure
from .verdict import KEEP, Verdict


@dataclass(frozen=True)
class Context:
    """What a step may know of the run. `folder` is the step's own, empty at first, and the same on all machines of the run."""

    folder: Path
    tasks: int  # of each pass over documents; a task reads in every pass the documents that it wrote in the one before
    seed: int = 1
    document_seconds: float = 10  # of the processor, that a step may spend on a document


@dataclass
class Pass:
    """A pipeline that an executor runs in `tasks` tasks."""

    name: str
    pipeline: list[PipelineStep]
    tasks: int


class TimeLimit(BaseException):
    """Raised in the midst of a step's work. No Exception, so that no library takes it for one of its own."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raises TimeLimit in this block after so many seconds of the processor. Code in C is interrupted when it returns; where it
    does not, `supervise` ends the process."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _raise_time_limit(*_) -> None:
    raise TimeLimit


class Filter(PipelineStep, ABC):
    """A step that judges documents one by one. Subclasses set `name` and SCHEMA, and define `judge` or `change` or both.

    Objects are pickled: what cannot be, or is large (models), is made by `start`, in the process that does the work.
    """

    type = "Filter"
    name = ""
    SCHEMA: dict = {"properties": {}}  # JSON schema of the step's settings; each property has a "default" unless it is required

    def __init__(self, settings: dict, context: Context):
        super().__init__()
        self.settings, self.context = settings, context
        self.counts = Counts()

    def start(self, rank: int) -> None:
        """Before the first document of a task."""

    def change(self, document: Document) -> int:
        """Changes text or metadata in place, before `judge`. Returns the number of changes, which are counted."""
        return 0

    def judge(self, document: Document) -> Verdict:
        return KEEP

    def finish(self) -> None:
        """After a task's last document."""

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        signal.signal(signal.SIGPROF, _raise_time_limit)
        self.counts = Counts()
        self.start(rank)
        for document in data:
            if self._takes(document):
                yield document
        self.finish()

    def _takes(self, document: Document) -> bool:
        counts, begun = self.counts, time.process_time()
        before, text = measure(document), document.text
        try:
            with time_limit(self.context.document_seconds):
                changes = self.change(document)
                verdict = self.judge(document)
            if document.text is not text:
                document.metadata.pop("token_count", None)
        except TimeLimit:
            changes, verdict = 0, self._fault(document, "time limit", "")
        except Exception as error:
            changes, verdict = 0, self._fault(document, type(error).__name__, str(error))
        counts.add(document, before, verdict, changes)
        counts.seconds += time.process_time() - begun
        return verdict.keep

    def _fault(self, document: Document, reason: str, message: str) -> Verdict:
        self.counts.add_fault(reason, document.id, message)
        return Verdict(False, None, None, reason)


class BarrierStep(PipelineStep):
    """What a barrier runs in a pass: it writes files in the barrier's folder, and passes no documents on."""

    type = "Barrier"

    def __init__(self, folder: Path):
        super().__init__()
        self.folder = folder


class Barrier(ABC):
    """A step that must see all documents. Signatures and decisions lie in files in `context.folder`."""

    name = ""
    SCHEMA: dict = {"properties": {}}

    def __init__(self, settings: dict, context: Context):
        self.settings, self.context = settings, context

    @abstractmethod
    def collect(self) -> PipelineStep:
        """Reads the documents of a pass, in order, after they were written; need not pass them on."""

    def between(self) -> list[Pass]:
        """Passes that read no documents; each runs when all tasks of the one before are done."""
        return []

    @abstractmethod
    def decide(self) -> Filter:
        """The next pass begins with it: each of its tasks reads the documents that `collect` saw with the same rank."""
