"""What each stage takes: time, memory and disk, as they are planned before it runs.

Of training all three follow from the recipe: FLOPs at flops_per_second (by plan.py's prediction on a GPU), the library's own
plan of memory, the size of checkpoints. Of other stages the time is what the settings expect, and the rest is assumed from the
size of the texts.
"""

import glob
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from llmdata.errors import Fault, InputError
from llmdata.progress import duration
from llmdata.section import Section
from llmplan.gpus import GPUS
from llmplan.library import Planner
from llmscale.counting import count_parts
from llmscale.sizes import config_of, read_size
from llmtext.generator import ROOT

from .settings import Settings
from .stages import Plan

GIB = 1 << 30
STATE = 16  # bytes of a parameter in a checkpoint with trainer state, at most
PROGRAM = GIB // 2  # of a Python program and its libraries; assumed
UTILISATION = 0.4  # of the GPUs' peak rate, as train_llama3 --dry-run assumes
DOCUMENT, DOCUMENTS_PER_SECOND = 1000, 3000  # bytes of a made document, and how fast they are made; assumed
# bytes that a stage leaves for each byte of the sources: assumed, from curated pages and 3.5 bytes of text in a token of 2
LEFT = {"curate": 0.6, "tokenizer": 0.6, "shards": 0.6, "items": 0.1, "baseline": 0.1}


@dataclass
class Needs:
    """None: not known. `memory`: of one machine; on a GPU what the device takes is `device`, of each."""

    seconds: float | None
    memory: int
    disk: int
    device: int = 0
    options: str = ""  # of train_llama3, with which it fits the device

    def words(self) -> str:
        time = "time not known" if self.seconds is None else duration(self.seconds)
        device = f", {size_text(self.device)} of each GPU" if self.device else ""
        return f"{time}, {size_text(self.memory)} of memory{device}, {size_text(self.disk)} of disk{self.options}"


def size_text(count: float) -> str:
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{math.ceil(count / (1 << 20))} MiB"


def needs_of(plan: Plan) -> dict[str, Needs]:
    """By the name of the stage."""
    settings, sources, found = plan.settings, source_bytes(plan.settings), {}
    expected = settings.expected_seconds or {}
    for stage in plan.stages:
        name = stage.name
        if name.startswith("raw_"):
            needs = Needs(_making(settings, name.removeprefix("raw_")), PROGRAM, sources[name.removeprefix("raw_")])
        elif name.startswith("herd_"):
            needs = _training(plan, name.removeprefix("herd_"))
        elif name == "scaling":
            needs = _scaling(plan)
        elif name in LEFT:
            needs = Needs(None, PROGRAM, int(LEFT[name] * sum(sources.values())))
        else:
            needs = _after_training(plan, name)
        if name == "baseline":
            needs.memory = PROGRAM + GIB  # as the program lets KenLM take
        if name == "curate":
            needs.memory = int(GIB * settings.curate.get("executor", {}).get("memory_gb", 4))
        needs.seconds = expected.get(name, needs.seconds)
        found[name] = needs
    return found


# ---- data


def _making(settings: Settings, source: str) -> float | None:
    documents = settings.sources[source].get("documents")
    return 1 + documents / DOCUMENTS_PER_SECOND if documents else None


def source_bytes(settings: Settings) -> dict[str, int]:
    """Bytes of each source: of packages what they take when unpacked."""
    found = {}
    for name, source in settings.sources.items():
        fetched = settings.output / "raw" / name
        if fetched.is_dir():
            found[name] = tree_bytes(fetched)
        elif "packages" in source:
            found[name] = sum(map(installed_bytes, source["packages"]))
        elif "made" in source:
            found[name] = DOCUMENT * source["documents"]
        else:
            found[name] = sum(tree_bytes(Path(path)) for pattern in source["files"] for path in glob.glob(pattern))
    return found


def installed_bytes(package: str) -> int:
    """Errors: InputError with apt's message where there is no such package."""
    try:
        done = subprocess.run(["apt-cache", "show", "--no-all-versions", package], capture_output=True, text=True)
    except OSError as error:
        raise InputError(f"packages: apt-cache cannot be run ({error.strerror}), expected Debian or Ubuntu") from None
    sizes = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("Installed-Size:")]
    if done.returncode or not sizes:
        said = (done.stderr.strip().splitlines() or ["no such package"])[0]
        raise InputError(f"packages: {package}: apt-cache says \"{said}\"; apt-get update may help")
    return int(sizes[0]) << 10


