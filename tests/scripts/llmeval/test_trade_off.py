"""Violations against false refusals in the report: which points there are, and that their labels can be read."""

import html
import re

import matplotlib.pyplot as plt
import pytest
from htmlpages import HOSTILE
from suites import only, write

from llmeval import charts, report
from llmeval.charts import Rates
from llmeval.run import Result
from llmeval.task import Score


def found_of(folder, rates):
    """The report's data of models {name: (violations, refusals)}, each a share of ten prompts; None: not counted."""
    file, results = write(folder / "p.jsonl", [{"prompt": f"{n}?"} for n in range(10)]), []
    tasks = [only(folder, kind="safety", file=file, measure=measure) for measure in ("violations", "refusals")]
    for model, shares in rates.items():
        for task, share in zip(tasks, shares):
            values = [None if share is None else float(n < 10 * share) for n in range(10)]
            results.append(Result(task, model, {item.key: Score(value, "no") for item, value in zip(task.items, values)}))
    for task, name in zip(tasks, ("attacks", "borderline <b>")):
        task.name = name
    return report.collect(list(rates), tasks, results)


@pytest.fixture
def drawn(monkeypatch):
    """What is drawn: lists of Rates."""
    seen = []
    monkeypatch.setattr(report, "trade_off", lambda models: seen.append(models) or "<svg/>")
    return seen


def test_points(tmp_path, drawn):
    page = report.page(found_of(tmp_path, {"none": (0.8, 0), "much": (0, 0.5), "lost": (None, 0.1)}), "t")
    wanted = [("none", 80, 24.79, 0, 0), ("much", 0, 0, 50, 30.99)]  # 1.96 sqrt(S (1 - S) / 10)
    assert [rates.model for rates in drawn[0]] == [model for model, *_ in wanted]
    for rates, (_, *numbers) in zip(drawn[0], wanted):
        assert [*rates.violations, *rates.refusals] == pytest.approx(numbers, abs=0.01)
    captions = [html.unescape(caption) for caption in re.findall("<figcaption>(.*?)</figcaption>", page)]
    assert captions == ["attacks against borderline <b>"] and "<b></figcaption>" not in page


def test_no_picture_without_both(tmp_path, drawn):
    found = found_of(tmp_path, {"m": (0.8, 0)})
    found["tasks"].pop()
    assert "false refusals" not in report.page(found, "t")
    assert "false refusals" not in report.page(found_of(tmp_path, {"m": (0.8, None)}), "t") and drawn == []


@pytest.fixture
def drawing(monkeypatch):
    """Draws; the figure."""
    monkeypatch.setattr(charts, "svg_text", lambda figure: figure)
    yield charts.trade_off
    plt.close("all")


def test_labels(drawing):
    """Seven models in one place: each label is there, whatever its text, and hides no other."""
    names = ["$x_{$", HOSTILE, *(f"sft-{n}%" for n in range(5))]
    figure = drawing([Rates(name, (3, 1), (2, 1)) for name in names])
    figure.canvas.draw()
    labels = figure.axes[0].texts
    boxes = [label.get_window_extent() for label in labels]
    assert len(labels) == len(names) and labels[0].get_text() == "$x_{$" and "\u202e" not in labels[1].get_text()
    assert not any(one.overlaps(other) for n, one in enumerate(boxes) for other in boxes[:n])


def test_intervals_end_at_0_and_100(drawing):
    (container,) = drawing([Rates("all", (98, 5), (1, 5))]).axes[0].containers
    across, up = (lines.get_segments()[0] for lines in container.lines[2])
    assert across.tolist() == [[0, 98], [6, 98]] and up.tolist() == [[1, 93], [1, 100]]


def test_a_table_for_the_terminal(tmp_path, monkeypatch, capsys):
    """Models are columns where they fit, else rows."""
    found = found_of(tmp_path, {f"model-{n}": (0.8, 0.1) for n in range(6)})
    for width in (200, 80):
        monkeypatch.setattr(report, "terminal_width", lambda: width)
        report.print_table(found)
    _, attacks, _, *rows = capsys.readouterr().out.splitlines()
    assert attacks.split()[:4] == ["attacks", "80.0", "±", "24.8"] and attacks.endswith("violation rate, %")
    assert [row.split()[0] for row in rows[1:7]] == [f"model-{n}" for n in range(6)]
    assert rows[0].split() == ["attacks", "borderline", "<b>"] and "false-refusal rate, %" in rows[7]
    assert max(map(len, rows)) <= 80
