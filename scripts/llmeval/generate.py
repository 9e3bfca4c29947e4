"""Answers that are written and compared with the right one: GSM8K's kind."""

import re
from decimal import Decimal, InvalidOperation
from typing import Callable, Iterator

from llmdata.errors import InputError
from llmdata.records import read_objects

from .client import Answer, Request
from .task import TEXT, Item, Kind, Score, Template, sampling, sampling_schema

NUMBER = re.compile(r"[-+]?\$?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?")


def last_number(text: str) -> str | None:
    found = NUMBER.findall(text)
    return found[-1] if found else None


def after_mark(text: str) -> str | None:
    """What stands behind the last "####", as GSM8K ends its solutions."""
    _, mark, rest = text.rpartition("####")
    return rest.strip() if mark else None


EXTRACT = {
    "last number": last_number,
    "after ####": after_mark,
    "first line": lambda text: next(iter(text.strip().splitlines()), None),
    "all": lambda text: text.strip() or None,
}


def _by_pattern(text: str) -> Callable[[str], str | None]:
    """What the pattern's first group has matched last, or all of the pattern where it has no group."""
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise InputError(f'"pattern": {text!r}: {error}, expected a regular expression') from None

    def extract(said: str) -> str | None:
        found = list(pattern.finditer(said.strip()))
        return found[-1][min(1, pattern.groups)] if found else None

    return extract


def same(answer: str, target: str) -> bool:
    """Numbers by value, without $ and commas; other texts but for case, and for white space and a full stop at the ends."""
    ours, right = _number(answer), _number(target)
    if right is not None:
        return ours == right
    return _plain(answer) == _plain(target)


def _number(text: str) -> Decimal | None:
    try:
        value = Decimal(text.strip().rstrip(".").replace(",", "").replace("$", ""))
    except InvalidOperation:
        return None
    return value if value.is_finite() else None


def _plain(text: str) -> str:
    return text.strip().rstrip(".").rstrip().casefold()


class Generate(Kind):
    """Rows of any fields. The prompt is a template with {field} in it, the right answer a field of its own; shots are other
    rows with their answers written out, asked first."""

    name = "generate"
    metric = "exact match"
    REQUIRED = ("file",)
    SCHEMA = {
        "file": TEXT,
        "prompt": {**TEXT, "default": "Question: {question}\nAnswer:"},
        "target": {**TEXT, "default": "answer"},
        "pattern": TEXT,
        "extract": {"enum": list(EXTRACT), "default": "last number"},
        "few_shot": {"type": "integer", "minimum": 0, "default": 0},
        "few_shot_file": TEXT,
        "chat": {"type": "boolean", "default": False},
        "system": TEXT,
        **sampling_schema(256),
    }

    def __init__(self, settings, folder):
        super().__init__(settings, folder)
        self.chats = settings["chat"]
        self.template = Template(settings["prompt"])
        self.extract = _by_pattern(settings["pattern"]) if "pattern" in settings else EXTRACT[settings["extract"]]
        if settings["few_shot"] and "few_shot_file" not in settings:
            raise InputError('"few_shot": needs "few_shot_file", whose rows are shown with their answers')

    def items(self) -> Iterator[Item]:
        shots = self._shots()
        for where, row, _ in read_objects(self.path(self.settings["file"])):
            question, target = self.template.fill(where, row), row.get(self.settings["target"])
            if not isinstance(target, (str, int, float)) or not str(target).strip():
                yield Item(where, None, {}, f'no "{self.settings["target"]}"')
                continue
            yield Item(where, self._request(shots, question), {"target": self._target(str(target))}, own=f"{question} {target}")

    def _shots(self) -> list[tuple[str, str]]:
        wanted, shots = self.settings["few_shot"], []
        if wanted:
            path = self.path(self.settings["few_shot_file"])
            for where, row, _ in read_objects(path):
                shots.append((self.template.fill(where, row), str(row.get(self.settings["target"], ""))))
                if len(shots) == wanted:
                    break
            if len(shots) < wanted:
                raise InputError(f'{path}: {len(shots)} rows, "few_shot" wants {wanted}')
        return shots

    def _request(self, shots: list[tuple[str, str]], question: str) -> Request:
        chosen = sampling(self.settings)
        if not self.chats:
            shown = "".join(f"{asked} {answer}\n\n" for asked, answer in shots)
            return Request(prompt=shown + question, **chosen)
        messages = [{"role": "system", "content": self.settings["system"]}] if "system" in self.settings else []
        for asked, answer in [*shots, (question, None)]:
            messages.append({"role": "user", "content": asked})
            if answer is not None:
                messages.append({"role": "assistant", "content": answer})
        return Request(messages=tuple(messages), **chosen)

    def _target(self, text: str) -> str:
        """GSM8K's targets end as its solutions do."""
        return after_mark(text) or text.strip()

    def right(self, item: Item) -> str:
        return item.row["target"]

    def judge(self, item: Item, answers: list[Answer]) -> Score:
        found = [self.extract(answer.text) for answer in answers]
        right = [text is not None and same(text, item.row["target"]) for text in found]
        return Score(sum(right) / len(right), "" if any(text is not None for text in found) else "no answer in the text")
