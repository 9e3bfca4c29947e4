"""The build of TARGET=cuda-on-cpu beside the cpu target's, for tests that compare them or look at the stand-ins."""

import os
import subprocess

import pytest

import llmc
import programs

# LLMC_ON_CPU_BUILD: another of its builds, as of dev/coverage.py
CPU, ON_CPU = (llmc.ROOT / "build" / name for name in ("cpu", os.environ.get("LLMC_ON_CPU_BUILD", "cuda-on-cpu")))


def need():
    """Skips where it is not built."""
    for folder in (CPU, ON_CPU):
        if not (folder / "libllmc.so").exists():
            pytest.skip(f"build/{folder.name} is missing: make TARGET={folder.name}")


def build(name):
    """The program tests/NAME.cu, linked with the stand-ins."""
    need()
    coverage = ["COVERAGE=1"] if "coverage" in ON_CPU.name else []
    done = programs.make("TARGET=cuda-on-cpu", *coverage, f"build/{ON_CPU.name}/tests/{name}")
    assert done.returncode == 0, done.stderr
    return ON_CPU / "tests" / name


def run(command, code=0, **environment):
    """The finished process of the command, with one thread and these variables beside the test's own. code: None for any."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=300,
                          env=os.environ | {"OMP_NUM_THREADS": "1", "LLMC_STANDIN_TELL": "1"} | environment)  # fmt: skip
    print(" ".join(map(str, command)), environment, done.stdout, done.stderr, sep="\n")
    assert code is None or done.returncode == code, done.stderr
    return done
