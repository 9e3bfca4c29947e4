"""Where a chat template fails: finds out whether a message's field in another form would help, and says so."""

import json

from .messages import text_of

PARTS = '"content" is a list of parts, write it as one text'


def _one_text(message: dict) -> dict:
    return message | {"content": text_of(message)} if "content" in message else message


def _with_arguments(change, value):
    """The message with the arguments of its calls changed."""
    if isinstance(value, list):
        return [_with_arguments(change, item) for item in value]
    if not isinstance(value, dict):
        return value
    inside = {key: _with_arguments(change, value[key]) for key in ("tool_calls", "function") if key in value}
    return value | inside | ({"arguments": change(value["arguments"])} if "arguments" in value else {})


def _as_object(message: dict) -> dict:
    return _with_arguments(lambda given: json.loads(given) if isinstance(given, str) else given, message)


def _as_text(message: dict) -> dict:
    return _with_arguments(lambda given: given if isinstance(given, str) else json.dumps(given), message)


FORMS = (
    (_one_text, PARTS),
    (_as_object, '"arguments" of "tool_calls" is a text, write it as an object'),
    (_as_text, '"arguments" of "tool_calls" is an object, write it as a JSON text'),
)


def hint(render, messages: list[dict]) -> str:
    """The field whose other form lets `render` succeed with these messages, if there is one."""
    for change, found in FORMS:
        try:
            render(messages=list(map(change, messages)))
            return f": {found}"
        except Exception:  # this field is not the cause, or not the only one
            continue
    return ""
