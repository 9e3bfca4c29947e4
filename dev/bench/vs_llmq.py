#!/usr/bin/env python3
"""Tokens per second of whole training steps, by the shapes of LLM.Q's published table, beside the figures printed there.

    python dev/bench/vs_llmq.py --target cuda                 # 0.5B and 1.5B, rows of 1024 tokens, one GPU
    python dev/bench/vs_llmq.py --target cuda --shapes 0.5B,1.5B,3B --micro-batches 16

LLM.Q (IST-DASLab/llmq) trains Qwen2.5, whose shapes are those of a Llama but for biases of queries, keys and values, which are
left out here. Its figures are not measured by this program. They are what its authors printed for bf16 on one H100 and one
RTX 4090, with moments in bf16 (ours are fp32) and 524,288 tokens a step; ours takes fewer micro-batches a step by default, so its
optimizer weighs more. Exit codes: 0 done, also where memory or time did not suffice for a shape; 1 a run failed.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from machine import commit, device_name

ROOT = pathlib.Path(__file__).resolve().parents[2]
SOURCE = "github.com/IST-DASLab/llmq, commit 7f895bd, benchmarks/H100x1.md and benchmarks/4090x1.md, bf16, the last step printed"
PUBLISHED = {
    "H100": {"0.5B": 149_000, "1.5B": 59_101, "3B": 30_958, "7B": 13_863},
    "RTX 4090": {"0.5B": 39_842, "1.5B": 14_063, "3B": 7_001},  # of 3B, moments are kept in the host's memory
}
# hidden size, FFN, layers, heads, key/value heads, width of a head, vocabulary, tied; rows of a micro-batch, for 80 GB
SHAPES = {
    "tiny": ((64, 128, 2, 4, 2, 16, 512, True), 2),  # not in the table: to try this program
    "0.5B": ((896, 4864, 24, 14, 2, 64, 151936, True), 32),
    "1.5B": ((1536, 8960, 28, 12, 2, 128, 151936, True), 8),
    "3B": ((2048, 11008, 36, 16, 2, 128, 151936, True), 4),
    "7B": ((3584, 18944, 28, 28, 4, 128, 152064, False), 4),
}
SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
         "vocab_size", "tie_word_embeddings")  # fmt: skip
SETTINGS = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "max_position_embeddings": 32768,
            "rms_norm_eps": 1e-6, "rope_theta": 1e6, "initializer_range": 0.02}  # fmt: skip


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", choices=["cpu", "cuda", "cuda-on-cpu"], default="cpu", help="(default: %(default)s)")
    parser.add_argument("--shapes", default="0.5B,1.5B", help=f"of {', '.join(SHAPES)} (default: %(default)s)")
    parser.add_argument("--sequence", type=int, default=1024, help="tokens per row (default: %(default)s)")
    parser.add_argument("--rows", type=int, help="of a micro-batch (default: by the shape)")
    parser.add_argument("--micro-batches", type=int, default=4, help="in a step (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=5, help="of which the first two are not counted (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=1e9, help="after half of these no shape is begun")
    parser.add_argument("--device", help="its name (default: PyTorch's)")
    parser.add_argument("--json", metavar="FILE", help="also write the result to this file")
    return parser.parse_args()


def published(device, shape):
    """The GPU whose published figure is the nearest thing to compare with, and that figure; None: there is none."""
    gpu = next((name for name in PUBLISHED if name in device), "H100")
    return gpu, PUBLISHED[gpu].get(shape)


def train(o, shape, folder):
    """Tokens per second of one shape; or why there are none."""
    sizes, rows = SHAPES[shape]
    config, data, run = folder / "config.json", folder / "data", folder / "run"
    config.write_text(json.dumps({**dict(zip(SIZES, sizes)), **SETTINGS}))
    tokens = max(200_000, 4 * (o.rows or rows) * o.sequence)
    subprocess.run(["perl", ROOT / "dev/synthetic_shards.pl", data, str(tokens), str(sizes[6])], check=True)
    command = [ROOT / "build" / o.target / "train_llama3", "--config", config, "--train-data", data / "train_*.bin"]
    command += ["--output", run, "--save", "off", "--eval-every", "0", "--checksum-every", "0", "--document-mask", "off"]
    command += ["--batch-size", o.rows or rows, "--seq-len", o.sequence, "--grad-accum", o.micro_batches, "--steps", o.steps]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode:
        line = (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]
        return None, line if "out of memory" in line else f"FAIL: {line}"
    steps = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    rates = [step["tokens_per_second"] for step in steps if "tokens_per_second" in step]
    return statistics.median(rates[2:] or rates[-1:]), None


def main():
    o = arguments()
    unknown = [shape for shape in o.shapes.split(",") if shape not in SHAPES]
    if unknown:
        sys.exit(f"vs_llmq: no shape '{unknown[0]}': expected some of {', '.join(SHAPES)}")
    device, start = o.device or device_name(o.target), time.monotonic()
    head = {"device": device, "target": o.target, "commit": commit(), "sequence": o.sequence, "micro_batches": o.micro_batches}
    found = {**head, "published": SOURCE, "results": []}
    for shape in o.shapes.split(","):
        if found["results"] and time.monotonic() - start > o.seconds / 2:
            rate, why = None, "not begun, as the time is used up"
        else:
            with tempfile.TemporaryDirectory(dir=os.environ.get("WORK")) as folder:
                rate, why = train(o, shape, pathlib.Path(folder))
        gpu, theirs = published(device, shape)
        row = {"shape": shape, "tokens_per_second": rate, "why": why, "published_on": gpu if theirs else None, "published": theirs}
        found["results"].append(row)
        if o.json:  # at once, so that a run that is stopped leaves its results
            pathlib.Path(o.json).write_text(json.dumps(found, indent=1) + "\n")
        beside = f", {rate / theirs:.2f} of the {theirs} that LLM.Q published of one {gpu}" if rate and theirs else ""
        print(f"{shape}: {rate:.0f} tokens/s{beside}" if rate else f"{shape}: {why}", flush=True)
    if any("FAIL" in (row["why"] or "") for row in found["results"]):
        sys.exit(1)


if __name__ == "__main__":
    main()
