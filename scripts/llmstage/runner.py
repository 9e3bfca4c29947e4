"""Runs the stages. Each stage's stage.json notes what is done, so that a round that was stopped or killed can continue."""

import ctypes
import fcntl
import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from llmdata.errors import Fault, InputError
from llmdata.output import write_json
from llmdata.progress import duration

from .stage import Stage, Step

NOTE = "stage.json"
SECONDS_BETWEEN_NOTES = 5.0
LOCK_SECONDS = 60  # for a program of the previous run to write its checkpoint


class Stopped(KeyboardInterrupt):
    """A signal stopped the round; the same command continues it."""


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def hash_key(key: dict) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]


class Note:
    """stage.json: what the stage depends on, which of its steps are done, and how long they took."""

    def __init__(self, stage: Stage):
        self.path = stage.folder / NOTE
        try:
            self.value = json.loads(self.path.read_text("utf-8"))
        except FileNotFoundError:
            self.value = None
        except ValueError:
            raise InputError(f"{self.path}: not JSON; remove the stage's folder to begin it anew") from None

    def begin(self, key: dict) -> None:
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
    if isinstance(old, list) and isinstance(new, list):
        gone, come = (" ".join(part for part in a if part not in b) for a, b in ((old, new), (new, old)))
        return f"{name}: {gone or 'nothing'}, now {come or 'nothing'}"
    return f"{name} is another"


class Lock:
    """Allows one run per folder. The programs of a run inherit the lock, so that the next run waits for one that still lives."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.file = open(folder / ".lock", "a")
        os.set_inheritable(self.file.fileno(), True)
        for second in range(LOCK_SECONDS):
            try:
                fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if second == 0:
                    say(f"post_train: {folder} is in use; waiting for it up to {LOCK_SECONDS} s")
                time.sleep(1)
        raise InputError(f"{folder}: another run of this round is going on")


def die_with_parent() -> None:
    """Called in a child, which then gets SIGTERM when this program dies, so that no training continues unnoticed."""
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class Runner:
    def __init__(self, plan, again: bool):
        self.plan, self.again = plan, again
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
        """Refuses stages that were begun with other settings, before anything is run."""
        self.keys, self.todo = {}, []
        for stage in self.plan.stages:
            key = stage.key(self.keys)
            self.keys[stage.name] = hash_key(key)
            note = Note(stage)
            difference = note.difference(key)
            if difference and not self.again:
                raise InputError(f"{stage.folder} was begun with other settings ({difference}): give another \"output\", or "
                                 "--again to remove the folders of such stages and begin them anew")  # fmt: skip
            if not difference and note.value is None and stage.folder.exists() and any(stage.folder.iterdir()):
                raise InputError(f"{stage.folder}: not empty and not of a round (no {NOTE} in it)")
            self.todo.append((stage, key, note, bool(difference)))

    def run(self) -> None:
        for number, (stage, key, note, anew) in enumerate(self.todo, 1):
            self.place = f"post_train: [{number}/{len(self.todo)}] {stage.title}"
            if anew:
                shutil.rmtree(stage.folder)
            if anew or note.value is None:
                stage.folder.mkdir(parents=True, exist_ok=True)
                note.begin(key)
            self._run_stage(stage, note)

    def _run_stage(self, stage: Stage, note: Note) -> None:
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
        name = Path(step.program[-1]).name
        if code:
            error = InputError if code == 2 else Fault
            raise error(f"{step.name}: {name} ended with code {code}; the command: {shlex.join(step.command)}")
        if not step.made.exists():
            raise Fault(f"{step.name}: {name} has not made {step.made}")
        if step.trains and was_stopped(step):
            raise Stopped
        times["done"] = True
        note.write()

    def _run_command(self, step: Step, note: Note, times: dict) -> int:
        out = open(step.output.with_name(step.output.name + ".part"), "wb") if step.output else None
        self.trains = step.trains
        last = time.monotonic()
        self.child = subprocess.Popen(step.command, stdout=out, start_new_session=True, preexec_fn=die_with_parent,
                                      close_fds=False)  # fmt: skip
        if self.signals:  # one came before there was a child
            self._pass_on()
        while True:
            try:
                code = self.child.wait(SECONDS_BETWEEN_NOTES)
            except subprocess.TimeoutExpired:
                code = None
            now = time.monotonic()
            times["seconds"] += now - last
            note.value["seconds"] += now - last
            last = now
            note.write()
            if code is not None:
                break
        self.child = None
        if out:
            out.close()
            if code == 0:
                os.replace(out.name, step.output)
        return code if code >= 0 else 128 - code


def was_stopped(step: Step) -> bool:
    """Whether the trainer ended before its last step, as when somebody sent a signal to it alone."""
    run = step.made.parents[1]
    names = ("checkpoint/trainer/state.json", "trainer_options.json")
    state, options = (json.loads((run / name).read_text("utf-8")) for name in names)
    return state["step"] < options["steps"]
