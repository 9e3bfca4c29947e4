"""Attention and RoPE over rows as long as 1B and 8B are trained on, with their heads: 4 query heads for each key head, of 64 and
128 elements. Only some rows are compared, which float64 works out one by one."""

import ctypes
import math

import pytest
import torch

import compare
import llmc
from llmc import AttentionMask, AttentionShape
from seeds import how_often

# T, query heads, key/value heads, head dimension, documents
BF16 = [(2049, 4, 1, 64, True), (2049, 4, 1, 128, True), (2049, 1, 1, 32, False), (2049, 1, 1, 256, False), (4100, 1, 1, 64, True)]
FP32 = [(2049, 1, 1, 32, False), (2049, 2, 1, 64, True)]  # the same sums, more slowly
LONG = [(8192, 4, 1, 64, True), (8192, 4, 1, 128, True), (4097, 32, 8, 64, True), (4097, 32, 8, 128, False), (8191, 2, 1, 256, True),
        (8192, 1, 1, 32, False), (5000, 3, 3, 80, True), (3000, 12, 2, 48, True), (32768, 2, 1, 64, True),
        (131072, 1, 1, 16, False)]  # fmt: skip
CASES = [(precision, shape) for precision, few in (("bf16", BF16), ("fp32", FP32)) for shape in how_often(few, few + LONG)
         if precision in llmc.build_folders()]  # fmt: skip
PICKED = 24  # queries, and keys


