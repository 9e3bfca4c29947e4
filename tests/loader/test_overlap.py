"""Training and validation data that have a file in common; how much of the validation data is scored, and where that is said."""

import os
import shutil
from ctypes import POINTER, byref, c_char_p, c_int, c_void_p

import numpy as np
import pytest

from hostlib import INPUT, LoaderSpec, call, expect_refusal, fresh_random, library, path_bytes, write_shard
from trainrun import ON_CPU, ROWS, T, Workplace, read_log

library.loader_count_duplicates.argtypes = [c_void_p, POINTER(c_char_p), POINTER(c_char_p)]
library.loader_count_duplicates.restype = c_int


def opened(pattern):
    loader = c_void_p()
    spec = LoaderSpec(B=1, T=T, grad_accum=1, rank=0, world=1, seed=1, document_mask=False, shuffle=True)
    call("loader_open", byref(loader), path_bytes(pattern), byref(spec), 1000, None)
    return loader


def overlap(train, val, words=None):
    loaders = opened(train), opened(val)
    if words:
        expect_refusal(INPUT, words, "loader_refuse_overlap", *loaders)
    else:
        call("loader_refuse_overlap", *loaders)
    for loader in loaders:
        library.loader_close(loader)


@pytest.mark.checked
@pytest.mark.parametrize("how", ["same", "symbolic", "hard", "copy"])
def test_a_file_in_both(tmp_path, how):
    rng = fresh_random()
    for i in range(3):
        write_shard(tmp_path / f"train_{i}.bin", rng.integers(0, 1000, 90_000))
    original, val = tmp_path / "train_1.bin", tmp_path / "val_0.bin"
    write_shard(val, rng.integers(0, 1000, 90_000))
    overlap(tmp_path / "train_*.bin", tmp_path / "val_*.bin")
    make = {"same": lambda *_: None, "symbolic": os.symlink, "hard": os.link, "copy": shutil.copy}[how]
    make(original, tmp_path / "val_1.bin")
    if how == "same":
        overlap(tmp_path / "*.bin", tmp_path / "val_*.bin", [val, "--val-data and --train-data", "train_*.bin"])
    else:
        words = [tmp_path / "val_1.bin", *([f"as {original}", "same content"] if how == "copy" else [])]
        overlap(tmp_path / "train_*.bin", tmp_path / "val_*.bin", words)


@pytest.mark.checked
@pytest.mark.parametrize("place", [0, 40_000, -1])
def test_files_that_differ(tmp_path, place):
    """In the first token or the last they are others; in the middle of what is compared, alike at both ends, they are not told
    apart: a copy is refused by what is cheap to read."""
    tokens = fresh_random().integers(0, 999, 80_000)
    write_shard(tmp_path / "a.bin", tokens)
    tokens[place] += 1
    write_shard(tmp_path / "b.bin", tokens)
    overlap(tmp_path / "a.bin", tmp_path / "b.bin", ["same content"] if place == 40_000 else None)


def test_twins_in_a_set(tmp_path):
    write_shard(tmp_path / "a.bin", np.zeros(100))
    write_shard(tmp_path / "b.bin", np.zeros(100))
    os.symlink("a.bin", tmp_path / "c.bin")
    os.link(tmp_path / "a.bin", tmp_path / "d.bin")
    loader, first, second = opened(tmp_path / "*.bin"), c_char_p(), c_char_p()
    assert library.loader_count_duplicates(loader, byref(first), byref(second)) == 2
    assert {first.value, second.value} < {path_bytes(tmp_path / f"{x}.bin") for x in "acd"}
    library.loader_close(loader)


# ---- the program


@pytest.fixture
def work(tmp_path):
    """Ten windows of validation data, in micro-batches of four."""
    return Workplace(tmp_path)


def test_a_pattern_that_has_the_validation_data_too(work):
    both = {"train_data": work.data / "*.bin", "val_data": work.data / "val_*.bin"}
    work.refused("val_000.bin", "--val-data and --train-data", "'DIR/train_*.bin'", **both)
    if ON_CPU:
        work.ranks_refused(2, "val_000.bin", "--val-data and --train-data", **both)
    os.symlink("train_000.bin", work.data / "train_001.bin")
    out, err = work.run(steps=1)
    assert err == "" and "1 file of --train-data under another name" in out and "train_001.bin" in out


def test_a_run_says_once_what_it_validates_on(work):
    val = {"val_data": work.data / "val_*.bin", "steps": 2, "eval_every": 1}
    out, _ = work.run(**val, eval_batches=1, output=work.folder / "part")
    assert out.count("validation on 4 of 10 windows, always the same (--eval-batches 1)\n") == 1
    out, _ = work.run(**val, eval_batches=9, output=work.folder / "whole_batches")
    assert "validation on 8 of 10 windows" in out
    out, _ = work.run(**val, batch_size=5, output=work.folder / "all")
    assert "validation on" not in out and "step 2: validation loss" in out


NOT_TRAINED = {name: None for name in ("config", "train_data", "steps", "warmup_steps", "lr")}


def test_eval_only_validates_on_all_and_logs_it(work, tmp_path):
    work.run(steps=3, precision="fp32")
    model, out = work.output / "checkpoint", tmp_path / "results"
    options = NOT_TRAINED | {"eval_only": True, "init_from": model, "val_data": work.data / "val_*.bin", "precision": "fp32"}
    losses = []
    for rows in (1, 3, ROWS, 16):
        said, _ = work.run(**options, batch_size=rows, output=out, overwrite=True)
        assert "validation data: all 10 windows of 32 tokens\n" in said
        first, last = read_log(out / "log.jsonl")
        assert first == {"step": 3, "evaluated": str(model)} and last["step"] == 3
        assert f"validation loss {last['val_loss']:.4f}\n" in said
        losses.append(last["val_loss"])
    assert np.allclose(losses, losses[0], rtol=1e-5)
    said, _ = work.run(**options, eval_batches=1, output=None)
    assert "validation data: 4 of 10 windows of 32 tokens (--eval-batches 1)\n" in said
    assert f"validation loss {losses[0]:.4f}\n" not in said


def test_eval_only_leaves_a_run_alone(work, tmp_path):
    """Nor is what it found earlier replaced unasked."""
    work.run(steps=1)
    options = NOT_TRAINED | {"eval_only": True, "init_from": work.output / "checkpoint", "val_data": work.data / "val_*.bin"}
    work.refused("--output", "log.jsonl", "a folder of its own", **options)
    work.refused("--output", "trainer_options.json", **options, overwrite=True)
    work.run(**options, output=tmp_path / "results")
    before = (tmp_path / "results" / "log.jsonl").read_bytes()
    work.refused("log.jsonl", "--overwrite", **options, output=tmp_path / "results")
    assert (tmp_path / "results" / "log.jsonl").read_bytes() == before
    work.refused("nothing_*.bin", **options | {"val_data": work.data / "nothing_*.bin"}, output=tmp_path / "none")
    assert not (tmp_path / "none").exists()
