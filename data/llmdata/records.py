"""Reads the rows of a file: the lines of .jsonl, the array (or the lines) of .json, or the rows of .parquet."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator

from . import text_file
from .errors import InputError
from .text_file import ARRAY, LATIN1, TABLE, TEXT, TextFile, format_of, one_line, read_chunks, read_lines

BATCH_BYTES = 1 << 24  # of a table in memory at once, approximately
MOST_ROWS = 256
LARGEST_ROW = 1 << 28  # characters of a row in an array
LONGEST_WORD = 16  # longer than any escape sequence or literal of JSON


@dataclass(frozen=True)
class Unreadable:
    """A row of a table that cannot be converted to an object, and why."""

    reason: str


Value = bytes | dict | Unreadable  # a line, or a row (any JSON value in an array)


def read_rows(path: Path) -> Iterator[tuple[int, Value, int]]:
    """Yields (number from 1, line or row, bytes of the file read so far). A file with another ending is read as lines."""
    form = format_of(path)
    if form == TABLE:
        yield from _read_table(path)
    elif form == ARRAY and _first_byte(path) == b"[":
        yield from _read_array(path)
    elif form == ARRAY:
        yield from _read_single_lines(path)
    else:
        yield from read_lines(path)


def read_objects(path: Path) -> Iterator[tuple[str, dict, int]]:
    """Yields (place for messages, row, bytes of the file read so far). Errors: InputError of a row that is no object."""
    for number, value, consumed in read_rows(path):
        where = place(path, number)
        try:
            row = parse(value)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        if not isinstance(row, dict):
            raise InputError(f"{where}: expected an object")
        yield where, row, consumed


def place(path: Path, number: int) -> str:
    """Names the place of a row in messages."""
    return f"{path}: {'row' if format_of(path) in (TABLE, ARRAY) else 'line'} {number}"


def parse(value: Value):
    """The row's value. The InputError of a bad row says only what is wrong, not where."""
    if isinstance(value, Unreadable):
        raise InputError(value.reason)
    return parse_line(value) if isinstance(value, bytes) else value


def parse_line(line: bytes):
    try:
        return json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 at byte {error.start} of the line ({LATIN1})") from None
    except (ValueError, RecursionError) as error:
        found = getattr(error, "msg", "nested too deep or a number too long")
        way = r"; a lone CR ends lines here: tr '\r' '\n' < FILE > NEW" if b"\r" in line.strip() else ""
        raise InputError(f"not JSON ({found}{way})") from None


# ---- .json


def _first_byte(path: Path) -> bytes:
    with TextFile(path) as file:
        while (byte := file.read(1)).isspace():
            pass
        return byte


def _read_single_lines(path: Path) -> Iterator[tuple[int, bytes, int]]:
    """A .json file with one row per line. One object over several lines is refused: its rows stand under some key."""
    for number, line, consumed in read_lines(path):
        if number == 1 and line.strip() == b"{":
            raise InputError(f"{path}: one object, expected an array of rows or a row in each line; of rows under a key: "
                             "jq -c '.KEY[]' FILE > rows.jsonl")  # fmt: skip
        yield number, line, consumed


class _Array:
    """The elements of a JSON array one by one. Only the part of the file that is being parsed is in memory."""

    SPACE = " \t\r\n"

    def __init__(self, path: Path):
        self.path, self.chunks, self.decode = path, read_chunks(path), json.JSONDecoder().raw_decode
        self.buffer, self.at, self.consumed, self.ended, self.number = "", 0, 0, False, 0

    def rows(self) -> Iterator[tuple[int, object, int]]:
        self._next_character()
        self.at += 1  # past the bracket
        if self._next_character() == "]":
            return self._end()
        while True:
            self.number += 1
            yield self.number, self._element(), self.consumed
            if self._next_character() == "]":
                return self._end()
            if self._next_character() != ",":
                self._fail("expected a comma or the array's end after it")
            self.at += 1

    def _fail(self, text: str):
        raise InputError(f"{self.path}: row {self.number}: {text}")

    def _end(self) -> None:
        self.at += 1
        if self._next_character():
            self._fail("text follows the end of the array, expected one array")

    def _more(self) -> bool:
        """Doubles the buffer, so that parsing a long element anew after each call takes linear time in all."""
        parts, size = [self.buffer[self.at :]], max(len(self.buffer) - self.at, 1)
        while size > 0 and not self.ended:
            text, self.consumed = next(self.chunks, (None, self.consumed))
            self.ended = text is None
            parts.append(text or "")
            size -= len(parts[-1])
        grown = len(parts) > 1 and any(parts[1:])
        self.buffer, self.at = "".join(parts), 0
        return grown

    def _next_character(self) -> str:
        """Skips white space and returns the next character; empty at the end of the file."""
        while True:
            while self.at < len(self.buffer) and self.buffer[self.at] in self.SPACE:
                self.at += 1
            if self.at < len(self.buffer) or not self._more():
                return self.buffer[self.at : self.at + 1]

    def _element(self):
        self._next_character()
        while True:
            try:
                value, end = self.decode(self.buffer, self.at)
                number = isinstance(value, (int, float))  # of which the buffer may hold only the beginning
                if self.ended or not number or end + LONGEST_WORD <= len(self.buffer):
                    self.at = end
                    return value
                fault = "the file ends within the array"
            except RecursionError:
                self._fail("not JSON (nested too deep)")
            except ValueError as error:
                fault = f"not JSON ({getattr(error, 'msg', 'a number too long')})"
                if not self._may_go_on(error):
                    self._fail(fault)
            if len(self.buffer) - self.at > LARGEST_ROW:
                self._fail(f"longer than {LARGEST_ROW >> 20} MiB, or {fault}")
            if self.ended:
                self._fail(fault)
            self._more()

    def _may_go_on(self, error: ValueError) -> bool:
        """Whether more text could mend the error: it lies at the end of the buffer, or a string does not end."""
        return isinstance(error, json.JSONDecodeError) and (
            error.msg.startswith("Unterminated string") or error.pos > len(self.buffer) - LONGEST_WORD
        )


