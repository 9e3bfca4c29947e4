"""Asks one model all items of a task, and keeps every answer and score in a file, from which a stopped evaluation goes on."""

from collections import Counter
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import mean

from llmdata.progress import Progress
from llmtext.journal import Journal

from .asking import Asking
from .client import Answer, Refused
from .statistics import interval
from .suite import Task
from .task import Item, Score


@dataclass
class Result:
    """A model's scores in one task, by the key of the item. None: the item does not count."""

    task: str
    model: str
    scores: dict[str, float | None]
    parts: dict[str, dict[str, float]]
    notes: dict[str, str]
    said: dict[str, str]  # the first answer
    fault: str = ""  # why the model was not asked at all

    def counted(self) -> dict[str, float]:
        return {key: score for key, score in self.scores.items() if score is not None}

    def summary(self) -> dict:
        values, measures = list(self.counted().values()), {name for parts in self.parts.values() for name in parts}
        means = {name: mean(parts[name] for parts in self.parts.values() if name in parts) for name in sorted(measures)}
        lost = Counter(self.notes[key] or "not counted" for key, score in self.scores.items() if score is None)
        return {"task": self.task, "model": self.model, "score": mean(values) if values else None, "interval": interval(values),
                "items": len(values), "parts": means, "not_counted": dict(lost.most_common()), "fault": self.fault}  # fmt: skip


def evaluate(asking: Asking, identity: str, task: Task, folder: Path) -> Result:
    """identity: of the model's weights, which the kept answers must be from. Errors: InputError where the file in `folder` is
    of other weights or settings."""
    model, guard = asking.model, asking.guard
    judged = {"guard": guard.identity} if task.kind.guarded and guard else {}
    folder.mkdir(parents=True, exist_ok=True)
    journal = Journal(folder / f"{model}.jsonl", {"weights": identity, **judged, **task.settings})
    try:
        rows = {row["key"]: row for row in journal.rows}
        result = Result(task.name, model, {}, {}, {}, {})
        for row in rows.values():
            _count(result, row)
        waiting = [item for item in task.items if item.key not in rows]
        progress = Progress(f"{task.name}, {model}", len(task.items), "item", done=len(task.items) - len(waiting))
        for item in waiting:
            if item.request is None:
                _count(result, _row(item, [], Score(None, item.fault)))
        asked = [item for item in waiting if item.request is not None]
        works = ((number, partial(task.kind.answers, asking, item)) for number, item in enumerate(asked))
        for number, answers in asking.client.do_all(works):
            row = _row(asked[number], answers, _judge(task, asked[number], answers))
            journal.append(row)
            _count(result, row)
            progress.add()
        progress.finish(f"{len(result.scores)} items")
        return result
    finally:
        journal.file.close()


def _judge(task: Task, item: Item, answers: list[Answer] | Refused) -> Score:
    if isinstance(answers, Refused):
        return Score(None, f"refused by the server: {answers}")
    return task.kind.judge(item, answers)


def _row(item: Item, answers: list[Answer] | Refused, score: Score) -> dict:
    said = [] if isinstance(answers, Refused) else [asdict(answer) for answer in answers]
    return {"key": item.key, "place": item.place, "answers": said, "score": score.value, "note": score.note,
            "parts": score.parts}  # fmt: skip


def _count(result: Result, row: dict) -> None:
    key = row["key"]
    result.scores[key], result.notes[key] = row["score"], row["note"]
    if row["answers"]:
        result.said[key] = row["answers"][0]["text"]
    if row["score"] is not None:
        result.parts[key] = row["parts"]
