"""Writes and reads rows for finetuning in the format of llmc/loader/rows.h: conversations, or prompts with ranked answers.

A file has a header of 256 bytes, the tokens of all rows in sequence (32 bits each), then 32 bytes per row; all little endian.
"""

import os
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Iterable, Iterator

import numpy as np

from .errors import InputError
from .output import close_synced

MAGIC = b"L3ROWS\0\0"
VERSION = 1
BYTE_ORDER = 0x01020304
HEADER_BYTES = 256
NO_TOKEN = 0xFFFFFFFF
CONVERSATIONS, COMPARISONS = 1, 2
MOST_ANSWERS = 3

# The upper bits of a token: it is a target of the loss; it belongs to a header or ends a turn.
TRAINED, FORMAT = np.uint32(1 << 31), np.uint32(1 << 30)
ID_MASK = np.uint32((1 << 30) - 1)

# magic, version, byte order, kind, vocabulary size, tokens, begin of text, end of turn, sha256 of tokenizer.json, rows
_HEADER = struct.Struct("<8sIIIIQII32sQ")
_HEADER_NAMES = (
    "magic", "version", "byte_order", "kind", "vocab_size", "token_count", "bos_id", "end_id", "tokenizer_sha256", "row_count",
)  # fmt: skip
_TABLE = np.dtype([("first", "<u8"), ("prompt", "<u4"), ("answers", "<u4", MOST_ANSWERS), ("source", "<u4"), ("line", "<u4")])


@dataclass
class Row:
    """`prompt` is a whole conversation, or what the answers reply to; `answers` come best first.

    Both are ids with the bits TRAINED and FORMAT, as uint32. `source` is an index into meta.json's "sources", `line` the
    row's place there, from 1.
    """

    prompt: np.ndarray
    answers: list[np.ndarray] = field(default_factory=list)
    source: int = 0
    line: int = 0

    def __len__(self) -> int:
        return len(self.prompt) + sum(map(len, self.answers))

    def parts(self) -> list[np.ndarray]:
        return [self.prompt, *self.answers]


def fault_of(row: Row, kind: int, vocab_size: int) -> str | None:
    """What in this row the format forbids; None: nothing."""
    if any(len(part) and int((part & ID_MASK).max()) >= vocab_size for part in row.parts()):
        return f"an id beyond the vocabulary of {vocab_size}"
    if kind == CONVERSATIONS:
        if row.answers:
            return "a conversation with answers"
        if len(row.prompt) < 2:
            return f"{len(row.prompt)} tokens, expected 2 or more"
        return None if (row.prompt & TRAINED).any() else "no trained token"
    if len(row.prompt) < 1:
        return "an empty prompt"
    if not 2 <= len(row.answers) <= MOST_ANSWERS:
        return f"{len(row.answers)} answers, expected 2 or {MOST_ANSWERS}"
    learned = [((answer & (TRAINED | FORMAT)) == TRAINED).any() for answer in row.answers]
    return None if all(learned) else f"answer {learned.index(False) + 1} has no trained token beside its format"


