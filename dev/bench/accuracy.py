#!/usr/bin/env python3
"""Error and rate of attention and of the matrix products, beside PyTorch's, at the shapes of whole models.

    LLMC_TARGET=cuda python dev/bench/accuracy.py           # on a GPU: shapes of Llama 3.2 1B and 3.1 8B, rows of 4096 tokens
    python dev/bench/accuracy.py --models tiny              # on the CPU target

Both sides get the same bf16 inputs, and both are compared with float64: relative L2 error, judged by the rule of
tests/support/compare.py (1.5 times PyTorch's, and small in itself). PyTorch's attention is scaled_dot_product_attention.
Rates are useful FLOPs per second: 2 per multiply-add, attention's causal half, 2.5 times that in its backward pass.
Exit code 1: an error is over its limit.
"""

import argparse
import ctypes
import json
import pathlib
import sys

import kernels
import llmc
import torch
from compare import BF16_FACTOR, BF16_LIMIT, relative_error
from machine import commit, device_name


class Side:
    """Tensors on the device of the build under test, and the build's functions on them."""

    def __init__(self, bench):
        self.bench, self.lib = bench, bench.lib
        self.device = "cpu" if bench.lib.on_cpu else "cuda"

    def empty(self, shape, dtype=torch.bfloat16):
        """PyTorch's memory on a GPU; else the build's own, as its stand-in for a GPU knows what is the device's."""
        if self.device == "cuda":
            return torch.empty(shape, dtype=dtype, device=self.device)
        buffer = self.lib.empty(shape, dtype)
        tensor = torch.frombuffer((ctypes.c_uint8 * buffer.nbytes).from_address(buffer.address), dtype=dtype).view(shape)
        tensor.buffer = buffer  # lives as long
        return tensor

    def normal(self, *shape, scale=1.0):
        return self.empty(shape).copy_(torch.randn(shape, device=self.device) * scale)

    def poisoned(self, shape, dtype=torch.bfloat16):
        return self.empty(shape, dtype).fill_(torch.nan)


def attention(side, s):
    B, T, NH, NKV, HD = (s[k] for k in ("B", "T", "NH", "NKV", "HD"))
    qkv, dout = side.normal(B, T, (NH + 2 * NKV) * HD, scale=1.3), side.normal(B, T, NH * HD)
    out, dqkv = side.poisoned(dout.shape), side.poisoned(qkv.shape)
    lse = side.poisoned((B, NH, T), torch.float32)
    given = llmc.AttentionMask(side.lib.device(torch.zeros(B * T, dtype=torch.int64))), llmc.AttentionShape(B, T, NH, NKV, HD)
    scratch = side.poisoned(side.lib.attention_backward_scratch(given[1]), torch.float32)
    forward = side.bench.call("attention_forward", out, lse, qkv, *given)
    backward = side.bench.call("attention_backward", dqkv, scratch, dout, out, qkv, lse, *given)
    forward(), backward()
    side.lib.check(side.lib.c.cudaDeviceSynchronize(), "attention")

    parts = split(qkv, NH, NKV, HD)
    leaves = [part.detach().requires_grad_() for part in parts]
    theirs = fused(*leaves)
    grads = torch.autograd.grad(theirs, leaves, split(dout, NH, 0, HD)[0], retain_graph=True)
    exact = exact_attention(*parts, split(dout, NH, 0, HD)[0])
    ours = [split(out, NH, 0, HD)[0], *split(dqkv, NH, NKV, HD)]
    flops, shape = 2 * B * NH * T * (T + 1) * HD, (B, T, NH, NKV, HD)
    yield "attention forward", shape, flops, forward, lambda: fused(*parts), [("out", ours[0], theirs, exact[0])]
    again = lambda: torch.autograd.grad(theirs, leaves, split(dout, NH, 0, HD)[0], retain_graph=True)  # noqa: E731
    named = [*zip(("dq", "dk", "dv"), ours[1:], grads, exact[1:])]
    yield "attention backward", shape, 2.5 * flops, backward, again, named


def split(qkv, NH, NKV, HD):
    """[B, T, (NH + 2 NKV) HD] as q [B, NH, T, HD] and k, v [B, NKV, T, HD]"""
    return qkv.view(*qkv.shape[:2], -1, HD).transpose(1, 2).split([NH, NKV, NKV], dim=1)


def fused(q, k, v):
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])


