"""Token shards: read back exactly, at any size; foreign and damaged ones are refused, with what was expected."""

import gc
import hashlib
import os
from ctypes import byref, c_uint8

import numpy as np
import pytest

from hostlib import (
    FAULT,
    INPUT,
    Shard,
    call,
    expect_refusal,
    fresh_random,
    library,
    path_bytes,
    pointer,
    shard_header,
    write_shard,
)

from shardfiles import opened, read

pytestmark = pytest.mark.checked


@pytest.mark.parametrize("bits, vocab", [(16, 65536), (16, 300), (32, 128256), (32, 2**31 - 1)])
def test_reads_back(tmp_path, bits, vocab):
    rng = fresh_random()
    tokens = rng.integers(0, vocab, int(rng.integers(1, 5000)))
    tokens[-1] = vocab - 1
    shard = opened(write_shard(tmp_path / "a.bin", tokens, bits=bits, vocab=vocab, bos=3, eos=0xFFFFFFFF))
    assert (shard.token_bits, shard.vocab_size, shard.token_count) == (bits, vocab, len(tokens))
    assert (shard.bos_id, shard.eos_id, bytes(shard.tokenizer_sha256)) == (3, 0xFFFFFFFF, bytes(range(32)))
    assert (read(shard, 0, len(tokens)) == tokens).all()
    for _ in range(20):
        first = int(rng.integers(0, len(tokens)))
        count = int(rng.integers(0, len(tokens) - first + 1))
        assert (read(shard, first, count) == tokens[first : first + count]).all()
    library.shard_close(byref(shard))


GOOD = shard_header(10) + bytes(20)


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", ["0 bytes", "256"]),
        (GOOD[:100], ["100 bytes", "256"]),
        (GOOD[:-1], ["10 tokens", "room for 9", "truncated"]),
        (GOOD[:-6], ["10 tokens", "room for 7", "truncated"]),
        (GOOD + b"\0", ["10 tokens", "1 bytes more", "disagree"]),
        (GOOD + b"\0\0", ["10 tokens", "room for 11", "disagree"]),
        (
            shard_header(2**63 + 5) + bytes(10),
            [2**63 + 5, "room for 5"],
        ),  # times the width it would wrap round to 10
        (shard_header(10, magic=b"GGUF\0\0\0\0") + bytes(20), ["magic", "L3SHARD", "47475546"]),
        (shard_header(10, version=2) + bytes(20), ["version is 2", "expected 1"]),
        (
            shard_header(10, byte_order=0x04030201) + bytes(20),
            ["byte order", "0x04030201", "0x01020304", "big endian"],
        ),
        (shard_header(10, bits=24) + bytes(20), ["24 bits", "16 or 32"]),
        (shard_header(10, vocab=0) + bytes(20), ["vocabulary size is 0"]),
        (shard_header(10, vocab=65537) + bytes(20), ["vocabulary size is 65537", "65536"]),
        (shard_header(10, bits=32, vocab=2**31) + bytes(40), ["vocabulary size is 2147483648"]),
        (shard_header(10, bos=1000) + bytes(20), ["begin-of-document id is 1000", "1000"]),
        (shard_header(10, eos=5000) + bytes(20), ["end-of-document id is 5000"]),
        (GOOD[:80] + b"\1" + GOOD[81:], ["byte 80", "expected 0"]),
    ],
)
def test_refused(tmp_path, content, words):
    path = tmp_path / "bad.bin"
    path.write_bytes(content)
    expect_refusal(INPUT, [path, *words], "shard_open", byref(Shard()), path_bytes(path))


def test_not_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "missing", tmp_path / "pipe"):
        expect_refusal(INPUT, [path], "shard_open", byref(Shard()), path_bytes(path))


def test_failed_opens_leak_no_descriptor(tmp_path):
    (tmp_path / "bad.bin").write_bytes(GOOD[:-1])
    gc.collect()  # or a file that an earlier test has left in a cycle may be closed in between
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        expect_refusal(INPUT, [], "shard_open", byref(Shard()), path_bytes(tmp_path / "bad.bin"))
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("bits, bad", [(16, 1000), (16, 65535), (32, 1000), (32, 2**31), (32, 2**32 - 1)])
def test_id_outside_the_vocabulary(tmp_path, bits, bad):
    tokens = fresh_random().integers(0, 1000, 400)
    tokens[273] = bad
    shard = opened(write_shard(tmp_path / "a.bin", tokens, bits=bits))
    buffer = np.empty(400, np.int32)
    expect_refusal(
        INPUT,
        [tmp_path / "a.bin", "token 273 ", f"id {bad},", "1000"],
        "shard_read",
        byref(shard),
        200,
        100,
        pointer(buffer),
    )
    assert (read(shard, 274, 126) == tokens[274:]).all()
    library.shard_close(byref(shard))


def test_shard_that_shrinks_is_an_error_and_no_signal(tmp_path):
    path = write_shard(tmp_path / "a.bin", np.zeros(100000))
    shard = opened(path)
    os.truncate(path, 256 + 1000)
    buffer = np.empty(2000, np.int32)
    expect_refusal(FAULT, [path, "1256"], "shard_read", byref(shard), 0, 2000, pointer(buffer))
    library.shard_close(byref(shard))


def test_over_2_gib_and_over_2_31_tokens(tmp_path):
    count = 2**32 + 7  # sparse: no block on the disk but the ends
    path = tmp_path / "big.bin"
    path.write_bytes(shard_header(count))
    os.truncate(path, 256 + 2 * count)
    with open(path, "r+b") as file:
        for place, value in ((0, 5), (2**31, 6), (2**32, 7), (count - 1, 8)):
            file.seek(256 + 2 * place)
            file.write(value.to_bytes(2, "little"))
    shard = opened(path)
    assert shard.token_count == count
    assert list(read(shard, 0, 2)) == [5, 0]
    assert list(read(shard, 2**31 - 1, 3)) == [0, 6, 0]
    assert list(read(shard, 2**32 - 1, 3)) == [0, 7, 0]
    assert list(read(shard, count - 2, 2)) == [0, 8]
    library.shard_close(byref(shard))


@pytest.mark.parametrize("length", [0, 1, 55, 56, 63, 64, 65, 119, 120, 128, 16384, 16385, 100003])
def test_sha256(tmp_path, length):
    data = fresh_random().bytes(length)
    (tmp_path / "f").write_bytes(data)
    digest = (c_uint8 * 32)()
    call("sha256_file", path_bytes(tmp_path / "f"), digest)
    assert bytes(digest) == hashlib.sha256(data).digest()