def tree_bytes(path: Path) -> int:
    """What a file, or all files below a folder, take on the disk."""
    total = 0
    for found in [path, *path.rglob("*")]:
        try:
            total += found.lstat().st_blocks * 512
        except OSError:  # it was removed meanwhile
            continue
    return total


# ---- training


def _training(plan: Plan, name: str) -> Needs:
    settings, config, rows = plan.settings, plan.files.value(name), plan.recipe_stages()
    disk = STATE * count_parts(config).count("all") * (1 + settings.train.get("keep_last", 1))
    config["max_position_embeddings"] = max(config["max_position_embeddings"], *(stage.seq_len for stage in rows))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(config))
        if settings.gpu:
            return _on_gpus(plan, path, Path(folder) / "recipe.json", disk)
        memory = max(planned_bytes(settings, path, stage.batch_size, stage.seq_len) for stage in rows)
    flops = sum(flops for _, flops in plan.flops(name))
    return Needs(_at_rate(settings, flops), memory, disk)


def planned_bytes(settings: Settings, config: Path, rows: int, length: int) -> int:
    memory = Planner(config, settings.precision, {}).memory(rows, length, "none", 0, 1, settings.ranks)
    return settings.ranks * sum(count for name, count in memory.items() if name not in ("matrix library", "reserve"))


def _at_rate(settings: Settings, flops: float) -> float | None:
    peak = 1e12 * GPUS[settings.gpu].bf16_tflops * settings.ranks if settings.gpu else 0
    rate = settings.flops_per_second or UTILISATION * peak
    return flops / rate if rate else None


def _on_gpus(plan: Plan, config: Path, recipe: Path, disk: int) -> Needs:
    settings = plan.settings
    recipe.write_text(json.dumps(plan.files.value("recipe")))
    command = [sys.executable, str(ROOT / "scripts/plan.py"), "--config", str(config), "--recipe", str(recipe), "--gpus",
               str(settings.ranks), "--gpu", settings.gpu, "--precision", settings.precision, "--json"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise (InputError if done.returncode == 2 else Fault)(f"{settings.path}: {done.stderr.strip()}")
    whole = json.loads(done.stdout)["run"]
    if whole is None:
        raise InputError(f"{settings.path}: recipe: no choice of options fits {settings.ranks} {settings.gpu}: see plan.py")
    options = f"; planned with {whole['options']}"
    return Needs(whole["predicted_seconds"], PROGRAM + whole["host_bytes"], disk, whole["bytes"], options)


def _scaling(plan: Plan) -> Needs:
    settings, given, shape = plan.settings, plan.settings.scaling, plan.files.shape()
    section, flops, parameters = Section(settings.path, "scaling", given), 0.0, []
    for budget in section.get("budgets", list, "a list of FLOPs"):
        budget = budget if isinstance(budget, dict) else {"flops": budget}
        sizes = [] if budget.get("forecast") else budget.get("sizes", given.get("sizes", ()))
        configs = [config_of(read_size(section, "sizes", size, shape), shape) for size in sizes]
        parameters += [count_parts(config).count("all") for config in configs] * len(given.get("seeds", [1]))
        flops += budget.get("flops", 0) * len(sizes) * len(given.get("seeds", [1]))
    return Needs(_at_rate(settings, flops), PROGRAM + STATE * max(parameters, default=0), STATE * sum(parameters))


def _after_training(plan: Plan, name: str) -> Needs:
    """Post-training has up to four models with their checkpoints, and two at once in memory; an evaluation serves all."""
    parameters = {size: count_parts(plan.files.value(size)).count("all") for size in plan.settings.models}
    if name == "post_training":
        state = STATE * parameters[plan.settings.largest]
        return Needs(None, 2 * PROGRAM + 2 * state, 4 * 3 * state)
    return Needs(None, 2 * PROGRAM + 4 * sum(parameters.values()), GIB // 10)


# ---- what there is


def free_memory() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))


def check_free(title: str, needs: Needs, output: Path) -> str:
    """Says what a stage needs and what is free. Errors: InputError where it is too little."""
    disk, memory = shutil.disk_usage(output).free, free_memory()
    for wanted, free, what in ((needs.disk, disk, f"disk in {os.path.abspath(output)}"), (needs.memory, memory, "memory")):
        if wanted > free:
            raise InputError(f"{title}: needs {size_text(wanted)} of {what}, and {size_text(free)} are free; the same command "
                             "goes on once there is more")  # fmt: skip
    return f"expected: {needs.words()} (free: {size_text(memory)} and {size_text(disk)})"
