"""The file of settings of data/curate.py, checked against a schema that is made of the steps' own."""

from pathlib import Path

from llmdata.schema import check, one_object
from llmdata.text_file import read_json

from .steps import STEPS

_TEXT, _COUNT = {"type": "string", "minLength": 1}, {"type": "integer", "minimum": 1}
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
    "memory_gb": {"type": "number", "minimum": 0.5, "default": 4},  # of this machine's workers together, or of a task of Slurm's
    "document_seconds": {"type": "number", "exclusiveMinimum": 0, "default": 10},
    "document_bytes": {**_COUNT, "default": 1 << 24},
    "partition": _TEXT, "time": {**_TEXT, "default": "24:00:00"}, "sbatch": {"type": "object", "default": {}},
}  # fmt: skip


def schema() -> dict:
    steps = {name: {"type": "object", "additionalProperties": False, **step.SCHEMA} for name, step in STEPS.items()}
    output = _OUTPUT | {"shards": one_object(_SHARDS, ("tokenizer",))}
    return one_object(
        {
            "input": {"type": "array", "items": one_object(_INPUT, ("paths",)), "minItems": 1},
            "output": one_object(output, ("folder",)),
            "steps": one_object(steps, default={}),
            "executor": one_object(_EXECUTOR, default={}),
            "seed": {"type": "integer", "minimum": 0, "default": 1},
        },
        ("input", "output"),
    )


def read_settings(path: Path) -> dict:
    return check_settings(read_json(path), str(path))


def check_settings(value, where: str) -> dict:
    """The settings with all defaults filled in. `where`: what messages call their origin."""
    return check(value, schema(), where)
