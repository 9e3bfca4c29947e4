#!/usr/bin/env python3
"""Fits scripts/scaling.py's laws to two published sets of runs, and keeps what comes out beside what was published.

    dev/bench/scaling_published.py FOLDER                # the tables
    dev/bench/scaling_published.py FOLDER --write        # and dev/bench/results/scaling/published.json

FOLDER holds both sets, which state no licence and so are no part of this repository:
  llama3_figure2_isoflop.csv   133 points of the Llama 3 paper's figure 2 (eric-czech/llama3_isoflop_extraction,
                               isoflops_points.csv)
  chinchilla_figure4.csv       245 runs of figure 4 of Hoffmann et al. 2022 (epoch-research/analyzing-chinchilla,
                               data/svg_extracted_data.csv); the five highest losses are left out, as there
"""

import argparse
import csv
import json
import pathlib
import sys

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from llmscale.counting import Cost  # noqa: E402
from llmscale.disagreement import compare  # noqa: E402
from llmscale.fitted import finite  # noqa: E402
from llmscale.isoflop import fit_isoflop  # noqa: E402
from llmscale.parametric import SQUARES, fit_parametric  # noqa: E402
from llmscale.points import Points  # noqa: E402

OUTPUT = ROOT / "dev/bench/results/scaling/published.json"
LARGEST = 3.8e25  # FLOPs of the 405B model
PUBLISHED = {
    "llama3": {
        "alpha": 0.537,
        "A": 0.299,
        "tokens at 3.8e25": 16.1e12,
        "interval of 95 %": [9.3e12, 19.9e12],
        "of alpha": [0.497, 0.553],
    },
    "chinchilla": {
        "objective": 0.00101827402,
        "A": 477.83,
        "B": 2143.4,
        "E": 1.81722,
        "alpha": 0.34731,
        "beta": 0.36717,
        "errors": {"A": 125, "B": 1293, "E": 0.026, "alpha": 0.015, "beta": 0.021},
    },
}


def read(path: pathlib.Path, *names: str) -> list[np.ndarray]:
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    return [np.array([float(row[name]) for row in rows]) for name in names]


def points(flops: np.ndarray, parameters: np.ndarray, tokens: np.ndarray, loss: np.ndarray) -> Points:
    return Points([f"run {i}" for i in range(len(loss))], flops, flops, tokens, parameters, loss, Cost([1.0], [6.0]))


def llama3_points(folder: pathlib.Path) -> Points:
    flops, tokens, loss = read(folder / "llama3_figure2_isoflop.csv", "compute_budget", "training_tokens", "validation_loss")
    return points(flops, flops / (6 * tokens), tokens, loss)


def chinchilla_points(folder: pathlib.Path) -> Points:
    parameters, flops, loss = read(folder / "chinchilla_figure4.csv", "Model Size", "Training FLOP", "loss")
    keep = np.argsort(loss)[:-5]
    return points(flops[keep], parameters[keep], flops[keep] / (6 * parameters[keep]), loss[keep])


def llama3(folder: pathlib.Path) -> dict:
    runs, rng = llama3_points(folder), np.random.default_rng(1)
    parabolas, law = fit_isoflop(runs, rng), fit_parametric(runs, rng)
    squares = fit_parametric(runs, rng, 0, SQUARES)
    told = compare(runs, parabolas, law, LARGEST, rng)
    return {
        "alpha": parabolas.tokens.exponent,
        "A": parabolas.tokens.factor,
        "tokens at 3.8e25": parabolas.tokens.at(LARGEST),
        "interval of 95 %": parabolas.tokens.interval_at(LARGEST, 0.95),
        "of alpha": parabolas.tokens.exponent_interval(0.95),
        "parametric law": {
            **law.law.named,
            "objective": law.objective,
            "tokens at 3.8e25": law.law.best(runs.cost, LARGEST)[1],
        },
        "by squares": {**squares.law.named, "tokens at 3.8e25": squares.law.best(runs.cost, LARGEST)[1]},
        "disagreement": told.text(),
    }


def chinchilla(folder: pathlib.Path) -> dict:
    law = fit_parametric(chinchilla_points(folder), np.random.default_rng(1), 1000)
    draws = np.hstack([np.exp(law.draws[:, :3]), law.draws[:, 3:]]).std(axis=0)
    return {"objective": law.objective, **law.law.named, "errors": dict(zip(("A", "B", "E", "alpha", "beta"), draws)),
            "exponent of tokens": law.law.token_exponent}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path, metavar="FOLDER", help="folder with both sets")
    parser.add_argument("--write", action="store_true", help=f"write {OUTPUT.relative_to(ROOT)}")
    options = parser.parse_args()
    found = {"llama3": llama3(options.folder), "chinchilla": chinchilla(options.folder)}
    text = json.dumps(finite({name: {"found": found[name], "published": PUBLISHED[name]} for name in found}), indent=1)
    print(text)
    if options.write:
        OUTPUT.parent.mkdir(parents=True, exist_ok=True)
        OUTPUT.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
