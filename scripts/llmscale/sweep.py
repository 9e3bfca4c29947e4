"""All runs of a plan: one after another on this machine, or as a Slurm array. What is finished is never run again."""

import fcntl
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from llmdata.errors import Fault, InputError
from llmdata.progress import Progress
from llmstage.runner import Stopped, die_with_parent, say

from .planning import Planned
from .run import CUT, DIVERGED, DONE, WAITING, Outcome, Run
from .settings import Settings
from .speed import Speed

POLL_SECONDS = 0.5
SBATCH = Path(__file__).resolve().parents[1] / "slurm" / "scaling.sbatch"
ENDED = (DONE, DIVERGED)
ELSEWHERE = "elsewhere"  # another process makes the run, or a trainer whose sweep was killed still saves


class Sweep:
    def __init__(self, settings: Settings, plan: list[Planned], again: bool = False):
        self.settings, self.runs = settings, [Run(settings, planned) for planned in plan]
        self.child: subprocess.Popen | None = None
        self.signals = 0
        for run in self.runs:
            if again:
                _remove_if_other(run)
            run.check_key()
        speed = Speed(settings)
        expected = [speed.seconds(run.planned) for run in self.runs]
        known = all(seconds is not None for seconds in expected)
        self.work = {run.name: seconds if known else run.planned.flops for run, seconds in zip(self.runs, expected)}

    # ---- progress

    def reached(self) -> float:
        """Of the work of all runs, how much is done."""
        return sum(self.work[run.name] * run.reached() for run in self.runs)

    def progress(self) -> Progress:
        return Progress("scaling", sum(self.work.values()), "", self.reached(), sys.stderr)

    def select(self, only: list[str]) -> list[Run]:
        known = {run.name: run for run in self.runs}
        for name in only:
            if name not in known:
                raise InputError(f"--only {name}: no such run, expected one of {', '.join(known)}")
        return [known[name] for name in only] if only else self.runs

    # ---- on this machine

    def run_here(self, only: list[str]) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._signalled)
        chosen, failed = self.select(only), []
        progress = self.progress()
        try:
            elsewhere = self._pass(chosen, chosen, progress, failed, wait=False)
            self._pass(elsewhere, chosen, progress, failed, wait=True)
        finally:
            progress.close()
        if failed:
            raise Fault(f"{len(failed)} of {len(chosen)} runs failed, and will be tried again by the same command: "
                        f"{', '.join(failed)}")  # fmt: skip

    def _pass(self, runs: list[Run], chosen: list[Run], progress: Progress, failed: list[str], wait: bool) -> list[Run]:
        """Makes the runs; returns those that another process is making, unless it shall wait for them."""
        elsewhere = []
        for run in runs:
            outcome = self._run_one(run, progress, wait)
            say(f"scaling: [{chosen.index(run) + 1}/{len(chosen)}] {run.name}: {_describe(outcome)}{_left(progress)}")
            failed += [run.name] if outcome.status == "failed" else []
            elsewhere += [run] if outcome.status == ELSEWHERE else []
        return elsewhere

    def _run_one(self, run: Run, progress: Progress, wait: bool) -> Outcome:
        before = run.outcome()
        if before.status in ENDED:
            return Outcome(before.status, before.reason or "before", before.result)
        lock = _lock(run)
        while lock is None and wait and not self.signals:  # what it waits for may end without a result: then it is made here
            time.sleep(POLL_SECONDS)
            progress.update(self.reached(), f"waiting for {run.name}")
            lock = _lock(run)
        if self.signals:
            raise Stopped
        if lock is None:
            return Outcome(ELSEWHERE, "another process makes it")
        with lock:
            outcome = run.outcome()  # the other process may have ended it meanwhile
            if outcome.status in ENDED:
                return outcome
            run.begin()
            start = time.monotonic()
            code = self._train(run, progress)
            outcome = run.finish(code, time.monotonic() - start)
        if self.signals or outcome.status == CUT and code == 0:  # a signal reached the trainer alone
            raise Stopped
        return Outcome("failed", f"{outcome.reason}, code {code}: {_last_line(run)}") if outcome.status == CUT else outcome

    def _train(self, run: Run, progress: Progress) -> int:
        if self.signals:
            raise Stopped
        command = run.command()
        with open(run.folder / "output.txt", "ab") as out:
            self.child = subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, start_new_session=True,
                                          preexec_fn=die_with_parent, close_fds=False)  # fmt: skip
        if self.signals:  # one came before there was a child
            self._pass_on()
        while True:
            try:
                code = self.child.wait(POLL_SECONDS)
                break
            except subprocess.TimeoutExpired:
                progress.update(self.reached(), run.name)
        self.child = None
        if code == 2:
            raise InputError(f"{run.name}: {_last_line(run)} (the command: {shlex.join(command)})")
        progress.update(self.reached(), run.name)
        return code

    def _signalled(self, number, frame) -> None:
        """First the trainer saves and ends, with a second signal it dies."""
        self.signals += 1
        self._pass_on()

    def _pass_on(self) -> None:
        if self.child is None or self.child.returncode is not None:
            return
        try:
            if self.signals > 1:
                os.killpg(self.child.pid, signal.SIGKILL)
            else:
                os.kill(self.child.pid, signal.SIGUSR1)  # mpirun passes it to its ranks, and no other signal
        except ProcessLookupError:
            pass

    # ---- as a Slurm array

    def submit(self, only: list[str]) -> str | None:
        """Submits what has not ended; the job's number, or None where nothing is left."""
        waiting = [run.name for run in self.select(only) if run.outcome().status not in ENDED]
        if not waiting:
            return None
        self.settings.output.mkdir(parents=True, exist_ok=True)
        names = self.settings.output / "array.txt"
        names.write_text("\n".join(waiting) + "\n", encoding="utf-8")
        limit = f"%{self.settings.at_once}" if self.settings.at_once else ""
        log = self.settings.output / "array-%a.log"
        command = ["sbatch", "--parsable", f"--array=0-{len(waiting) - 1}{limit}", f"--output={log}", *self.settings.slurm,
                   str(SBATCH), str(names), sys.executable, str(SBATCH.parents[1] / "scaling.py"), "run", str(self.settings.path)]  # fmt: skip
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except FileNotFoundError:
            raise InputError("sbatch is not installed, expected a machine of a Slurm cluster") from None
        if done.returncode:
            raise Fault(f"sbatch: {done.stderr.strip()}")
        job = done.stdout.strip().split(";")[0]
        say(f"scaling: job {job} has {len(waiting)} runs, {len(self.runs) - len(waiting)} of {len(self.runs)} had ended before")
        return job

    def wait(self, job: str, poll: float = 2.0) -> None:
        """Until the job has left the queue."""
        progress = self.progress()
        while subprocess.run(["squeue", "-h", "-j", job], capture_output=True, text=True).stdout.strip():
            progress.update(self.reached(), f"job {job}")
            time.sleep(poll)
        progress.close()
        open_ = [run.name for run in self.runs if run.outcome().status not in ENDED]
        if open_:
            raise Fault(f"{len(open_)} runs have not ended ({', '.join(open_)}): see {self.settings.output}/array-*.log; "
                        "the same command goes on with them")  # fmt: skip

    def summary(self) -> dict[str, int]:
        counts = {status: 0 for status in (DONE, DIVERGED, CUT, WAITING)}
        for run in self.runs:
            counts[run.outcome().status] += 1
        return counts


def _remove_if_other(run: Run) -> None:
    try:
        run.check_key()
    except InputError:
        shutil.rmtree(run.folder)


def _lock(run: Run):
    """The run's lock, which its trainer inherits; None: somebody else holds it."""
    run.folder.mkdir(parents=True, exist_ok=True)
    file = open(run.folder / ".lock", "a")
    os.set_inheritable(file.fileno(), True)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return file
    except BlockingIOError:
        file.close()
        return None


def _describe(outcome: Outcome) -> str:
    if outcome.status == DONE and outcome.result:
        return f"done{' before' if outcome.reason == 'before' else ''}, loss {outcome.result['loss']:.4f}"
    return f"{outcome.status}{': ' + outcome.reason if outcome.reason else ''}"


def _left(progress: Progress) -> str:
    left = progress.left()
    return f"; {100 * progress.reached / progress.total:.0f} % of the sweep, {left}" if left else ""


def _last_line(run: Run) -> str:
    lines = (run.folder / "output.txt").read_text("utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "no output"
