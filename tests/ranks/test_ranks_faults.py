"""What happens to one rank of many happens to all: one line from one rank that names it, and one exit code."""

import json
import math
import os
import re
import shutil
import sys

import numpy as np
import pytest

import llmc
import ranks
from trainrun import BUILDS, MANY_RANKS, ON_CPU, T, Workplace, documents, program
from waiting import wait_until

pytestmark = pytest.mark.skipif(not MANY_RANKS, reason="ranks that outnumber the GPUs: the cpu target's tests")


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return Workplace(tmp_path_factory.mktemp("faults"))


def folder_besides(work, name):
    """A copy of the workplace's data, to be another one."""
    copy = work.folder / name
    if not copy.exists():
        shutil.copytree(work.data, copy)
    return copy


# ---- ranks that do not agree


@pytest.mark.parametrize(
    "rank, option, words",
    [
        (1, "--lr 2e-3", ["--lr is 0.002, on rank 0 it is 0.003"]),
        (2, "--seed 7", ["--seed is 7, on rank 0 it is 42"]),
        (1, "--seq-len 16", ["--seq-len is 16, on rank 0 it is 32"]),
        (2, "--steps 50", ["--steps is 50"]),
        (1, "--zero 2", ["--zero is 2, on rank 0 it is 1"]),
        (2, "--shard-group 1", ["--shard-group is 1, on rank 0 it is 0"]),
        (1, "--save-every 2", ["--save-every is 2"]),
        (2, "--output /tmp/elsewhere", ["--output is /tmp/elsewhere"]),
        (1, "--rank-timeout 5", ["--rank-timeout is 5"]),
        (2, "--lr abc", ["--lr", "'abc'"]),
        (1, "--nope", ["unknown option '--nope'"]),
        (2, "--val-data '/nowhere/*.bin'", ["--val-data", "/nowhere"]),
    ],
)
def test_options_of_one_rank(work, rank, option, words):
    work.ranks_refused(3, f"rank {rank}: ", *words, different={rank: f'"$@" {option}'})


def test_options_without_effect_may_differ(work, tmp_path):
    threads = "--threads 2" if ON_CPU else ""
    work.run_ranks(2, different={1: f'"$@" {threads} --peak-tflops 3'}, output=tmp_path, steps=1, save="off")


@pytest.mark.parametrize("field, value", [("rope_theta", 20000.0), ("intermediate_size", 160), ("rms_norm_eps", 1e-6)])
def test_configuration_of_one_rank(work, field, value):
    config = json.loads((work.folder / "config.json").read_text())
    other = work.folder / f"{field}.json"
    other.write_text(json.dumps({**config, field: value}))
    work.ranks_refused(3, "rank 2: ", f"config.json: {field}", different={2: f'"$@" --config {other}'})


def test_data_of_one_rank(work):
    """As many shards of the same name, other tokens in them in number."""
    other = folder_besides(work, "other")
    work.write("../other/train_000.bin", documents(np.random.default_rng(5), 20_001))
    work.ranks_refused(2, "rank 1: ", "--train-data: fingerprint is ", different={1: f'"$@" --train-data "{other}/train_*.bin"'})
    work.write("../other/val_000.bin", documents(np.random.default_rng(5), 11 * T))
    work.ranks_refused(2, "rank 1: ", "--val-data: fingerprint is ", val_data=work.data / "val_*.bin",
                       different={1: f'"$@" --val-data "{other}/val_*.bin"'})  # fmt: skip


def test_precision_of_one_rank(work):
    other = program("bf16")
    line = f'shift; {other} "$@"'
    work.ranks_refused(3, "rank 1: precision is bf16, on rank 0 it is fp32", different={1: line})


def test_version_of_one_rank(work):
    """A build of the same sources whose version was overwritten."""
    build = work.folder / "build"
    build.mkdir()
    shutil.copy(program("fp32"), build)
    library = (BUILDS["fp32"] / "libllmc.so").read_bytes()
    version = re.search(r'LLMC_VERSION "(\d\.\d\.\d)"', (llmc.ROOT / "llmc/base/version.h").read_text()).group(1)
    assert library.count(version.encode()) >= 1
    (build / "libllmc.so").write_bytes(library.replace(version.encode(), b"9.8.7"))
    line = f'shift; {build}/train_llama3 "$@"'
    work.ranks_refused(3, f"rank 2: version is 9.8.7, on rank 0 it is {version}", different={2: line})


def test_weights_of_one_rank(work, tmp_path):
    """The folder of --init-from has the same name and configuration on each machine, and other weights on one."""
    work.run(steps=1, output=tmp_path / "a", precision="fp32")
    work.run(steps=2, output=tmp_path / "b", precision="fp32")
    there = tmp_path / "there"
    line = f'unshare -m bash -c "mount --bind {tmp_path}/b/checkpoints/step_00000002 {there} && exec \\"\\$@\\"" bash "$@"'
    shutil.copytree(tmp_path / "a/checkpoint/", there)
    if os.system("unshare -m true 2>/dev/null") != 0:
        pytest.skip("this system forbids mount namespaces (unshare -m)")
    work.ranks_refused(2, "rank 1: weights to begin with: ", "has checksum", code=1, init_from=there, config=None, different={1: line})


# ---- numbers of ranks that do not fit


