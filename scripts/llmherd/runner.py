"""Runs the stages of a herd: one line of progress, a log for each stage, and what each one took."""

import os
import resource
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

from llmdata.errors import Fault, InputError
from llmdata.output import write_json
from llmdata.progress import duration
from llmstage.runner import Note, Runner, say
from llmstage.stage import Step

from .needs import check_free, needs_of, tree_bytes
from .report import Report
from .stages import Plan, Stage

LAST_LINES = 8  # of a failed stage's log that are told
SECONDS_BETWEEN_LINES = 30  # where standard error is no terminal
TAIL = 1 << 14  # bytes of a log that are looked at


class HerdRunner(Runner):
    seconds_between_notes = 1.0

    def __init__(self, plan: Plan, report: Report):
        """The report is written after each stage, and after one that failed."""
        super().__init__("herd", plan.stages, again=True)
        self.plan, self.report, self.needs = plan, report, needs_of(plan)
        self.stage: Stage = plan.stages[0]
        self.terminal = sys.stderr.isatty()
        self.last_line = 0.0
        self.failed: list[str] = []  # stages without which the herd went on

    def run_stage(self, stage: Stage, note: Note) -> None:
        self.stage, self.note, before = stage, note, processor_seconds()
        if all(note.done(step) for step in stage.steps):
            return super().run_stage(stage, note)
        say(f"{self.place}: {check_free(stage.title, self.needs[stage.name], self.plan.output)}")
        stage.log.parent.mkdir(parents=True, exist_ok=True)
        self.log_begin = stage.log.stat().st_size if stage.log.exists() else 0
        for name in stage.files:
            self.plan.files.path(name).parent.mkdir(exist_ok=True)
            write_json(self.plan.files.path(name), self.plan.files.value(name))
        note.value.pop("fault", None)
        try:
            super().run_stage(stage, note)
        except (InputError, Fault) as error:
            if not stage.aside:
                raise
            self.failed.append(stage.name)
            say(f"herd: {error}; the herd goes on without it")
        finally:
            note.value["processor_seconds"] = note.value.get("processor_seconds", 0.0) + processor_seconds() - before
            note.value["disk_bytes"] = tree_bytes(stage.folder)
            note.write()
            self.report.write()

    def streams(self, output) -> dict:
        self.log = open(self.stage.log, "ab")
        return {"stdout": output or self.log, "stderr": self.log, "stdin": subprocess.DEVNULL}

    def watch(self, note: Note) -> None:
        if self.child is not None and self.child.returncode is None:
            note.value["memory_bytes"] = max(note.value.get("memory_bytes", 0), memory_of(self.child.pid))
        self._show(note)

    def _show(self, note: Note) -> None:
        ended = self.child is not None and self.child.returncode is not None
        if not self.terminal and time.monotonic() - self.last_line < SECONDS_BETWEEN_LINES:
            return
        self.last_line = time.monotonic()
        spent = note.value["seconds"]
        left = self.left(spent)
        said = next(iter(log_lines(self.stage.log, self.log_begin)[-1:]), "")
        text = f"{self.place}: {duration(spent)}{f', {left} left in all' if left else ''} | {said}"
        if self.terminal:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r{' ' * width if ended else text[:width].ljust(width)}\r", end="", file=sys.stderr, flush=True)
        elif not ended:
            say(text)

    def left(self, spent: float) -> str:
        """By the stages' estimates, without what is done; empty where one of them is not known."""
        waiting = [stage for stage, _, note, difference in self.todo[self.plan.stages.index(self.stage) + 1 :]
                   if difference or not all(note.done(step) for step in stage.steps)]  # fmt: skip
        this, *rest = (self.needs[stage.name].seconds for stage in (self.stage, *waiting))
        return "" if None in (this, *rest) else duration(max(0.0, this - spent) + sum(rest))

    def failure(self, step: Step, code: int) -> Exception:
        lines = log_lines(self.stage.log, self.log_begin)[-LAST_LINES:]
        self.note.value["fault"] = "\n".join(lines)
        say("\n    ".join([f"herd: the last lines of {self.stage.log}:", *lines]))
        error = InputError if code == 2 else Fault
        return error(f"stage {self.stage.name} failed with code {code}; the command: {shlex.join(step.command)}; what is done "
                     f"so far: {self.plan.output / 'report.html'}")  # fmt: skip


def processor_seconds() -> float:
    """Of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def memory_of(pid: int) -> int:
    """Bytes of a process and of those below it; what they share counts once."""
    total, waiting = 0, [pid]
    while waiting:
        process = Path(f"/proc/{waiting.pop()}")
        try:
            waiting += map(int, " ".join(path.read_text() for path in process.glob("task/*/children")).split())
            total += next(int(line.split()[1]) << 10 for line in open(process / "smaps_rollup") if line.startswith("Pss:"))
        except (OSError, StopIteration):  # it has ended
            continue
    return total


def log_lines(path: Path, begin: int) -> list[str]:
    """The last lines of a log, of what stands behind `begin`; what a bar has written over is left out."""
    try:
        with open(path, "rb") as file:
            file.seek(max(begin, path.stat().st_size - TAIL))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return []
    lines = (line.rstrip("\r").rpartition("\r")[2].strip() for line in text.split("\n"))
    return [line for line in lines if line]


