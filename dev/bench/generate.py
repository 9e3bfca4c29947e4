#!/usr/bin/env python3
"""New tokens per second: ours and those of transformers' generate, in one run with the same dtype and number of threads.

    python dev/bench/generate.py                                   # configs/small_124m.json, batch 1 and 8, bf16 and fp32
    python dev/bench/generate.py --target cuda --batches 1,8,64

Weights and prompts are random, decoding is greedy, and there are no end tokens. The sides take turns, round by round, so that a
machine that slows down slows both. A turn writes --tokens tokens after prompts of --prompt tokens. The prompt's own time is not
counted: the time of the first token is measured by itself and subtracted on both sides. Medians of the rounds are compared.
"""

import argparse
import json
import os
import pathlib
import statistics
import sys
import tempfile
import time

import torch

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "scripts"), str(pathlib.Path(__file__).parent)]
from llmtext.generator import Generator, SamplerOptions, library_path  # noqa: E402
from machine import commit, device_name, instructions  # noqa: E402


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/small_124m.json", help="config.json of the model (default: %(default)s)")
    parser.add_argument("--batches", default="1,8", help="numbers of texts that are written at once (default: %(default)s)")
    parser.add_argument("--precisions", default="bf16,fp32", help="builds to measure (default: %(default)s)")
    parser.add_argument("--prompt", type=int, default=32, help="tokens per prompt (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=32, help="new tokens per text (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads of each side (default: one per core)")
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--target", choices=["cpu", "cuda", "cuda-on-cpu"], default=default)
    parser.add_argument("--json", metavar="FILE", help="also write the result to this file")
    return parser.parse_args()


def make_model(options, folder):
    """A folder with random weights in bf16, which both sides read."""
    from transformers import LlamaConfig, LlamaForCausalLM

    fields = json.loads((ROOT / options.config).read_text())
    fields = {k: v for k, v in fields.items() if k not in ("architectures", "model_type", "torch_dtype", "dtype")}
    fields.update(bos_token_id=None, eos_token_id=None)
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**fields)).to(torch.bfloat16)
    model.save_pretrained(folder)
    (pathlib.Path(folder) / "generation_config.json").unlink(missing_ok=True)
    return fields["vocab_size"]


class Ours:
    name = "ours"

    def __init__(self, options, folder, precision, prompts):
        library = library_path(options.target, precision)
        self.prompts = prompts.tolist()
        context = options.prompt + options.tokens
        threads = options.threads if options.target == "cpu" else 0  # a GPU's build takes none
        self.generator = Generator(library, pathlib.Path(folder), len(self.prompts), context, threads)

    def run(self, tokens):
        for row, prompt in enumerate(self.prompts):
            self.generator.start(row, prompt, SamplerOptions(0.0, 0, 1.0), 0)
        for _ in range(tokens):
            assert len(self.generator.next()) == len(self.prompts)

    def close(self):
        self.generator.close()


class Transformers:
    name = "transformers"

    def __init__(self, options, folder, precision, prompts):
        from transformers import LlamaForCausalLM

        dtype = torch.float32 if precision == "fp32" else torch.bfloat16
        device = "cuda" if options.target == "cuda" else "cpu"
        self.model = LlamaForCausalLM.from_pretrained(folder, dtype=dtype).to(device).eval()
        self.model.generation_config.eos_token_id, self.model.generation_config.pad_token_id = None, 0
        self.ids, self.cuda = prompts.to(device), device == "cuda"

    def run(self, tokens):
        with torch.inference_mode():
            self.model.generate(self.ids, attention_mask=torch.ones_like(self.ids), max_new_tokens=tokens, do_sample=False)
        if self.cuda:
            torch.cuda.synchronize()

    def close(self):
        pass


def seconds(side, tokens):
    start = time.perf_counter()
    side.run(tokens)
    return time.perf_counter() - start


def measure(options, folder, vocabulary, batch, precision):
    prompts = torch.randint(vocabulary, (batch, options.prompt))
    sides = [kind(options, folder, precision, prompts) for kind in (Ours, Transformers)]
    rates = {side.name: [] for side in sides}
    for side in sides:
        side.run(2)
    for _ in range(options.rounds):
        for side in sides:
            first = seconds(side, 1)
            spent = seconds(side, options.tokens) - first
            rates[side.name].append(batch * (options.tokens - 1) / spent)
    for side in sides:
        side.close()
    return rates


def save(options, results):
    import transformers

    head = {"device": device_name(options.target), "instructions": instructions(), "commit": commit(),
            "torch": torch.__version__, "transformers": transformers.__version__, "config": options.config,
            "threads": options.threads, "prompt": options.prompt, "tokens": options.tokens}  # fmt: skip
    pathlib.Path(options.json).write_text(json.dumps({**head, "results": results}, indent=1) + "\n")


def main():
    options = arguments()
    torch.set_num_threads(options.threads)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        vocabulary = make_model(options, folder)
        print(f"{'':12}{'batch':>6}{'ours':>10}{'transformers':>14}{'ratio':>8}   new tokens/s, medians", flush=True)
        for precision in options.precisions.split(","):
            for batch in map(int, options.batches.split(",")):
                rates = measure(options, folder, vocabulary, batch, precision)
                ours, theirs = (statistics.median(rates[name]) for name in ("ours", "transformers"))
                print(f"{precision:12}{batch:6}{ours:10.1f}{theirs:14.1f}{ours / theirs:8.2f}", flush=True)
                results.append({"precision": precision, "batch": batch, "ours": ours, "transformers": theirs,
                                "ratio": ours / theirs, "rounds": rates})  # fmt: skip
                if options.json:  # at once, so that a run that is stopped leaves its results
                    save(options, results)


if __name__ == "__main__":
    main()
