#!/usr/bin/env python3
"""Tokens per second of our decoder, of transformers' generate and of llama.cpp, in one run with the same dtype and threads.

    python dev/bench/generate.py                                   # configs/small_124m.json, batch 1 and 8, bf16 and fp32
    python dev/bench/generate.py --target cuda --batches 1,8,64 --against transformers
    pip install llama-cpp-python gguf                              # the second one, which llama.cpp is measured through

Weights and prompts are random, decoding is greedy, and there are no end tokens. The sides take turns, round by round, so that a
machine that slows down slows both. A turn writes one token after each prompt of --prompt tokens, whose time is the prompts', and
then again with --tokens tokens; what that takes longer is the time of the new tokens. Medians of the rounds are compared. `same` is
how many new tokens of a text agree with ours before the first that differs, on average: bf16 rounds differently on each side.
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
import llamacpp  # noqa: E402
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
    parser.add_argument("--against", default="transformers,llama.cpp", help="the other sides (default: %(default)s)")
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
        steps = [[token for _, token in self.generator.next()] for _ in range(tokens)]
        return list(zip(*steps, strict=True))

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
        self.ids = prompts.to(device)

    def run(self, tokens):
        with torch.inference_mode():
            mask = torch.ones_like(self.ids)
            texts = self.model.generate(self.ids, attention_mask=mask, max_new_tokens=tokens, do_sample=False)
        return texts[:, self.ids.shape[1] :].tolist()  # waits for the GPU

    def close(self):
        pass


def seconds(side, tokens):
    """Of a run, and the texts it wrote."""
    start = time.perf_counter()
    texts = side.run(tokens)
    return time.perf_counter() - start, texts


def agreement(texts, others):
    same = [[a == b for a, b in zip(*pair, strict=True)] + [False] for pair in zip(texts, others, strict=True)]
    return statistics.mean(row.index(False) for row in same)


def kinds(options):
    """The classes of the sides."""
    wanted = options.against.split(",")
    if llamacpp.LlamaCpp.name in wanted and not llamacpp.installed():
        wanted.remove(llamacpp.LlamaCpp.name)
        print(llamacpp.INSTALL)
    known = {kind.name: kind for kind in (Transformers, llamacpp.LlamaCpp)}
    return [Ours, *(known[name] for name in wanted)]


def measure(options, folder, vocabulary, batch, precision, sides):
    """{side: {"prompt": tokens/s of each round, "new": tokens/s of each round, "same": agreement}}"""
    prompts = torch.randint(vocabulary, (batch, options.prompt))
    sides = [kind(options, folder, precision, prompts) for kind in sides]
    rates = {side.name: {"prompt": [], "new": []} for side in sides}
    for side in sides:
        side.run(2)
    for _ in range(options.rounds):
        for side in sides:
            rate = rates[side.name]
            first, _ = seconds(side, 1)
            spent, texts = seconds(side, options.tokens)
            rate["prompt"].append(batch * options.prompt / first)
            rate["new"].append(batch * (options.tokens - 1) / (spent - first))
            ours = texts if side is sides[0] else ours
            rate["same"] = agreement(ours, texts)
    for side in sides:
        side.close()
    return rates


def report(rates, precision, batch):
    """Prints a line for each side; returns them for --json."""
    lines = []
    for name, rate in rates.items():
        prompt, new = (statistics.median(rate[what]) for what in ("prompt", "new"))
        ours = lines[0] if lines else {"prompt": prompt, "new": new}
        print(f"{precision:6}{batch:6} {name:14}{prompt:10.1f}{ours['prompt'] / prompt:7.2f}{new:12.1f}{ours['new'] / new:7.2f}"
              f"{rate['same']:8.1f}", flush=True)  # fmt: skip
        lines.append({"precision": precision, "batch": batch, "side": name, "prompt": prompt, "new": new,
                      "ours_prompt": ours["prompt"] / prompt, "ours_new": ours["new"] / new, "rounds": rate})  # fmt: skip
    return lines


def save(options, results):
    import transformers

    head = {"device": device_name(options.target), "instructions": instructions(), "commit": commit(),
            "torch": torch.__version__, "transformers": transformers.__version__, "config": options.config,
            "threads": options.threads, "prompt": options.prompt, "tokens": options.tokens}  # fmt: skip
    pathlib.Path(options.json).write_text(json.dumps({**head, "results": results}, indent=1) + "\n")


def main():
    options = arguments()
    torch.set_num_threads(options.threads)
    sides, results = kinds(options), []
    with tempfile.TemporaryDirectory() as folder:
        vocabulary = make_model(options, folder)
        print(f"{'':6}{'batch':>6} {'':14}{'prompt':>10}{'ratio':>7}{'new':>12}{'ratio':>7}{'same':>8}   "
              "tokens/s, medians; ratio: ours to it", flush=True)  # fmt: skip
        for precision in options.precisions.split(","):
            for batch in map(int, options.batches.split(",")):
                results += report(measure(options, folder, vocabulary, batch, precision, sides), precision, batch)
                if options.json:  # at once, so that a run that is stopped leaves its results
                    save(options, results)


if __name__ == "__main__":
    main()
