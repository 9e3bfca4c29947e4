"""Losses of runs that follow a known scaling law, noise included, and the published measurements."""

import csv
import math
import pathlib

import numpy as np
import pytest

from llmscale.counting import Cost
from llmscale.parametric import Law
from llmscale.points import Points

ROOT = pathlib.Path(__file__).resolve().parents[2]
SIX = Cost([1.0], [6.0])
BUDGETS = np.geomspace(1e18, 1.6e19, 5)


def law(alpha=0.34, beta=0.28, A=406.4, B=410.7, E=1.69):
    return Law(np.array([math.log(A), math.log(B), math.log(E), alpha, beta]))


def grid(truth, budgets=BUDGETS, sizes=7, width=1.2, shift=0.0):
    """(budget, N, D) with `sizes` for each budget, from exp(-width) to exp(width) times the best, moved by `shift`, which may be
    one for each budget."""
    c = np.repeat(budgets, sizes)
    best = np.repeat([truth.best(SIX, budget)[0] for budget in budgets], sizes)
    shift = np.repeat(np.broadcast_to(shift, len(budgets)), sizes)
    n = best * np.exp(shift + np.tile(np.linspace(-width, width, sizes), len(budgets)))
    return c, n, c / (6 * n)


def points(truth, rng=None, noise=0.0, cost=SIX, **shape):
    c, n, d = grid(truth, **shape)
    return of(c, n, d, truth.loss(n, d) * (np.exp(noise * rng.standard_normal(len(c))) if noise else 1), cost)


def of(c, n, d, loss, cost=SIX):
    return Points([f"run {i}" for i in range(len(c))], c, c, d, n, np.asarray(loss), cost)


def measurements(name):
    """A published table. Neither file has a licence, so they are no part of the project: a folder shared/measurements beside it."""
    for folder in ROOT.parents:
        path = folder / "shared" / "measurements" / name
        if path.is_file():
            with open(path, newline="") as file:
                return list(csv.DictReader(file))
    return pytest.skip(f"no ../shared/measurements/{name}: published without a licence, and so not kept in the project")


def llama3():
    """133 points read off the Llama 3 paper's figure 2, by eric-czech/llama3_isoflop_extraction."""
    rows = measurements("llama3_figure2_isoflop.csv")
    c, d, loss = (
        np.array([float(row[name]) for row in rows]) for name in ("compute_budget", "training_tokens", "validation_loss")
    )
    return of(c, c / (6 * d), d, loss)


def chinchilla():
    """245 runs read off figure 4 of Hoffmann et al. 2022 by Besiroglu et al. (epoch-research/analyzing-chinchilla), less the five
    of the highest losses, as they do."""
    rows = measurements("chinchilla_figure4.csv")
    n, c, loss = (np.array([float(row[name]) for row in rows]) for name in ("Model Size", "Training FLOP", "loss"))
    keep = np.argsort(loss)[:-5]
    return of(c[keep], n[keep], c[keep] / (6 * n[keep]), loss[keep])
