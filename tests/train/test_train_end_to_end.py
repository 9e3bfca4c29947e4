"""train_llama3 from its command line to a checkpoint that transformers opens, and what it does when things go wrong."""

import hashlib
import json
import math
import os
import random
import pty
import select
import shutil
import signal
import struct
import fcntl
import termios
from ctypes import byref, c_int, c_void_p

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import compare
import llmc
from model import RunShape
from hostlib import Error, LlamaConfig, path_bytes
from trainrun import BOS, BUILDS, CONFIG, EOS, ON_CPU, ROWS, T, VOCAB, Workplace, documents, losses, read_log, snapshot
from waiting import wait_until

PRECISIONS = list(BUILDS)


@pytest.fixture
def work(tmp_path):
    return Workplace(tmp_path)


@pytest.fixture(scope="module", params=PRECISIONS)
def trained(request, tmp_path_factory):
    """A run of 60 steps in each precision, its workplace, its precision and what it printed."""
    work = Workplace(tmp_path_factory.mktemp("trained"))
    out, err = work.run(
        precision=request.param, steps=60, val_data=work.data / "val_*.bin", eval_every=20, eval_batches=100, sample_every=30,
        sample_tokens=20, document_mask="off", batch_size=2, grad_accum=2, log_every=20, seed=5,
    )  # fmt: skip
    assert err == ""
    return work, request.param, out


def opened(folder, dtype):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


# ---- a run that goes well


def test_log(trained):
    work, _, _ = trained
    log = work.log()
    steps = [line for line in log if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, 61))
    for line in steps:
        assert set(line) == {"step", "loss", "lr", "grad_norm", "tokens", "tokens_per_second"}
        assert line["tokens"] == line["step"] * ROWS * T and line["grad_norm"] > 0 and line["tokens_per_second"] > 0
    assert steps[0]["lr"] < 3e-3 and steps[-1]["lr"] == pytest.approx(3e-5)
    assert [line["step"] for line in log if "val_loss" in line] == [20, 40, 60]
    assert [line["step"] for line in log if "sample" in line] == [30, 60]


def test_loss_falls(trained):
    work, _, _ = trained
    log = work.log()
    assert losses(log)[0] == pytest.approx(math.log(VOCAB), abs=0.1)  # a fresh model knows nothing
    assert np.mean(losses(log)[-5:]) < losses(log)[0] - 1
    assert [line["val_loss"] for line in log if "val_loss" in line][-1] < losses(log)[0] - 1


def test_printed(trained):
    work, _, out = trained
    for words in ("parameters", "epochs", "step 20/60 | loss ", "lr ", "norm ", "tok/s", "left", "unigram model: 5.4321", "sample"):
        assert words in out, words
    assert "\x1b" not in out and "\r" not in out  # no terminal
    assert str(work.output / "checkpoint") in out


