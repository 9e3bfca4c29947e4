"""Runs tasks in processes of their own, and goes on when one of these dies.

A process that is killed (a crash in a library's C code, too little memory) or that spends too long on a document (C code that
no timer interrupts) is started again, and the document at which it was is left out. Which one that is, a `Mark` says.
"""

import ctypes
import mmap
import os
import resource
import signal
import struct
import sys
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

from llmdata.errors import Fault, InputError

from .files import read_json_or, write_json

MOST_DEATHS = 100  # of one task; more are no accidents of single documents
POLL_SECONDS = 0.05
_PLACE = struct.Struct("<qqq")  # number of the document, documents so far, bytes or documents of the input read
_DIED, _FAILED = 3, 1
_PR_SET_PDEATHSIG = 1


class Mark:
    """Where a task is, in a file that outlives its process: its document's number (0: it is in none), and how much is done."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(_PLACE.size))
        with open(path, "r+b") as file:
            self._map = mmap.mmap(file.fileno(), _PLACE.size)

    def set(self, number: int, documents: int, done: int) -> None:
        _PLACE.pack_into(self._map, 0, number, documents, done)

    @staticmethod
    def read(path: Path) -> tuple[int, int, int]:
        try:
            return _PLACE.unpack(path.read_bytes())
        except (FileNotFoundError, struct.error):
            return 0, 0, 0


@dataclass
class Place:
    """The files by which a task's process and the one that watches over it know of each other. `folder` is the pass's."""

    folder: Path
    rank: int

    @property
    def mark(self) -> Path:
        return self.folder / "marks" / f"{self.rank:05d}"

    @property
    def skipped(self) -> Path:
        """{number of a document to leave out: why}"""
        return self.folder / "skipped" / f"{self.rank:05d}.json"

    @property
    def output(self) -> Path:
        """What the process printed."""
        return self.folder / "printed" / f"{self.rank:05d}.txt"


@dataclass
class _Child:
    place: Place
    number: int = 0  # of its document
    since: float = 0  # processor seconds of the child when that document began
    hung: bool = False


@dataclass
class Limits:
    workers: int  # processes at once
    document_seconds: float  # of the processor, for all of a pass's work on a document
    memory: int  # bytes of a process


def run_tasks(folder: Path, ranks: list[int], work: Callable[[int], None], limits: Limits, tick: Callable[[], None]) -> None:
    """Calls work(rank) in a process for each rank. `tick` is called often. A task that fails raises Fault or InputError."""
    waiting, running = deque(ranks), {}
    try:
        while waiting or running:
            while waiting and len(running) < limits.workers:
                place = Place(folder, waiting.popleft())
                running[_start(place, work, limits)] = _Child(place)
            for pid, child in list(running.items()):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if not ended:
                    _watch(pid, child, limits.document_seconds)
                    continue
                del running[pid]
                if not _is_done(child, status):
                    waiting.appendleft(child.place.rank)
            tick()
            time.sleep(POLL_SECONDS)
    finally:
        for pid in running:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _start(place: Place, work: Callable[[int], None], limits: Limits) -> int:
    for path in (place.mark, place.skipped, place.output):
        path.parent.mkdir(parents=True, exist_ok=True)
    place.mark.unlink(missing_ok=True)
    sys.stdout.flush()
    parent, pid = os.getpid(), os.fork()
    if pid:
        return pid
    code = _FAILED
    try:
        _prepare_child(place, parent, limits.memory)
        work(place.rank)
        code = 0
    except InputError as error:
        print(f"{error}", file=sys.stderr)
        code = 2
    except MemoryError:
        code = _DIED
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _prepare_child(place: Place, parent: int, memory: int) -> None:
    """It ends with its parent, leaves signals of the terminal to it, and prints to a file."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(_FAILED)
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    printed = os.open(place.output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)


def _watch(pid: int, child: _Child, seconds: float) -> None:
    number, *_ = Mark.read(child.place.mark)
    used = _processor_seconds(pid)
    if number != child.number:
        child.number, child.since = number, used
    elif number and used - child.since > seconds:
        child.hung = True
        os.kill(pid, signal.SIGKILL)


def _processor_seconds(pid: int) -> float:
    """Linux names another process's clock by its inverted id; see clock_getcpuclockid(3)."""
    return time.clock_gettime((~pid << 3) | 2)


def _is_done(child: _Child, status: int) -> bool:
    """Whether the task is done; False: it is to be started again without the document at which it died."""
    place, code = child.place, os.waitstatus_to_exitcode(status)
    if code == 0:
        return True
    if code in (_FAILED, 2):
        lines = place.output.read_text(errors="replace").strip().splitlines() or ["no message"]
        raise (InputError if code == 2 else Fault)(f"{lines[-1]} (task {place.rank}, all of it: {place.output})")
    number, *_ = Mark.read(place.mark)
    died = "out of memory" if code == _DIED else f"process died ({_signal_name(code)})"
    why = "time limit (process stopped)" if child.hung else died
    skipped = read_json_or(place.skipped, {})
    if number == 0 or len(skipped) >= MOST_DEATHS:
        raise Fault(f"task {place.rank}: {why}, {'at no document' if number == 0 else f'for the {MOST_DEATHS}th time'}; "
                    f"what it printed is in {place.output}")  # fmt: skip
    write_json(place.skipped, {**skipped, str(number): why})
    return False


def _signal_name(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"code {code}"
