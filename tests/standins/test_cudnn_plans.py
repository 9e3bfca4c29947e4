"""The real libcudnn has plans for our attention, on GPUs that are not here, through the shipped file that builds the graphs;
with the workspace that is documented, and that the stand-in says. scripts/soak.sh plans all shapes, each test run one drawn
for each GPU."""

import itertools
import json
import os
import random
import re
import shlex
import subprocess
import sys

import pytest

import llmc
from llmcudnn import ANY_ORDER, NO_BACKWARD, ON_CPU, SAME_BITS
from seeds import SEED, how_often

# LLMC_HOST_DEVICE: compute capability, multiprocessors, bytes of shared memory that a block may have
DEVICES = {"a100": (80, 108, 166912), "rtx4090": (89, 128, 101376), "h100": (90, 132, 232448)}
NH, NKV = 32, 8
SHAPES = list(itertools.product((1, 4), (1024, 4096, 8192), (64, 128)))  # B, T, HD
MIB = 1 << 20


def header(name):
    script = llmc.ROOT / "scripts/find_nvidia.sh"
    done = subprocess.run([script, "compile", name], capture_output=True, text=True)
    return shlex.split(done.stdout)[-1].removeprefix("-I") + "/" + name if done.returncode == 0 else None


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    """A folder with a libcuda.so.1 all of whose functions fail, but that a kernel's code is loaded: cuDNN wants no more of it."""
    if not (ON_CPU / "libcudnn_plans.so").exists():
        pytest.skip("build/cuda-on-cpu/libcudnn_plans.so is missing: make TARGET=cuda-on-cpu makes it where scripts/find_nvidia.sh finds cuDNN")
    if not header("cuda.h"):
        pytest.skip("scripts/find_nvidia.sh finds no cuda.h, whose functions cuDNN looks for")
    folder = tmp_path_factory.mktemp("driver")
    names = sorted(set(re.findall(r"\b(cu[A-Z]\w+)\s*\(", open(header("cuda.h")).read())))
    gives = {"cuLibraryLoadData", "cuLibraryGetKernel"}
    bodies = [f"int {name}(void **made) {{ *made = (void *)8; return 0; }}" if name in gives else f"int {name}(void) {{ return 100; }}"
              for name in names]  # fmt: skip
    (folder / "driver.c").write_text("\n".join(bodies))
    command = ["gcc", "-w", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", folder / "libcuda.so.1", folder / "driver.c"]
    subprocess.run(command, check=True)
    return folder


def plans(driver, device, wanted):
    """[{real, standin, error}] of [(shape, CudnnBackward)]"""
    program = llmc.ROOT / "tests/support/cudnn_plans.py"
    lines = "".join(json.dumps(case) + "\n" for case in wanted)
    environment = os.environ | {"LD_LIBRARY_PATH": str(driver), "LLMC_HOST_DEVICE": device}
    done = subprocess.run([sys.executable, program, device, *map(str, DEVICES[device])], input=lines, capture_output=True, text=True,
                          env=environment, timeout=600)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def documented(B, T, HD, backward, sm):
    """docs/kernels.md: bytes of the scores; of the gradients of keys and values for all query heads; of dQ; of dO O^T."""
    heads = B * NH * T * HD
    if backward == NO_BACKWARD:
        return 0
    if backward == SAME_BITS:
        return 2 * B * NH * T * T + 4 * heads + 4 * B * NH * T
    return (4 if sm >= 90 else 8) * heads + 4 * heads + 4 * B * NH * T


@pytest.mark.parametrize("device", DEVICES)
def test_plans(driver, device):
    sm = DEVICES[device][0]
    drawn = random.Random(f"{SEED} {device}").sample(SHAPES, how_often(1, len(SHAPES)))
    wanted = list(itertools.product(drawn, (SAME_BITS, ANY_ORDER)))
    if device == "h100":
        wanted += [((1, 4096, 128), SAME_BITS), ((1, 1024, 64), NO_BACKWARD)]
    found = plans(driver, device, [((B, T, NH, NKV, HD), backward) for (B, T, HD), backward in wanted])
    for (shape, backward), plan in zip(wanted, found, strict=True):
        print(device, shape, backward, plan)
        assert plan["error"] == "", (shape, backward)
        for which in ("real", "standin"):
            assert abs(plan[which] - documented(*shape, backward, sm)) <= MIB, (which, shape, backward)


def test_refused(driver):
    """What cuDNN has no plan for is the library's to say."""
    found = plans(driver, "a100", [((1, 128, 2, 1, 256), SAME_BITS)])[0]
    assert found["real"] is found["standin"] is None and "heads over 1 of 256" in found["error"]


def test_what_a_user_is_told():
    """The manual's figures of a row of 4096 tokens and 32 heads of 128 are those of the formula that the plans are held against."""
    text = " ".join((llmc.ROOT / "docs/kernels.md").read_text().split())
    for backward, sm in ((SAME_BITS, 90), (ANY_ORDER, 90), (ANY_ORDER, 80)):
        assert f" {documented(1, 4096, 128, backward, sm) // MIB:,} MiB" in text, (backward, sm)
