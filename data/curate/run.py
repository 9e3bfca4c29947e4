"""A whole run: settings to passes, passes to executors, and on from where an earlier run of the same settings ended."""

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from llmdata import tokenizer
from llmdata.errors import Fault, InputError
from llmdata.progress import Progress
from llmdata.section import first_difference

from . import report, statistics
from .clusters import read_clusters
from .counts import Counts
from .documents import DocumentReader, DocumentWriter, FinalWriter
from .executors import Local, Slurm, make_executor
from .files import read_json_or, write_json
from .inputs import read_list, write_list
from .readers import InputReader
from .step import Barrier, Context, Pass
from .steps import STEPS
from .supervise import Limits, Mark, Place

MAY_CHANGE = ("kind", "workers", "memory_gb", "partition", "time", "sbatch")  # of the executor: what no document depends on
_GIB = 1 << 30
_OWN = 1 << 28  # bytes of the process that watches over the tasks
_PREPARE = Path(__file__).resolve().parents[1] / "prepare_data.py"


class Run:
    """`settings` are checked and complete; see settings.py."""

    def __init__(self, settings: dict, limit: int | None = None):
        self.settings, self.limit = settings, limit
        self.tasks = settings["executor"]["tasks"]  # no more than there are files
        self.output = Path(settings["output"]["folder"]).absolute()
        self.work = self.output / "work"
        self.files = self.work / "inputs.jsonl"
        self.steps = [name for name in STEPS if name in settings["steps"]]
        self.sources = list(dict.fromkeys(entry["source"] for entry in settings["input"]))

    # ---- begin

    def begin(self, overwrite: bool) -> None:
        """Makes the output folder ready for a new run, or for the rest of an earlier one."""
        self._check()
        if overwrite:
            self._remove()
        record = {"settings": self.settings, "limit": self.limit}
        before = read_json_or(self.output / "settings.json", None)
        if before is None:
            for name in ("documents", "work/passes"):
                if (self.output / name).exists():
                    raise InputError(f"{self.output}: holds {name}/ without a run's settings.json; give another folder, or --overwrite")
            write_list(self.files, self.settings["input"])
            write_json(self.output / "settings.json", record)
        elif field := first_difference(_fixed(before), _fixed(record)):
            raise InputError(f"{self.output}: a run with other settings: {field}; give another folder, or --overwrite")
        self.tasks = min(self.tasks, sum(1 for _ in read_list(self.files)))

    def _check(self) -> None:
        """Refuses what steps and shards cannot use before anything is written."""
        self.passes()
        if shards := self.settings["output"].get("shards"):
            tokenizer.find(Path(shards["tokenizer"]))

    def _remove(self) -> None:
        for name in ("documents", "work", "tokens"):
            shutil.rmtree(self.output / name, ignore_errors=True)
        for name in ("settings.json", "statistics.json", "report.html"):
            (self.output / name).unlink(missing_ok=True)

    # ---- passes

    def passes(self) -> list[Pass]:
        executor, steps = self.settings["executor"], []
        tasks, number = self.tasks, 0
        folder = self._folder(_documents(number))
        pipeline = [InputReader(folder, self.files, executor["document_bytes"], self.limit)]
        for name in self.steps:
            context = Context(self.work / "steps" / name, tasks, self.settings["seed"], executor["document_seconds"])
            step = STEPS[name](self.settings["steps"][name], context)
            if not isinstance(step, Barrier):
                pipeline.append(step)
                continue
            written = self._written(number)
            steps.append(Pass(_documents(number), [*pipeline, DocumentWriter(written, name), step.collect()], tasks))
            for work in step.between():
                steps.append(Pass(f"{number:02}-{name}-{work.name}".replace(" ", "-"), work.pipeline, work.tasks))
            number += 1
            pipeline = [DocumentReader(self._folder(_documents(number)), written), step.decide()]
        pipeline.append(FinalWriter(self.output / "documents", self.settings["output"]["format"], self.sources))
        return [*steps, Pass(_documents(number), pipeline, tasks)]

    def _folder(self, name: str) -> Path:
        return self.work / "passes" / name

    def _written(self, number: int) -> Path:
        """Documents that a pass writes for the next one."""
        return self.work / "documents" / f"{number:02}"

    # ---- run

    def run(self) -> dict:
        """Runs what is left to do. Returns the statistics."""
        passes = self.passes()
        for name in self.steps:
            (self.work / "steps" / name).mkdir(parents=True, exist_ok=True)
        for number, work in enumerate(passes):
            executor = make_executor(work, self._folder(work.name), self.settings["executor"], self._limits(work))
            if executor.done() < work.tasks:
                self._run_pass(executor, work, f"{number + 1}/{len(passes)} {work.name}")
            if isinstance(work.pipeline[0], DocumentReader):
                shutil.rmtree(work.pipeline[0].documents, ignore_errors=True)
        found = statistics.merge([(work.name, self._folder(work.name)) for work in passes], self.steps, self.work / "steps")
        write_json(self.output / "statistics.json", found)
        self._write_report(found)
        return found

    def _write_report(self, found: dict) -> None:
        counts = {statistics.READ: found["input"], **found["steps"]}
        steps = {name: Counts.from_json({key: step[key] for key in step if key != "report"}) for name, step in counts.items()}
        clusters = read_clusters(self.work / "steps" / "minhash") if "minhash" in self.steps else None
        clock = sum(used["clock"] for used in found["passes"].values())
        report.write(self.output / "report.html", self.output.name, self.settings, steps, clock, clusters)

    def _limits(self, work: Pass) -> Limits:
        executor = self.settings["executor"]
        workers = workers_of(executor) if executor["kind"] == "local" else 1
        seconds = executor["document_seconds"] * (len(work.pipeline) + 1)
        return Limits(min(workers, work.tasks), seconds, int((executor["memory_gb"] * _GIB - _OWN) / workers))

    def _run_pass(self, executor: Local | Slurm, work: Pass, title: str) -> None:
        show = _Shown(title, executor, work, self._amount(work))
        try:
            executor.run_watched(show.tick)
        finally:
            show.progress.close()
        took = show.finish()
        write_json(self._folder(work.name) / "clock.json", {"clock": took})

    def _amount(self, work: Pass) -> int | None:
        """How much the pass reads: bytes of files, or documents. None: it reads none, and tasks are counted."""
        reader = work.pipeline[0]
        if isinstance(reader, InputReader):
            return sum(entry["bytes"] for entry in read_list(self.files))
        if isinstance(reader, DocumentReader):
            counts = (path for path in sorted(self._folder(_documents(int(work.name[:2]) - 1)).glob("counts/*.json")))
            return sum(_last_out(read_json_or(path, {})) for path in counts)
        return None


