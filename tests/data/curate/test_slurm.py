"""data/curate.py through datatrove's Slurm executor, under a Slurm of the tests' own (slurmcluster)."""

import json
import subprocess

import pytest
from planted_web import Web

import curating
import slurmcluster
from seeds import seed_of

STEPS = {"extract": {}, "minhash": {}}


@pytest.fixture(scope="module")
def cluster():
    yield from slurmcluster.cluster()


def test_slurm_gives_the_bytes_of_this_machine(cluster, tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    web = Web(seed_of("slurm"), 60)
    for part in range(2):
        web.write_warc(tmp_path / f"{part}.warc.gz")
    inputs = [tmp_path / "0.warc.gz", tmp_path / "1.warc.gz"]
    curating.curate("--config", curating.settings(here, inputs, STEPS))
    config = curating.settings(there, inputs, STEPS, kind="slurm", partition="all")
    done = subprocess.run(curating.command("--config", config), env=cluster.environment, capture_output=True, text=True, timeout=600)
    logs = "\n".join(path.read_text() for path in (there / "out").rglob("slurm/*.out"))
    assert done.returncode == 0, (done.stdout, done.stderr, logs)
    assert curating.files(there / "out") == curating.files(here / "out")
    left = [json.loads((folder / "out/statistics.json").read_text())["steps"]["minhash"]["total"] for folder in (here, there)]
    assert left[0] == left[1] and left[0]["out"][0] < left[0]["in"][0]
