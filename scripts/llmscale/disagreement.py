"""How far the parabolas and the parametric law are apart, and why.

Parabolas have a bias, noise aside: the loss over log D is only a parabola near its minimum, and only a symmetric
curve where alpha = beta (arXiv 2603.22339). To see how large it is here, losses are taken from the fitted parametric law
itself, without noise, at the very places of the runs; parabolas through these must find the law's own optimum, and miss it by
this bias. The same is then done with one cause removed at a time:

    off-centre   each budget's grid is moved, so that the optimum is in its middle
    width        each budget's grid is shrunk about its middle to a tenth of its width
    asymmetry    alpha = beta, at the same optimum in the middle of the budgets

What a removal takes from the bias is what that cause makes. What the bias does not explain is noise, or runs that the law
does not fit: it is told which, by the intervals, and by another weight of the outliers (squares in place of Huber).
"""

import math
from dataclasses import dataclass

import numpy as np

from .counting import Cost
from .isoflop import IsoFlop, line
from .parametric import SQUARES, Law, Parametric, fit_parametric, optimum
from .points import Points
from .resample import interval

SHRUNK = 0.1
NAMED = 0.02  # a cause that changes the tokens by less than this is not named
MISFIT = 1.5  # so much more scatter about the law than about the parabolas is more than chance makes
CAUSES = {
    "off-centre": "minima that are not in the middle of their grids",
    "width": "wide grids, over which the loss is no parabola",
    "asymmetry": "alpha and beta differ, so that the curve is steeper on one side",
}


@dataclass
class Disagreement:
    budget: float
    parabola_tokens: float
    parametric_tokens: float
    token_exponents: tuple[float, float]  # of parabolas, of the parametric law
    parabola_bias: float  # log ratio of tokens, of parabolas on the parametric law
    causes: dict[str, float]  # what removing each takes from it, in log ratio
    squares_tokens: float  # the parametric law's, if it is fitted by squares
    within: bool  # whether the rest is within both intervals
    scatter: tuple[float, float]  # of the losses, relative: about the parametric law, about the parabolas

    @property
    def ratio(self) -> float:
        return self.parabola_tokens / self.parametric_tokens

    @property
    def rest(self) -> float:
        return math.log(self.ratio) - self.parabola_bias

    def text(self) -> str:
        more = f"{abs(self.ratio - 1):.0%} {'more' if self.ratio > 1 else 'fewer'}"
        lines = [
            f"At {self.budget:.3g} FLOPs the parabolas choose {more} tokens than the parametric law ({self.parabola_tokens:.3g} "
            f"and {self.parametric_tokens:.3g}; exponents of D* {self.token_exponents[0]:.3f} and {self.token_exponents[1]:.3f})."
        ]
        lines.append(f"The parabolas' bias on that law, noise aside, is {_percent(self.parabola_bias)}{self._because()}.")
        verdict = "which is within the intervals, so noise may make it" if self.within else (
            "which is beyond the intervals: the runs do not follow the law, or their noise is not what it seems")  # fmt: skip
        lines.append(f"The rest is {_percent(self.rest)}, {verdict}.")
        law, parabolas = self.scatter
        lines.append(f"Losses scatter by {law:.2%} about the law and {parabolas:.2%} about the parabolas"
                     + (": the law bends otherwise than the runs do, and the intervals of its losses do not know of it." if law > MISFIT * parabolas else "."))  # fmt: skip
        lines.append(f"Fitted by squares, which weigh outliers more, the parametric law chooses {self.squares_tokens:.3g} tokens.")
        return " ".join(lines)

    def _because(self) -> str:
        named = sorted((name for name, part in self.causes.items() if abs(part) > NAMED), key=lambda name: -abs(self.causes[name]))
        parts = [f"{CAUSES[name]} ({_percent(self.causes[name])})" for name in named]
        return ": " + "; ".join(parts) if parts else ""


def _percent(log_ratio: float) -> str:
    return f"{math.expm1(log_ratio):+.0%}"


def compare(points: Points, isoflop: IsoFlop, parametric: Parametric, budget: float, rng: np.random.Generator) -> Disagreement:
    law = parametric.law
    used = [p.budget for p in isoflop.parabolas if not p.outside]
    seen = points.select(np.isin(points.budget, used))
    bias = parabola_bias(law, seen, budget)
    removed = {
        "off-centre": parabola_bias(law, seen, budget, centered=True), "width": parabola_bias(law, seen, budget, shrunk=True),
        "asymmetry": parabola_bias(symmetric(law, points), seen, budget),
    }  # fmt: skip
    squares = fit_parametric(points, rng, 0, SQUARES)
    return Disagreement(
        budget, isoflop.tokens.at(budget), law.best(points.cost, budget)[1], (isoflop.tokens.exponent, law.token_exponent), bias,
        {name: bias - error for name, error in removed.items()}, squares.law.best(points.cost, budget)[1],
        _explained(isoflop, parametric, points.cost, budget, bias), (parametric.noise, isoflop.noise / float(points.loss.mean())),
    )  # fmt: skip


def _explained(isoflop: IsoFlop, parametric: Parametric, cost: Cost, budget: float, bias: float) -> bool:
    """Whether the parabolas' bias is a likely difference, by draws of both fits, taken as independent."""
    parabolas = (isoflop.tokens.log_factors + isoflop.tokens.exponents * math.log10(budget)) * math.log(10)
    n, _ = optimum(parametric.draws, cost, budget)
    tokens = math.log(budget) - cost.log_flops(n)
    count = min(len(parabolas), len(tokens))
    low, high = interval(parabolas[:count] - tokens[:count])
    return low <= bias <= high


def parabola_bias(law: Law, points: Points, budget: float, centered: bool = False, shrunk: bool = False) -> float:
    """log(D* of parabolas through the law's losses / D* of the law) at a budget, by the power law through their minima."""
    places, budgets = [], points.budgets()
    for each in budgets:
        x = np.log(points.tokens[points.budget == each])
        optimum = math.log(law.best(points.cost, each)[1])
        middle = (x.min() + x.max()) / 2
        x = x - middle
        x = x * (SHRUNK if shrunk else 1) + (optimum if centered else middle)
        n = points.cost.log_size(math.log(each), x)
        y = law.loss(np.exp(n), np.exp(x))
        center = x.mean()
        a, b, _ = np.polyfit(x - center, y, 2)
        places.append(center - b / (2 * a) if a > 0 else math.nan)
    slope, offset = line(np.log(budgets), np.array(places))
    return float(offset + slope * math.log(budget)) - math.log(law.best(points.cost, budget)[1])


def symmetric(law: Law, points: Points) -> Law:
    """The law with alpha = beta, and the same optimum in the middle of the budgets."""
    budget = math.exp(np.log(points.budgets()).mean())
    n, d, _ = law.best(points.cost, budget)
    mean = (law.theta[3] + law.theta[4]) / 2
    theta = law.theta.copy()
    half = (law.theta[0] - law.theta[3] * math.log(n) + law.theta[1] - law.theta[4] * math.log(d)) / 2
    theta[0], theta[1], theta[3], theta[4] = half + mean * math.log(n), half + mean * math.log(d), mean, mean
    return Law(theta)
