"""Reads round.json and checks it, and that everything it names exists. Paths are relative to the current folder."""

import functools
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from llmdata.model_folder import find_model
from llmdata.section import Section as JsonSection, short
from llmdata.text_file import parse_json, read_text
from llmdata.errors import InputError
from llmtext.generator import ROOT, build_folder, default_target

STAGES = ("reward_model", "rejection_sampling", "sft", "dpo", "average")
OF_POLICY = ("sft", "dpo")  # stages that train the model which answers; their results may be averaged

# Options that the round itself sets for each program.
SET_BY_ROUND = {
    "train": "task config init-from train-data val-data tokenizer output overwrite resume accept-changes eval-only "
             "reference-only",
    "prepare": "source tokenizer output overwrite kind show",
    "sample": "model reward-model prompts output pairs keep-all target precision",
    "held_out": "model reward-model prompts output pairs pair-margin keep-all keep-cut samples target precision",
    "options": "output overwrite weights",
}  # fmt: skip

Options = dict[str, object]  # by name, without the leading hyphens


@dataclass
class Source:
    """Rows that are used `weight` times in training."""

    path: Path
    weight: float


@dataclass
class Training:
    """A stage that trains: its data, and the model it starts from (None: the round's newest so far)."""

    init_from: Path | None
    sources: list[Source]
    prepare: Options
    train: Options
    sampled: float = 0  # weight of the rows from rejection sampling


@dataclass
class Round:
    path: Path
    text: str
    model: Path
    output: Path
    target: str
    precision: str
    launch: list[str]
    reward_model: Training | Path | None = None  # a folder holds a finished reward model
    prompts: list[Path] = field(default_factory=list)  # for rejection sampling; empty: no such stage
    sample: Options = field(default_factory=dict)
    sft: Training | None = None
    dpo: Training | None = None
    average: list[str] = field(default_factory=list)  # names of stages, or folders
    average_weights: list[float] = field(default_factory=list)
    average_options: Options = field(default_factory=dict)
    held_out: list[Path] = field(default_factory=list)
    held_out_options: Options = field(default_factory=dict)


class Section(JsonSection):
    """An object in the file, with what only a round has: models, and options of programs."""

    def model(self, name: str) -> Path:
        path = find_model(Path(self.get(name, str, "a model's folder")))
        for needed in (["config.json"], ["tokenizer.json", "tokenizer.model"]):
            if not any((path / file).is_file() for file in needed):
                self.fail(name, f"{path / needed[0]} is missing, expected a model's folder")
        return path

    def options(self, name: str, known: dict[str, bool], use: str | None = None) -> Options:
        """Options of a program; underscores in their names stand for hyphens. `known` says which take a value."""
        self.asked.add(name)
        if name not in self.value:
            return {}
        section, found = self.section(name), {}
        for key, value in section.value.items():
            option = key.replace("_", "-")
            if option in SET_BY_ROUND[use or name].split():
                section.fail(key, "the round sets this option itself")
            if option not in known:
                section.fail(key, "no such option of the program")
            if not (_is_value(value) if known[option] else isinstance(value, bool)):
                section.fail(key, f"expected {'a value' if known[option] else 'true or false'}, found {short(value)}")
            if option in found:
                section.fail(key, "is given twice")
            found[option] = value
        return found


def _is_value(value) -> bool:
    """Whether an option can have this value: a text, a number, or a list of texts, each of which is given."""
    if isinstance(value, list):
        return bool(value) and all(isinstance(item, str) for item in value)
    return isinstance(value, (str, int, float)) and not isinstance(value, bool)


def as_arguments(options: Options) -> list[str]:
    """Options as arguments: --name value; --name for true; nothing for false; --name value for each item of a list."""
    arguments = []
    for name, value in options.items():
        for item in value if isinstance(value, list) else [value]:
            if item is not False:
                arguments += [f"--{name}"] if item is True else [f"--{name}", str(item)]
    return arguments


# A line of --help that begins with an option: "  -n, --steps=N" by argp, "  --samples K" by argparse.
OPTION_LINE = re.compile(r"^ {2,6}(?:-\w, )?--([a-z][a-z0-9-]*)(=| (?=\S))?", re.M)


@functools.cache
def known_options(*command: str) -> dict[str, bool]:
    """The options that a program's --help lists, and whether each takes a value."""
    try:
        wide = {**os.environ, "COLUMNS": "100"}
        done = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True, env=wide)
    except (OSError, subprocess.CalledProcessError) as error:
        raise InputError(f"{' '.join(command)} --help: {error}") from None
    found = OPTION_LINE.findall(done.stdout)
    return {name: bool(value) for name, value in found if name not in ("help", "usage", "version")}


# ---- the file


class Programs:
    """The commands of the programs that a round runs, and their options."""

    def __init__(self, target: str, precision: str):
        build, python = build_folder(target, precision), sys.executable
        self.commands = {
            "train": [str(build / "train_llama3")], "average": [str(build / "average_llama3")],
            "prepare": [python, str(ROOT / "data" / "prepare_chat.py")],
            "sample": [python, str(ROOT / "scripts" / "rejection_sample.py")],
        }  # fmt: skip
        for name in ("train", "average"):
            if not Path(self.commands[name][0]).is_file():
                raise InputError(f"{self.commands[name][0]} is missing: run make TARGET={target} PRECISION={precision}")

    def options(self, name: str) -> dict[str, bool]:
        return known_options(*self.commands[name])