def test_checkpoint_opens(trained):
    """AutoModel opens it; the loss that transformers finds over the validation windows is the last one that the run logged."""
    work, precision, _ = trained
    folder = work.output / "checkpoint"
    assert sorted(p.name for p in folder.iterdir()) == [
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "trainer",
    ]  # fmt: skip
    assert sorted(p.name for p in work.output.iterdir()) == [
        "checkpoint", "checkpoints", "log.jsonl", "meta.json", "tokenizer.json", "tokenizer_config.json", "trainer_options.json",
    ]  # fmt: skip
    assert (folder / "tokenizer.json").read_bytes() == (work.data / "tokenizer.json").read_bytes()
    weights = load_file(folder / "model.safetensors")
    assert all(w.dtype == (torch.float32 if precision == "fp32" else torch.bfloat16) for w in weights.values())
    model = opened(folder, torch.float32)
    assert (model.config.bos_token_id, model.config.eos_token_id) == (BOS, EOS)
    assert set(model.state_dict()) == set(weights)

    tokens = np.fromfile(work.data / "val_000.bin", "<u2", offset=256).astype(np.int64)
    windows = torch.tensor(np.stack([tokens[w * T : w * T + T + 1] for w in range((len(tokens) - 1) // T)]))
    with torch.no_grad():
        logits = model(windows[:, :-1]).logits
    reference = torch.nn.functional.cross_entropy(logits.reshape(-1, VOCAB), windows[:, 1:].reshape(-1)).item()
    logged = [line["val_loss"] for line in work.log() if "val_loss" in line][-1]
    # bf16: relative rounding errors of 2^-9 in each of some ten operations on logits, averaged over 320 tokens
    assert logged == pytest.approx(reference, rel=1e-5 if precision == "fp32" else 3e-3)


def test_tokenizer_of_checkpoint(trained):
    work, _, _ = trained
    tokenizer = AutoTokenizer.from_pretrained(work.output / "checkpoint")
    assert tokenizer.decode(tokenizer("to be", add_special_tokens=False)["input_ids"]) == "to be"
    assert tokenizer.bos_token_id == BOS


def our_logits(precision, folder, tokens):
    c = llmc.load(precision).c
    config, err, model = LlamaConfig(), Error(), c_void_p()
    assert c.llama_config_read(byref(config), path_bytes(folder / "config.json"), byref(err)) == 0, err.message
    shape = RunShape(B=1, T=T, micro_batches=1)
    assert c.llama3_create(byref(model), byref(config), byref(shape), byref(err)) == 0, err.message
    try:
        assert c.checkpoint_read_weights(path_bytes(folder), model, byref(err)) == 0, err.message
        logits = torch.full((VOCAB + 8,), math.nan)
        ids = np.array(tokens, np.int32)
        c.llama3_logits(model, c_void_p(ids.ctypes.data), c_int(len(ids)), c_void_p(logits.data_ptr()))
        assert bool(logits[VOCAB:].isnan().all())  # the padding of the vocabulary stays inside
        return logits[:VOCAB].clone()
    finally:
        c.llama3_destroy(model)


@pytest.mark.parametrize("length", [1, 7, T])
def test_same_logits(trained, length):
    """The checkpoint read back by us and by transformers, by the rule of compare.py."""
    work, precision, _ = trained
    folder = work.output / "checkpoint"
    tokens = documents(np.random.default_rng(random.randrange(2**32)), length + 1)[1:]
    ids = torch.tensor(tokens)[None]
    with torch.no_grad():
        exact = opened(folder, torch.float64)(ids).logits[0, -1]
        torch_bf16 = opened(folder, torch.bfloat16)(ids).logits[0, -1] if precision == "bf16" else None
    compare.check("logits", our_logits(precision, folder, tokens), exact, torch_bf16)


def test_checkpoint_comes_back(trained, tmp_path):
    """--init-from with learning rate 0: the loss goes on where it was, and the weights come out bit for bit."""
    work, precision, _ = trained
    again = Workplace(tmp_path)
    start = work.output / "checkpoint"
    again.run(precision=precision, config=None, init_from=start, steps=1, lr="0", batch_size=2, grad_accum=2, document_mask="off")
    assert losses(again.log())[0] < losses(work.log())[0] - 1
    old, new = (load_file(folder / "model.safetensors") for folder in (start, again.output / "checkpoint"))
    assert old.keys() == new.keys() and all(torch.equal(old[name], new[name]) for name in old)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_same_seed_same_bits(work, precision):
    """Two runs are equal in all but their speed, for any number of threads; another seed gives another run. (With AVX-512 the
    number of threads may change bits of larger products than these.)"""

    def run(seed, **more):
        work.run(precision=precision, steps=4, seed=seed, overwrite=True, sample_every=2, sample_tokens=12, **more)
        log = [{k: v for k, v in line.items() if k != "tokens_per_second"} for line in work.log() if "checkpoint" not in line]
        return hashlib.sha256((work.output / "checkpoint" / "model.safetensors").read_bytes()).hexdigest(), log

    first = run(3)
    assert run(3, **({"threads": 3} if ON_CPU else {})) == first
    other = run(4)
    assert other[0] != first[0] and losses(other[1]) != losses(first[1])


@pytest.mark.parametrize("changes", [{"batch_size": 2, "grad_accum": 2}, {"batch_size": 1, "tokens_per_step": 128}, {"recompute": "block"}])
def test_same_steps_in_other_pieces(work, changes):
    """Micro-batches and recomputation change the order of sums at most."""
    work.run(precision="fp32", steps=5, save="off")
    whole = losses(work.log())
    work.run(precision="fp32", steps=5, save="off", overwrite=True, **changes)
    assert losses(work.log()) == pytest.approx(whole, rel=1e-5)


def test_tied_embeddings(work):
    work.write_config(tie_word_embeddings=True)
    work.run(steps=3)
    model = opened(work.output / "checkpoint", torch.float32)
    assert "lm_head.weight" not in load_file(work.output / "checkpoint" / "model.safetensors")
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()


# ---- output folder


def test_folder_that_holds_a_run(work):
    work.run(steps=2)
    work.refused("--output", work.output, "--overwrite")
    before, weights = snapshot(work.output), work.output / "checkpoint" / "model.safetensors"
    old = weights.read_bytes()
    work.run(steps=3, overwrite=True)
    assert len(losses(work.log())) == 3 and weights.read_bytes() != old
    assert sorted(snapshot(work.output)) == sorted(p.replace("step_00000002", "step_00000003") for p in before)


def test_bad_input_leaves_the_old_run_alone(work):
    work.run(steps=2)
    work.write("train_001.bin", np.full(100, 5), magic=b"L3SHARX\0")
    work.refused("train_001.bin", "magic", more=["--overwrite"])


@pytest.mark.parametrize("folder", ["/proc/llmc_run", "/dev/null", "/dev/null/run"])
def test_folder_that_cannot_be_written(work, folder):  # row 22
    work.refused("--output", folder, output=folder)


# ---- rows 9 to 13: configuration and data


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"num_attention_heads": 5}, ["config.json", "num_"]),
        ({"hidden_size": None}, ["config.json", "hidden_size"]),
        ({"head_dim": 24}, ["config.json", "head_dim", "24"]),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 8.0}}, ["config.json", "yarn"]),
        ({"architectures": ["MistralForCausalLM"], "model_type": "mistral"}, ["config.json", "istral"]),
        ({"attention_bias": True}, ["config.json", "attention_bias"]),
        ({"vocab_size": 200}, ["train_000.bin", "200", "258"]),
        ({"max_position_embeddings": 16}, ["max_position_embeddings", "16", "32"]),
    ],
)
def test_bad_config(work, changes, words):  # row 9
    work.write_config(**changes)
    work.refused(*words)


