"""A model with Llama 2's kind of tokenizer through all programs: data, training, samples, text, chats, evaluation."""

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
import torch

import tokenizerkinds as kinds
from checkout import load_script
from model import TINY, transformers_model
from trainrun import BUILDS, ON_CPU, program, read_log

PRECISION = "fp32" if "fp32" in BUILDS else "bf16"
TARGET = "cpu" if ON_CPU else "cuda"


@pytest.fixture
def script(monkeypatch, capsys):
    """script(name, arguments...) → (stdout, stderr) of scripts/NAME.py, called in this process."""

    def run(name, *arguments, code=0):
        module = load_script(name)
        if hasattr(module, "signal"):
            monkeypatch.setattr(module.signal, "signal", lambda *_: None)
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        capsys.readouterr()
        found = module.main()
        out, err = capsys.readouterr()
        assert found == code, err
        return out, err

    return run


def train(*arguments):
    command = [program(PRECISION), *map(str, arguments), *(["--threads", "1"] if ON_CPU else [])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


def base_model(folder, form):
    """A random Llama with a tokenizer of that form alone, and a chat template."""
    folder.mkdir()
    if form == "tokenizer.json":
        kinds.write(folder, "llama 2", "inst")
    else:
        kinds.write_model(folder / form)
        fields = {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True, "chat_template": kinds.TEMPLATES["inst"]}
        (folder / "tokenizer_config.json").write_text(json.dumps(fields))
    model = transformers_model(TINY | dict(vocab_size=640), torch.float32)
    model.save_pretrained(folder)
    return folder


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def greedy(folder, prompt, count):
    """transformers' text behind the prompt."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    model.generation_config.pad_token_id = 0
    whole = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False)[0]
    before = tokenizer.decode(ids[0], skip_special_tokens=True)
    after = tokenizer.decode(whole, skip_special_tokens=True)
    assert before == prompt and after.startswith(before)
    return after[len(before) :]


@pytest.mark.parametrize("form", ["tokenizer.json", "tokenizer.model"])
def test_the_whole_way(tmp_path, script, form):
    base, texts, data, run = base_model(tmp_path / "base", form), tmp_path / "texts", tmp_path / "data", tmp_path / "run"
    texts.mkdir()
    (texts / "a.txt").write_text("".join(kinds.corpus()))
    said, _ = script("prepare_data", texts, "--tokenizer", base, "--output", data, "--workers", 1)
    assert said.splitlines()[0] == "documents begin with <s> (1) and end with </s> (2)"
    sha = hashlib.sha256((data / "tokenizer.json").read_bytes()).hexdigest()
    items = write_jsonl(tmp_path / "items.jsonl", [{"ctx": "ten sun", "endings": ["one", "two é"], "label": 0}] * 3)
    script("prepare_eval", items, "--tokenizer", base, "--output", tmp_path / "items.eval")

    shape = ("--batch-size", 4, "--seq-len", 64, "--lr", "1e-3", "--warmup-steps", 0)
    train("--init-from", base, "--train-data", data / "train_*.bin", "--val-data", data / "val_*.bin", "--output", run, "--steps", 4,
          *shape, "--sample-every", 2, "--eval-tasks", tmp_path / "items.eval", "--eval-tasks-every", 4)  # fmt: skip
    log = read_log(run / "log.jsonl")
    samples = [line["sample"] for line in log if "sample" in line]
    assert samples and not any("▁" in sample or "<0x" in sample for sample in samples)
    assert any("task" in line for line in log)
    made = run / "checkpoint"
    assert hashlib.sha256((made / "tokenizer.json").read_bytes()).hexdigest() == sha

    prompt = "ten sun  12"
    arguments = ("--target", TARGET, "--precision", PRECISION, "--max-tokens", 24)
    text, _ = script("generate", "--model", made, "--prompt", prompt, "--temperature", 0, *arguments)
    if PRECISION == "fp32":
        assert text == prompt + greedy(made, prompt, 24) + "\n"

    talk = [{"messages": [{"role": "user", "content": kinds.text(2)}, {"role": "assistant", "content": kinds.text(2)}]} for _ in range(30)]
    chats = tmp_path / "chats"
    script("prepare_chat", write_jsonl(tmp_path / "chats.jsonl", talk), "--tokenizer", base, "--output", chats, "--workers", 1)
    assert json.loads((chats / "meta.json").read_text())["tokenizer_sha256"] == sha
    train("--task", "sft", "--init-from", made, "--train-data", chats / "train_*.bin", "--output", tmp_path / "sft", "--steps", 2, *shape)
    tuned = tmp_path / "sft" / "checkpoint"
    script("generate", "--model", tuned, "--chat", "--prompt", "What is é?", *arguments)
    prompts = write_jsonl(tmp_path / "prompts.jsonl", [{"prompt": "ten <s> sun"}])
    script("rejection_sample", "--model", tuned, "--prompts", prompts, "--output", tmp_path / "best.jsonl", "--samples", 2, "--keep-cut",
           "--rows", 2, *arguments)  # fmt: skip
    assert len((tmp_path / "best.jsonl").read_text().splitlines()) == 1


def test_rows_are_shown_with_their_blanks(tmp_path, script):
    base, chats = base_model(tmp_path / "base", "tokenizer.json"), tmp_path / "chats"
    talk = [{"messages": [{"role": "user", "content": "ten sun"}, {"role": "assistant", "content": "one two"}]}] * 3
    rows = write_jsonl(tmp_path / "chats.jsonl", talk)
    out, _ = script("prepare_chat", rows, "--tokenizer", base, "--output", chats, "--val-fraction", 0, "--show", 1, "--workers", 1)
    assert "<s> [INST] ten sun [/INST][[ one two </s>]]" in out


@pytest.mark.parametrize("kind, fields, options, said", [
    ("llama 3", {}, (), "documents begin with <|begin_of_text|> (380) and end with <|end_of_text|> (381)"),
    ("smollm chat", {}, (), "documents begin with <|im_start|> (381) and end with <|im_end|> (382)"),
    ("smollm", {}, (), "documents begin with <|endoftext|> (380), which ends the one before"),
    ("smollm", {}, ("--bos-token", "<|im_start|>"), "documents begin with <|im_start|> (381) and end with <|endoftext|> (380)"),
    ("llama 2", {"bos_token": None, "eos_token": None}, (), "documents begin with <s> (1) and end with </s> (2); a guess by the usual names, "
     "as the tokenizer does not say it: give --bos-token and --eos-token if it is wrong"),
    ("smollm chat", {"bos_token": None}, (), "documents begin with <|endoftext|> (380) and end with <|im_end|> (382); a guess by the usual name, "
     "as the tokenizer does not say it: give --bos-token if it is wrong"),
])  # fmt: skip
def test_the_tokens_of_documents_are_said(tmp_path, script, kind, fields, options, said):
    (tmp_path / "model").mkdir()
    kinds.write(tmp_path / "model", kind, **fields)
    (tmp_path / "a.txt").write_text("some text. " * 3000)
    out, _ = script("prepare_data", tmp_path / "a.txt", "--tokenizer", tmp_path / "model", "--output", tmp_path / "out", *options,
                    "--workers", 1)  # fmt: skip
    assert out.splitlines()[0] == said


@pytest.mark.parametrize("named, want", [
    ({}, "<|im_start|>"), ({"bos_token": None}, "<|im_end|>"), ({"bos_token": None, "eos_token": None}, "<|endoftext|>"),
])  # fmt: skip
def test_what_an_evaluation_begins_with(tmp_path, script, named, want):
    """As in lm-eval: the begin token, else the end token that the tokenizer names; else a usual name."""
    (tmp_path / "model").mkdir()
    tokenizer = kinds.write(tmp_path / "model", "smollm chat", **named)
    items = write_jsonl(tmp_path / "items.jsonl", [{"text": "ten sun"}])
    script("prepare_eval", items, "--tokenizer", tmp_path / "model", "--output", tmp_path / "items.eval")
    tokens = np.frombuffer((tmp_path / "items.eval").read_bytes()[256 + 32 :], "<u4")
    assert tokens.tolist() == [tokenizer.token_to_id(want), *tokenizer.encode("ten sun").ids]


@pytest.mark.parametrize("change, found", [
    ({"decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True}}, "decoder is WordPiece, expected ByteLevel"),
    ({"decoder": None}, "decoder is missing, expected ByteLevel"),
    ({"decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]}}, "decoder is ByteFallback, Fuse, "),
    ({"model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["<s>", 0.0], ["</s>", 0.0]]}}, "model is Unigram, expected BPE"),
])  # fmt: skip
def test_others_are_refused_at_the_first_touch(tmp_path, script, change, found):
    base = base_model(tmp_path / "base", "tokenizer.json")
    path = base / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    (tmp_path / "a.txt").write_text("some text. " * 3000)
    rows = write_jsonl(tmp_path / "a.jsonl", [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}])
    items = write_jsonl(tmp_path / "items.jsonl", [{"ctx": "ten sun", "endings": ["one", "two"], "label": 0}])
    for name, source in (("prepare_data", tmp_path / "a.txt"), ("prepare_chat", rows), ("prepare_eval", items)):
        _, error = script(name, source, "--tokenizer", base, "--output", tmp_path / name, code=2)
        assert error.startswith(f"{name}: {path}: {found}") and error.count("\n") == 1
        assert not list((tmp_path / name).glob("*")) if (tmp_path / name).exists() else True
