"""Turns rows in other programs' formats into rows with "messages", or with "prompt" and answers.

ShareGPT and Axolotl: {"conversations": [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}]}
Alpaca: {"instruction": "...", "input": "...", "output": "..."}, perhaps with "history", a list of pairs of texts
OpenAI's preferences: {"input": {"messages": [...]}, "preferred_output": [...], "non_preferred_output": [...]}
The first two may have "chosen" and "rejected" in place of the answer.
"""

from .bad_row import MALFORMED, BadRow, found, parsed
from .errors import InputError
from .records import Value, parse

TALKS = ("messages", "conversations", "conversation")

SPEAKERS = {
    "system": "system",
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bing", "bard", "claude", "model", "ai", "bot"), "assistant"),
    **dict.fromkeys(("tool", "function", "observation", "function_response", "tool_response", "ipython"), "tool"),
}


def turn(where: str, value: dict) -> dict:
    """A ShareGPT message in our fields. {"from": "function_call"} is a call by the assistant, as JSON."""
    if "role" in value or "from" not in value:
        return value
    rest = {key: item for key, item in value.items() if key not in ("from", "value")}
    speaker, said = value["from"], value.get("value")
    if speaker == "function_call":
        calls = parsed(where, said)
        functions = [{"type": "function", "function": call} for call in (calls if isinstance(calls, list) else [calls])]
        return {"role": "assistant", "tool_calls": functions, **rest}
    role = SPEAKERS.get(speaker.lower(), speaker) if isinstance(speaker, str) else speaker
    return {"role": role, "content": said, **rest}


def parse_row(value: Value, expected: str = "an object") -> dict:
    """The row in our fields, without fields that are null."""
    try:
        row = parse(value)
    except InputError as error:
        raise BadRow(MALFORMED, f"{error}, expected {expected}") from None
    if not isinstance(row, dict):
        raise BadRow(MALFORMED, f"expected {expected}")
    return standard({name: field for name, field in row.items() if field is not None})


def standard(row: dict) -> dict:
    if "preferred_output" in row and "non_preferred_output" in row:
        return _of_preference(row)
    compares = "chosen" in row and "rejected" in row
    talk = next((name for name in TALKS if name in row), None)
    if talk is None and "instruction" in row and ("output" in row or compares):
        return _of_alpaca(row, compares)
    if talk is None or talk == "messages":
        return row
    messages = parsed(talk, row[talk])
    if not compares or "prompt" in row or not isinstance(row["chosen"], dict):
        return row | {talk: messages}
    rest = {key: value for key, value in row.items() if key != talk}
    return rest | {"prompt": messages, "chosen": [row["chosen"]], "rejected": [row["rejected"]]}


def _of_preference(row: dict) -> dict:
    given = row.get("input")
    if not isinstance(given, dict):
        raise BadRow(MALFORMED, '"input": expected an object with "messages"')
    rest = {name: given[name] for name in ("tools",) if name in given}
    answers = {"chosen": row["preferred_output"], "rejected": row["non_preferred_output"]}
    return row | rest | answers | {"prompt": given.get("messages")}


def _text(row: dict, name: str) -> str:
    value = row.get(name)
    if value is not None and not isinstance(value, str):
        raise BadRow(MALFORMED, f'"{name}": {found(value)}, expected a text')
    return value or ""


def _of_alpaca(row: dict, compares: bool) -> dict:
    """The user's message is the instruction and, after a blank line, the input."""
    asked = "\n\n".join(text for text in (_text(row, "instruction"), _text(row, "input")) if text.strip())
    prompt = [*_history(row), {"role": "user", "content": asked}]
    if compares:
        return row | {"prompt": prompt}
    return row | {"messages": [*prompt, {"role": "assistant", "content": _text(row, "output")}]}


def _history(row: dict) -> list[dict]:
    history = row.get("history") or []
    pairs = isinstance(history, list) and all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in history)
    if not pairs or not all(isinstance(text, str) for pair in history for text in pair):
        raise BadRow(MALFORMED, '"history": expected a list of pairs of texts')
    return [{"role": role, "content": text} for pair in history for role, text in zip(("user", "assistant"), pair)]
