#!/usr/bin/env python3
"""Draws the loss curves of one or more runs.

    plot.py runs/quickstart                          one run: its folder, or its log.jsonl
    plot.py runs/a runs/b --output ab.png --x tokens
    plot.py runs/quickstart --reference unigram=6.47
    plot.py --recipe recipes/mini.json --output mini.png      no run: the stages that a recipe describes
    plot.py runs/before runs/after --needles         a heat map of needles in a haystack, a panel for each run

The training loss is drawn twice, faint as it was and bold smoothed; validation losses are dots. --reference draws horizontal
lines. Without it, the unigram model's validation loss is drawn if the run's folder holds a copy of the data's meta.json. A
reference so far off that the curves would look flat appears only in the legend. Accuracies of --eval-tasks have a panel of their
own, with bars of one standard error in both directions. --needles draws what a model finds of the needles that prepare_eval.py made,
by length and depth: of each length the last scores in the log, or the last up to --step.

--recipe draws batch, length, learning rate and mixture over a recipe's tokens, and needs a built library (make TARGET=cpu).

Exit codes: 0 done; 2 bad usage, a bad recipe, or a log without a loss; 1 anything else.
"""

import argparse
import json
import math
import sys
from dataclasses import dataclass, field
from pathlib import Path

from llmdata import program

program.begin()

import matplotlib.pyplot as plt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.ticker import EngFormatter, MaxNLocator

from llmdata.errors import Fault, InputError
from llmdata.options import add_version, check_bounds
from llmdata.text_file import read_lines, read_object
from llmplot import heat_map
from llmplot.run_log import log_of, run_of
from llmplot.style import COLOURS, INK, begin, style
from llmplot.timeline import draw_timeline

TOKENS, PAIRS = "nats per token", "mean over pairs"  # units of a loss: of tokens; of comparisons, in DPO, IPO and reward models
FEW = 40  # up to so many points, each is marked


@dataclass
class Run:
    name: str
    path: Path
    train: list[tuple[float, float]] = field(default_factory=list)
    val: list[tuple[float, float]] = field(default_factory=list)
    unit: str = TOKENS
    tasks: dict[str, list[tuple[float, float, float]]] = field(default_factory=dict)  # (x, accuracy, standard error)
    not_finite: int = 0
    unreadable: int = 0


def read_run(name: str, axis: str) -> Run:
    """Reads DIR/log.jsonl or a log file. Lines that are not JSON are counted (a run that was killed leaves half a line)."""
    path = log_of(name)
    run = Run(run_of(path), path)
    tokens_at_step: dict[int, float] = {}
    for _, line, _ in read_lines(path):
        read_line(run, line, axis, tokens_at_step)
    if not run.train and not run.val:
        raise InputError(f'{path}: no line with a finite "loss" or "val_loss"')
    run.train.sort()
    run.val.sort()
    return run


def read_line(run: Run, line: bytes, axis: str, tokens_at_step: dict[int, float]) -> None:
    try:
        entry = json.loads(line.decode("utf-8", errors="replace"))
    except ValueError:
        run.unreadable += 1
        return
    if not isinstance(entry, dict) or not is_number(entry.get("step")):
        return
    if is_number(entry.get("tokens")):
        tokens_at_step[entry["step"]] = entry["tokens"]
    x = entry["step"] if axis == "steps" else tokens_at_step.get(entry["step"])
    if isinstance(entry.get("task"), str) and x is not None and is_number(entry.get("acc")):
        error = entry.get("acc_stderr")
        run.tasks.setdefault(entry["task"], []).append((x, entry["acc"], error if is_number(error) else 0.0))
    if "margin" in entry or "val_margin" in entry:
        run.unit = PAIRS
    for key, points in (("loss", run.train), ("val_loss", run.val)):
        if key not in entry:
            continue
        if x is not None and is_number(entry[key]):
            points.append((x, entry[key]))
        else:
            run.not_finite += 1