def test_no_config(work):
    work.refused("nowhere.json", config=work.folder / "nowhere.json")


@pytest.mark.parametrize(
    "shard, words",
    [
        (lambda b: b[:-2], ["train_000.bin"]),  # row 10
        (lambda b: b + b"\0\0", ["train_000.bin"]),
        (lambda b: b[:100], ["train_000.bin"]),
        (lambda b: b"", ["train_000.bin"]),
        (lambda b: b"GPT2" + b[4:], ["train_000.bin", "magic"]),  # row 11
        (lambda b: b[:8] + struct.pack("<I", 2) + b[12:], ["train_000.bin", "version", "2", "1"]),
        (lambda b: b[:12] + struct.pack(">I", 0x01020304) + b[16:], ["train_000.bin", "byte order"]),
        (lambda b: b[:16] + struct.pack("<I", 8) + b[20:], ["train_000.bin", "8", "16"]),
        (lambda b: b[:40] + bytes(32) + b[72:], ["train_000.bin", "tokenizer"]),  # another tokenizer's
    ],
)
def test_bad_shard(work, shard, words):
    path = work.data / "train_000.bin"
    path.write_bytes(shard(path.read_bytes()))
    work.refused(*words)


def test_id_beyond_the_vocabulary(work):  # row 12
    """Found when the window is read: the run ends, and what it had written stays."""
    tokens = documents(np.random.default_rng(1), 20_000)
    tokens[::T] = 259
    work.write("train_000.bin", tokens)
    _, err = work.run(code=2)
    assert err.count("\n") == 1 and "train_000.bin" in err and "259" in err and "258" in err
    assert not (work.output / "checkpoint").exists()


def test_no_shards(work):  # row 13
    work.refused("--train-data", "nothing_*.bin", train_data=work.data / "nothing_*.bin")
    work.refused("--val-data", "nothing_*.bin", val_data=work.data / "nothing_*.bin")


def test_short_shard(work):  # row 13
    work.write("train_001.bin", np.full(T, 5))
    work.refused("train_001.bin", T)