def exact_attention(q, k, v, dout):
    """out, dq, dk, dv in float64, a group of heads of one row at a time, as T x T scores of all would not fit."""
    group = q.shape[1] // k.shape[1]
    results = [torch.empty(t.shape, dtype=torch.float64, device=t.device) for t in (q, q, k, v)]
    later = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool, device=q.device).triu(1)
    for b in range(q.shape[0]):
        for head in range(k.shape[1]):
            queries, keys = slice(head * group, (head + 1) * group), slice(head, head + 1)
            places = [(b, queries), (b, queries), (b, keys), (b, keys)]
            leaves = [t[place].double().requires_grad_() for t, place in zip((q, k, v), places[1:])]
            scores = (leaves[0] @ leaves[1].transpose(-1, -2) / q.shape[-1] ** 0.5).masked_fill(later, -torch.inf)
            out = scores.softmax(-1) @ leaves[2]
            found = out.detach(), *torch.autograd.grad(out, leaves, dout[b, queries].double())
            for result, place, value in zip(results, places, found):
                result[place] = value
    return results


def products(side, s):
    """The three uses of each linear layer's weight; the gradient of the weight is fp32, PyTorch's bf16."""
    for layer, (rows, outputs, inputs) in kernels.linear_layers(s).items():
        x, w, dy = side.normal(rows, inputs), side.normal(outputs, inputs), side.normal(rows, outputs)
        uses = {
            "y": (x, w.T, (rows, outputs, inputs), (False, True), kernels.FLOATX),
            "dx": (dy, w, (rows, inputs, outputs), (False, False), kernels.FLOATX),
            "dw": (dy.T, x, (outputs, inputs, rows), (True, False), kernels.FP32),
        }
        for name, (a, b, (m, n, k), transposed, kind) in uses.items():
            d = side.poisoned((m, n), torch.float32 if kind == kernels.FP32 else torch.bfloat16)
            stored = [t.T if turned else t for t, turned in zip((a, b), transposed)]
            ours = side.bench.call("matmul", d, kind, *stored, m, n, k, *transposed, False)
            ours()
            side.lib.check(side.lib.c.cudaDeviceSynchronize(), "matmul")
            judged = [(name, d, a @ b, a.double() @ b.double())]
            yield f"{layer} {name}", (m, n, k), 2 * m * n * k, ours, lambda a=a, b=b: a @ b, judged


def judge(outputs):
    """{"error", "torch_error", "limit"} of the output that is nearest to its limit or farthest above; error None: not finite."""
    found = []
    for name, ours, theirs, exact in outputs:
        other = relative_error(theirs, exact)
        error = relative_error(ours, exact) if bool(torch.isfinite(ours).all()) else None
        found.append({"output": name, "error": error, "torch_error": other, "limit": min(BF16_FACTOR * other, BF16_LIMIT)})
    return max(found, key=lambda f: float("inf") if f["error"] is None else f["error"] - f["limit"])


def measure(side, model, cases, options):
    for name, shape, flops, ours, theirs, outputs in cases(side, kernels.MODELS[model]):
        row = {"model": model, "case": name, "shape": list(shape), **judge(outputs)}
        row["ok"] = row["error"] is not None and row["error"] <= row["limit"]
        if not options.errors_only:
            row["ms"], row["torch_ms"] = side.bench.milliseconds(ours), side.bench.milliseconds(theirs)
            row["tflops"], row["torch_tflops"] = flops / row["ms"] / 1e9, flops / row["torch_ms"] / 1e9
        print_row(row)
        yield row


def print_row(row):
    error = "not finite" if row["error"] is None else f"{row['error']:.2e}"
    rates = f" {row['tflops']:9.3f} TFLOP/s, PyTorch {row['torch_tflops']:9.3f}" if "ms" in row else ""
    print(f"{'ok  ' if row['ok'] else 'FAIL'} {row['model']:5} {row['case']:18} {'x'.join(map(str, row['shape'])):20} "
          f"error {error}, PyTorch {row['torch_error']:.2e}{rates}", flush=True)  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = ", ".join(kernels.MODELS)
    parser.add_argument("--models", default="1B,8B", help=f"whose shapes to use, of {known} (default: %(default)s)")
    parser.add_argument("--only", choices=["attention", "products"], help="default: both")
    parser.add_argument("--errors-only", action="store_true", help="measure no rates: each function runs once")
    parser.add_argument("--seed", type=int, default=1, help="of the inputs (default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="also write the result to this file")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    side = Side(kernels.Bench("bf16"))
    head = {"device": device_name(side.device), "commit": commit(), "torch": torch.__version__, "seed": options.seed}
    rows = []
    for cases in (attention, products):
        for model in options.models.split(",") if options.only in (None, cases.__name__) else []:
            for row in measure(side, model, cases, options):
                rows.append(row)
                if options.json:  # at once, so that a run that is stopped leaves its results
                    pathlib.Path(options.json).write_text(json.dumps({**head, "results": rows}, indent=1) + "\n")
    wrong = sum(not row["ok"] for row in rows)
    ratios = [row["torch_ms"] / row["ms"] for row in rows if "ms" in row]
    speed = f", {min(ratios):.2f} to {max(ratios):.2f} of PyTorch's rate" if ratios else ""
    print(f"{len(rows)} results, {wrong} wrong{speed}")
    sys.exit(1 if wrong or not rows else 0)


if __name__ == "__main__":
    main()
