"""Expected time and memory of a run, before anything runs.

Time is measured where `plan --measure` has trained each size for a few steps; else it follows from flops_per_second of the plan
file, which is an assumption; else it is not known. Memory is the library's own plan.
"""

import json
import subprocess
import tempfile
from pathlib import Path

from llmdata.errors import Fault
from llmdata.section import Section
from llmdata.text_file import read_json
from llmplan.library import Planner

from .planning import Planned
from .settings import Settings

FILE = "speed.json"
MEASURED_STEPS = 6  # the first two are left out: memory is touched and products are chosen there


def key_of(planned: Planned) -> str:
    return f"{planned.size.name} {planned.rows}x{planned.accumulation}"


class Speed:
    def __init__(self, settings: Settings):
        self.settings, self.path = settings, settings.output / FILE
        self.measured: dict[str, float] = {}  # tokens per second
        if self.path.is_file():
            section = Section(self.path, "", read_json(self.path))
            self.measured = {name: section.number(name, 1e-9, 1e15) for name in section.value}

    def seconds(self, planned: Planned) -> float | None:
        rate = self.measured.get(key_of(planned))
        if rate is not None:
            return planned.tokens / rate
        given = self.settings.flops_per_second
        return planned.flops / given if given else None

    def is_measured(self, planned: Planned) -> bool:
        return key_of(planned) in self.measured

    def measure(self, runs: list[Planned], arguments) -> None:
        """Trains each size and batch for a few steps. `arguments(planned, folder)` gives the trainer's command."""
        for planned in runs:
            if self.is_measured(planned):
                continue
            with tempfile.TemporaryDirectory(prefix="scaling.") as folder:
                self.measured[key_of(planned)] = _rate(arguments(planned, Path(folder)), Path(folder))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.measured, indent=1) + "\n", encoding="utf-8")


def _rate(command: list[str], folder: Path) -> float:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Fault(f"measuring speed: {command[0]} ended with code {done.returncode}: {done.stderr.strip()[-300:]}")
    lines = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text("utf-8").splitlines()]
    steps = [line for line in lines if "tokens_per_second" in line][2:]
    return len(steps) / sum(1 / line["tokens_per_second"] for line in steps)


def memory_of(settings: Settings, planned: Planned, config: Path) -> int:
    """Bytes of one rank, without what the matrix library takes for itself."""
    memory = Planner(config, settings.precision, {}).memory(planned.rows, settings.shape.seq_len, "none", 0, 1, settings.ranks)
    return sum(size for name, size in memory.items() if name not in ("matrix library", "reserve"))
