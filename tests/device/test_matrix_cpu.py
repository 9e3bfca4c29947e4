"""Products of small matrices on the CPU (llmc/device/matrix_cpu.h), with the instructions of this processor and without AVX-512,
as another one may have it."""

import ctypes
import itertools
import pathlib
import subprocess

import llmc
import pytest
import torch

FLAGS = "-std=c++17 -O2 -fno-math-errno -fno-trapping-math -march=native -fopenmp -Wall -Wextra -Werror -Wno-unknown-pragmas".split()
SOURCE = pathlib.Path(__file__).with_name("matrix_cpu.cpp")
LIMIT = 2.0**-20  # up to 257 additions in fp32


@pytest.fixture(scope="module", params=["own", "no-avx512f"])
def host(request, tmp_path_factory):
    if request.param == "no-avx512f" and not llmc.has_avx512():
        pytest.skip("this processor has no AVX-512 anyway")
    out = tmp_path_factory.mktemp("matrix") / "libmatrix.so"
    without = [f"-m{request.param}"] if request.param != "own" else []
    command = ["g++", *FLAGS, *without, "-shared", "-fPIC", "-DLLMC_TARGET_CPU", f"-I{llmc.ROOT / 'llmc'}", f"-I{llmc.ROOT / 'llmc/cpu'}"]
    done = subprocess.run([*command, str(SOURCE), "-o", str(out)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(out))


def stored(matrix, transposed, gap):
    """(memory with `gap` unused columns, its row length)"""
    rows = matrix.T if transposed else matrix
    memory = torch.full((rows.shape[0], rows.shape[1] + gap), float("nan"), dtype=matrix.dtype)
    memory[:, : rows.shape[1]] = rows
    return memory, memory.shape[1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bf16", "fp32"])
@pytest.mark.parametrize("rows, n, k", [(64, 64, 32), (64, 32, 64), (64, 128, 64), (16, 16, 16), (32, 48, 256), (48, 96, 128)])
def test_product(host, dtype, rows, n, k):
    for a_transposed, b_transposed, add, gap in itertools.product((False, True), (False, True), (False, True), (0, 16)):
        a, b, c = torch.randn(rows, k).to(dtype), torch.randn(k, n).to(dtype), torch.randn(rows, n)
        (a_memory, a_stride), (b_memory, b_stride) = stored(a, a_transposed, gap), stored(b, b_transposed, gap)
        result, c_stride = stored(c, False, gap)
        multiply = host.multiply_bf16 if dtype == torch.bfloat16 else host.multiply_fp32
        at = [ctypes.c_void_p(x.data_ptr()) for x in (result, a_memory, b_memory)]
        multiply(at[0], c_stride, add, at[1], a_stride, a_transposed, at[2], b_stride, b_transposed, rows, n, k)
        want = c.double() * add + a.double() @ b.double()
        error = (result[:, :n].double() - want).norm() / want.norm()
        assert error <= LIMIT, f"{error}, A transposed {a_transposed}, B {b_transposed}, added {add}, gap {gap}"
        assert bool(result[:, n:].isnan().all()), "written beyond a row"


def test_rounding(host):
    values = torch.cat([torch.randn(1 << 12) * torch.exp(torch.randn(1 << 12) * 8), torch.tensor([0.0, -0.0, torch.inf, -torch.inf])])
    halfway = (torch.randn(1 << 8).bfloat16().view(torch.int16).int() << 16 | 0x8000).view(torch.float32)
    values = torch.cat([values, halfway, torch.tensor([torch.nan] * 12)])
    rounded = torch.empty(len(values), dtype=torch.bfloat16)
    host.round_all(ctypes.c_void_p(rounded.data_ptr()), ctypes.c_void_p(values.data_ptr()), len(values))
    assert torch.equal(rounded.isnan(), values.isnan())
    assert torch.equal(rounded.nan_to_num(5), values.bfloat16().nan_to_num(5))
