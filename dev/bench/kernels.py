#!/usr/bin/env python3
"""The time of every kernel launcher, and its share of what the device can do.

    python dev/bench/kernels.py                         # with the small model's shapes
    LLMC_TARGET=cuda python dev/bench/kernels.py        # on a GPU, also with those of Llama 3.2 1B and 3.1 8B

First the device's ceilings are measured: a large copy on the device (bytes read plus bytes written), and a large product in the
build's precision. Then each kernel is timed by events and compared with the ceiling that limits it:
  bytes: what it must move at least once, operands read plus results written, whatever caches do;
  FLOPs: 2 per multiply-add; attention counts only the causal half, and its backward pass 2.5 times the forward pass.
A kernel whose data fit into a cache can exceed the copy's rate.
"""

import argparse
import ctypes
import json
import os
import pathlib
import statistics
import sys

import torch

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/support"))
import llmc  # noqa: E402
from machine import commit, device_name  # noqa: E402

FLOATX, FP32 = 0, 1  # MatmulOut

# rows and length of a micro-batch, and sizes as in config.json: hidden C, FFN F, query heads, KV heads, head_dim, vocabulary
MODELS = {
    "tiny": dict(B=2, T=64, C=128, F=256, NH=4, NKV=2, HD=32, V=1024, on=""),
    "small": dict(B=8, T=256, C=256, F=768, NH=8, NKV=4, HD=32, V=2048, on="cpu cuda"),
    "124M": dict(B=4, T=128, C=768, F=2048, NH=12, NKV=12, HD=64, V=50304, on=""),
    "1B": dict(B=2, T=4096, C=2048, F=8192, NH=32, NKV=8, HD=64, V=128256, on="cuda"),
    "8B": dict(B=2, T=4096, C=4096, F=14336, NH=32, NKV=8, HD=128, V=128256, on="cuda"),
}
CLASSIFIER_ROWS = 2048  # in a chunk of logits
OPTIMIZER_ELEMENTS = {"tiny": 100_000, "small": 4_000_000, "124M": 124_000_000, "1B": 256_000_000, "8B": 256_000_000}


class Bench:
    """Times calls of one library."""

    def __init__(self, precision):
        self.lib = llmc.load(precision)
        self.events = [ctypes.c_void_p(), ctypes.c_void_p()]
        for event in self.events:
            self.lib.check(self.lib.c.cudaEventCreate(ctypes.byref(event)), "cudaEventCreate")
        self.lib.matmul_prepare()

    def call(self, name, *arguments):
        """A function without arguments that launches `name`; all arguments are converted beforehand."""
        getattr(self.lib, name)  # sets the prototype
        function = getattr(self.lib.c, name)
        kinds = function.argtypes
        converted = [llmc.as_argument(kind, value) for kind, value in zip(kinds, (*arguments, None))]
        return lambda: function(*converted)

    def milliseconds(self, call, keep=None):
        """Median over samples of as many calls as take 20 ms or more. `keep` holds the buffers, so that they stay allocated."""
        call()  # a first one may load the kernel, or choose it
        calls = 1
        while self.sample(call, calls) < 20 and calls < 1000:
            calls *= 2
        return statistics.median(self.sample(call, calls) for _ in range(7)) / calls

    def sample(self, call, calls):
        c, (start, end), elapsed = self.lib.c, self.events, ctypes.c_float()
        self.lib.check(c.cudaEventRecord(start, None), "cudaEventRecord")
        for _ in range(calls):
            call()
        self.lib.check(c.cudaEventRecord(end, None), "cudaEventRecord")
        self.lib.check(c.cudaEventSynchronize(end), "a kernel")
        self.lib.check(c.cudaEventElapsedTime(ctypes.byref(elapsed), start, end), "cudaEventElapsedTime")
        return elapsed.value

    def normal(self, *shape):
        """Device memory with values from a unit normal distribution, drawn on the device."""
        buffer = self.lib.empty(shape)
        self.lib.weights_init_normal(buffer, None, 0, 0, buffer.count, 1.0, 1, buffer.count % 1000)
        return buffer

    def floats(self, *shape):
        """fp32 device memory of zeros."""
        buffer = self.lib.empty(shape, torch.float32)
        self.lib.check(self.lib.c.cudaMemset(ctypes.c_void_p(buffer.address), 0, ctypes.c_size_t(buffer.nbytes)), "cudaMemset")
        return buffer


