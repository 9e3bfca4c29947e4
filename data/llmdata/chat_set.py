"""Turns files of chat data into rows, in order, on several processes."""

import datetime
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Iterable, Iterator

from . import pool
from .bad_row import MALFORMED, BadRow
from .chat_rows import EXPECTED, KIND_NAMES, kinds_of, read_row
from .chat_template import Template
from .chat_tokens import RowEncoder
from .errors import InputError
from .formats import parse_row
from .records import Value, place, read_rows
from .rows import Row
from .tokenizer import open_tokenizer

TASK_BYTES = 1 << 18  # that a worker gets at once
SMALL = 4 << 20  # bytes; less is read by one process before others would have started

MIXED = "mixed kinds"  # such a row is not left out: the set is refused


@dataclass(frozen=True)
class Source:
    path: Path
    weight: float


@dataclass(frozen=True)
class Settings:
    """How JSON objects become rows. For `date` see Template, for `system` read_row, for `longest` and `cut` RowEncoder."""

    tokenizer: Path
    date: datetime.date
    system: str | None
    longest: int | None
    cut: bool
    kind: int | None = None

    def encoder(self) -> RowEncoder:
        template = Template(self.tokenizer, open_tokenizer(self.tokenizer, "--tokenizer", for_training=True), self.date)
        return RowEncoder(template, self.longest, self.cut)


@dataclass
class Line:
    """A row as read_rows yields it. `consumed`: bytes of all sources that have been read so far."""

    source: int
    number: int
    value: Value
    consumed: int


@dataclass
class Made:
    """What became of a line: a row (shortened if `cut`), or the reason for leaving it out and its explanation."""

    source: int
    number: int
    consumed: int
    row: Row | None = None
    cut: bool = False
    reason: str = ""
    text: str = ""
    unwritten: dict[str, int] = field(default_factory=dict)  # how often the template did not write a field


class RowMaker:
    def __init__(self, settings: Settings):
        self.settings, self.encoder = settings, settings.encoder()

    def make(self, lines: list[Line]) -> list[Made]:
        return [self._make(line) for line in lines]

    def _make(self, line: Line) -> Made:
        made = Made(line.source, line.number, line.consumed)
        try:
            fields = parse_row(line.value)
            kind, kinds = self.settings.kind, kinds_of(fields)
            if not kinds:
                raise BadRow(MALFORMED, EXPECTED)
            if kind not in kinds:
                raise BadRow(MIXED, f"{KIND_NAMES[kinds[0]]}, expected {KIND_NAMES[kind]}: one set holds one kind")
            made.row = self.encoder.encode(read_row(fields, kind, self.settings.system))
        except BadRow as bad:
            made.reason, made.text = bad.reason, str(bad)
            return made
        made.row.source, made.row.line, made.cut = line.source, line.number, self.encoder.was_cut
        made.unwritten = dict(self.encoder.unwritten)
        return made


def read_sources(sources: list[Source]) -> Iterator[Line]:
    before = 0
    for index, source in enumerate(sources):
        for number, value, consumed in read_rows(source.path):
            yield Line(index, number, value, before + consumed)
        before += source.path.stat().st_size


def find_kind(sources: list[Source], wanted: int | None) -> int:
    """The kind that is wanted, or that of the first row that has the fields of just one kind."""
    if wanted is not None:
        return wanted
    first = ""
    for line in read_sources(sources):
        try:
            kinds = kinds_of(parse_row(line.value))
        except BadRow as bad:
            first = first or f" ({place(sources[line.source].path, line.number)}: {bad})"
            continue
        if len(kinds) == 1:
            return kinds[0]
        if kinds:
            raise InputError(f"{place(sources[line.source].path, line.number)}: has \"messages\" and answers to compare: "
                             "say by --kind which to take")  # fmt: skip
    raise InputError(f"{sources[0].path}: no row in it, {EXPECTED}{first}")


def make_rows(sources: list[Source], settings: Settings, workers: int) -> Iterator[Made]:
    total = sum(source.path.stat().st_size for source in sources)
    tasks = _group(read_sources(sources))
    if workers == 1 or total < SMALL:
        maker = RowMaker(settings)
        results = map(maker.make, tasks)
    else:
        results = pool.in_order(tasks, _work, _start_worker, (settings,), workers)
    for result in results:
        yield from result


def _group(lines: Iterable[Line]) -> Iterator[list[Line]]:
    task: list[Line] = []
    size = 0
    for line in lines:
        task.append(line)
        size += len(line.value) if isinstance(line.value, bytes) else len(json.dumps(line.value, default=str))
        if size >= TASK_BYTES:
            yield task
            task, size = [], 0
    if task:
        yield task


_maker: RowMaker | None = None


def _start_worker(settings: Settings) -> None:
    global _maker
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    _maker = RowMaker(settings)


def _work(lines: list[Line]) -> list[Made]:
    return _maker.make(lines)
