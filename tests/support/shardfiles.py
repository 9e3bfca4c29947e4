"""Token shards, read through llmc/loader/shard.h."""

from ctypes import byref

import numpy as np

from hostlib import Shard, call, path_bytes, pointer


def opened(path):
    shard = Shard()
    call("shard_open", byref(shard), path_bytes(path))
    return shard


def read(shard, first, count):
    tokens = np.full(count + 8, -77, np.int32)
    call("shard_read", byref(shard), first, count, pointer(tokens))
    assert (tokens[count:] == -77).all(), "wrote past the end"
    return tokens[:count]
