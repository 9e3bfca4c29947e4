"""scripts/soak.sh: what it refuses, what it counts, and the seed that repeats a failure."""

import os
import subprocess

import pytest

from checkout import ROOT

SCRIPT = ROOT / "scripts/soak.sh"


@pytest.mark.parametrize("arguments, word", [(["--hours", "x"], "x"), (["--hours"], "number"), (["nothing"], "kills")])
def test_refused(arguments, word):
    done = subprocess.run([SCRIPT, *arguments], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("soak: ") and word in done.stderr, done.stderr


@pytest.mark.parametrize("code", [0, 1])
def test_rounds(tmp_path, code):
    """A pytest that says its seed and ends with that code, in as many rounds as some seconds have."""
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin/python"
    python.write_text(f'#!/bin/sh\nsleep 0.2\necho "LLMC_TEST_SEED=$LLMC_TEST_SEED $LLMC_SOAK $*"\nexit {code}\n')
    python.chmod(0o755)
    done = subprocess.run([SCRIPT, "--hours", "0.001", "kills"], env={**os.environ, "VENV": str(tmp_path)}, capture_output=True, text=True)
    *rounds, last = done.stdout.splitlines()
    assert done.returncode == code, done.stderr
    assert last == (f"0 passed, {len(rounds)} failed" if code else f"{len(rounds)} passed, 0 failed")
    log = (ROOT / "build/soak/1-kills.log").read_text()
    assert log.split()[0] in rounds[0] and " 1 -m pytest tests" in log and " -k kill" in log
