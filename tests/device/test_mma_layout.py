"""Which lane holds which element: mma.sync and ldmatrix of the CPU target are compared with the layouts that CuTe publishes,
and its fast products with the GPU's sequence of instructions, run one by one on the CPU. Inputs are small integers, so every
result is exact.

Needs the CPU target; CuTe's comparison also PyPI `nvidia-cutlass` 4.2.0 and the CUDA toolkit's headers."""

import ctypes
import json
import os
import pathlib
import shutil
import subprocess
import sysconfig

import llmc
import pytest
import torch

TESTS = pathlib.Path(__file__).resolve().parent
FLAGS = "-std=c++17 -O2 -fno-math-errno -fno-trapping-math -march=native -fopenmp -Wno-unknown-pragmas".split()


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    """The wrappers compiled for the CPU target, beside the library that holds its scheduler."""
    lib = llmc.load("bf16")
    if not lib.on_cpu or lib.checked:
        pytest.skip("the CPU's meaning of the instructions is tested in the plain cpu build")
    out = tmp_path_factory.mktemp("mma") / "libmma_layout.so"
    folder = llmc.build_folders()["bf16"]
    compile_program(
        ["g++", "-x", "c++", *FLAGS, "-shared", "-fPIC", "-DLLMC_TARGET_CPU", "-DLLMC_PRECISION_bf16"]
        + [f"-I{llmc.ROOT / 'llmc'}", f"-I{llmc.ROOT / 'llmc/cpu'}", str(TESTS / "mma_layout.cu")]
        + ["-o", str(out), "-x", "none", f"-L{folder}", "-lllmc", f"-Wl,-rpath,{folder}"]
    )
    return ctypes.CDLL(str(out))


@pytest.fixture(scope="module")
def cute(tmp_path_factory):
    """CuTe's layouts: {name: [lane][value]}."""
    include = pathlib.Path(sysconfig.get_paths()["purelib"]) / "cutlass_library/source/include"
    nvcc = shutil.which("nvcc")
    found = pathlib.Path(nvcc).resolve().parents[1] if nvcc else "/usr/local/cuda"
    cuda = pathlib.Path(os.environ.get("CUDA_HOME") or found)
    if not (include / "cute/tensor.hpp").exists():
        pytest.skip(f"CuTe's headers are not there: {include} (pip install nvidia-cutlass==4.2.0)")
    if not (cuda / "include/cuda_runtime.h").exists():
        pytest.skip(f"the CUDA toolkit's headers are not there: {cuda}/include (set CUDA_HOME)")
    program = tmp_path_factory.mktemp("cute") / "cute_layouts"
    compile_program(
        ["g++", "-std=c++17", "-w", f"-I{include}", f"-I{cuda}/include", f"-I{cuda}/include/cccl"]
        + [str(TESTS / "cute_layouts.cpp"), "-o", str(program)]
    )
    return {name: torch.tensor(rows) for name, rows in json.loads(subprocess.check_output([program])).items()}


def compile_program(command):
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, f"{' '.join(command)}\n{result.stderr[-3000:]}"


def call(function, *arguments):
    """Tensors by address, other arguments as they are. Returns when the device has done it."""
    for argument in arguments:
        assert not isinstance(argument, torch.Tensor) or argument.is_contiguous()
    function(*(ctypes.c_void_p(a.data_ptr()) if isinstance(a, torch.Tensor) else a for a in arguments))
    assert llmc.load("bf16").c.cudaDeviceSynchronize() == 0


def integers(*shape):
    return torch.randint(-8, 9, shape).float()


def registers(matrix, places):
    """bf16 bits of matrix[row, column] for each lane's places, the lower index in a register's lower half."""
    values = matrix[places[..., 0], places[..., 1]]  # [32, values]
    return values.to(torch.bfloat16).contiguous().view(torch.int32)


def test_mma_is_cute(host, cute):
    for _ in range(4):
        a, b, c = integers(16, 16), integers(8, 16), integers(16, 8)  # b as CuTe has it: [n, k]
        a_regs, b_regs = registers(a, cute["A"]), registers(b, cute["B"])
        place = cute["C"]
        result = c[place[..., 0], place[..., 1]].contiguous()
        call(host.run_mma, result, a_regs, b_regs)
        want = a @ b.T + c
        assert torch.equal(result, want[place[..., 0], place[..., 1]])


@pytest.mark.parametrize("name", ["plain", "transposed"])
def test_ldmatrix_is_cute(host, cute, name):
    source, result = cute[f"{name}_source"], cute[f"{name}_result"]
    memory = source.to(torch.int16).contiguous()  # each element holds its own number
    received = torch.full((32, 4), -1, dtype=torch.int32)
    call(host.run_ldmatrix, memory, received, name == "transposed")
    assert torch.equal(received.view(torch.int16).reshape(32, 8).long(), result)


PRODUCTS = [
    "nt_bf16_2_64_32_32",
    "nt_bf16_1_32_128_128",
    "nt_bf16_1_16_64_64",
    "nn_bf16_2_32_64_32",
    "nn_bf16_1_64_64_64",
    "nn_bf16_1_128_32_256",
    "nn_bf16_1_32_32_64",
    "nt_fp32_2_64_32_32",
    "nn_fp32_1_128_32_256",
    "nn_fp32_1_32_64_32",
]


@pytest.mark.parametrize("by_instructions", [True, False], ids=["instructions", "fast"])
@pytest.mark.parametrize("name", PRODUCTS)
def test_product(host, name, by_instructions):
    kind, precision, *sizes = name.split("_")
    m, n, k, cols = map(int, sizes)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, c = integers(16 * m, k), integers(16 * m, n)
    b = integers(n, cols) if kind == "nt" else integers(k, cols)
    col0 = cols - n if kind == "nn" else 0
    want = c + a @ (b.T if kind == "nt" else b[:, col0:])
    result = c.clone()
    call(getattr(host, name), result, a.to(dtype), b.to(dtype), col0, by_instructions)
    assert torch.equal(result, want)


@pytest.mark.parametrize("name", ["passing_bf16_32", "passing_bf16_128", "passing_fp32_64"])
def test_accumulator_becomes_tile_and_operand(host, name):
    _, precision, n = name.split("_")
    n, dtype = int(n), torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = torch.randint(-2, 3, (16, 64)).to(dtype), torch.randint(-2, 3, (n, 64)).to(dtype)
    to, again = torch.full((16, n), float("nan"), dtype=dtype), torch.full((16, n), float("nan"))
    call(getattr(host, name), to, again, a, b, torch.eye(n, dtype=dtype))
    want = (a.float() @ b.float().T).to(dtype)
    assert torch.equal(to, want)
    assert torch.equal(again, want.float())
