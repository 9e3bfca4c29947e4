"""Needles in a haystack as a picture: a panel for each log, a column for each length, a row for each depth."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib.pyplot as plt

from llmdata.errors import InputError
from llmdata.text_file import read_lines

from .run_log import log_of, run_of
from .style import begin

MEASURES = {"exact_match": "exact match", "acc": "right among distractors"}
MOST_NUMBERS = 150  # cells of a panel; up to so many, each has its number written into it


@dataclass
class Scores:
    """values[length][depth]: of the last step, up to `step`, in which needles of that length were scored."""

    name: str
    values: dict[int, dict[float, float]] = field(default_factory=dict)
    steps: dict[int, int] = field(default_factory=dict)


def read_scores(name: str, measure: str, step: int | None) -> Scores:
    path = log_of(name)
    scores = Scores(run_of(path))
    for _, line, _ in read_lines(path):
        try:
            entry = json.loads(line.decode("utf-8", errors="replace"))
            length, at = int(entry["length"]), int(entry["step"])
            cells = {float(cell["depth"]): float(cell[measure]) for cell in entry["cells"]}
        except (ValueError, KeyError, TypeError):
            continue
        if cells and (step is None or at <= step):
            scores.values[length], scores.steps[length] = cells, at
    if not scores.values:
        until = "" if step is None else f" up to step {step}"
        raise InputError(f"{path}: no line with scores of needles{until}, expected those of prepare_eval.py --needle-lengths")
    return scores


def draw(names: list[str], measure: str, step: int | None, output: Path, title: str | None, dpi: int) -> None:
    picture([read_scores(name, measure, step) for name in names], measure, title, dpi).savefig(output)


def picture(panels: list[Scores], measure: str, title: str | None = None, dpi: int = 150):
    """The figure. All panels have the same lengths and depths."""
    begin()
    lengths = sorted({length for panel in panels for length in panel.values})
    depths = sorted({depth for panel in panels for cells in panel.values.values() for depth in cells})
    width, height = 1.6 + max(0.8 * len(lengths), 2.2) * len(panels), 1.9 + max(0.32 * len(depths), 1.6)
    figure, axes = plt.subplots(1, len(panels), figsize=(width, height), dpi=dpi, layout="constrained", squeeze=False, sharey=True)
    for axis, panel in zip(axes[0], panels):
        image = draw_panel(axis, panel, lengths, depths)
    axes[0][0].set_ylabel("depth of the needle (%)")
    bar = figure.colorbar(image, ax=axes[0].tolist(), label=MEASURES[measure], shrink=0.9)
    bar.outline.set_visible(False)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return figure


def draw_panel(axis, panel: Scores, lengths: list[int], depths: list[float]):
    table = [[panel.values.get(length, {}).get(depth, math.nan) for length in lengths] for depth in depths]
    image = axis.imshow(table, vmin=0, vmax=1, cmap="viridis", aspect="auto", interpolation="nearest")
    axis.set_xticks(range(len(lengths)), [f"{length:,}" for length in lengths], rotation=45 if len(lengths) > 4 else 0)
    axis.set_yticks(range(len(depths)), [f"{depth:.3g}" for depth in depths])
    axis.set_xlabel("tokens")
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    first, last = min(panel.steps.values()), max(panel.steps.values())
    axis.set_title(f"{panel.name}\nstep {first if first == last else f'{first} to {last}'}", loc="left", fontsize=10)
    if len(lengths) * len(depths) <= MOST_NUMBERS:
        for row, values in enumerate(table):
            for column, value in enumerate(values):
                if not math.isnan(value):
                    axis.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color="white" if value < 0.6 else "black")
    return image
