"""Processors other than this one: those that a build is not for, the levels of a portable build, ARM64. Emulated ones check the
whole model at a small size. What takes minutes is left to scripts/soak.sh processors."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

import arm64
import llmc
import programs
from trainrun import Workplace

PLAIN, PORTABLE = (llmc.ROOT / "build" / name for name in ("cpu", "cpu-portable"))
# level: what glibc must not see for it to be the best, and a processor that has it and no higher one
LEVELS = {
    "x86-64-v4": ("", None),
    "x86-64-v3": ("-AVX512F,-AVX512VL", "Haswell"),
    "x86-64": ("-AVX2,-AVX512F", "Nehalem"),
}
slow = pytest.mark.skipif("LLMC_SOAK" not in os.environ, reason="takes minutes: scripts/soak.sh processors")
DEVICE = """
import ctypes, sys
properties = ctypes.create_string_buffer(4096)
assert ctypes.CDLL(sys.argv[1]).cudaGetDeviceProperties(properties, 0) == 0
print(properties.value.decode())
"""


def device(folder, **environment):
    """The name of the device, as a process tells it that opens the library by its path."""
    return subprocess.check_output([sys.executable, "-c", DEVICE, folder / "libllmc.so"], text=True, env={**os.environ, **environment}).strip()


def check(command, **environment):
    """Compares the whole model with the oracle, by this program."""
    done = subprocess.run([*map(str, command), "--small"], capture_output=True, text=True, env={**os.environ, **environment})
    assert done.returncode == 0 and done.stdout.endswith(" passed, 0 failed\n"), done


@pytest.fixture(scope="module")
def level():
    """The level of x86-64 that the build is for: the highest that this processor has."""
    if os.uname().machine != "x86_64":
        pytest.skip("levels are x86-64's")
    return re.search(r"MACHINE=(\S+)", (PLAIN / "settings").read_text()).group(1)


def need_qemu():
    if not shutil.which("qemu-x86_64"):
        pytest.skip("qemu-x86_64 (Debian's qemu-user) is missing")


def test_an_older_processor_is_told(level):
    """In one line, by each program, before anything of it runs."""
    if level == "x86-64":
        pytest.skip("the build is for any x86-64")
    need_qemu()
    for program in ("train_llama3", "test_llama3", "merge_lora"):
        done = subprocess.run(["qemu-x86_64", "-cpu", "Nehalem", PLAIN / program, "--version"], capture_output=True, text=True)
        said = [line for line in done.stderr.splitlines() if not line.startswith("qemu-")]
        assert done.returncode == 2 and len(said) == 1 and done.stdout == "", (done, said)
        assert re.match(rf"llmc: .* {level}, .* make MACHINE=portable$", said[0]), said


def test_the_device_tells_the_level(level):
    """So that a resumed run is told if another level rounds for it."""
    assert re.fullmatch(rf"CPU \(.+, {level}\)", device(PLAIN))


@pytest.fixture(scope="module")
def portable(level):
    done = programs.make("TARGET=cpu", "MACHINE=portable")
    assert done.returncode == 0, done.stderr
    return list(LEVELS)[list(LEVELS).index(level) :]  # the levels that this processor has


@slow
@pytest.mark.parametrize("wanted", LEVELS)
def test_portable_takes_the_best_level(portable, wanted):
    if wanted not in portable:
        pytest.skip(f"this processor is no {wanted}")
    hidden = {"GLIBC_TUNABLES": f"glibc.cpu.hwcaps={LEVELS[wanted][0]}"}
    assert device(PORTABLE, **hidden).endswith(f", {wanted})")
    check([PORTABLE / "test_llama3"], **hidden)


@slow
@pytest.mark.parametrize("wanted", [level for level, (_, model) in LEVELS.items() if model])
def test_portable_runs_on_older_processors(portable, wanted):
    need_qemu()
    check(["qemu-x86_64", "-cpu", LEVELS[wanted][1], PORTABLE / "test_llama3"])


@pytest.fixture(scope="module")
def arm():
    arm64.build()


@slow
def test_arm64_is_the_oracle(arm):
    check(arm64.command("test_llama3"))


@slow
def test_arm64_trains_as_this_machine(arm, tmp_path_factory):
    """The same losses but for roundings to bf16, whose error is at most 5.8e-3 of a loss in test_llama3: both sides have it."""
    work = Workplace(tmp_path_factory.mktemp("arm64"))
    losses = []
    for shell in ('exec "$@"', 'shift; exec ' + " ".join(f"'{word}'" for word in arm64.command("train_llama3")) + ' "$@"'):
        work.run(shell=shell, steps=10, lr="1e-3", overwrite=True)
        losses.append([line["loss"] for line in map(json.loads, (work.output / "log.jsonl").open()) if "loss" in line])
    assert len(losses[0]) == 10 and losses[1] == pytest.approx(losses[0], abs=2 * 5.8e-3)
    assert losses[0][-1] < losses[0][0] - 0.1
