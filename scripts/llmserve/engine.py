"""ctypes binding of llmc/generate/engine.h."""

import ctypes
import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from llmtext.generator import Handle, SamplerOptions

MOST_TOPS = 20  # probable tokens that can be reported beside a token's own probability


class _Sizes(ctypes.Structure):
    _fields_ = [("rows", ctypes.c_int), ("context", ctypes.c_int), ("pages", ctypes.c_int64), ("memory", ctypes.c_double),
                ("threads", ctypes.c_int)]  # fmt: skip


class _Options(ctypes.Structure):
    _fields_ = [("sampling", SamplerOptions), ("seed", ctypes.c_uint64), ("max_tokens", ctypes.c_int),
                ("logprobs", ctypes.c_int), ("prompt_logprobs", ctypes.c_bool)]  # fmt: skip


class _Token(ctypes.Structure):
    _fields_ = [("id", ctypes.c_int64), ("token", ctypes.c_int32), ("prompt_index", ctypes.c_int32), ("finish", ctypes.c_int32),
                ("logprob", ctypes.c_float), ("tops", ctypes.c_int32), ("top_ids", ctypes.c_int32 * MOST_TOPS),
                ("top_logprobs", ctypes.c_float * MOST_TOPS)]  # fmt: skip


class Counts(ctypes.Structure):
    """What an engine has done and holds. Fields named *_seconds are seconds, `pages*` pages of the cache."""

    _fields_ = [(name, ctypes.c_int64) for name in
                ("waiting", "running", "pages", "pages_free", "pages_shared", "steps", "put_back", "prompt_tokens",
                 "prompt_tokens_shared", "generated_tokens")] + [(name, ctypes.c_double) for name in
                ("step_seconds", "schedule_seconds")]  # fmt: skip


GOES_ON, END_TOKEN, LENGTH = range(3)  # Token.finish


class Token(NamedTuple):
    """A token of a request: drawn, or of its prompt if `prompt_index` is 0 or more. -1: there was none to draw."""

    token: int
    logprob: float  # NaN if none was wanted, and for a prompt's first token
    tops: list[tuple[int, float]]  # the most probable tokens in this place
    prompt_index: int
    finish: int


def _as_token(said: _Token) -> Token:
    tops = list(zip(said.top_ids[: said.tops], said.top_logprobs[: said.tops]))
    return Token(said.token, said.logprob, tops, said.prompt_index, said.finish)


@dataclass
class Sequence:
    """A prompt and how to continue it. `logprobs`: how many probable tokens are reported with each; -1: no probabilities.

    `prompt_logprobs`: the prompt's tokens are reported too.
    """

    ids: list[int]
    sampling: SamplerOptions
    seed: int
    max_tokens: int
    logprobs: int = -1
    prompt_logprobs: bool = False


class Engine(Handle):
    """Continues many prompts at once. All calls come from one thread, but for is_end().

    `memory`: where `pages` is 0, the largest share of the device's free memory that the cache takes.
    """

    def __init__(self, library: Path, folder: Path, rows: int, context: int, pages: int, threads: int, memory: float):
        super().__init__(library)
        self.library.engine_is_end.restype = ctypes.c_bool
        sizes = _Sizes(rows, context, pages, memory, threads)
        self._call("engine_open", ctypes.byref(self.handle), os.fsencode(folder), ctypes.byref(sizes))
        self.context = self.library.engine_context(self.handle)
        self.vocab_size = self.library.engine_vocab_size(self.handle)
        self.ends = frozenset(filter(functools.partial(self.library.engine_is_end, self.handle), range(self.vocab_size)))
        self.tokens = (_Token * self.library.engine_room(self.handle))()

    def close(self) -> None:
        self.library.engine_close(self.handle)
        self.handle = ctypes.c_void_p()

    def is_end(self, token: int) -> bool:
        return token in self.ends

    def add(self, sequence: Sequence) -> int:
        """The number under which step() reports the sequence, which joins the batch when there is room."""
        prompt, number = np.asarray(sequence.ids, np.int32), ctypes.c_int64()
        options = _Options(sequence.sampling, sequence.seed, sequence.max_tokens, sequence.logprobs, sequence.prompt_logprobs)
        self._call("engine_add", self.handle, prompt.ctypes.data_as(ctypes.c_void_p), len(prompt), ctypes.byref(options),
                   ctypes.byref(number))  # fmt: skip
        return number.value

    def cancel(self, number: int) -> None:
        self.library.engine_cancel(self.handle, ctypes.c_int64(number))

    def step(self) -> list[tuple[int, Token]]:
        """One step of the batch: (number, token) of each token that it drew or scored."""
        count = ctypes.c_int()
        self._call("engine_step", self.handle, self.tokens, ctypes.byref(count))
        return [(said.id, _as_token(said)) for said in self.tokens[: count.value]]

    def counts(self) -> Counts:
        counts = Counts()
        self.library.engine_counts(self.handle, ctypes.byref(counts))
        return counts
