"""Where passes run: on this machine's cores, or by Slurm. Both are datatrove's executors, with tasks that are watched over."""

import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable

from datatrove.executor.local import LocalPipelineExecutor
from datatrove.executor.slurm import SlurmPipelineExecutor
from datatrove.utils.logging import logger

from llmdata.errors import Fault

from .files import write_json
from .readers import Marked
from .step import Pass
from .supervise import Limits, run_tasks

SECONDS_BETWEEN_LOOKS = 2
_LIBRARY = Path(__file__).resolve().parents[1]


class _Watched:
    """What both executors share. A task is marked as completed after its counts are written."""

    def watch(self, folder: Path, limits: Limits) -> "_Watched":
        self.folder, self.limits = folder, limits
        return self

    def mark_rank_as_completed(self, rank: int) -> None:
        steps = {getattr(step, "counts_of", step.name): step.counts.to_json() for step in self.pipeline if hasattr(step, "counts")}
        used = resource.getrusage(resource.RUSAGE_SELF)
        write_json(self.folder / "counts" / f"{rank:05d}.json", {"steps": steps, "seconds": used.ru_utime + used.ru_stime,
                                                                "memory_mib": used.ru_maxrss >> 10})  # fmt: skip
        super().mark_rank_as_completed(rank)

    def done(self) -> int:
        return self.tasks - len(self.get_incomplete_ranks())


class Local(_Watched, LocalPipelineExecutor):
    """Runs tasks as processes of this one, which needs no pool: a pool waits for ever for a process that was killed."""

    def run_watched(self, tick: Callable[[], None]) -> None:
        logger.remove()
        self.save_executor_as_json()
        run_tasks(self.folder, self.get_incomplete_ranks(), lambda rank: self._run_for_rank(rank, 1), self.limits, tick)


class Slurm(_Watched, SlurmPipelineExecutor):
    """Each job of Slurm's array watches over the process of its task, as Local does."""

    def _run_for_rank(self, rank: int, local_rank: int = 0, node_rank: int = -1) -> None:
        if not self.is_rank_completed(rank):
            work = super()._run_for_rank
            run_tasks(self.folder, [rank], lambda rank: work(rank, 1, node_rank), self.limits, lambda: None)

    def run_watched(self, tick: Callable[[], None]) -> None:
        logger.remove()
        try:
            self.run()
        except subprocess.CalledProcessError as error:
            raise Fault("sbatch does not take the job (its message is above), expected a job as executor.partition, time and sbatch "
                        f"ask for: {self.folder / 'logs/launch_script.slurm'}, code {error.returncode}") from None  # fmt: skip
        while self.done() < self.tasks:
            if self.job_id in (None, -1) or not self._is_known():
                break
            tick()
            time.sleep(SECONDS_BETWEEN_LOOKS)
        if missing := self.get_incomplete_ranks():
            raise Fault(f"Slurm's job {self.job_id} ended without {len(missing)} of {self.tasks} tasks (first {missing[0]}): "
                        f"see {self.slurm_logs_folder} and {self.folder / 'printed'}; the same command goes on")  # fmt: skip

    def launch_merge_stats(self) -> None:
        """Nothing: `statistics` merges the counts."""

    def _is_known(self) -> bool:
        """Whether Slurm still has to run a part of the job."""
        asked = subprocess.run(["squeue", "-h", "-j", str(self.job_id)], capture_output=True, text=True)
        return asked.returncode == 0 and bool(asked.stdout.strip())


def make_executor(work: Pass, folder: Path, settings: dict, limits: Limits) -> Local | Slurm:
    """`folder`: of the pass. `settings`: the member "executor" of the run's."""
    if settings["kind"] == "local":
        made = Local(work.pipeline, work.tasks, limits.workers, logging_dir=str(folder / "logs"))
        return made.watch(folder, limits)
    python = Path(sys.executable).parent
    made = Slurm(
        work.pipeline, work.tasks, settings["time"], settings.get("partition"), workers=settings.get("workers", -1),
        mem_per_cpu_gb=max(1, round(settings["memory_gb"])), job_name=f"curate-{work.name}", qos=None, mail_type="NONE",
        env_command=f"export PYTHONPATH='{_LIBRARY}' PATH='{python}':\"$PATH\"", sbatch_args=settings["sbatch"],
        logging_dir=str(folder / "logs"), slurm_logs_folder=str(folder / "slurm"),
    )  # fmt: skip
    return made.watch(folder, limits)
