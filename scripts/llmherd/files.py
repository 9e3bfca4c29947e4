"""The files that the programs read: the sections of a herd's settings, and the paths that the herd fills in."""

import os
from pathlib import Path

from llmdata.section import Section
from llmdata.text_file import read_object
from llmscale.sizes import Shape, Size, config_of, read_shape

from .settings import Settings

FOLDERS = ("items", "raw", "curated", "tokenizer", "shards", "herd", "round")  # in the output folder


def place(value, folder: Path | str):
    """The section with all texts that are paths inside the output folder put below `folder`."""
    if isinstance(value, dict):
        return {name: place(member, folder) for name, member in value.items()}
    if isinstance(value, list):
        return [place(member, folder) for member in value]
    return f"{folder}/{value}" if isinstance(value, str) and is_inside(value) else value


def is_inside(text: str) -> bool:
    """Whether a text in a section is a path inside the output folder, as items/chats.jsonl."""
    first, slash, _ = text.partition("/")
    return first in FOLDERS and (bool(slash) or first == "tokenizer")


class Files:
    """`output`: the herd's folder, or one that stands for it while the settings are checked."""

    def __init__(self, settings: Settings, output: Path):
        self.settings, self.output = settings, output

    def path(self, name: str) -> Path:
        return self.output / "files" / f"{name}.json"

    def value(self, name: str) -> dict:
        """What files/NAME.json holds. That of the recipe and the scaling plan may need the shards' own meta.json."""
        made = {"curate": self.curate, "scaling": self.scaling, "recipe": self.recipe, "round": self.round, "suite": self.suite}
        return made[name]() if name in made else self.model(name)

    # ---- data

    @property
    def tokenizer(self) -> Path:
        return Path(self.settings.tokenizer.get("folder") or self.output / "tokenizer")

    def raw(self, name: str) -> list[str]:
        """Files, folders or patterns of a source as it comes."""
        source = self.settings.sources[name]
        return [str(self.output / "raw" / name)] if "packages" in source or "made" in source else source["files"]

    def text(self, name: str) -> list[str]:
        """Files, folders or patterns of a source's texts."""
        return [str(self.output / "curated" / "documents" / name)] if self.settings.sources[name]["curate"] else self.raw(name)

    def shards(self, name: str, split: str) -> str:
        return str(self.output / "shards" / name / f"{split}_*.bin")

    def curate(self) -> dict:
        names = [name for name, source in self.settings.sources.items() if source["curate"]]
        inputs = [{"source": name, "paths": self.raw(name)} for name in names]
        return {"input": inputs, "output": {"folder": str(self.output / "curated")}, "seed": self.settings.seed,
                **self.settings.curate}  # fmt: skip

    def tokens(self, name: str) -> int:
        return read_object(self.output / "shards" / name / "meta.json").get("train_tokens", 1)

    # ---- training

    def model(self, name: str) -> dict:
        """config.json of a size of the herd."""
        model = self.settings.models[name]
        if "config" in model:
            return read_object(Path(model["config"]))
        return config_of(Size(model["layers"], model["hidden_size"]), self.shape())

    def shape(self) -> Shape:
        """What the models have in common with those of the sweep."""
        given = Section(self.settings.path, "scaling.model", (self.settings.scaling or {}).get("model") or {})
        return read_shape(given, self.settings.vocab_size, self.longest())

    def longest(self) -> int:
        """The longest rows among the stages that do not scale RoPE."""
        length, found, scaled = 0, 16, False
        for stage in self.settings.recipe["stages"]:
            length, scaled = stage.get("seq_len", length), stage.get("rope_scaling", scaled)
            found = found if scaled else max(found, int(length))
        return found

    def scaling(self) -> dict:
        settings = self.settings
        given = {name: value for name, value in settings.scaling.items() if name != "stage"}
        speed = {"flops_per_second": settings.flops_per_second} if settings.flops_per_second else {}
        return {"output": str(self.output / "scaling"), "precision": settings.precision, "target": settings.target,
                "launch": settings.launch, "ranks": settings.ranks,
                "data": {"train": self.shards("*", "train"), "val": self.shards("*", "val"), "tokenizer": str(self.tokenizer)},
                **speed, **given}  # fmt: skip

    def recipe(self) -> dict:
        sources, recipe = {}, self.settings.recipe
        for name, source in self.settings.sources.items():
            val = {"val": self.shards(name, "val")} if source["val_fraction"] else {}
            epochs = {"max_epochs": source["max_epochs"]} if "max_epochs" in source else {}
            sources[name] = {"train": self.shards(name, "train"), **val, **epochs}
        first, *others = recipe["stages"]
        if "mixture" not in first:  # as the sweep, which reads all shards
            first = {**first, "mixture": [{"source": name, "weight": self.tokens(name)} for name in sources]}
        return {**recipe, "name": self.settings.name, "sources": sources, "stages": [first, *others]}

    def base(self, name: str) -> Path:
        """The model that a size of the herd ends as: the mean of its weights, where the last stage keeps one."""
        checkpoint = self.output / "herd" / name / "checkpoint"
        averaged = False
        for stage in self.settings.recipe["stages"]:
            averaged = stage.get("average", averaged)
        return checkpoint / "averaged" if averaged else checkpoint

    # ---- after training

    def round(self) -> dict:
        settings = self.settings
        return {"model": str(self.base(settings.largest)), "output": str(self.output / "round"),
                "precision": settings.precision, "target": settings.target, "launch": settings.launch,
                **place(settings.post_training, self.output)}  # fmt: skip

    def suite(self) -> dict:
        """Its paths are relative to it; those of the user's own are relative to the current folder."""
        members = {name: value for name, value in self.settings.evaluation.items() if name != "options"}
        tasks = [_own_files(task) for task in members.get("tasks", [])]
        return place({**members, "tasks": tasks}, "..")

    def evaluated(self) -> dict[str, Path]:
        """All models that the suite is put to."""
        found = {name: self.base(name) for name in self.settings.models}
        trained = {name: "run/checkpoint" for name in ("sft", "dpo")} | {"average": "model"}
        for name, inside in trained.items():
            if name in (self.settings.post_training or {}):
                found[name] = self.output / "round" / name / inside
        return found


def _own_files(task):
    def whole(value: str) -> str:
        return value if is_inside(value) or value.startswith("package:") else os.path.abspath(value)

    if not isinstance(task, dict):
        return task
    return {name: whole(value) if name in ("file", "few_shot_file", "labelled", "tokenizer") and isinstance(value, str) else
            [whole(item) for item in value] if name == "shards" and isinstance(value, list) else value
            for name, value in task.items()}  # fmt: skip
