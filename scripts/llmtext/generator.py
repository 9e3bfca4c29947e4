"""ctypes binding of llmc/generate/generator.h."""

import ctypes
import os
from pathlib import Path

import numpy as np

from llmdata.errors import Fault, InputError

ROOT = Path(__file__).resolve().parents[2]
MESSAGE_BYTES = 4096  # more than any message of the library, so that struct Error may grow


class _Error(ctypes.Structure):
    _fields_ = [("code", ctypes.c_int), ("message", ctypes.c_char * MESSAGE_BYTES)]


class SamplerOptions(ctypes.Structure):
    """llmc/generate/sampler.h"""

    _fields_ = [("temperature", ctypes.c_double), ("top_k", ctypes.c_int), ("top_p", ctypes.c_double)]


def build_folder(target: str, precision: str) -> Path:
    return ROOT / "build" / (target + ("-fp32" if precision == "fp32" else ""))


def default_target(precision: str) -> str:
    """cuda where there is a GPU and a build for it, else cpu."""
    return "cuda" if os.path.exists("/dev/nvidia0") and (build_folder("cuda", precision) / "libllmc.so").exists() else "cpu"


def library_path(target: str | None, precision: str) -> Path:
    """The library of this build (None: the default target)."""
    target = target or default_target(precision)
    path = build_folder(target, precision) / "libllmc.so"
    if not path.exists():
        raise InputError(f"{path} is missing: run make TARGET={target} PRECISION={precision}")
    return path


def _call(library: ctypes.CDLL, name: str, *arguments) -> None:
    """Calls a function that takes a struct Error last, and raises what it reports."""
    error = _Error()
    code = getattr(library, name)(*arguments, ctypes.byref(error))
    if code:
        raise (InputError if code == 2 else Fault)(error.message.decode(errors="replace"))


def check_sampler_options(library: Path, options: SamplerOptions) -> None:
    _call(ctypes.CDLL(str(library)), "sampler_check", ctypes.byref(options))


class Handle:
    """An object of the library."""

    def __init__(self, library: Path):
        self.library, self.handle = ctypes.CDLL(str(library)), ctypes.c_void_p()

    def _call(self, name: str, *arguments) -> None:
        _call(self.library, name, *arguments)


class Generator(Handle):
    """Writes texts with one model: start(row, ids) for each row, then next() until it returns nothing."""

    def __init__(self, library: Path, folder: Path, rows: int, context: int, threads: int):
        super().__init__(library)
        self.rows, self.tokens = rows, np.full(rows, -1, np.int32)
        self.library.generator_is_end.restype = ctypes.c_bool
        self._call("generator_open", ctypes.byref(self.handle), os.fsencode(folder), rows, context, threads)
        self.context = self.library.generator_context(self.handle)
        self.vocab_size = self.library.generator_vocab_size(self.handle)

    def close(self) -> None:
        self.library.generator_close(self.handle)
        self.handle = ctypes.c_void_p()

    def is_end(self, token: int) -> bool:
        return self.library.generator_is_end(self.handle, token)

    def start(self, row: int, ids: list[int], options: SamplerOptions, seed: int) -> None:
        prompt = np.asarray(ids, np.int32)
        self._call("generator_start", self.handle, row, prompt.ctypes.data_as(ctypes.c_void_p), len(ids),
                   ctypes.byref(options), ctypes.c_uint64(seed))  # fmt: skip

    def hold(self, row: int, ids: list[int]) -> None:
        """Computes a prompt once and keeps it in the row, for fork()."""
        prompt = np.asarray(ids, np.int32)
        self._call("generator_hold", self.handle, row, prompt.ctypes.data_as(ctypes.c_void_p), len(ids))

    def fork(self, row: int, held: int, options: SamplerOptions, seed: int) -> None:
        """Begins a text in the row that continues the prompt kept in row `held`."""
        self._call("generator_fork", self.handle, row, held, ctypes.byref(options), ctypes.c_uint64(seed))

    def pad_steps(self, rows: int) -> None:
        self.library.generator_pad_steps(self.handle, rows)

    def stop(self, row: int) -> None:
        self.library.generator_stop(self.handle, row)

    def next(self) -> list[tuple[int, int]]:
        """The next (row, token) of every text that has not ended; empty when all have."""
        count = ctypes.c_int()
        self._call("generator_next", self.handle, self.tokens.ctypes.data_as(ctypes.c_void_p), ctypes.byref(count))
        return [(row, token) for row, token in enumerate(self.tokens.tolist()) if token >= 0]
