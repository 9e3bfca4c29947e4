"""Options of train_llama3: --help lists them all, and a bad one gets exit code 2 and one line, and writes nothing."""

import ctypes
import json
import re
import subprocess
from pathlib import Path

import pytest

from hostlib import library
from trainrun import Workplace, program

# name: (value's name in --help, default as --help tells it, unit as --help tells it,
#        what another value means for a run that is resumed: "result" has to be the same, "content": the file's content has to)
OPTIONS = {
    "config": ("FILE", None, None, "content"),
    "init-from": ("DIR", None, None, "start"),
    "recipe": ("FILE", None, None, "content"),
    "dry-run": (None, None, None, "none"),
    "ranks": ("N", "those that it is started on", None, "none"),
    "task": ("pretrain|sft|dpo|reward", "pretrain", None, "result"),
    "skip-long": (None, None, None, "result"),
    "dpo-loss": ("sigmoid|ipo", "sigmoid", None, "result"),
    "dpo-beta": ("X", "0.1", None, "result"),
    "label-smoothing": ("X", "0", None, "result"),
    "dpo-nll": ("X", "0.2", None, "result"),
    "dpo-nll-sum": (None, None, None, "result"),
    "reference-only": (None, None, None, "none"),
    "train-data": ("GLOB", None, None, "content"),
    "val-data": ("GLOB", None, None, "none"),
    "tokenizer": ("FILE", "tokenizer.json beside the shards", None, "content"),
    "document-mask": ("on|off", "on", None, "result"),
    "output": ("DIR", None, None, "none"),
    "overwrite": (None, None, None, "none"),
    "save": ("on|off", "on", None, "none"),
    "save-every": ("N", "0", "updates", "none"),
    "keep-last": ("N", "3", "checkpoints", "none"),
    "keep-every": ("N", "0", "updates", "none"),
    "resume": ("never|auto|DIR", "never", None, "none"),
    "accept-changes": (None, None, None, "none"),
    "steps": ("N", "1000; other tasks than pretrain: --epochs", "updates", "none"),
    "epochs": ("X", "sft 2, dpo and reward 1, pretrain --steps", None, "none"),
    "batch-size": ("N", "8", "rows", "result"),
    "seq-len": ("N", "256", "tokens", "result"),
    "grad-accum": ("N", "1", "micro-batches", "result"),
    "tokens-per-step": ("N", "what --grad-accum gives", "tokens", "result"),
    "lr": ("X", "3e-4; other tasks than pretrain: 1e-5", None, "result"),
    "schedule": ("cosine|linear", "cosine", None, "result"),
    "warmup-steps": ("N", "a tenth of --schedule-steps, at most 2000", "updates", "result"),
    "schedule-steps": ("N", "--steps of the run's first start", "updates", "result"),
    "final-lr-fraction": ("X", "0.01", "of --lr", "result"),
    "weight-decay": ("X", "0.1", "times learning rate", "result"),
    "beta1": ("X", "0.9", None, "result"),
    "beta2": ("X", "0.95", None, "result"),
    "eps": ("X", "1e-8", None, "result"),
    "grad-clip": ("X", "1", "L2 norm", "result"),
    "train-only": ("PATTERNS", None, None, "result"),
    "lora-rank": ("N", "0", None, "result"),
    "lora-alpha": ("X", "twice --lora-rank", None, "result"),
    "lora-targets": ("LIST", None, None, "result"),
    "average-from": ("N", "0", "updates", "result"),
    "average-every": ("N", "1", "updates", "result"),
    "eval-every": ("N", "100", "updates", "none"),
    "eval-batches": ("N", "20", "micro-batches", "none"),
    "eval-tasks": ("GLOB", None, None, "none"),
    "eval-tasks-every": ("N", "0", "updates", "none"),
    "eval-only": (None, None, None, "none"),
    "sample-every": ("N", "0", "updates", "none"),
    "sample-tokens": ("N", "64", "tokens", "none"),
    "temperature": ("X", "0.8", None, "none"),
    "log-every": ("N", "10", "updates", "none"),
    "max-skipped": ("N", "10", "updates", "none"),
    "spike-deviations": ("X", "6", "standard deviations", "result"),
    "on-spike": ("log|skip|rollback", "log", None, "result"),
    "checksum-every": ("N", "100", "updates", "none"),
    "seed": ("N", "42", None, "result"),
    "moments": ("fp32|bf16", "fp32", None, "result"),
    "master-weights": ("fp32|none", "fp32", None, "result"),
    "recompute": ("none|cheap|block", "none", None, "none"),
    "activations": ("device|host", "device", None, "none"),
    "optimizer-state": ("device|host", "device", None, "none"),
    "attention": ("own|cudnn|cudnn-nondeterministic", "own", None, "result"),
    "cuda-graph": ("on|off", "off", None, "none"),
    "matmul-algorithms": ("FILE", None, None, "result"),
    "threads": ("N", "0", "threads", "none"),
    "peak-tflops": ("X", "0", "TFLOP/s", "none"),
    "zero": ("0|1|2", "1", None, "none"),
    "shard-group": ("N", "0", "ranks", "none"),
    "grad-reduce": ("fp32|bf16", "fp32", None, "result"),
    "overlap": ("on|off", "on", None, "none"),
    "transport": ("auto|nccl|mpi", "auto", None, "none"),
    "rank-timeout": ("N", "60", "seconds", "none"),
    "trace": ("FILE", None, None, "none"),
    "trace-steps": ("A:B", "2:4", None, "none"),
}


