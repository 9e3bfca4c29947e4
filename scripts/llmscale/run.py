"""One run of a sweep: its command, its folder, and how it ended.

OUTPUT/configs/SIZE.json holds the model and OUTPUT/runs/NAME/run what train_llama3 writes. OUTPUT/runs/NAME/result.json appears
when the run has ended for good, and such a run is never run again.
"""

import json
import math
import statistics
from dataclasses import dataclass
from pathlib import Path

from llmdata.errors import InputError
from llmdata.output import write_json
from llmdata.text_file import read_object
from llmround.settings import as_arguments

from .planning import Planned
from .settings import Settings
from .tuning import FINAL_FRACTION

DONE, DIVERGED, CUT, WAITING = "done", "diverged", "cut", "not run"
RISE = 1.1  # a run whose training loss ends so far above its lowest has diverged; both are means over a twentieth of the steps
TAIL = 4096  # bytes of a log in which its last step stands
# options of what happens in a run now and then, or at its end: left out where only speed is measured
LATER = "save-every keep-last keep-every average-from average-every eval-tasks eval-tasks-every sample-every".split()


@dataclass
class Outcome:
    status: str
    reason: str = ""
    result: dict | None = None  # result.json, once it is there


class Run:
    def __init__(self, settings: Settings, planned: Planned):
        self.settings, self.planned, self.name = settings, planned, planned.name
        self.folder = settings.output / "runs" / planned.name
        self.config = settings.output / "configs" / f"{planned.size.name}.json"

    # ---- the command

    def options(self) -> dict:
        """All options that the result depends on."""
        s, p = self.settings, self.planned
        wanted = {
            "steps": p.steps, "schedule-steps": p.steps, "warmup-steps": p.warmup_steps, "lr": f"{p.tuned.lr:.6g}",
            "final-lr-fraction": FINAL_FRACTION, "beta2": p.tuned.beta2, "batch-size": p.rows, "grad-accum": p.accumulation,
            "seq-len": s.shape.seq_len, "eval-every": p.steps, "eval-batches": s.val_rows // p.rows, "seed": p.seed,
        }  # fmt: skip
        return {"keep-last": 1, **wanted, **s.options}

    def command(self, folder: Path | None = None, options: dict | None = None) -> list[str]:
        """Continues from the newest checkpoint, if there is one."""
        s, output = self.settings, (folder or self.folder) / "run"
        place = ["--config", str(self.config), "--train-data", s.train.pattern, "--val-data", s.val.pattern, "--output",
                 str(output)]  # fmt: skip
        place += ["--tokenizer", s.tokenizer] if s.tokenizer else []
        again = ["--resume", "auto"] if any(output.glob("checkpoints/step_*")) else ["--overwrite"]
        return [*s.program, *place, *as_arguments(options or self.options()), *again]

    def measuring(self, folder: Path, steps: int) -> list[str]:
        """The same run for a few steps."""
        short = {"steps": steps, "schedule-steps": steps, "warmup-steps": 1, "eval-every": 0, "save": "off"}
        return self.command(folder, {**{name: value for name, value in self.options().items() if name not in LATER}, **short})

    def write_config(self) -> None:
        self.config.parent.mkdir(parents=True, exist_ok=True)
        if not self.config.is_file() or read_object(self.config) != self.planned.config:
            write_json(self.config, self.planned.config)

    # ---- what it depends on

    def key(self) -> dict:
        s = self.settings
        return {"model": self.planned.config, "options": self.options(), "build": [s.target, s.precision], "ranks": s.ranks,
                "train": s.train.content, "val": s.val.content, "tokenizer": s.train.tokenizer}  # fmt: skip

    def check_key(self) -> None:
        """Refuses to mix runs of two versions of the plan under one name."""
        path = self.folder / "key.json"
        if not path.is_file():
            return
        old, new = read_object(path), self.key()
        changed = [name for name in new if old.get(name) != json.loads(json.dumps(new[name]))]
        if changed:
            raise InputError(f"{self.folder}: was run with other settings ({', '.join(changed)}): give another \"output\", or "
                             "--again to remove such runs and begin them anew")  # fmt: skip

    def begin(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.write_config()
        write_json(self.folder / "key.json", self.key())

    # ---- how it ended

    def log(self) -> list[dict]:
        return read_log(self.folder / "run" / "log.jsonl")

    def reached(self) -> float:
        """The part of its steps that is done."""
        if (self.folder / "result.json").is_file():
            return 1.0
        return min(1.0, last_step(read_log(self.folder / "run" / "log.jsonl", TAIL)) / self.planned.steps)

    def outcome(self) -> Outcome:
        path = self.folder / "result.json"
        if path.is_file():
            result = read_object(path)
            return Outcome(result.get("status", DONE), result.get("reason", ""), result)
        steps = last_step(self.log())
        return Outcome(CUT, f"at step {steps} of {self.planned.steps}") if steps else Outcome(WAITING)

    def finish(self, code: int, seconds: float) -> Outcome:
        """Judges a run whose program has ended; writes result.json unless it can still go on."""
        log = self.log()
        status, reason = judge(log, self.planned.steps, code, self.planned.config["vocab_size"])
        if status == CUT:
            return Outcome(CUT, reason)
        s, p = self.settings, self.planned
        loss = last_value(log, "val_loss")
        result = {
            "name": self.name, "status": status, "reason": reason, "budget": p.budget.flops, "forecast": p.budget.forecast,
            "size": p.size.name, "layers": p.size.layers, "hidden_size": p.size.hidden_size, "seed": p.seed, "loss": loss,
            "tokens": p.tokens, "parameters": p.parts.count(s.count), "flops": p.flops, "count": s.count, "flops_rule": s.flops,
            "counts": p.counts(s.shape.seq_len), "steps": p.steps, "batch_tokens": p.batch_tokens, "lr": p.tuned.lr,
            "warmup_steps": p.warmup_steps, "beta2": p.tuned.beta2, "epochs": p.tokens / s.train.tokens,
            "train_seconds": sum(line["tokens"] > 0 and p.batch_tokens / line["tokens_per_second"] for line in log
                                 if line.get("tokens_per_second")), "seconds": seconds,
            "train": s.train.content, "val": s.val.content, "val_rows": s.val_rows, "tokenizer": s.train.tokenizer,
            "tasks": {line["task"]: line for line in log if "task" in line},
        }  # fmt: skip
        write_json(self.folder / "result.json", result)
        return Outcome(status, reason, result)


def read_log(path: Path, tail: int | None = None) -> list[dict]:
    """The lines of a log, or of its last `tail` bytes; half a line, which a kill may leave, is none."""
    if not path.is_file():
        return []
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - tail) if tail else 0)
        texts = file.read().decode("utf-8", errors="replace").splitlines()
    lines = []
    for text in texts:
        try:
            line = json.loads(text)
        except ValueError:
            continue
        lines += [line] if isinstance(line, dict) else []
    return lines


