"""What the herd's pretraining runs logged, by the stages of their recipe."""

from dataclasses import dataclass, field
from pathlib import Path

from llmdata.page import is_number
from llmround.charts import Points
from llmround.report import read_lines
from llmscale.counting import EXACT, Parts, count_parts, flops_per_token

NEEDLE = "exact_match"


@dataclass
class End:
    """The end of a stage."""

    step: int
    tokens: int
    loss: float | None = None  # validation loss over all sources, nats per token
    losses: dict[str, float] = field(default_factory=dict)  # by source
    averaged: float | None = None  # of the mean of the weights
    needles: dict[int, dict[float, float]] = field(default_factory=dict)  # by length and depth, share that is found
    accuracy: dict[str, float] = field(default_factory=dict)  # of other tasks

    def found(self, length: int) -> float | None:
        cells = self.needles.get(length)
        return sum(cells.values()) / len(cells) if cells else None


class HerdRun:
    """`stages` are those of the recipe, in order; `ends` has those that the run has ended."""

    def __init__(self, name: str, folder: Path, config: dict | None, stages: list[dict]):
        self.name, self.folder, self.log = name, folder, read_lines(folder / "log.jsonl")
        self.stages = [stage["name"] for stage in stages]
        self.parts: Parts | None = count_parts(config) if config else None
        self.lengths = _lengths(stages)
        steps = {line["step"]: line for line in self.log if "loss" in line and "stage" in line}
        self.tokens = {step: line["tokens"] for step, line in steps.items()}
        self.ends = {line["stage"]: End(step, line["tokens"]) for step, line in sorted(steps.items())}
        self.sources = steps[max(steps)]["sources"] if steps else {}
        for line in self.log:
            self._read(line)
        self.ends = {name: end for name, end in self.ends.items() if end.loss is not None}

    def _read(self, line: dict) -> None:
        for end in self.ends.values():
            if line.get("step") != end.step:
                continue
            if is_number(line.get("val_loss")):
                end.loss, end.losses = line["val_loss"], line.get("val_losses", {})
            end.averaged = line.get("val_loss_averaged", end.averaged)
            if "cells" in line:
                end.needles[line["length"]] = {cell["depth"]: cell[NEEDLE] for cell in line["cells"]}
            elif "task" in line and is_number(line.get("acc")):
                end.accuracy[line["task"]] = line["acc"]

    def end(self, stage: str) -> End | None:
        return self.ends.get(stage)

    def before(self, stage: str) -> End | None:
        """The end of the stage before."""
        place = self.stages.index(stage)
        return self.end(self.stages[place - 1]) if place else None

    def done(self) -> bool:
        return self.stages[-1] in self.ends

    def training(self) -> Points:
        return sorted({self.tokens[line["step"]]: line["loss"] for line in self.log if is_number(line.get("loss"))}.items())

    def validation(self, source: str) -> Points:
        lines = [line for line in self.log if source in line.get("val_losses", {}) and line["step"] in self.tokens]
        return sorted({self.tokens[line["step"]]: line["val_losses"][source] for line in lines}.items())

    def flops(self, until: str | None = None) -> float:
        """Of training up to the end of a stage, or so far."""
        total, before = 0.0, 0
        for name, end in self.ends.items():
            total += (end.tokens - before) * flops_per_token(self.parts, self.lengths[name], EXACT, "all")
            before = end.tokens
            if name == until:
                break
        return total

    def rates(self) -> list[float]:
        """Tokens per second of each step."""
        return [line["tokens_per_second"] for line in self.log if is_number(line.get("tokens_per_second"))]


def _lengths(stages: list[dict]) -> dict[str, int]:
    """Tokens in a row, which a stage that says nothing has from the one before."""
    lengths, last = {}, 0
    for stage in stages:
        last = lengths[stage["name"]] = stage.get("seq_len", last)
    return lengths
