"""Runs as points for a fit: those of a sweep, or rows of a table that somebody else measured.

A table is .csv with a head, or .jsonl. Columns: tokens, loss, and flops or parameters or both; budget groups runs of equal FLOPs
(without it, flops does). name, status (done, diverged, cut), forecast and what all runs must have in common are read where they
are there.
"""

import csv
import io
import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from llmdata.errors import InputError
from llmdata.output import write_text
from llmdata.text_file import read_text, read_text_lines

from .counting import SIX_ND, Cost
from .planning import Planned, cost_of_rule
from .run import CUT, DIVERGED, DONE, WAITING, Run
from .settings import Settings

SAME = ("val", "val_rows", "tokenizer", "train", "count", "flops_rule")  # what all points of a fit must have in common
NAMES = {"val": "validation data", "val_rows": "number of validation rows", "tokenizer": "tokenizer", "train": "training data",
         "count": "count of parameters", "flops_rule": "count of FLOPs"}  # fmt: skip


@dataclass
class Points:
    """Points of equal length; `left_out` has (name, status, reason) of runs that no fit uses."""

    names: list[str]
    budget: np.ndarray
    flops: np.ndarray
    tokens: np.ndarray
    parameters: np.ndarray
    loss: np.ndarray
    cost: Cost
    count: str = ""
    left_out: list[tuple[str, str, str]] = field(default_factory=list)
    tests: list[dict] = field(default_factory=list)  # runs that test a forecast
    source: str = "runs"  # the file that they come from, for messages

    def __len__(self) -> int:
        return len(self.names)

    def budgets(self) -> np.ndarray:
        return np.unique(self.budget)

    def select(self, keep: np.ndarray) -> "Points":
        names = [name for name, kept in zip(self.names, keep) if kept]
        columns = {name: getattr(self, name)[keep] for name in ("budget", "flops", "tokens", "parameters", "loss")}
        return replace(self, names=names, **columns)


def check_same(rows: list[dict], place: str) -> None:
    """Refuses a fit over runs of different data, tokenizers or ways of counting."""
    for key in SAME:
        found: dict = {}
        for row in rows:
            if row.get(key) not in (None, ""):
                found.setdefault(row[key], row["name"])
        if len(found) > 1:
            (a, first), (b, second) = list(found.items())[:2]
            raise InputError(f"{place}: {key}: expected the same {NAMES[key]} in all runs of a fit, found {a} in {first} and {b} in "
                             f"{second}: fit them apart")  # fmt: skip


def make_points(rows: list[dict], cost: Cost | None, place: str) -> Points:
    """`rows` have name, status, budget, flops, tokens, parameters, loss."""
    used = [row for row in rows if row["status"] == DONE and not row.get("forecast")]
    left_out = [(row["name"], row["status"], row.get("reason", "")) for row in rows if row["status"] != DONE]
    check_same(used, place)
    if not used:
        raise InputError(f"{place}: no finished run, expected at least one")
    columns = [np.array([float(row[name]) for row in used]) for name in ("budget", "flops", "tokens", "parameters", "loss")]
    tests = [row for row in rows if row["status"] == DONE and row.get("forecast")]
    made = cost or _cost_of(columns[3], columns[1] / columns[2], place)
    return Points([row["name"] for row in used], *columns, made, used[0].get("count", ""), left_out, tests, place)


def _cost_of(parameters: np.ndarray, each: np.ndarray, place: str) -> Cost:
    """Of a table: 6ND where that is what its columns say, within a tenth; else as a straight line in log-log through all rows."""
    ratio = each / (6 * parameters)
    if np.all(np.abs(np.log(ratio)) < 0.1):
        return Cost([1.0], [6.0 * float(np.median(ratio))])
    slope, offset = np.polyfit(np.log(parameters), np.log(each), 1) if np.ptp(np.log(parameters)) > 1e-9 else (0, 0)
    if slope <= 0:
        raise InputError(f"{place}: flops: expected FLOPs per token (flops / tokens) that grow with parameters, found that they do "
                         "not: correct one of the columns")  # fmt: skip
    ends = np.array([parameters.min(), parameters.max()])
    return Cost(ends, np.exp(offset + slope * np.log(ends)))


def rows_of_sweep(settings: Settings, plan: list[Planned]) -> list[dict]:
    rows = []
    for planned in plan:
        outcome = Run(settings, planned).outcome()
        row = dict(outcome.result or {"name": planned.name, "forecast": planned.budget.forecast})
        rows.append(row | {"status": outcome.status, "reason": outcome.reason})
    return rows


def points_of_sweep(settings: Settings, rows: list[dict]) -> Points:
    return make_points(rows, cost_of_rule(settings), str(settings.path))


COLUMNS = ("name status reason forecast budget flops parameters tokens loss count flops_rule layers hidden_size steps "
           "batch_tokens lr warmup_steps beta2 seed epochs train_seconds train val val_rows tokenizer").split()  # fmt: skip


def write_table(path: Path, rows: list[dict]) -> None:
    """The runs of a sweep as a table that fit and forecast read."""
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_text(path, text.getvalue())


# ---- tables


def points_of_table(path: Path) -> Points:
    if path.suffix.lower() == ".jsonl":
        rows = [_object(path, number, text) for number, text in read_text_lines(path)]
    else:
        rows = list(csv.DictReader(io.StringIO(read_text(path))))
    return make_points([_row(path, number, row) for number, row in enumerate(rows, 1)], None, str(path))


def _object(path: Path, number: int, text: str) -> dict:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise InputError(f"{path}:{number}: expected an object")
    return value


def _row(path: Path, number: int, row: dict) -> dict:
    place = f"{path}: row {number}"
    status = row.get("status") or DONE
    if status not in (DONE, DIVERGED, CUT, WAITING):
        raise InputError(f"{place}: status: expected {DONE}, {DIVERGED} or {CUT}, found {status}")
    made = {**row, "name": row.get("name") or f"row {number}", "status": status}
    if status != DONE:
        return made
    for name in ("tokens", "loss"):
        made[name] = _positive(place, name, row.get(name))
    given = {name: _positive(place, name, row[name]) for name in ("parameters", "flops") if row.get(name) not in (None, "")}
    if not given:
        raise InputError(f"{place}: expected parameters or flops")
    made["flops"] = given.get("flops", 6 * given.get("parameters", 0) * made["tokens"])
    made["parameters"] = given.get("parameters", made["flops"] / (6 * made["tokens"]))
    made["flops_rule"] = row.get("flops_rule") or (SIX_ND if len(given) == 1 else None)
    made["budget"] = _positive(place, "budget", row["budget"]) if row.get("budget") not in (None, "") else made["flops"]
    made["forecast"] = str(row.get("forecast", "")).lower() in ("true", "1")
    return made


def _positive(place: str, name: str, value) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise InputError(f"{place}: {name}: expected a number above 0, found {value!r}")
    return number
