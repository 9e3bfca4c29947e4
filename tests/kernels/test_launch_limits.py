"""Every kernel of the cuda build can be launched with the largest block and the most shared memory that its launcher asks for.
The registers and the static shared memory are ptxas' (build/cuda*/**/*.ptxas), the launches those of the CPU target."""

import pathlib

import pytest

import launches
import llmc
import machine_code
import sass

ROOT = pathlib.Path(__file__).resolve().parents[2]
# CUDA programming guide, "Compute capabilities": of a multiprocessor, a quarter for each of its four schedulers, which hand
# registers out to a warp by 256 at a time
REGISTERS, SCHEDULERS, REGISTER_UNIT = 65536, 4, 256
SHARED = 99 * 1024  # of a block, on sm_86, sm_89 and sm_120; sm_80 gives 163 KB and sm_90 227


def builds():
    found = [(p, ROOT / "build" / f"cuda{'-fp32' if p == 'fp32' else ''}") for p in ("bf16", "fp32")]
    return [pytest.param(*build, id=build[0]) for build in found if any(build[1].glob("obj/**/*.ptxas"))]


def faults(usage, threads, dynamic_shared):
    """What a GPU would refuse in a launch of a kernel that uses this much."""
    warps = -(-threads // 32)
    of_a_warp = -(-usage.registers * 32 // REGISTER_UNIT) * REGISTER_UNIT
    registers = -(-warps // SCHEDULERS) * SCHEDULERS * of_a_warp
    shared = usage.shared + dynamic_shared
    return [f"{registers} registers"] * (registers > REGISTERS) + [f"{shared} bytes of shared memory"] * (shared > SHARED)


@pytest.mark.skipif(not builds(), reason="no build/cuda with reports of ptxas: make TARGET=cuda")
@pytest.mark.parametrize("precision, build", builds())
def test_every_kernel_can_be_launched(precision, build):
    lib = llmc.load(precision)
    if not lib.on_cpu:
        pytest.skip("only the CPU target records launches")
    largest, usage = launches.record(lib), machine_code.read_usage(build)
    assert len(usage) > 50, "the reports are not read"
    never = sorted({kernel for kernel, _ in usage} - set(largest))
    assert never == [], "tests/support/launches.py does not launch these kernels"
    if sass.find_cuobjdump():
        bounds = machine_code.read_bounds(build)
        assert bounds["backward_kernel<true, 1, 4, 512>"] == 512, "the bounds are not read"
        too_many = {kernel: (largest[kernel][0], most) for kernel, most in bounds.items() if largest[kernel][0] > most}
        assert too_many == {}, "threads, __launch_bounds__"
    refused = {key: found for key, used in usage.items() if (found := faults(used, *largest[key[0]]))}
    assert refused == {}


@pytest.mark.parametrize(
    "registers, shared, threads, dynamic, refused",
    [
        (64, 0, 1024, 0, False),
        (65, 0, 1024, 0, True),
        (255, 0, 256, 0, False),
        (255, 0, 257, 0, True),
        (168, 0, 384, 0, False),
        (168, 0, 288, 0, False),  # 9 warps take the room of 12
        (224, 0, 288, 0, True),
        (32, 1024, 128, 98 * 1024, False),
        (32, 1025, 128, 98 * 1024, True),
    ],
)
def test_limits(registers, shared, threads, dynamic, refused):
    assert bool(faults(machine_code.Usage(registers, shared, 0, 0), threads, dynamic)) == refused


def test_the_record_has_the_largest_launch():
    lib = llmc.load(next(iter(llmc.build_folders())))
    if not lib.on_cpu:
        pytest.skip("only the CPU target records launches")
    largest = launches.record(lib)
    assert largest["backward_kernel<true, 1, 4, 1024>"] == (1024, 0) and largest["backward_kernel<true, 1, 4, 512>"] == (512, 0)
    assert largest["split_kernel<8, 128>"] == (128, 4 * 8 * (1024 + 256 + 256))
