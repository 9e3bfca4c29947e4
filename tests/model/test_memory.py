"""The reserve of the memory plan: what has to stay free for kernels and communication."""

import ctypes
import re

import cstructs
import model as models
import oncpu
import pytest
import trainrun

MemoryPlan = cstructs.read("model/memory.h")["MemoryPlan"]
MIB = 1 << 20


def make_plan(lib, arena=MIB, reserve=0, advice=None):
    plan = MemoryPlan(reserve_bytes=reserve, advice=advice)
    lib.c.memory_take(ctypes.byref(plan), 0, ctypes.c_size_t(arena))
    return plan


def allocate(lib, plan):
    """(code, message); what was allocated is freed."""
    error = models.Error()
    code = lib.c.memory_allocate(ctypes.byref(plan), ctypes.byref(error))
    lib.c.memory_free(ctypes.byref(plan))
    return code, error.message.decode()


def free_bytes(lib):
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    lib.check(lib.c.cudaMemGetInfo(ctypes.byref(free), ctypes.byref(total)), "cudaMemGetInfo")
    return free.value


def test_a_plan_that_would_leave_less_is_refused(lib):
    assert allocate(lib, make_plan(lib, reserve=MIB))[0] == 0
    code, message = allocate(lib, make_plan(lib, reserve=2 * free_bytes(lib)))
    assert code == 1
    found = re.fullmatch(r"out of memory: 1.0 MiB needed, ([\d.]+) MiB free, of which ([\d.]+) MiB are for kernels and communication; "
                         r"a smaller --batch-size or --seq-len, --recompute block, --activations host or --optimizer-state host needs less", message)  # fmt: skip
    assert found and 0 < float(found[1]) < float(found[2])
    code, message = allocate(lib, make_plan(lib, reserve=2 * free_bytes(lib), advice=b"a shorter context"))
    assert code == 1 and message.endswith("; a shorter context needs less")


def test_host_memory_that_is_not_there(lib):
    """Refused with its bytes; what was allocated on the device is free again."""
    plan, much = make_plan(lib), 1 << 50
    lib.c.memory_take_host(ctypes.byref(plan), ctypes.c_size_t(much))
    code, message = allocate(lib, plan)
    assert code == 1 and plan.arenas[0].base is None
    found = re.fullmatch(r"out of host memory: ([\d.]+) MiB of page-locked memory needed, ([\d.]+) MiB free; "
                         r"--optimizer-state device and --activations device need none", message)  # fmt: skip
    assert found and float(found[1]) == much / MIB > float(found[2]) > 0
    lib.check(lib.c.cudaGetLastError(), "a later error")


def table(lib, plan, path):
    libc = ctypes.CDLL(None)
    libc.fopen.restype = ctypes.c_void_p
    file = ctypes.c_void_p(libc.fopen(bytes(path), b"w"))
    lib.c.memory_print(ctypes.byref(plan), file)
    libc.fclose(file)
    return dict(re.findall(r"^  (\S.*?) +([\d.]+) MiB", path.read_text(), re.M))


def test_the_table_has_a_line_for_it(lib, tmp_path):
    assert table(lib, make_plan(lib, reserve=3 * MIB), tmp_path / "table") == {"parameters": "1.0", "reserve": "3.0", "total": "4.0"}
    assert table(lib, make_plan(lib), tmp_path / "table") == {"parameters": "1.0", "total": "1.0"}


def test_host_memory_is_no_part_of_the_total(lib, tmp_path):
    plan = make_plan(lib)
    lib.c.memory_take_host(ctypes.byref(plan), ctypes.c_size_t(2 * MIB))
    assert table(lib, plan, tmp_path / "table") == {"parameters": "1.0", "total": "1.0", "host memory": "2.0"}


@pytest.mark.parametrize("communicators, mib", [(0, 256), (1, 512), (3, 1024)])
def test_size_of_a_gpu_s_reserve(lib, communicators, mib):
    lib.c.memory_gpu_reserve.restype = ctypes.c_size_t
    assert lib.c.memory_gpu_reserve(communicators) == mib * MIB


def test_the_cuda_target_reserves_it(tmp_path):
    """Its host code, without a GPU: 256 MiB for one rank, beside the workspace that was there before."""
    oncpu.need()
    work = trainrun.Workplace(tmp_path)
    arguments = work.arguments(steps=1, eval_every=0, save="off", output=tmp_path / "run", threads=None)
    done = oncpu.run([oncpu.ON_CPU / "train_llama3", *arguments])
    sizes = dict(re.findall(r"^  (\S.*?) +([\d.]+) MiB", done.stdout, re.M))
    assert sizes["reserve"] == "256.0" and sizes["matrix library"] == "64.0" and float(sizes["total"]) > 320
