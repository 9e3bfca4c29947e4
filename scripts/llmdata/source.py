"""Reads text from .txt, .jsonl and .parquet files as a stream of pieces, so that memory is bounded by a piece.

A document is a whole .txt file, one line of a .jsonl file, or one row of a .parquet file. Long documents arrive as several
pieces, cut where a line starts with something that is not white space: there the tokenizer's split rule starts a new
word anyway, so the tokens are those of the uncut text. Only text without such a place for a long stretch is cut elsewhere.
"""

import codecs
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator

from llmtext.stream import harmless

from .cut import Piece, cut_document
from .errors import InputError

SUFFIXES = (".txt", ".jsonl", ".parquet")
READ_BYTES = 1 << 20


def find_files(paths: list[str], suffixes: tuple[str, ...] = SUFFIXES) -> list[Path]:
    """Files named in `paths`, folders replaced by the files in them that end so, in sorted order."""
    files: list[Path] = []
    for name in paths:
        path = Path(name)
        if path.is_dir():
            files += _files_in_folder(path, suffixes)
        elif path.is_file():
            files.append(path)
        else:
            raise InputError(f"{path}: no such file or folder")
    for path in files:
        if path.suffix not in suffixes:
            raise InputError(f"{path}: expected a name that ends in {', '.join(suffixes)}")
        if path.stat().st_size == 0:
            raise InputError(f"{path}: the file is empty, expected text")
    return files


def _files_in_folder(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    def hidden(path: Path) -> bool:
        return any(part.startswith(".") for part in path.relative_to(folder).parts)

    found = sorted(p for p in folder.rglob("*") if p.suffix in suffixes and p.is_file() and not hidden(p))
    if not found:
        raise InputError(f"{folder}: no {', '.join(suffixes)} file in this folder")
    return found


def read_pieces(path: Path, piece_chars: int) -> Iterator[Piece]:
    """Pieces of every document of a file, each about `piece_chars` characters (at most twice that)."""
    documents = {".txt": _read_txt, ".jsonl": _read_jsonl, ".parquet": _read_parquet}[path.suffix]
    any_text = False
    for chunks in documents(path):
        for piece in cut_document(chunks, piece_chars):
            any_text = True
            yield piece
    if not any_text:
        raise InputError(f"{path}: no text in this file, expected some")


# A document, below, is an iterator of (text, bytes of the file read so far).


def _read_txt(path: Path) -> Iterator[Iterator[tuple[str, int]]]:
    yield _decode(path)


def _decode(path: Path) -> Iterator[tuple[str, int]]:
    decoder = codecs.getincrementaldecoder("utf-8")("strict")
    read = 0
    with open(path, "rb") as file:
        while True:
            data = file.read(READ_BYTES)
            start = read - len(decoder.getstate()[0])  # the decoder holds back bytes of an unfinished character
            try:
                text = decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                raise InputError(f"{path}: not UTF-8 at byte offset {start + error.start}") from None
            if start == 0:
                text = text.removeprefix("\ufeff")
            read += len(data)
            if not data:
                return
            yield text, read


def read_lines(path: Path) -> Iterator[tuple[int, bytes, int]]:
    """(number from 1, line, bytes of the file read so far) of all that are not blank."""
    consumed = 0
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            consumed += len(line)
            if line.strip():
                yield number, line, consumed


def _read_jsonl(path: Path) -> Iterator[Iterator[tuple[str, int]]]:
    for number, line, consumed in read_lines(path):
        yield iter([(_text_of_line(path, number, line), consumed)])


def parse_line(line: bytes):
    """The JSON value of a line; an InputError says only what is wrong with it."""
    try:
        return json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 at byte {error.start} of the line") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"not JSON ({getattr(error, 'msg', 'nested too deep or a number too long')})") from None


def _text_of_line(path: Path, number: int, line: bytes) -> str:
    where = f"{path}: line {number}"
    try:
        row = parse_line(line)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        raise InputError(f'{where}: expected an object with a string under the key "text"')
    _check_encodable(where, row["text"])
    return row["text"]


def _check_encodable(where: str, text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(f"{where}: half a surrogate pair at character {error.start}, expected Unicode text") from None


# ---- tables


@dataclass(frozen=True)
class Unreadable:
    """A row of a table that can't be had as an object, and why."""

    reason: str


def _open_parquet(path: Path):
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    try:
        file = parquet.ParquetFile(path)
        file.schema_arrow  # is made of the file's only here
        return file
    except (arrow.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{path}: not a Parquet file ({_one_line(error)})") from None


def _read_batches(path: Path, file, batch_rows: int, columns: list[str] | None = None) -> Iterator[tuple]:
    """(number of its first row from 1, batch of rows). What lies in its strings is not looked at."""
    import pyarrow as arrow

    before = 0
    try:
        for batch in file.iter_batches(batch_size=batch_rows, columns=columns):
            yield before + 1, batch
            before += batch.num_rows
    except (arrow.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{path}: damaged after row {before} ({_one_line(error)})") from None


def read_objects(path: Path) -> Iterator[tuple[int, bytes | dict | Unreadable, int]]:
    """(number from 1, line of .jsonl or row of .parquet, bytes of the file read so far)."""
    if path.suffix == ".jsonl":
        yield from read_lines(path)
        return
    file = _open_parquet(path)
    size, rows = path.stat().st_size, max(1, file.metadata.num_rows)
    for first, batch in _read_batches(path, file, 256):
        for number, row in enumerate(_objects(batch), first):
            yield number, row, size * number // rows


# What pyarrow raises where it makes Python's values: not UTF-8, no date of the calendar, a type that Python lacks.
NO_VALUE = (ValueError, OverflowError, NotImplementedError)


def _objects(batch) -> list[dict | Unreadable]:
    """One row that can't be had spoils no other."""
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
            return Unreadable(f"{json.dumps(name)}: {_why_no_value(error)}")
    return fields


def _why_no_value(error: Exception) -> str:
    return "not UTF-8" if isinstance(error, UnicodeDecodeError) else _one_line(error)


def _read_parquet(path: Path) -> Iterator[Iterator[tuple[str, int]]]:
    file = _open_parquet(path)
    if "text" not in file.schema_arrow.names:
        raise InputError(f'{path}: expected a column "text", found {", ".join(map(json.dumps, file.schema_arrow.names))}')
    size, rows = path.stat().st_size, max(1, file.metadata.num_rows)
    for first, batch in _read_batches(path, file, 1024, ["text"]):
        for number, value in enumerate(batch.column(0), first):
            text = _text_of_row(path, number, value)
            if text:
                yield iter([(text, size * number // rows)])


def _text_of_row(path: Path, number: int, value) -> str:
    try:
        text = value.as_py()
    except NO_VALUE as error:
        raise InputError(f"{path}: row {number}: {_why_no_value(error)}") from None
    if text is not None and not isinstance(text, str):
        raise InputError(f'{path}: row {number}: expected a string in the column "text", found {type(text).__name__}')
    return text or ""


def _one_line(error: BaseException) -> str:
    """What the library says of a file may have parts of it in it."""
    return harmless(str(error).strip().split("\n")[0])
