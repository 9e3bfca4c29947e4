"""Draws of noise, for intervals.

A sweep has few runs, and its residuals are smaller than the noise, since the fit has followed it. So a draw takes residuals at
random, each enlarged by what the fit took from it (1/sqrt(1 - leverage)), and scales all by sqrt(k / chi2_k), k the degrees of
freedom that are left: the noise is only known as well as k residuals tell. For straight fits with normal noise this is Student's
interval.
"""

import numpy as np

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


def interval(values: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """Percentiles; values that are not finite (a draw without a minimum) count as the far ends, half each."""
    values = np.asarray(values, float)
    finite = values[np.isfinite(values)]
    bad = len(values) - len(finite)
    padded = np.concatenate([np.full(bad // 2, -np.inf), np.sort(finite), np.full(bad - bad // 2, np.inf)])
    low, high = (1 - level) / 2, (1 + level) / 2
    place = len(padded) - 1
    return float(padded[int(np.floor(low * place))]), float(padded[int(np.ceil(high * place))])
