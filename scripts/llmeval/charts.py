"""Draws the picture of a report: what models do that they should not, against what they refuse that they should do."""

from dataclasses import dataclass

from llmdata.page import plain
from llmround.charts import BLUE, FAINT, begin_figure, svg_text

PLACES = [(6, 4), (6, -11), (6, 15), (6, -22), (6, 26), (6, -33), (6, 37), (6, -44)]  # of labels beside their points, in points


@dataclass(frozen=True)
class Rates:
    """Of one model, in %, each with half of its interval."""

    model: str
    violations: tuple[float, float]
    refusals: tuple[float, float]


def trade_off(models: list[Rates]) -> str:
    """SVG: a point for each model, labelled; the best place is at the bottom left."""
    figure, axes = begin_figure(5.4, 3.6, "both")
    for rates in models:
        (x, x_half), (y, y_half) = rates.refusals, rates.violations
        ends = [[[min(half, value)], [min(half, 100 - value)]] for value, half in ((x, x_half), (y, y_half))]
        axes.errorbar([x], [y], ends[1], ends[0], color=BLUE, ecolor=FAINT, marker="o", markersize=5, capsize=2, linewidth=1)
    axes.set_xlabel("false-refusal rate, %")
    axes.set_ylabel("violation rate, %")
    axes.margins(0.08)
    axes.set_xlim(right=1.3 * axes.get_xlim()[1])  # room for the labels
    axes.set_xticks([tick for tick in axes.get_xticks() if 0 <= tick <= 100])
    _label(figure, axes, models)
    return svg_text(figure)


def _label(figure, axes, models: list[Rates]) -> None:
    """Each label stands where it hides no other."""
    figure.canvas.draw()
    taken = []
    for rates in models:
        text = axes.annotate(plain(rates.model), (rates.refusals[0], rates.violations[0]), xytext=PLACES[0],
                             textcoords="offset points", fontsize=8, parse_math=False)  # fmt: skip
        for place in PLACES:
            text.set_position(place)
            box = text.get_window_extent()
            if not any(box.overlaps(other) for other in taken):
                break
        taken.append(box)