class RowWriter:
    """Writes FOLDER/SPLIT_000.bin, SPLIT_001.bin, ...; a new file begins when one holds `file_tokens` tokens or more.

    A file appears under its name as a whole or not at all.
    """

    def __init__(self, folder: Path, split: str, kind: int, vocab_size: int, bos: int | None, end: int | None, sha256: bytes,
                 file_tokens: int = 100_000_000):  # fmt: skip
        self.folder, self.split, self.kind, self.file_tokens = folder, split, kind, file_tokens
        self.vocab_size, self.bos, self.end, self.sha256 = vocab_size, bos, end, sha256
        self.names: list[str] = []
        self.rows = self.tokens = self.trained = self.longest = 0
        self._file = None
        self._table: list[tuple] = []
        self._in_file = 0

    def write(self, row: Row) -> None:
        fault = fault_of(row, self.kind, self.vocab_size)
        if fault:
            raise ValueError(f"a row cannot be written: {fault}")
        if self._file is None:
            self._begin()
        lengths = [len(answer) for answer in row.answers] + [0] * (MOST_ANSWERS - len(row.answers))
        self._table.append((self._in_file, len(row.prompt), lengths, row.source, row.line))
        for part in row.parts():
            self._file.write(np.ascontiguousarray(part, "<u4").tobytes())
            self.trained += trained_tokens(part, self.kind)
        self._in_file += len(row)
        self.rows, self.tokens, self.longest = self.rows + 1, self.tokens + len(row), max(self.longest, len(row))
        if self._in_file >= self.file_tokens:
            self._end()

    def finish(self) -> None:
        if self._file is not None:
            self._end()

    def abandon(self) -> None:
        """Removes the file that is not finished, if there is one."""
        if self._file is not None:
            self._file.close()
            self._partial().unlink(missing_ok=True)
            self._file = None

    def _partial(self) -> Path:
        return self.folder / (self.names[-1] + ".partial")

    def _begin(self) -> None:
        self.names.append(f"{self.split}_{len(self.names):03d}.bin")
        self._file = open(self._partial(), "wb")
        self._file.write(bytes(HEADER_BYTES))
        self._table, self._in_file = [], 0

    def _end(self) -> None:
        bos, end = (NO_TOKEN if token is None else token for token in (self.bos, self.end))
        fields = (
            MAGIC,
            VERSION,
            BYTE_ORDER,
            self.kind,
            self.vocab_size,
            self._in_file,
            bos,
            end,
            self.sha256,
            len(self._table),
        )
        self._file.write(np.array(self._table, _TABLE).tobytes())
        self._file.seek(0)
        self._file.write(_HEADER.pack(*fields))
        close_synced(self._file)
        self._file = None
        os.replace(self._partial(), self.folder / self.names[-1])


def trained_tokens(tokens: np.ndarray, kind: int) -> int:
    """How many tokens are targets of the loss; in comparisons, format tokens are not."""
    bits = tokens & (TRAINED | FORMAT)
    return int(np.count_nonzero(bits & TRAINED) if kind == CONVERSATIONS else np.count_nonzero(bits == TRAINED))


def write(folder: Path, split: str, kind: int, rows: Iterable[Row], vocab_size: int, **header) -> list[str]:
    """Writes all rows and returns the names of the files. `header`: RowWriter's bos, end, sha256 and file_tokens."""
    header = {"bos": None, "end": None, "sha256": bytes(32)} | header
    writer = RowWriter(folder, split, kind, vocab_size, **header)
    try:
        for row in rows:
            writer.write(row)
        writer.finish()
    finally:
        writer.abandon()
    return writer.names


def read_header(path: Path) -> dict:
    """The header's fields by name. A file of another format raises InputError."""
    with open(path, "rb") as file:
        data = file.read(HEADER_BYTES)
    if len(data) < HEADER_BYTES:
        raise InputError(f"{path}: {len(data)} bytes, expected a header of {HEADER_BYTES}")
    header = dict(zip(_HEADER_NAMES, _HEADER.unpack_from(data)))
    if header["magic"] != MAGIC or header["version"] != VERSION or header["byte_order"] != BYTE_ORDER:
        raise InputError(f"{path}: not a file of finetuning rows of version {VERSION}")
    want = HEADER_BYTES + 4 * header["token_count"] + _TABLE.itemsize * header["row_count"]
    if path.stat().st_size != want:
        raise InputError(f"{path}: {path.stat().st_size} bytes, expected {want} by its header")
    return header


def read_rows(path: Path) -> Iterator[Row]:
    header = read_header(path)
    if header["row_count"] == 0:
        return
    tokens = np.memmap(path, "<u4", "r", HEADER_BYTES, (header["token_count"],))
    table = np.fromfile(path, _TABLE, header["row_count"], offset=HEADER_BYTES + 4 * header["token_count"])
    place = 0
    for number, entry in enumerate(table, 1):
        lengths = [int(entry["prompt"]), *(int(n) for n in entry["answers"] if n)]
        if int(entry["first"]) != place or place + sum(lengths) > header["token_count"]:
            raise InputError(
                f"{path}: row {number}: begins at token {entry['first']}, expected {place}, or ends beyond the file"
            )
        ends = place + np.cumsum([0, *lengths])
        parts = [np.array(tokens[a:b]) for a, b in zip(ends, ends[1:])]
        yield Row(parts[0], parts[1:], int(entry["source"]), int(entry["line"]))
        place = int(ends[-1])
