"""Files of settings, checked against a JSON schema whose defaults are filled in."""

import copy
import json

import jsonschema

from .errors import InputError
from .section import short


def one_object(properties: dict, required: tuple = (), **more) -> dict:
    """The schema of an object that has no other members."""
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False, **more}


def check(value, schema: dict, where: str):
    """A copy of the value with all defaults filled in. `where`: what messages call its origin. Errors: InputError."""
    error = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema).iter_errors(value))
    if error is not None:
        raise InputError(f"{where}: {_place(error)}{_message(error)}")
    return _with_defaults(copy.deepcopy(value), schema)


def _place(error) -> str:
    place = ".".join(str(part) for part in error.absolute_path)
    return f"{place}: " if place else ""


def _message(error) -> str:
    if error.validator == "additionalProperties":
        known = error.schema["properties"]
        unknown = next(name for name in error.instance if name not in known)
        return f"{short(unknown)} is not known, expected one of {', '.join(known)}"
    if error.validator == "required":
        missing = next(name for name in error.validator_value if name not in error.instance)
        return f"{short(missing)} is missing"
    return f"found {short(error.instance)}, expected {error.validator} {json.dumps(error.validator_value)}"


def _with_defaults(value, node: dict):
    if node.get("type") == "array" and isinstance(node.get("items"), dict):
        return [_with_defaults(item, node["items"]) for item in value]
    if "properties" not in node:
        return value
    for name, member in node["properties"].items():
        if name not in value and "default" in member:
            value[name] = copy.deepcopy(member["default"])
        if name in value:
            value[name] = _with_defaults(value[name], member)
    return value
