"""Reads the documents of a file in pieces, so that memory is bounded by a piece.

A document is a whole .txt file, or one row of .jsonl, .json or .parquet. A long document comes in several pieces, cut at a blank
line, else at the end of a line, else anywhere.
"""

import json
from pathlib import Path
from typing import Iterator

from .pieces import Piece, cut_document
from .errors import InputError
from .records import NO_VALUE, Value, open_table, parse, place, read_batches, read_rows, why_no_value
from .text_file import TABLE, TEXT, format_of, read_chunks


def read_pieces(path: Path, piece_chars: int) -> Iterator[Piece]:
    """Yields the pieces of every document, each of about `piece_chars` characters and at most twice that."""
    documents = {TEXT: _read_txt, TABLE: _read_column}.get(format_of(path), _read_documents)
    for chunks in documents(path):
        yield from cut_document(chunks, piece_chars)


# Below, a document is an iterator of (text, bytes of the file read so far).


def _read_txt(path: Path) -> Iterator[Iterator[tuple[str, int]]]:
    yield read_chunks(path)


def _read_documents(path: Path) -> Iterator[Iterator[tuple[str, int]]]:
    for number, value, consumed in read_rows(path):
        yield iter([(_text_of_row(place(path, number), value), consumed)])


def _text_of_row(where: str, value: Value) -> str:
    try:
        row = parse(value)
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


def _read_column(path: Path) -> Iterator[Iterator[tuple[str, int]]]:
    """A table's other columns are not read."""
    file = open_table(path)
    if file is None:
        return
    if "text" not in file.schema_arrow.names:
        raise InputError(f'{path}: expected a column "text", found {", ".join(map(json.dumps, file.schema_arrow.names))}')
    size, rows = path.stat().st_size, max(1, file.metadata.num_rows)
    for first, batch in read_batches(path, file, ["text"]):
        for number, value in enumerate(batch.column(0), first):
            text = _text_of_value(place(path, number), value)
            if text:
                yield iter([(text, size * number // rows)])


def _text_of_value(where: str, value) -> str:
    try:
        text = value.as_py()
        if isinstance(text, bytes):  # some programs do not mark the strings of their tables as text
            text = text.decode("utf-8")
    except NO_VALUE as error:
        raise InputError(f"{where}: {why_no_value(error)}") from None
    if text is not None and not isinstance(text, str):
        raise InputError(f'{where}: expected a string in the column "text", found {type(text).__name__}')
    return text or ""
