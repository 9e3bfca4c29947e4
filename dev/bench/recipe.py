#!/usr/bin/env python3
"""What a recipe costs on the cpu target: a mixture of four sources, ramps and stages against plain runs of the same shapes.

    python dev/bench/recipe.py --json dev/bench/results/DEVICE-COMMIT/recipe.json     # a quiet machine; a few minutes
    python dev/bench/recipe.py --rounds 1 --steps 4                                   # a quick look

The recipe has a stage for each shape of a step: a batch, twice that batch, rows of twice the length. Its plain runs have one
shape each and one source. They take turns, round by round. A time of a step is the median over the steps of a turn (without the
first two of each shape), then over the rounds; the cost is the recipe's sum over the shapes divided by that of the plain runs.
A stage's change (stages_follow, with the mixture's next span and new validation data) is timed by itself, in one process.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/support"), str(ROOT / "data")]
import llmc  # noqa: E402
import machine  # noqa: E402
import reciperuns  # noqa: E402
import trainrun  # noqa: E402

SHAPES = {"batch": (8, 256, 1), "twice the batch": (8, 256, 2), "twice the length": (4, 512, 2)}  # rows, tokens of a row, micro-batches
SOURCES = ("web", "code", "math", "books")
GOAL = 1.01  # a recipe's time to that of plain runs


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default=str(ROOT / "configs" / "tiny.json"), help="config.json (default: configs/tiny.json)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads (default: one per core)")
    parser.add_argument("--steps", type=int, default=12, help="timed steps of each shape in a turn (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side (default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="also write the result to this file")
    return parser.parse_args()


def stage(name, steps, weights):
    B, T, micro_batches = SHAPES[name]
    mixture = [{"source": s, "weight": w, "weight_at_end": v} for s, w, v in zip(SOURCES, weights, reversed(weights))]
    return {"name": name, "steps": steps, "seq_len": T, "batch_size": B, "tokens_per_step": B * T * micro_batches, "mixture": mixture}


class Place:
    def __init__(self, folder, options):
        self.work, self.options = trainrun.Workplace(folder), options
        rng = np.random.default_rng(0)
        self.steps = options.steps + 2
        for name in SOURCES:
            for shard in range(2):
                self.work.write(f"{name}_{shard}.bin", trainrun.documents(rng, 100_000))
        sources = {name: {"train": str(self.work.data / f"{name}_*.bin")} for name in SOURCES}
        sources["web"]["val"] = str(self.work.data / "val_*.bin")
        self.work.write("val_000.bin", trainrun.documents(rng, 20_000))
        recipe = {"name": "bench", "sources": sources, "learning_rate": [{"shape": "constant", "from": 1e-3}],
                  "stages": [stage(name, self.steps, [5, 2, 2, 1]) for name in SHAPES]}  # fmt: skip
        self.recipe = self.work.folder / "recipe.json"
        self.recipe.write_text(json.dumps(recipe, indent=1))

    def options_of(self, **more):
        return dict(config=self.options.config, threads=self.options.threads, save="off", checksum_every=0, overwrite=True) | more

    def times(self, **more):
        """{stage or None: seconds of each step but the first two}"""
        command = [ROOT / "build/cpu/train_llama3", *self.work.arguments(**self.options_of(**more))]
        done = subprocess.run([str(part) for part in command], cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"recipe: {' '.join(map(str, command))} ended with {done.returncode}:\n{done.stderr[-2000:]}")
        seconds, before = {}, 0
        for line in (line for line in self.work.log() if "loss" in line):
            seconds.setdefault(line.get("stage"), []).append((line["tokens"] - before) / line["tokens_per_second"])
            before = line["tokens"]
        return {name: times[2:] for name, times in seconds.items()}

    def of_recipe(self):
        none = dict.fromkeys("train_data steps batch_size seq_len warmup_steps lr".split())
        return self.times(recipe=self.recipe, **none)

    def of_plain_runs(self):
        found = {}
        for name, (B, T, micro_batches) in SHAPES.items():
            shape = dict(batch_size=B, seq_len=T, grad_accum=micro_batches, steps=self.steps)
            found[name] = self.times(train_data=self.work.data / "web_*.bin", eval_every=0, **shape)[None]
        return found

    def changes(self):
        """Seconds of the change to each stage but the first, and of the median step of the stage before."""
        none = dict.fromkeys("train_data steps batch_size seq_len warmup_steps lr".split())
        stepper = reciperuns.RecipeStepper(llmc.load("bf16"), self.work, **self.options_of(recipe=self.recipe, **none))
        found, steps = [], []
        for i in range(self.steps * len(SHAPES)):
            began = time.perf_counter()
            stepper.follow()
            followed = time.perf_counter()
            stepper.train()
            if i and i % self.steps == 0:
                found.append({"change": followed - began, "step before": statistics.median(steps[2:])})
                steps = []
            steps.append(time.perf_counter() - followed)
        stepper.close()
        return found


def main():
    options = arguments()
    with tempfile.TemporaryDirectory() as folder:
        place = Place(folder, options)
        rounds = {"recipe": [], "plain": []}
        for number in range(options.rounds):
            sides = [("recipe", place.of_recipe), ("plain", place.of_plain_runs)]
            for side, measure in sides[:: 1 if number % 2 == 0 else -1]:
                rounds[side].append({name: statistics.median(times) for name, times in measure().items()})
            ratio = sum(rounds["recipe"][-1].values()) / sum(rounds["plain"][-1].values())
            print(f"round {number + 1}: recipe to plain {ratio:.4f}", flush=True)
        changes = place.changes()
    medians = {side: {name: statistics.median(r[name] for r in found) for name in SHAPES} for side, found in rounds.items()}
    ratio = sum(medians["recipe"].values()) / sum(medians["plain"].values())
    for name in SHAPES:
        print(f"{name:18} recipe {1000 * medians['recipe'][name]:8.2f} ms a step, plain {1000 * medians['plain'][name]:8.2f} ms")
    print(f"recipe to plain: {ratio:.4f} (goal: below {GOAL})")
    for change in changes:
        print(f"change of stage: {1000 * change['change']:.2f} ms, a step before it {1000 * change['step before']:.2f} ms")
    if options.json:
        result = {"machine": machine.describe(), "options": vars(options), "rounds": rounds, "seconds": medians, "ratio": ratio, "changes": changes}
        pathlib.Path(options.json).parent.mkdir(parents=True, exist_ok=True)
        pathlib.Path(options.json).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