def draw_documents(T, documents):
    """doc_start [T]: a few documents, one longer than half the row, one of a single token."""
    starts = torch.zeros(T, dtype=torch.int64)
    if documents:
        for begin in (T // 9, T // 9 + 1, T // 3, T - T // 11):
            starts[begin:] = begin
    return starts


def pick(T, starts):
    """Positions: the ends of the row and of each document, and random ones."""
    edges = torch.cat([starts.unique(), starts.unique() - 1, torch.tensor([T - 1])])
    return torch.cat([edges[edges >= 0], torch.randint(T, (PICKED,))]).unique()


class Reference:
    """One key/value head with its query heads, in float64, for picked queries and keys."""

    def __init__(self, q, k, v, dout, starts):
        self.q, self.k, self.v, self.dout = (x.double() for x in (q, k, v, dout))  # [G,T,HD], [T,HD], [T,HD], [G,T,HD]
        self.starts, self.T, self.scale = starts, k.shape[0], 1 / math.sqrt(k.shape[1])
        self.lse, self.d = torch.empty(q.shape[:2], dtype=torch.float64), torch.empty(q.shape[:2], dtype=torch.float64)
        for first in range(0, self.T, 512):
            at = torch.arange(first, min(first + 512, self.T))
            p = self.probabilities(at)
            self.d[:, at] = (self.dout[:, at] * (p @ self.v)).sum(-1)

    def scores(self, queries, keys):
        seen = (keys[None] <= queries[:, None]) & (keys[None] >= self.starts[queries][:, None])
        return (self.q[:, queries] @ self.k[keys].T * self.scale).masked_fill(~seen, -math.inf)

    def probabilities(self, queries):
        scores = self.scores(queries, torch.arange(self.T))
        self.lse[:, queries] = scores.logsumexp(-1)
        return (scores - self.lse[:, queries, None]).exp()

    def of_queries(self, queries):
        """out and dq [G,n,HD]"""
        p = self.probabilities(queries)
        ds = p * (self.dout[:, queries] @ self.v.T - self.d[:, queries, None])
        return p @ self.v, ds @ self.k * self.scale

    def of_keys(self, keys):
        """dk and dv [n,HD]"""
        p = (self.scores(torch.arange(self.T), keys) - self.lse[..., None]).exp()
        ds = p * (self.dout @ self.v[keys].T - self.d[..., None])
        return torch.einsum("gtn,gtd->nd", ds, self.q) * self.scale, torch.einsum("gtn,gtd->nd", p, self.dout)


def agree(lib, name, ours, want):
    """All together, and each row by itself: in bf16 the probabilities are rounded too, and a row may cancel."""
    limit = 6e-3 if lib.precision == "bf16" else compare.FP32_LIMIT
    assert compare.relative_error(ours, want) <= limit, name
    floor = want.norm() / want[..., 0].numel() ** 0.5
    worst = ((ours.double() - want).norm(dim=-1) / want.norm(dim=-1).clamp(min=0.1 * floor)).max().item()
    assert worst <= 25 * limit, f"{name}: a row is off by {worst:.3g}"


@pytest.mark.parametrize("precision, shape", CASES, ids=str)
def test_attention(precision, shape):
    lib, (T, NH, NKV, HD, documents) = llmc.load(precision), shape
    G, starts = NH // NKV, draw_documents(T, documents)
    qkv, dout = torch.randn(T, NH + 2 * NKV, HD).to(lib.floatX), torch.randn(T, NH, HD).to(lib.floatX)
    sizes, mask = AttentionShape(1, T, NH, NKV, HD), AttentionMask(lib.device(starts))
    out, lse = lib.empty(dout.shape), lib.empty((NH, T), torch.float32)
    scratch = lib.empty(lib.attention_backward_scratch(sizes), torch.float32)
    dqkv, given = lib.empty(qkv.shape), lib.x(qkv)
    lib.attention_forward(out, lse, given, mask, sizes)
    lib.attention_backward(dqkv, scratch, lib.x(dout), out, given, lse, mask, sizes)
    out, lse, dqkv = out.get(), lse.get(), dqkv.get()

    kv = int(torch.randint(NKV, ()))  # one of the groups
    heads = slice(kv * G, (kv + 1) * G)
    q, k, v = qkv[:, heads].transpose(0, 1), qkv[:, NH + kv], qkv[:, NH + NKV + kv]
    reference = Reference(q, k, v, dout[:, heads].transpose(0, 1), starts)
    at = pick(T, starts)
    want_out, want_dq = reference.of_queries(at)
    want_dk, want_dv = reference.of_keys(at)
    agree(lib, "out", out[at][:, heads].transpose(0, 1), want_out)
    agree(lib, "dv", dqkv[at, NH + NKV + kv], want_dv)
    agree(lib, "dk", dqkv[at, NH + kv], want_dk)
    agree(lib, "dq", dqkv[at][:, heads].transpose(0, 1), want_dq)
    assert compare.relative_error(lse[heads], reference.lse) <= 1e-5
    assert bool(torch.isfinite(out).all()) and bool(torch.isfinite(dqkv).all())


@pytest.mark.parametrize("T, HD", [(8192, 64), (8192, 128), (131072, 64)])
def test_rope(lib, T, HD):
    """With Llama 3.1's frequencies, in the context that they were scaled from and in the one that they are scaled to."""
    NH, NKV = 4, 1
    table = torch.empty(T, HD // 2, 2)
    lib.rope_table(table, T, HD, 500000.0, ctypes.byref(llmc.RopeScaling(8.0, 1.0, 4.0, 8192)))
    starts = draw_documents(T, HD == 64)
    qkv = torch.randn(T, NH + 2 * NKV, HD).to(lib.floatX)
    x = lib.x(qkv)
    lib.rope_forward(x, lib.device(table), AttentionMask(lib.device(starts)), AttentionShape(1, T, NH, NKV, HD))
    rotated = x.get()

    inverse = 500000.0 ** (-torch.arange(0, HD, 2, dtype=torch.float64) / HD)
    turns = 8192 * inverse / (2 * math.pi)  # within the original context
    kept = ((turns - 1) / (4 - 1)).clamp(0, 1)
    at = pick(T, starts)
    angle = (at - starts[at]).double()[:, None, None] * (kept * inverse + (1 - kept) * inverse / 8)
    a, b = qkv[at, : NH + NKV].double().split(HD // 2, dim=-1)
    want = torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)
    limit = 2.0**-8 if lib.precision == "bf16" else compare.FP32_LIMIT
    assert compare.relative_error(rotated[at, : NH + NKV], want) <= limit
    assert torch.equal(rotated[:, NH + NKV :], qkv[:, NH + NKV :])
