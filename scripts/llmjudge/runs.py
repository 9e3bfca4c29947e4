"""One run: annealing from the checkpoint, with or without the candidate, under one seed.

OUTPUT/ARM.json is its recipe, OUTPUT/ARM_SEED/run what train_llama3 writes, OUTPUT/ARM_SEED/score what --eval-only writes of its
result. OUTPUT/ARM_SEED/result.json appears when both have ended, and such a run is never run again.
"""

import shlex
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

from llmdata.errors import Fault, InputError
from llmdata.output import write_json
from llmdata.text_file import read_object
from llmstage.runner import die_with_parent
from llmscale.run import last_step, last_value, read_log

from .gain import is_known

WITHOUT, WITH = "without", "with"
CANDIDATE = "candidate"
POLL_SECONDS = 0.5
TAIL = 4096


@dataclass
class Settings:
    """What the results depend on, as OUTPUT/settings.json has it."""

    model: str
    default: list[tuple[float, str]]  # weight, pattern of shards
    candidate: str
    share: float
    val: str
    eval_tasks: str | None
    steps: int
    warmup_steps: int
    lr: float
    seq_len: int
    batch_size: int
    tokens_per_step: int
    data: dict[str, dict[str, int]]  # by pattern the files' sizes


def recipe_of(s: Settings, arm: str) -> dict:
    total = sum(weight for weight, _ in s.default)
    share = s.share if arm == WITH else 0
    sources = {f"default_{i}": {"train": pattern} for i, (_, pattern) in enumerate(s.default, 1)}
    mixture = [{"source": f"default_{i}", "weight": (1 - share) * weight / total} for i, (weight, _) in enumerate(s.default, 1)]
    if arm == WITH:
        sources[CANDIDATE] = {"train": s.candidate}
        mixture.append({"source": CANDIDATE, "weight": share})
    rise = [{"shape": "linear", "from": 0, "to": s.lr, "steps": s.warmup_steps}] if s.warmup_steps else []
    stage = {
        "name": "annealing", "steps": s.steps, "seq_len": s.seq_len, "tokens_per_step": s.tokens_per_step,
        "batch_size": s.batch_size, "mixture": mixture, "learning_rate": [*rise, {"shape": "linear", "from": s.lr, "to": 0}],
    }  # fmt: skip
    return {"name": f"annealing {arm} the candidate", "sources": sources, "stages": [stage]}


class Run:
    def __init__(self, settings: Settings, output: Path, program: list[str], threads: int | None, arm: str, seed: int):
        self.settings, self.program, self.arm, self.seed = settings, program, arm, seed
        self.name = f"{arm}_{seed}"
        self.recipe, self.folder = output / f"{arm}.json", output / self.name
        self.threads = [] if threads is None else ["--threads", str(threads)]

    def result(self) -> dict | None:
        path = self.folder / "result.json"
        return read_object(path) if path.is_file() else None

    def steps_done(self) -> int:
        return self.settings.steps if self.result() else last_step(read_log(self.folder / "run/log.jsonl", TAIL))

    def train_command(self) -> list[str]:
        """Continues from the newest checkpoint, if there is one."""
        s, run = self.settings, self.folder / "run"
        tokenizer = Path(s.model) / "tokenizer.json"
        again = ["--resume", "auto"] if any(run.glob("checkpoints/step_*")) else ["--overwrite"]
        return [*self.program, "--recipe", str(self.recipe), "--init-from", s.model, "--seed", str(self.seed), "--output", str(run),
                *(["--tokenizer", str(tokenizer)] if tokenizer.is_file() else []), "--keep-last", "1", "--save-every",
                str(max(1, s.steps // 4)), *self.threads, *again]  # fmt: skip

    def score_command(self) -> list[str]:
        s = self.settings
        tasks = ["--eval-tasks", s.eval_tasks] if s.eval_tasks else []
        return [*self.program, "--eval-only", "--init-from", str(self.folder / "run/checkpoint"), "--val-data", s.val, *tasks,
                "--seq-len", str(s.seq_len), "--batch-size", str(s.batch_size), "--output", str(self.folder / "score"), "--overwrite",
                *self.threads]  # fmt: skip

    def make(self, call: Callable[[list[str], Path], None]) -> dict:
        began = time.monotonic()
        self.folder.mkdir(parents=True, exist_ok=True)
        call(self.train_command(), self.folder)
        if last_step(read_log(self.folder / "run/log.jsonl", TAIL)) < self.settings.steps:
            raise KeyboardInterrupt  # a signal reached the trainer alone
        call(self.score_command(), self.folder)
        log = read_log(self.folder / "score/log.jsonl")
        measures = {"val_loss": last_value(log, "val_loss")}
        for line in log:
            if "task" in line:
                measures |= {f"{line['task']} {name}": value for name, value in line.items() if is_known(name)}
        if any(not isinstance(value, (int, float)) for value in measures.values()):
            raise Fault(f"{self.name}: a measure is not finite: {measures}")
        result = {"arm": self.arm, "seed": self.seed, "measures": measures, "seconds": time.monotonic() - began}
        write_json(self.folder / "result.json", result)
        for path in self.folder.glob("run/checkpoints/*"):  # its result is known, and a checkpoint is large
            shutil.rmtree(path, ignore_errors=True)
        return result


class Caller:
    """Calls programs, whose output goes to output.txt, and tells how far they are. A signal reaches the program first, which saves."""

    def __init__(self, tell: Callable[[], None]):
        self.tell = tell

    def __call__(self, command: list[str], folder: Path) -> None:
        with open(folder / "output.txt", "ab") as out:
            child = subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, start_new_session=True,
                                     preexec_fn=die_with_parent)  # fmt: skip
            try:
                while child.poll() is None:
                    time.sleep(POLL_SECONDS)
                    self.tell()
            except KeyboardInterrupt:
                child.terminate()  # the trainer saves and ends
                child.wait()
                raise
        if child.returncode == 0:
            return
        lines = (folder / "output.txt").read_text("utf-8", errors="replace").strip().splitlines()
        said = f"{folder.name}: {lines[-1] if lines else 'no output'} (the command: {shlex.join(command)})"
        raise InputError(said) if child.returncode == 2 else Fault(said)
