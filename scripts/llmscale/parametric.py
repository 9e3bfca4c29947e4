"""L(N, D) = E + A / N^alpha + B / D^beta (approach 3 of Hoffmann et al. 2022; as corrected by Besiroglu et al. 2024).

The objective is the sum of the Huber loss, delta = 1e-3, of log L over all runs. For given exponents the law is linear in E, A
and B, so a grid over (alpha, beta) with linear least squares in between (variable projection) finds the valley; the best points
of the grid are then refined in all five parameters, (log A, log B, log E, alpha, beta), until the gradient vanishes.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares
from scipy.special import huber

from llmdata.errors import InputError

from .counting import Cost
from .points import Points
from .resample import fit_rows, noise_draws, studentized

DELTA, SQUARES = 1e-3, 1e3
PARAMETERS = 5
GRID = np.linspace(0.05, 1.5, 30)
STARTS = 6  # points of the grid that are refined
DRAWS = 300
NOTHING = 1e-4  # a term that makes less of the loss than this share tells nothing
MANY = 60  # runs


@dataclass(frozen=True)
class Law:
    """theta: log A, log B, log E, alpha, beta; A and B in the units of N and D, which are counts."""

    theta: np.ndarray

    @property
    def named(self) -> dict[str, float]:
        a, b, e = (float(math.exp(min(700, value))) for value in self.theta[:3])
        return {"E": e, "A": a, "B": b, "alpha": float(self.theta[3]), "beta": float(self.theta[4])}

    def loss(self, parameters, tokens):
        return np.exp(log_loss(self.theta, np.log(parameters), np.log(tokens)))

    def best(self, cost: Cost, budget: float) -> tuple[float, float, float]:
        """(N, D, loss) of the lowest loss that the budget buys."""
        n, loss = optimum(self.theta[None], cost, budget)
        return math.exp(n[0]), budget / math.exp(float(cost.log_flops(n[0]))), float(loss[0])

    def missing(self, points: Points) -> list[str]:
        """The terms of the law that these runs do not show."""
        parts = np.exp(log_terms(self.theta, np.log(points.parameters), np.log(points.tokens))) / points.loss
        return [name for name, share in zip(("A / N^alpha", "B / D^beta", "E"), parts.max(axis=1)) if share < 10 * NOTHING]

    @property
    def size_exponent(self) -> float:
        """Of N*(C) where FLOPs are proportional to N D."""
        return float(self.theta[4] / (self.theta[3] + self.theta[4]))

    @property
    def token_exponent(self) -> float:
        return 1 - self.size_exponent


@dataclass
class Parametric:
    law: Law
    objective: float  # sum of the Huber loss of log L
    draws: np.ndarray  # draws x 5
    noise: float  # standard deviation of log L about the law


def log_terms(theta: np.ndarray, n: np.ndarray, d: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logarithms of A / N^alpha, B / D^beta and E at log N, log D; theta may have leading axes, each of its rows for all n and d."""
    t = theta[..., None, :] if theta.ndim > 1 else theta
    return t[..., 0] - t[..., 3] * n, t[..., 1] - t[..., 4] * d, t[..., 2] + 0 * n


def log_loss(theta: np.ndarray, n: np.ndarray, d: np.ndarray) -> np.ndarray:
    return functools.reduce(np.logaddexp, log_terms(theta, n, d))


