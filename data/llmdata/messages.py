"""Reads messages and other fields of chat data from JSON. They are checked, and kept whole: a template may read any of them."""

from .bad_row import EMPTY, MALFORMED, UNKNOWN_ROLE, BadRow, found, parsed
from .characters import is_text
from .formats import turn

TOKENS = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))  # a template may write these

ROLES = ("system", "user", "assistant", "tool", "ipython")
FLAGS = ("weight", "train", "loss")  # if one of these is 0 or false, an assistant's message is not trained

# Fields for a message's reasoning. The first one that is there is used; templates read the first two.
REASONING = ("reasoning_content", "thinking", "reasoning")
SAYING = ("content", "tool_calls", "function_call", *REASONING)  # fields in which an assistant may say something
# A row's chat_template_kwargs must not set these.
TAKEN = ("messages", "tools", "documents", "add_generation_prompt", "chat_template", *TOKENS)


def read_messages(name: str, value, text_role: str | None = None) -> list[dict]:
    """Reads a list of messages. With `text_role`, a plain text is a single message of that role."""
    if isinstance(value, str):
        value = [{"role": text_role, "content": value}] if text_role else _parsed_list(name, value)
    if not isinstance(value, list):
        raise BadRow(MALFORMED, f'"{name}": expected a list of messages{" or a text" if text_role else ""}')
    messages = [_message(f"{name}[{number}]", message) for number, message in enumerate(value)]
    if not any(map(says, messages)):
        raise BadRow(EMPTY, f'"{name}": no message')
    return messages


def says(message: dict) -> bool:
    return bool(text_of(message).strip()) or any(has_words(message.get(name)) for name in SAYING[1:])


def has_words(value) -> bool:
    """Whether a JSON value contains a text that is not just white space."""
    if isinstance(value, dict):
        return any(map(has_words, value.values()))
    return bool(value.strip()) if isinstance(value, str) else isinstance(value, (list, tuple)) and any(map(has_words, value))


def text_of(message: dict) -> str:
    """The message's content as one text, without calls and reasoning."""
    content = message.get("content", "")
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def meaning(message: dict) -> dict:
    """The fields that make two messages the same, without metadata such as a time or an id."""
    known = {name: message.get(name) for name in ("role", "name", "tool_call_id", *SAYING)}
    return known | {"content": text_of(message).strip()}


def is_trained(message: dict) -> bool:
    return message["role"] == "assistant" and all(message.get(name, 1) for name in FLAGS)


def with_system(messages: list[dict], row: dict, system: str | None) -> list[dict]:
    """Puts the row's "system" in front, or else `system` where the messages have none. An empty system message counts as none."""
    own = row.get("system")
    if own is not None and (not isinstance(own, str) or _has_half_pair(own)):
        raise BadRow(MALFORMED, f'"system": {found(own)}, expected Unicode text')
    own = (own or "").strip()
    said = [text_of(message).strip() for message in messages if message["role"] == "system" and says(message)]
    if own and said and own not in said:
        raise BadRow(MALFORMED, '"system": is not what the system message among the messages says')
    if said or not (own or system):
        return messages
    content = row["system"] if own else system
    return [{"role": "system", "content": content}, *(message for message in messages if message["role"] != "system")]


def _parsed_list(name: str, text: str):
    try:
        return parsed(name, text)
    except BadRow:
        return text


def _message(where: str, value) -> dict:
    if not isinstance(value, dict):
        raise BadRow(MALFORMED, f'"{where}": expected an object with "role" and "content"')
    message = {key: item for key, item in turn(where, value).items() if item is not None}
    role = message.get("role")
    if not isinstance(role, str):
        raise BadRow(MALFORMED, f'"{where}": expected a text under "role"')
    if role not in ROLES:
        raise BadRow(UNKNOWN_ROLE, f'"{where}": role {found(role)}, expected one of {", ".join(ROLES)}')
    if "tool_calls" in message:
        message["tool_calls"] = _calls(f"{where}.tool_calls", message["tool_calls"])
    _check_content(where, message)
    if _has_half_pair(message):
        raise BadRow(MALFORMED, f'"{where}": half a surrogate pair, expected Unicode text')
    _check_flags(where, message)
    if role in ("user", "assistant") and not says(message):
        raise BadRow(EMPTY, f'"{where}": the {role} says nothing')
    return message


def _calls(where: str, value) -> list:
    calls = parsed(where, value)
    if calls is None:
        return []
    if not isinstance(calls, list):
        raise BadRow(MALFORMED, f'"{where}": {found(calls)}, expected a list')
    for number, call in enumerate(calls):
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise BadRow(MALFORMED, f'"{where}[{number}]": expected an object with "function", in it "name" and "arguments"')
    return calls


def _check_content(where: str, message: dict) -> None:
    if "content" not in message and message["role"] == "assistant" and says(message):
        return
    content = message.get("content")
    if isinstance(content, list):
        for part in content:
            if isinstance(part, dict) and part.get("type", "text") != "text":
                raise BadRow(MALFORMED, f'"{where}": "content" has a part of type {found(part["type"])}, expected texts alone')
        if all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in content):
            return
    if not isinstance(content, str):
        raise BadRow(MALFORMED, f'"{where}": expected a text under "content", or a list of {{"type": "text", "text": "..."}}')


def _check_flags(where: str, message: dict) -> None:
    for name in FLAGS:
        if message.get(name, 1) not in (0, 1):
            raise BadRow(MALFORMED, f'"{where}": {name} {found(message[name])}, expected 0 or 1')
    if message.get("train_detail"):
        raise BadRow(MALFORMED, f'"{where}": "train_detail" is not read: a message is trained whole or not at all')


def _has_half_pair(value) -> bool:
    if isinstance(value, dict):
        return any(map(_has_half_pair, (*value, *value.values())))
    if isinstance(value, list):
        return any(map(_has_half_pair, value))
    return isinstance(value, str) and not is_text(value)


# ---- a row's fields beside its messages


def read_fields(row: dict) -> dict:
    """Those of "tools", "documents" and "chat_template_kwargs" that are not empty."""
    fields = {name: parsed(name, row.get(name)) for name in ("tools", "documents", "chat_template_kwargs")}
    if parsed("functions", row.get("functions")):
        raise BadRow(MALFORMED, '"functions": not read; write them as "tools"')
    for name in ("tools", "documents"):
        value = fields[name]
        if value and not (isinstance(value, list) and all(isinstance(item, dict) for item in value)):
            raise BadRow(MALFORMED, f'"{name}": expected a list of objects')
    arguments = fields["chat_template_kwargs"]
    if arguments and not isinstance(arguments, dict):
        raise BadRow(MALFORMED, f'"chat_template_kwargs": {found(arguments)}, expected an object')
    taken = [name for name in TAKEN if name in (arguments or {})]
    if taken:
        raise BadRow(MALFORMED, f'"chat_template_kwargs": "{taken[0]}" is not for a row to set')
    fields = {name: value for name, value in fields.items() if value}
    if _has_half_pair(fields):
        raise BadRow(MALFORMED, f'"{" or ".join(fields)}": half a surrogate pair, expected Unicode text')
    return fields
