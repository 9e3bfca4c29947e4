"""Adds up what all tasks of all passes have counted."""

from pathlib import Path

from .counts import Counts
from .files import read_json_or

READ, OUTPUT = "read", "output"


def merge(passes: list[tuple[str, Path]], steps: list[str], reports: Path) -> dict:
    """{"input": counts of the readers, "steps": {name: counts and "report"}, "order": names, "passes": {name: {...}}}.

    `passes`: name and folder of each, in order. `reports`: has the steps' own folders, which may hold a report.json.
    """
    total = {name: Counts() for name in (READ, *steps)}
    used = {}
    for number, (name, folder) in enumerate(passes):
        tasks = [read_json_or(path, {}) for path in sorted((folder / "counts").glob("*.json"))]
        step_of = name.split("-")[1]
        if step_of in total:  # a barrier's own pass
            total[step_of].seconds += sum(task["seconds"] for task in tasks)
        used[name] = {"tasks": len(tasks), "seconds": sum(task["seconds"] for task in tasks),
                      "memory_mib": max((task["memory_mib"] for task in tasks), default=0),
                      **read_json_or(folder / "clock.json", {"clock": 0})}  # fmt: skip
        for task in tasks:
            for step, counts in task["steps"].items():
                if step in total and (step != READ or number == 0):
                    total[step].merge(Counts.from_json(counts))
                elif step == READ:  # documents left out because a process died at them
                    _add_faults(total[READ], Counts.from_json(counts))
    steps_found = {name: total[name].to_json() | _report(reports / name) for name in steps}
    return {"input": total[READ].to_json(), "steps": steps_found, "order": steps, "passes": used}


def _add_faults(total: Counts, more: Counts) -> None:
    faults = Counts()
    faults.faults = more.faults
    total.merge(faults)


def _report(folder: Path) -> dict:
    report = read_json_or(folder / "report.json", None)
    return {} if report is None else {"report": report}
