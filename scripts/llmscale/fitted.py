"""All fits of a set of points, and what they found as JSON."""

import math
from dataclasses import dataclass, is_dataclass

import numpy as np

from llmdata.errors import InputError

from .disagreement import Disagreement, compare
from .forecast import Trial, trials_of
from .isoflop import IsoFlop, Law, fit_isoflop
from .parametric import PARAMETERS, Parametric, fit_parametric
from .points import Points
from .resample import LEVEL, SEED, interval

NAMES = ("log A", "log B", "log E", "alpha", "beta")


@dataclass
class Fitted:
    points: Points
    isoflop: IsoFlop
    parametric: Parametric
    disagreement: Disagreement | None
    seed: int

    def rng(self) -> np.random.Generator:
        return np.random.default_rng(self.seed + 1)

    def trials(self) -> list[Trial]:
        return trials_of(self.parametric, self.points.tests, np.random.default_rng(self.seed + 2))

    @property
    def disagreement_text(self) -> str:
        names = self.parametric.law.missing(self.points)
        missing = [f"The runs do not show the term {name}: it is next to nothing." for name in names]
        if self.disagreement is None:
            return " ".join([*missing, "Parabolas and parametric law cannot be compared without power laws."])
        return " ".join([*missing, self.disagreement.text()])

    @property
    def largest(self) -> float:
        return float(self.points.budget.max())


def fit_all(points: Points, seed: int = SEED, budget: float | None = None) -> Fitted:
    """`budget` is where the two ways are compared; without it, at ten times the largest."""
    rng = np.random.default_rng(seed)
    isoflop, parametric = fit_isoflop(points, rng), fit_parametric(points, rng)
    place = budget or 10 * float(points.budget.max())
    found = compare(points, isoflop, parametric, place, rng) if isoflop.tokens else None
    return Fitted(points, isoflop, parametric, found, seed)


def need_laws(fitted: Fitted, budget: float) -> None:
    """A forecast beyond budgets whose minima are outside their grids would extrapolate from nothing."""
    outside = [p for p in fitted.isoflop.parabolas if p.outside]
    if fitted.isoflop.tokens is None:
        first = outside[0]
        raise InputError(f"{fitted.points.source}: no forecast for {budget:.3g} FLOPs: fewer than two budgets have a minimum inside "
                         f"their grid (budget {first.budget:.3g}: {first.outside}; {first.advice})")  # fmt: skip


def as_json(fitted: Fitted) -> dict:
    p, f = fitted.points, fitted.isoflop
    rows = [{"name": n, "budget": b, "flops": c, "tokens": d, "parameters": s, "loss": loss} for n, b, c, d, s, loss in
            zip(p.names, *(a.tolist() for a in (p.budget, p.flops, p.tokens, p.parameters, p.loss)))]  # fmt: skip
    budgets = [{"budget": q.budget, "outside": q.outside, "advice": q.advice, "tokens": q.tokens, "parameters": q.parameters,
                "loss": q.lowest, "tokens_interval": q.tokens_interval} for q in f.parabolas]  # fmt: skip
    draws = {name: interval(fitted.parametric.draws[:, i]) for i, name in zip(range(PARAMETERS), NAMES)}
    return {
        "level": LEVEL, "seed": fitted.seed, "count": p.count, "runs": rows, "left_out": p.left_out, "parabolas": budgets,
        "laws": {"tokens": _law(f.tokens), "parameters": _law(f.parameters)}, "noise": f.noise,
        "parametric": {**fitted.parametric.law.named, "objective": fitted.parametric.objective, "noise": fitted.parametric.noise,
                       "intervals": draws, "token_exponent": fitted.parametric.law.token_exponent},
        "disagreement": fitted.disagreement and {**vars(fitted.disagreement), "text": fitted.disagreement_text},
    }  # fmt: skip


def _law(law: Law | None) -> dict | None:
    return law and {"exponent": law.exponent, "factor": law.factor, "exponent_interval": law.exponent_interval()}


def finite(value):
    """JSON has neither NaN nor infinity; NumPy's numbers become Python's, dataclasses objects."""
    if is_dataclass(value):
        value = vars(value)
    if isinstance(value, dict):
        return {str(name): finite(inside) for name, inside in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(inside) for inside in value]
    if isinstance(value, (np.floating, np.integer, np.bool_)):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
