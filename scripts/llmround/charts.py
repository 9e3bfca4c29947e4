"""Draws the pictures of reports, as SVG text."""

import io

BLUE, ORANGE, GREEN, INK, FAINT = "#2563eb", "#ea580c", "#059669", "#1f2937", "#9ca3af"
SMOOTHED = 25  # steps

Points = list[tuple[float, float]]


def pyplot():
    """Imported by the first picture: it takes longer than the rest of a program's start."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def begin_figure(width: float = 4.6, height: float = 2.6, grid: str = "y"):
    """(figure, axes) in the style of all reports, in inches."""
    plt = pyplot()
    plt.rcParams.update({"font.size": 9, "text.color": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK,
                         "svg.fonttype": "none", "font.family": "sans-serif"})  # fmt: skip
    figure, axes = plt.subplots(figsize=(width, height), layout="constrained")
    axes.grid(axis=grid, color="#e5e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    return figure, axes


def svg_text(figure) -> str:
    """Closes the figure."""
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    pyplot().close(figure)
    return out.getvalue()


def smooth(points: Points) -> Points:
    """The mean over SMOOTHED points around each; near the ends, over fewer."""
    smoothed = []
    for index, (x, _) in enumerate(points):
        half = min(SMOOTHED // 2, index, len(points) - 1 - index)
        around = points[index - half : index + half + 1]
        smoothed.append((x, sum(y for _, y in around) / len(around)))
    return smoothed


def curves(training: list[tuple[str, Points, str]], validation: Points, label: str) -> str:
    """`training` has (name, points, colour). They are drawn faint as they were and bold smoothed; validation as dots."""
    figure, axes = begin_figure()
    for name, points, colour in training:
        if points:
            axes.plot(*zip(*points), color=colour, alpha=0.22, linewidth=0.8)
            axes.plot(*zip(*smooth(points)), color=colour, linewidth=1.6, label=name)
    if validation:
        axes.plot(*zip(*validation), color=ORANGE, linewidth=0.8, linestyle=":")
        axes.scatter(*zip(*validation), s=18, color=ORANGE, edgecolors="white", linewidths=0.6, zorder=4, label="held out")
    axes.set_xlabel("optimizer steps")
    axes.set_ylabel(label)
    axes.set_xlim(left=0)
    axes.legend(frameon=False, fontsize=8)
    return svg_text(figure)


def histogram(everything: list[float], best: list[float]) -> str:
    figure, axes = begin_figure()
    low, high = min(everything), max(everything)
    spread = (low, high) if low < high else (low - 0.5, high + 0.5)
    axes.hist(everything, bins=30, range=spread, color=BLUE, alpha=0.55, density=True, label=f"all {len(everything)} answers")
    axes.hist(best, bins=30, range=spread, color=GREEN, alpha=0.55, density=True, label=f"the best of each prompt, {len(best)}")
    axes.set_xlabel("score of the reward model")
    axes.set_ylabel("density")
    axes.set_ylim(top=1.25 * axes.get_ylim()[1])  # room for the legend
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    return svg_text(figure)


def bars(names: list[str], values: list[float], label: str) -> str:
    figure, axes = begin_figure()
    shown = axes.bar(names, values, color=BLUE, alpha=0.8, width=0.55)
    axes.bar_label(shown, fmt="%.3g", padding=2, fontsize=8)
    axes.axhline(0, color=FAINT, linewidth=0.8)
    axes.margins(y=0.15)
    axes.set_ylabel(label)
    return svg_text(figure)