def last_step(log: list[dict]) -> int:
    return max((line["step"] for line in log if "loss" in line), default=0)


def last_value(log: list[dict], name: str) -> float | None:
    return next((line[name] for line in reversed(log) if name in line), None)


def judge(log: list[dict], steps: int, code: int, vocabulary: int) -> tuple[str, str]:
    """(status, reason) of a run whose program ended with that code."""
    reached, loss = last_step(log), last_value(log, "val_loss")
    skipped = sum("skipped" in line for line in log)
    losses = [line["loss"] for line in log if "loss" in line]
    if code and skipped:
        return DIVERGED, f"ended at step {reached} of {steps}, {skipped} steps skipped since loss or gradient were not finite"
    if code or reached < steps:
        return CUT, f"at step {reached} of {steps}"
    if loss is None or not math.isfinite(loss):
        return DIVERGED, "its validation loss is not finite"
    if loss > math.log(vocabulary):
        return DIVERGED, f"its validation loss of {loss:.3f} is worse than that of guessing, {math.log(vocabulary):.3f}"
    if any(value is None or not math.isfinite(value) for value in losses):
        return DIVERGED, "a training loss is not finite"
    return (DIVERGED, reason) if (reason := rise(losses)) else (DONE, "")


def rise(losses: list[float]) -> str:
    """Says that the training loss ended far above its lowest, and by more than chance; an empty text if it has not.

    By chance batches differ: the median difference of neighbours is 0.95 of their standard deviation, if that is normal.
    """
    window = max(1, len(losses) // 20)
    deviation = statistics.median(abs(a - b) for a, b in zip(losses, losses[1:])) / 0.95 if len(losses) > 1 else 0
    chance = 5 * deviation * math.sqrt(2 / window)  # of the difference of two means
    means = [sum(losses[i : i + window]) / window for i in range(0, len(losses) - window + 1, window)]
    lowest, last = min(means), sum(losses[-window:]) / window
    return f"its training loss rose from {lowest:.3f} to {last:.3f}" if last > max(RISE * lowest, lowest + chance) else ""
