"""Reads prompts from rows: conversations up to where the assistant should answer.

A row is an object with "prompt" (what a user says, or a list of messages that ends before the assistant's turn) or "messages" (a
conversation, of which everything after the last user turn is dropped), or it has a format of llmdata.formats. Its other fields
for the template (tools, documents, chat_template_kwargs) are kept.
"""

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from llmdata.bad_row import EMPTY, MALFORMED, BadRow
from llmdata.chat_rows import read_talk
from llmdata.errors import InputError
from llmdata.files import Notes
from llmdata.formats import TALKS, parse_row
from llmdata.messages import read_fields, read_messages, with_system
from llmdata.records import Value, place, read_rows

EXPECTED = 'an object with either "prompt" or "messages"'
ASKING = ("user", "tool", "ipython")  # an answer may follow a message of these roles


@dataclass
class Prompt:
    messages: list[dict]  # from read_messages
    source: str  # FILE:LINE
    key: str  # a hash of its content, and how many equal prompts came before: stays the same when prompts are added
    fields: dict = field(default_factory=dict)  # from read_fields


def read_prompts(paths: list[Path], system: str | None, notes: Notes | None = None) -> tuple[list[Prompt], list[str]]:
    """(prompts in order, FILE:LINE of empty ones). `system` is for prompts that have no system message."""
    prompts, empty, seen = [], [], Counter()
    for path in paths:
        number = 0
        for number, value, _ in read_rows(path):
            try:
                messages, fields = _read_row(value, system)
            except BadRow as bad:
                if bad.reason != EMPTY:
                    raise InputError(f"{place(path, number)}: {bad}") from None
                empty.append(f"{path}:{number}")
                continue
            digest = _digest([*messages, fields] if fields else messages)
            prompts.append(Prompt(messages, f"{path}:{number}", f"{digest}-{seen[digest]}", fields))
            seen[digest] += 1
        if number == 0 and notes is not None:
            notes.add_blank(path)
    return prompts, empty


def _digest(said: list) -> str:
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:24]


def _read_row(value: Value, system: str | None) -> tuple[list[dict], dict]:
    row = parse_row(value, EXPECTED)
    if ("prompt" in row) == any(name in row for name in TALKS):
        raise BadRow(MALFORMED, f"expected {EXPECTED}")
    if "prompt" in row:
        name, messages = "prompt", read_messages("prompt", row["prompt"], "user")
    else:
        name, messages = read_talk(row)
        users = [place for place, message in enumerate(messages) if message["role"] == "user"]
        messages = messages[: users[-1] + 1] if users else []
    if not messages:
        raise BadRow(MALFORMED, f'"{name}": expected a user turn')
    if messages[-1]["role"] not in ASKING:
        last = messages[-1]["role"]
        raise BadRow(MALFORMED, f'"{name}": the last message is the {last}\'s, expected one of {", ".join(ASKING)}')
    return with_system(messages, row, system), read_fields(row)
