"""scripts/scaling.py forecast and fit as commands: what they print and write; accuracy on a task; refusals."""

import html.parser
import json
import math
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

import llmc
import surfaces
from llmdata.errors import InputError
from llmscale import charts
from llmscale.accuracy import Task, fit_many, fit_sigmoid, forecast_task, read_task, sigmoid, task_of_runs
from llmscale.forecast import Value

SCALING = llmc.ROOT / "scripts" / "scaling.py"
SEED = 20261  # of statistics over many draws, so that none of them fails by luck
CHANCE = 0.25
SIGMOID = np.array([1.0, math.log(0.12)])


def call(*words, code=0):
    done = subprocess.run([sys.executable, SCALING, *map(str, words)], capture_output=True, text=True)
    print(done.stdout, done.stderr, file=sys.stderr)
    assert done.returncode == code, done.stderr
    return done


def write_table(path, points, **columns):
    head = ["name", "budget", "flops", "tokens", "parameters", "loss", *columns]
    rows = zip(points.names, points.budget, points.flops, points.tokens, points.parameters, points.loss, *columns.values())
    path.write_text("\n".join([",".join(head), *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


@pytest.fixture
def table(tmp_path):
    return write_table(tmp_path / "runs.csv", surfaces.points(surfaces.law(), np.random.default_rng(1), 0.002))


# ---- the commands


def test_fit_and_forecast_of_a_table(table, tmp_path):
    out = call("fit", table, "--output", tmp_path / "out").stdout
    assert "35 runs; intervals hold 90%" in out and re.search(r"^D\*\(C\) = \S+ C\^0\.5\d+ ", out, re.M)
    fit = json.loads((tmp_path / "out/fit.json").read_text())
    assert len(fit["runs"]) == 35 and fit["parametric"]["alpha"] == pytest.approx(0.34, abs=0.1)
    truth = surfaces.law().best(surfaces.SIX, 1e20)
    found = json.loads(call("forecast", table, "--budget", "5e19,1e20", "--json").stdout)
    assert [one["budget"] for one in found["forecasts"]] == [5e19, 1e20]
    last = found["forecasts"][1]
    assert last["loss"]["value"] == pytest.approx(truth[2], rel=0.01) and last["beyond"] == pytest.approx(1e20 / 1.6e19)
    assert last["loss"]["low"] < last["loss"]["value"] < last["loss"]["high"]
    assert last["parameters"]["value"] == pytest.approx(truth[0], rel=0.5)


def test_runs_that_test_a_forecast_are_no_part_of_the_fit(table, tmp_path):
    points = surfaces.points(surfaces.law(), np.random.default_rng(1), 0.002)
    n, d, loss = surfaces.law().best(surfaces.SIX, 6.4e19)
    text = table.read_text().replace("loss\n", "loss,forecast\n").splitlines()
    rows = [f"near,6.4e19,6.4e19,{d},{n},{loss},true", f"far,6.4e19,6.4e19,{d},{n},{1.1 * loss},true"]
    (tmp_path / "both.csv").write_text("\n".join([text[0], *(line + "," for line in text[1:]), *rows]) + "\n")
    both = json.loads(call("forecast", tmp_path / "both.csv", "--budget", "6.4e19", "--json", "--output", tmp_path / "out").stdout)
    assert [(one["name"], one["forecast"]["low"] < one["loss"] < one["forecast"]["high"]) for one in both["trials"]] == [
        ("near", True),
        ("far", False),
    ]
    alone = json.loads(call("fit", table, "--json").stdout)
    assert both["fit"]["parametric"] == alone["parametric"] and len(both["fit"]["runs"]) == len(points)
    page = (tmp_path / "out/report.html").read_text()
    assert "Runs that test a forecast" in page and "outside</td>" in page and "inside</td>" in page


class Page(html.parser.HTMLParser):
    OPEN = {"meta", "img", "link", "br"}

    def __init__(self, text):
        super().__init__()
        self.stack, self.pictures, self.captions, self.wrong = [], 0, [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.pictures += tag == "img" and dict(attributes)["src"].startswith("data:image/svg+xml;base64,")
        if tag not in self.OPEN:
            self.stack.append(tag)

    def handle_endtag(self, tag):
        if not self.stack or self.stack.pop() != tag:
            self.wrong.append(tag)


def test_report(tmp_path):
    points = surfaces.points(surfaces.law(), np.random.default_rng(1), 0.002)
    points.names[0] = "<script>alert(1)</script>"
    table = write_table(tmp_path / "runs.csv", points)
    task = write_task(tmp_path / "task.csv", made_task(np.random.default_rng(1)))
    call("forecast", table, "--budget", "1e20", "--output", tmp_path / "out", "--task", task)
    text = (tmp_path / "out/report.html").read_text()
    page = Page(text)
    assert not page.stack and not page.wrong and page.pictures == 7
    assert "<script>" not in text and "&lt;script&gt;" in text
    for part in (
        "Parabolas",
        "figure 2",
        "figure 3",
        "figure 4",
        "Parametric law",
        "How far the two disagree",
        "Forecast",
        "Runs",
    ):
        assert part in text


def test_forecast_beside_its_interval_or_without_bounds_is_drawn():
    """Rounding may put the value of an exact line just outside an interval without width."""
    task = made_task(np.random.default_rng(1))
    found = forecast_task(task, 1e23, np.random.default_rng(1), 20)
    value = found.nll.value
    odd = replace(found, nll=Value(value, value + 1e-12, value + 1e-12), accuracy=Value(0.5, -math.inf, math.inf))
    assert "</svg>" in charts.task(task, odd, 1e23)


def test_no_forecast_from_minima_outside_the_grid(tmp_path):
    outside = write_table(tmp_path / "t.csv", surfaces.points(surfaces.law(), shift=2.0))
    done = call("forecast", outside, "--budget", "1e20", code=2)
    assert "no forecast for 1e+20 FLOPs: fewer than two budgets have a minimum inside their grid" in done.stderr
    assert "add a smaller size, of about" in done.stderr and done.stderr.count("\n") == 1
    one = surfaces.points(surfaces.law(), shift=np.array([0, 0, 0, 0, 2.0]))
    out = call("forecast", write_table(tmp_path / "t.csv", one), "--budget", "1e20").stdout
    left_out = r"^left out of the power laws: 1\.6e\+19 FLOPs, minimum above the grid: add a smaller size, of about \S+ parameters$"
    assert re.search(left_out, out, re.M) and "Losses scatter by" in out


def test_bad_options(table, tmp_path):
    assert "--output" in call("fit", table, "--output", table, code=2).stderr
    assert "--seed: '-1': expected a whole number" in call("fit", table, "--seed", "-1", code=2).stderr
    assert "--chance 1: expected" in call("forecast", table, "--budget", "1e20", "--chance", "1", code=2).stderr
    assert "no such file" in call("fit", tmp_path / "none.csv", code=2).stderr.lower()


# ---- accuracy


def made_task(rng, models=10, noise=0.01, others=3, items=2000):
    """The sweep's models and larger ones, of unknown FLOPs."""
    log_flops = np.linspace(19, 22.5, models + others)
    nll = 1.6 - 0.22 * (log_flops - 19) + noise * rng.standard_normal(models + others)
    right = rng.binomial(items, sigmoid(SIGMOID, nll, CHANCE)) / items
    flops = np.where(np.arange(models + others) < models, 10.0**log_flops, np.nan)
    return Task(flops, nll, right, np.full(models + others, float(items)), CHANCE)


def write_task(path, task):
    rows = zip(task.flops, task.nll, task.accuracy, task.items)
    path.write_text(
        "flops,nll,accuracy,items\n" + "".join(f"{'' if math.isnan(f) else f},{n},{a},{i}\n" for f, n, a, i in rows)
    )
    return path


def test_exact_sigmoid_is_found():
    nll = np.linspace(0.6, 1.6, 12)
    accuracy = sigmoid(SIGMOID, nll, CHANCE)
    task = Task(np.full(12, np.nan), nll, accuracy, np.full(12, np.nan), CHANCE)
    assert fit_sigmoid(task, accuracy) == pytest.approx(SIGMOID, abs=1e-6)
    assert sigmoid(SIGMOID, 50.0, CHANCE) == pytest.approx(CHANCE) and sigmoid(SIGMOID, -50.0, CHANCE) == pytest.approx(1)


def test_many_sigmoids_are_those_of_one():
    rng = np.random.default_rng(2)
    task = made_task(rng)
    rows = task.accuracy + 0.01 * rng.standard_normal((5, len(task.nll)))
    assert fit_many(task, rows, SIGMOID) == pytest.approx(np.array([fit_sigmoid(task, row) for row in rows]), abs=1e-5)


def test_accuracy_s_intervals_hold_the_truth():
    """At ten times the FLOPs of the sweep's largest model."""
    print(f"seed {SEED}")
    rng, hits, budget = np.random.default_rng(SEED), [], 10**22.5
    truth_nll = 1.6 - 0.22 * 3.5
    truth = float(sigmoid(SIGMOID, truth_nll, CHANCE))
    for _ in range(200):
        found = forecast_task(made_task(rng), budget, rng, 200)
        hits.append([found.nll.low <= truth_nll <= found.nll.high, found.accuracy.low <= truth <= found.accuracy.high])
    print(np.sum(hits, axis=0))
    assert np.mean(hits, axis=0) == pytest.approx(0.9, abs=0.05)


def test_accuracy_without_items_or_beyond_all_models():
    task = made_task(np.random.default_rng(SEED), noise=0.001, items=10**6)
    plain = Task(task.flops, task.nll, task.accuracy, np.full(len(task.nll), np.nan), CHANCE)
    found = [forecast_task(each, 1e24, np.random.default_rng(1), 50) for each in (task, plain)]
    assert found[0].accuracy.value == pytest.approx(found[1].accuracy.value, abs=0.01) and found[0].outside and found[1].outside
    assert not forecast_task(task, 1e21, np.random.default_rng(1), 50).outside


def scored(name, budget, loss, nll, **changes):
    run = {"name": name, "status": "done", "forecast": False, "budget": budget, "flops": 1.01 * budget, "loss": loss}
    return run | {"tasks": {"t": {"acc": 0.3, "nll": nll, "items": 50}}} | changes


def test_line_is_of_the_best_run_of_each_budget():
    rows = [scored(f"{c}{i}", c, abs(i - 1) + 2 - c / 100, 2 - c / 100 + i) for c in (10, 20, 40) for i in range(3)]
    others = [scored("test", 80, 1, 1, forecast=True), {"name": "bad", "status": "diverged"},
              scored("text", 10, 1, 1, tasks={"t": {"acc": 1}})]  # fmt: skip
    task = task_of_runs("t", rows + others, CHANCE, "plan.json")
    assert len(task.nll) == 9 and set(task.items) == {50}
    assert task.nll[np.isfinite(task.flops)] == pytest.approx([2.9, 2.8, 2.6])
    assert task.flops[np.isfinite(task.flops)] == pytest.approx([10.1, 20.2, 40.4])
    with pytest.raises(InputError, match="--task u: no such file, and no run of plan.json was scored .*, expected one of t"):
        task_of_runs("u", rows + others, CHANCE, "plan.json")
    with pytest.raises(InputError, match='expected runs with "eval_tasks" in "train"'):
        task_of_runs("u", others[2:], CHANCE, "plan.json")
    with pytest.raises(InputError, match="plan.json: task t: 3 models, expected at least 4"):
        task_of_runs("t", rows[:3], CHANCE, "plan.json")


@pytest.mark.parametrize("text, reason", [
    ("flops,nll,accuracy\n1e20,1,0.5\n", "1 models, expected at least 4 for a sigmoid"),
    ("nll,accuracy\n" + "1,0.5\n" * 5, "0 models with flops, expected at least 3 for a line"),
    ("flops,nll,accuracy\n" + "1e20,1,55\n" * 5, "accuracy: expected 0 to 1, found 55 to 55"),
    ("flops,nll,accuracy\n" + "1e20,x,0.5\n" * 5, "row 1: nll: expected a number, found 'x'"),
])  # fmt: skip
def test_bad_task(tmp_path, text, reason):
    (tmp_path / "task.csv").write_text(text)
    with pytest.raises(InputError, match=re.escape(reason)):
        read_task(tmp_path / "task.csv", CHANCE)