def jacobian(theta: np.ndarray, n: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Of log_loss: ... x points x 5."""
    whole = log_loss(theta, n, d)
    a, b, e = (np.exp(term - whole) for term in log_terms(theta, n, d))
    return np.stack([a, b, e, -a * n, -b * d], axis=-1)


def objective(theta: np.ndarray, points: Points, delta: float = DELTA) -> float:
    return float(huber(delta, log_loss(theta, np.log(points.parameters), np.log(points.tokens)) - np.log(points.loss)).sum())


# ---- the fit


def project(points: Points) -> np.ndarray:
    """theta for each point of the grid, with the best E, A and B by least squares of the relative error. One that comes out as 0
    or less is made next to nothing, since theta has its logarithm."""
    alpha, beta = (axis.ravel() for axis in np.meshgrid(GRID, GRID))
    n, d = np.log(points.parameters), np.log(points.tokens)
    shift_n, shift_d = n.mean(), d.mean()  # so that no column is tiny
    terms = [np.exp(-alpha[:, None] * (n - shift_n)), np.exp(-beta[:, None] * (d - shift_d)), np.ones((len(alpha), len(n)))]
    columns = np.stack(terms, axis=-1) / points.loss[:, None]
    found = np.linalg.pinv(columns, rcond=1e-10).sum(axis=-1)  # of the equations columns * found = 1
    a, b, e = np.log(np.maximum(found, NOTHING * found.max(axis=1, keepdims=True))).T
    return np.stack([a + alpha * shift_n, b + beta * shift_d, e, alpha, beta], axis=1)


def starts(points: Points, delta: float = DELTA) -> list[np.ndarray]:
    """The best points of the grid."""
    found = project(points)
    losses = huber(delta, log_loss(found, np.log(points.parameters), np.log(points.tokens)) - np.log(points.loss)).sum(axis=1)
    return list(found[np.argsort(losses)[:STARTS]])


def refine(theta: np.ndarray, points: Points, delta: float = DELTA) -> np.ndarray:
    n, d, y = np.log(points.parameters), np.log(points.tokens), np.log(points.loss)
    done = least_squares(lambda t: log_loss(t, n, d) - y, theta, lambda t: jacobian(t, n, d), loss="huber", f_scale=delta,
                         x_scale="jac", xtol=1e-14, ftol=1e-14, gtol=1e-14, max_nfev=500)  # fmt: skip
    return done.x


def check_spread(points: Points) -> None:
    if len(points) <= PARAMETERS + 1:
        raise InputError(f"{points.source}: {len(points)} finished runs, expected at least {PARAMETERS + 2} for a law of {PARAMETERS} "
                         "parameters: add sizes or budgets")  # fmt: skip
    for name, values in (("parameters", points.parameters), ("tokens", points.tokens)):
        if values.max() < 2 * values.min():
            raise InputError(f"{points.source}: {name}: all runs lie within a factor of 2, expected a wider range for the law's "
                             "exponent: add larger or smaller ones")


def fit_parametric(points: Points, rng: np.random.Generator, draws: int = DRAWS, delta: float = DELTA) -> Parametric:
    """`delta` is the relative error from which the Huber loss counts a run by its error, not by the square; SQUARES: never."""
    check_spread(points)
    refined = [refine(theta, points, delta) for theta in starts(points, delta)]
    best = min(refined, key=lambda theta: objective(theta, points, delta))
    n, d, y = np.log(points.parameters), np.log(points.tokens), np.log(points.loss)
    residuals = y - log_loss(best, n, d)
    noise = math.sqrt(np.sum(residuals**2) / (len(points) - PARAMETERS))
    drawn = _draw(rng, best, (n, d, y), draws, delta) if draws else np.empty((0, PARAMETERS))
    return Parametric(Law(best), objective(best, points, delta), drawn, noise)


def _draw(rng: np.random.Generator, best: np.ndarray, logs: tuple, draws: int, delta: float) -> np.ndarray:
    """Fits of other draws of the noise. Many runs are drawn themselves, with replacement, whatever the noise of each; few runs
    keep their places, and residuals are drawn, as if all had the same noise."""
    n, d, y = logs
    count = len(n)

    def fit(losses, times):
        return fit_rows(best, losses, lambda theta: (log_loss(theta, n, d), jacobian(theta, n, d)), times, delta)

    if count >= MANY:
        times = rng.multinomial(count, np.full(count, 1 / count), size=draws)
        return fit(np.tile(y, (draws, 1)), times)
    residuals = y - log_loss(best, n, d)
    slopes = jacobian(best, n, d)
    q, _ = np.linalg.qr(slopes / np.linalg.norm(slopes, axis=0))
    own = studentized(residuals, np.sum(q**2, axis=1), float(np.mean(np.abs(residuals) > delta)))
    noise = noise_draws(rng, own, count - PARAMETERS, draws, count)
    return fit(log_loss(best, n, d) + noise, np.ones(count))


# ---- the optimum of a budget


def optimum(theta: np.ndarray, cost: Cost, budget: float) -> tuple[np.ndarray, np.ndarray]:
    """(log N, loss) at the lowest loss of a budget, for each row of theta: a grid over log N, refined four times."""
    low, high = np.full(len(theta), math.log(1e2)), np.full(len(theta), math.log(1e15))
    for _ in range(5):
        grid = low[:, None] + (high - low)[:, None] * np.linspace(0, 1, 41)
        values = log_loss(theta, grid, math.log(budget) - cost.log_flops(grid))
        place = values.argmin(axis=1)
        row = np.arange(len(theta))
        best = grid[row, place]
        low, high = grid[row, np.maximum(0, place - 1)], grid[row, np.minimum(40, place + 1)]
    return best, np.exp(values[row, place])
