"""What scripts do when a package is missing, or when their output cannot be written."""

import os
import subprocess
import sys

import pytest
from checkout import ROOT, script

PROGRAMS = sorted(path.stem for path in [*ROOT.glob("data/*.py"), *ROOT.glob("scripts/*.py")] if not path.is_symlink() and path.stem not in ("get_corpus", "moved", "plan"))  # they need none


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_missing_package(name):
    """As in a shell in which nobody has activated the virtual environment: -S leaves out what is installed."""
    done = subprocess.run([sys.executable, "-S", script(name), "--help"], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith(f"{name.removesuffix('.py')}: the Python package ") and ".venv/bin/activate" in done.stderr


@pytest.fixture
def commands(tmp_path):
    (tmp_path / "a.txt").write_text("To be, or not to be.\n\n" * 400)
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n')
    return {
        "prepare_data": [tmp_path / "a.txt", "--vocab-size", 264, "--output", tmp_path / "data", "--workers", 1, "--overwrite",
                         "--val-fraction", 0],  # fmt: skip
        "plan": ["--config", ROOT / "configs/quickstart.json", "--gpus", 1],
        "plot": [tmp_path / "log.jsonl", "--output", tmp_path / "loss.png"],
    }


@pytest.mark.parametrize("name", ["prepare_data", "plan", "plot"])
def test_nobody_takes_the_output(commands, name):
    command = [str(part) for part in (sys.executable, script(name), *commands[name])]
    closed = subprocess.run(["sh", "-c", '"$@" >&-', "sh", *command], stderr=subprocess.PIPE, text=True)
    assert (closed.returncode, closed.stderr) == (0, "")
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "No space left on device" in done.stderr, done.stderr
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert done.returncode == 1 and "Traceback" not in done.stderr and done.stderr.count("\n") <= 1
