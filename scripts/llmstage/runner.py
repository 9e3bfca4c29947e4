"""Runs stages. Each one's note tells what is done, so that work that was stopped or killed can go on."""

import ctypes
import fcntl
import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

from llmdata.errors import Fault, InputError
from llmdata.output import write_json
from llmdata.progress import duration
from llmdata.section import first_difference

from .stage import Stage, Step

LOCK_SECONDS = 60  # for a program of the previous run to write its checkpoint


class Stopped(KeyboardInterrupt):
    """A signal stopped the work; the same command goes on."""


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def hash_key(key: dict) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]


class Note:
    """What a stage depends on, which of its steps are done, and how long they took."""

    def __init__(self, stage: Stage):
        self.path = stage.note
        try:
            self.value = json.loads(self.path.read_text("utf-8"))
        except FileNotFoundError:
            self.value = None
        except ValueError:
            raise InputError(f"{self.path}: not JSON; remove it and {stage.folder} to begin the stage anew") from None

    def begin(self, key: dict) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.value = {"key": key, "steps": {}, "seconds": 0.0}
        self.write()

    def write(self) -> None:
        write_json(self.path, self.value)

    def done(self, step: Step) -> bool:
        return bool(self.value and self.value["steps"].get(step.name, {}).get("done")) and step.made.exists()

    def difference(self, key: dict) -> str | None:
        if self.value is None or self.value["key"] == key:
            return None
        old = self.value["key"]
        changed = [name for name in {**old, **key} if old.get(name) != key.get(name)]
        return "; ".join(_difference(name, old.get(name), key.get(name)) for name in changed)


def _difference(name: str, old, new) -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        return first_difference(old, new, name)
    if isinstance(old, list) and isinstance(new, list):
        gone, come = (" ".join(part for part in a if part not in b) for a, b in ((old, new), (new, old)))
        return f"{name}: {gone or 'nothing'}, now {come or 'nothing'}"
    return f"{name} is another"


