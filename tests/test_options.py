"""Options of train_llama3: --help lists them all, and a bad one gets exit code 2, one line, and nothing written (row 31)."""

import json
import subprocess

import pytest

from trainrun import Workplace, program

# name: (value's name in --help, default as --help tells it, unit as --help tells it)
OPTIONS = {
    "config": ("FILE", None, None),
    "init-from": ("DIR", None, None),
    "train-data": ("GLOB", None, None),
    "val-data": ("GLOB", None, None),
    "tokenizer": ("FILE", "tokenizer.json beside the shards", None),
    "document-mask": ("on|off", "on", None),
    "output": ("DIR", None, None),
    "overwrite": (None, None, None),
    "save": ("on|off", "on", None),
    "steps": ("N", "1000", "updates"),
    "batch-size": ("N", "8", "rows"),
    "seq-len": ("N", "256", "tokens"),
    "grad-accum": ("N", "1", "micro-batches"),
    "tokens-per-step": ("N", "what --grad-accum gives", "tokens"),
    "lr": ("X", "3e-4", None),
    "warmup-steps": ("N", "a tenth of --steps, at most 2000", "updates"),
    "final-lr-fraction": ("X", "0.01", "of --lr"),
    "weight-decay": ("X", "0.1", "times learning rate"),
    "beta1": ("X", "0.9", None),
    "beta2": ("X", "0.95", None),
    "eps": ("X", "1e-8", None),
    "grad-clip": ("X", "1", "L2 norm"),
    "eval-every": ("N", "100", "updates"),
    "eval-batches": ("N", "20", "micro-batches"),
    "sample-every": ("N", "0", "updates"),
    "sample-tokens": ("N", "64", "tokens"),
    "temperature": ("X", "0.8", None),
    "log-every": ("N", "10", "updates"),
    "seed": ("N", "42", None),
    "recompute": ("none|block", "none", None),
    "threads": ("N", "0", "threads"),
    "peak-tflops": ("X", "0", "TFLOP/s"),
}


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return Workplace(tmp_path_factory.mktemp("options"))


def run(*arguments):
    return subprocess.run([program(), *arguments], capture_output=True, text=True, timeout=60)


def test_help():
    result = run("--help")
    assert result.returncode == 0 and result.stderr == ""
    text = " ".join(result.stdout.split())
    listed = {word[2:].partition("=")[0] for word in text.split() if word.startswith("--") and "=" in word}
    for name, (value, default, unit) in OPTIONS.items():
        assert f" --{name}{'=' + value if value else ''} " in text, name
        described = text.partition(f" --{name}{'=' + value if value else ''} ")[2][:300]
        ending = [part for part in (unit, f"default: {default}" if default else None) if part]
        assert not ending or f"({'; '.join(ending)})" in described, (name, described)
    assert listed <= set(OPTIONS), f"not known to this test: {listed - set(OPTIONS)}"
    for words in ("standard deviation 0.02", "sqrt(2 * layers)"):  # the initialisation
        assert words in text


def test_saved_options(work, tmp_path):
    """Every option stands in trainer_options.json, with its value."""
    work.run(output=tmp_path, steps=2, save="off", beta2="0.99", recompute="block", seed=7, document_mask="off")
    saved = json.loads((tmp_path / "trainer_options.json").read_text())
    assert set(saved) == set(OPTIONS)
    expected = {
        "steps": 2, "save": False, "beta2": 0.99, "recompute": "block", "seed": 7, "document-mask": False, "lr": 3e-3,
        "tokens-per-step": 128, "grad-accum": 1, "output": str(tmp_path), "val-data": None, "weight-decay": 0.1,
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
        (["--eps", "0"], ["--eps", "'0'", "above 0"]),
        (["--final-lr-fraction", "1.1"], ["--final-lr-fraction", "0 to 1"]),
        (["--recompute", "all"], ["--recompute", "none|block", "'all'"]),
        (["--recompute", "bloc"], ["--recompute", "'bloc'"]),
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
        (["--sample-tokens", "33"], ["--sample-tokens 33", "--seq-len 32"]),
        (["--eval-every", "3"], ["--eval-every", "--val-data"]),
        (["--init-from", "x"], ["--config", "--init-from", "exclude"]),
        (["--tokens-per-step", "1000"], ["--tokens-per-step 1000", "4", "32", "128"]),
        (["--tokens-per-step", "64"], ["--tokens-per-step 64", "128"]),
        (["--tokens-per-step", "256", "--grad-accum", "3"], ["--grad-accum 3", "--tokens-per-step 256", "2"]),
        (["--batch-size", "1000000", "--seq-len", "1000000"], ["--batch-size 1000000", "--seq-len 1000000"]),
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
