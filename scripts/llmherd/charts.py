"""Pictures of the report that no other report has, as SVG text."""

from llmplot.style import COLOURS
from llmround.charts import FAINT, INK, Points, begin_figure, smooth, svg_text
from matplotlib.ticker import EngFormatter


def _tokens(axes) -> None:
    axes.set_xlabel("training tokens")
    axes.xaxis.set_major_formatter(EngFormatter())
    axes.set_xlim(left=0)
    axes.legend(frameon=False, fontsize=8)


def training(runs: dict[str, Points], ends: list[int]) -> str:
    """Smoothed losses of all sizes; `ends`: tokens at which stages end."""
    figure, axes = begin_figure()
    for (name, points), colour in zip(runs.items(), COLOURS):
        axes.plot(*zip(*smooth(points)), color=colour, linewidth=1.3, label=name)
    for tokens in ends:
        axes.axvline(tokens, color=FAINT, linewidth=0.8, linestyle=":")
    axes.set_ylabel("training loss")
    _tokens(axes)
    return svg_text(figure)


def validation(runs: dict[str, Points], baseline: float | None, name: str) -> str:
    """One source's validation losses of all sizes, and the n-gram model's, called `name`."""
    figure, axes = begin_figure()
    for (size, points), colour in zip(runs.items(), COLOURS):
        axes.plot(*zip(*points), color=colour, linewidth=1.3, marker="o", markersize=2.5, label=size)
    if baseline is not None:
        axes.axhline(baseline, color=INK, linewidth=1, linestyle="--", label=name)
    axes.set_ylabel("validation loss")
    _tokens(axes)
    return svg_text(figure)


def scores(tasks: dict[str, list[tuple[float, float]]], models: list[str]) -> str:
    """Bars of each task's scores in %, (score, half of its interval), a colour for each model."""
    figure, axes = begin_figure(width=max(4.6, 0.3 * len(models) * len(tasks)))
    width = 0.8 / len(models)
    for place, model in enumerate(models):
        x = [number + (place - (len(models) - 1) / 2) * width for number in range(len(tasks))]
        values, halves = zip(*(found[place] for found in tasks.values()))
        axes.bar(x, values, width, yerr=halves, color=COLOURS[place % len(COLOURS)], alpha=0.85, label=model,
                 error_kw={"elinewidth": 0.8, "ecolor": INK})  # fmt: skip
    axes.set_xticks(range(len(tasks)), list(tasks), rotation=20 if len(tasks) > 4 else 0)
    axes.set_ylabel("score, %")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return svg_text(figure)


def trade_off(points: dict[str, tuple[float, float]]) -> str:
    """(false refusals, violations) of each model, in %; the lower left corner is best."""
    figure, axes = begin_figure(grid="both")
    for (name, (x, y)), colour in zip(points.items(), COLOURS):
        axes.scatter([x], [y], color=colour, s=36, zorder=3, label=name)
    axes.set_xlabel("false refusals, %")
    axes.set_ylabel("violations, %")
    axes.set_xlim(-3, 103)
    axes.set_ylim(-3, 103)
    axes.legend(frameon=False, fontsize=8)
    return svg_text(figure)