class Lock:
    """Allows one run per folder. The programs of a run inherit the lock, so that the next run waits for one that still lives."""

    def __init__(self, program: str, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.file = open(folder / ".lock", "a")
        os.set_inheritable(self.file.fileno(), True)
        for second in range(LOCK_SECONDS):
            try:
                fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if second == 0:
                    say(f"{program}: {folder} is in use; waiting for it up to {LOCK_SECONDS} s")
                time.sleep(1)
        raise InputError(f"{folder}: another run of {program} is going on there")


def die_with_parent() -> None:
    """Called in a child, which then gets SIGTERM when this program dies, so that no training continues unnoticed."""
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class Runner:
    """Runs the stages of a program. `again`: stages whose settings or inputs have changed are begun anew, instead of refused."""

    seconds_between_notes = 5.0

    def __init__(self, program: str, stages: list[Stage], again: bool):
        self.program, self.stages, self.again = program, stages, again
        self.child: subprocess.Popen | None = None
        self.trains = False  # whether the child is the trainer
        self.signals = 0
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._signalled)

    def _signalled(self, number, frame) -> None:
        """Passes the signal on, first so that the child saves and ends, then so that it dies."""
        self.signals += number != signal.SIGUSR1 or not self.signals
        self._pass_on()

    def _pass_on(self) -> None:
        if self.child is None or self.child.returncode is not None:
            return
        try:
            if self.signals > 2:
                os.killpg(self.child.pid, signal.SIGKILL)
            else:
                # mpirun passes SIGUSR1 to its ranks, and no other signal
                os.kill(self.child.pid, signal.SIGUSR1 if self.trains and self.signals == 1 else signal.SIGTERM)
        except ProcessLookupError:
            pass

    # ---- stages

    def check(self) -> None:
        """Finds what is to be done, and refuses what cannot be gone on with, before anything is run."""
        self.keys, self.todo = {}, []
        for stage in self.stages:
            key = stage.key(self.keys)
            self.keys[stage.name] = hash_key(key)
            note = Note(stage)
            difference = note.difference(key)
            if difference and not self.again:
                raise InputError(f"{stage.folder} was begun with other settings ({difference}): give another \"output\", or "
                                 "--again to remove the folders of such stages and begin them anew")  # fmt: skip
            if not difference and note.value is None and stage.folder.exists() and any(stage.folder.iterdir()):
                raise InputError(f"{stage.folder}: not empty, and not made by {self.program} (no {note.path})")
            self.todo.append((stage, key, note, difference))

    def run(self) -> None:
        for number, (stage, key, note, difference) in enumerate(self.todo, 1):
            self.place = f"{self.program}: [{number}/{len(self.todo)}] {stage.title}"
            if difference:
                say(f"{self.place}: begun anew: {difference}")
                stage.remove()
            if difference or note.value is None:
                stage.folder.mkdir(parents=True, exist_ok=True)
                note.begin(key)
            self.run_stage(stage, note)

    def run_stage(self, stage: Stage, note: Note) -> None:
        missing = [step for step in stage.steps if not note.done(step)]
        if not missing:
            say(f"{self.place}: done before, in {duration(note.value['seconds'])}")
            return
        for step in missing:
            say(f"{self.place} ({step.name})")
            self._run_step(step, note)
        say(f"{self.place}: done, in {duration(note.value['seconds'])}")

    # ---- a command

    def _run_step(self, step: Step, note: Note) -> None:
        if self.signals:
            raise Stopped
        times = note.value["steps"].setdefault(step.name, {"seconds": 0.0})
        code = self._run_command(step, note, times)
        if self.signals:
            raise Stopped
        if code:
            raise self.failure(step, code)
        if not step.made.exists():
            raise Fault(f"{step.name}: {Path(step.program[-1]).name} has not made {step.made}")
        if step.trains and was_stopped(step):
            raise Stopped
        times["done"] = True
        note.write()

    def _run_command(self, step: Step, note: Note, times: dict) -> int:
        out = open(step.output.with_name(step.output.name + ".part"), "wb") if step.output else None
        self.trains = step.trains
        last = time.monotonic()
        self.child = subprocess.Popen(step.command, start_new_session=True, preexec_fn=die_with_parent, close_fds=False,
                                      **self.streams(out))  # fmt: skip
        if self.signals:  # one came before there was a child
            self._pass_on()
        while True:
            try:
                code = self.child.wait(self.seconds_between_notes)
            except subprocess.TimeoutExpired:
                code = None
            now = time.monotonic()
            times["seconds"] += now - last
            note.value["seconds"] += now - last
            last = now
            self.watch(note)
            note.write()
            if code is not None:
                break
        self.child = None
        if out:
            out.close()
            if code == 0:
                os.replace(out.name, step.output)
        return code if code >= 0 else 128 - code

    # ---- what a program may do otherwise

    def streams(self, output) -> dict:
        """Where a command's output goes, as subprocess.Popen's arguments. `output`: the file of a step that has one."""
        return {"stdout": output}

    def watch(self, note: Note) -> None:
        """Called every few seconds while a command runs, and once it has ended."""

    def failure(self, step: Step, code: int) -> Exception:
        """What is told of a command that failed."""
        name = Path(step.program[-1]).name
        error = InputError if code == 2 else Fault
        return error(f"{step.name}: {name} ended with code {code}; the command: {shlex.join(step.command)}")


def was_stopped(step: Step) -> bool:
    """Whether the trainer ended before its last step, as when somebody sent a signal to it alone."""
    run = step.made.parents[1]
    names = ("checkpoint/trainer/state.json", "trainer_options.json")
    state, options = (json.loads((run / name).read_text("utf-8")) for name in names)
    if stage := state.get("stage"):  # of a recipe, whose stages may have ended early
        last = state["recipe"]["stages"][-1]["name"]
        return stage["name"] != last or state["step"] < stage["end_step"]
    return state["step"] < options["steps"]
