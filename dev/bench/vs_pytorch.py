#!/usr/bin/env python3
"""Tokens per second of whole training steps, ours and PyTorch's, in one run.

    python dev/bench/vs_pytorch.py                          # the model of configs/tiny.json, 8 x 256 tokens per step
    python dev/bench/vs_pytorch.py --config configs/llama3.2_1b.json --batch 4 --sequence 2048     # on a GPU

A step is forward, backward, clipping to norm 1 and AdamW. PyTorch is measured in all of its settings: eager and compiled, fp32
and bf16 autocast, a lean Llama (torch_llama.py) and transformers' LlamaForCausalLM, always with fused AdamW. Ours is
build/TARGET/train_llama3 on synthetic text. The sides take turns, round by round, so that a machine that slows down slows
both. The medians of the rounds are compared.

With --start each turn is a program of its own, and what is compared are the seconds from its start to the end of its first step
(from random weights, the tokens prepared; compiled code of PyTorch may lie in its cache).
"""

import argparse
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import time

import torch

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from machine import commit, device_name, instructions  # noqa: E402
from torch_llama import Llama  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/tiny.json", help="config.json of the model (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=8, help="rows per step (default: %(default)s)")
    parser.add_argument("--sequence", type=int, default=256, help="tokens per row (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads of each side (default: one per core)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=5, help="timed steps per turn (default: %(default)s)")
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--target", choices=["cpu", "cuda", "cuda-on-cpu"], default=default)
    parser.add_argument("--models", default="lean,transformers", help="PyTorch models (default: %(default)s)")
    parser.add_argument("--modes", default="eager,compiled", help="modes of PyTorch (default: %(default)s)")
    parser.add_argument("--precisions", default="fp32,bf16", help="precisions of PyTorch (default: %(default)s)")
    parser.add_argument("--without-ours", action="store_true", help="measure PyTorch only")
    parser.add_argument("--start", action="store_true", help="compare seconds to the end of the first step")
    parser.add_argument("--first-step", action="store_true", help=argparse.SUPPRESS)  # a turn of PyTorch with --start
    parser.add_argument("--json", metavar="FILE", help="also write the result to this file")
    return parser.parse_args()


class Pytorch:
    """PyTorch in one setting. turn() returns tokens per second."""

    def __init__(self, options, config, model, mode, precision):
        self.options, self.name = options, f"PyTorch {model}, {mode}, {precision}"
        self.device, self.autocast = "cuda" if options.target == "cuda" else "cpu", precision == "bf16"
        torch.manual_seed(0)
        made = make_transformers(config) if model == "transformers" else Llama(config, options.sequence)
        self.model = made.to(self.device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
        loss = self.loss_of_transformers if model == "transformers" else self.model
        self.loss = torch.compile(loss) if mode == "compiled" else loss
        shape = (options.batch, options.sequence + 1)
        self.ids = torch.randint(config["vocab_size"], shape, device=self.device)

    def loss_of_transformers(self, tokens, targets):
        logits = self.model(input_ids=tokens, use_cache=False).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())

    def step(self):
        with torch.autocast(self.device, torch.bfloat16, enabled=self.autocast):
            loss = self.loss(self.ids[:, :-1], self.ids[:, 1:])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.item()

    def turn(self):
        self.step()
        start = time.perf_counter()
        for _ in range(self.options.steps):
            self.step()
        return self.options.steps * self.options.batch * self.options.sequence / (time.perf_counter() - start)


class PytorchStart:
    """A process that makes one step of PyTorch in one setting."""

    def __init__(self, options, model, mode, precision):
        self.name = f"PyTorch {model}, {mode}, {precision}"
        self.command = [sys.executable, __file__, "--first-step", "--models", model, "--modes", mode, "--precisions", precision]
        for name in ("config", "batch", "sequence", "threads", "target"):
            self.command += [f"--{name}", str(getattr(options, name))]

    def first_step(self):
        run_quietly(self.command)


def make_transformers(config):
    from transformers import LlamaConfig, LlamaForCausalLM

    fields = {k: v for k, v in config.items() if k not in ("architectures", "model_type", "torch_dtype", "dtype")}
    return LlamaForCausalLM(LlamaConfig(**fields, attn_implementation="sdpa")).float().train()


class Ours:
    """train_llama3 on synthetic text. Its log has the rate of each step."""

    def __init__(self, options, folder):
        self.options, self.folder, self.name = options, pathlib.Path(folder), "train_llama3, bf16"
        self.program = ROOT / "build" / options.target / "train_llama3"
        if not self.program.exists():
            sys.exit(f"vs_pytorch: {self.program} is missing: run make TARGET={options.target}, or give --without-ours")
        vocabulary = json.loads(pathlib.Path(options.config).read_text())["vocab_size"]
        text = self.folder / "text.txt"
        text.write_text(synthetic_text(12 * (self.options.batch * self.options.sequence * 16 + 100_000)))
        prepare = [sys.executable, str(ROOT / "data" / "prepare_data.py"), str(text), "--output", str(self.folder / "data")]
        run_quietly([*prepare, "--vocab-size", str(min(vocabulary, 2048))])

    def train(self, steps):
        o, run = self.options, self.folder / "run"
        command = [str(self.program), "--config", o.config, "--train-data", str(self.folder / "data" / "train_*.bin")]
        command += ["--output", str(run), "--overwrite", "--save", "off", "--eval-every", "0", "--document-mask", "off"]
        command += ["--batch-size", str(o.batch), "--seq-len", str(o.sequence), "--steps", str(steps)]
        if o.target == "cpu":
            command += ["--threads", str(o.threads)]
        if o.target == "cuda":
            torch.cuda.empty_cache()  # what PyTorch keeps for its next turn is ours in between
        run_quietly(command)
        return run

    def turn(self):
        run = self.train(self.options.steps + 2)
        steps = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        rates = [s["tokens_per_second"] for s in steps if "tokens_per_second" in s][2:]  # the first ones set up
        return len(rates) / sum(1 / r for r in rates)

    def first_step(self):
        self.train(1)


def synthetic_text(letters):
    """Lines of random words, common ones more often; varied enough to train a vocabulary on."""
    rng = random.Random(0)
    syllables = [consonant + vowel for consonant in "bcdfghklmnprstvwz" for vowel in "aeiou"]
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(8000)]
    weights = [1 / (rank + 10) for rank in range(len(words))]
    chosen = rng.choices(words, weights, k=letters // 5)
    return "\n\n".join(" ".join(chosen[i : i + 60]) for i in range(0, len(chosen), 60))


def run_quietly(command):
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"vs_pytorch: {' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")


