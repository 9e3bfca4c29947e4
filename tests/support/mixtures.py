"""A mixture of sources (llmc/loader/mixture.h), opened through ctypes, over shards whose tokens tell where they stand."""

from ctypes import POINTER, byref, c_char_p, c_double, c_int, c_int64, c_uint64, c_void_p

import cstructs
import numpy as np

from hostlib import Batch, Error, batch_at, call, library, path_bytes, pointer, write_shard

STRUCTS = cstructs.read("loader/mixture.h", "loader/source_order.h")
NAMES = "MixtureSource MixtureSpan MixtureCursor OrderPlace OrderRange SourceOrder"
MixtureSource, MixtureSpan, MixtureCursor, OrderPlace, OrderRange, SourceOrder = map(STRUCTS.get, NAMES.split())
FIELDS = [name for name, _ in MixtureCursor._fields_]

_DOUBLES, _CURSORS, _ERROR = POINTER(c_double), POINTER(MixtureCursor), POINTER(Error)
_ORDER, _RANGE, _U64 = POINTER(SourceOrder), POINTER(OrderRange), POINTER(c_uint64)
for _name, _result, *_parameters in [
    ("mixture_open", c_int, POINTER(c_void_p), POINTER(MixtureSource), c_int, c_int, c_uint64, c_int, c_char_p, _ERROR),
    ("mixture_close", None, c_void_p),
    ("mixture_begin", c_int, c_void_p, POINTER(MixtureSpan), _CURSORS, _ERROR),
    ("mixture_fetch", c_int, c_void_p, c_int64, c_int, POINTER(Batch), _ERROR),
    ("mixture_position", None, c_void_p, c_int64, _CURSORS),
    ("mixture_epochs", None, c_void_p, c_int64, _DOUBLES),
    ("mixture_passed_over", c_int64, c_void_p, c_int),
    ("mixture_exhausted", c_int64, c_void_p, c_int),
    ("mixture_shares", None, c_void_p, c_int64, _DOUBLES),
    ("mixture_fingerprint", c_uint64, c_void_p, c_int),
    ("mixture_tokens", c_uint64, c_void_p, c_int),
    ("mixture_refuse_overlap", c_int, c_void_p, c_void_p, c_char_p, _ERROR),
    ("source_order_create", c_int, _ORDER, _U64, c_int, c_int, c_uint64, c_double, _ERROR),
    ("source_order_free", None, _ORDER),
    ("source_order_set_length", None, _ORDER, c_int),
    ("source_order_range", OrderRange, _ORDER, OrderPlace, c_uint64),
    ("source_order_end", OrderPlace, _ORDER, _RANGE, c_uint64),
    ("source_order_positions", c_uint64, _ORDER, OrderPlace),
    ("source_order_find", None, _ORDER, _RANGE, c_uint64, POINTER(c_int), _U64),
    ("permutation_at", c_uint64, c_uint64, c_uint64, c_uint64),
    ("permutation_inverse", c_uint64, c_uint64, c_uint64, c_uint64),
]:
    getattr(library, _name).restype, getattr(library, _name).argtypes = _result, _parameters


def write_sources(folder, lengths):
    """Shards of 32 bits of every source, of so many tokens each ({name: lengths}), in which each token of all files is an id of
    its own: the files' tokens one after the other from 0. Returns {name: [first token of each shard]} and the vocabulary."""
    first, begins = 0, {}
    for name, counts in lengths.items():
        (folder / name).mkdir()
        begins[name] = []
        for i, count in enumerate(counts):
            write_shard(folder / name / f"train_{i:05}.bin", np.arange(first, first + count), bits=32, vocab=first + count)
            begins[name].append(first)
            first += count
    for name, counts in lengths.items():  # the same vocabulary in all headers
        for i in range(len(counts)):
            with open(folder / name / f"train_{i:05}.bin", "r+b") as file:
                file.seek(20)
                file.write(int(first).to_bytes(4, "little"))
    return begins, first


def source_list(folder, max_epochs):
    """{name: max_epochs}"""
    return (MixtureSource * len(max_epochs))(
        *(MixtureSource(name.encode(), path_bytes(folder / name / "*.bin"), most) for name, most in max_epochs.items())
    )


class Mixture:
    """Closed by `with`."""

    def __init__(self, folder, max_epochs, block, seed, vocab, sha=None):
        self.handle, self.count = c_void_p(), len(max_epochs)
        call("mixture_open", byref(self.handle), source_list(folder, max_epochs), self.count, block, seed, vocab, sha)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        library.mixture_close(self.handle)

    def span(self, rows, T, weights, at_end=None, mask=False):
        arrays = [(c_double * self.count)(*values) if values is not None else None for values in (weights, at_end)]
        return MixtureSpan(rows, *arrays, T, mask)

    def begin(self, rows, T, weights, at_end=None, mask=False, at=None):
        self.T, self.rows = T, rows
        self.weights = np.array(weights, float), np.array(weights if at_end is None else at_end, float)
        cursors = None if at is None else (MixtureCursor * self.count)(*(MixtureCursor(*cursor) for cursor in at))
        call("mixture_begin", self.handle, byref(self.span(rows, T, weights, at_end, mask)), cursors)

    def batch(self, first, B):
        """Its arrays, poisoned before, and the number of targets."""
        arrays = {name: np.full((B, self.T), -9999, np.int32) for name in ("tokens", "targets", "doc_start", "order")}
        batch = batch_at(*(pointer(array) for array in arrays.values()), num_targets=-9999)
        call("mixture_fetch", self.handle, first, B, byref(batch))
        return arrays, batch.num_targets

    def read(self, first=0, count=None, B=64):
        """The first token of each row [first, first + count)."""
        end = self.rows if count is None else first + count
        rows = []
        while first < end:
            n = min(B, end - first)
            tokens = self.batch(first, n)[0]["tokens"]
            assert (tokens == tokens[:, :1] + np.arange(self.T)).all()
            rows.append(tokens[:, 0])
            first += n
        return np.concatenate(rows) if rows else np.zeros(0, np.int32)

    def position(self, row):
        cursors = (MixtureCursor * self.count)()
        library.mixture_position(self.handle, row, cursors)
        return [tuple(getattr(cursor, name) for name in FIELDS) for cursor in cursors]

    def doubles(self, name, row):
        values = (c_double * self.count)()
        getattr(library, name)(self.handle, row, values)
        return np.array(values)

    def tokens(self, row):
        return [cursor[FIELDS.index("tokens")] for cursor in self.position(row)]

    def exhausted(self):
        return [library.mixture_exhausted(self.handle, i) for i in range(self.count)]

    def passed_over(self):
        return [library.mixture_passed_over(self.handle, i) for i in range(self.count)]
