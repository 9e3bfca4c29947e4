"""comm.h over NCCL, on the stand-in for it (TARGET=cuda-on-cpu); test_comm.py has the cases over MPI, and over NCCL where LLMC_BUILD
names that build."""

import json
import random
import subprocess
import sys

import pytest

import llmc
import oncpu
import ranks
from seeds import SEED, how_often

RANK = llmc.ROOT / "tests/support/comm_rank.py"
RESULTS = "reduce_scatter,all_reduce,in_bf16,all_gather,broadcast,groups,order,full_queue,host"
RANDOM = f"random:{random.Random(SEED).randrange(1, 1 << 30)}"
MODES = {"eager": "eager", "lazy": "lazy", "random": RANDOM}


def run(cases, count, mode="eager", launcher=ranks.mpirun, build=oncpu.ON_CPU, folder="", code=0, ended=0, before=(), transport=()):
    """What each rank's cases returned. ended: ranks that say nothing; before: words before a rank's command."""
    oncpu.need()
    environment = {"LLMC_BUILD": str(build), "LLMC_HOST_STREAMS": MODES[mode], "COMM_RANK_FOLDER": str(folder)}
    done = ranks.run([*before, sys.executable, RANK, cases, SEED, *transport], count, 120, environment, launcher=launcher)
    assert done.returncode == code and done.stderr == "", (done.returncode, done.stderr)
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(results) == count - ended
    return results


@pytest.mark.parametrize("count, mode", how_often([(2, "random")], [(count, mode) for count in (2, 3, 4) for mode in MODES]))
def test_results(count, mode):
    run(RESULTS, count, mode)


def test_one_rank_rounds_nothing():
    run("in_bf16", 1, transport=["nccl"])


def test_bits_and_places():
    """Of MPI; and the ranks' numbers where they are started by variables."""
    found = sorted((r["ranks_of_machine"], r["bits"]) for r in run("bits,ranks_of_machine", 3, "lazy", ranks.by_variables))
    assert [place for place, _ in found] == [[r, 3, r, 3, "NCCL"] for r in range(3)]
    assert {bits for _, bits in found} == {r["bits"] for r in run("bits", 3, build=oncpu.CPU)}


def test_the_host_is_not_held_up(tmp_path):
    run("late", 3, "lazy", folder=tmp_path)


@pytest.mark.parametrize("build", ["cuda-on-cpu", "cuda-on-cpu-fp32-race"])
def test_a_watchdog_asks_meanwhile(build):
    """With ThreadSanitizer too, where scripts/soak.sh has built that."""
    folder, before = llmc.ROOT / "build" / build, []
    if build != "cuda-on-cpu":
        if not (folder / "libllmc.so").exists():
            pytest.skip(f"build/{build} is missing: make TARGET=cuda-on-cpu PRECISION=fp32 SANITIZE=thread")
        library = subprocess.run(["gcc", "-print-file-name=libtsan.so"], capture_output=True, text=True, check=True).stdout.strip()
        before = ["env", f"LD_PRELOAD={library}", "TSAN_OPTIONS=ignore_noninstrumented_modules=1"]
    run("watched", 2, "random", ranks.by_variables, folder, before=before)


def test_a_rank_that_died(tmp_path):
    results = run("lost", 3, "lazy", ranks.by_variables, folder=tmp_path, code=137, ended=1)
    words = "NCCL reports: remote process exited or there was a network error: socket closed by rank 1: its process has ended"
    assert [r["lost"] for r in results] == [words] * 2
