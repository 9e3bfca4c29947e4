"""Attention of new tokens over the cache of keys and values, and the filling of that cache, against float64 by the rule of
compare.py."""

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
    """Inputs on the host, in floatX. The cache has one row more than the batch, rows stand in another order, and their pages
    anywhere. Of a row's tokens the last `new` are new ones."""

    def __init__(self, lib, shape, spread=1.3, new=1):
        self.lib = lib
        self.NH, self.NKV, self.HD, self.lengths, self.capacity = shape
        self.texts, self.longest = len(self.lengths), max(self.lengths)
        self.width = (self.NH + 2 * self.NKV) * self.HD
        self.rows = torch.randperm(self.texts + 1)[: self.texts]
        # tokens of each row as the model makes them: [length, NH + 2 NKV, HD], keys rotated
        self.tokens = [(torch.randn(t, self.NH + 2 * self.NKV, self.HD) * spread).to(lib.floatX) for t in self.lengths]
        self.new = [(i, at) for i, t in enumerate(self.lengths) for at in range(max(t - new, 0), t)]
        self.n = len(self.new)
        self.place_pages()

    def place_pages(self):
        """table: rows that are as long as the capacity, but for their unused pages, which stand nowhere."""
        blocks = self.capacity // BLOCK
        self.pages = (self.texts + 1) * blocks
        self.table = torch.randperm(self.pages).reshape(-1, blocks).int()
        for row, length in zip(self.rows, self.lengths):
            self.table[row, (length + BLOCK - 1) // BLOCK :] = 1 << 30

    def shape(self):
        return AttentionShape(self.texts + 1, self.capacity, self.NH, self.NKV, self.HD)

    def kv_cache(self, keys, values):
        return KvCache(keys, values, self.lib.device(self.table), self.shape())

    def positions(self):
        return torch.tensor([at for _, at in self.new])

    def new_rows(self):
        return torch.stack([self.rows[i] for i, _ in self.new])

    def placed(self):
        return NewTokens(self.lib.device(self.new_rows()), self.lib.device(self.positions()))

    def new_tokens(self):
        return torch.stack([self.tokens[i][at] for i, at in self.new]).reshape(self.n, self.width)

    def at(self, row, positions):
        """(pages, places in them) of a row's tokens."""
        positions = torch.as_tensor(positions)
        return self.table[row, positions // BLOCK].long(), positions % BLOCK

    def cache(self):
        """Keys and values on the device as the header lays them out; all that is no token of a row is NaN."""
        keys = torch.full((self.pages, self.NKV, self.HD, BLOCK), math.nan)
        values = torch.full((self.pages, self.NKV, BLOCK, self.HD), math.nan)
        for row, tokens in zip(self.rows, self.tokens):
            page, place = self.at(row, torch.arange(len(tokens)))
            heads = tokens.float()
            keys[page, :, :, place] = heads[:, self.NH : self.NH + self.NKV]
            values[page, :, place] = heads[:, self.NH + self.NKV :]
        return self.lib.x(keys), self.lib.x(values)

    def run(self):
        lib = self.lib
        out = lib.empty((self.n, self.NH * self.HD))
        scratch = lib.empty(lib.attention_decode_scratch(self.n, self.longest, self.shape()), torch.float32)
        cache = self.kv_cache(*self.cache())
        lib.attention_decode(out, scratch, lib.x(self.new_tokens()), cache, self.placed(), self.longest)
        scratch.get()  # nothing is written around it
        return out.get()

    def reference(self, attend, dtype):
        found = []
        for i, at in self.new:
            heads = self.tokens[i][: at + 1].to(dtype).transpose(0, 1)
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


@pytest.mark.checked
def test_several_new_tokens_of_a_row(lib):
    """Each sees what is before it, and not the new ones behind it."""
    check_case(Case(lib, (4, 2, 16, [70, 3, 258], 320), new=5))


def test_a_token_does_not_feel_its_neighbours(lib):
    """The same bits for a token alone and in a batch with longer rows and others of its own, wherever the pages are."""
    case = Case(lib, (4, 2, 64, [300, 17, 900], 960), new=3)
    together = case.run()
    for k, (i, at) in enumerate(case.new):
        alone = Case(lib, (4, 2, 64, [at + 1], 960))
        alone.tokens = [case.tokens[i][: at + 1]]
        assert torch.equal(alone.run()[0], together[k])


# ---- filling the cache


def check_cache(case, keys, values, given):
    """Every cached token as the reference has it; what belongs to no token is poison as before."""
    want_keys, want_values = (buffer.get() for buffer in case.cache())
    for name, got, want in (("keys", keys, want_keys), ("values", values, want_values)):
        got = got.get()
        assert torch.equal(torch.isnan(got), torch.isnan(want)), f"{name}: written elsewhere, or not written"
        assert torch.equal(got.nan_to_num(), want.nan_to_num()), f"{name}: {given}"


def check_store(case):
    lib = case.lib

    def run():
        keys, values = (lib.empty(buffer.shape) for buffer in case.cache())
        for row, tokens in zip(case.rows, case.tokens):
            lib.kv_cache_store(case.kv_cache(keys, values), lib.x(tokens), int(row), len(tokens))
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
        lib.kv_cache_append(qkv, case.kv_cache(keys, values), lib.device(table.float()), case.placed())
        return qkv.get(), keys.get(), values.get()

    qkv, keys, values = lib.same_bits(run)
    theirs = None
    if lib.precision == "bf16":
        theirs = rotate(new[:, :turned], table[positions], torch.bfloat16)
    want = rotate(new[:, :turned], table[positions], torch.float64)
    check("queries", qkv[:, : case.NH], want[:, : case.NH], None if theirs is None else theirs[:, : case.NH])
    assert torch.equal(qkv[:, case.NH :], new[:, case.NH :]), "keys and values of qkv stay"
    # the new tokens' keys, and every other place as it was
    before_keys, before_values = (buffer.get() for buffer in case.cache())
    page, place = case.at(case.new_rows(), positions)
    found = keys[page, :, :, place]
    check("keys", found, want[:, case.NH :], None if theirs is None else theirs[:, case.NH :])
    assert torch.equal(values.nan_to_num(), before_values.nan_to_num()), "values"
    before_keys[page, :, :, place] = found
    assert torch.equal(torch.isnan(before_keys), torch.isnan(keys))
    assert torch.equal(before_keys.nan_to_num(), keys.nan_to_num()), "another token's keys"


@pytest.mark.parametrize("shape", SHAPES[:8], ids=str)
def test_store_and_append(lib, shape):
    check_store(Case(lib, shape))
    check_append(Case(lib, shape, new=2))


@pytest.mark.checked
@pytest.mark.parametrize("shape", SMALL, ids=str)
def test_store_and_append_small(lib, shape):
    check_store(Case(lib, shape))
    check_append(Case(lib, shape))


def test_appended_values(lib):
    """The new token's values come from qkv, not from what the cache held."""
    case = Case(lib, (4, 2, 32, [5, 66], 128))
    keys, values = case.cache()
    new = case.new_tokens() + 1
    lib.kv_cache_append(lib.x(new), case.kv_cache(keys, values), lib.device(rotation_table(128, 32).float()), case.placed())
    page, place = case.at(case.rows, case.positions())
    want = new.to(lib.floatX).reshape(case.n, -1, case.HD)[:, case.NH + case.NKV :]
    assert numpy.array_equal(values.get()[page, :, place].float().numpy(), want.float().numpy())
