"""A run of some ranks is resumed by others: the same tokens next, the same losses up to the order of sums; by as many ranks
with the same bits. Checkpoints come from many ranks at once, whole or not at all."""

import json
import os
import shutil
import signal

import numpy as np
import pytest

import ranks
from trainrun import MANY_RANKS, ON_CPU, T, Workplace, losses, program, read_log, snapshot
from waiting import wait_until

pytestmark = pytest.mark.skipif(not MANY_RANKS, reason="ranks that outnumber the GPUs: the cpu target's tests")

ROWS, STEPS, STOP = 12, 12, 6
COMMON = {"schedule_steps": STEPS, "checksum_every": 0}
COUNTS = [1, 2, 3, 4]
ZERO = {1: 1, 2: 0, 3: 1, 4: 2}  # each number of ranks divides in its own way


def run(work, count, **changes):
    options = {**COMMON, "batch_size": ROWS // count, "zero": ZERO[count], **changes}
    if count == 1:
        return work.run(precision="fp32", **options)
    return work.run_ranks(count, **options)


def numbers(log):
    return [(line["step"], line["loss"], line["grad_norm"], line["lr"], line["tokens"]) for line in log if "loss" in line]


def model(folder):
    return {p.name: p.read_bytes() for p in sorted((folder / "checkpoint").glob("model*.safetensors"))}


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """For each number of ranks a run that is never stopped, and one that has half of the steps."""
    work = Workplace(tmp_path_factory.mktemp("begun"))
    for count in COUNTS:
        run(work, count, steps=STEPS, output=work.folder / f"whole{count}")
        run(work, count, steps=STOP, output=work.folder / f"half{count}")
    return work


@pytest.mark.parametrize("resumed_by", COUNTS)
@pytest.mark.parametrize("begun_by", COUNTS)
def test_any_number_goes_on_from_any(begun, tmp_path, begun_by, resumed_by):
    half = begun.folder / f"half{begun_by}"
    out, err = run(begun, resumed_by, steps=STEPS, output=tmp_path / "run", resume=half)
    assert err == "" and f"resume    after step {STOP}" in out
    assert ("rounding may differ" in out) == (begun_by != resumed_by)
    whole = begun.folder / f"whole{resumed_by}"
    curve, expected = numbers(read_log(tmp_path / "run/log.jsonl")), numbers(read_log(whole / "log.jsonl"))[STOP:]
    if begun_by == resumed_by:
        assert curve == expected and model(tmp_path / "run") == model(whole)
    else:
        np.testing.assert_allclose([c[1] for c in curve], [e[1] for e in expected], rtol=1e-5)
        assert [c[4] for c in curve] == [e[4] for e in expected]  # tokens
    state = json.loads((tmp_path / "run/checkpoint/trainer/state.json").read_text())
    assert state["world_size"] == resumed_by and state["tokens"] == STEPS * ROWS * T


@pytest.mark.parametrize("count", [2, 4])
def test_goes_on_with_its_state_in_host_memory(begun, tmp_path, count):
    """Stopped there once more, and gone on without it: the same bits."""
    half = begun.folder / f"half{count}"
    run(begun, count, steps=STOP + 2, output=tmp_path / "run", resume=half, optimizer_state="host")
    run(begun, count, steps=STEPS, output=tmp_path / "run", resume="auto")
    whole = begun.folder / f"whole{count}"
    assert numbers(read_log(tmp_path / "run/log.jsonl")) == numbers(read_log(whole / "log.jsonl"))[STOP:]
    assert model(tmp_path / "run") == model(whole)


def test_a_step_keeps_its_tokens(tmp_path):
    """With neither --grad-accum nor --tokens-per-step, the micro-batches of a step follow from the number of ranks."""
    work = Workplace(tmp_path)
    work.run(precision="fp32", **COMMON, steps=3, batch_size=3, grad_accum=4)
    for count, steps in ((4, 6), (2, 9)):
        out, _ = work.run_ranks(count, **COMMON, steps=steps, batch_size=3, resume="auto")
        assert f"({4 // count} x 3 rows of {T} on each of {count} ranks)" in out
    log = work.log()
    assert [line["tokens"] for line in log if "loss" in line] == [ROWS * T * s for s in range(1, 10)]
    work.ranks_refused(3, "--tokens-per-step 384", "--batch-size 5", "3 ranks", batch_size=5, resume="auto", steps=10)
    work.ranks_refused(4, "--tokens-per-step 768 (was 384)", batch_size=3, grad_accum=2, resume="auto", steps=10)


def test_gradients_in_bf16_go_on_with_the_same_bits(tmp_path):
    work = Workplace(tmp_path)
    options = {"batch_size": 4, "zero": 2, "grad_reduce": "bf16", "schedule_steps": 8}
    work.run_ranks(2, **options, steps=8, output=tmp_path / "whole")
    work.run_ranks(2, **options, steps=3)
    work.run_ranks(2, **options, steps=8, resume="auto")
    assert numbers(work.log()) == numbers(read_log(tmp_path / "whole/log.jsonl"))
    assert model(work.output) == model(tmp_path / "whole")
    work.ranks_refused(2, "--grad-reduce fp32 (was bf16)", **options | {"grad_reduce": "fp32"}, steps=9, resume="auto")


def test_parts_opened_by_transformers(begun):
    """Each rank's part of a checkpoint, together a directory that transformers opens, with one rank's weights."""
    from transformers import AutoModelForCausalLM

    folder = begun.folder / "whole4/checkpoint"
    parts = sorted(p.name for p in (folder / "trainer").glob("optimizer*"))
    assert parts == [f"optimizer-0000{i}-of-00004.safetensors" for i in (1, 2, 3, 4)]
    many = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    one = AutoModelForCausalLM.from_pretrained(begun.folder / "whole1/checkpoint").state_dict()
    assert many.keys() == one.keys()
    for name in one:
        assert (many[name].double() - one[name].double()).norm() < 1e-3 * one[name].double().norm(), name


# ---- signals


def pids(process):
    """The ranks' processes, by rank."""
    found = {}
    for pid, name in ranks.members(process).items():
        if name.startswith("train_llama3"):
            environment = open(f"/proc/{pid}/environ").read().split("\0")
            found[next(int(v.partition("=")[2]) for v in environment if v.startswith("OMPI_COMM_WORLD_RANK="))] = pid
    return found


@pytest.mark.parametrize("rank, number", [(0, signal.SIGUSR1), (2, signal.SIGUSR1), (1, signal.SIGTERM)])
def test_a_signal_to_one_rank_stops_all_after_the_same_step(tmp_path, rank, number):
    work = Workplace(tmp_path)
    options = {**COMMON, "batch_size": 4, "schedule_steps": 1000, "save_every": 7}
    process = ranks.start([program("fp32"), *work.arguments(**options, steps=1_000_000)], ranks=3)
    try:
        wait_until(lambda: (work.output / "log.jsonl").exists() and len(work.log()) > 20, "20 lines", process=process)
        os.kill(pids(process)[rank], number)
        out, err = process.communicate(timeout=600)
    finally:
        ranks.kill(process)
    assert process.returncode == 0 and err == "", (process.returncode, out, err)
    assert f"stopped by {number.name} after" in out and "to go on: the same options and --resume auto" in out
    stopped = work.log()[-1]["step"]
    assert f"stopped by {number.name} after {stopped} steps" in out
    state = json.loads((work.output / "checkpoint/trainer/state.json").read_text())
    assert state["step"] == stopped
    work.run_ranks(3, **options, steps=stopped + 2, resume="auto")
    assert [line["step"] for line in work.log() if "loss" in line] == list(range(1, stopped + 3))


# ---- writes that fail


@pytest.mark.skipif(not ON_CPU, reason="a limit for files is one for the memory that NCCL's ranks share")
def test_a_part_that_cannot_be_written(tmp_path):
    """The disk of one rank is full: no checkpoint, training goes on, the last failure is the run's; what was there stays."""
    work = Workplace(tmp_path)
    options = {**COMMON, "batch_size": 4}
    work.run_ranks(3, **options, steps=2)
    before = snapshot(work.output / "checkpoints")
    full = {1: 'ulimit -f 40; "$@"'}  # blocks of a kilobyte
    _, err = work.run_ranks(3, **options, steps=7, save_every=2, resume="auto", different=full, code=1)
    lines = err.splitlines()
    assert [line.partition("/")[0] for line in lines[:-1]] == [f"train_llama3: no checkpoint of step {s}: rank 1: " for s in (4, 6)]
    assert all("training goes on" in line and "that of step 2" in line for line in lines[:-1]) and len(lines) == 3
    assert lines[-1].startswith("train_llama3: rank 1: ") and "-00002-of-00003.safetensors" in lines[-1]
    assert snapshot(work.output / "checkpoints") == before
    assert [line["step"] for line in work.log() if "checkpoint_failed" in line] == [4, 6, 7]
    assert len(losses(work.log())) == 7
    work.run_ranks(3, **options, steps=7, save_every=2, resume="auto")
    assert json.loads((work.output / "checkpoint/trainer/state.json").read_text())["step"] == 7


# ---- checkpoints that lack something


@pytest.fixture
def half(begun, tmp_path):
    """A checkpoint of four ranks, to be spoilt."""
    shutil.copytree(begun.folder / "half4/checkpoints" / f"step_{STOP:08d}", tmp_path / "half")
    return tmp_path / "half"


def resume_refused(begun, tmp_path, half, count, *words):
    options = {**COMMON, "batch_size": ROWS // count, "zero": 1, "steps": STEPS, "resume": half, "output": tmp_path / "run"}
    _, err = begun.run_ranks(count, code=2, **options)
    assert err.startswith("train_llama3: ") and err.count("\n") == 1, err
    for word in words:
        assert word in err, f"{word!r} not in {err}"
    assert snapshot(tmp_path / "run") is None


def test_a_part_that_is_missing(begun, tmp_path, half):
    (half / "trainer/optimizer-00003-of-00004.safetensors").unlink()
    resume_refused(begun, tmp_path, half, 2, "optimizer-00003-of-00004.safetensors")


def test_a_part_of_another_step(begun, tmp_path, half):
    """Left by hand."""
    name = "trainer/optimizer-00002-of-00004.safetensors"
    shutil.copy(begun.folder / "whole4/checkpoint" / name, half / name)
    resume_refused(begun, tmp_path, half, 3, "optimizer-00002-of-00004.safetensors")
