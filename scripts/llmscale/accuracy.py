"""From compute to accuracy on a task (Llama 3 paper, section 3.2.1, figure 4), in two steps.

    1. The normalised negative log-likelihood of the right answer is a straight line in log10 FLOPs, fitted on the sweep's models.
    2. Accuracy is a sigmoid of that likelihood, from chance to 1: chance + (1 - chance) / (1 + exp((nll - middle) / width)),
       fitted on all models, also those trained elsewhere, whose FLOPs need not be known.

The models are those of a sweep that was trained with --eval-tasks, or stand in a table with the columns nll and
accuracy, and flops for the models of step 1; items, the questions behind an accuracy, weighs it.
"""

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares

from llmdata.errors import InputError
from llmdata.text_file import read_text

from .forecast import Value
from .resample import fit_rows, interval, noise_draws, studentized
from .run import DONE

DRAWS = 400
LEAST_LINE, LEAST_SIGMOID = 3, 4


@dataclass
class Task:
    flops: np.ndarray  # NaN: unknown, the model is used for the sigmoid alone
    nll: np.ndarray
    accuracy: np.ndarray
    items: np.ndarray  # NaN: unknown
    chance: float


@dataclass
class TaskForecast:
    nll: Value
    accuracy: Value
    line: tuple[float, float]  # slope by log10 FLOPs, offset
    sigmoid: tuple[float, float]  # middle, log width
    outside: bool  # whether nll lies beyond those that the sigmoid was fitted on


def read_task(path: Path, chance: float) -> Task:
    rows = list(csv.DictReader(io.StringIO(read_text(path))))
    columns = {name: np.array([_number(path, i, name, row.get(name), name in ("nll", "accuracy")) for i, row in enumerate(rows, 1)])
               for name in ("flops", "nll", "accuracy", "items")}  # fmt: skip
    return checked(Task(*columns.values(), chance), str(path))


def task_of_runs(name: str, rows: list[dict], chance: float, place: str) -> Task:
    """Of a sweep whose runs were scored on the task. As in the paper, the line is that of compute-optimal models: the best run of
    each budget."""
    scored = [row for row in rows if row["status"] == DONE and not row["forecast"] and "nll" in row["tasks"].get(name, {})]
    if not scored:
        found = sorted({task for row in rows for task, line in row.get("tasks", {}).items() if "nll" in line})
        raise InputError(f"--task {name}: no such file, and no run of {place} was scored on such a task, expected "
                         + (f"one of {', '.join(found)}" if found else 'runs with "eval_tasks" in "train"'))  # fmt: skip
    best = {row["budget"]: row["name"] for row in sorted(scored, key=lambda row: -row["loss"])}
    columns = [(row["flops"] if best[row["budget"]] == row["name"] else math.nan,
                *(row["tasks"][name][key] for key in ("nll", "acc", "items"))) for row in scored]  # fmt: skip
    return checked(Task(*np.array(columns, float).T, chance), f"{place}: task {name}")


def checked(task: Task, place: str) -> Task:
    if len(task.nll) < LEAST_SIGMOID:
        raise InputError(f"{place}: {len(task.nll)} models, expected at least {LEAST_SIGMOID} for a sigmoid")
    if np.isfinite(task.flops).sum() < LEAST_LINE:
        raise InputError(f"{place}: {np.isfinite(task.flops).sum()} models with flops, expected at least {LEAST_LINE} for a line")
    if task.accuracy.min() < 0 or task.accuracy.max() > 1:
        raise InputError(f"{place}: accuracy: expected 0 to 1, found {task.accuracy.min():g} to {task.accuracy.max():g}")
    return task


def _number(path: Path, row: int, name: str, text, needed: bool) -> float:
    if not text and not needed:
        return math.nan
    try:
        value = float(text)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{path}: row {row}: {name}: expected a number, found {text!r}")
    return value


def sigmoid(theta: np.ndarray, nll, chance: float):
    return chance + (1 - chance) / (1 + np.exp(np.clip((nll - theta[0]) / np.exp(theta[1]), -60, 60)))


def fit_sigmoid(task: Task, accuracy: np.ndarray) -> np.ndarray:
    """(middle, log width) by least squares, each model weighed by the error of its accuracy."""
    weights = 1 / _errors(task)
    starts = [np.array([np.quantile(task.nll, q), math.log(max(1e-6, np.ptp(task.nll)) * w)]) for q in (0.1, 0.5, 0.9)
              for w in (0.1, 0.5)]  # fmt: skip
    done = [least_squares(lambda t: (sigmoid(t, task.nll, task.chance) - accuracy) * weights, s, max_nfev=200) for s in starts]
    return min(done, key=lambda found: found.cost).x


def fit_many(task: Task, accuracy: np.ndarray, start: np.ndarray) -> np.ndarray:
    """The fit of each row of accuracies."""

    def model(theta):
        middle, width = theta[:, :1], np.exp(theta[:, 1:])
        values = sigmoid(theta.T[..., None], task.nll, task.chance)
        slope = (values - task.chance) * (1 - values) / (1 - task.chance) / width  # by the middle
        return values, np.stack([slope, slope * (task.nll - middle)], axis=-1)

    return fit_rows(start, accuracy, model, 1 / _errors(task) ** 2)


def _errors(task: Task) -> np.ndarray:
    """Standard errors of accuracies, relative to each other; at least that of one question in a hundred being right."""
    p = np.clip(task.accuracy, 0.01, 0.99)
    known = np.isfinite(task.items)
    return np.sqrt(p * (1 - p) / np.where(known, task.items, np.median(task.items[known]) if known.any() else 1))


def forecast_task(task: Task, budget: float, rng: np.random.Generator, draws: int = DRAWS) -> TaskForecast:
    known = np.isfinite(task.flops)
    x, y = np.log10(task.flops[known]), task.nll[known]
    slope, offset = np.polyfit(x, y, 1)
    line_draws = _draw_line(rng, x, y, math.log10(budget), draws)
    theta = fit_sigmoid(task, task.accuracy)
    nll = slope * math.log10(budget) + offset
    errors = _errors(task)
    scaled = (task.accuracy - sigmoid(theta, task.nll, task.chance)) / errors
    own = studentized(scaled, np.full(len(scaled), 2 / len(scaled)))
    noise = noise_draws(rng, own, len(scaled) - 2, draws, len(scaled)) * errors
    drawn = fit_many(task, sigmoid(theta, task.nll, task.chance) + noise, theta)
    reached = sigmoid(drawn.T, line_draws, task.chance)
    return TaskForecast(
        Value(nll, *interval(line_draws)), Value(float(sigmoid(theta, nll, task.chance)), *interval(reached)),
        (float(slope), float(offset)), (float(theta[0]), float(theta[1])), not task.nll.min() <= nll <= task.nll.max(),
    )  # fmt: skip


def _draw_line(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, at: float, draws: int) -> np.ndarray:
    """Draws of the line's value at `at`."""
    basis = np.vander(x - x.mean(), 2)
    solve = np.linalg.pinv(basis)
    fitted = basis @ (solve @ y)
    leverage = np.einsum("ij,ji->i", basis, solve)
    noise = noise_draws(rng, studentized(y - fitted, leverage), len(x) - 2, draws, len(x))
    return (fitted + noise) @ solve.T @ np.array([at - x.mean(), 1.0])