@pytest.mark.parametrize(
    "count, changes, words",
    [
        (3, {"tokens_per_step": 12 * T, "batch_size": 5}, ["--tokens-per-step 384", "--batch-size 5", "3 ranks", "480"]),
        (2, {"tokens_per_step": 12 * T, "batch_size": 4}, ["--tokens-per-step 384", "--batch-size 4", "2 ranks", "256"]),
        (3, {"tokens_per_step": 12 * T, "batch_size": 2, "grad_accum": 3}, ["--grad-accum 3", "needs 2"]),
        (4, {"shard_group": 3}, ["--shard-group 3", "number of ranks, 4"]),
        (2, {"shard_group": 2, "zero": 0}, ["--shard-group 2", "--zero 0"]),
        (2, {"eval_only": True, "config": None, "init_from": ".", "val_data": "y"}, ["--eval-only", "one rank", "2"]),
        (2, {"cuda_graph": "on"}, ["--cuda-graph on", "one rank", "2"]),
        (2, {"train_data": "/nowhere/*.bin"}, ["--train-data", "/nowhere"]),
        (3, {"batch_size": "abc"}, ["--batch-size", "'abc'"]),
    ],
)
def test_refused_by_all(work, count, changes, words):
    err = work.ranks_refused(count, *words, **changes)
    assert "rank 0: " not in err and "rank 1: " not in err  # nothing that one rank alone has


def test_the_output_folder_is_rank_0s(work):
    """A second run in the folder, and one that is there already."""
    process = ranks.start([program("fp32"), *work.arguments(steps=100_000)], ranks=2)
    try:
        wait_until((work.output / "log.jsonl").exists, "the log", process=process)
        _, err = work.run_ranks(2, code=2)
        assert err.startswith("train_llama3: ") and err.count("\n") == 1 and "locked by" in err
    finally:
        ranks.kill(process)
    _, err = work.run_ranks(2, code=2)
    assert err.count("\n") == 1 and "--resume auto goes on" in err
    shutil.rmtree(work.output)


# ---- while it trains


def test_a_shard_that_one_rank_cannot_read_any_more(work, tmp_path):
    """Rank 1 has the data in a folder of its own, and they shrink."""
    other = folder_besides(work, "shrinking")
    output = tmp_path / "run"
    arguments = work.arguments(steps=1_000_000, output=output, save_every=5)
    lines = f'[ "$OMPI_COMM_WORLD_RANK" = 1 ] && exec "$@" --train-data "{other}/train_*.bin"; exec "$@"'
    process = ranks.start(["bash", "-c", lines, "bash", program("fp32"), *arguments], ranks=3)
    try:
        wait_until((output / "checkpoints/latest").exists, "a checkpoint", process=process)
        os.truncate(other / "train_000.bin", 1000)
        out, err = process.communicate(timeout=600)
    finally:
        ranks.kill(process)
    assert process.returncode in (1, 2) and err.count("\n") == 1, (process.returncode, err)
    assert err.startswith("train_llama3: rank 1: ") and "shrinking/train_000.bin" in err
    assert (output / "checkpoint/trainer/state.json").exists() and not list(output.glob("checkpoints/*.tmp"))


def spoilt(work, output, count, spoil, rank, step, code, **changes):
    """A run whose weights are spoilt on one rank; its log and stderr."""
    script = llmc.ROOT / "tests/support" / "trainer_rank.py"
    arguments = work.arguments(**{"steps": 8, "checksum_every": 1, "output": output, **changes})
    done = ranks.run([sys.executable, script, spoil, rank, step, *arguments], ranks=count, timeout=600)
    print(done.stdout, done.stderr)
    assert done.returncode == code, done.stderr
    return work.log(output), done.stderr


@pytest.mark.parametrize("zero", [0, 1, 2])
def test_not_finite_on_one_rank(work, tmp_path, zero):
    """Row 25: weights of one rank are NaN for one step: all skip it and stay the same, and the log names the batch."""
    log, err = spoilt(work, tmp_path / "run", 3, "nan", 1, 4, 0, zero=zero)
    assert err == ""
    assert [line for line in log if "skipped" in line] == [{"step": 4, "skipped": "loss is nan", "batch": 3, "skipped_steps": 1}]
    losses = {line["step"]: line["loss"] for line in log if "loss" in line}
    assert list(losses) == list(range(1, 9)) and losses[4] is None
    assert all(math.isfinite(loss) for step, loss in losses.items() if step != 4) and losses[8] < losses[1]


@pytest.mark.parametrize("count, rank, named", [(3, 2, 2), (3, 0, 0), (2, 1, 1)])
def test_a_flipped_bit_is_found(work, tmp_path, count, rank, named):
    """Row 32: the rank whose weights differ from most ranks' is named, with the tensor; nothing of it is saved."""
    log, err = spoilt(work, tmp_path / "run", count, "flip", rank, 3, 1, save_every=1)
    assert err.count("\n") == 1 and f"rank {named}: step 3: weights: model.layers.0.self_attn.q_proj.weight has checksum" in err
    assert [line["step"] for line in log if "weights_checksum" in line] == [1, 2]
    assert [line["step"] for line in log if "stopped" in line] == [3]
    assert sorted(p.name for p in (tmp_path / "run/checkpoints").glob("step_*")) == ["step_00000001", "step_00000002"]
