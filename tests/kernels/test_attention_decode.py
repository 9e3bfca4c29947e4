"""Attention of one new token a row over the cache of keys and values, and the filling of that cache, against float64 by
the rule of compare.py."""

import math

import numpy
import pytest
import torch
from compare import check
from llmc import AttentionShape, KvCache, NewTokens

BLOCK, SPLIT = 64, 256  # KV_CACHE_BLOCK; keys of one block of the kernel's grid

# query heads, key/value heads, head dimension, cached tokens of each row with the new one (rows of the batch), capacity
# Lengths on both sides of a thread's 8 keys, of a block of the cache and of a split; groups of 1 to 12 heads.
SHAPES = [
    (4, 4, 64, [1, 8, 9], 64),
    (8, 2, 64, [63, 64, 65, 200], 256),
    (9, 3, 48, [255, 256, 257, 7], 320),
    (8, 4, 16, [300, 1, 513], 576),
    (5, 1, 32, [130, 259], 320),
    (12, 1, 128, [700, 3], 704),
    (8, 1, 80, [257], 320),
    (2, 1, 256, [40, 300], 320),
    (2, 2, 208, [129], 192),
    (32, 8, 128, [1025], 1088),
    (8, 2, 128, [8193, 5000], 8256),
    (8, 2, 64, [16400], 16448),
]
SMALL = [(3, 1, 16, [1, 19], 64), (4, 4, 48, [70], 128), (9, 1, 16, [258, 2], 320)]


