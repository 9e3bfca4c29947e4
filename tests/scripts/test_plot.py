"""scripts/plot.py: draws what a run wrote, whatever state the log is in, or says in one line why not."""

import argparse
import json
import math
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from checkout import script
from pictures import has_colour, pixels

PLOT = script("plot")
import plot as module  # noqa: E402


def plot(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, PLOT, *map(str, arguments)], capture_output=True, text=True, timeout=600)


def write_run(folder: Path, end: str = "") -> Path:
    folder.mkdir(parents=True)
    lines = []
    for step in range(1, 61):
        loss = math.nan if step == 7 else 3 + 4 * math.exp(-step / 20) + random.gauss(0, 0.1)
        lines.append(json.dumps({"step": step, "loss": loss, "tokens": 100 * step}))
        if step % 20 == 0:
            lines.append(json.dumps({"step": step, "val_loss": 3.2 + 4 * math.exp(-step / 20)}))
    (folder / "log.jsonl").write_text("\n".join(lines) + "\n" + end)
    return folder


def test_one_run_cut_short(tmp_path):
    run = write_run(tmp_path / "a", end='{"step": 61, "lo')
    (run / "meta.json").write_text('{"unigram_val_loss": 6.5}')
    result = plot(run)
    assert result.returncode == 0, result.stderr
    assert "left out 1 values that are not finite, 1 unreadable lines" in result.stdout
    assert has_colour(run / "loss.png", "#2563eb") and has_colour(run / "loss.png", "#ea580c")


def test_task_accuracies(tmp_path):
    """A second panel, with a colour for each task; without a standard error (one item), and perplexities, too."""
    run = write_run(tmp_path / "a")
    before = plot(run, "--output", tmp_path / "plain.png")
    assert before.returncode == 0
    lines = [{"step": s, "task": t, "acc": s / 80, "acc_stderr": e} for s in (20, 40) for t, e in (("one", 0.02), ("two", None))]
    lines += [{"step": 20, "task": "text", "bits_per_byte": 1.2}, {"step": 40, "task": "one", "acc": None}]
    with open(run / "log.jsonl", "a") as log:
        log.write("".join(json.dumps(line) + "\n" for line in lines))
    result = plot(run, "--x", "tokens")
    assert result.returncode == 0, result.stderr
    assert has_colour(run / "loss.png", "#059669") and has_colour(run / "loss.png", "#9333ea")
    assert not has_colour(tmp_path / "plain.png", "#059669")
    assert pixels(run / "loss.png").shape[0] > pixels(tmp_path / "plain.png").shape[0]


@pytest.mark.parametrize("axis", ["steps", "tokens"])
def test_two_runs(tmp_path, axis):
    runs = [write_run(tmp_path / "a"), write_run(tmp_path / "b") / "log.jsonl"]
    result = plot(*runs, "--x", axis, "--output", tmp_path / "two.png", "--reference", "unigram=6.5")
    assert result.returncode == 0, result.stderr
    assert has_colour(tmp_path / "two.png", "#2563eb") and has_colour(tmp_path / "two.png", "#ea580c")


@pytest.mark.parametrize(
    "content", ["", "\n", '{"step": 1, "loss": NaN}\n', '{"step": 1, "lo', '[1, 2]\n"x"\n', '{"loss": 3}\n', '{"step": 1, "loss": "x"}\n']
)
def test_log_without_loss(tmp_path, content):
    (tmp_path / "log.jsonl").write_text(content)
    result = plot(tmp_path)
    assert result.returncode == 2 and result.stderr.count("\n") == 1, result.stderr
    assert str(tmp_path / "log.jsonl") in result.stderr
    assert not (tmp_path / "loss.png").exists()


def test_bad_usage(tmp_path):
    run = write_run(tmp_path / "a")
    assert "no such file" in plot(tmp_path / "none").stderr
    assert "expected NAME=VALUE" in plot(run, "--reference", "x=y").stderr
    assert plot(run, "--reference", "6.5").returncode == 2
    assert plot(run, "--output", tmp_path / "none" / "x.png").returncode == 1
    for option, value, expected in (("--dpi", "0", "expected 1 to"), ("--output", tmp_path / "x.bogus", ".png, ")):
        result = plot(run, option, value)
        assert result.returncode == 2 and result.stderr.count("\n") == 1 and expected in result.stderr, result.stderr


# ---- what the panel shows


