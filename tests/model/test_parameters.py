"""The table of parameters divided among shards."""

import ctypes
import random

import pytest

import model as models
from model import table_of


def piece(lib, table, tensor, shard):
    function = lib.c.parameter_piece
    function.restype = models.ParameterPiece
    return function(ctypes.byref(table), tensor, shard)


@pytest.mark.checked
@pytest.mark.parametrize("shards", [1, 2, 3, 4, 7, 64])
def test_every_element_has_one_owner(lib, shards):
    hidden = 16 * random.randint(1, 6)
    fields = dict(models.TINY, hidden_size=hidden, vocab_size=random.randint(2, 500), tie_word_embeddings=random.random() < 0.5)
    table = table_of(lib, fields, shards)
    taken = [set() for _ in range(shards)]
    for i in range(table.count):
        t = table.tensors[i]
        next_first = 0
        for shard in range(shards):
            p = piece(lib, table, i, shard)
            if p.count == 0:
                continue
            assert p.first == next_first
            next_first += p.count
            places = set(range(p.at, p.at + p.count))
            assert not places & taken[shard] and max(places) < table.num_shard_elements
            taken[shard] |= places
        assert next_first == t.rows * t.cols
    lib.parameter_table_free(ctypes.byref(table))


@pytest.mark.parametrize("shards", [1, 2, 3, 5])
def test_buckets(lib, shards):
    """They follow each other, are whole multiples, decay as their tensors do, and hold a layer's matrices each."""
    fields = dict(models.TINY, num_hidden_layers=3)
    table = table_of(lib, fields, shards)
    end = 0
    for b in range(table.num_buckets):
        bucket = table.buckets[b]
        assert bucket.begin == end and (bucket.end - bucket.begin) % (128 * shards) == 0
        end = bucket.end
        for i in range(table.count):
            t = table.tensors[i]
            if bucket.begin <= t.offset < bucket.end:
                assert t.offset + t.padded_rows * t.cols <= bucket.end and t.decay == bucket.decay
                name = t.name.decode()
                assert t.dims == 1 if b == table.norm_bucket else f"layers.{b - 1}." in name or b in (0, table.head_bucket)
    assert end == table.num_elements == shards * table.num_shard_elements
    assert (table.head_bucket, table.norm_bucket, table.num_buckets) == (4, 5, 6)
    lib.parameter_table_free(ctypes.byref(table))
