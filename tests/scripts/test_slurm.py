"""scripts/slurm/train.sbatch, under a Slurm of its own (slurmcluster)."""

import os
import shutil
import subprocess
import time

import pytest

import ranks
import slurmcluster
import trainrun
from slurmcluster import ROOT, SCRIPT


@pytest.fixture(scope="module")
def cluster():
    yield from slurmcluster.cluster()


@pytest.fixture
def work(tmp_path):
    return trainrun.Workplace(tmp_path)


def test_the_script_is_bash():
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)
    assert shutil.which("shellcheck"), "shellcheck is missing: scripts/setup.sh test installs it"
    done = subprocess.run(["shellcheck", str(SCRIPT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_alone_it_is_refused():
    done = subprocess.run(["bash", str(SCRIPT)], cwd=ROOT, env=ranks.alone(), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "train.sbatch: expected to be started by sbatch\n")


@pytest.mark.parametrize("launch, nodes", [("pmix", 1), ("mpirun", 2)])
def test_ranks_train_as_under_mpirun(cluster, work, launch, nodes):
    """Two daemons on one machine cannot both serve PMIx: their folders in /tmp have one name. So pmix has one node here."""
    state, code, text = cluster.finish(cluster.submit(work, nodes, launch, steps=4, save="off"), work)
    assert (state, code) == ("COMPLETED", "0:0"), text
    here = work.folder / "here"
    alone = ranks.run([trainrun.program("fp32"), *work.arguments(steps=4, save="off", output=here)], ranks=2, timeout=600)
    assert alone.returncode == 0, alone.stderr
    assert [line["ranks"] for line in work.log() if "ranks" in line] == [2] * 4
    assert trainrun.losses(work.log()) == trainrun.losses(work.log(here))


@pytest.mark.parametrize("launch, nodes", [("pmix", 1), ("mpirun", 2)])
def test_warned_it_saves_and_is_queued_again(cluster, work, launch, nodes):
    job = cluster.submit(work, nodes, launch, steps=1_000_000, schedule_steps=1_000_000, keep_last=1)
    log = work.output / "log.jsonl"
    cluster.until(lambda: log.exists() and log.read_text().count("\n") > 5, "steps")
    cluster.warn(job, work)
    cluster.until(lambda: cluster.job(job)["JobState"] == "PENDING", "queueing")
    saved = int(os.readlink(work.output / "checkpoints/latest").removeprefix("step_"))
    assert saved >= 5
    time.sleep(2)  # the first start's credential was revoked: one of the same second would not count
    cluster.call("scontrol", "update", f"JobId={job}", "StartTime=now")  # else it waits two minutes
    cluster.until(lambda: any(line.get("step", 0) > saved + 2 for line in trainrun.read_log(log) if "loss" in line), "further steps")
    assert cluster.job(job)["Restarts"] == "1"
    assert [line["step"] for line in trainrun.read_log(log) if "resumed" in line] == [saved]
    cluster.call("scancel", job)
    assert cluster.finish(job, work)[0] == "CANCELLED"
    steps = [line["step"] for line in trainrun.read_log(log) if "loss" in line]
    assert steps == list(range(1, len(steps) + 1))


def test_bad_input_is_not_queued_again(cluster, work):
    state, code, text = cluster.finish(cluster.submit(work, 1, "pmix", steps=4, lr="abc"), work)
    assert (state, code) == ("FAILED", "2:0") and text.count("train_llama3: ") == 1 and "--lr" in text


def test_ranks_that_meet_without_mpi_are_told_of_the_transport(cluster, work):
    """The environment's way needs NCCL, which this target has not: they meet, learn so, and one says it."""
    state, code, text = cluster.finish(cluster.submit(work, 2, "env", steps=4), work)
    assert (state, code) == ("FAILED", "2:0") and text.count("train_llama3: ") == 1 and "which serve NCCL" in text, text