def copy_ceiling(bench):
    """GB/s of a copy on the device, read plus written. On the CPU PyTorch copies, as it uses all threads."""
    if bench.lib.on_cpu:
        source, to = torch.ones(64 << 20), torch.empty(64 << 20)
        return 2 * source.nbytes / bench.milliseconds(lambda: to.copy_(source)) / 1e6
    nbytes = 1 << 30
    source, to = (bench.lib.empty(nbytes, torch.uint8) for _ in range(2))
    device_to_device = 3
    addresses = (ctypes.c_void_p(to.address), ctypes.c_void_p(source.address), ctypes.c_size_t(nbytes))
    return 2 * nbytes / bench.milliseconds(lambda: bench.lib.c.cudaMemcpyAsync(*addresses, device_to_device, None)) / 1e6


def product_ceiling(bench):
    """TFLOP/s of a large product with operands laid out as in the forward pass."""
    n = 2048 if bench.lib.on_cpu else 8192
    a, b, d = bench.normal(n, n), bench.normal(n, n), bench.lib.empty((n, n))
    call = bench.call("matmul", d, FLOATX, a, b, n, n, n, False, True, False)
    return 2 * n**3 / bench.milliseconds(call, (a, b, d)) / 1e9


def linear_layers(s):
    """{layer: (rows, outputs, inputs)}"""
    N, C = s["B"] * s["T"], s["C"]
    return {
        "qkv": (N, (s["NH"] + 2 * s["NKV"]) * s["HD"], C),
        "attention out": (N, C, s["NH"] * s["HD"]),
        "gate, up": (N, 2 * s["F"], C),
        "down": (N, C, s["F"]),
        "classifier": (min(N, CLASSIFIER_ROWS), s["V"], C),
    }


def products(bench, s):
    """The products of linear layers: forward, gradient of the input, gradient of the weight."""
    for layer, (rows, out, inner) in linear_layers(s).items():
        x, w, y, dw = bench.normal(rows, inner), bench.normal(out, inner), bench.normal(rows, out), bench.floats(out, inner)
        flops, keep = 2 * rows * out * inner, (x, w, y, dw)
        uses = {
            f"matmul {layer} y": ((y, FLOATX, x, w, rows, out, inner, False, True, False), (rows, out, inner)),
            f"matmul {layer} dx": ((x, FLOATX, y, w, rows, inner, out, False, False, False), (rows, inner, out)),
            f"matmul {layer} dw": ((dw, FP32, y, x, out, inner, rows, True, False, True), (out, inner, rows)),
        }
        for name, (arguments, shape) in uses.items():
            yield name, shape, bench.call("matmul", *arguments), {"flops": flops}, keep


def token_inputs(bench, s):
    B, T = s["B"], s["T"]
    tokens = torch.randint(s["V"], (B * T,))
    order = torch.sort(tokens, stable=True).indices
    return [bench.lib.device(t) for t in (tokens, order, torch.zeros(B * T, dtype=torch.int64))]


def embedding(bench, s, e):
    N, C, V = s["B"] * s["T"], s["C"], s["V"]
    tokens, order, _ = token_inputs(bench, s)
    weight, x, dweight = bench.normal(V, C), bench.normal(N, C), bench.floats(V, C)
    touched = len(set(tokens.get().tolist()))
    keep = (tokens, order, weight, x, dweight)
    forward = bench.call("embedding_forward", x, tokens, weight, N, C)
    yield "embedding_forward", (N, C), forward, {"bytes": (N + touched) * C * e}, keep
    backward = bench.call("embedding_backward", dweight, x, tokens, order, N, C)
    yield "embedding_backward", (N, C), backward, {"bytes": N * C * e + 8 * touched * C}, keep


def rmsnorm(bench, s, e):
    N, C = s["B"] * s["T"], s["C"]
    x, delta, out, sum_ = (bench.normal(N, C) for _ in range(4))
    weight, rstd, dweight = bench.normal(C), bench.floats(N), bench.floats(C)
    scratch = bench.floats(bench.lib.rmsnorm_backward_scratch(C))
    keep = (x, delta, out, sum_, weight, rstd, dweight, scratch)
    size = N * C * e
    forward = bench.call("rmsnorm_forward", out, rstd, x, weight, N, C, 1e-5)
    yield "rmsnorm_forward", (N, C), forward, {"bytes": 2 * size}, keep
    fused = bench.call("add_rmsnorm_forward", sum_, out, rstd, x, delta, weight, N, C, 1e-5)
    yield "add_rmsnorm_forward", (N, C), fused, {"bytes": 4 * size}, keep
    backward = bench.call("rmsnorm_backward", out, dweight, scratch, delta, sum_, x, weight, rstd, False, N, C)
    yield "rmsnorm_backward", (N, C), backward, {"bytes": 4 * size}, keep