library.options_effect.restype = ctypes.c_char_p


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return Workplace(tmp_path_factory.mktemp("options"))


def run(*arguments):
    return subprocess.run([program(), *arguments], capture_output=True, text=True, timeout=600)


def version():
    header = Path(__file__).resolve().parents[2] / "llmc/base/version.h"
    return re.search(r'LLMC_VERSION "([^"]+)"', header.read_text())[1]


def test_help():
    result = run("--help")
    assert result.returncode == 0 and result.stderr == ""
    text = " ".join(result.stdout.split())
    listed = {word[2:].partition("=")[0] for word in text.split() if word.startswith("--") and "=" in word}
    for name, (value, default, unit, _) in OPTIONS.items():
        assert f" --{name}{'=' + value if value else ''} " in text, name
        described = text.partition(f" --{name}{'=' + value if value else ''} ")[2][:300]
        ending = [part for part in (unit, f"default: {default}" if default else None) if part]
        assert not ending or f"({'; '.join(ending)})" in described, (name, described)
    assert listed <= set(OPTIONS), f"not known to this test: {listed - set(OPTIONS)}"
    for words in ("standard deviation 0.02", "sqrt(2 * layers)", f"train_llama3 {version()}:"):  # the initialisation
        assert words in text


@pytest.mark.parametrize("name", OPTIONS)
def test_effect_on_a_resumed_run(name):
    """Each row of the table says what resuming has to compare; a new row is thought about here first."""
    assert library.options_effect(name.encode()).decode() == OPTIONS[name][3]


def test_saved_options(work, tmp_path):
    """Every option stands in trainer_options.json, with its value."""
    work.run(output=tmp_path, steps=2, save="off", beta2="0.99", recompute="block", seed=7, document_mask="off")
    saved = json.loads((tmp_path / "trainer_options.json").read_text())
    assert set(saved) == set(OPTIONS)
    expected = {
        "steps": 2, "save": False, "beta2": 0.99, "recompute": "block", "seed": 7, "document-mask": False, "lr": 3e-3,
        "tokens-per-step": 128, "grad-accum": 1, "output": str(tmp_path), "val-data": None, "weight-decay": 0.1,
        "resume": "never", "save-every": 0, "schedule-steps": 2, "warmup-steps": 0,
    }  # fmt: skip
    assert {name: saved[name] for name in expected} == expected


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["-b", "abc"], ["--batch-size", "'abc'", "whole number", "1 to"]),
        (["--batch-size", "4x"], ["--batch-size", "'4x'"]),
        (["--batch-size", ""], ["--batch-size", "''"]),
        (["--batch-size", "99999999999999999999"], ["--batch-size", "99999999999999999999", "1 to"]),
        (["--steps", "9223372036854775807"], ["--steps", "9223372036854775807", "1e+12"]),
        (["--batch-size", "-3"], ["--batch-size", "'-3'"]),
        (["--batch-size", "0"], ["--batch-size", "'0'"]),
        (["--steps", "1.5"], ["--steps", "'1.5'"]),
        (["--lr", "fast"], ["--lr", "'fast'", "number"]),
        (["--lr", "nan"], ["--lr", "'nan'"]),
        (["--lr", "1e999"], ["--lr", "'1e999'"]),
        (["--lr=-1"], ["--lr", "'-1'"]),
        (["--beta1", "1"], ["--beta1", "'1'", "below 1"]),
        (["--eps", "0"], ["--eps", "'0'", "1e-30 to 1"]),
        (["--final-lr-fraction", "1.1"], ["--final-lr-fraction", "0 to 1"]),
        (["--recompute", "all"], ["--recompute", "none|cheap|block", "'all'"]),
        (["--recompute", "bloc"], ["--recompute", "'bloc'"]),
        (["--schedule", "constant"], ["--schedule", "cosine|linear", "'constant'"]),
        (["--save", "maybe"], ["--save", "on or off", "'maybe'"]),
        (["--learning-rate", "1"], ["unknown option", "--learning-rate"]),
        (["-z"], ["unknown option", "-z"]),
        (["-zb", "3"], ["unknown option", "-zb"]),
        (["--s", "3"], ["--s", "several"]),
        (["--steps"], ["--steps", "found none"]),
        (["-b"], ["-b", "found none"]),
        (["--overwrite=yes"], ["--overwrite", "no value", "'yes'"]),
        (["data.bin"], ["data.bin", "unexpected"]),
        (["--tokenizer", ""], ["--tokenizer", "empty"]),
        (["--warmup-steps", "6"], ["--warmup-steps 6", "--steps 5"]),
        (["--warmup-steps", "4", "--schedule-steps", "3"], ["--warmup-steps 4", "--schedule-steps 3"]),
        (["--average-every", "3"], ["--average-every 3", "--average-from"]),
        (["--average-from", "1", "--average-every", "0"], ["--average-every", "'0'"]),
        (["--save-every", "3", "--save", "off"], ["--save-every 3", "--save on"]),
        (["--keep-last", "-1"], ["--keep-last", "'-1'"]),
        (["--resume", ""], ["--resume", "empty"]),
        (["--sample-tokens", "33"], ["--sample-tokens 33", "--seq-len 32"]),
        (["--eval-every", "3"], ["--eval-every", "--val-data"]),
        (["--init-from", "x"], ["--config", "--init-from", "exclude"]),
        (["--tokens-per-step", "1000"], ["--tokens-per-step 1000", "4", "32", "128"]),
        (["--tokens-per-step", "64"], ["--tokens-per-step 64", "128"]),
        (["--tokens-per-step", "256", "--grad-accum", "3"], ["--grad-accum 3", "--tokens-per-step 256", "2"]),
        (["--batch-size", "1000000", "--seq-len", "1000000"], ["--batch-size 1000000", "--seq-len 1000000"]),
        (["--zero", "3"], ["--zero", "'3'", "0|1|2"]),
        (["--shard-group", "-1"], ["--shard-group", "'-1'"]),
        (["--transport", "tcp"], ["--transport", "'tcp'", "nccl"]),
        (["--trace-steps", "2"], ["--trace-steps", "--trace FILE"]),
        (["--cuda-graph", "on", "--trace", "x"], ["--cuda-graph on", "--trace"]),
        (["--cuda-graph", "on", "--attention", "cudnn"], ["--cuda-graph on", "--attention own"]),
        (["--cuda-graph", "on", "--activations", "host"], ["--cuda-graph on", "--activations device"]),
        *[(["--trace", "x", "--trace-steps", text], ["--trace-steps", f"'{text}'", "FIRST:LAST"])
          for text in ("0", "0:3", "3:2", "a", "2:", "1:2x", "99999999999999999999:2")],
    ],
)
def test_refused(work, arguments, words):
    work.refused(*words, more=arguments)


