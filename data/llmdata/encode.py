"""Encodes text on all cores, in order and in bounded memory."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Iterable, Iterator

import numpy as np

from . import pool, tokenizer
from .errors import Fault

TASK_CHARS = 1 << 19  # characters that a worker gets at once


@dataclass
class Unit:
    """A piece of text, the split it belongs to, and whether a document begins or ends with it within that split.

    `before` is the character in front of a piece that continues a document; see cut_points.
    """

    text: str
    split: str
    begins: bool
    ends: bool
    consumed: int
    before: str = ""


@dataclass
class Encoded:
    """The tokens of some units, joined for each split. `consumed`: bytes of all source files that have been read so far."""

    consumed: int
    tokens: dict[str, np.ndarray] = field(default_factory=dict)
    documents: dict[str, int] = field(default_factory=dict)
    text_bytes: dict[str, int] = field(default_factory=dict)


class Encoder:
    """What each worker process holds: the tokenizer and the tokens around a document."""

    def __init__(self, path: Path, bos: int, eos: int | None):
        self.tokenizer = tokenizer.encoder(path)
        self.bos, self.eos = bos, eos

    def encode(self, units: list[Unit]) -> Encoded:
        encodings = self._encodings([unit.before + unit.text for unit in units])
        parts: dict[str, list[np.ndarray]] = {}
        result = Encoded(units[-1].consumed)
        for unit, encoding in zip(units, encodings):
            ids = np.array(encoding.ids, np.uint32)[self._tokens_before(unit) :]
            self._check(ids, unit)
            parts.setdefault(unit.split, []).extend(self._framed(ids, unit))
            result.documents[unit.split] = result.documents.get(unit.split, 0) + unit.begins
            result.text_bytes[unit.split] = result.text_bytes.get(unit.split, 0) + len(unit.text.encode())
        result.tokens = {split: np.concatenate(arrays) for split, arrays in parts.items()}
        return result

    def _encodings(self, texts: list[str]) -> list:
        try:
            return self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        except BaseException as error:  # the library's panic is not an Exception
            if type(error).__name__ != "PanicException":
                raise
            raise Fault(f"the tokenizers library fails with this tokenizer: {' '.join(str(error).split())}") from None

    def _tokens_before(self, unit: Unit) -> int:
        return len(self.tokenizer.encode(unit.before, add_special_tokens=False).ids) if unit.before else 0

    def _framed(self, ids: np.ndarray, unit: Unit) -> Iterator[np.ndarray]:
        if unit.begins:
            yield np.array([self.bos], np.uint32)
        yield ids
        if unit.ends and self.eos is not None:
            yield np.array([self.eos], np.uint32)

    def _check(self, ids: np.ndarray, unit: Unit) -> None:
        """Text must never become a begin or end token: whoever wrote it could then end documents at will."""
        marks = [self.bos] if self.eos is None else [self.bos, self.eos]
        if np.isin(ids, marks).any():
            raise Fault(f"the tokenizer made a begin or end token out of the text {unit.text[:60]!r}")


_encoder: Encoder | None = None


def _start_worker(path: Path, bos: int, eos: int | None) -> None:
    global _encoder
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    _encoder = Encoder(path, bos, eos)


def _work(units: list[Unit]) -> Encoded:
    return _encoder.encode(units)


def encode_all(units: Iterable[Unit], path: Path, bos: int, eos: int | None, workers: int) -> Iterator[Encoded]:
    """Encodes units with `workers` processes. Results come in order."""
    return pool.in_order(_group(units), _work, _start_worker, (path, bos, eos), workers)


def _group(units: Iterable[Unit]) -> Iterator[list[Unit]]:
    task: list[Unit] = []
    chars = 0
    for unit in units:
        task.append(unit)
        chars += len(unit.text) + 64
        if chars >= TASK_CHARS:
            yield task
            task, chars = [], 0
    if task:
        yield task
