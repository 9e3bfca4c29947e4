"""Functions of libllmc that need no kernel and no device, through ctypes.

LLMC_BUILD names the folder of the library (of several, separated by colons, the first is taken), else it is
build/LLMC_TARGET.
"""

import ctypes
import os
import random
import struct
from ctypes import POINTER, byref, c_bool, c_char_p, c_double, c_int, c_int64, c_size_t, c_uint8, c_uint32, c_uint64, c_void_p

import cstructs
import numpy as np

REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_DEFAULT_BUILD = os.path.join("build", os.environ.get("LLMC_TARGET", "cpu"))
BUILD = os.path.join(REPOSITORY, os.environ.get("LLMC_BUILD", _DEFAULT_BUILD).split(":")[0])
library = ctypes.CDLL(os.path.join(BUILD, "libllmc.so"))

INPUT, FAULT = 2, 1

HEADERS = ("base/error.h", "model/config.h", "loader/batch.h", "loader/shard.h", "loader/rows.h", "loader/packing.h",
           "loader/spec.h", "checkpoint/safetensors.h")  # fmt: skip
NAMES = "Error LlamaConfig Shard Row RowFile Packing LoaderSpec Batch SafetensorsTensor"
STRUCTS = cstructs.read(*HEADERS)
Error, LlamaConfig, Shard, Row, RowFile, Packing, LoaderSpec, Batch, SafetensorsTensor = map(STRUCTS.get, NAMES.split())


class Failure(Exception):
    """A library function returned an error, with this code and message."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code, self.message = code, message


_void, _text, _err = c_void_p, c_char_p, POINTER(Error)
_signatures = {
    # fallible: the last parameter is Error *
    "llama_config_read": (c_int, POINTER(LlamaConfig), _text, _err),
    "llama_config_write": (c_int, POINTER(LlamaConfig), _text, _err),
    "sha256_file": (c_int, _text, _void, _err),
    "shard_open": (c_int, POINTER(Shard), _text, _err),
    "shard_read": (c_int, POINTER(Shard), c_uint64, c_size_t, _void, _err),
    "rows_open": (c_int, POINTER(RowFile), _text, _err),
    "rows_read": (c_int, POINTER(RowFile), c_uint64, _void, _err),
    "packing_create": (c_int, POINTER(Packing), _void, c_uint32, c_uint32, c_uint64, _err),
    "loader_open": (c_int, POINTER(_void), _text, POINTER(LoaderSpec), c_int, _void, _err),
    "loader_fetch": (c_int, _void, c_int64, c_int, POINTER(Batch), _err),
    "tokenizer_open": (c_int, POINTER(_void), _text, _err),
    "safetensors_open": (c_int, POINTER(_void), _text, _err),
    "safetensors_open_model": (c_int, POINTER(_void), _text, _err),
    "safetensors_read": (c_int, _void, POINTER(SafetensorsTensor), c_uint64, c_size_t, _void, _err),
    "safetensors_create": (c_int, POINTER(_void), _text, POINTER(SafetensorsTensor), c_int, _err),
    "safetensors_write": (c_int, _void, _void, c_size_t, _err),
    "safetensors_finish": (c_int, _void, _err),
    # plain
    "shard_close": (None, POINTER(Shard)),
    "rows_close": (None, POINTER(RowFile)),
    "packing_free": (None, POINTER(Packing)),
    "loader_close": (None, _void),
    "loader_num_windows": (c_uint64, _void),
    "loader_num_batches": (c_uint64, _void),
    "loader_num_rows": (c_uint64, _void),
    "loader_num_skipped": (c_uint64, _void),
    "loader_num_answers": (c_uint64, _void),
    "loader_fill": (c_double, _void),
    "loader_num_tokens": (c_uint64, _void),
    "loader_num_shards": (c_int, _void),
    "loader_fingerprint": (c_uint64, _void),
    "loader_bos_id": (c_uint32, _void),
    "tokenizer_close": (None, _void),
    "tokenizer_vocab_size": (c_int, _void),
    "tokenizer_sha256": (POINTER(c_uint8), _void),
    "tokenizer_decode": (c_size_t, _void, _void, c_size_t, c_bool, _void, c_size_t),
    "safetensors_count": (c_int, _void),
    "safetensors_at": (POINTER(SafetensorsTensor), _void, c_int),
    "safetensors_find": (POINTER(SafetensorsTensor), _void, _text),
    "safetensors_path": (c_char_p, _void, POINTER(SafetensorsTensor)),
    "safetensors_tensor_bytes": (c_uint64, POINTER(SafetensorsTensor)),
    "safetensors_discard": (None, _void),
    "safetensors_close": (None, _void),
}
for _name, (_result, *_parameters) in _signatures.items():
    _function = getattr(library, _name)
    _function.restype, _function.argtypes = _result, _parameters


def call(name, *arguments):
    """Calls a fallible function, without its Error argument; raises Failure."""
    error = Error()
    code = getattr(library, name)(*arguments, byref(error))
    if code != 0:
        message = error.message.decode(errors="replace")
        assert code == error.code and message and "\n" not in message
        raise Failure(code, message)


def path_bytes(path):
    return os.fsencode(str(path))


def pointer(array):
    return array.ctypes.data


def batch_at(*addresses, **counts):
    """A Batch whose arrays lie at these addresses, in the order of its fields; None: there is no such array."""
    arrays = (ctypes.cast(address, kind) for address, (_, kind) in zip(addresses, Batch._fields_))
    return Batch(*arrays, **counts)


def fresh_random():
    """A generator of its own for each call, from the test's seed."""
    return np.random.default_rng(random.getrandbits(32))


def expect_refusal(code, words, name, *arguments):
    """Asserts that the call fails with that code and a message that contains all the words. Returns the message."""
    try:
        call(name, *arguments)
    except Failure as failure:
        assert failure.code == code, failure.message
        for word in words:
            assert str(word) in failure.message, f"{word!r} not in: {failure.message}"
        return failure.message
    raise AssertionError(f"{name} accepted what it had to refuse ({words})")


def shard_header(
    count,
    bits=16,
    vocab=1000,
    bos=0,
    eos=1,
    sha=bytes(range(32)),
    magic=b"L3SHARD\0",
    version=1,
    byte_order=0x01020304,
):
    header = magic + struct.pack("<IIIIQII", version, byte_order, bits, vocab, count, bos, eos) + sha
    return header.ljust(256, b"\0")


def write_shard(path, tokens, bits=16, **fields):
    tokens = np.asarray(tokens)
    data = tokens.astype("<u2" if bits == 16 else "<u4").tobytes()
    fields = {"count": len(tokens), "bits": bits, **fields}
    path.write_bytes(shard_header(**fields) + data)
    return path