def rope(bench, s, e):
    B, T, NH, NKV, HD = (s[k] for k in ("B", "T", "NH", "NKV", "HD"))
    qkv, (_, _, doc_start) = bench.normal(B * T, (NH + 2 * NKV) * HD), token_inputs(bench, s)
    table = torch.empty(T, HD // 2, 2)
    bench.lib.rope_table(table, T, HD, 5e5, None)
    on_device = bench.lib.device(table)
    size = 2 * B * T * (NH + NKV) * HD * e
    for name in ("rope_forward", "rope_backward"):
        call = bench.call(name, qkv, on_device, llmc.AttentionMask(doc_start), llmc.AttentionShape(B, T, NH, NKV, HD))
        yield name, (B, T, NH, NKV, HD), call, {"bytes": size}, (qkv, on_device, doc_start)


def attention(bench, s, e):
    B, T, NH, NKV, HD = (s[k] for k in ("B", "T", "NH", "NKV", "HD"))
    qkv, dqkv = bench.normal(B * T, (NH + 2 * NKV) * HD), bench.normal(B * T, (NH + 2 * NKV) * HD)
    out, dout = bench.normal(B * T, NH * HD), bench.normal(B * T, NH * HD)
    lse, doc_start, shape = bench.floats(B, NH, T), token_inputs(bench, s)[2], (B, T, NH, NKV, HD)
    given = llmc.AttentionMask(doc_start), llmc.AttentionShape(*shape)
    scratch = bench.floats(bench.lib.attention_backward_scratch(given[1]))
    keep = (qkv, dqkv, out, dout, lse, scratch, doc_start)
    flops = 4 * B * NH * T * (T + 1) // 2 * HD
    yield "attention_forward", shape, bench.call("attention_forward", out, lse, qkv, *given), {"flops": flops}, keep
    backward = bench.call("attention_backward", dqkv, scratch, dout, out, qkv, lse, *given)
    yield "attention_backward", shape, backward, {"flops": 2.5 * flops}, keep


def swiglu(bench, s, e):
    N, F = s["B"] * s["T"], s["F"]
    gate_up, dgate_up, out = bench.normal(N, 2 * F), bench.normal(N, 2 * F), bench.normal(N, F)
    keep = (gate_up, dgate_up, out)
    yield "swiglu_forward", (N, F), bench.call("swiglu_forward", out, gate_up, N, F), {"bytes": 3 * N * F * e}, keep
    backward = bench.call("swiglu_backward", dgate_up, out, gate_up, N, F)
    yield "swiglu_backward", (N, F), backward, {"bytes": 5 * N * F * e}, keep


def classifier(bench, s, e):
    n, V = min(s["B"] * s["T"], CLASSIFIER_ROWS), s["V"]
    VP = (V + 127) // 128 * 128
    logits, losses = bench.normal(n, VP), bench.floats(n)
    targets, dloss = bench.lib.device(torch.randint(V, (n,))), bench.lib.device(torch.tensor([1.0 / n]))
    keep = (logits, losses, targets, dloss)
    forward = bench.call("cross_entropy_forward", losses, logits, targets, n, V, VP)
    yield "cross_entropy_forward", (n, V), forward, {"bytes": n * VP * e}, keep
    backward = bench.call("cross_entropy_backward", losses, logits, targets, None, dloss, n, V, VP)
    yield "cross_entropy_backward", (n, V), backward, {"bytes": 2 * n * VP * e}, keep


def preference(bench, s, e):
    """A batch of pairs of answers, each of 64 positions."""
    n, C, length = s["B"] * s["T"], s["C"], 64
    answers = n // length
    first = torch.arange(answers) * length
    spans = torch.stack([first, first + length - 1], 1)
    groups = torch.stack([first[::2] // length, torch.full((answers // 2,), 2)], 1)
    spans, groups, counters = (bench.lib.device(t) for t in (spans, groups, torch.tensor([answers, answers // 2])))
    losses, weights, dloss, targets = bench.floats(n), bench.floats(n), bench.lib.device(torch.ones(1)), token_inputs(bench, s)[0]
    logprobs, reference, dseq = bench.floats(answers), bench.floats(answers), bench.floats(answers)
    counts, sums, dw = bench.lib.device(torch.ones(answers)), bench.floats(5), bench.floats(C)
    x, dx, w = bench.normal(n, C), bench.normal(n, C), bench.normal(C)
    spec = llmc.PreferenceLoss(0, 0.1, 0.0, 0.2, 0)
    keep = (spans, groups, counters, losses, weights, dloss, targets, logprobs, reference, dseq, counts, sums, dw, x, dx, w, spec)
    of_answers = bench.call("answer_logprobs", logprobs, counts, losses, targets, spans, counters, answers)
    yield "answer_logprobs", (answers, length), of_answers, {"bytes": 8 * n}, keep
    loss = bench.call("preference_loss", sums, dseq, logprobs, reference, counts, groups, counters, answers, ctypes.byref(spec))
    yield "preference_loss", (answers,), loss, {"bytes": 16 * answers}, keep
    weigh = bench.call("answer_weights", weights, dseq, spans, counters, n, answers)
    yield "answer_weights", (answers, length), weigh, {"bytes": 8 * n}, keep
    scores = bench.call("reward_scores", logprobs, x, w, spans, counters, answers, C)
    yield "reward_scores", (answers, C), scores, {"bytes": answers * C * e}, keep
    backward = bench.call("reward_backward", dx, dw, dseq, dloss, x, w, spans, counters, False, n, C, answers)
    yield "reward_backward", (n, C), backward, {"bytes": (n + answers) * C * e}, keep


def optimizer(bench, s, e):
    n = s["optimizer"]
    params, master, m, v, grads = bench.normal(n), bench.floats(n), bench.floats(n), bench.floats(n), bench.floats(n)
    norm, scratch = bench.floats(1), bench.floats(bench.lib.sum_squares_scratch())
    apply = bench.lib.device([1])
    step = bench.lib.struct(llmc.AdamWStep(3e-4, 0.9, 0.95, 1e-8, 0.1, 0.5, 0.5, 1.0))
    keep = (params, master, m, v, grads, norm, scratch, apply, step)
    yield "sum_squares", (n,), bench.call("sum_squares", norm, scratch, grads, n), {"bytes": 4 * n}, keep
    update = bench.call("adamw_update", params, master, m, v, grads, apply, norm, step, True, n)
    yield "adamw_update", (n,), update, {"bytes": (28 + e) * n}, keep
    total, partial = bench.lib.empty(1, torch.int64), bench.lib.empty(bench.lib.checksum_scratch(), torch.int64)
    yield "checksum", (n,), bench.call("checksum", total, partial, params, n * e // 8), {"bytes": e * n}, (*keep, total, partial)


GROUPS = [embedding, rmsnorm, rope, attention, swiglu, classifier, preference, optimizer]


def cases(bench, s):
    element = 4 if bench.lib.floatX == torch.float32 else 2
    for group in GROUPS:
        yield from available(group(bench, s, element), group.__name__)
    yield from products(bench, s)


def available(group, name):
    """The group's cases. A kernel that this library lacks is reported."""
    try:
        yield from group
    except AttributeError as error:
        print(f"{name}: not measured: {error}")


def measure(bench, model, shapes, ceilings, only):
    for name, shape, call, count, keep in cases(bench, shapes):
        if only and only not in name:
            continue
        ms = bench.milliseconds(call, keep)
        unit, scale = ("TFLOP/s", 1e9) if "flops" in count else ("GB/s", 1e6)
        rate = next(iter(count.values())) / ms / scale
        row = {"model": model, "kernel": name, "shape": list(shape), "ms": ms, **count, "rate": rate, "unit": unit}
        row["share"] = rate / ceilings[unit]
        print_row(row)
        yield row


def print_row(row):
    shape = "x".join(str(n) for n in row["shape"])
    print(f"{row['kernel']:26} {shape:22} {row['ms']:10.4f} ms {row['rate']:9.3f} {row['unit']:8} {row['share']:6.1%}",
          flush=True)  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16", help="build to measure (default: %(default)s)")
    parser.add_argument("--models", help=f"models whose shapes to use: {', '.join(MODELS)} (default: those that suit the target)")
    parser.add_argument("--only", metavar="TEXT", help="measure only kernels whose name contains this")
    parser.add_argument("--json", metavar="FILE", help="also write the result to this file")
    options = parser.parse_args()
    bench = Bench(options.precision)
    target = "cpu" if bench.lib.on_cpu else "cuda"
    chosen = options.models.split(",") if options.models else [m for m, s in MODELS.items() if target in s["on"].split()]
    ceilings = {"GB/s": copy_ceiling(bench), "TFLOP/s": product_ceiling(bench)}
    result = {"device": device_name(target), "target": target, "precision": options.precision, "commit": commit()}
    result |= {"threads": int(os.environ.get("OMP_NUM_THREADS", os.cpu_count())), "ceilings": ceilings, "kernels": []}
    print(f"{result['device']}: copy {ceilings['GB/s']:.1f} GB/s, product {ceilings['TFLOP/s']:.3f} TFLOP/s")
    for model in chosen:
        shapes = {**MODELS[model], "optimizer": OPTIMIZER_ELEMENTS[model]}
        print(f"{model}: {' '.join(f'{k}={v}' for k, v in shapes.items() if k != 'on')}")
        for row in measure(bench, model, shapes, ceilings, options.only):
            result["kernels"].append(row)
            if options.json:  # at once, so that a run that is stopped leaves its results
                pathlib.Path(options.json).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
