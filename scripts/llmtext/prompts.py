"""Prompts from rows: what a conversation says up to where the assistant is to answer.

A row is an object with "prompt" (what a user says, or a list of messages that ends before the assistant's turn) or with
"messages" (a conversation, of which what follows the last user turn is left out).
"""

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from llmdata.chatrows import EMPTY, MALFORMED, BadRow, read_messages, with_system
from llmdata.files import Notes
from llmdata.records import Value, parse, place, read_rows

from .errors import InputError

ASKING = ("user", "tool", "ipython")  # an answer may follow these


@dataclass
class Prompt:
    messages: list[dict]  # as read_messages gives them
    source: str  # FILE:LINE
    key: str  # of the messages and how many equal ones came before: found again whatever is added around it


def read_prompts(paths: list[Path], system: str | None, notes: Notes | None = None) -> tuple[list[Prompt], list[str]]:
    """(prompts in order, FILE:LINE of those without a word in them). system: for those that have no system message."""
    prompts, empty, seen = [], [], Counter()
    for path in paths:
        number = 0
        for number, value, _ in read_rows(path):
            try:
                messages = with_system(_read_row(value), system)
            except BadRow as bad:
                if bad.reason != EMPTY:
                    raise InputError(f"{place(path, number)}: {bad}") from None
                empty.append(f"{path}:{number}")
                continue
            digest = _digest(messages)
            prompts.append(Prompt(messages, f"{path}:{number}", f"{digest}-{seen[digest]}"))
            seen[digest] += 1
        if number == 0 and notes is not None:
            notes.add_blank(path)
    return prompts, empty


def as_written(messages: list[dict]) -> list[dict]:
    """As a row of JSONL has them."""
    return [{"role": m["role"], "content": m["content"]} | ({"weight": 0} if m.get("masked") else {}) for m in messages]


def _digest(messages: list[dict]) -> str:
    return hashlib.sha256(json.dumps(messages, sort_keys=True).encode()).hexdigest()[:24]


def _read_row(value: Value) -> list[dict]:
    try:
        row = parse(value)
    except InputError as error:
        raise BadRow(MALFORMED, f'{error}, expected an object with "prompt" or "messages"') from None
    if isinstance(value, dict):  # of a table, which has all columns in each row
        row = {name: field for name, field in row.items() if field is not None}
    if not isinstance(row, dict) or ("prompt" in row) == ("messages" in row):
        raise BadRow(MALFORMED, 'expected an object with either "prompt" or "messages"')
    field = "prompt" if "prompt" in row else "messages"
    messages = read_messages(field, row[field], "user" if field == "prompt" else None)
    if field == "messages":
        users = [place for place, message in enumerate(messages) if message["role"] == "user"]
        messages = messages[: users[-1] + 1] if users else []
    if not messages:
        raise BadRow(MALFORMED, f'"{field}": expected a user turn')
    if messages[-1]["role"] not in ASKING:
        last = messages[-1]["role"]
        raise BadRow(MALFORMED, f'"{field}": the last message is the {last}\'s, expected one of {", ".join(ASKING)}')
    return messages