def sides(options, config, folder):
    found = [] if options.without_ours else [Ours(options, folder)]
    for model in options.models.split(","):
        for mode in options.modes.split(","):
            for precision in options.precisions.split(","):
                if options.start:
                    found.append(PytorchStart(options, model, mode, precision))
                    continue
                side = Pytorch(options, config, model, mode, precision)
                print(f"warming up {side.name}", file=sys.stderr, flush=True)
                side.step(), side.step()
                found.append(side)
    return found


def seconds(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(options, found):
    """{side: its rates, or seconds}, after each round."""
    rates = {side.name: [] for side in found}
    for turn in range(options.rounds):
        print(f"round {turn + 1} of {options.rounds}", file=sys.stderr, flush=True)
        for side in found:
            rates[side.name].append(seconds(side.first_step) if options.start else side.turn())
        yield rates


def print_table(medians, rates, unit):
    ours, digits = medians.get("train_llama3, bf16"), 0 if unit == "tokens/s" else 2
    print(f"{'':40}{unit:>10}{'range':>18}{'ours is':>10}")
    for name, value in sorted(medians.items(), key=lambda item: item[1], reverse=unit == "tokens/s"):
        ratio = f"{ours / value if unit == 'tokens/s' else value / ours:9.2f}x" if ours else ""
        print(f"{name:40}{value:10.{digits}f}{min(rates[name]):9.{digits}f}{max(rates[name]):9.{digits}f}{ratio:>10}")


def main():
    options = arguments()
    torch.set_num_threads(options.threads)
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    config = {"tie_word_embeddings": False, **json.loads((ROOT / options.config).read_text())}
    if options.first_step:
        Pytorch(options, config, options.models, options.modes, options.precisions).step()
        return
    unit = "seconds" if options.start else "tokens/s"
    head = {"device": device_name(options.target), "instructions": instructions(), "commit": commit(), "torch": torch.__version__}
    shape = {"config": options.config, "batch": options.batch, "sequence": options.sequence, "threads": options.threads}
    with tempfile.TemporaryDirectory() as folder:
        for rates in measure(options, sides(options, config, folder)):
            medians = {name: statistics.median(values) for name, values in rates.items()}
            if options.json:  # at once, so that a run that is stopped leaves its results
                text = json.dumps({**head, **shape, unit.replace("tokens/s", "tokens_per_second"): medians, "rounds": rates}, indent=1)
                pathlib.Path(options.json).write_text(text + "\n")
    print_table(medians, rates, unit)


if __name__ == "__main__":
    main()
