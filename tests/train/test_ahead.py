"""A run whose steps begin before the one before is observed, as on a GPU, ends as one that observes each step at once; that
they have the same bits is in test_streams.py."""

import hashlib
import json
import re
import signal

import pytest
from streamruns import numbers
from trainrun import MANY_RANKS, Workplace
from waiting import wait_until

MODES = ("eager", "lazy")  # on the CPU target a step is observed at once, and late
NONE_DUE = {"checksum_every": 0, "batch_size": 2}


@pytest.fixture
def runs(tmp_path):
    """{mode: a workplace of its own, with the same data}"""
    folders = {mode: tmp_path / mode for mode in MODES}
    for folder in folders.values():
        folder.mkdir()
    return {mode: Workplace(folder) for mode, folder in folders.items()}


def logged(work):
    return numbers(work.output / "log.jsonl")


def losses(work):
    path = work.output / "log.jsonl"
    return [line for line in path.read_text().splitlines() if '"loss"' in line] if path.exists() else []


@pytest.mark.parametrize("many", [1, 2])
def test_bad_steps_stop_the_run(runs, monkeypatch, many):
    """The step after the last bad one has begun by then: nothing tells of it."""
    if many > 1 and not MANY_RANKS:
        pytest.skip("this machine may have one GPU")
    said = {}
    for mode, work in runs.items():
        monkeypatch.setenv("LLMC_HOST_STREAMS", mode)
        options = dict(steps=50, lr="1e30", grad_clip="0", max_skipped=3, precision="bf16", code=1, **NONE_DUE)
        _, err = work.run(**options) if many == 1 else work.run_ranks(many, **options)
        said[mode] = err.replace(str(work.folder), "")
        assert not (work.output / "checkpoint").exists()
    assert said["lazy"] == said["eager"] and "3 steps in a row" in said["lazy"]
    assert logged(runs["lazy"]) == logged(runs["eager"])


def test_a_signal_ends_it_after_a_whole_step(runs, monkeypatch):
    """All steps that were made are logged; the run that goes on has the losses and the weights of one that was never stopped."""
    work, whole = runs["lazy"], runs["eager"]
    process = work.start(environment={"LLMC_HOST_STREAMS": "lazy"}, steps=100_000, **NONE_DUE, final_lr_fraction="1")
    wait_until(lambda: len(losses(work)) >= 5, "five steps", process=process)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0 and err == b""
    steps = int(re.search(r"stopped by SIGTERM after (\d+) steps", out.decode())[1])
    state = json.loads((work.output / "checkpoint/trainer/state.json").read_text())
    assert len(losses(work)) == state["step"] == steps
    last = {"steps": steps + 3, "schedule_steps": 100_000, "final_lr_fraction": "1", **NONE_DUE}
    for mode, options in (("lazy", {"resume": "auto"}), ("eager", {})):
        monkeypatch.setenv("LLMC_HOST_STREAMS", mode)
        runs[mode].run(**last, **options)
    assert [line for line in logged(work) if "loss" in line] == [line for line in logged(whole) if "loss" in line]
    weights = [hashlib.sha256((w.output / "checkpoint/model.safetensors").read_bytes()).hexdigest() for w in (work, whole)]
    assert weights[0] == weights[1]