class Case:
    """Inputs on the host, in floatX. The cache has one row more than the batch, and rows stand in another order."""

    def __init__(self, lib, shape, spread=1.3):
        self.lib = lib
        self.NH, self.NKV, self.HD, self.lengths, self.capacity = shape
        self.n, self.longest = len(self.lengths), max(self.lengths)
        self.width = (self.NH + 2 * self.NKV) * self.HD
        self.rows = torch.randperm(self.n + 1)[: self.n]
        # tokens of each row as the model makes them: [length, NH + 2 NKV, HD], keys rotated; the last is the new one
        self.tokens = [(torch.randn(t, self.NH + 2 * self.NKV, self.HD) * spread).to(lib.floatX) for t in self.lengths]

    def shape(self):
        return AttentionShape(self.n + 1, self.capacity, self.NH, self.NKV, self.HD)

    def positions(self):
        return torch.tensor(self.lengths) - 1

    def placed(self):
        return NewTokens(self.lib.device(self.rows), self.lib.device(self.positions()))

    def new_tokens(self):
        return torch.stack([t[-1] for t in self.tokens]).reshape(self.n, self.width)

    def cache(self):
        """Keys and values on the device as the header lays them out; all that is no token of a row is NaN."""
        shape = (self.n + 1, self.NKV, self.capacity, self.HD)
        keys, values = torch.full(shape, math.nan), torch.full(shape, math.nan)
        for row, tokens in zip(self.rows, self.tokens):
            heads = tokens.float().transpose(0, 1)
            keys[row, :, : len(tokens)] = heads[self.NH : self.NH + self.NKV]
            values[row, :, : len(tokens)] = heads[self.NH + self.NKV :]
        blocks = keys.reshape(self.n + 1, self.NKV, self.capacity // BLOCK, BLOCK, self.HD).transpose(-1, -2)
        return self.lib.x(blocks.contiguous()), self.lib.x(values)

    def run(self):
        lib = self.lib
        keys, values = self.cache()
        out = lib.empty((self.n, self.NH * self.HD))
        scratch = lib.empty(lib.attention_decode_scratch(self.n, self.longest, self.shape()), torch.float32)
        cache = KvCache(keys, values, self.shape())
        lib.attention_decode(out, scratch, lib.x(self.new_tokens()), cache, self.placed(), self.longest)
        scratch.get()  # nothing is written around it
        return out.get()

    def reference(self, attend, dtype):
        found = []
        for tokens in self.tokens:
            heads = tokens.to(dtype).transpose(0, 1)
            q, k, v = heads.split([self.NH, self.NKV, self.NKV])
            group = self.NH // self.NKV
            found.append(attend(q[:, -1:], k.repeat_interleave(group, 0), v.repeat_interleave(group, 0)).reshape(-1))
        return torch.stack(found)


def plain_attention(q, k, v):
    return (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1) @ v


def fused_attention(q, k, v):
    return torch.nn.functional.scaled_dot_product_attention(q[None], k[None], v[None])[0]


def check_case(case):
    out = case.lib.same_bits(case.run, seeds=(0, 0, 7, 12345))
    theirs = case.reference(fused_attention, torch.bfloat16) if case.lib.precision == "bf16" else None
    check("out", out, case.reference(plain_attention, torch.float64), theirs)
    return out


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_attention(lib, shape):
    check_case(Case(lib, shape))


@pytest.mark.checked
@pytest.mark.parametrize("shape", SMALL, ids=str)
def test_attention_small(lib, shape):
    check_case(Case(lib, shape))


def test_large_scores(lib):
    """Scores far apart: splits weigh nothing beside each other, nothing overflows."""
    check_case(Case(lib, (4, 2, 64, [600, 20], 640), spread=15))


def test_a_row_does_not_feel_its_neighbours(lib):
    """The same bits for a row alone and in a batch with longer ones."""
    case = Case(lib, (4, 2, 64, [300, 17, 900], 960))
    together = case.run()
    for i in range(case.n):
        alone = Case(lib, (4, 2, 64, [case.lengths[i]], 960))
        alone.tokens = [case.tokens[i]]
        assert torch.equal(alone.run()[0], together[i])


# ---- filling the cache


def check_cache(case, keys, values, given):
    """Every cached token as the reference has it; what belongs to no token is poison as before."""
    want_keys, want_values = (buffer.get() for buffer in case.cache())
    for name, got, want in (("keys", keys, want_keys), ("values", values, want_values)):
        got = got.get().reshape(want.shape)
        assert torch.equal(torch.isnan(got), torch.isnan(want)), f"{name}: written elsewhere, or not written"
        assert torch.equal(got.nan_to_num(), want.nan_to_num()), f"{name}: {given}"


def check_store(case):
    lib = case.lib

    def run():
        keys, values = (lib.empty(buffer.shape) for buffer in case.cache())
        for row, tokens in zip(case.rows, case.tokens):
            lib.kv_cache_store(KvCache(keys, values, case.shape()), lib.x(tokens), int(row), len(tokens))
        check_cache(case, keys, values, "stored")
        return keys.get(), values.get()

    lib.same_bits(run)


def rotation_table(capacity, HD):
    angle = torch.outer(torch.arange(capacity).double(), 10000.0 ** (-torch.arange(0, HD, 2).double() / HD))
    return torch.stack([angle.cos(), angle.sin()], -1)


def rotate(x, table, dtype):
    """x [n, heads, HD], table [n, HD/2, 2]"""
    a, b = x.to(dtype).chunk(2, -1)
    cosine, sine = (table[:, None, :, i].to(dtype) for i in (0, 1))
    return torch.cat([a * cosine - b * sine, b * cosine + a * sine], -1)


def check_append(case):
    lib, positions = case.lib, case.positions()
    table = rotation_table(case.capacity, case.HD)
    new = case.new_tokens().reshape(case.n, -1, case.HD)
    turned = case.NH + case.NKV

    def run():
        keys, values = case.cache()
        qkv = lib.x(new)
        lib.kv_cache_append(qkv, KvCache(keys, values, case.shape()), lib.device(table.float()), case.placed())
        return qkv.get(), keys.get(), values.get()

    qkv, keys, values = lib.same_bits(run)
    theirs = None
    if lib.precision == "bf16":
        theirs = rotate(new[:, :turned], table[positions], torch.bfloat16)
    want = rotate(new[:, :turned], table[positions], torch.float64)
    check("queries", qkv[:, : case.NH], want[:, : case.NH], None if theirs is None else theirs[:, : case.NH])
    assert torch.equal(qkv[:, case.NH :], new[:, case.NH :]), "keys and values of qkv stay"
    # the cache's keys by position, and every other place as it was
    before_keys, before_values = (buffer.get() for buffer in case.cache())
    by_position = keys.reshape(case.n + 1, case.NKV, -1, case.HD, BLOCK).transpose(-1, -2)
    by_position = by_position.reshape(case.n + 1, case.NKV, case.capacity, case.HD)
    found = by_position[case.rows, :, positions]
    check("keys", found, want[:, case.NH :], None if theirs is None else theirs[:, case.NH :])
    assert torch.equal(values.nan_to_num(), before_values.nan_to_num()), "values"
    before = before_keys.reshape(case.n + 1, case.NKV, -1, case.HD, BLOCK).transpose(-1, -2).reshape(by_position.shape)
    before[case.rows, :, positions] = found
    assert torch.equal(torch.isnan(before), torch.isnan(by_position))
    assert torch.equal(before.nan_to_num(), by_position.nan_to_num()), "another token's keys"


@pytest.mark.parametrize("shape", SHAPES[:8], ids=str)
def test_store_and_append(lib, shape):
    check_store(Case(lib, shape))
    check_append(Case(lib, shape))


@pytest.mark.checked
@pytest.mark.parametrize("shape", SMALL, ids=str)
def test_store_and_append_small(lib, shape):
    check_store(Case(lib, shape))
    check_append(Case(lib, shape))


def test_appended_values(lib):
    """The new token's values come from qkv, not from what the cache held."""
    case = Case(lib, (4, 2, 32, [5, 66], 128))
    keys, values = case.cache()
    positions, new = case.positions(), case.new_tokens() + 1
    cache = KvCache(keys, values, case.shape())
    lib.kv_cache_append(lib.x(new), cache, lib.device(rotation_table(128, 32).float()), case.placed())
    want = new.to(lib.floatX).reshape(case.n, -1, case.HD)[:, case.NH + case.NKV :]
    assert numpy.array_equal(values.get()[case.rows, :, positions].float().numpy(), want.float().numpy())
