"""Rows of public evaluation sets as questions with endings, or as documents; prompts as lm-eval writes them."""

import json
import random
import re
import string
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator

from . import records
from .characters import is_text
from .errors import InputError

FIELDS = {
    "completion": {"context": ("ctx", "query", "context"), "endings": ("endings", "choices"), "label": ("label",)},
    "question": {"context": ("question",), "endings": ("choices",), "label": ("answer",)},
    "hellaswag": {"context": ("ctx_a",), "endings": ("endings",), "label": ("label",)},
    "document": {"text": ("text",)},
}
ENDING_DELIMITER, SHOT_DELIMITER = " ", "\n\n"


@dataclass
class RowOptions:
    """What prepare_eval.py's options of these names say."""

    kind: str | None = None  # one of FIELDS; None: the first row's fields tell
    context_field: str | None = None
    endings_field: str | None = None
    label_field: str | None = None
    text_field: str | None = None
    few_shot: int = 0
    few_shot_seed: int | None = None
    description: str = ""


@dataclass
class Row:
    """A row of a file; `where` names its place in messages."""

    where: str
    fields: dict


@dataclass
class Question:
    where: str
    prompt: str
    endings: list[str]
    label: int

    def with_answer(self) -> str:
        return self.prompt + ENDING_DELIMITER + self.endings[self.label] + SHOT_DELIMITER


def read_rows(path: Path) -> Iterator[Row]:
    return (Row(where, fields) for where, fields, _ in records.read_objects(path))


def kind_of(row: Row) -> str:
    keys = set(row.fields)
    if {"activity_label", "ctx_a", "ctx_b"} <= keys:
        return "hellaswag"
    if {"question", "choices", "answer"} <= keys:
        return "question"
    if "text" in keys and not keys & {"endings", "choices"}:
        return "document"
    return "completion"


def field(row: Row, options: RowOptions, role: str, expected: type, what: str):
    """The row's value in a role, under the name that an option gives or else the first usual name that the row has."""
    given = getattr(options, f"{role}_field")
    names = (given,) if given else FIELDS[options.kind][role]
    for name in names:
        if name in row.fields:
            break
    else:
        raise InputError(f"{row.where}: no field {' or '.join(map(repr, names))}, expected {what}")
    value = row.fields[name]
    if not isinstance(value, expected) or isinstance(value, bool):
        raise InputError(f"{row.where}: {name!r} is {json.dumps(value)[:60]}, expected {what}")
    check_text(row, name, value)
    return value


def check_text(row: Row, name: str, value) -> None:
    """JSON can escape half a surrogate pair, which UTF-8 cannot encode."""
    for text in value if isinstance(value, list) else [value]:
        if isinstance(text, str) and not is_text(text):
            raise InputError(f"{row.where}: {name!r} has half a surrogate pair, expected Unicode text")


def endings_of(row: Row, options: RowOptions) -> list[str]:
    endings = field(row, options, "endings", list, "a list of at least two texts")
    if len(endings) < 2 or not all(isinstance(ending, str) and ending for ending in endings):
        raise InputError(f"{row.where}: endings are {json.dumps(endings)[:60]}, expected at least two texts, none empty")
    return endings


def label_of(row: Row, options: RowOptions, count: int) -> int:
    last = f"0 to {count - 1}"
    value = field(row, options, "label", (int, str), f"the right ending's index, {last}")
    label = value
    if isinstance(value, str):
        text = value.strip()
        letters = string.ascii_uppercase[:count]
        label = letters.index(text) if len(text) == 1 and text in letters else int(text) if text.isdecimal() else -1
    if not 0 <= label < count:
        raise InputError(f"{row.where}: label is {json.dumps(value)[:40]}, expected {last}")
    return label


def question_of(row: Row, options: RowOptions) -> Question:
    endings = endings_of(row, options)
    label = label_of(row, options, len(endings))
    prompt = field(row, options, "context", str, "a text")
    if options.kind == "question":
        if len(endings) > 26:
            raise InputError(f"{row.where}: {len(endings)} choices, expected at most 26, one for each letter")
        lines = [f"{letter}. {choice}" for letter, choice in zip(string.ascii_uppercase, endings)]
        prompt = "\n".join([prompt.strip(), *lines, "Answer:"])
        endings = list(string.ascii_uppercase[: len(endings)])
    if options.kind == "hellaswag":
        prompt, endings = hellaswag_texts(row, prompt, endings)
    return Question(row.where, prompt, endings, label)


def hellaswag_texts(row: Row, ctx_a: str, endings: list[str]) -> tuple[str, list[str]]:
    activity, ctx_b = row.fields.get("activity_label"), row.fields.get("ctx_b")
    if not isinstance(activity, str) or not isinstance(ctx_b, str):
        raise InputError(f"{row.where}: expected texts under 'activity_label' and 'ctx_b'")
    cleaned = [clean_wikihow(ending) for ending in endings]
    if not all(cleaned):
        raise InputError(f"{row.where}: an ending has only brackets, expected text")
    return clean_wikihow(f"{activity}: {ctx_a} {ctx_b.capitalize()}"), cleaned


def clean_wikihow(text: str) -> str:
    """Replaces the brackets that the pages' markup left: [title] ends a sentence, others are removed."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def text_of(row: Row, options: RowOptions) -> str:
    """A document's."""
    text = field(row, options, "text", str, "a text")
    if not text:
        raise InputError(f"{row.where}: the text is empty")
    return text


def count_words(text: str) -> int:
    """As lm-eval counts them for the perplexity of a word."""
    return len(re.split(r"\s+", text))


def prompts_of(questions: list[Question], few_shot_file: Path | None, options: RowOptions) -> Iterator[str]:
    """Each question's prompt behind its solved examples, which are from that file or else other questions."""
    pool = None
    if few_shot_file:
        pool = [question_of(row, options) for row in read_rows(few_shot_file)]
    before = shots(questions, pool, options) if options.few_shot else ("" for _ in questions)
    return (options.description + examples + question.prompt for examples, question in zip(before, questions))


def shots(questions: list[Question], pool: list[Question] | None, options: RowOptions) -> Iterator[str]:
    """Yields, for each question, the text of its solved examples."""
    draw = None if options.few_shot_seed is None else random.Random(options.few_shot_seed)
    own = pool is None
    pool = questions if own else pool
    for index, question in enumerate(questions):
        if draw is None:
            chosen = [q for q in pool[: options.few_shot + 1] if not (own and q is question)]
        else:
            chosen = draw.sample(pool, min(len(pool), options.few_shot + own))
            chosen = [q for q in chosen if not (own and q is question)]
        if len(chosen) < options.few_shot:
            raise InputError(f"few-shot {options.few_shot}: only {len(chosen)} examples for item {index}")
        yield "".join(q.with_answer() for q in chosen[: options.few_shot])
