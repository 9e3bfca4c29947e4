"""Calls of functions: BFCL's rows, conversations that end with a call, and questions that a few functions here can answer."""

import json
from collections import Counter
from pathlib import Path
from typing import Iterator

from llmdata.chat_template import ROW, Template
from llmdata.errors import InputError
from llmdata.messages import text_of
from llmdata.records import read_objects
from llmdata.tokenizer import open_tokenizer

from . import calls, packages, tool_rows, toolbox
from .asking import Model
from .calls import Fault
from .client import Answer, Request
from .task import TEXT, Item, Kind, Score, sampling, sampling_schema, text_field

DATA = "data/BFCL_v4_{}.json"
BFCL = {f"package:bfcl-eval/{name}": DATA.format(name) for name in (
    "simple_python", "multiple", "parallel", "parallel_multiple", "irrelevance",
    "live_simple", "live_multiple", "live_parallel", "live_parallel_multiple", "live_irrelevance")}  # fmt: skip


class Tools(Kind):
    """Score: whether an answer's calls are the right ones, in any order, or, of questions with results, whether they return
    these. What is wrong with the others is counted by its name."""

    name = "tools"
    metric = "right calls"
    chats = True
    REQUIRED = ("file",)
    SCHEMA = {
        "file": TEXT,
        "answers": TEXT,
        "irrelevance": {"type": "boolean", "default": False},
        "system": TEXT,
        **sampling_schema(256),
    }

    def __init__(self, settings, folder):
        super().__init__(settings, folder)
        name, self.accepted = settings["file"], {}
        packed = name.startswith(packages.PREFIX)
        self.file = packages.find(name, BFCL) if packed else self.path(name)
        self.needless = settings["irrelevance"] or packed and name.endswith("irrelevance")
        answers = self.path(settings["answers"]) if "answers" in settings else None
        if packed and not self.needless:
            answers = self.file.parent / "possible_answer" / self.file.name
        if answers:
            self.accepted = _by_id(answers)

    def items(self) -> Iterator[Item]:
        for where, row, _ in read_objects(self.file):
            if self.needless:
                row |= {"ground_truth": []}
            elif self.accepted:
                row |= {"ground_truth": self.accepted.get(text_field(where, row, "id"))}
            messages, facts = tool_rows.read(where, row)
            before = [{"role": "system", "content": self.settings["system"]}] if "system" in self.settings else []
            request = Request(messages=(*before, *messages), tools=tuple(facts["tools"]), **sampling(self.settings))
            fault = 'no "ground_truth"' if facts["right"] is None else ""
            yield Item(where, None if fault else request, facts, fault, own=text_of(messages[-1]))

    def unfit(self, model: Model) -> str:
        """A template may leave tools out without a word."""
        if fault := super().unfit(model):
            return fault
        template = Template(model.folder, open_tokenizer(model.folder))
        try:
            pieces = template.pieces([{"role": "user", "content": "?"}], True, {"tools": [toolbox.tool("calculate")]})
        except InputError as error:
            return f"its chat template does not take tools: {error}"
        written = any((piece.message, piece.field) == (ROW, "tools") for piece in pieces)
        return "" if written else "its chat template does not write tools"

    def judge(self, item: Item, answers: list[Answer]) -> Score:
        faults = [self._fault(item.row, answer) for answer in answers]
        named = Counter(fault.name for fault in faults if fault)
        notes = dict.fromkeys(str(fault) for fault in faults if fault)
        parts = {name: count / len(answers) for name, count in named.items()}
        return Score(faults.count(None) / len(answers), "; ".join(notes), parts)

    def _fault(self, row: dict, answer: Answer) -> Fault | None:
        try:
            said = calls.parse(answer.text)
        except ValueError as error:
            cut = ", cut off at max_tokens" if answer.finish == "length" else ""
            return Fault(calls.UNPARSEABLE, f"{error}{cut}")
        if not row["right"] or not said:
            return Fault(calls.NEEDLESS, said[0].name) if said else Fault(calls.NONE) if row["right"] else None
        return (toolbox.compare if row["runs"] else calls.compare)(said, row["tools"], row["right"])

    def total(self, scores):
        """Faults as shares of all items."""
        score, half, measures = super().total(scores)
        return score, half, {name: sum(each.parts.get(name, 0) for each in scores) / len(scores) for name in measures}

    def right(self, item: Item) -> str:
        return json.dumps(item.row["right"], ensure_ascii=False)


def _by_id(path: Path) -> dict[str, list | None]:
    """BFCL's file of possible answers."""
    found = {}
    for where, row, _ in read_objects(path):
        name = text_field(where, row, "id")
        if name in found:
            raise InputError(f'{where}: "id": {name} stands there twice')
        found[name] = row.get("ground_truth")
    return found
