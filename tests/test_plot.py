"""scripts/plot.py: draws what a run wrote, whatever state the log is in, or says in one line why not."""

import json
import math
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

PLOT = Path(__file__).resolve().parent.parent / "scripts" / "plot.py"


def plot(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, PLOT, *map(str, arguments)], capture_output=True, text=True, timeout=120)


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


def pixels(path: Path) -> np.ndarray:
    from matplotlib.image import imread

    return (imread(path)[..., :3] * 255).round().astype(int)


def has_colour(path: Path, colour: str) -> bool:
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return (abs(pixels(path) - wanted).max(-1) < 3).sum() > 20


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