@pytest.mark.parametrize("name", ["config", "train_data", "output"])
def test_required(work, name):
    work.refused("--" + name.replace("_", "-"), "missing", **{name: None})


def test_bad_usage_leaves_a_run_alone(work):
    work.output.mkdir()
    (work.output / "log.jsonl").write_text("precious")
    work.refused("--batch-size", more=["-b", "abc", "--overwrite"])
    work.refused("unknown option", more=["--overwrite", "--nope"])


def test_tokens_per_step(work, tmp_path):
    work.run(output=tmp_path, steps=1, save="off", tokens_per_step=384)
    assert json.loads((tmp_path / "trainer_options.json").read_text())["grad-accum"] == 3
    assert work.log(tmp_path)[0]["tokens"] == 384


SET_BY_RECIPE = {
    "train-data": "x", "val-data": "x", "document-mask": "on", "steps": 5, "epochs": 1, "batch-size": 4, "seq-len": 32,
    "grad-accum": 1, "tokens-per-step": 128, "lr": 1e-3, "schedule": "cosine", "warmup-steps": 1, "schedule-steps": 5,
    "final-lr-fraction": 0.1, "average-from": 1, "average-every": 1, "eval-every": 1, "eval-tasks-every": 1,
}  # fmt: skip


@pytest.mark.parametrize(
    "arguments, words",
    [
        *[([f"--{name}", str(value)], [f"--{name}", "none beside --recipe"]) for name, value in SET_BY_RECIPE.items()],
        (["--task", "sft"], ["--task sft", "pretrain beside --recipe"]),
        (["--eval-only"], ["--eval-only", "--recipe"]),
        (["--on-spike", "rollback"], ["--on-spike rollback", "log or skip beside --recipe"]),
        (["--attention", "cudnn"], ["--attention cudnn", "own beside --recipe"]),
    ],
)
def test_refused_beside_a_recipe(arguments, words):
    result = run("--recipe", "r.json", "--config", "c.json", "--output", "o", *arguments)
    assert result.returncode == 2 and result.stdout == "" and result.stderr.count("\n") == 1
    assert all(word in result.stderr for word in words), result.stderr


def test_dry_run_needs_a_recipe():
    result = run("--dry-run", "--config", "c.json", "--train-data", "d.bin", "--output", "o")
    assert result.returncode == 2 and "--dry-run needs --recipe FILE, which is missing" in result.stderr


def test_ranks_need_a_dry_run():
    result = run("--recipe", "r.json", "--ranks", "8", "--config", "c.json", "--output", "o")
    assert result.returncode == 2 and "--ranks 8 needs --dry-run, which is missing" in result.stderr
