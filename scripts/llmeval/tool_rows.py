"""Rows that want functions called: BFCL's, conversations, and questions for the toolbox."""

import json

from llmdata.bad_row import MALFORMED, BadRow, found, parsed
from llmdata.errors import InputError
from llmdata.messages import read_fields, read_messages
from llmdata.schema import check

from . import calls, toolbox

# BFCL's names of types, in JSON schema's; those of Java and JavaScript are not known here.
TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": "string"} | {name: name for name in calls.TYPES}
_LIST = {"type": "array"}
_ACCEPTED = {**_LIST, "items": {"additionalProperties": _LIST, "items": {"additionalProperties": _LIST}}}  # in objects, too
_ARGUMENTS = {"type": "object", "additionalProperties": _ACCEPTED}
_CALLS = {**_LIST, "items": {"type": "object", "minProperties": 1, "maxProperties": 1, "additionalProperties": _ARGUMENTS}}
_RESULTS = {**_LIST, "items": {"type": ["string", "number"]}}


def read(where: str, row: dict) -> tuple[list[dict], dict]:
    """(messages; {"tools": in OpenAI's form, "right": calls with accepted values or, if "runs", their results}). "right" is
    None where a row of BFCL has no answer. Errors: InputError."""
    try:
        if "function" in row and "question" in row:
            return _bfcl(where, row)
        if "tools" in row and "messages" in row:
            return _conversation(where, row)
        if "question" in row and "results" in row:
            return _for_toolbox(where, row)
    except BadRow as bad:
        raise InputError(f"{where}: {bad}") from None
    expected = '"question" and "function" (BFCL), "messages" and "tools" (a conversation), or "question" and "results"'
    raise InputError(f"{where}: expected {expected}; fields there: {', '.join(map(str, row))}")


def _facts(where: str, tools: list[dict], right: list | None) -> dict:
    if right is not None:
        check(right, _CALLS, f'{where}: "ground_truth"')
        strange = [name for each in right for name in each if name not in calls.parameters_of(tools)]
        if strange:
            raise InputError(f'{where}: "ground_truth": no function {json.dumps(strange[0])} among those of the row')
    return {"tools": tools, "right": right, "runs": False}


def _bfcl(where: str, row: dict) -> tuple[list[dict], dict]:
    question, functions = row["question"], row["function"]
    if isinstance(question, list) and question and isinstance(question[0], list):
        if len(question) > 1:
            raise InputError(f'{where}: "question": {len(question)} turns, expected one')
        question = question[0]
    tools = [_tool(where, each) for each in (functions if isinstance(functions, list) else [functions])]
    return read_messages("question", question, "user"), _facts(where, tools, row.get("ground_truth"))


def _tool(where: str, function) -> dict:
    """A function of BFCL's or OpenAI's form, in that of OpenAI and JSON schema."""
    described = function.get("function", function) if isinstance(function, dict) else None
    if not isinstance(described, dict) or not isinstance(described.get("name"), str):
        raise InputError(f'{where}: expected functions with a "name" and "parameters"')
    schema = _schema(where, described.get("parameters") or {"type": "object", "properties": {}})
    return {"type": "function", "function": described | {"parameters": schema}}


def _schema(where: str, given: dict) -> dict:
    """BFCL's types by their names in JSON schema."""
    named = given.get("type")
    if isinstance(named, str) and named not in TYPES:
        raise InputError(f'{where}: "type": found {json.dumps(named)}, expected one of {", ".join(TYPES)}')
    inside = {"type": TYPES[named]} if isinstance(named, str) else {}
    if isinstance(given.get("items"), dict):
        inside["items"] = _schema(where, given["items"])
    if isinstance(given.get("properties"), dict):
        inside["properties"] = {name: _schema(where, each) for name, each in given["properties"].items()}
    return given | inside


def _conversation(where: str, row: dict) -> tuple[list[dict], dict]:
    """The last message's calls are right, with these arguments alone. Where it has none, a text is."""
    messages, fields = read_messages("messages", row["messages"]), read_fields(row)
    tools = [_tool(where, each) for each in fields.pop("tools", [])]
    if not tools:
        raise InputError(f'{where}: "tools": none, expected functions that may be called')
    if fields:
        raise InputError(f'{where}: "{next(iter(fields))}": not read here, expected "messages" and "tools" alone')
    if len(messages) < 2 or messages[-1]["role"] != "assistant" or messages[-2]["role"] == "assistant":
        raise InputError(f'{where}: "messages": expected an answer of the assistant at the end, and what it answers before it')
    made = [_made(call.get("function", call)) for call in messages[-1].get("tool_calls", ())]
    facts = _facts(where, tools, [{call.name: {name: [_only(v)] for name, v in call.arguments.items()}} for call in made])
    if fault := calls.compare(made, tools, facts["right"]):
        raise InputError(f'{where}: "tool_calls" of the answer do not fit "tools": {fault}')
    return messages[:-1], facts


def _made(call: dict) -> calls.Call:
    arguments = parsed("arguments", call.get("arguments")) or {}
    if not isinstance(arguments, dict):
        raise BadRow(MALFORMED, f'"arguments" of {call["name"]}: {found(arguments)}, expected an object')
    return calls.Call(call["name"], arguments)


def _only(value):
    """This value alone, as BFCL writes what is accepted."""
    if isinstance(value, dict):
        return {name: [each] for name, each in value.items()}
    return [_only(each) if isinstance(each, dict) else each for each in value] if isinstance(value, list) else value


def _for_toolbox(where: str, row: dict) -> tuple[list[dict], dict]:
    names = row.get("tools", list(toolbox.FUNCTIONS))
    strange = [name for name in names if name not in toolbox.FUNCTIONS] if isinstance(names, list) else [names]
    if strange:
        raise InputError(f'{where}: "tools": found {json.dumps(strange[0])}, expected names of {", ".join(toolbox.FUNCTIONS)}')
    right = check(row["results"], _RESULTS, f'{where}: "results"')
    tools = [toolbox.tool(name) for name in names]
    return read_messages("question", row["question"], "user"), {"tools": tools, "right": right, "runs": True}
