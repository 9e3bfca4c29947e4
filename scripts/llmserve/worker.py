"""The thread that computes: it alone calls the engines, which take turns, since each step uses all cores or the whole GPU.

The event loop hands it commands; what its steps report goes back into the queues of the jobs.
"""

import asyncio
import queue
import threading
import traceback
from concurrent.futures import Future
from functools import partial
from typing import Callable

from llmdata.errors import Fault

from .engine import GOES_ON, Counts, Engine, Sequence, Token


class Job:
    """The sequences of one HTTP request. `events` gets (index of the sequence, token), or the exception that ended all work."""

    def __init__(self, engine: Engine, sequences: list[Sequence]):
        self.engine, self.sequences = engine, sequences
        self.numbers: list[int] = []  # the engine's; of the worker's thread
        self.events: asyncio.Queue[tuple[int, Token] | Exception] = asyncio.Queue()


class Worker(threading.Thread):
    def __init__(self, engines: list[Engine], loop: asyncio.AbstractEventLoop, failed: Callable[[Exception], None]):
        """`failed` is called in the loop when an engine can do no more."""
        super().__init__(name="engines", daemon=True)
        self.loop, self.failed = loop, failed
        self.commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.running: dict[Engine, dict[int, tuple[Job, int]]] = {engine: {} for engine in engines}
        self.stopped = False

    # ---- called in the event loop

    async def begin(self, job: Job) -> None:
        """Raises the InputError of an engine that refuses a sequence."""
        done: Future[None] = Future()
        self.commands.put(partial(self._begin, job, done))
        await asyncio.wrap_future(done)

    def cancel(self, job: Job, index: int | None = None) -> None:
        """Ends one sequence of the job, or all. Those that have ended are left alone."""
        self.commands.put(partial(self._cancel, job, index))

    async def counts(self, engine: Engine) -> Counts:
        done: Future[Counts] = Future()
        self.commands.put(partial(self._count, engine, done))
        return await asyncio.wrap_future(done)

    def stop(self) -> None:
        self.commands.put(self._stop)
        self.join()

    # ---- this thread

    def run(self) -> None:
        try:
            while not self.stopped:
                self._obey()
                self._step_all()
        except Exception as error:  # whatever it is, nobody may be left waiting
            if not isinstance(error, Fault):
                traceback.print_exc()
            ended = [(job, error) for jobs in self.running.values() for job, _ in jobs.values()]
            self.loop.call_soon_threadsafe(_deliver, ended)
            self.loop.call_soon_threadsafe(self.failed, error)

    def _obey(self) -> None:
        """Carries out all commands; without work, waits for one."""
        wait = not any(self.running.values())
        while True:
            try:
                self.commands.get(wait)()
                wait = False
            except queue.Empty:
                return

    def _step_all(self) -> None:
        """A step of each engine that has work."""
        for engine, jobs in self.running.items():
            reports: list[tuple[Job, tuple[int, Token] | Exception]] = []
            for number, token in engine.step() if jobs else []:
                job, index = jobs[number]
                reports.append((job, (index, token)))
                if token.finish != GOES_ON:
                    del jobs[number]
            if reports:
                self.loop.call_soon_threadsafe(_deliver, reports)

    def _count(self, engine: Engine, done: Future) -> None:
        if done.set_running_or_notify_cancel():
            done.set_result(engine.counts())

    def _begin(self, job: Job, done: Future) -> None:
        if not done.set_running_or_notify_cancel():  # the client has gone away
            return
        try:
            for index, sequence in enumerate(job.sequences):
                job.numbers.append(number := job.engine.add(sequence))
                self.running[job.engine][number] = job, index
        except Exception as error:
            self._cancel(job, None)
            done.set_exception(error)
        else:
            done.set_result(None)

    def _cancel(self, job: Job, index: int | None) -> None:
        jobs = self.running[job.engine]
        for number in job.numbers if index is None else job.numbers[index : index + 1]:
            if number in jobs:
                del jobs[number]
                job.engine.cancel(number)

    def _stop(self) -> None:
        self.stopped = True


def _deliver(reports: list[tuple[Job, tuple[int, Token] | Exception]]) -> None:
    for job, event in reports:
        job.events.put_nowait(event)
