"""Losses of runs that follow a known scaling law, noise included, and the published measurements."""

import math
import pathlib

import numpy as np
import pytest

import scaling_published
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
    """The folder of a published table: shared/measurements beside the project, which has none of them, as they state no licence."""
    for folder in ROOT.parents:
        if (folder / "shared" / "measurements" / name).is_file():
            return folder / "shared" / "measurements"
    return pytest.skip(f"no ../shared/measurements/{name}: published without a licence, and so not kept in the project")


def llama3():
    return scaling_published.llama3_points(measurements("llama3_figure2_isoflop.csv"))


def chinchilla():
    return scaling_published.chinchilla_points(measurements("chinchilla_figure4.csv"))
