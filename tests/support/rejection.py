"""A policy, a reward model and prompts, and functions that run scripts/rejection_sample.py on them."""

import contextlib
import datetime
import io
import json
import os
import signal
import sys
import unittest.mock

import torch
from tokenizers import Tokenizer

import llmc
import rejection_sample
from checkout import script
from llmdata.chat_template import Template
from llmtext.prompts import read_prompts
from llmtext.turns import Turns
from model import TINY
from trainrun import EOS, ON_CPU, VOCAB, write_tokenizer

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import transformers  # noqa: E402

PRECISION = "fp32" if "fp32" in llmc.build_folders() else "bf16"
SPECIALS = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
SAMPLES, CONTEXT = 5, 256


def library(precision=PRECISION):
    return llmc.build_folders()[precision] / "libllmc.so"


def write_chat_tokenizer(folder, specials=SPECIALS):
    write_tokenizer(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens([f"<|unused_{i}|>" for i in range(VOCAB - EOS - 1)] + specials)
    tokenizer.save(str(folder / "tokenizer.json"))
    assert tokenizer.token_to_id(specials[-1]) == VOCAB + len(specials) - 1
    return tokenizer


def draw_weights(model):
    with torch.no_grad():
        for p in model.parameters():
            p.copy_((1 + 0.2 * torch.randn_like(p) if p.ndim == 1 else torch.randn_like(p) / p.shape[-1] ** 0.5).bfloat16())
        if hasattr(model, "lm_head"):
            model.lm_head.weight[VOCAB + 2] *= 2
            model.lm_head.weight[256:VOCAB] = model.lm_head.weight[0]  # no other special token is likely


def make_model(folder, kind, dtype=torch.float32, **changes):
    """A random model as transformers saves it, whose texts now and then end."""
    fields = {k: v for k, v in TINY.items() if k not in ("rope_theta", "rope_scaling")}
    fields |= dict(vocab_size=VOCAB + len(SPECIALS), max_position_embeddings=CONTEXT, eos_token_id=[EOS, VOCAB + 2]) | changes
    if kind is transformers.LlamaForSequenceClassification:
        fields |= dict(num_labels=1, pad_token_id=0)
    model = kind(transformers.LlamaConfig(**fields))
    draw_weights(model)
    model.save_pretrained(folder)
    write_chat_tokenizer(folder)
    return model.to(dtype)


class Models:
    def __init__(self, folder):
        self.folder, self.policy, self.reward = folder, folder / "policy", folder / "reward"
        policy = make_model(self.policy, transformers.LlamaForCausalLM)
        self.scorer = make_model(self.reward, transformers.LlamaForSequenceClassification)
        self.prompts = folder / "prompts.jsonl"
        self.write([{"prompt": f"Say {number} {'please ' * (number % 4)}"} for number in range(12)])
        while not 0.012 < self.share_of_ends(policy) < 0.04:
            draw_weights(policy)
        policy.save_pretrained(self.policy)

    def share_of_ends(self, policy):
        """Of the next tokens behind a prompt and some that are random. Where they are 1 to 4 %, some texts of 40 tokens come to
        their end, and some do not."""
        ids = torch.tensor([self.turns().ask(read_prompts([self.prompts], None)[0][0])])
        with torch.no_grad():
            logits = policy(torch.cat([ids.expand(4, -1), torch.randint(0, 256, (4, 40))], 1)).logits[:, ids.shape[1] - 1 :]
        return logits.softmax(-1)[:, :, policy.config.eos_token_id].sum(-1).mean()

    def write(self, rows):
        self.prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def command(self, output, *more):
        arguments = ["--model", self.policy, "--reward-model", self.reward, "--prompts", self.prompts, "--output", output,
                     "--samples", SAMPLES, "--max-tokens", 40, "--target", "cpu" if ON_CPU else "cuda", "--precision", PRECISION,
                     "--threads", 1 if ON_CPU else 0, "--seed", 3, *more]  # fmt: skip
        return [sys.executable, str(script("rejection_sample")), *map(str, arguments)]

    def run(self, *more, code=0, name="best.jsonl", drop=None):
        """In this process; what it says. drop: an option that is not given."""
        command = self.command(self.folder / name, *more)[2:]
        if drop:
            at = command.index(drop)
            del command[at : at + 2]
        said, before = io.StringIO(), signal.getsignal(signal.SIGTERM)
        with contextlib.redirect_stderr(said), unittest.mock.patch.object(sys, "argv", ["rejection_sample.py", *command]):
            found = rejection_sample.main()
        signal.signal(signal.SIGTERM, before)
        print(said.getvalue(), file=sys.stderr)
        assert found == code
        return said.getvalue()

    def rows(self, name="best.jsonl"):
        return [json.loads(line) for line in (self.folder / name).read_text().split("\n") if line]

    def turns(self):
        tokenizer = Tokenizer.from_file(str(self.policy / "tokenizer.json"))
        return Turns(Template(self.policy, tokenizer, datetime.date(2024, 7, 26)))
