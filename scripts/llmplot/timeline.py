"""The stages of a recipe over its tokens: batch, length, learning rate and mixture, as train_llama3 would run them."""

import json
import math
import os
from pathlib import Path

import matplotlib.pyplot as plt
from llmplan.library import call_text, find_function
from matplotlib.ticker import EngFormatter, NullLocator

from llmplot.style import COLOURS, FAINT, begin, style

LONGEST_TEXT = 1 << 22  # of a timeline of as many stages and sources as a recipe may have
TO_SCALE = 30  # times that one stage may have the tokens of another, before widths are no longer proportional to tokens
POINTS = 32  # of a share that changes


def read_timeline(recipe: Path) -> dict:
    return json.loads(call_text(find_function("recipe_timeline_text"), LONGEST_TEXT, os.fsencode(recipe), 1))


class Scale:
    """Where a stage's tokens are drawn. Stages whose lengths differ by orders of magnitude have widths that differ less; within
    a stage the axis is linear."""

    def __init__(self, stages: list[dict]):
        tokens = [stage["tokens"] for stage in stages]
        self.exact = max(tokens) <= TO_SCALE * min(tokens)
        widths = tokens if self.exact else [max(count**0.2, 0.3 * max(tokens) ** 0.2) for count in tokens]
        self.ends = [0.0]
        for width in widths:
            self.ends.append(self.ends[-1] + width / sum(widths))
        self.tokens = [stage["first_token"] for stage in stages] + [stages[-1]["first_token"] + tokens[-1]]

    def at(self, stage: int, share: float) -> float:
        """The place of the share of the stage's tokens, 0 to 1."""
        return self.ends[stage] + share * (self.ends[stage + 1] - self.ends[stage])


def draw_timeline(recipe: Path, output: Path, title: str | None, dpi: int) -> None:
    timeline = read_timeline(recipe)
    stages, sources = timeline["stages"], timeline["sources"]
    scale = Scale(stages)
    begin()
    figure, axes = plt.subplots(4, 1, figsize=(10, 9), dpi=dpi, layout="constrained", sharex=True,
                                height_ratios=[1, 1, 1.4, 1.6])  # fmt: skip
    draw_steps(axes[0], scale, [stage["tokens_per_step"] for stage in stages], "tokens per step")
    draw_steps(axes[1], scale, [stage["seq_len"] for stage in stages], "length (tokens)")
    draw_rate(axes[2], scale, stages)
    draw_mixture(axes[3], scale, stages, sources)
    for panel in axes:
        style(panel)
        for end in scale.ends[1:-1]:
            panel.axvline(end, color=FAINT, linewidth=0.6, linestyle=":")
    name_stages(axes[0], scale, stages)
    set_tokens(axes[3], scale, stages)
    figure.suptitle(title or timeline["name"], x=0.01, ha="left", fontweight="bold", fontsize=13)
    figure.savefig(output)


def draw_steps(axes, scale: Scale, values: list[float], label: str) -> None:
    axes.stairs(values, scale.ends, baseline=None, color=COLOURS[0], linewidth=1.8)
    axes.set_yscale("log", base=2)
    ticks = sorted(set(values))
    low, high = ticks[0], ticks[-1]
    axes.set_ylim(low / 1.5, high * 1.5)
    axes.set_yticks(thin(ticks, 1.5 if high / low < 64 else high ** (1 / 6) / low ** (1 / 6)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(lambda value, _: binary(value))
    axes.set_ylabel(label)


def thin(values: list[float], ratio: float) -> list[float]:
    """Those of the rising values that are so many times the one before them that is kept; from the top."""
    kept = [values[-1]]
    for value in reversed(values[:-1]):
        if kept[-1] >= ratio * value:
            kept.append(value)
    return kept


def binary(value: float) -> str:
    """4Mi, 128Ki, 96Ki, 1500."""
    for size, letter in ((1 << 20, "Mi"), (1 << 10, "Ki")):
        if value >= size and value % (size // 64) == 0:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def draw_rate(axes, scale: Scale, stages: list[dict]) -> None:
    rates = [rate for stage in stages for _, rate in stage["rates"] if rate > 0]
    logarithmic = bool(rates) and max(rates) > 100 * min(stage["rates"][0][1] or math.inf for stage in stages)
    floor = min(rates, default=1) / 2
    for index, stage in enumerate(stages):
        x = [scale.at(index, (step + 0.5) / stage["steps"]) for step, _ in stage["rates"]]
        y = [max(rate, floor) if logarithmic else rate for _, rate in stage["rates"]]
        axes.plot(x, y, color=COLOURS[1], linewidth=1.8, marker="o" if len(x) == 1 else None, markersize=3)
        if logarithmic and stage["rates"][-1][1] == 0:
            axes.annotate("0", (x[-1], floor), textcoords="offset points", xytext=(5, 0), color=COLOURS[1], fontsize=9)
    if logarithmic:
        axes.set_yscale("log")
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.set_ylim(bottom=0)
    axes.set_ylabel("learning rate")


def draw_mixture(axes, scale: Scale, stages: list[dict], sources: list[str]) -> None:
    used = [i for i in range(len(sources)) if any(stage["shares"][end][i] for stage in stages for end in (0, 1))]
    x, shares = [], {i: [] for i in used}
    for index, stage in enumerate(stages):
        first, last = stage["shares"]
        for point in range(POINTS + 1):
            x.append(scale.at(index, point / POINTS))
            for i in used:
                shares[i].append(100 * (first[i] + (last[i] - first[i]) * point / POINTS))
    colours = [COLOURS[n % len(COLOURS)] for n in range(len(used))]
    axes.stackplot(x, *shares.values(), labels=[sources[i] for i in used], colors=colours, alpha=0.75, linewidth=0)
    axes.set_ylim(0, 100)
    axes.set_ylabel("mixture (%)")
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=9)


def name_stages(axes, scale: Scale, stages: list[dict]) -> None:
    names = [stage["name"] + " *" * stage["may_end_early"] for stage in stages]
    wide = all(end - start > 0.0105 * len(name) for name, start, end in zip(names, scale.ends, scale.ends[1:]))
    for index, name in enumerate(names):
        axes.text(scale.at(index, 0.5), 1.03, name, transform=axes.get_xaxis_transform(), fontsize=9, color="#4b5563",
                  ha="center" if wide else "left", va="bottom", rotation=0 if wide else 30, rotation_mode="anchor")  # fmt: skip


def set_tokens(axes, scale: Scale, stages: list[dict]) -> None:
    remarks = [] if scale.exact else ["to scale within each stage"]
    if any(stage["may_end_early"] for stage in stages):
        remarks.append("* may end early")
    axes.set_xlim(0, 1)
    axes.set_xlabel("training tokens" + (f" ({'; '.join(remarks)})" if remarks else ""))
    labels = [three_digits(tokens) for tokens in scale.tokens]
    labels = [label if label not in labels[:index] else "" for index, label in enumerate(labels)]
    axes.set_xticks(scale.ends, labels, rotation=30, ha="right", rotation_mode="anchor", fontsize=10)


def three_digits(count: float) -> str:
    return EngFormatter(sep="")(float(f"{count:.3g}"))
