"""The cuda half of llmc/device/launch.h, over a stand-in for the runtime that records what it is given."""

import pytest

import oncpu


@pytest.fixture(scope="module")
def program():
    return oncpu.build("standins/launch")


def test_what_the_runtime_is_given(program):
    """Grid, block, shared memory and stream as they were named, arguments in the kernel's own types; more than 48 KB of shared
    memory is asked for before."""
    lines = oncpu.run([program]).stdout.splitlines()
    assert lines == [
        "grid 1 1 1 block 32 1 1 shared 0 stream 4096 attributes 0 narrow 7",
        "grid 3 2 5 block 32 4 2 shared 49152 stream 4096 attributes 0 wide 256 512 9 0.5",
        "grid 8 1 1 block 256 1 1 shared 101376 stream 0 attributes 0 wide 256 512 10 2",
        "grid 4 1 1 block 256 1 1 shared 0 stream 4096 attributes 0 narrow 1",
    ]


@pytest.mark.parametrize("case, call, error", [
    ("shared-memory", "cudaFuncSetAttribute(", "invalid argument"),
    ("threads", "cudaLaunchKernelEx(", "invalid configuration argument"),
    ("grid", "cudaLaunchKernelEx(", "invalid configuration argument"),
])  # fmt: skip
def test_refused_launches_end_the_program(program, case, call, error):
    """One line that names file, line and call."""
    done = oncpu.run([program, case], code=1)
    where, line, said = done.stderr.removeprefix("llmc: ").split(":", 2)
    assert done.stdout == "" and done.stderr.count("\n") == 1
    assert where == "llmc/device/launch.h" and int(line) > 0 and call in said and said.endswith(f": {error}\n")


@pytest.mark.parametrize("device, code", [("h100", 0), ("a100", 1), ("rtx4090", 1)])
def test_shared_memory_is_the_devices(program, device, code):
    oncpu.run([program, "big-shared-memory"], code=code, LLMC_HOST_DEVICE=device)


def test_unknown_device(program):
    done = oncpu.run([program, "threads"], code=2, LLMC_HOST_DEVICE="b200")
    assert "LLMC_HOST_DEVICE is 'b200', expected h100, a100 or rtx4090" in done.stderr