def drawn(tmp_path, *logs, references=(), axis="steps"):
    """The panel of the losses, of runs whose logs have these lines."""
    for number, lines in enumerate(logs):
        folder = tmp_path / f"run{number}"
        folder.mkdir(exist_ok=True)
        (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    runs = [module.read_run(str(tmp_path / f"run{number}"), axis) for number in range(len(logs))]
    options = argparse.Namespace(dpi=50, smooth=25, x=axis, title=None, output=tmp_path / "loss.png")
    module.draw(runs, module.find_references(list(references), runs), options)
    return module.plt.gcf().axes[0]


def plain(*losses, first=1):
    return [{"step": first + i, "loss": loss, "tokens": 7 * (first + i)} for i, loss in enumerate(losses)]


def compared(*losses):
    return [line | {"accuracy": 0.5, "margin": 0.1, "reward_chosen": 0.1, "reward_rejected": 0} for line in plain(*losses)]


@pytest.mark.parametrize("logs, unit", [
    ([plain(3, 2)], "(nats per token)"),
    ([compared(0.7, 0.6)], "(mean over pairs)"),
    ([[{"step": 1, "val_loss": 0.7, "val_accuracy": 0.5, "val_margin": 0}]], "(mean over pairs)"),
    ([compared(0.7, 0.6), plain(3, 2)], "(nats per token, or mean over pairs)"),
])  # fmt: skip
def test_unit_of_the_loss(tmp_path, logs, unit):
    assert drawn(tmp_path, *logs).get_ylabel() == f"loss {unit}"


def test_unigram_loss_is_none_of_pairs(tmp_path):
    for lines, count in ((plain(6, 5), 1), (compared(0.7, 0.6), 0)):
        (tmp_path / "run0").mkdir(exist_ok=True)
        (tmp_path / "run0/meta.json").write_text('{"unigram_val_loss": 5.5}')
        names = [text.get_text() for text in drawn(tmp_path, lines).get_legend().get_texts()]
        assert sum("unigram" in name for name in names) == count


@pytest.mark.parametrize("count", [1, 2, 3, 12, 40])
def test_a_short_curve_is_seen_whole(tmp_path, count):
    """Not averaged until it is flat, each point marked and inside, and half the panel high even beside a reference far off."""
    values = [random.uniform(1.9, 2.1) for _ in range(count)]
    values[-1] = 2.2  # the highest comes last
    axes = drawn(tmp_path, plain(*values), references=["unigram=60"])
    strong = max(axes.get_lines(), key=lambda line: line.get_linewidth())
    assert strong.get_marker() == "o" and len(strong.get_xdata()) == count
    if count < 16:
        assert list(strong.get_ydata()) == values
    low, high = axes.get_ylim()
    assert low < min(values) and max(values) < high
    assert count == 1 or max(values) - min(values) > 0.5 * (high - low)
    left, right = axes.get_xlim()
    assert left <= 1 and count < right
    assert "unigram, 60.000 (above)" in [text.get_text() for text in axes.get_legend().get_texts()]


def test_a_spike_does_not_flatten_the_rest(tmp_path):
    values = [2 + 0.01 * i for i in range(30, 0, -1)]
    values[13] = 500
    low, high = drawn(tmp_path, plain(*values), references=["near=1.9"]).get_ylim()
    assert 1.8 < low < 1.9 and 2.3 < high < 2.4


def test_a_run_that_begins_late_uses_the_width(tmp_path):
    left, right = drawn(tmp_path, plain(2, 3, 2, first=1000)).get_xlim()
    assert 990 < left < 1000 and 1002 < right < 1010


# ---- needles


def needle_line(step, length, found, depths=(0, 50, 100)):
    cells = [{"depth": depth, "items": 4, "exact_match": value, "acc": 1 - value} for depth, value in zip(depths, found)]
    return {"step": step, "task": f"needle_{length}", "items": 12, "exact_match": 0.5, "acc": 0.5, "length": length, "cells": cells}


def heat_map(tmp_path, *logs, measure="exact_match", step=None):
    """The tables of all panels, [depth][length] each."""
    for number, lines in enumerate(logs):
        (tmp_path / f"run{number}").mkdir(exist_ok=True)
        (tmp_path / f"run{number}/log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 9, "ta')
    names = [str(tmp_path / f"run{number}") for number in range(len(logs))]
    module.heat_map.draw(names, measure, step, tmp_path / "x.png", None, 50)
    return [axis.images[0].get_array().tolist() for axis in module.plt.gcf().axes if axis.images and axis.get_xlabel()]


def test_needles(tmp_path):
    """Depths downwards, lengths to the right, of each the last scores; what another run has alone stays empty."""
    first = [needle_line(1, 64, [0, 0, 0]), needle_line(2, 256, [0.25, 0, 1]), needle_line(3, 64, [1, 0.5, 0])]
    other = [needle_line(3, 64, [1], depths=(25,))]
    assert heat_map(tmp_path, first) == [[[1, 0.25], [0.5, 0], [0, 1]]]
    assert heat_map(tmp_path, first, measure="acc") == [[[0, 0.75], [0.5, 1], [1, 0]]]
    assert heat_map(tmp_path, first, step=2) == [[[0, 0.25], [0, 0], [0, 1]]]
    assert heat_map(tmp_path, first, other) == [[[1, 0.25], [None, None], [0.5, 0], [0, 1]], [[None, None], [1, None], [None, None], [None, None]]]


def test_needles_by_command(tmp_path):
    """Of a log without a loss, as --eval-only leaves it; refused where there are none."""
    (tmp_path / "log.jsonl").write_text(json.dumps(needle_line(7, 64, [1, 0, 1])) + "\n")
    result = plot(tmp_path, "--needles")
    assert result.returncode == 0 and result.stdout == f"{tmp_path}/needles.png\n", result.stderr
    assert has_colour(tmp_path / "needles.png", "#fde725") and has_colour(tmp_path / "needles.png", "#440154")
    for arguments in ((write_run(tmp_path / "a"), "--needles"), (tmp_path, "--needles", "--step", 6)):
        result = plot(*arguments)
        assert result.returncode == 2 and "no line with scores of needles" in result.stderr and result.stderr.count("\n") == 1
