"""RoPE against transformers' Llama implementation: table, scaling, rotation, positions within documents."""

import ctypes

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

import compare
import llmc

# B, T, NH, NKV, HD
SHAPES = [(1, 1, 1, 1, 16), (2, 37, 9, 3, 48), (3, 65, 8, 4, 32), (1, 130, 4, 1, 128), (1, 9, 3, 3, 256), (2, 100, 40, 8, 64)]
SCALINGS = {
    "none": None,
    "llama3.1": llmc.RopeScaling(8.0, 1.0, 4.0, 8192),
    "llama3.2": llmc.RopeScaling(32.0, 1.0, 4.0, 8192),
    "short": llmc.RopeScaling(4.0, 1.0, 2.0, 64),
}


def hugging_face(T, HD, theta, scaling):
    parameters = {"rope_theta": theta, "rope_type": "default"}
    if scaling:
        parameters |= {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_max_position,
        }
    config = LlamaConfig(
        hidden_size=HD, num_attention_heads=1, head_dim=HD, max_position_embeddings=max(T, 131072), rope_parameters=parameters
    )
    return LlamaRotaryEmbedding(config)


def make_table(lib, T, HD, theta, scaling=None):
    table = torch.full((T, HD // 2, 2), float("nan"))
    lib.rope_table(table, T, HD, theta, ctypes.byref(scaling) if scaling else None)
    return table


@pytest.mark.checked
@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("theta", [10000.0, 500000.0])
@pytest.mark.parametrize("T, HD", [(1, 16), (77, 48), (301, 128)])
def test_table(lib, T, HD, theta, scaling):
    table = make_table(lib, T, HD, theta, SCALINGS[scaling]).double()
    rope = hugging_face(T, HD, theta, SCALINGS[scaling])
    # transformers' frequencies are fp32: their angle at position t is off by t times their error, so the comparison is of
    # our frequencies (read back at t = 1, as an angle) with theirs, and of our table with its own frequencies in float64
    if T > 1:
        angle = torch.atan2(table[1, :, 1], table[1, :, 0])
        compare.check("frequencies", angle, rope.inv_freq.double())
    exact = rope.inv_freq.double()[None] * torch.arange(T, dtype=torch.float64)[:, None]
    limit = 2.0**-22 * max(T, 2)  # their frequencies' rounding, at most 2^-22 radian a position
    assert (table[..., 0] - exact.cos()).abs().max() <= limit
    assert (table[..., 1] - exact.sin()).abs().max() <= limit


def split(qkv, NH, NKV, HD):
    """[B, T, heads * HD] → q, k as [B, heads, T, HD] and v flat."""
    B, T, _ = qkv.shape
    q, k, v = qkv.split([NH * HD, NKV * HD, NKV * HD], dim=-1)
    return q.reshape(B, T, NH, HD).transpose(1, 2), k.reshape(B, T, NKV, HD).transpose(1, 2), v


def join(q, k, v):
    return torch.cat([q.transpose(1, 2).flatten(2), k.transpose(1, 2).flatten(2), v], dim=-1)


def rotate(qkv, table, positions, NH, NKV, HD, sign=1):
    """transformers' rotation in the type of qkv, from our table."""
    at = table[positions].to(qkv.dtype)  # [B, T, HD/2, 2]
    cos, sin = torch.cat([at[..., 0]] * 2, -1), torch.cat([at[..., 1]] * 2, -1) * sign
    q, k, v = split(qkv, NH, NKV, HD)
    return join(*apply_rotary_pos_emb(q, k, cos, sin), v)


def draw_documents(B, T):
    """doc_start of rows with documents of random lengths, some of length 1."""
    starts = torch.rand(B, T) < 0.2
    starts[:, 0] = True
    return torch.where(starts, torch.arange(T), 0).cummax(dim=1).values


@pytest.mark.checked
@pytest.mark.parametrize("documents", [False, True])
@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("B, T, NH, NKV, HD", SHAPES)
def test_rotation(lib, B, T, NH, NKV, HD, direction, documents):
    qkv = torch.randn(B, T, (NH + 2 * NKV) * HD).to(lib.floatX)
    doc_start = draw_documents(B, T) if documents else torch.zeros(B, T, dtype=torch.int64)
    positions = torch.arange(T) - doc_start
    table = make_table(lib, T, HD, 10000.0)
    launcher = lib.rope_forward if direction == "forward" else lib.rope_backward

    def run():
        x = lib.x(qkv)
        launcher(x, lib.device(table), llmc.AttentionMask(lib.device(doc_start)), llmc.AttentionShape(B, T, NH, NKV, HD))
        return x.get()

    out = lib.same_bits(run)
    sign = 1 if direction == "forward" else -1
    rotated = (NH + NKV) * HD
    assert torch.equal(out[..., rotated:], qkv[..., rotated:]), "values must stay as they are"
    reference = rotate(qkv.double(), table.double(), positions, NH, NKV, HD, sign)
    theirs = rotate(qkv, table, positions, NH, NKV, HD, sign) if lib.precision == "bf16" else None
    compare.check("rotated", out[..., :rotated], reference[..., :rotated], None if theirs is None else theirs[..., :rotated])


@pytest.mark.checked
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_excluded_keys(lib, direction):
    """The keys that are excluded from a token do not count in its position."""
    B, T, NH, NKV, HD = 2, 70, 3, 1, 32
    qkv = torch.randn(B, T, (NH + 2 * NKV) * HD).to(lib.floatX)
    doc_start, t = draw_documents(B, T), torch.arange(T)
    begin = doc_start + (torch.rand(B, T) * (t - doc_start + 1)).long()
    end = begin + (torch.rand(B, T) * (t - begin + 1)).long()
    table = make_table(lib, T, HD, 10000.0)
    launcher = lib.rope_forward if direction == "forward" else lib.rope_backward

    def run():
        x = lib.x(qkv)
        mask = llmc.AttentionMask(lib.device(doc_start), lib.device(torch.stack([begin, end], -1)))
        launcher(x, lib.device(table), mask, llmc.AttentionShape(B, T, NH, NKV, HD))
        return x.get()

    out, sign = lib.same_bits(run), 1 if direction == "forward" else -1
    positions = t - doc_start - (end - begin)
    reference = rotate(qkv.double(), table.double(), positions, NH, NKV, HD, sign)
    compare.check("rotated", out, reference, rotate(qkv, table, positions, NH, NKV, HD, sign) if lib.precision == "bf16" else None)


def test_like_transformers(lib):
    """The rotation with the table, against transformers from configuration to result."""
    B, T, NH, NKV, HD = 2, 50, 4, 2, 64
    scaling = SCALINGS["llama3.2"]
    qkv = torch.randn(B, T, (NH + 2 * NKV) * HD).to(lib.floatX)
    x = lib.x(qkv)
    mask = llmc.AttentionMask(lib.zeros((B, T), torch.int32))
    lib.rope_forward(x, lib.device(make_table(lib, T, HD, 500000.0, scaling)), mask, llmc.AttentionShape(B, T, NH, NKV, HD))
    rope = hugging_face(T, HD, 500000.0, scaling)

    def theirs(dtype):
        q, k, v = split(qkv.to(dtype), NH, NKV, HD)
        cos, sin = rope(q, torch.arange(T)[None])
        return join(*apply_rotary_pos_emb(q, k, cos, sin), v)

    compare.check("rotated", x.get(), theirs(torch.float64), theirs(torch.bfloat16) if lib.precision == "bf16" else None)
