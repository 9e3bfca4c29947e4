"""Cases of attention, and the rule that judges the results: against float64, and PyTorch's error as in compare.py."""

import math

import torch
from compare import check, relative_error
from llmc import AttentionMask, AttentionShape


def make_documents(B, T, documents):
    """doc_start [B,T]. The first row begins with documents of length 1, then come some of random length."""
    starts = torch.zeros(B, T, dtype=torch.int32)
    if not documents:
        return starts
    for b in range(B):
        t = 0
        while t < T:
            length = 1 if t < 3 and b == 0 else int(torch.randint(1, max(2, T // 2), ()))
            starts[b, t : t + length] = t
            t += length
    return starts


class Case:
    """Inputs on the host, in floatX."""

    def __init__(self, lib, shape):
        self.lib, self.excluded = lib, None
        self.T, self.NH, self.NKV, self.HD, self.B, documents = shape
        self.width = (self.NH + 2 * self.NKV) * self.HD
        # scores of a spread that makes the softmax neither flat nor one-hot
        self.qkv = (torch.randn(self.B, self.T, self.width) * 1.3).to(lib.floatX)
        self.dout = torch.randn(self.B, self.T, self.NH * self.HD).to(lib.floatX)
        self.starts = make_documents(self.B, self.T, documents)
        self.look()

    def look(self):
        """seen [B,T,T] from starts and excluded"""
        query, key = torch.arange(self.T)[:, None], torch.arange(self.T)[None, :]
        self.seen = (key <= query)[None] & (key[None] >= self.starts[:, :, None])
        if self.excluded is not None:
            self.seen &= ~((key[None] >= self.excluded[:, :, :1]) & (key[None] < self.excluded[:, :, 1:]))

    def exclude(self, starts, excluded):
        self.starts, self.excluded = starts, excluded
        self.look()

    def sizes(self):
        return AttentionShape(self.B, self.T, self.NH, self.NKV, self.HD)

    def run(self, scratch=None):
        """out, lse, dqkv of our kernels, outputs poisoned before, and scratch too if it isn't given."""
        lib, rows = self.lib, (self.B, self.T, self.NH * self.HD)
        qkv, dout, shape = lib.x(self.qkv), lib.x(self.dout), self.sizes()
        mask = AttentionMask(lib.device(self.starts), None if self.excluded is None else lib.device(self.excluded))
        out, lse = lib.empty(rows), lib.empty((self.B, self.NH, self.T), torch.float32)
        lib.attention_forward(out, lse, qkv, mask, shape)
        dqkv = lib.empty(self.qkv.shape)
        scratch = scratch or lib.empty(lib.attention_backward_scratch(shape), torch.float32)
        lib.attention_backward(dqkv, scratch, dout, out, qkv, lse, mask, shape)
        return out.get(), lse.get(), dqkv.get()

    def split(self, qkv):
        """q [B,NH,T,HD], k, v [B,NKV,T,HD]"""
        heads = qkv.view(self.B, self.T, -1, self.HD).transpose(1, 2)
        return heads.split([self.NH, self.NKV, self.NKV], dim=1)

    def reference(self, attend, dtype):
        """out, dqkv of attend(q, k, v, mask) with k, v repeated for each query head of their group."""
        qkv = self.qkv.to(dtype).requires_grad_()
        q, k, v = self.split(qkv)
        group = self.NH // self.NKV
        out = attend(q, k.repeat_interleave(group, 1), v.repeat_interleave(group, 1), self.seen[:, None])
        out = out.transpose(1, 2).reshape(self.B, self.T, -1)
        out.backward(self.dout.to(dtype))
        return out.detach(), qkv.grad


def plain_attention(q, k, v, seen):
    scores = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).masked_fill(~seen, -math.inf)
    return scores.softmax(-1) @ v


def fused_attention(q, k, v, seen):
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen)


def check_case(lib, case):
    """On the CPU in both forms of the kernels, which sum dK and dV over the queries in different orders."""
    out, lse, dqkv = lib.same_bits(case.run, seeds=(0, 0))
    results = [dqkv]
    if lib.on_cpu and not lib.race:
        *same, lanes = lib.same_bits(case.run, seeds=(7,))
        results.append(lanes)
        assert all(map(torch.equal, (out, lse, case.split(dqkv)[0]), (*same, case.split(lanes)[0])))
    want_out, want_dqkv = case.reference(plain_attention, torch.float64)
    theirs_out = theirs_dqkv = None
    if lib.precision == "bf16":
        theirs_out, theirs_dqkv = case.reference(fused_attention, torch.bfloat16)
    check("out", out, want_out, theirs_out)
    q, k, _ = case.split(case.qkv.double())
    scores = q @ k.repeat_interleave(case.NH // case.NKV, 1).transpose(-1, -2) / math.sqrt(case.HD)
    want_lse = torch.logsumexp(scores.masked_fill(~case.seen[:, None], -math.inf), -1)
    assert relative_error(lse, want_lse) <= 1e-5, "lse"  # fp32 from exact products, in both builds
    for dqkv in results:
        for name, ours, want, theirs in zip(
            ("dq", "dk", "dv"),
            case.split(dqkv),
            case.split(want_dqkv),
            case.split(theirs_dqkv) if theirs_dqkv is not None else (None,) * 3,
        ):
            check_gradient(name, ours, want, theirs)


def check_gradient(name, ours, want, theirs):
    # Where every query sees one key only, p = 1 whatever the score: dq and dk are 0, and what is left is the
    # rounding of dP - D, two fp32 sums of HD terms of order 1.
    if want.abs().max() < 1e-12:
        assert ours.double().abs().max() <= 1e-4, f"{name}: {ours.double().abs().max()}, expected 0"
        return
    check(name, ours, want, theirs)
