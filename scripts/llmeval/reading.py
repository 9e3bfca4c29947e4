"""Questions about a passage, answered with a piece of it: SQuAD's files, version 1.1 and 2.0."""

import re
import string
from collections import Counter
from statistics import mean
from typing import Iterator

from llmdata.errors import InputError
from llmdata.records import read_objects
from llmdata.text_file import read_json

from .client import Answer, Request
from .task import TEXT, Item, Kind, Score, Template, sampling, sampling_schema, text_field

NO_ANSWER = "unanswerable"
ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


def words(text: str) -> list[str]:
    """As SQuAD compares answers: without case, ASCII punctuation and articles."""
    return ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split()


def exact(answer: str, right: str) -> float:
    return float(words(answer) == words(right))


def f1(answer: str, right: str) -> float:
    """Of the bags of words; where one is empty, whether both are."""
    ours, theirs = words(answer), words(right)
    if not ours or not theirs:
        return float(ours == theirs)
    common = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * common / (len(ours) + len(theirs))


class Reading(Kind):
    """Score: exact match with any of the right answers; F1 beside it. A question without an answer wants "unanswerable"."""

    name = "reading"
    metric = "exact match"
    REQUIRED = ("file",)
    SCHEMA = {
        "file": TEXT,
        "prompt": {**TEXT, "default": "{context}\n\nQuestion: {question}\nAnswer:"},
        **sampling_schema(32) | {"stop": {"type": "array", "items": TEXT, "maxItems": 16, "default": ["\n"]}},
    }

    def items(self) -> Iterator[Item]:
        template = Template(self.settings["prompt"])
        for where, context, question, answers in self._questions():
            if answers is None:
                yield Item(where, None, {}, "no answers")
                continue
            asked = template.fill(where, {"context": context, "question": question})
            yield Item(where, Request(prompt=asked, **sampling(self.settings)), {"answers": answers or [NO_ANSWER]},
                       own=f"{context}\n{question}")  # fmt: skip

    def right(self, item: Item) -> str:
        return " / ".join(item.row["answers"])

    def judge(self, item: Item, answers: list[Answer]) -> Score:
        def best(measure) -> float:
            return mean(max(measure(answer.text.strip(), right) for right in item.row["answers"]) for answer in answers)

        return Score(best(exact), parts={"F1": best(f1)})

    def _questions(self) -> Iterator[tuple[str, str, str, list[str] | None]]:
        """(place, passage, question, right answers; none: it has no answer; None: the file does not say)."""
        path = self.path(self.settings["file"])
        rows = read_objects(path)
        _, first, _ = next(rows, (None, None, 0))
        if first is None:
            raise InputError(f"{path}: no question in it")
        if "data" in first:
            yield from self._of_articles(path)
            return
        for where, row, _ in read_objects(path):
            context, question = text_field(where, row, "context"), text_field(where, row, "question")
            yield where, context, question, _texts(where, row.get("answers"))

    def _of_articles(self, path) -> Iterator:
        """SQuAD's own file: articles of paragraphs of questions."""
        for a, article in enumerate(_list(path, read_json(path), "data")):
            for p, paragraph in enumerate(_list(f"{path}: data[{a}]", article, "paragraphs")):
                where = f"{path}: data[{a}].paragraphs[{p}]"
                context = text_field(where, paragraph, "context")
                for q, row in enumerate(_list(where, paragraph, "qas")):
                    place = f"{where}.qas[{q}]"
                    found = [] if row.get("is_impossible") is True else _texts(place, row.get("answers"))
                    yield place, context, text_field(place, row, "question"), found


def _list(where, row, name: str) -> list[dict]:
    value = row.get(name) if isinstance(row, dict) else None
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise InputError(f'{where}: "{name}": expected a list of objects, as SQuAD has it')
    return value


def _texts(where: str, answers) -> list[str] | None:
    """[{"text": ...}], or {"text": [...]} as in tables of SQuAD's rows, or texts. An empty list: there is no answer."""
    if answers is None:
        return None
    texts = answers.get("text") if isinstance(answers, dict) else answers
    if isinstance(texts, list):
        texts = [text.get("text") if isinstance(text, dict) else text for text in texts]
        if all(isinstance(text, str) for text in texts):
            return list(dict.fromkeys(texts))
    raise InputError(f'{where}: "answers": expected texts, as SQuAD has them')

