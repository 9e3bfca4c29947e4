"""What a herd took: time, processors, memory, disk, an estimate of energy; and how fast it trained."""

import json
import statistics

from llmdata.page import safe, table
from llmdata.progress import duration

from .output import Output, said

WATTS = {"core": 10, "GPU": 700}  # assumed for a busy one, with its share of the machine
GIB = 1 << 30


def read_note(stage) -> dict:
    try:
        return json.loads(stage.note.read_text("utf-8"))
    except (OSError, ValueError):
        return {}


def state(stage, note: dict) -> str:
    if note.get("fault"):
        return "failed"
    if stage.steps and all(note.get("steps", {}).get(step.name, {}).get("done") for step in stage.steps):
        return "done"
    return "begun" if note else "not yet"


def summary(stages: list) -> str:
    """How far it is, and why it has ended early."""
    notes = [(stage, read_note(stage)) for stage in stages]
    done = sum(state(*both) == "done" for both in notes)
    failed = "".join(_failure(*both) for both in notes if both[1].get("fault"))
    return f"<p>{done} of {len(stages)} stages are done.</p>{failed}"


def _failure(stage, note: dict) -> str:
    commands = "\n".join(said(step.command) for step in stage.steps)
    return (f'<p class="failed">{safe(stage.title)} failed</p><pre>{safe(note["fault"])}</pre>'
            f"<p>To repeat it:</p><pre>{safe(commands)}</pre>")  # fmt: skip


def times(output: Output, stages: list) -> dict:
    """Everything that differs from run to run."""
    names = ("seconds", "processor_seconds", "memory_bytes", "disk_bytes")
    found = {stage.name: {name: read_note(stage).get(name) for name in names} for stage in stages}
    rates = {run.name: statistics.median(run.rates()) for run in output.runs() if run.rates()}
    totals = {name: sum(one[name] or 0 for one in found.values()) for name in ("seconds", "processor_seconds", "disk_bytes")}
    totals["memory_bytes"] = max((one["memory_bytes"] or 0 for one in found.values()), default=0)
    return {"stages": found, "tokens_per_second": rates, "all": totals, "energy": energy(output, totals)}


def energy(output: Output, totals: dict) -> dict:
    """{"unit", "hours", "watts", "kwh"}: an estimate from an assumed power."""
    gpus = output.settings.get("target") == "cuda"
    unit = "GPU" if gpus else "core"
    hours = (totals["seconds"] * output.settings.get("ranks", 1) if gpus else totals["processor_seconds"]) / 3600
    return {"unit": unit, "hours": hours, "watts": WATTS[unit], "kwh": hours * WATTS[unit] / 1000}


def page(output: Output, stages: list) -> str:
    found = times(output, stages)
    rows = [[safe(stage.title), state(stage, read_note(stage)), *_cells(found["stages"][stage.name])] for stage in stages]
    rows.append(["<b>all</b>", "", *_cells(found["all"])])
    head = ["stage", "", "time", "of processors", "peak memory", "disk"]
    e = found["energy"]
    says = (f"<p>{e['hours']:.3g} {e['unit']}-hours. Energy, estimated and not measured: {e['kwh']:.2g} kWh, if a busy "
            f"{e['unit']} takes {e['watts']} W with its share of the machine.</p>")  # fmt: skip
    return f'<h2 id="cost">Throughput and cost</h2>{_throughput(output, found)}{table(head, rows, numbers=(2, 3, 4, 5))}{says}'


def _throughput(output: Output, found: dict) -> str:
    rows = []
    for run in output.runs():
        if run.rates():
            seen = max(end.tokens for end in run.ends.values()) if run.ends else 0
            per_token = run.flops() / seen if seen else 0
            rate = found["tokens_per_second"][run.name]
            rows.append([safe(run.name), f"{rate:,.0f}", f"{rate * per_token / 1e9:,.3g}", f"{run.flops():.3g}"])
    return table(["size", "tokens/s (median of its steps)", "GFLOP/s", "FLOPs in all"], rows, numbers=(1, 2, 3)) if rows else ""


def _cells(one: dict) -> list[str]:
    shown = [duration(value) if value else "–" for value in (one["seconds"], one["processor_seconds"])]
    return shown + [f"{value / GIB:.2f} GiB" if value else "–" for value in (one["memory_bytes"], one["disk_bytes"])]
