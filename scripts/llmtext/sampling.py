"""Draws several texts for each of many prompts, side by side: a row whose text has ended takes the next one at once.

Each prompt is computed once, in a row of its own, and its key-value cache is copied for each of its texts. A text depends on its
prompt and its seed, not on what is computed beside it.
"""

import hashlib
from dataclasses import dataclass, field
from typing import Iterable, Iterator

from .generator import Generator, SamplerOptions
from .texts import Row, take_token


@dataclass
class Sample:
    text: str
    tokens: int  # including the end token
    finish: str  # "stop", or "length" if it was cut off


@dataclass
class Task:
    """A prompt and the seeds of its texts. `samples` are in the order of the seeds."""

    key: str
    ids: list[int]
    seeds: list[int]
    samples: list[Sample | None] = field(default_factory=list)


def seeds_of(seed: int, key: str, count: int) -> list[int]:
    return [int.from_bytes(hashlib.sha256(f"{seed} {key} {k}".encode()).digest()[:8], "little") for k in range(count)]


class Rows:
    """The generator has one row more than `rows`. The last one holds the prompt whose texts are being started."""

    def __init__(self, generator: Generator, rows: int, tokenizer, options: SamplerOptions, ends: set[int], stops: list[str],
                 limit: int):  # fmt: skip
        self.generator, self.rows, self.tokenizer, self.options = generator, rows, tokenizer, options
        self.ends, self.stops, self.limit = ends, stops, limit
        self.texts: dict[int, tuple[Row, Task, int]] = {}  # by row
        self.drawn = 0
        generator.pad_steps(rows)

    def run(self, tasks: Iterable[Task]) -> Iterator[Task]:
        """Yields each task when all of its texts are there."""
        waiting = self._begin(tasks)
        free = list(range(self.rows))
        more = True
        while more or self.texts:
            while more and free:
                more = next(waiting, None)
                if more:
                    self._fork(free.pop(), *more)
            yield from self._step(free)

    def _begin(self, tasks: Iterable[Task]) -> Iterator[tuple[Task, int]]:
        """Yields (task, index of the text to start) while the last row holds the task's prompt."""
        for task in tasks:
            task.samples = [None] * len(task.seeds)
            self.generator.hold(self.rows, task.ids)
            for k in range(len(task.seeds)):
                yield task, k

    def _fork(self, row: int, task: Task, k: int) -> None:
        self.generator.fork(row, self.rows, self.options, task.seeds[k])
        self.texts[row] = Row(self.tokenizer, self.stops), task, k

    def _step(self, free: list[int]) -> Iterator[Task]:
        tokens = dict(self.generator.next())
        self.drawn += len(tokens)
        for row in list(self.texts):
            text, task, k = self.texts[row]
            if row in tokens:
                take_token(self.generator, text, tokens[row], self.ends, self.limit)
            else:  # the context is full
                text.stream.finish()
                text.finish = "length"
            if not text.finish:
                continue
            self.generator.stop(row)
            del self.texts[row]
            free.append(row)
            task.samples[k] = Sample(text.stream.text, text.count, text.finish)
            if all(task.samples):
                yield task
