"""test_llama3, the whole-model check that a machine without Python runs, as it is run there."""

import os
import subprocess

import pytest

import llmc
from seeds import SEED

FOLDERS = llmc.build_folders()


def run(folder, *arguments):
    # waiting threads sleep: the models are so small that spinning ones only stand in each other's way
    environment = os.environ | {"OMP_WAIT_POLICY": "passive"}
    return subprocess.run([folder / "test_llama3", *arguments], env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.checked
@pytest.mark.parametrize("precision", FOLDERS)
def test_whole_model_against_reference(precision):
    folder = FOLDERS[precision]
    small = ["--small"] if folder.name.endswith(("checked", "race")) else []
    done = run(folder, "--seed", str(SEED), *small)
    print(done.stdout, done.stderr)
    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1]
    assert last.endswith(" passed, 0 failed") and int(last.split()[0]) >= (14 if small else 39), last
    assert f"--seed {SEED}" in done.stdout.splitlines()[0]


@pytest.mark.parametrize("precision", FOLDERS)
def test_seed_repeats_a_run(precision):
    first, second, other = (run(FOLDERS[precision], "--small", "--seed", seed).stdout for seed in ("7", "7", "8"))
    assert first == second != other


@pytest.mark.parametrize("arguments", [["--seed", "-1"], ["--seed", "1x"], ["--seed"], ["--nonsense"], ["extra"]])
def test_bad_arguments(arguments):
    done = run(next(iter(FOLDERS.values())), *arguments)
    assert done.returncode == 2
    assert arguments[-1].lstrip("-") in done.stderr
