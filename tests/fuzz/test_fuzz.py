"""Every seed of the fuzzers and every crash they once found goes through the readers again, under AddressSanitizer and
UBSan, with any compiler; the fuzzing itself is scripts/fuzz.sh."""

import os
import pathlib
import subprocess
import sys

import pytest

import programs
from seeds import seed_of

ROOT = pathlib.Path(__file__).resolve().parents[2]
FUZZ = ROOT / "tests" / "fuzz"
NAMES = sorted(path.stem.removeprefix("fuzz_") for path in FUZZ.glob("fuzz_*.c"))


def inputs(name):
    return sorted([*(FUZZ / "seeds" / name).iterdir(), *(FUZZ / "crashes" / name).glob("*")])


@pytest.fixture(scope="session")
def replay():
    done = programs.make("fuzz-replay")
    assert done.returncode == 0, done.stderr
    return ROOT / "build" / "fuzz" / "replay"


@pytest.mark.parametrize("name", NAMES)
def test_seeds_and_old_crashes(replay, name):
    files = inputs(name)
    assert len(files) >= 2
    env = {**os.environ, "ASAN_OPTIONS": "max_allocation_size_mb=1024"}
    done = subprocess.run([replay / name, *files], capture_output=True, text=True, env=env, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.splitlines() == [str(path) for path in files]


@pytest.mark.parametrize("name", NAMES)
def test_mutators(replay, name):
    """They would end the fuzzing where they read or write past the text, which may fill its buffer."""
    command = [replay / name, "--mutate", str(seed_of(name) % 2**32), *inputs(name)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]


def test_a_broken_promise_ends_the_process(replay, tmp_path):
    """The replay itself can fail: a target without its input file, and one that a limit stops."""
    done = subprocess.run([replay / "shard", tmp_path / "missing"], capture_output=True, text=True)
    assert done.returncode == 1 and "missing" in done.stderr


def test_seeds_are_what_the_script_makes(tmp_path):
    sys.path.insert(0, str(FUZZ))
    try:
        import make_seeds
    finally:
        sys.path.remove(str(FUZZ))
    make_seeds.SEEDS = tmp_path
    make_seeds.write_all()
    for made in sorted(tmp_path.glob("*/*")):
        kept = FUZZ / "seeds" / made.relative_to(tmp_path)
        assert kept.read_bytes() == made.read_bytes(), f"{kept}: run tests/fuzz/make_seeds.py"


@pytest.mark.parametrize(
    "arguments, words",
    [(["--seconds", "x"], ["--seconds x", "number"]), (["--seconds"], ["--seconds"]), (["nothing"], ["nothing", "shard"])],
)
def test_script_refuses(arguments, words):
    done = subprocess.run(["scripts/fuzz.sh", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    for word in words:
        assert word in done.stderr


def test_script_skips_with_a_reason_where_there_is_no_libfuzzer():
    env = {**os.environ, "FUZZ_CC": "false"}
    done = subprocess.run(["scripts/fuzz.sh", "json"], cwd=ROOT, capture_output=True, text=True, env=env)
    assert done.returncode == 0 and "skipped: false cannot build" in done.stdout
    assert done.stdout.splitlines()[-1] == "0 passed, 0 failed, 1 skipped"
