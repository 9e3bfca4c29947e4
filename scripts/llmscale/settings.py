"""Reads the plan file and checks it. Paths are relative to the current folder."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from llmdata.errors import InputError
from llmdata.section import Section, short
from llmdata.text_file import read_json
from llmround.settings import known_options
from llmtext.generator import build_folder, default_target

from .counting import COUNTS, EXACT, FLOPS
from .data import Shards, read_shards
from .sizes import Shape, Size, read_shape, read_size
from .tuning import Rule, read_rule

LEAST_STEPS = 100
LEAST_SIZES = 4  # a parabola through three points fits whatever they are
# options of train_llama3 that a plan sets itself
SET_BY_PLAN = ("config init-from task train-data val-data tokenizer output overwrite resume accept-changes steps epochs "
               "batch-size grad-accum tokens-per-step seq-len lr warmup-steps schedule-steps final-lr-fraction schedule beta2 "
               "eval-every eval-batches eval-only seed reference-only").split()  # fmt: skip


@dataclass(frozen=True)
class Budget:
    flops: float
    sizes: list[Size]
    forecast: bool = False  # its runs test a forecast, and are in no fit

    @property
    def name(self) -> str:
        return f"{self.flops:.3g}".replace("+", "")


@dataclass
class Settings:
    path: Path
    output: Path
    program: list[str]  # the trainer, after the launcher's words
    target: str
    precision: str
    train: Shards
    val: Shards
    tokenizer: str | None
    shape: Shape
    rule: Rule
    budgets: list[Budget]
    count: str
    flops: str
    rows: int
    val_rows: int
    ranks: int
    seeds: list[int]
    flops_per_second: float  # 0: not given
    options: dict = field(default_factory=dict)  # more of train_llama3
    slurm: list[str] = field(default_factory=list)  # sbatch's options
    at_once: int = 0  # jobs of the array that run at once; 0: all


def power_of_two(section: Section, name: str, most: int, default: int) -> int:
    value = section.number(name, 1, most, default, whole=True)
    if value & (value - 1):
        section.fail(name, f"expected a power of two, found {value}")
    return value


def read_settings(path: Path) -> Settings:
    top = Section(path, "", read_json(path))
    precision = top.choice("precision", ("bf16", "fp32"), "bf16")
    target = top.choice("target", ("cpu", "cuda"), default_target(precision))
    program = build_folder(target, precision) / "train_llama3"
    if not program.is_file():
        raise InputError(f"{program} is missing: run make TARGET={target} PRECISION={precision}")
    launch = top.texts("launch", [])
    if launch and not shutil.which(launch[0]):
        top.fail("launch", f"expected a program, found {short(launch[0])}, which is none")
    train, val, tokenizer = _read_data(top)
    seq_len = top.number("seq_len", 16, 1 << 20, 256, whole=True)
    shape = read_shape(_section(top, "model"), max(train.vocab_size, val.vocab_size), seq_len)
    rows = power_of_two(top, "rows", 1 << 16, 8)
    slurm = _section(top, "slurm")
    made = Settings(
        path, Path(top.get("output", str, "a folder")), [*launch, str(program)], target, precision, train, val,
        tokenizer, shape, read_rule(_section(top, "tuning")), _read_budgets(top, shape),
        top.choice("count", tuple(COUNTS), "matrices+head"), top.choice("flops", FLOPS, EXACT), rows,
        power_of_two(top, "val_rows", 1 << 24, max(256, rows)), top.number("ranks", 1, 1 << 20, 1, whole=True), _read_seeds(top),
        float(top.number("flops_per_second", 0, 1e21, 0)), _read_options(top, str(program)), slurm.texts("options", []),
        slurm.number("at_once", 0, 1 << 20, 0, whole=True),
    )  # fmt: skip
    slurm.close()
    top.close()
    _check_validation(top, made)
    return made


def _section(top: Section, name: str) -> Section:
    return top.section(name) if top.has(name) else Section(top.path, name, {})


def _read_data(top: Section) -> tuple[Shards, Shards, str | None]:
    if not top.has("data"):
        top.fail("data", 'is missing, expected {"train": GLOB, "val": GLOB}')
    section = top.section("data")
    train, val = read_shards(section, "train"), read_shards(section, "val")
    tokenizer = section.get("tokenizer", str, "a file or folder", "") or None
    section.close()
    if both := train.files & val.files:
        section.fail("val", f"expected texts that no run is trained on, found {min(both)} in train too")
    if train.tokenizer != val.tokenizer:
        section.fail("val", f"made with another tokenizer ({val.tokenizer}) than train ({train.tokenizer})")
    return train, val, tokenizer


def _read_seeds(top: Section) -> list[int]:
    seeds = top.get("seeds", list, "a list of seeds", [42])
    if not seeds or any(not isinstance(s, int) or isinstance(s, bool) or s < 0 for s in seeds) or len(set(seeds)) < len(seeds):
        top.fail("seeds", f"expected whole numbers, each once, found {short(seeds)}")
    return seeds


def _read_options(top: Section, program: str) -> dict:
    """Options of train_llama3 that hold for all runs; underscores in their names stand for hyphens."""
    if not top.has("train"):
        return {}
    section, known, found = top.section("train"), known_options(program), {}
    for name, value in section.value.items():
        option = name.replace("_", "-")
        if option in SET_BY_PLAN:
            section.fail(name, "the plan sets this option itself")
        if option not in known:
            section.fail(name, "no such option of train_llama3")
        if option in found:
            section.fail(name, "is given twice")
        if isinstance(value, bool) == known[option] or not isinstance(value, (bool, int, float, str)):
            section.fail(name, f"expected {'a value' if known[option] else 'true or false'}, found {short(value)}")
        found[option] = value
    return found


def _read_budgets(top: Section, shape: Shape) -> list[Budget]:
    common = top.get("sizes", list, "a list of sizes", [])
    budgets = []
    for index, value in enumerate(top.get("budgets", list, 'a list of FLOPs, or of {"flops", "sizes"}')):
        place = f"budgets[{index}]"
        section = Section(top.path, place, value if isinstance(value, dict) else {"flops": value})
        flops = float(section.number("flops", 1, 1e30))
        forecast = section.flag("forecast", False)
        sizes = section.get("sizes", list, "a list of sizes", common)
        section.close()
        read = [read_size(section, f"sizes[{i}]", size, shape) for i, size in enumerate(sizes)]
        if len(set(read)) < len(read):
            section.fail("sizes", "a size is given twice")
        if len(read) < (1 if forecast else LEAST_SIZES):
            section.fail("sizes", f"expected at least {LEAST_SIZES} for a parabola, found {len(read)}")
        budgets.append(Budget(flops, read, forecast))
    if len({budget.name for budget in budgets}) < len(budgets):
        top.fail("budgets", "two are the same in three digits")
    if not any(not budget.forecast for budget in budgets):
        top.fail("budgets", "is empty, expected FLOPs")
    return budgets


def _check_validation(top: Section, made: Settings) -> None:
    if made.val_rows < made.rows:
        top.fail("val_rows", f"expected at least rows, {made.rows}, found {made.val_rows}")
    there = (made.val.tokens - 1) // made.shape.seq_len
    if there < made.val_rows:
        top.fail("val_rows", f"expected at most the {there} rows of {made.shape.seq_len} tokens in {made.val.pattern}, "
                 f"found {made.val_rows}")  # fmt: skip
