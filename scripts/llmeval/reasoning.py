"""Questions that reasoning-gym's generators make, judged by their own scorers."""

import contextlib
import difflib
import functools
import sys
import threading
import warnings
from typing import Iterator

from llmdata.errors import InputError
from llmdata.progress import Progress

from .client import Answer, Request
from .task import COUNT, TEXT, Item, Kind, Score, sampling, sampling_schema

BEGINS = "\nQuestion:"  # what a model that is no assistant writes behind its answer
PROBES = ("", "x", "1 + 2", "[[1]]")  # answers with which a scorer shows whether it runs them
RUNS = "the scorer runs texts as programs"


class Reasoning(Kind):
    """Score: the scorer's, from 0 to 1; the share of answers to which it gives all beside it. In a chat the answer stands
    between <answer> and </answer>, as the package's own prompt asks for; otherwise it is all that the model writes."""

    name = "reasoning"
    metric = "mean score"
    REQUIRED = ("dataset",)
    SCHEMA = {
        "dataset": TEXT,
        "config": {"type": "object", "default": {}},
        "size": {**COUNT, "default": 100},
        "few_shot": {"type": "integer", "minimum": 0, "default": 0},
        "chat": {"type": "boolean", "default": True},
        "system": TEXT,
        **sampling_schema(1024),
    }

    def __init__(self, settings, folder):
        super().__init__(settings, folder)
        self.chats = settings["chat"]
        self.utils, self.dataset, self.all = _open(settings)
        self.entries = {entry["question"]: entry for entry in self.all}

    def items(self) -> Iterator[Item]:
        few_shot, name = self.settings["few_shot"], self.settings["dataset"]
        shots = {entry["question"]: entry["answer"] for entry in self.all[:few_shot]}
        if not all(isinstance(answer, str) for answer in shots.values()):
            raise InputError(f'"few_shot": {name} has questions without an answer, expected 0')
        for number, entry in enumerate(self.all[few_shot:], few_shot):
            question, where = entry["question"], f"{name}: item {number}"
            if question in shots:
                yield Item(where, None, {}, "stands among the solved examples")
            else:
                row = {"question": question, "answer": entry["answer"]}
                yield Item(where, self._request(shots, question), row, own=question)

    def _request(self, shots: dict[str, str], question: str) -> Request:
        chosen = sampling(self.settings)
        if not self.chats:
            shown = "".join(f"Question: {asked}\nAnswer: {answer}\n\n" for asked, answer in shots.items())
            return Request(prompt=f"{shown}Question: {question}\nAnswer:", **chosen | {"stop": (*chosen["stop"], BEGINS)})
        messages = [{"role": "system", "content": self.settings.get("system", self.utils.SYSTEM_PROMPTS["default"])}]
        for asked, answer in shots.items():
            messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": f"<answer>{answer}</answer>"}]
        return Request(messages=(*messages, {"role": "user", "content": question}), **chosen)

    def judge(self, item: Item, answers: list[Answer]) -> Score:
        entry, scores, notes = self.entries[item.row["question"]], [], {}
        for answer in answers:
            said = self.utils.extract_answer(answer.text) if self.chats else answer.text.strip() or None
            score, note = (0.0, "no answer in the text") if said is None else _score(self.dataset, said, entry)
            if score is None:
                return Score(None, note)
            scores.append(score)
            notes[note] = None
        solved = sum(score == 1 for score in scores) / len(scores)
        return Score(sum(scores) / len(scores), "; ".join(filter(None, notes)), {"solved": solved})

    def right(self, item: Item) -> str:
        return str(item.row["answer"] or "")


def _open(settings: dict):
    """(the package's utils, the dataset, its entries). Errors: InputError."""
    try:
        import reasoning_gym
        from reasoning_gym import factory, utils
    except ModuleNotFoundError as error:
        raise InputError(f"{error.name}: not installed: pip install reasoning-gym") from None
    name, size = settings["dataset"], settings["few_shot"] + settings["size"]
    if name not in factory.DATASETS:
        near = ", ".join(difflib.get_close_matches(name, factory.DATASETS, 4, 0))
        raise InputError(f'"dataset": {name}: expected one of reasoning-gym\'s {len(factory.DATASETS)}, as {near}')
    with _by_config():
        dataset = reasoning_gym.create_dataset(name, size=size, seed=settings["seed"], **settings["config"])
        first = dataset[0]
    if any(_score(dataset, probe, first)[0] is None for probe in PROBES):
        raise InputError(f'"dataset": {name}: {RUNS}: refused, as models write anything')
    with _by_config():
        return utils, dataset, [first, *_others(name, dataset)]


@contextlib.contextmanager
def _by_config() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # noqa: BLE001 - of any kind, as each dataset checks in its own way
        raise InputError(f'"config": {type(error).__name__}: {error}') from None


def _others(name: str, dataset) -> Iterator[dict]:
    """Some datasets take seconds for each."""
    progress = Progress(f"questions of {name}", len(dataset), "question", done=1)
    for number in range(1, len(dataset)):
        yield dataset[number]
        progress.add()
    progress.finish(f"{len(dataset)} questions")


def _score(dataset, answer: str, entry: dict) -> tuple[float | None, str]:
    """(score, what went wrong). None: the scorer was about to run something."""
    _listen()
    _HEARD.on, _HEARD.program = True, False
    try:
        with warnings.catch_warnings(action="ignore"):
            score, note = float(dataset.score_answer(answer, entry)), ""
    except Exception as error:  # noqa: BLE001 - scorers trust the answers' form
        score, note = 0.0, f"the scorer fails: {type(error).__name__}: {error}"
    finally:
        _HEARD.on = False
    return (None, RUNS) if _HEARD.program else (score, note)


_HEARD = threading.local()  # `on`: this thread must turn no text into a program; `program`: it tried to


@functools.cache
def _listen() -> None:
    """Once in a process: such a hook stays."""
    sys.addaudithook(_hear)


def _hear(event: str, _) -> None:
    if event in ("exec", "compile") and getattr(_HEARD, "on", False):
        _HEARD.program = True
        raise PermissionError(RUNS)