def is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def smooth(points: list[tuple[float, float]], window: int) -> list[tuple[float, float]]:
    """The mean over `window` points around each, so that the curve does not lag.

    Fewer are used near the steep beginning, and at most an eighth of all, since a short curve would come out flat.
    """
    half = max(0, min(window, len(points) // 8) // 2)
    result = []
    for index, (x, _) in enumerate(points):
        around = points[index - min(half, index) : index + min(half, index) + 1]
        result.append((x, sum(y for _, y in around) / len(around)))
    return result


def find_references(given: list[str], runs: list[Run]) -> dict[str, float]:
    references = {}
    for text in given:
        name, separator, value = text.rpartition("=")
        try:
            references[name] = float(value)
        except ValueError:
            separator = ""
        if not separator or not name or not math.isfinite(references[name]):
            raise InputError(f"--reference {text}: expected NAME=VALUE")
    return references or unigram_of_runs(runs)


def unigram_of_runs(runs: list[Run]) -> dict[str, float]:
    values = set()
    for run in runs:
        if run.unit != TOKENS:
            continue
        try:
            value = read_object(run.path.parent / "meta.json").get("unigram_val_loss")
        except InputError:
            continue
        if is_number(value):
            values.add(value)
    return {"unigram model": values.pop()} if len(values) == 1 else {}


def draw(runs: list[Run], references: dict[str, float], options: argparse.Namespace) -> None:
    begin()
    with_tasks = any(run.tasks for run in runs)
    panels = {"nrows": 2, "sharex": True, "height_ratios": [2.2, 1]} if with_tasks else {}
    size = (9, 7.4) if with_tasks else (9, 5.2)
    figure, axes = plt.subplots(figsize=size, dpi=options.dpi, layout="constrained", **panels)
    if with_tasks:
        axes, below = axes
        draw_tasks(below, runs)
        style(below)
    for index, run in enumerate(runs):
        draw_run(axes, run, COLOURS[index % len(COLOURS)], options.smooth, alone=len(runs) == 1)
    low, high = loss_range(runs, references)
    draw_references(axes, references, low, high)
    axes.set_ylim(low, high)
    set_steps(axes, runs)
    lowest = below if with_tasks else axes
    lowest.set_xlabel("optimizer steps" if options.x == "steps" else "training tokens")
    axes.set_ylabel(f"loss ({', or '.join(sorted({run.unit for run in runs}, reverse=True))})")
    axes.set_title(options.title or ", ".join(run.name for run in runs), loc="left", fontweight="bold", fontsize=13)
    axes.legend(frameon=False, loc="best")
    style(axes)
    figure.savefig(options.output)


def set_steps(axes, runs: list[Run]) -> None:
    """Lets the axis begin at 0, unless all curves begin late, as in the log of a run that continues another."""
    steps = [x for run in runs for x, *_ in [*run.train, *run.val, *(point for points in run.tasks.values() for point in points)]]
    first, last = min(steps), max(steps)
    room = 0.04 * (last - first) or 1
    axes.set_xlim(0 if first < last / 2 or first == last else first - room, last + room)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def draw_tasks(axes, runs: list[Run]) -> None:
    """One colour per task, and one marker per run."""
    names = sorted({name for run in runs for name in run.tasks})
    for index, run in enumerate(runs):
        for name, points in run.tasks.items():
            x, accuracy, error = zip(*sorted(points))
            label = f"{name if len(runs) == 1 else f'{run.name}: {name}'}, {accuracy[-1]:.3f}"
            colour = COLOURS[(names.index(name) + 2) % len(COLOURS)]
            axes.errorbar(x, accuracy, error, color=colour, marker="osD^v"[index % 5], markersize=4, linewidth=1.2,
                          elinewidth=0.8, capsize=2, label=label)  # fmt: skip
    axes.set_ylabel("accuracy")
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=9)


def draw_run(axes, run: Run, colour: str, window: int, alone: bool) -> None:
    prefix = "" if alone else f"{run.name}: "
    if run.train:
        axes.plot(*zip(*run.train), color=colour, alpha=0.22, linewidth=0.8)
        last = smooth(run.train, window)
        marker = "o" if len(last) <= FEW else None
        label = f"{prefix}training, {last[-1][1]:.3f}"
        axes.plot(*zip(*last), color=colour, linewidth=1.8, marker=marker, markersize=4, label=label)
    if run.val:
        label = f"{prefix}validation, {run.val[-1][1]:.3f}"
        val_colour = COLOURS[1] if alone else colour
        axes.plot(*zip(*run.val), color=val_colour, linewidth=0.8, linestyle=":", zorder=3)
        axes.scatter(*zip(*run.val), s=26, color=val_colour, edgecolors="white", linewidths=0.8, zorder=4, label=label)


def draw_references(axes, references: dict[str, float], low: float, high: float) -> None:
    for name, value in references.items():
        beyond = " (below)" if value < low else " (above)" if value > high else ""
        label = f"{name}, {value:.3f}{beyond}"
        axes.axhline(value, color=INK, linewidth=1, linestyle=(0, (6, 4)), alpha=0.7, zorder=2, label=label)


def loss_range(runs: list[Run], references: dict[str, float]) -> tuple[float, float]:
    """The range of the vertical axis: all of the curves, except for a few values (a spike) far above nine tenths of them, which
    would flatten the rest; and those references that leave the curves at least a third of the height."""
    values = sorted(y for run in runs for _, y in run.train + run.val)
    first = [points[0][1] for run in runs for points in (run.train, run.val) if points]
    low, usual = values[0], values[math.ceil(0.9 * (len(values) - 1))]
    top = max(*first, *(y for y in values if y <= usual + 2 * (usual - low)))
    height = top - low
    for value in sorted(references.values(), key=lambda value: max(value - top, low - value)):
        if max(top, value) - min(low, value) <= 3 * height:
            low, top = min(low, value), max(top, value)
    margin = 0.06 * (top - low) or 0.05 * abs(top) or 0.5
    return low - margin, top + margin


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_version(parser)
    parser.add_argument("runs", nargs="*", metavar="RUN", help="a run's folder, or a log file")
    parser.add_argument("--recipe", type=Path, metavar="FILE", help="draw this recipe's timeline")
    parser.add_argument("--output", type=Path, metavar="PNG",
                        help="picture to write (default: loss.png beside the first run's log; with --recipe, the recipe's "
                             "name with .png in the working folder)")  # fmt: skip
    parser.add_argument("--x", choices=["steps", "tokens"], default="steps", help="horizontal axis (default: %(default)s)")
    parser.add_argument("--smooth", type=int, default=25, metavar="N",
                        help="steps to average the training loss over; at most an eighth of all are used "
                             "(default: %(default)s)")  # fmt: skip
    parser.add_argument("--reference", action="append", default=[], metavar="NAME=VALUE",
                        help="draw a horizontal line; may be given several times")  # fmt: skip
    parser.add_argument("--needles", action="store_true", help="draw a heat map of needles (default output: needles.png beside the log)")
    parser.add_argument("--measure", choices=list(heat_map.MEASURES), default="exact_match",
                        help="what --needles shows (default: %(default)s)")  # fmt: skip
    parser.add_argument("--step", type=int, metavar="N", help="with --needles: scores up to this step")
    parser.add_argument("--title", help="title of the picture (default: the runs' names)")
    parser.add_argument("--dpi", type=int, default=150, metavar="N", help="dots per inch (default: %(default)s)")
    return parser.parse_args()


def check_options(options: argparse.Namespace) -> None:
    check_bounds(options, {"dpi": (1, 2400)})
    if bool(options.runs) == bool(options.recipe):
        raise InputError("expected runs, or --recipe FILE, and not both")
    kinds, kind = FigureCanvasAgg.filetypes, options.output.suffix[1:].lower() if options.output else ""
    if kind and kind not in kinds:
        raise InputError(f"--output {options.output}: expected a name that ends in one of .{', .'.join(sorted(kinds))}")


def draw_needles(options: argparse.Namespace) -> None:
    options.output = options.output or log_of(options.runs[0]).parent / "needles.png"
    draw = lambda: heat_map.draw(options.runs, options.measure, options.step, options.output, options.title, options.dpi)  # noqa: E731
    write(draw, options.output)


def run(options: argparse.Namespace) -> None:
    check_options(options)
    if options.recipe:
        options.output = options.output or Path(options.recipe.stem + ".png")
        write(lambda: draw_timeline(options.recipe, options.output, options.title, options.dpi), options.output)
    elif options.needles:
        draw_needles(options)
    else:
        draw_runs(options)
    print(options.output)


def draw_runs(options: argparse.Namespace) -> None:
    runs = [read_run(name, options.x) for name in options.runs]
    references = find_references(options.reference, runs)
    options.output = options.output or runs[0].path.parent / "loss.png"
    write(lambda: draw(runs, references, options), options.output)
    for one in runs:
        if one.not_finite or one.unreadable:
            print(f"{one.path}: left out {one.not_finite} values that are not finite, {one.unreadable} unreadable lines")


def write(draw_it, output: Path) -> None:
    try:
        draw_it()
    except OSError as error:
        raise Fault(f"{output}: {error.strerror or error}") from None


def main() -> int:
    options = parse_arguments()
    return program.run(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
