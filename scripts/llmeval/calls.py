"""Calls of functions as models write them in Llama 3.1's formats: parsed, and compared with the calls that are right.

A tool is an object of OpenAI's form, as chat templates write it: {"type": "function", "function": {"name", "description",
"parameters": a JSON schema}}. What is accepted follows BFCL's checker of syntax trees; the tests compare the two.
"""

import json
import re
from dataclasses import dataclass
from typing import Collection, Iterable

PYTHON_TAG = "<|python_tag|>"
TAGGED = re.compile(r"<function=([^>]+)>(.*?)</function>", re.S)
MOST_SHOWN = 100  # characters of a wrong value
IGNORED = re.compile(r"[ ,./\-_*^]")  # in texts that are compared

# What is wrong with the calls of an answer, from the outside in: where several are, the last one is named.
UNPARSEABLE, NEEDLESS, NONE, UNKNOWN = "not parseable", "a call where none is right", "no call", "unknown function"
COUNT, OTHER, MISSING = "wrong number of calls", "another function", "argument missing"
UNEXPECTED, TYPE, VALUE = "argument not expected", "argument of a wrong type", "argument of a wrong value"
FAULTS = (UNPARSEABLE, NEEDLESS, NONE, UNKNOWN, COUNT, OTHER, MISSING, UNEXPECTED, TYPE, VALUE)

TYPES = {"string": str, "integer": int, "number": float, "boolean": bool, "array": list, "object": dict}


@dataclass(frozen=True)
class Call:
    name: str
    arguments: dict


@dataclass(frozen=True)
class Fault:
    name: str  # it is counted under
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.detail}" if self.detail else self.name


def parse(text: str) -> list[Call]:
    """The calls that an answer consists of; none: it is a text. {"name": ..., "parameters": {...}}, several of them in a list
    or separated by ; or white space, behind <|python_tag|> or not; or <function=NAME>{...}</function>, once or more. Errors:
    ValueError of an answer that begins like a call and is none."""
    said = text.strip().removeprefix(PYTHON_TAG).strip()
    try:
        if said.startswith("<function="):
            if TAGGED.sub("", said).strip(" \t\r\n;"):
                raise ValueError("text beside <function=...>...</function>")
            return [_call({"name": name, "parameters": json.loads(given)}) for name, given in TAGGED.findall(said)]
        if said[:1] not in ("{", "[") and PYTHON_TAG not in text:
            return []
        return [_call(value) for value in _values(said)]
    except RecursionError:
        raise ValueError("nested too deep") from None


def _values(rest: str) -> list:
    """The JSON values that stand there one after another, those of lists one by one."""
    found = []
    while rest:
        value, end = json.JSONDecoder().raw_decode(rest)
        found += value if isinstance(value, list) else [value]
        rest = rest[end:].lstrip(" \t\r\n;")
    return found


def _call(value) -> Call:
    if isinstance(value, dict):
        name, arguments = value.get("name"), value.get("parameters", value.get("arguments"))
        if isinstance(name, str) and isinstance(arguments, dict):
            return Call(name, arguments)
    raise ValueError('expected an object with "name" and "parameters"')


def compare(calls: list[Call], tools: list[dict], expected: list[dict]) -> Fault | None:
    """None: the calls are right. expected: {name: {argument: [accepted values]}} of each call, in any order; "" among the
    values: the argument may be left out."""
    if fault := unknown(calls, tools):
        return fault
    if len(calls) != len(expected):
        return Fault(COUNT, f"{len(calls)}, expected {len(expected)}")
    schemas, left = parameters_of(tools), list(calls)
    for right in expected:
        ((name, accepted),) = right.items()
        faults = [_fault(call, name, schemas[name], accepted) for call in left]
        if None not in faults:
            return max(faults, key=lambda fault: FAULTS.index(fault.name))
        del left[faults.index(None)]
    return None


def unknown(calls: list[Call], tools: list[dict]) -> Fault | None:
    known = parameters_of(tools)
    return next((Fault(UNKNOWN, call.name) for call in calls if call.name not in known), None)


