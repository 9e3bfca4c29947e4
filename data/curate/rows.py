"""Reads documents from JSONL and Parquet: rows with "text" or "html", perhaps "id", "url", "date", "language" and "metadata"."""

import json
import re
from pathlib import Path
from typing import Callable, Iterator

from llmdata import records
from llmdata.characters import HALF_PAIR
from llmdata.errors import InputError
from llmdata.text_file import READ_BYTES, TextFile

from .pages import BadPage, check_size

Fault = Callable[[str, str], None]
_OWN = ("id", "url", "date", "language")
_LANGUAGE = re.compile(r"[a-z]{2,3}(?=[-_]|$)")
_LONGEST = 1 << 30  # bytes of a line after which the rest of the file is given up: it unpacks without end


def read_rows(path: Path, most_bytes: int, fault: Fault) -> Iterator[tuple[dict, int]]:
    """Yields (fields of a document, bytes of the file read so far). What cannot be read is told to `fault`."""
    read = _read_table if path.suffix.lower() == ".parquet" else _read_lines
    if not path.exists():
        return fault("file vanished", str(path))
    try:
        for where, row, done in read(path, most_bytes, fault):
            try:
                yield _fields(records.parse(row), most_bytes), done
            except BadPage as error:
                fault(str(error), where)
            except InputError as error:
                fault("not a row", f"{where}: {error}")
    except (InputError, OSError) as error:
        fault("damaged file", str(error))


def _fields(row, most_bytes: int) -> dict:
    if not isinstance(row, dict):
        raise InputError("expected an object")
    kind = "text" if isinstance(row.get("text"), str) else "html"
    text = row.get(kind)
    if not isinstance(text, str):
        raise InputError('expected a string under the key "text" or "html"')
    check_size(len(text.encode("utf-8", "surrogatepass")), most_bytes)
    more = row.get("metadata") if isinstance(row.get("metadata"), dict) else {}
    own = {name: row.get(name, more.get(name)) for name in _OWN}
    own["language"] = _language(own["language"])
    more = {name: value for name, value in more.items() if name not in _OWN}
    fields = _plain({**more, **{name: str(value) for name, value in own.items() if value is not None}})
    return {**fields, "text": HALF_PAIR.sub("\ufffd", text).replace("\0", ""), "type": kind}


def _language(name) -> str | None:
    """An ISO 639 code, of en-US as well; None for what is none. Steps keep files by language."""
    found = _LANGUAGE.match(str(name).lower())
    return found[0] if found else None


def _plain(fields: dict) -> dict:
    """What any JSON writer takes: no half surrogate pairs, no integers of more than 64 bits, no dates or decimals of tables."""
    text = json.dumps(fields, ensure_ascii=False, default=str)
    return json.loads(HALF_PAIR.sub("\ufffd", text), parse_int=lambda digits: int(digits) if len(digits) < 19 else float(digits))


def _read_lines(path: Path, most_bytes: int, fault: Fault) -> Iterator[tuple[str, bytes, int]]:
    """Lines that are not blank, of which no more than `most_bytes` are in memory."""
    longest = 6 * most_bytes  # JSON may need so many bytes for one
    with TextFile(path) as file:
        number = 0
        while line := file.readline(longest + 1):
            number += 1
            where = f"{path}: line {number}"
            if len(line) > longest:
                fault("too long", where)
                if not _skip_line(file, line):
                    return fault("line without end", f"{where}: the rest of the file is not read")
            elif line.strip():
                yield where, line, file.position


def _skip_line(file: TextFile, line: bytes) -> bool:
    """Reads on to the line's end; False: there is none within reach."""
    skipped = len(line)
    while line and not line.endswith(b"\n"):
        line = file.readline(READ_BYTES)
        skipped += len(line)
        if skipped > _LONGEST:
            return False
    return True


def _read_table(path: Path, *_) -> Iterator[tuple[str, records.Value, int]]:
    for number, row, done in records.read_rows(path):
        yield f"{path}: row {number}", row, done
