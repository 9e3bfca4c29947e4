"""What a budget buys by the fitted laws: size, tokens and loss, each with its interval, and how flat the optimum is.

Size and tokens stand twice, by the parabolas' power laws and by the parametric law. The loss is the parametric law's at its own
optimum. Its interval is that of the law; one run's loss scatters about it by the noise of the runs, which is added in `run_loss`.
"""

import math
from dataclasses import dataclass

import numpy as np

from .counting import Cost
from .isoflop import IsoFlop
from .parametric import Law, Parametric, log_loss, optimum
from .resample import LEVEL, interval

TOLERANCE = 0.002  # a loss that much above the lowest counts as good as the lowest
FACTORS = (0.25, 0.5, 2.0, 4.0)


@dataclass
class Value:
    value: float
    low: float
    high: float


@dataclass
class Flatness:
    low: float  # the size from which on, up to `high`, the loss is within TOLERANCE of the lowest
    high: float
    factors: dict[float, float]  # relative rise of the loss, for a size so many times the best


@dataclass
class Forecast:
    budget: float
    beyond: float  # how many times the largest budget of the fit
    parameters: Value  # of the parametric law
    tokens: Value
    parabola_parameters: Value | None
    parabola_tokens: Value | None
    loss: Value
    run_loss: Value
    flatness: Flatness


def forecast(isoflop: IsoFlop, parametric: Parametric, cost: Cost, budget: float, largest: float,
             rng: np.random.Generator) -> Forecast:  # fmt: skip
    n, tokens, loss = parametric.law.best(cost, budget)
    drawn_n, drawn_loss = optimum(parametric.draws, cost, budget)
    drawn_d = math.log(budget) - cost.log_flops(drawn_n)
    noisy = np.log(drawn_loss) + parametric.noise * rng.standard_normal(len(drawn_loss))
    parabola = [Value(law.at(budget), *law.interval_at(budget)) if law else None for law in (isoflop.parameters, isoflop.tokens)]
    return Forecast(budget, budget / largest, Value(n, *_exp(drawn_n)), Value(tokens, *_exp(drawn_d)), *parabola,
                    Value(loss, *interval(drawn_loss)), Value(loss, *_exp(noisy)),
                    flatness(parametric.law, cost, budget))  # fmt: skip


def _exp(logs: np.ndarray) -> tuple[float, float]:
    low, high = interval(logs, LEVEL)
    return math.exp(min(700, low)), math.exp(min(700, high))


@dataclass
class Trial:
    """A run that was kept out of the fit, beside what the fit says of it."""

    name: str
    budget: float
    parameters: float
    tokens: float
    loss: float
    forecast: Value

    @property
    def inside(self) -> bool:
        return self.forecast.low <= self.loss <= self.forecast.high


def trials_of(parametric: Parametric, rows: list[dict], rng: np.random.Generator) -> list[Trial]:
    """The runs marked as forecast in the plan."""
    found = []
    for row in rows:
        n, d = math.log(row["parameters"]), math.log(row["tokens"])
        drawn = log_loss(parametric.draws, np.array([n]), np.array([d]))[:, 0]
        noisy = drawn + parametric.noise * rng.standard_normal(len(drawn))
        value = Value(float(np.exp(log_loss(parametric.law.theta, n, d))), *_exp(noisy))
        found.append(Trial(row["name"], row["budget"], row["parameters"], row["tokens"], row["loss"], value))
    return found


def flatness(law: Law, cost: Cost, budget: float) -> Flatness:
    n, _, lowest = law.best(cost, budget)

    def rise(log_n):
        return np.exp(log_loss(law.theta, log_n, math.log(budget) - cost.log_flops(log_n))) / lowest - 1

    grid = math.log(n) + np.linspace(-8, 8, 3201)
    near = grid[rise(grid) <= TOLERANCE]
    return Flatness(math.exp(near.min()), math.exp(near.max()),
                    {factor: float(rise(np.array(math.log(n * factor)))) for factor in FACTORS})  # fmt: skip
