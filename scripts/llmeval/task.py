"""What every kind of task is made of: items, what is asked of a model for them, and how its answers are judged."""

import hashlib
import json
import string
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Iterator

from llmdata.errors import InputError

from .asking import Asking, Model
from .client import Answer, Refused, Request
from .statistics import interval


@dataclass(frozen=True)
class Item:
    """One question of a task. `place` names it in messages; `row` is what judging needs of the file's row."""

    place: str
    request: Request | None  # None: it cannot be asked, for the reason in `fault`
    row: dict
    fault: str = ""
    own: str = ""  # the text that is this item's alone, without solved examples and instructions; empty: what is asked

    @property
    def asked(self) -> str:
        """What is asked, for readers."""
        if self.request is None:
            return ""
        return self.request.prompt if self.request.messages is None else str(self.request.messages[-1]["content"])

    @property
    def drawn(self) -> Request:
        """The request with a seed of this item's own: the server would draw the answers to all items by the same numbers."""
        return replace(self.request, seed=(self.request.seed + int(self.key[:7], 16)) % 2**31)

    @property
    def key(self) -> str:
        """Equal items have equal keys, in every run: a hash of what is asked and of how it is judged."""
        asked = json.dumps([vars(self.request) if self.request else None, self.row], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(asked.encode("utf-8", "surrogatepass")).hexdigest()[:24]


@dataclass(frozen=True)
class Score:
    """`value` from 0 to 1 where the kind's unit is "%"; None: not counted, for the reason in `note`. `parts`: other measures of
    the same item."""

    value: float | None
    note: str = ""
    parts: dict[str, float] = field(default_factory=dict)


class Kind(ABC):
    """A kind of tasks whose items are asked one by one. Settings that SCHEMA (properties of a JSON schema) gives a default
    have it filled in."""

    name = ""
    metric = ""  # what a score's value is, in words
    unit = "%"  # of scores and measures; "%": they are shares
    chats = False  # whether it asks for answers in a chat, which a model without a chat template cannot give
    guarded = False  # whether a guard judges its answers
    labelled: "Kind | None" = None  # answers with labels, of which the score is how often this kind's judge errs
    SCHEMA: dict = {}
    REQUIRED: tuple[str, ...] = ()

    def __init__(self, settings: dict, folder: Path):
        """folder: of the suite's file, which names of files are relative to."""
        self.settings, self.folder = settings, folder

    @abstractmethod
    def items(self) -> Iterator[Item]:
        """Errors: InputError, which names file, row and field."""

    def answers(self, asking: Asking, item: Item) -> list[Answer]:
        """What judging needs. Runs beside others. Errors: Refused."""
        return asking.ask(item.drawn)

    def ask_all(self, asking: Asking, items: list[Item]) -> Iterator[tuple[int, list | Refused]]:
        """(number, answers) of each item, as they come."""
        return asking.client.do_all((number, partial(self.answers, asking, item)) for number, item in enumerate(items))

    @abstractmethod
    def judge(self, item: Item, answers: list[Answer]) -> Score:
        """answers: of the method of that name, as they were kept."""

    def right(self, item: Item) -> str:
        """A right answer, for the readers of a report; empty where only judging tells."""
        return ""

    def unfit(self, model: Model) -> str:
        """Why this model cannot be asked at all; empty: it can."""
        return "has no chat template: not an assistant" if self.chats and not model.chat else ""

    def total(self, scores: list[Score]) -> tuple[float, float | None, dict[str, float]]:
        """(score, half of its interval, other measures) of at least one score that counts."""
        values = [score.value for score in scores]
        measures = sorted({name for score in scores for name in score.parts})
        means = {name: mean(score.parts[name] for score in scores if name in score.parts) for name in measures}
        return mean(values), interval(values), means

    def path(self, name: str) -> Path:
        return self.folder / Path(name).expanduser()


TEXT = {"type": "string", "minLength": 1}
COUNT = {"type": "integer", "minimum": 1}


def sampling_schema(max_tokens: int) -> dict:
    """The settings of a task whose answers are written, of which `sampling` makes the fields of a request."""
    return {
        "max_tokens": {**COUNT, "default": max_tokens},
        "temperature": {"type": "number", "minimum": 0, "maximum": 2, "default": 0},
        "top_p": {"type": "number", "exclusiveMinimum": 0, "maximum": 1, "default": 1},
        "samples": {**COUNT, "maximum": 1000, "default": 1},
        "seed": {"type": "integer", "minimum": 0, "default": 1},
        "stop": {"type": "array", "items": TEXT, "maxItems": 16, "default": []},
    }


def sampling(settings: dict) -> dict:
    names = {"samples": "n"}
    chosen = {names.get(name, name): settings[name] for name in sampling_schema(1)}
    return chosen | {"stop": tuple(chosen["stop"])}


def text_field(where: str, row: dict, name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str):
        found = "nothing" if name not in row else type(value).__name__
        raise InputError(f'{where}: "{name}": found {found}, expected a text; {_fields(row)}')
    return value


def _fields(row: dict) -> str:
    return f"fields there: {', '.join(map(str, row)) or 'none'}"


class Template:
    """A prompt with {field} in it, to be filled from a row."""

    def __init__(self, text: str):
        self.text = text
        try:
            self.fields = [field for _, field, _, _ in string.Formatter().parse(text) if field is not None]
        except ValueError as error:
            raise InputError(f'"prompt": {error}: write {{{{ and }}}} for braces') from None

    def fill(self, where: str, row: dict) -> str:
        missing = [name for name in self.fields if name not in row]
        if missing:
            raise InputError(f'{where}: no field "{missing[0]}", which the prompt has; {_fields(row)}')
        return self.text.format_map(row)