def test_other_tokenizer(work):
    other = work.folder / "other.json"
    other.write_bytes((work.data / "tokenizer.json").read_bytes() + b"\n")
    work.refused("tokenizer", tokenizer=other)
    work.refused("nowhere.json", tokenizer=work.folder / "nowhere.json")
    other.write_text("{}")
    work.refused("other.json", tokenizer=other)


def wait_for_steps(work, process, steps):
    path = work.output / "log.jsonl"
    wait_until(lambda: path.exists() and path.read_text().count("\n") >= steps, f"{steps} steps", process=process)


def test_more_memory_than_there_is(work):  # row 30
    """What is needed, what is free, and the options that need less; nothing is written."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if ON_CPU else 256 << 30  # no GPU has four times that
    a_row = T * (4 * CONFIG["hidden_size"] + 3 * CONFIG["intermediate_size"]) * CONFIG["num_hidden_layers"]  # it needs four times that
    err = work.refused("out of memory: ", " MiB needed, ", " MiB free; ", "--batch-size", "--seq-len", "--recompute block", code=1,
                       batch_size=total // a_row)  # fmt: skip
    needed, free = (float(word.split()[0]) for word in err.split("out of memory: ")[1].split("; ")[0].split(", "))
    assert needed > free > 0


def test_shard_that_shrinks(work):  # row 10
    process = work.start(steps=100_000, output=work.output)
    wait_for_steps(work, process, 3)
    os.truncate(work.data / "train_000.bin", 256 + 2 * T)
    err = process.communicate(timeout=600)[1].decode()
    assert process.returncode == 1, (process.returncode, err)
    assert err.count("\n") == 1 and "train_000.bin" in err
    assert len(work.log()) >= 3


# ---- --init-from


@pytest.fixture
def start(work):
    """A checkpoint to be spoilt: its folder and its tensors."""
    work.run(steps=1, output=work.folder / "start")
    folder = work.folder / "start" / "checkpoint"
    return folder, load_file(folder / "model.safetensors")


def test_init_from_spoilt(work, start):
    folder, weights = start
    name = "model.layers.1.mlp.down_proj.weight"

    def refused(tensors, *words):
        save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "model.safetensors")
        work.refused(*words, config=None, init_from=folder)

    refused({k: v for k, v in weights.items() if k != name}, "missing", name)
    refused({**weights, "model.extra.weight": torch.zeros(3)}, "model.extra.weight")
    refused({**weights, name: weights[name].T}, name, "64 x 128", "128 x 64")
    not_a_number = weights[name].clone()
    not_a_number[3, 5:7] = math.nan
    refused({**weights, name: not_a_number}, name, "2 of 8192", "not finite")
    (folder / "model.safetensors").write_bytes(b"\xff" * 4)
    work.refused("model.safetensors", config=None, init_from=folder)
    (folder / "model.safetensors").unlink()
    work.refused(folder, config=None, init_from=folder)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_init_from_other_type(work, start, dtype):
    """Weights of another type are taken, rounded to ours."""
    folder, weights = start
    converted = {k: (v.float() * (1 + torch.rand(v.shape) / 100)).to(dtype) for k, v in weights.items()}
    save_file(converted, folder / "model.safetensors")
    shutil.rmtree(folder / "trainer")  # whose checksums are of other weights
    work.run(config=None, init_from=folder, steps=1, lr="0")
    out = load_file(work.output / "checkpoint" / "model.safetensors")
    assert all(torch.equal(out[name], converted[name].to(torch.bfloat16)) for name in weights)


# ---- signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_saves(work, number):
    process = work.start(steps=100_000)
    wait_for_steps(work, process, 3)
    process.send_signal(number)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0 and err == b""
    steps = losses(work.log())
    assert 3 <= len(steps) < 100_000 and f"after {len(steps)} steps" in out.decode()
    opened(work.output / "checkpoint", torch.float32)


def test_second_signal_ends_at_once(work):
    process = work.start(steps=100_000)
    wait_for_steps(work, process, 1)
    os.kill(process.pid, signal.SIGSTOP)  # so that both are there before it can go on
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    os.kill(process.pid, signal.SIGCONT)
    process.communicate(timeout=600)
    assert process.returncode in (-signal.SIGINT, -signal.SIGTERM)
    assert not (work.output / "checkpoint").exists()


# ---- row 33: nowhere to write


def test_log_on_a_full_disk(work):
    """Files may have 4 times 1024 bytes (ulimit -f counts in those): the log is cut, training goes on, one line says so."""
    _, err = work.run(steps=80, save="off", tokenizer=small_tokenizer(work), limit_file_size=4)
    assert err.count("\n") == 1 and "log.jsonl" in err
    assert 3 <= len(work.log()) < 80


def small_tokenizer(work):
    """With a tokenizer.json of less than 4096 bytes, so that it can still be copied; returns its path."""
    folder = work.folder / "small"
    folder.mkdir()
    content = {"version": "1.0", "added_tokens": [], "normalizer": None, "pre_tokenizer": None, "post_processor": None,
               "decoder": {"type": "ByteLevel"}, "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}}  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(content))
    work.sha = hashlib.sha256((folder / "tokenizer.json").read_bytes()).digest()
    work.write("train_000.bin", documents(np.random.default_rng(2), 5_000))
    return folder / "tokenizer.json"


@pytest.mark.parametrize(
    "shell",
    ['"$@" 2>&-', '"$@" >&-', '"$@" <&- >&- 2>&-', '"$@" >/dev/full 2>/dev/full', '"$@" | true; exit ${PIPESTATUS[0]}'],
)
def test_streams_closed_or_full(work, shell):
    """Nothing that was meant for a closed stream lands in a file, and training goes on."""
    _, err = work.run(steps=12, val_data=work.data / "val_*.bin", log_every=1, eval_every=4, sample_every=6, shell=shell)
    assert err == "" and len(losses(work.log())) == 12
    opened(work.output / "checkpoint", torch.float32)


def test_log_in_the_place_of_a_closed_stream(work):
    """Files get the lowest free number; with two streams closed that would be the shard's 0 and the log's 1, and what is
    printed to 1 would stand in the log."""
    work.run(steps=3, log_every=1, save="off", checksum_every=0, shell='"$@" <&- >&-')
    assert [line["step"] for line in work.log()] == [1, 2, 3]


def test_message_to_a_closed_stream_is_lost(work):
    work.run("--nope", shell='"$@" 2>&-', code=2)


def test_checkpoint_on_a_full_disk(work):
    """Files may have 64 KiB: the log fits and the weights don't. The checkpoint that was there stays, nothing else does."""
    work.run(steps=2)
    before = snapshot(work.output / "checkpoint")
    _, err = work.run(steps=3, overwrite=True, code=1, limit_file_size=64)
    assert err.count("\n") == 1 and "model.safetensors" in err
    assert snapshot(work.output / "checkpoint") == before
    assert not any(p.name.endswith(".tmp") for p in work.output.rglob("*"))
    assert len(losses(work.log())) == 3


