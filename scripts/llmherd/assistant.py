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
    numbers = {stage.name: {name: found[-1][1] for name in ("val_loss", "val_accuracy", "val_margin")
                            if (found := round_report.points(made.logs[stage.name], name))} for stage in made.trained}  # fmt: skip
    return lower(made.training() + made.sampling() + made.held_out()), numbers


def _tasks(output: Output, wanted) -> dict | None:
    """results.json of the evaluation, with the tasks that are wanted."""
    found = output.json("evaluation/results.json")
    tasks = [task for task in found["tasks"] if wanted(task)] if found else []
    return {**found, "tasks": tasks, "judges": found["judges"]} if tasks else None


def _numbers(found: dict) -> dict:
    names = ("score", "interval", "items", "unit")
    return {task["name"]: {model: {name: summary[name] for name in names} for model, summary in task["models"].items()}
            for task in found["tasks"]}  # fmt: skip


def benchmarks(output: Output) -> Part:
    found = _tasks(output, lambda task: task["kind"] not in SAFETY)
    if not found:
        return None
    bars = {task["name"]: [tuple(math.nan if value is None else 100 * value for value in (one["score"], one["interval"]))
                           for one in task["models"].values()] for task in found["tasks"] if task["unit"] == "%"}  # fmt: skip
    shown = [figure("Scores with their 95 % intervals", charts.scores(bars, found["models"]))] if bars else []
    return f'<div class="wide">{"".join(shown)}</div>' + lower(scores(found)) + _pairs(found), _numbers(found)


def _pairs(found: dict) -> str:
    table = differences(found).replace("<h2>Differences</h2>", "")
    return f"<details><summary>Every two models, on the same items</summary>{table}</details>" if table else ""


def safety(output: Output) -> Part:
    found = _tasks(output, lambda task: task["kind"] in SAFETY)
    if not found:
        return None
    points = _trade_off(found)
    shown = [figure("Violations and false refusals: down and left is better", charts.trade_off(points))] if points else []
    return pictures(shown) + lower(scores(found) + judges(found)), _numbers(found)


def _trade_off(found: dict) -> dict[str, tuple[float, float]]:
    """(false refusals, violations) in %, of the models that have both."""
    rates = {task["settings"]["measure"]: task["models"] for task in found["tasks"] if task["kind"] == "safety"}
    both = [rates.get("refusals"), rates.get("violations")]
    if None in both:
        return {}
    return {model: tuple(100 * rate[model]["score"] for rate in both)
            for model in found["models"] if all(rate[model]["score"] is not None for rate in both)}  # fmt: skip