def read_file(path: Path) -> tuple[str, object]:
    text = read_text(path)
    return text, parse_json(path, text)


def read_round(path: Path) -> tuple[Round, Programs]:
    text, value = read_file(path)
    top = Section(path, "", value)
    precision = top.choice("precision", ("bf16", "fp32"), "bf16")
    target = top.choice("target", ("cpu", "cuda"), default_target(precision))
    programs = Programs(target, precision)
    output = Path(top.get("output", str, "a folder"))
    made = Round(path, text, top.model("model"), output, target, precision, top.texts("launch", []))
    if top.has("reward_model"):
        made.reward_model = _read_reward_model(top.section("reward_model"), programs)
    if top.has("rejection_sampling"):
        _read_sampling(top.section("rejection_sampling"), made, programs)
    for name in OF_POLICY:
        if top.has(name):
            setattr(made, name, _read_training(top.section(name), programs, bool(made.prompts)))
    if top.has("average"):
        _read_average(top.section("average"), made, programs)
    if top.has("held_out"):
        section = top.section("held_out")
        made.held_out = section.files("prompts")
        made.held_out_options = section.options("options", programs.options("sample"), "held_out")
        section.close()
    top.close()
    if not any((made.reward_model, made.prompts, made.sft, made.dpo, made.average)):
        top.fail(None, f"no stage, expected one of {', '.join(STAGES)}")
    return made, programs


def _read_reward_model(section: Section, programs: Programs) -> Training | Path:
    if not section.has("use"):
        return _read_training(section, programs, False)
    folder = section.model("use")
    section.close()
    return folder


def _read_sampling(section: Section, made: Round, programs: Programs) -> None:
    if made.reward_model is None:
        section.fail(None, "needs reward_model: {\"use\": DIR}, or data to train one")
    made.prompts = section.files("prompts")
    made.sample = section.options("sample", programs.options("sample"))
    section.close()


def _read_training(section: Section, programs: Programs, sampled: bool) -> Training:
    init_from = section.model("init_from") if section.has("init_from") else None
    weight = float(section.get("sampled", (int, float), "the weight of the rows from rejection sampling", 1 if sampled else 0))
    if weight and not sampled:
        section.fail("sampled", "expected the stage rejection_sampling in the round")
    if not 0 <= weight <= 1000:
        section.fail("sampled", f"expected 0 to 1000, found {weight:g}")
    sources = _read_sources(section)
    if not sources and not weight:
        section.fail("data", "is missing, expected files to train on")
    prepare, train = (section.options(name, programs.options(name)) for name in ("prepare", "train"))
    _check_training(section, prepare, train)
    section.close()
    return Training(init_from, sources, prepare, train, weight)


def _check_training(section: Section, prepare: Options, train: Options) -> None:
    """Refuses what would fail only when the programs run."""
    fraction = prepare.get("val-fraction")
    if fraction is not None and not (isinstance(fraction, (int, float)) and 0 <= fraction <= 0.5):
        section.fail("prepare.val_fraction", f"expected a number from 0 to 0.5, found {short(fraction)}")
    if fraction == 0:
        for name in ("eval-every", "eval-batches"):
            if train.get(name):
                section.fail(f"train.{name.replace('-', '_')}", "nothing to validate on, as prepare.val_fraction is 0")
    for name in train:
        if name.startswith("lora-"):
            section.fail(f"train.{name.replace('-', '_')}", "the next stage needs a whole model: train adapters by hand, "
                         "and give the round what merge_lora makes of them")  # fmt: skip
    if train.get("save", "on") != "on":
        section.fail("train.save", "expected on, since the next stage reads what this one saves")


def _read_sources(section: Section) -> list[Source]:
    sources = []
    for item in section.get("data", list, "a list of files, or of {\"path\", \"weight\"}", []):
        inner = Section(section.path, f"{section.place}.data", {"path": item} if isinstance(item, str) else item)
        path = Path(inner.get("path", str, "a file or folder"))
        weight = float(inner.get("weight", (int, float), "a weight", 1))
        inner.close()
        if not path.exists():
            inner.fail(None, f"{path}: no such file or folder")
        if not 0 < weight <= 1000:
            inner.fail("weight", f"expected more than 0, up to 1000, found {weight:g}")
        sources.append(Source(path, weight))
    return sources


def _read_average(section: Section, made: Round, programs: Programs) -> None:
    trained = [name for name in OF_POLICY if getattr(made, name)]
    known = ("model", *trained)
    made.average = [name if name in known else str(find_model(Path(name))) for name in section.texts("models", trained)]
    for name in made.average:
        if name not in known and not (Path(name) / "config.json").is_file():
            section.fail("models", f"{name}: neither a stage before ({', '.join(known)}) nor a model's folder")
    if len(made.average) < 2:
        section.fail("models", f"expected two or more, found {len(made.average)}")
    made.average_weights = section.get("weights", list, "a list of weights", [])
    weights = made.average_weights
    if weights and (len(weights) != len(made.average) or not all(map(_is_weight, weights))):
        section.fail("weights", f"expected {len(made.average)} numbers of 0 or more, found {short(made.average_weights)}")
    made.average_options = section.options("options", programs.options("average"))
    section.close()


def _is_weight(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0