def _last_out(counts: dict) -> int:
    """How many documents a task wrote: what left its last step but for the writer, which counts none."""
    return [*counts["steps"].values()][-2]["total"]["out"][0]


def _documents(number: int) -> str:
    return f"{number:02}-documents"


def workers_of(executor: dict) -> int:
    """One a core, and no more than leave a GiB for each."""
    return executor.get("workers") or max(1, min(len(os.sched_getaffinity(0)), int(executor["memory_gb"])))


def _fixed(record: dict) -> dict:
    """What must not change while a run goes on."""
    settings = record["settings"]
    executor = {name: value for name, value in settings["executor"].items() if name not in MAY_CHANGE}
    return {**settings, "executor": executor, "limit": record["limit"]}


@dataclass
class _Shown:
    """The progress of a pass: documents a second, and the time left."""

    title: str
    executor: Local | Slurm
    work: Pass
    amount: int | None

    def __post_init__(self) -> None:
        self.reading = self.amount is not None
        unit = "B" if isinstance(self.work.pipeline[0], InputReader) else " documents" if self.reading else " tasks"
        self.progress = Progress(self.title, self.amount if self.reading else self.work.tasks, unit)
        self.begun, self.looked = time.monotonic(), 0.0

    def tick(self) -> None:
        if time.monotonic() - self.looked >= max(1, self.work.tasks / 1000):  # it opens a file for each task
            self.looked = time.monotonic()
            documents, done = self._reached()
            rate = f"{documents / (self.looked - self.begun):,.0f} documents/s" if self.reading else ""
            self.progress.update(done if self.reading else self.executor.done(), rate)

    def _reached(self) -> tuple[int, int]:
        marks = [Mark.read(Place(self.executor.folder, rank).mark) for rank in range(self.work.tasks if self.reading else 0)]
        return sum(documents for _, documents, _ in marks), sum(done for *_, done in marks)

    def finish(self) -> float:
        """Returns how many seconds the pass took by the clock."""
        counts = [read_json_or(path, {}) for path in sorted((self.executor.folder / "counts").glob("*.json"))]
        documents = sum(next(iter(task["steps"].values()))["total"]["in"][0] for task in counts) if self.reading else 0
        took = max(time.monotonic() - self.begun, 1e-3)
        read = f"{documents:,} documents, {documents / took:,.0f} a second"
        self.progress.finish(read if self.reading else f"{self.work.tasks} tasks")
        return took


def write_shards(run: Run) -> None:
    """Token shards of each source, by prepare_data.py."""
    shards = run.settings["output"].get("shards")
    for source in run.sources if shards else ():
        folder = run.output / "tokens" / source
        if (folder / "meta.json").exists():
            continue
        command = [sys.executable, str(_PREPARE), str(run.output / "documents" / source), "--output", str(folder),
                   "--tokenizer", shards["tokenizer"], "--val-fraction", str(shards["val_fraction"]),
                   "--shard-tokens", str(shards["shard_tokens"]), "--seed", str(run.settings["seed"]),
                   "--workers", str(workers_of(run.settings["executor"]))]  # fmt: skip
        if subprocess.run(command).returncode:
            raise Fault(f"{folder}: no token shards of {source}, see prepare_data's message above; the same command tries again")
