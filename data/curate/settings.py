"""The file of settings of data/curate.py, checked against a schema that is made of the steps' own."""

import copy
import json
from pathlib import Path

import jsonschema

from llmdata.errors import InputError
from llmdata.section import short
from llmdata.text_file import read_json

from .steps import STEPS

_TEXT, _COUNT, _SECONDS = {"type": "string", "minLength": 1}, {"type": "integer", "minimum": 1}, {"type": "number", "exclusiveMinimum": 0}
_INPUT = {
    "paths": {"type": "array", "items": _TEXT, "minItems": 1},  # files, folders or patterns
    "source": {**_TEXT, "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*$", "default": "web"},  # names a folder
    "format": {"enum": ["auto", "warc", "html", "jsonl", "parquet"], "default": "auto"},  # WET is WARC
    "language": _TEXT,
}  # fmt: skip
_SHARDS = {"tokenizer": _TEXT, "val_fraction": {"type": "number", "minimum": 0, "maximum": 0.5, "default": 0.01},
           "shard_tokens": {"type": "integer", "minimum": 1024, "default": 100_000_000}}  # fmt: skip
_OUTPUT = {"folder": _TEXT, "format": {"enum": ["jsonl", "parquet"], "default": "jsonl"}}
_EXECUTOR = {
    "kind": {"enum": ["local", "slurm"], "default": "local"},
    "tasks": {**_COUNT, "maximum": 100_000, "default": 16},
    "workers": _COUNT,  # at once
    "memory_gb": {"type": "number", "minimum": 0.5, "default": 4},  # of all workers of a machine together
    "document_seconds": {**_SECONDS, "default": 10},
    "document_bytes": {**_COUNT, "default": 1 << 24},
    "partition": _TEXT, "time": {**_TEXT, "default": "24:00:00"}, "sbatch": {"type": "object", "default": {}},
}  # fmt: skip


def _object(properties: dict, required: tuple = (), **more) -> dict:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False, **more}


def schema() -> dict:
    steps = {name: {"type": "object", "additionalProperties": False, **step.SCHEMA} for name, step in STEPS.items()}
    output = _OUTPUT | {"shards": _object(_SHARDS, ("tokenizer",))}
    return _object(
        {
            "input": {"type": "array", "items": _object(_INPUT, ("paths",)), "minItems": 1},
            "output": _object(output, ("folder",)),
            "steps": _object(steps, default={}),
            "executor": _object(_EXECUTOR, default={}),
            "seed": {"type": "integer", "minimum": 0, "default": 1},
        },
        ("input", "output"),
    )


def read_settings(path: Path) -> dict:
    return check_settings(read_json(path), str(path))


def check_settings(value, where: str) -> dict:
    """The settings with all defaults filled in. `where`: what messages call their origin."""
    whole = schema()
    error = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(whole).iter_errors(value))
    if error is not None:
        raise InputError(f"{where}: {_place(error)}{_message(error)}")
    return _with_defaults(copy.deepcopy(value), whole)


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