def _read_array(path: Path) -> Iterator[tuple[int, object, int]]:
    return _Array(path).rows()


# ---- tables


def open_table(path: Path):
    """Opens a table; None for an empty file."""
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    try:
        if path.stat().st_size == 0:
            return None
        file = parquet.ParquetFile(path, buffer_size=text_file.READ_BYTES)
        file.schema_arrow  # parses the schema, which may be damaged
        return file
    except (arrow.ArrowException, OSError, ValueError) as error:
        kind = text_file.kind_of_file(path) or one_line(error)
        raise InputError(f"{path}: not a Parquet file ({kind})") from None


def read_batches(path: Path, file, columns: list[str] | None = None) -> Iterator[tuple]:
    """Yields (number of the first row, from 1; batch of rows). Strings are not checked yet."""
    import pyarrow as arrow

    before = 0
    try:
        for batch in file.iter_batches(batch_size=_batch_rows(file.metadata), columns=columns):
            yield before + 1, batch
            before += batch.num_rows
    except (arrow.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{path}: damaged after row {before} ({one_line(error)})") from None


def _batch_rows(metadata) -> int:
    """Rows per batch, such that a batch of the row group with the longest rows stays small."""
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    longest = max((group.total_byte_size / max(1, group.num_rows) for group in groups), default=0)
    return int(min(MOST_ROWS, max(1, BATCH_BYTES // max(1, longest))))


def _read_table(path: Path) -> Iterator[tuple[int, dict | Unreadable, int]]:
    file = open_table(path)
    if file is None:
        return
    size, rows = path.stat().st_size, max(1, file.metadata.num_rows)
    for first, batch in read_batches(path, file):
        for number, row in enumerate(_objects(batch), first):
            if isinstance(row, dict):
                row = {name: _without_none(field) for name, field in row.items()}
            yield number, row, size * number // rows


def _without_none(value):
    """Removes fields that are None: in a table every object has the fields of all."""
    if isinstance(value, dict):
        return {name: _without_none(field) for name, field in value.items() if field is not None}
    return [_without_none(item) for item in value] if isinstance(value, list) else value


# What pyarrow raises when a value cannot become a Python object: not UTF-8, an impossible date, a type that Python lacks.
NO_VALUE = (ValueError, OverflowError, NotImplementedError)


def _objects(batch) -> list[dict | Unreadable]:
    """The rows as objects. One that cannot be converted does not spoil the others."""
    try:
        return batch.to_pylist()
    except NO_VALUE:
        return [_object(batch, index) for index in range(batch.num_rows)]


def _object(batch, index: int) -> dict | Unreadable:
    fields = {}
    for name, column in zip(batch.schema.names, batch.columns):
        try:
            fields[name] = column[index].as_py()
        except NO_VALUE as error:
            return Unreadable(f"{json.dumps(name)}: {why_no_value(error)}")
    return fields


def why_no_value(error: Exception) -> str:
    return "not UTF-8" if isinstance(error, UnicodeDecodeError) else one_line(error)


def unpacked_bytes(paths: list[Path]) -> int:
    """The size of the files, uncompressed."""
    return sum(map(_unpacked_size, paths))


def _unpacked_size(path: Path) -> int:
    if format_of(path) == TEXT:
        return text_file.text_bytes([path])
    if format_of(path) != TABLE:
        return text_file.unpacked_size(path)
    file = open_table(path)
    return sum(file.metadata.row_group(index).total_byte_size for index in range(file.metadata.num_row_groups)) if file else 0
