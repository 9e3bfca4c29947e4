"""Elements beyond the 2^31st of an array: offsets are worked out in 64 bits. The arrays are address space, of which only the
pages in use become memory. What else 8B and 405B need at 4 rows of 8192 tokens is in docs/kernels.md."""

import ctypes
import mmap

import pytest
import torch

from llmc import AttentionShape, KvCache, NewTokens
from seeds import how_often

FAR = 1 << 31
NORESERVE = 0x4000  # of mmap on Linux, which Python 3.11's module does not name


@pytest.fixture
def lib(lib):
    if not lib.on_cpu:
        pytest.skip("address space without memory is the CPU target's")
    return lib


class Sparse:
    """`count` elements of zeros at an address of their own."""

    def __init__(self, lib, count, dtype=None):
        self.dtype = dtype or lib.floatX
        self.size = torch.empty((), dtype=self.dtype).element_size()
        self.memory = mmap.mmap(-1, count * self.size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NORESERVE)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))

    def at(self, first, count):
        """A tensor over some of the elements."""
        return torch.frombuffer(self.memory, dtype=self.dtype, count=count, offset=first * self.size)


def test_embedding(lib):
    """The last token of a table of 131072 rows of 16400 elements."""
    V, C = 131072, 16400
    assert (V - 1) * C > FAR
    weight, row = Sparse(lib, V * C), torch.randn(C).to(lib.floatX)
    weight.at((V - 1) * C, C)[:] = row
    out, tokens = lib.empty((1, C)), lib.device([V - 1])
    lib.embedding_forward(out, tokens, weight.address, 1, C)
    assert torch.equal(out.get()[0], row)
    dweight, dout = Sparse(lib, V * C, torch.float32), torch.randn(1, C).to(lib.floatX)
    lib.embedding_backward(dweight.address, lib.x(dout), tokens, lib.device([0]), 1, C)
    assert torch.equal(dweight.at((V - 1) * C, C), dout[0].float())


def test_lora(lib):
    """The last of 4 rows that are 2^30 elements wide."""
    N, width, cols = 4, 1 << 30, 32
    y, x = Sparse(lib, N * width), torch.randn(N, cols).to(lib.floatX)
    lib.lora_add(y.address, lib.x(x), 1.0, N, width, width - cols, cols)
    assert torch.equal(y.at(N * width - cols, cols), x[-1])
    taken = lib.empty((N, cols))
    lib.lora_take(taken, y.address, 1.0, N, width, width - cols, cols)
    assert torch.equal(taken.get(), x)


@pytest.mark.skipif(not how_often(False, True), reason="in scripts/soak.sh, for its 4 GB of memory")
def test_swiglu(lib):
    """The last of 131072 tokens: all before them are zeros, which are read from pages that are not there."""
    N, F = 131072, 8224
    assert N * 2 * F > FAR
    gate_up, last = Sparse(lib, N * 2 * F), torch.randn(1, 2 * F).to(lib.floatX)
    gate_up.at((N - 1) * 2 * F, 2 * F)[:] = last
    out, want = Sparse(lib, N * F), lib.empty((1, F))
    lib.swiglu_forward(out.address, gate_up.address, N, F)
    lib.swiglu_forward(want, lib.x(last), 1, F)
    assert torch.equal(out.at((N - 1) * F, F), want.get()[0])
    dout, want = out, lib.empty((1, 2 * F))  # any values
    lib.swiglu_backward(gate_up.address, dout.address, gate_up.address, N, F)
    lib.swiglu_backward(want, lib.x(dout.at((N - 1) * F, F)), lib.x(last), 1, F)
    assert torch.equal(gate_up.at((N - 1) * 2 * F, 2 * F), want.get()[0])


def test_cache_and_decoding(lib):
    """The last page of a cache of many: what was written there is what attention reads."""
    B, T, NKV, HD = 4, 64, 8, 128
    pages = FAR // (NKV * T * HD) + 2
    shape = AttentionShape(B, T, NKV, NKV, HD)
    keys, values = Sparse(lib, pages * NKV * T * HD), Sparse(lib, pages * NKV * T * HD)
    table = lib.device(torch.full((B, 1), pages - 1, dtype=torch.int32))
    cache = KvCache.__new__(KvCache)
    cache.keys, cache.values, cache.table, cache.shape = keys.address, values.address, table.address, shape
    qkv = torch.randn(1, 3 * NKV * HD).to(lib.floatX)
    prompt = lib.x(qkv)
    lib.kv_cache_store(cache, prompt, B - 1, 1)
    out, scratch = lib.empty((1, NKV * HD)), lib.empty(lib.attention_decode_scratch(1, 1, shape), torch.float32)
    lib.attention_decode(out, scratch, prompt, cache, NewTokens(lib.device([B - 1]), lib.device([0])), 1)
    assert torch.equal(out.get(), qkv[:, -NKV * HD :])  # one key is all there is to see
