"""Parabolas through each budget, and power laws through their minima (Llama 3 paper, section 3.2.1, figures 2 and 3;
approach 2 of Hoffmann et al. 2022).

For each budget, loss = a x^2 + b x + c over x = log10(tokens); the minimum is at -b / 2a. A minimum outside the grid is no
minimum: that budget stays out of the laws, and the size to add is named. The laws are D*(C) = A C^alpha, by least squares in
log-log over the budgets, and N*(C) through the size that the budget trains on D* tokens.
"""

import math
from dataclasses import dataclass, field

import numpy as np

from llmdata.errors import InputError

from .points import Points
from .resample import LEVEL, interval, noise_draws, studentized
from .settings import LEAST_SIZES

DRAWS = 1000
INSIDE, LOW, HIGH, NONE = "", "minimum below the grid", "minimum above the grid", "no minimum"


@dataclass
class Parabola:
    budget: float
    x: np.ndarray  # log10 tokens
    loss: np.ndarray
    coefficients: np.ndarray  # a, b, c
    outside: str  # why its minimum is not used; empty: it is
    advice: str = ""
    tokens: float = math.nan  # at the minimum
    parameters: float = math.nan
    lowest: float = math.nan
    tokens_interval: tuple[float, float] = (math.nan, math.nan)

    def at(self, x: np.ndarray) -> np.ndarray:
        return np.polyval(self.coefficients, x)


@dataclass
class Law:
    """y = A C^exponent, as exponent and log10 A; draws of both."""

    exponent: float
    log_factor: float
    exponents: np.ndarray = field(default_factory=lambda: np.empty(0))
    log_factors: np.ndarray = field(default_factory=lambda: np.empty(0))

    @property
    def factor(self) -> float:
        return 10**self.log_factor

    def at(self, budget: float) -> float:
        return 10 ** (self.log_factor + self.exponent * math.log10(budget))

    def interval_at(self, budget: float, level: float = LEVEL) -> tuple[float, float]:
        low, high = interval(self.log_factors + self.exponents * math.log10(budget), level)
        return 10**low, 10**high

    def exponent_interval(self, level: float = LEVEL) -> tuple[float, float]:
        return interval(self.exponents, level)


@dataclass
class IsoFlop:
    parabolas: list[Parabola]
    tokens: Law | None  # None: fewer than two minima
    parameters: Law | None
    noise: float  # standard deviation of the loss about its parabola


def minimum(coefficients: np.ndarray, x: np.ndarray) -> tuple[float, str]:
    """(x of the minimum, why it is none)."""
    a, b, _ = coefficients
    if a <= 0:
        return math.nan, NONE
    place = -b / (2 * a)
    return place, INSIDE if x.min() <= place <= x.max() else LOW if place < x.min() else HIGH


def fit_isoflop(points: Points, rng: np.random.Generator, draws: int = DRAWS) -> IsoFlop:
    groups = [np.flatnonzero(points.budget == budget) for budget in points.budgets()]
    few = [(points.budget[g[0]], len(np.unique(np.round(np.log10(points.tokens[g]), 6)))) for g in groups]
    for budget, count in few:
        if count < LEAST_SIZES:
            raise InputError(f"{points.source}: budget {budget:.3g}: {count} sizes that finished, expected at least {LEAST_SIZES} "
                             "for a parabola: add sizes, or leave the budget out")  # fmt: skip
    x, y = np.log10(points.tokens), points.loss
    bases = [np.linalg.qr(np.vander(x[g] - x[g].mean(), 3)) for g in groups]
    parabolas = [_parabola(points, group, x) for group in groups]
    fitted = np.concatenate([p.at(x[g]) for p, g in zip(parabolas, groups)])
    order = np.concatenate(groups)
    leverage = np.concatenate([np.sum(q**2, axis=1) for q, _ in bases])
    residuals = y[order] - fitted
    freedom = len(order) - 3 * len(groups)
    noise = math.sqrt(np.sum(residuals**2) / freedom)
    drawn = fitted + noise_draws(rng, studentized(residuals, leverage), freedom, draws, len(order))
    minima = _drawn_minima(drawn, [x[g] for g in groups], [len(g) for g in groups])
    usable = [i for i, p in enumerate(parabolas) if not p.outside]
    for i in usable:
        parabolas[i].tokens_interval = tuple(10.0**end if math.isfinite(end) else end for end in interval(minima[:, i]))
    return IsoFlop(parabolas, *_laws(points, parabolas, minima, usable), noise)


