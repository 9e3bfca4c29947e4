"""Draws of noise, for intervals.

A sweep has few runs, and its residuals are smaller than the noise, since the fit has followed it. So a draw takes residuals at
random, each enlarged by what the fit took from it (1/sqrt(1 - leverage)), and scales all by sqrt(k / chi2_k), k the degrees of
freedom that are left: the noise is only known as well as k residuals tell. For straight fits with normal noise this is Student's
interval.
"""

from collections.abc import Callable

import numpy as np
from scipy.special import huber

SEED = 1  # of the draws, unless another is given: the same points have the same intervals
LEVEL = 0.9  # of every interval, unless the caller wants another


def studentized(residuals: np.ndarray, leverage: np.ndarray, absolute: float = 0.0) -> np.ndarray:
    """Residuals of the noise's own size, with mean 0. `absolute` is the share of them that the fit weighs by their size, not by
    its square: such a fit passes right through as many points as it has parameters, and takes twice as much from the residuals."""
    enlarged = residuals / np.clip(1 - leverage, 0.05, None) ** (0.5 + 0.5 * absolute)
    return enlarged - enlarged.mean()


def noise_draws(rng: np.random.Generator, residuals: np.ndarray, freedom: int, draws: int, count: int) -> np.ndarray:
    """draws x count of noise."""
    scale = np.sqrt(freedom / rng.chisquare(freedom, size=(draws, 1)))
    return rng.choice(residuals, size=(draws, count)) * scale


def fit_rows(start: np.ndarray, rows: np.ndarray, model: Callable, times: np.ndarray, delta: float = np.inf,
             steps: int = 50) -> np.ndarray:  # fmt: skip
    """Fits a model to each row, all at once from `start`: Levenberg-Marquardt, Huber losses as reweighted squares. model(theta)
    gives its values and their slopes, rows x points and rows x points x parameters; each point counts `times`."""
    theta = np.tile(start, (len(rows), 1))
    damping, identity = np.full(len(rows), 1e-3), np.eye(len(start))
    values, slopes = model(theta)
    residuals = values - rows
    cost = (times * huber(delta, residuals)).sum(axis=1)
    for _ in range(steps):
        weighted = slopes * (times * np.minimum(1, delta / np.maximum(np.abs(residuals), 1e-300)))[..., None]
        gradient = np.einsum("kpi,kp->ki", weighted, residuals)
        hessian = np.einsum("kpi,kpj->kij", weighted, slopes)
        diagonal = np.einsum("kii->ki", hessian)
        damped = hessian + (damping[:, None] * diagonal + 1e-14)[:, :, None] * identity
        tried = theta - np.linalg.solve(damped, gradient[..., None])[..., 0]
        values, tried_slopes = model(tried)
        new = (times * huber(delta, values - rows)).sum(axis=1)
        better = new < cost
        if np.all(np.abs(new - cost) < 1e-9 * cost):
            break
        theta[better], residuals[better], slopes[better] = tried[better], (values - rows)[better], tried_slopes[better]
        cost = np.where(better, new, cost)
        damping = np.clip(np.where(better, damping / 5, damping * 4), 1e-9, 1e9)
    return theta


def interval(values: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """Percentiles; values that are not finite (a draw without a minimum) count as the far ends, half each."""
    values = np.asarray(values, float)
    finite = values[np.isfinite(values)]
    bad = len(values) - len(finite)
    padded = np.concatenate([np.full(bad // 2, -np.inf), np.sort(finite), np.full(bad - bad // 2, np.inf)])
    low, high = (1 - level) / 2, (1 + level) / 2
    place = len(padded) - 1
    return float(padded[int(np.floor(low * place))]), float(padded[int(np.ceil(high * place))])
