#!/usr/bin/env python3
"""What a recipe costs on the cpu target: a mixture of four sources, ramps and stages against plain runs of the same shapes.

    python dev/bench/recipe.py --json dev/bench/results/DEVICE-COMMIT/recipe.json     # a minute or two
    python dev/bench/recipe.py --steps 4                                              # a quick look

The recipe has a stage for each shape of a step: a batch, twice that batch, rows of twice the length. Its plain runs have one
shape and one source. Both are runs of one process and take turns step by step, with batches, log line and all. Times are medians
over the steps of a stage without the first two; the cost is the recipe's sum over the shapes divided by that of the plain runs,
by the clock and by the time on processors, which other programs on the machine disturb less.
A stage's change (stages_follow, with the mixture's next span and new validation data) is timed by itself.
"""

import argparse
import ctypes
import json
import os
import pathlib
import sys
import tempfile
import time

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/support"), str(ROOT / "data")]
import badsteps  # noqa: E402
import llmc  # noqa: E402
import machine  # noqa: E402
import trainrun  # noqa: E402

SHAPES = {"batch": (8, 256, 1), "twice the batch": (8, 256, 2), "twice the length": (4, 512, 2)}  # rows, tokens of a row, micro-batches
SOURCES = ("web", "code", "math", "books")
GOAL = 1.01  # a recipe's time to that of plain runs


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default=str(ROOT / "configs" / "tiny.json"), help="config.json (default: configs/tiny.json)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads (default: one per core)")
    parser.add_argument("--steps", type=int, default=60, help="timed steps of each shape (default: %(default)s)")
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

    def begin(self, name, **more):
        given = dict(config=self.options.config, threads=self.options.threads, save="off", checksum_every=0, overwrite=True,
                     output=self.work.folder / name, lr=None, warmup_steps=None, **more)  # fmt: skip
        return badsteps.Stepper(llmc.load("bf16"), self.work, **given)

    def recipe_run(self):
        return self.begin("recipe", recipe=self.recipe, **dict.fromkeys("train_data steps batch_size seq_len".split()))

    def plain_run(self, shape):
        B, T, micro_batches = SHAPES[shape]
        return self.begin("plain", train_data=self.work.data / "web_*.bin", batch_size=B, seq_len=T, grad_accum=micro_batches, steps=self.steps)


def now():
    return np.array([time.perf_counter(), time.process_time()])


def timed_step(run):
    began = now()
    run.step()
    return now() - began


def measure_shape(place, recipe, shape):
    """Seconds by the clock and on processors: of the change to the shape's stage, and the median step of each side."""
    plain, times = place.plain_run(shape), {"recipe": [], "plain": []}
    began = now()
    recipe.check(recipe.lib.stages_follow(recipe.trainer, ctypes.byref(recipe.error)))
    change = now() - began
    for i in range(place.steps):
        sides = [("recipe", recipe), ("plain", plain)]
        for side, run in sides[:: 1 if i % 2 == 0 else -1]:
            times[side].append(timed_step(run))
    plain.close()
    return {"change": change.tolist(), **{side: np.median(found[2:], axis=0).tolist() for side, found in times.items()}}


def main():
    options = arguments()
    with tempfile.TemporaryDirectory() as folder:
        place = Place(folder, options)
        recipe = place.recipe_run()
        found = {shape: measure_shape(place, recipe, shape) for shape in SHAPES}
        recipe.close()
    total = {side: sum(np.array(shape[side]) for shape in found.values()) for side in ("recipe", "plain")}
    ratios = (total["recipe"] / total["plain"]).tolist()
    for shape, times in found.items():
        clock = " ".join(f"{side} {1000 * times[side][0]:.2f}" for side in ("recipe", "plain"))
        print(f"{shape:18} ms a step by the clock: {clock}; the change to it {1000 * times['change'][0]:.3f} ms")
    print(f"recipe to plain: {ratios[0]:.4f} by the clock, {ratios[1]:.4f} on processors (goal: below {GOAL})")
    if options.json:
        name = os.path.relpath(options.config, ROOT)
        result = {"machine": machine.describe(), "options": vars(options) | {"config": name}, "seconds": found, "ratios": ratios}
        pathlib.Path(options.json).parent.mkdir(parents=True, exist_ok=True)
        pathlib.Path(options.json).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
