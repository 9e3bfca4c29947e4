"""ctypes binding of llmc/generate/scorer.h."""

import ctypes
import os
from pathlib import Path

import numpy as np

from .generator import Handle


class Scorer(Handle):
    """Scores texts of up to `longest` tokens with a reward model. A forward pass has at least `positions` positions."""

    def __init__(self, library: Path, folder: Path, positions: int, longest: int, threads: int):
        super().__init__(library)
        self._call("scorer_open", ctypes.byref(self.handle), os.fsencode(folder), positions, longest, threads)
        self.context = self.library.scorer_context(self.handle)
        self.vocab_size = self.library.scorer_vocab_size(self.handle)

    def score(self, texts: list[list[int]]) -> list[float]:
        """One score for each list of ids. The same texts in the same order get the same scores, to the last bit."""
        lengths, scores = np.array([len(ids) for ids in texts], np.int32), np.full(len(texts), np.nan, np.float32)
        tokens = np.array([token for ids in texts for token in ids], np.int32)
        self._call("scorer_score", self.handle, *(a.ctypes.data_as(ctypes.c_void_p) for a in (tokens, lengths)), len(texts),
                   scores.ctypes.data_as(ctypes.c_void_p))  # fmt: skip
        return scores.tolist()

    def close(self) -> None:
        self.library.scorer_close(self.handle)
        self.handle = ctypes.c_void_p()
