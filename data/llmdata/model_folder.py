"""Finds the model in a folder that a user names: a model's own folder, or that of a run with its checkpoint."""

import os
from pathlib import Path

from .errors import InputError

OF_A_MODEL = ("config.json", "adapter_config.json")


def find_model(path: Path) -> Path:
    """The path itself, or the newest checkpoint if it is a run's folder.

    A path that holds no model is returned too, for its reader to refuse. A dangling link, as cp -r makes of a checkpoint, is
    refused here.
    """
    _check_link(path)
    if not path.is_dir() or _holds_model(path):
        return path
    _check_link(path / "checkpoint")
    return path / "checkpoint" if _holds_model(path / "checkpoint") else path


def find_whole_model(path: Path) -> Path:
    """find_model, for a program that cannot use an adapter without its base."""
    folder = find_model(path)
    weights = any((folder / name).exists() for name in ("model.safetensors", "model.safetensors.index.json"))
    if weights or not (folder / "adapter_config.json").exists():
        return folder
    raise InputError(f"{folder}: is an adapter (adapter_config.json), expected a model: merge_lora --adapter {folder} "
                     "--output DIR makes one of it and its base")  # fmt: skip


def named_models(given: list[str], option: str) -> dict[str, Path]:
    """{name: folder of a whole model} of NAME=DIR or DIR, which is then named after its folder. A name is what stands before
    the first =, unless the whole is a folder. `option`: whose values these are."""
    found: dict[str, Path] = {}
    for item in given:
        name, equals, folder = item.partition("=")
        if not equals or Path(item).is_dir():
            name, folder = Path(item).resolve().name, item
        if not name or not folder:
            raise InputError(f"{option} {item}: expected DIR or NAME=DIR")
        if name in found:
            raise InputError(f"{option} {item}: the name {name} is taken: give each model its own, as NAME=DIR")
        found[name] = find_whole_model(Path(folder))
    return found


def _holds_model(folder: Path) -> bool:
    return any((folder / name).exists() for name in OF_A_MODEL)


def _check_link(path: Path) -> None:
    if path.is_symlink() and not path.exists():
        raise InputError(f"{path}: a link to {os.readlink(path)}, which is not there: cp -r copies a run's checkpoint, "
                         "which is a link, as that alone; cp -rL copies what it leads to")  # fmt: skip
