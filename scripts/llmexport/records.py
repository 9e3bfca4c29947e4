"""What a line of a log says, under the names by which tools sort numbers into panels.

    train/loss, train/lr, train/grad_norm, ...                a step
    val/loss, val/losses/SOURCE, val/loss_averaged, ...       a validation
    tasks/TASK/acc, tasks/TASK/depth_50/acc, ...              an evaluation
    checkpoint/write_seconds, ...                             a checkpoint
    sample, events, weights_checksum                          texts: what the model wrote, what happened to the run, its state
"""

import json
import math
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Record:
    step: int
    numbers: dict[str, float] = field(default_factory=dict)  # NaN where the log has null: a number that was not finite
    texts: dict[str, str] = field(default_factory=dict)


def record_of(line: bytes) -> Record | None:
    """None if the line is not one of a log: no JSON object, or one without a step."""
    try:
        entry = json.loads(line)
        return _record(int(entry.pop("step")), entry)
    except (ValueError, AttributeError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def _record(step: int, entry: dict) -> Record:
    if "loss" in entry:
        return Record(step, _numbers("train", entry))
    if "task" in entry:
        return Record(step, _numbers(f"tasks/{entry['task']}", entry))
    if any(name.startswith("val_loss") for name in entry):
        return Record(step, _numbers("val", {name.removeprefix("val_"): value for name, value in entry.items()}))
    if "checkpoint" in entry:
        return Record(step, _numbers("checkpoint", entry))
    for name in ("sample", "weights_checksum"):
        if name in entry:
            return Record(step, texts={name: _text(entry[name])})
    event = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in entry.items())
    return Record(step, texts={"events": _text(event)})


def _text(value: str) -> str:
    return value.encode("utf-8", "replace").decode()  # JSON may hold half a surrogate pair


def _numbers(prefix: str, entry: dict) -> dict[str, float]:
    """All numbers in an object, those of objects and of cells in it too. Texts, as the name of a stage, are left out."""
    found = {}
    for name, value in entry.items():
        if isinstance(value, dict):
            found |= _numbers(f"{prefix}/{name}", value)
        elif isinstance(value, list):
            for cell in value:
                found |= _numbers(f"{prefix}/depth_{cell.pop('depth'):g}", cell)
        elif not isinstance(value, str):
            found[f"{prefix}/{name}"] = math.nan if value is None else float(value)
    return found


def code_block(text: str) -> str:
    """The text in Markdown, to be shown as it is."""
    return "".join(f"    {line}\n" for line in text.splitlines() or [""])
