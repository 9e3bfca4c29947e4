"""The model of --use_fast_math (llmc/cpu/fast_math.h): as wrong as is stated, no more and not much less."""

import os
import re
import shutil
import subprocess

import pytest

import programs

ROOT = programs.ROOT


def words_of(seed):
    """{(error or edge, function): numbers}"""
    path = programs.build("device/fast_math", "checked")
    done = subprocess.run([path], capture_output=True, text=True, env=dict(os.environ, LLMC_HOST_FAST_MATH=str(seed)))
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    return {(kind, name): [float(x) for x in numbers] for kind, name, *numbers in lines}


@pytest.fixture(scope="module", params=[1, 77])
def words(request):
    return words_of(request.param)


def test_own_functions_are_no_worse():
    """Those of the CPU, some of which are polynomials."""
    for (kind, name), (worst, *_) in words_of(0).items():
        assert kind != "error" or worst <= 0.8, f"{name}: {worst} of what a GPU's may be off by"


def test_errors_are_as_stated(words):
    errors = {name: numbers[0] for (kind, name), numbers in words.items() if kind == "error"}
    assert len(errors) == 11
    for name, worst in errors.items():
        assert 0.8 <= worst <= 1.5, f"{name}: {worst} of the stated error"  # the result is rounded on top


def test_edges(words):
    nan, inf = pytest.approx(float("nan"), nan_ok=True), float("inf")
    assert words["edge", "flush"] == [0, 0]
    assert words["edge", "exp2"] == [1, 1, inf, 0]
    assert words["edge", "divide"] == [0, nan, inf]
    assert words["edge", "log"] == [-inf, nan]
    assert words["edge", "rsqrt"] == [inf, 0]
    assert words["edge", "sin"] == [nan]
    assert words["edge", "after"][0] > 0, "what is not a kernel must not flush"


# ---- no way around the wrappers

FUNCTION = r"v?(?:div|sqrt|rcp|rsqrt)\w*[sp]s"
LIBM = r"(?:exp|exp2|exp10|expm1|log|log2|log10|log1p|sin|cos|tan|pow|tanh|sqrt|fmod|erf)f?"  # sincosf: g++ makes it of two wrappers
PLACE = re.compile(r"(\S+\.(?:cu|h|c|cpp)):(\d+)")
ON_THE_HOST = {"llmc/kernels/qkv_layout.h"}  # the scale of scores, worked out by launchers


def approximated(objects):
    """{FILE:LINE: instruction or function} of float divisions, roots and calls of libm in the machine code of kernels' sources."""
    dump = subprocess.run(["objdump", "-dlr", "--no-show-raw-insn", *objects], capture_output=True, text=True)
    assert dump.returncode == 0, dump.stderr
    found, place = {}, None
    for line in dump.stdout.splitlines():
        if here := PLACE.match(line):
            place = here
            continue
        used = re.search(rf"\t({FUNCTION})\s", line) or re.search(rf"R_X86_64_PLT32\s+({LIBM})\b", line)
        if used and place and "llmc/kernels/" in place.group(1):
            path = place.group(1)[place.group(1).index("llmc/kernels/") :]
            if path not in ON_THE_HOST and path.endswith((".cu", ".h")):
                found[f"{path}:{place.group(2)}"] = used.group(1)
    return found


def skip_unless_readable():
    if os.uname().machine != "x86_64" or not shutil.which("objdump"):
        pytest.skip("reads x86-64 machine code by objdump")


def test_kernels_call_the_wrappers_alone():
    """So that every function and division of a kernel has the model, and its row in docs/kernels.md."""
    skip_unless_readable()
    objects = sorted((ROOT / "build/cpu/obj/llmc/kernels").glob("*.cu.o"))
    assert len(objects) == len(list((ROOT / "llmc/kernels").glob("*.cu")))
    assert approximated(objects) == {}


@pytest.mark.parametrize("expression", ["x[0] / x[1]", "sqrtf(x[0])", "expf(x[0])", "1.0f / sqrtf(x[0])", "powf(x[0], x[1])"])
def test_the_rule_can_fail(tmp_path, expression):
    skip_unless_readable()
    source = tmp_path / "llmc/kernels/own.cu"
    source.parent.mkdir(parents=True)
    source.write_text(f"#include <math.h>\nvoid own(float *y, const float *x) {{ *y = {expression}; }}\n")
    command = ["g++", "-x", "c++", "-g", "-O3", "-fno-math-errno", "-c", source, "-o", source.with_suffix(".o")]
    assert subprocess.run(command).returncode == 0
    assert list(approximated([source.with_suffix(".o")])) == ["llmc/kernels/own.cu:2"]
