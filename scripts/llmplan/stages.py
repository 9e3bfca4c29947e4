"""The stages of a recipe: what each takes by itself, with which options it fits, and the options with which all of them do."""

import argparse
import json
import os
import tempfile
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path

from llmdata.text_file import read_json

from .choices import GIB, Choice, Plan
from .library import call_text, find_function
from .tables import WIDTH, describe, gib, say, seconds

LONGEST_TEXT = 1 << 22  # of a timeline of as many stages and sources as a recipe may have
MODES = {"activations": ("device", "host"), "optimizer_state": ("device", "host")}  # that cost time, but no bit


@dataclass(frozen=True)
class Stage:
    name: str
    seq_len: int
    batch_size: int  # rows of a micro-batch
    tokens_per_step: int
    steps: int


@dataclass(frozen=True)
class Way:
    """What a stage takes with one choice of options."""

    choice: Choice
    modes: tuple[str, ...]  # values of MODES

    def words(self) -> str:
        more = [f" --{name.replace('_', '-')} {value}" for (name, all_values), value in zip(MODES.items(), self.modes)
                if value != all_values[0]]  # fmt: skip
        return describe(self.choice).split(" --batch-size")[0] + "".join(more)

    def key(self) -> tuple:
        c = self.choice
        return (c.zero, c.group, c.recompute, *self.modes)


def read_stages(path: Path, ranks: int) -> list[Stage]:
    timeline = call_text(find_function("recipe_timeline_text"), LONGEST_TEXT, os.fsencode(path), ranks)
    return [Stage(*(stage[field.name] for field in fields(Stage))) for stage in json.loads(timeline)["stages"]]


class StagePlan:
    """options: of plan.py; --rows, --seq-len, --tokens-per-step and the MODES are the stages' own."""

    def __init__(self, options: argparse.Namespace):
        self.options, self.stages = options, read_stages(options.recipe, options.gpus[0])
        config = read_json(options.config / "config.json" if options.config.is_dir() else options.config)
        longest = max(stage.seq_len for stage in self.stages)
        self.folder = tempfile.TemporaryDirectory()
        self.config = Path(self.folder.name) / "config.json"  # RoPE is scaled by then, as train_llama3 checks
        if isinstance(config, dict) and isinstance(config.get("max_position_embeddings"), int):
            config["max_position_embeddings"] = max(longest, config["max_position_embeddings"])
        self.config.write_text(json.dumps(config))
        self.ways = [self.of_stage(stage) for stage in self.stages]

    def plans(self, stage: Stage):
        """(values of MODES, Plan) of each choice of modes."""
        for modes in product(*MODES.values()):
            own = dict(zip(MODES, modes), seq_len=stage.seq_len, tokens_per_step=stage.tokens_per_step, rows=[stage.batch_size],
                       config=self.config)  # fmt: skip
            yield modes, Plan(argparse.Namespace(**vars(self.options) | own))

    def of_stage(self, stage: Stage) -> list[Way]:
        found = []
        for modes, self.plan in self.plans(stage):
            found += [Way(choice, modes) for choice in self.plan.choices(self.options.gpus[0])]
        return found

    def best_of(self, ways: list[Way]) -> Way | None:
        """The fastest that fits; among equals that with least memory on the host, then on the GPU."""
        fitting = [way for way in ways if way.choice.fits]
        return min(fitting, key=lambda w: (round(w.choice.time.step, 4), w.choice.host_bytes, w.choice.bytes), default=None)

    def whole(self) -> dict | None:
        """The options with which the whole run fits and takes least time: memory is planned once, for the most that any stage needs."""
        found = []
        for ways in zip(*self.ways):  # of the same options in each stage
            assert len({way.key() for way in ways}) == 1
            c, shapes = ways[0].choice, [[s.batch_size, s.seq_len, way.choice.micro_batches] for s, way in zip(self.stages, ways)]
            own = dict(zip(MODES, ways[0].modes), rows=shapes)
            shape = (c.rows, self.stages[0].seq_len, c.recompute, c.zero, c.group, c.gpus // c.group)
            memory = self.plan.planner.memory(*shape, **own)
            time = sum(s.steps * way.choice.time.step for s, way in zip(self.stages, ways))
            if sum(memory.values()) <= self.plan.budget:
                found.append({"options": ways[0].words(), "memory": memory, "bytes": sum(memory.values()),
                              "host_bytes": self.plan.planner.host_bytes(*shape, **own), "predicted_seconds": time})  # fmt: skip
        return min(found, key=lambda way: (way["predicted_seconds"], way["host_bytes"], way["bytes"]), default=None)


def row_of(stage: Stage, way: Way) -> dict:
    c = way.choice
    return {"stage": stage.name, "seq_len": stage.seq_len, "rows": stage.batch_size, "micro_batches": c.micro_batches,
            "steps": stage.steps, "fits": c.fits, "options": way.words(), "memory": c.memory, "bytes": c.bytes,
            "host_bytes": c.host_bytes, "predicted_step_seconds": c.time.step}  # fmt: skip


def shown(plan: StagePlan) -> list[dict]:
    """Of each stage the best that fits, or what takes least memory."""
    return [row_of(stage, plan.best_of(ways) or min(ways, key=lambda w: w.choice.bytes)) for stage, ways in zip(plan.stages, plan.ways)]


def stages_as_json(plan: StagePlan) -> dict:
    o = plan.options
    return {"recipe": str(o.recipe), "config": str(o.config), "gpu": o.gpu, "gpus": o.gpus[0], "budget_bytes": int(plan.plan.budget),
            "stages": shown(plan), "run": plan.whole()}  # fmt: skip


def print_stages(plan: StagePlan) -> None:
    o, rows, whole = plan.options, shown(plan), plan.whole()
    print(f"{o.recipe}: {len(rows)} stages of {o.config} on {o.gpus[0]} {o.gpu}")
    say(f"Of each stage the fastest choice that fits, by prediction; GiB of each GPU (at most {plan.plan.budget / GIB:.1f}) and of "
        "its host's page-locked memory")  # fmt: skip
    print()
    width = max(5, *(len(row["stage"][:24]) for row in rows))
    print(f"{'stage':{width}} {'tokens':>7} {'rows x M':>9} {'GiB':>7} {'host':>7} {'s a step':>9}")
    for row in rows:
        batch = f"{row['rows']}x{row['micro_batches']}"
        fits = "" if row["fits"] else "does not fit: "
        host = gib(row["host_bytes"]) if row["host_bytes"] else "-"
        print(f"{row['stage'][:24]:{width}} {row['seq_len']:7d} {batch:>9} {gib(row['bytes']):>7} {host:>7} "
              f"{seconds(row['predicted_step_seconds']):>9}")  # fmt: skip
        print(f"  {fits}{row['options']}"[:WIDTH])
    print()
    if whole:
        print(f"The whole run, planned once for the most of each: {gib(whole['bytes'])} GiB"
              + (f", {gib(whole['host_bytes'])} of the host" if whole["host_bytes"] else ""))  # fmt: skip
        print(f"  {whole['options']}\n  prediction: {whole['predicted_seconds'] / 86400:.1f} days")
    else:
        print("No choice of options fits all stages.")
