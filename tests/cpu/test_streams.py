"""Streams of the CPU target follow CUDA's rules in each mode of LLMC_HOST_STREAMS (tests/cpu/streams.cu has the cases)."""

import os
import re
import subprocess

import pytest

import callsites
import programs
from checkout import ROOT
from seeds import SEED

SOURCE = (ROOT / "tests/cpu/streams.cu").read_text()
CASES = re.findall(r'^    \{"(\w+)"', SOURCE, re.M)
FAULTS = {
    "stream_used_after_its_end": "a stream is used that was destroyed",
    "pinned_memory_freed_too_early": "pinned memory is freed while a copy that is queued needs it",
    "default_stream_in_a_capture": "the default stream is used while a stream is captured",
}
MODES = ["eager", "lazy", *(f"random:{SEED + i}" for i in range(6))]


@pytest.fixture(scope="module", params=["plain", "checked", "race"])
def program(request):
    return programs.build("cpu/streams", request.param)


def run(program, case, mode, **environment):
    env = {**os.environ, "LLMC_HOST_STREAMS": mode, "ASAN_OPTIONS": "detect_leaks=0", "TSAN_OPTIONS": "halt_on_error=1", **environment}
    return subprocess.run([program, case], capture_output=True, text=True, timeout=600, env=env)


@pytest.mark.parametrize("case", [c for c in CASES if c not in FAULTS])
def test_rules(program, case):
    plain = program.is_relative_to(ROOT / "build/cpu")
    for mode in MODES if plain else ["eager", MODES[-1]]:
        done = run(program, case, mode)
        assert done.returncode == 0, (mode, done.stdout, done.stderr)


@pytest.mark.parametrize("case", FAULTS)
def test_faults_are_told(program, case):
    done = run(program, case, "lazy")
    assert done.returncode == 1 and done.stderr == f"llmc: {FAULTS[case]}\n"


def test_seeds_interleave():
    program = programs.build("cpu/streams", "plain")
    orders = {mode: run(program, "order_in_a_stream", mode).stderr for mode in MODES}
    assert orders["eager"].split() == [str(i) for i in range(1, 41)]
    assert orders["lazy"].split() == [str(i) for i in [*range(1, 41, 2), *range(2, 41, 2)]]
    assert len(set(orders.values())) > len(MODES) // 2
    assert orders[MODES[2]] == run(program, "order_in_a_stream", MODES[2]).stderr
    pageable = {run(program, "pageable_memory_is_done_with", f"random:{seed}").stderr for seed in range(40)}
    assert pageable == {"late ", "staged ", "read late "}


@pytest.mark.parametrize("mode", ["", "Lazy", "random", "random:", "random:x", "random:1 "])
def test_other_modes_are_refused(mode):
    done = run(programs.build("cpu/streams", "plain"), "events_order", mode)
    assert done.returncode == 2
    assert done.stderr == f"llmc: LLMC_HOST_STREAMS is '{mode}', expected eager, lazy or random:SEED with a number\n"


def test_a_call_is_skipped():
    """Each synchronising call of two cases in turn: the case notices, and the program tells."""
    program = programs.build("cpu/streams", "plain")
    for case, words in {"events_order": 3, "copies_that_wait": 2}.items():
        sites = [s for s in callsites.of(program) if s.caller.startswith(f"_ZL{len(case)}{case}")]
        noticed = 0
        for site in sites:
            done = run(program, case, "lazy", LLMC_HOST_SKIP=site.skip)
            assert f"llmc: a call of {site.function} is skipped\n" in done.stderr, (site, done.stderr)
            noticed += done.returncode != 0
        assert noticed >= words, (case, sites)
    assert run(program, "events_order", "lazy", LLMC_HOST_SKIP="0x10,here").returncode == 2
