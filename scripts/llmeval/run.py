"""Asks one model all items of a task, and keeps every answer and score in a file, from which a stopped evaluation goes on."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

from llmdata.progress import Progress
from llmtext.journal import Journal

from .asking import Asking
from .client import Answer, Refused
from .suite import Task
from .task import Item, Score


@dataclass
class Result:
    """A model's scores in one task, by the key of the item."""

    task: Task
    model: str
    scores: dict[str, Score]
    said: dict[str, str] = field(default_factory=dict)  # the first answer, of those that are texts
    fault: str = ""  # why the model was not asked at all

    def counted(self) -> dict[str, float]:
        return {key: score.value for key, score in self.scores.items() if score.value is not None}

    def summary(self, keys: set[str] | None = None) -> dict:
        """keys: of these items only."""
        chosen = [score for key, score in self.scores.items() if keys is None or key in keys]
        counted = [score for score in chosen if score.value is not None]
        score, half, measures = self.task.kind.total(counted) if counted else (None, None, {})
        lost = Counter(score.note or "not counted" for score in chosen if score.value is None)
        return {"task": self.task.name, "model": self.model, "score": score, "interval": half, "unit": self.task.kind.unit,
                "items": len(counted), "parts": measures, "not_counted": dict(lost.most_common()),
                "fault": self.fault}  # fmt: skip


def evaluate(asking: Asking, identity: str, task: Task, folder: Path) -> Result:
    """identity: of the model's weights, which the kept answers must be from. Errors: InputError where the file in `folder` is
    of other weights or settings."""
    model, guard = asking.model, asking.guard
    judged = {"guard": guard.identity} if task.kind.guarded and guard else {}
    folder.mkdir(parents=True, exist_ok=True)
    journal = Journal(folder / f"{model}.jsonl", {"weights": identity, **judged, **task.settings})
    try:
        rows = {row["key"]: row for row in journal.rows}
        result, waiting = Result(task, model, {}), []
        for item in task.items:
            if item.key in rows:
                _count(result, rows[item.key])
            elif item.request is None:
                _count(result, _row(item, [], Score(None, item.fault)))
            else:
                waiting.append(item)
        progress = Progress(f"{task.name}, {model}", len(task.items), "item", done=len(result.scores))
        for number, answers in task.kind.ask_all(asking, waiting):
            row = _row(waiting[number], answers, _judge(task, waiting[number], answers))
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
    note = score.note.encode("utf-8", "backslashreplace").decode()  # half a surrogate pair, of what an answer says in JSON
    return {"key": item.key, "place": item.place, "answers": said, "score": score.value, "note": note,
            "parts": score.parts}  # fmt: skip


def _count(result: Result, row: dict) -> None:
    key = row["key"]
    result.scores[key] = Score(row["score"], row["note"], row["parts"])
    if row["answers"] and "text" in row["answers"][0]:
        result.said[key] = row["answers"][0]["text"]