def parameters_of(tools: list[dict]) -> dict[str, dict]:
    """The schemas of parameters by the functions' names."""
    return {tool["function"]["name"]: tool["function"].get("parameters") or {} for tool in tools}


def misfit(call: Call, schema: dict) -> Fault | None:
    """Why the function with these parameters does not take the call's arguments."""
    wanted = {name: _type(each) for name, each in schema["properties"].items()}
    wrong = (name for name, value in call.arguments.items() if type(value) not in _taken(wanted.get(name)))
    return _misnamed(call, schema["required"], wanted) or next((_of(TYPE, call, name) for name in wrong), None)


def _fault(call: Call, name: str, schema: dict, accepted: dict[str, list]) -> Fault | None:
    if call.name != name:
        return Fault(OTHER, f"{call.name}, expected {name}")
    properties = schema.get("properties", {})
    needed = [*schema.get("required", ()), *(each for each, values in accepted.items() if "" not in values)]
    if fault := _misnamed(call, needed, properties.keys() & accepted.keys()):
        return fault
    wrong = ((_wrong(value, properties[each], accepted[each]), each) for each, value in call.arguments.items())
    return next((_of(what, call, each) for what, each in wrong if what), None)


def _of(name: str, call: Call, argument: str) -> Fault:
    return Fault(name, f"{argument} is {json.dumps(call.arguments[argument])[:MOST_SHOWN]}")


def _misnamed(call: Call, needed: Iterable[str], known: Collection[str]) -> Fault | None:
    missing = [Fault(MISSING, name) for name in needed if name not in call.arguments]
    return next(iter(missing + [Fault(UNEXPECTED, name) for name in call.arguments if name not in known]), None)


def _wrong(value, schema: dict, accepted: list) -> str:
    """TYPE, VALUE, or nothing."""
    wanted, example = _type(schema) or type(value), _example(accepted)
    inner = _type(schema.get("items")) if wanted is list else None
    if type(value) not in _taken(wanted):  # a variable's name, for example, where names are what is accepted
        return TYPE if type(value) is not example else "" if value in accepted else VALUE
    if inner and not any(_holds(value, inner, values) for values in accepted):
        return TYPE
    return "" if _is_accepted(value, inner, accepted, example not in (None, wanted)) else VALUE


def _type(schema) -> type | None:
    named = schema.get("type") if isinstance(schema, dict) else None
    return TYPES.get(named) if isinstance(named, str) else None


def _taken(wanted: type | None) -> tuple[type, ...]:
    return (int, float) if wanted is float else (wanted,)


def _example(values: list) -> type | None:
    return next((type(value) for value in values if value != ""), None)


def _holds(value: list, inner: type, accepted) -> bool:
    """Whether all elements are of this type, or of that of the accepted ones."""
    return not isinstance(accepted, list) or all(type(each) in (inner, _example(accepted)) for each in value)


def _is_accepted(value, inner: type | None, accepted: list, variable: bool) -> bool:
    if variable:
        return value in accepted
    if isinstance(value, dict):
        return any(_same_fields(value, each) for each in accepted)
    if isinstance(value, list):
        same = _same_fields if inner is dict else lambda ours, right: _plain(ours) == _plain(right)
        lists = [each for each in accepted if isinstance(each, list) or each == ""]  # that may be left out: empty, too
        return any(len(value) == len(each) and all(map(same, value, each)) for each in lists)
    return _plain(value) in map(_plain, accepted)


def _same_fields(value, accepted) -> bool:
    """accepted: {key: [accepted values]}, "" among them: the key may be left out."""
    if not isinstance(value, dict) or not isinstance(accepted, dict):
        return False
    there = all(key in accepted and _plain(each) in map(_plain, accepted[key]) for key, each in value.items())
    return there and all(key in value or "" in values for key, values in accepted.items())


def _plain(value):
    """Texts but for case, white space and some punctuation, and with one kind of quotes."""
    return IGNORED.sub("", value).lower().replace("'", '"') if isinstance(value, str) else value