def test_leftovers_of_a_killed_save(work):
    """A temporary folder that a killed run left is cleaned away by the next save."""
    leftover = work.output / "checkpoints" / "step_00000007.tmp"
    leftover.mkdir(parents=True)
    (leftover / "model.safetensors").write_text("half")
    work.run(steps=1)
    assert not leftover.exists()
    opened(work.output / "checkpoint", torch.float32)


@pytest.mark.parametrize("columns", [1, 20, 200])
def test_on_a_terminal(work, columns):
    """The line is redrawn in place and never wider than the terminal, however narrow; no number of steps scrolls it away."""
    pid, master = pty.fork()
    if pid == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 20, columns, 0, 0))
        command = [str(BUILDS["bf16"] / "train_llama3"), *work.arguments(steps=8, save="off")]
        os.execv(command[0], command)
    shown = b""
    while select.select([master], [], [], 60)[0]:
        try:
            piece = os.read(master, 1 << 16)
        except OSError:  # the other end is closed
            break
        shown += piece
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, shown
    drawn = [part.partition(b"\r\n")[0] for part in shown.split(b"\x1b[J")[1:]]
    assert all(len(line) < columns for line in drawn)
    assert len(losses(read_log(work.output / "log.jsonl"))) == 8
    if columns == 200:
        assert drawn and drawn[-1].startswith(b"step 8/8 | loss ")
