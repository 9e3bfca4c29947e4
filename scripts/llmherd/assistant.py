"""Parts of the report on what came of the largest model: post-training, benchmarks, safety."""

import math

from llmdata.page import figure
from llmeval.report import differences, judges, scores
from llmround import report as round_report
from llmround.settings import read_round
from llmround.stages import Plan

from . import charts
from .output import Output
from .pretraining import Part, pictures

SAFETY = ("safety", "memorisation")  # kinds of tasks


def lower(html: str) -> str:
    """Another report's part under a heading of this one."""
    return html.replace("<h2>", "<h3>").replace("</h2>", "</h3>")


def post_training(output: Output) -> Part:
    if not (output.folder / "round").is_dir():
        return None
    made = round_report.Report(Plan(*read_round(output.folder / "files/round.json")))
    names = ("val_loss", "val_accuracy", "val_margin")
    last = {stage.name: {name: round_report.last(round_report.points(made.logs[stage.name], name)) for name in names}
            for stage in made.trained}  # fmt: skip
    return lower(made.training() + made.sampling() + made.held_out()), last


def _tasks(output: Output, of_safety: bool) -> dict | None:
    """results.json of the evaluation, with the tasks of safety or the others."""
    found, named = output.json("evaluation/results.json"), output.settings.get("safety", {}).values()
    tasks = [task for task in found["tasks"] if (task["kind"] in SAFETY or task["name"] in named) == of_safety] if found else []
    return {**found, "tasks": tasks} if tasks else None


def _numbers(found: dict) -> dict:
    names = ("score", "interval", "items", "unit")
    return {task["name"]: {model: {name: summary[name] for name in names} for model, summary in task["models"].items()}
            for task in found["tasks"]}  # fmt: skip


def benchmarks(output: Output) -> Part:
    found = _tasks(output, False)
    if not found:
        return None
    bars = {task["name"]: [tuple(math.nan if value is None else 100 * value for value in (one["score"], one["interval"]))
                           for one in task["models"].values()] for task in found["tasks"] if task["unit"] == "%"}  # fmt: skip
    shown = [figure("Scores with their 95 % intervals", charts.scores(bars, found["models"]))] if bars else []
    pairs = differences(found).replace("<h2>Differences</h2>", "")
    pairs = f"<details><summary>Every two models, on the same items</summary>{pairs}</details>" if pairs else ""
    return f'<div class="wide">{"".join(shown)}</div>' + lower(scores(found)) + pairs, _numbers(found)


def safety(output: Output) -> Part:
    found = _tasks(output, True)
    if not found:
        return None
    points = _trade_off(found, output.settings.get("safety", {}))
    shown = [figure("Violations and false refusals: down and left is better", charts.trade_off(points))] if points else []
    return pictures(shown) + lower(scores(found) + judges(found)), {"tasks": _numbers(found), "trade_off": points}


def _trade_off(found: dict, named: dict) -> dict[str, tuple[float, float]]:
    """(false refusals, violations) in %, of the models that have both. `named`: the tasks that measure them."""
    rates = [next((task["models"] for task in found["tasks"] if task["name"] == named.get(what)), {})
             for what in ("false_refusals", "violations")]  # fmt: skip
    both = [[rate.get(model, {}).get("score") for rate in rates] for model in found["models"]]
    return {model: (100 * x, 100 * y) for model, (x, y) in zip(found["models"], both) if None not in (x, y)}
