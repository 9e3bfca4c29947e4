"""Draws the pictures of the report, as SVG text: those of the Llama 3 paper's figures 2, 3 and 4, and two more."""

import numpy as np
from llmround.charts import BLUE, FAINT, INK, ORANGE, begin_figure, svg_text
from matplotlib import colormaps
from matplotlib.ticker import LogFormatterSciNotation, LogLocator, NullFormatter

from .accuracy import Task, TaskForecast, sigmoid
from .fitted import Fitted
from .forecast import Forecast, Value
from .isoflop import Law

SIZE = {"width": 5.4, "height": 3.6, "grid": "both"}


def _log(axes, name: str) -> None:
    """Makes an axis, x or y, logarithmic, with few labels, so that they don't touch."""
    getattr(axes, f"set_{name}scale")("log")
    low, high = getattr(axes, f"get_{name}lim")()
    axis = getattr(axes, f"{name}axis")
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
    axis.set_major_formatter(LogFormatterSciNotation(minor_thresholds=(np.inf, np.inf)))
    axis.set_minor_formatter(NullFormatter())


def _colours(count: int):
    return colormaps["viridis"](np.linspace(0.9, 0.1, count))


def _star(axes, x: float, y: Value, across: Value | None = None, label: str = "") -> None:
    """A forecast with its intervals; rounding may put a value just outside."""

    def ends(value: Value | None):
        return value and np.maximum([[value.value - value.low], [value.high - value.value]], 0)

    axes.errorbar([x], [y.value], ends(y), ends(across), color=ORANGE, marker="*", markersize=9, capsize=3, linewidth=1,
                  label=label)  # fmt: skip


