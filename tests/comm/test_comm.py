"""Collectives among ranks under mpirun (comm_rank.py is a rank), and a group of one rank."""

import ctypes
import json
import sys

import numpy as np
import pytest
import torch

import hostlib
import llmc
import ranks
from seeds import SEED

RANK = llmc.ROOT / "tests/support" / "comm_rank.py"
FOLDERS = llmc.build_folders()
EXACT = "fp32" if "fp32" in FOLDERS else "bf16"
ON_CPU = "cuda" not in FOLDERS[EXACT].name
RESULTS = "reduce_scatter,all_reduce,in_bf16,all_gather,broadcast,groups,order,full_queue,host"


def run(cases, count, precision=EXACT, seed=SEED, transport=None, **options):
    command = [sys.executable, RANK, cases, seed, *([transport] if transport else [])]
    return ranks.run(command, count, timeout=600, environment={"LLMC_BUILD": str(FOLDERS[precision])}, **options)


def passed(cases, count, precision=EXACT, **options):
    """What each rank's cases returned."""
    done = run(cases, count, precision, **options)
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(results) == count and all(list(r) == cases.split(",") for r in results), done.stdout
    return results


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_results(count):
    """Sums are equal to ((x0 + x1) + x2) + ... to the bit, so no tolerance is needed."""
    passed(RESULTS, count)


@pytest.mark.skipif(len(FOLDERS) < 2, reason="one precision is built")
def test_results_in_bf16():
    passed("in_bf16,all_gather,broadcast,full_queue", 3, "bf16")


@pytest.mark.skipif(not ON_CPU, reason="of MPI, whose waits hold up the caller")
def test_collectives_run_beside_the_caller():
    passed("waits,hidden", 3)


def test_same_ranks_same_bits():
    first, second = passed("bits", 3), passed("bits", 3)
    assert first == second and len({r["bits"] for r in first}) == 1
    assert passed("bits", 3, seed=SEED + 1) != first


def test_ranks_know_their_places():
    found = sorted(r["ranks_of_machine"] for r in passed("ranks_of_machine", 3))
    assert [place[:4] for place in found] == [[r, 3, r, 3] for r in range(3)] and found[0][4].startswith("MPI" if ON_CPU else "NCCL")
    assert passed("ranks_of_machine", 1)[0]["ranks_of_machine"] == [0, 1, 0, 1, "none"]


@pytest.mark.skipif(not ON_CPU, reason="the cuda target may have NCCL")
@pytest.mark.parametrize("count", [1, 3])
def test_one_rank_tells_that_the_transport_is_missing(count):
    done = run("host", count, transport="nccl")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.splitlines()[:1] == ["comm_rank: transport nccl: this program was built without NCCL"]
    assert done.stderr.count("comm_rank:") == 1


# ---- a world of one


@pytest.fixture
def alone(lib, monkeypatch):
    for name in list(llmc.os.environ):
        if name.startswith(ranks.ALONE):
            monkeypatch.delenv(name)
    world, error = ctypes.c_void_p(), hostlib.Error()
    assert lib.world_open(ctypes.byref(world), 0, ctypes.byref(error)) == 0, error.message
    yield world
    lib.world_close(world)


@pytest.mark.checked
def test_world_of_one(lib, alone):
    comm, error = ctypes.c_void_p(), hostlib.Error()
    assert (lib.world_rank(alone), lib.world_size(alone), lib.world_local_rank(alone), lib.world_local_size(alone)) == (0, 1, 0, 1)
    assert lib.world_transport(alone) == b"none" and lib.world_comm(alone) is None
    assert lib.world_split(ctypes.byref(comm), alone, 3, ctypes.byref(error)) == 0 and comm.value is None
    assert lib.comm_rank(None) == 0 and lib.comm_size(None) == 1 and lib.world_check(alone, ctypes.byref(error)) == 0
    busy, exposed = ctypes.c_double(1), ctypes.c_double(1)
    lib.world_times(alone, ctypes.byref(busy), ctypes.byref(exposed))
    assert busy.value == exposed.value == 0
    status = np.full(80, 1, np.uint8)
    lib.world_status(alone, status)
    assert not status.any()


@pytest.mark.checked
def test_group_of_one(lib):
    op = lib.comm_op_create(b"alone")
    values = torch.randn(1000)
    data, out = lib.device(values), lib.empty(1000, torch.float32)
    lib.comm_reduce_scatter(None, out, data, 1000, None, op)
    assert torch.equal(out.get(), values)
    lib.comm_reduce_scatter(None, data, data, 1000, None, op)
    lib.comm_all_reduce(None, data, 1000, None, op)
    halves = lib.x(values)
    before = halves.get()
    lib.comm_all_gather(None, halves, 1000, op)
    lib.comm_broadcast(None, halves, 1000, 0, op)
    lib.comm_op_wait(op)
    assert torch.equal(data.get(), values) and torch.equal(halves.get(), before)
    lib.comm_op_destroy(op)
    lib.comm_op_destroy(None)


@pytest.mark.checked
def test_host_values_of_one(lib):
    count = np.array([5, -7], np.int64)
    lib.comm_host_sum(None, count, 2)
    everything, mine = np.zeros(3, np.uint8), np.array([1, 2, 3], np.uint8)
    lib.comm_host_gather(None, everything, mine, 3)
    lib.comm_host_broadcast(None, mine, 3, 0)
    lib.comm_barrier(None)
    assert count.tolist() == [5, -7] and everything.tolist() == mine.tolist() == [1, 2, 3]
