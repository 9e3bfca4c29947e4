"""2^x of the CPU target."""

import subprocess

import pytest

import programs


@pytest.fixture(scope="module")
def words():
    done = subprocess.run([programs.build("device/exp2", "plain")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    return {kind: [float(x) for line in lines if line[0] == kind for x in line[1:]] for kind in ("ulps", "edge")}


def test_error(words):
    """As far off as llmc/cpu/exp2.h says, and not exact."""
    assert len(words["ulps"]) == 4 and all(0.5 < worst <= 1.2 for worst in words["ulps"])


def test_edges(words):
    """Where softmax and the sigmoid go: a masked score is exactly 0, a maximum exactly 1."""
    least, inf, nan = pytest.approx(2.0**-126, rel=1e-5), float("inf"), pytest.approx(float("nan"), nan_ok=True)  # 6 digits
    assert words["edge"] == [1, least, 0, 0, 0, inf, inf, inf, nan, nan] * 2