def parabolas(fitted: Fitted) -> str:
    """Loss over tokens for each budget, its parabola and its minimum."""
    figure, axes = begin_figure(**SIZE)
    found = fitted.isoflop.parabolas
    for parabola, colour in zip(found, _colours(len(found))):
        axes.scatter(10**parabola.x, parabola.loss, s=14, color=colour, zorder=3)
        x = np.linspace(parabola.x.min(), parabola.x.max(), 100)
        axes.plot(10**x, parabola.at(x), color=colour, linewidth=1.2, linestyle=":" if parabola.outside else "-",
                  label=f"{parabola.budget:.2g}" + (" (not used)" if parabola.outside else ""))  # fmt: skip
        if not parabola.outside:
            axes.scatter([parabola.tokens], [parabola.lowest], marker="D", s=34, color=colour, edgecolors="white", linewidths=0.8,
                         zorder=4)  # fmt: skip
    _log(axes, "x")
    axes.set_xlabel("training tokens")
    axes.set_ylabel("validation loss")
    axes.legend(frameon=False, fontsize=8, title="FLOPs", title_fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return svg_text(figure)


def power_law(fitted: Fitted, what: str, beyond: list[Forecast]) -> str:
    """tokens or parameters at the minima over FLOPs, the power law with its interval, and the parametric law beside it."""
    figure, axes = begin_figure(**SIZE)
    found = [p for p in fitted.isoflop.parabolas if not p.outside]
    law: Law = getattr(fitted.isoflop, what)
    budgets = [p.budget for p in found]
    largest = max([*budgets, *(f.budget for f in beyond)])
    x = np.geomspace(min(budgets) / 1.5, largest * 1.5, 60)
    band = np.array([law.interval_at(c) for c in x])
    axes.fill_between(x, *band.T, color=BLUE, alpha=0.15, linewidth=0)
    axes.plot(
        x, [law.at(c) for c in x], color=BLUE, linewidth=1.4, label=f"parabolas: {law.factor:.3g} C$^{{{law.exponent:.3f}}}$"
    )
    values = np.array([getattr(p, what) for p in found])
    axes.scatter(budgets, values, color=BLUE, s=22, zorder=4, edgecolors="white", linewidths=0.6)
    place = 1 if what == "tokens" else 0
    exponent = fitted.parametric.law.token_exponent if place else fitted.parametric.law.size_exponent
    axes.plot(x, [fitted.parametric.law.best(fitted.points.cost, c)[place] for c in x], color=ORANGE, linewidth=1.4, linestyle="--",
              label=f"parametric law: exponent {exponent:.3f}")  # fmt: skip
    for f in beyond:
        _star(axes, f.budget, f.tokens if place else f.parameters)
    _log(axes, "x")
    _log(axes, "y")
    axes.set_xlabel("training FLOPs")
    axes.set_ylabel("best number of tokens" if place else "best number of parameters")
    axes.legend(frameon=False, fontsize=8)
    return svg_text(figure)


def residuals(fitted: Fitted) -> str:
    """Relative errors of the parametric law, in per cent: a bend tells of a law that does not fit."""
    figure, axes = begin_figure(**SIZE)
    p = fitted.points
    errors = 100 * (p.loss / fitted.parametric.law.loss(p.parameters, p.tokens) - 1)
    budgets = p.budgets()
    for budget, colour in zip(budgets, _colours(len(budgets))):
        here = p.budget == budget
        axes.plot(p.parameters[here], errors[here], "o", color=colour, markersize=3.5)
    axes.axhline(0, color=INK, linewidth=0.8)
    _log(axes, "x")
    axes.set_xlabel("parameters")
    axes.set_ylabel("loss above the parametric law, %")
    return svg_text(figure)


def loss_of_budget(fitted: Fitted, beyond: list[Forecast]) -> str:
    """The lowest loss of each budget, the parametric law, and the forecasts."""
    figure, axes = begin_figure(**SIZE)
    p, law, cost = fitted.points, fitted.parametric.law, fitted.points.cost
    axes.scatter(p.flops, p.loss, s=8, color=FAINT, label="runs")
    found = [q for q in fitted.isoflop.parabolas if not q.outside]
    axes.scatter([q.budget for q in found], [q.lowest for q in found], s=24, color=BLUE, zorder=4, label="minima of parabolas")
    x = np.geomspace(p.flops.min(), max([p.flops.max(), *(f.budget for f in beyond)]) * 1.5, 60)
    axes.plot(x, [law.best(cost, c)[2] for c in x], color=ORANGE, linewidth=1.4, linestyle="--", label="parametric law")
    for index, f in enumerate(beyond):
        _star(axes, f.budget, f.run_loss, label="" if index else "forecast of one run")
    if p.tests:
        axes.scatter([test["flops"] for test in p.tests], [test["loss"] for test in p.tests], marker="x", color=INK, s=30, zorder=5,
                     label="runs that test a forecast")  # fmt: skip
    _log(axes, "x")
    axes.set_xlabel("training FLOPs")
    axes.set_ylabel("validation loss")
    axes.legend(frameon=False, fontsize=8)
    return svg_text(figure)


def flat(fitted: Fitted, forecast: Forecast) -> str:
    """How the loss rises to both sides of the best size of a budget."""
    figure, axes = begin_figure(**SIZE)
    cost, law = fitted.points.cost, fitted.parametric.law
    n = forecast.parameters.value * np.geomspace(1 / 8, 8, 80)
    budgets = [*fitted.points.budgets()[[0, -1]], forecast.budget]
    for budget, colour in zip(budgets, _colours(len(budgets))):
        best, _, lowest = law.best(cost, budget)
        sizes = best * n / forecast.parameters.value
        rise = law.loss(sizes, budget / np.exp(cost.log_flops(np.log(sizes)))) / lowest - 1
        axes.plot(sizes / best, 100 * rise, color=colour, linewidth=1.4, label=f"{budget:.2g} FLOPs")
    axes.set_xscale("log", base=2)
    axes.set_xlabel("size, times the best")
    axes.set_ylabel("loss above the lowest, %")
    axes.legend(frameon=False, fontsize=8)
    return svg_text(figure)


def task(given: Task, found: TaskForecast, budget: float) -> str:
    """Both steps from FLOPs to accuracy (the paper's figure 4), the second one drawn."""
    figure, axes = begin_figure(**SIZE)
    both = [*given.nll, found.nll.value]
    x = np.linspace(min(both) - 0.1 * np.ptp(both), max(both) + 0.1 * np.ptp(both), 200)
    axes.plot(x, sigmoid(np.array(found.sigmoid), x, given.chance), color=BLUE, linewidth=1.4, label="sigmoid")
    known = np.isfinite(given.flops)
    axes.scatter(given.nll[known], given.accuracy[known], color=BLUE, s=20, label="models of the sweep")
    if not known.all():
        axes.scatter(given.nll[~known], given.accuracy[~known], color=FAINT, s=20, label="other models")
    _star(axes, found.nll.value, found.accuracy, found.nll, f"{budget:.2g} FLOPs")
    axes.invert_xaxis()
    axes.set_xlabel("negative log-likelihood of the right answer")
    axes.set_ylabel("accuracy")
    axes.legend(frameon=False, fontsize=8)
    return svg_text(figure)
