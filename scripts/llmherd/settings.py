"""Reads the settings of a herd and checks what no program checks that the herd runs. Paths are relative to the current
folder."""

import glob
from dataclasses import dataclass
from pathlib import Path

from llmdata import tokenizer
from llmdata.errors import InputError
from llmdata.schema import check, one_object
from llmdata.section import short
from llmdata.text_file import read_json
from llmplan.gpus import GPUS
from llmtext.generator import default_target

_TEXT, _COUNT, _SECTION = {"type": "string", "minLength": 1}, {"type": "integer", "minimum": 1}, {"type": "object"}
_TEXTS = {"type": "array", "items": _TEXT}
_SOURCE = one_object({
    "packages": {**_TEXTS, "minItems": 1}, "files": {**_TEXTS, "minItems": 1}, "made": _TEXT, "documents": _COUNT,
    "curate": {"type": "boolean", "default": False}, "max_epochs": {"type": "number", "exclusiveMinimum": 0},
    "val_fraction": {"type": "number", "minimum": 0, "maximum": 0.5, "default": 0.05},
})  # fmt: skip
_MODEL = one_object({"layers": _COUNT, "hidden_size": _COUNT, "config": _TEXT})
_SCHEMA = one_object(
    {
        "name": _TEXT, "notes": _TEXTS, "output": _TEXT, "seed": {"type": "integer", "minimum": 0, "default": 1},
        "precision": {"enum": ["bf16", "fp32"], "default": "bf16"}, "target": {"enum": ["cpu", "cuda"]},
        "launch": {**_TEXTS, "default": []}, "ranks": {**_COUNT, "default": 1}, "gpu": {"enum": list(GPUS)},
        "flops_per_second": {"type": "number", "exclusiveMinimum": 0},
        "expected_seconds": {"type": "object", "additionalProperties": {"type": "number", "minimum": 0}},
        "slurm": one_object({"train": {**_TEXTS, "default": []}, "node": {**_TEXTS, "default": []}}),
        "sources": {"type": "object", "minProperties": 1, "propertyNames": {"pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*$"}},
        "curate": one_object({"steps": _SECTION, "executor": _SECTION}),
        "tokenizer": one_object({"vocab_size": {**_COUNT, "minimum": tokenizer.SMALLEST_VOCABULARY}, "folder": _TEXT}),
        "items": _SECTION, "tasks": _SECTION, "baseline": one_object({"order": {**_COUNT, "maximum": 9, "default": 5}}),
        "scaling": _SECTION, "recipe": _SECTION, "train": {**_SECTION, "default": {}},
        "models": {"type": "object", "minProperties": 1, "propertyNames": {"pattern": "^[A-Za-z0-9][A-Za-z0-9-]*$"},
                   "additionalProperties": _MODEL},
        "post_training": _SECTION, "evaluation": _SECTION,
        "safety": one_object({"violations": _TEXT, "false_refusals": _TEXT}, ("violations", "false_refusals")),
    },
    ("name", "output", "sources", "tokenizer", "recipe", "models"),
)  # fmt: skip
# Members of the programs' own files that the herd fills in.
_SET_BY_HERD = {"scaling": "output data precision target", "recipe": "name sources",
                "post_training": "model output precision target"}  # fmt: skip
_ORIGINS = ("packages", "made", "files")


@dataclass
class Settings:
    """`value` is the file with all defaults filled in."""

    path: Path
    value: dict
    output: Path
    target: str
    vocab_size: int

    def __getattr__(self, name: str):
        """A member of the file; None where it is left out."""
        if name not in _SCHEMA["properties"]:
            raise AttributeError(name)
        return self.value.get(name)

    @property
    def largest(self) -> str:
        return list(self.models)[-1]

    def fail(self, place: str, text: str):
        raise InputError(f"{self.path}: {place}: {text}")


def read_herd(path: Path, output: Path | None = None, seed: int | None = None) -> Settings:
    value = check(read_json(path), _SCHEMA, str(path))
    value["seed"] = value["seed"] if seed is None else seed
    value["sources"] = {name: check(source, _SOURCE, f"{path}: sources.{name}") for name, source in value["sources"].items()}
    target = value.get("target") or default_target(value["precision"])
    made = Settings(path, value, output or Path(value["output"]), target, 0)
    for name, source in made.sources.items():
        _check_source(made, f"sources.{name}", source)
    _check_sections(made)
    _check_models(made)
    made.vocab_size = _vocabulary(made)
    return made


def _check_source(made: Settings, place: str, source: dict) -> None:
    origin = next((name for name in _ORIGINS if name in source), None)
    several = "made" in source and len(set(source) & set(_ORIGINS)) > 1
    if origin is None or several or ("made" in source) != ("documents" in source):
        made.fail(place, 'expected {"packages", "files"}, {"files"}, or {"made", "documents"}')
    if origin == "packages" and "files" not in source:
        made.fail(f"{place}.files", "is missing, expected patterns of the files inside the packages")
    for pattern in source["files"] if origin == "files" else ():
        if not glob.glob(pattern):
            made.fail(f"{place}.files", f"{pattern}: no such file or folder")
    if source["curate"] and made.curate is None:
        made.fail(f"{place}.curate", 'is true, and there is no "curate", expected the steps of curation there')


def _check_sections(made: Settings) -> None:
    for section, names in _SET_BY_HERD.items():
        for name in names.split():
            if name in (made.value.get(section) or {}):
                made.fail(f"{section}.{name}", "the herd sets this member itself")
    if made.curate is not None and not any(source["curate"] for source in made.sources.values()):
        made.fail("curate", 'no source has "curate": true')
    if len(made.tokenizer) != 1:
        made.fail("tokenizer", 'expected {"vocab_size"}, or {"folder"} of one that exists')
    stages = made.recipe.get("stages")
    names = [stage.get("name") for stage in stages if isinstance(stage, dict)] if isinstance(stages, list) else []
    if made.scaling is not None and (wanted := made.scaling.get("stage", "main")) not in names:
        known = ", ".join(map(str, names))
        made.fail("scaling.stage", f"expected a stage of the recipe, one of {known}, found {short(wanted)}")


def _check_models(made: Settings) -> None:
    for name, model in made.models.items():
        if sorted(model) not in (["config"], ["hidden_size", "layers"]):
            made.fail(f"models.{name}", 'expected {"layers", "hidden_size"}, or {"config"}')
        if "config" in model and not Path(model["config"]).is_file():
            made.fail(f"models.{name}.config", f"{model['config']}: no such file")


def _vocabulary(made: Settings) -> int:
    folder = made.tokenizer.get("folder")
    if folder is None:
        return made.tokenizer["vocab_size"]
    try:
        return tokenizer.load(tokenizer.find(Path(folder)), None, None).vocab_size
    except InputError as error:
        return made.fail("tokenizer.folder", str(error))
