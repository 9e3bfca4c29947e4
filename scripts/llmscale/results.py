"""The commands fit and forecast: what they print, and the files that they write."""

import argparse
import json

from llmdata.errors import InputError
from llmdata.output import write_json
from llmplan.tables import say

from .accuracy import forecast_task, read_task, task_of_runs
from .fit_tables import between, four, print_fit, print_forecast, print_left_out, print_trials
from .fitted import as_json, finite, fit_all, need_laws
from .forecast import forecast as forecast_of
from .planning import plan_runs
from .points import Points, points_of_sweep, points_of_table, rows_of_sweep, write_table
from .report import Report
from .settings import read_settings


def read_points(options: argparse.Namespace) -> tuple[Points, list[dict]]:
    """The points, and all that is known of the runs of a plan."""
    if options.file.suffix.lower() in (".csv", ".jsonl"):
        return points_of_table(options.file), []
    settings = read_settings(options.file)
    options.output = options.output or settings.output
    rows = rows_of_sweep(settings, plan_runs(settings))
    points = points_of_sweep(settings, rows)
    options.output.mkdir(parents=True, exist_ok=True)
    write_table(options.output / "runs.csv", rows)
    return points, rows


def write_results(options: argparse.Namespace, result: dict, report: Report, name: str) -> None:
    """Prints JSON if it is wanted, and writes both files if there is a folder for them."""
    result = finite(result)
    if options.json:
        print(json.dumps(result, indent=1))
    if options.output is None:
        return
    options.output.mkdir(parents=True, exist_ok=True)
    write_json(options.output / f"{name}.json", result)
    report.write(options.output / "report.html")
    if not options.json:
        print(f"\n{options.output / 'report.html'}")


def fit(options: argparse.Namespace) -> None:
    fitted = fit_all(read_points(options)[0], options.seed)
    if not options.json:
        print_fit(fitted.points, fitted.isoflop, fitted.parametric, fitted.disagreement_text)
    write_results(options, as_json(fitted), Report(str(options.file), fitted, []), "fit")


def forecast(options: argparse.Namespace) -> None:
    if not 0 <= options.chance < 1:
        raise InputError(f"--chance {options.chance:g}: expected 0 to less than 1")
    task = None
    points, rows = read_points(options)
    if options.task and (options.task.is_file() or not rows):
        task = read_task(options.task, options.chance)
    elif options.task:
        task = task_of_runs(str(options.task), rows, options.chance, points.source)
    fitted = fit_all(points, options.seed, max(options.budget))
    need_laws(fitted, max(options.budget))
    rng = fitted.rng()
    found = [forecast_of(fitted.isoflop, fitted.parametric, points.cost, budget, fitted.largest, rng) for budget in options.budget]
    tasks = [forecast_task(task, budget, rng) for budget in options.budget] if task else []
    trials = fitted.trials()
    if not options.json:
        print_left_out(points, fitted.isoflop)
        for index, one in enumerate(found):
            print_forecast(one)
            if tasks:
                note = " (nll beyond the models of the sigmoid)" if tasks[index].outside else ""
                print(f"  accuracy  {between(tasks[index].accuracy, four)} at nll {between(tasks[index].nll, four)}{note}")
        print_trials(trials)
        say(fitted.disagreement_text)
    result = {"forecasts": found, "tasks": tasks, "trials": trials, "fit": as_json(fitted)}
    report = Report(str(options.file), fitted, found, (task, tasks[-1]) if task else None)
    write_results(options, result, report, "forecast")