def _parabola(points: Points, group: np.ndarray, x: np.ndarray) -> Parabola:
    inside, budget = x[group], float(points.budget[group[0]])
    center = inside.mean()
    a, b, c = np.polyfit(inside - center, points.loss[group], 2)
    made = Parabola(budget, inside, points.loss[group], np.array([a, b - 2 * a * center, c - b * center + a * center**2]), "")
    place, made.outside = minimum(made.coefficients, inside)
    if made.outside:
        made.advice = _advice(points, group, made.outside)
        return made
    made.tokens, made.lowest = 10**place, float(made.at(place))
    made.parameters = math.exp(points.cost.log_size(math.log(budget), math.log(made.tokens)))
    return made


def _advice(points: Points, group: np.ndarray, outside: str) -> str:
    """The size to add: as far beyond the grid's end as its last two sizes are apart."""
    sizes = np.sort(points.parameters[group])
    below = sizes[0] * sizes[0] / sizes[1]
    above = sizes[-1] * sizes[-1] / sizes[-2]
    if outside == HIGH:
        return f"add a smaller size, of about {below:.3g} parameters"
    if outside == LOW:
        return f"add a larger size, of about {above:.3g} parameters"
    return f"add sizes on both sides, of about {below:.3g} and {above:.3g} parameters, or train longer: noise hides the curve"


def _drawn_minima(drawn: np.ndarray, xs: list[np.ndarray], counts: list[int]) -> np.ndarray:
    """draws x budgets: log10 tokens at the minimum; NaN where a draw has none inside the grid."""
    columns, first = [], 0
    for x, count in zip(xs, counts):
        center = x.mean()
        a, b, _ = np.linalg.pinv(np.vander(x - center, 3)) @ drawn[:, first : first + count].T
        with np.errstate(divide="ignore", invalid="ignore"):
            place = center - b / (2 * a)
        columns.append(np.where((a > 0) & (place >= x.min()) & (place <= x.max()), place, np.nan))
        first += count
    return np.stack(columns, axis=1)


def line(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slope and offset of each row of y, without its NaNs; NaN with fewer than two points."""
    there = np.isfinite(y)
    count, y = there.sum(axis=-1, keepdims=True), np.where(there, y, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        center = (there * x).sum(axis=-1, keepdims=True) / count
        middle = y.sum(axis=-1, keepdims=True) / count
        away = there * (x - center)
        slope = np.sum(away * (y - middle), axis=-1) / np.sum(away**2, axis=-1)
        return slope, middle[..., 0] - slope * center[..., 0]


def _laws(points: Points, parabolas: list[Parabola], minima: np.ndarray, usable: list[int]) -> tuple[Law | None, Law | None]:
    """The laws of tokens and of size. In a draw too, a budget whose minimum is outside its grid stays out."""
    if len(usable) < 2:
        return None, None
    budgets = np.log10([parabolas[i].budget for i in usable])
    tokens = np.log10([parabolas[i].tokens for i in usable])

    def sizes(log_tokens):
        return points.cost.log_size(budgets * math.log(10), log_tokens * math.log(10)) / math.log(10)

    drawn = minima[:, usable]
    both = [(line(budgets, of(tokens)), line(budgets, of(drawn))) for of in (lambda values: values, sizes)]
    laws = [Law(float(slope), float(offset), *draws) for (slope, offset), draws in both]
    return laws[0], laws[1]
