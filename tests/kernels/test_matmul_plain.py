"""The kernel that takes the place of cuBLASLt where that has no algorithm, and when that is."""

import json

import pytest
import torch

import llmc
from compare import check

FLOATX, FP32 = 0, 1  # MatmulOut
KINDS = [(FLOATX, False), (FP32, False), (FP32, True)]
TRANSPOSES = [(False, True), (False, False), (True, False), (True, True)]


def product(launcher, lib, shape, transposes, kind, a, b, d):
    (m, n, k), (out, accumulate) = shape, kind
    buffer = lib.empty((m, n), torch.float32 if out == FP32 else lib.floatX)
    if accumulate:
        buffer.set(d)
    stored = [lib.x(x.T if transposed else x) for x, transposed in zip((a, b), transposes)]
    launcher(buffer, out, *stored, m, n, k, *transposes, accumulate)
    return buffer.get()


def draw(lib, m, n, k):
    return torch.randn(m, k).to(lib.floatX), torch.randn(k, n).to(lib.floatX), torch.randn(m, n)


@pytest.mark.checked
@pytest.mark.parametrize("kind", KINDS, ids=["floatX", "fp32", "accumulate"])
@pytest.mark.parametrize("transposes", TRANSPOSES, ids=["x.wT", "dy.w", "dyT.x", "both"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (17, 33, 1), (5, 3, 31), (64, 130, 127), (300, 7, 80)], ids=str)
def test_product(lib, shape, transposes, kind):
    a, b, d = draw(lib, *shape)
    ours = lib.same_bits(lambda: product(lib.matmul_plain, lib, shape, transposes, kind, a, b, d))
    reference = a.double() @ b.double() + (d.double() if kind[1] else 0)
    check("product", ours, reference, (a @ b) if kind[0] == FLOATX and lib.precision == "bf16" else None)


@pytest.mark.parametrize("path", sorted((llmc.ROOT / "configs").glob("*.json")), ids=lambda path: path.stem)
def test_no_shipped_model_needs_it(path):
    """The leading dimensions of a model's products are widths of its tensors, never a number of tokens: whole 16 bytes each."""
    c = json.loads(path.read_text())
    width = c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"]
    padded_vocabulary = (c["vocab_size"] + 127) // 128 * 128
    widths = (c["hidden_size"], c["num_attention_heads"] * width, (c["num_attention_heads"] + 2 * c["num_key_value_heads"]) * width,
              c["intermediate_size"], padded_vocabulary)  # fmt: skip
    assert all(x % 8 == 0 for x in widths), widths
