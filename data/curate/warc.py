"""Reads WARC and WET files, plain or gzip-compressed, and goes on after damage."""

import os
import re
import zlib
from pathlib import Path
from typing import Callable, Iterator

from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType

from .pages import HTML, BadPage, check_size, decode

_WANTED = WarcRecordType.response | WarcRecordType.conversion
_BEGIN = re.compile(rb"\x1f\x8b\x08|WARC/1\.[01]\r?\n")  # of a gzip member, or of a record
LYING = "lying Content-Length"
_NEXT_RECORD = re.compile(rb"\r\n\r\nWARC/1\.[01]\r\n")
_CHUNK = 1 << 20
_HEAD = 1024  # compressed bytes that are enough to see a record's first word: a table of codes may come before it

Fault = Callable[[str, str], None]  # reason, what it is about


def read_warc(path: Path, most_bytes: int, fault: Fault) -> Iterator[tuple[dict, int]]:
    """Yields (fields of a document, bytes of the file read so far). What cannot be read is told to `fault`.

    After damage reading goes on at the next record that begins in the file; in a file that is one gzip member there is none.
    """
    try:
        size, start = os.path.getsize(path), 0
    except OSError:
        return fault("file vanished", str(path))
    while start is not None and start < size:
        place, seen = start, False
        try:
            with open(path, "rb") as file:
                file.seek(start)
                for record in ArchiveIterator(file, record_types=_WANTED, auto_decode="all", fsspec_args=False):
                    place, seen = record.stream_pos, True
                    try:
                        if fields := _fields(record, most_bytes):
                            yield fields, place
                    except BadPage as error:
                        fault(str(error), _name(record, path))
                        if str(error) == LYING:
                            break
                else:
                    return
        except FileNotFoundError:
            return fault("file vanished", str(path))
        except (OSError, ValueError) as error:
            if seen or start == 0:
                fault("damaged WARC record", f"{path} after byte {place}: {error}")
        start = _next_begin(path, place + 1)


def _name(record: WarcRecord, path: Path) -> str:
    return record.headers.get("WARC-Target-URI") or f"{path} at byte {record.stream_pos}"


def _fields(record: WarcRecord, most_bytes: int) -> dict | None:
    """The document's fields; None for a record that is no page, such as a picture or a redirection."""
    page = record.record_type == WarcRecordType.response
    if page and record.http_headers is not None and record.http_headers.status_code not in (None, 200):
        return None
    kind = record.headers.get("WARC-Identified-Payload-Type") or (record.http_content_type if page else None)
    if page and kind and kind not in HTML:
        return None
    check_size(record.content_length, most_bytes)
    length = record.content_length
    data = record.reader.read(most_bytes + 1)
    check_size(len(data), most_bytes)
    if _NEXT_RECORD.search(data):
        raise BadPage(LYING)
    if len(data) < length and not _is_encoded(record):
        raise BadPage("truncated WARC record")
    if page and not kind and not data.lstrip()[:1] == b"<":
        return None
    url, date = record.headers.get("WARC-Target-URI") or "", record.headers.get("WARC-Date")
    declared = record.http_charset if page else "utf-8"
    return {"text": decode(data, declared), "id": record.record_id or None, "url": url.strip("<>"), "date": date,
            "type": "html" if page else "text"}  # fmt: skip


def _is_encoded(record: WarcRecord) -> bool:
    headers = record.http_headers if record.is_http else None
    return headers is not None and any(headers.get(name) for name in ("Content-Encoding", "Transfer-Encoding"))


def _next_begin(path: Path, offset: int) -> int | None:
    """Where the next record begins, at or after the offset."""
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            held = b""
            while data := file.read(_CHUNK):
                window, base = held + data, file.tell() - len(held) - len(data)
                for match in _BEGIN.finditer(window):
                    if _is_begin(file, base + match.start()):
                        return base + match.start()
                held = window[-16:]
    except OSError:
        pass
    return None


def _is_begin(file, offset: int) -> bool:
    """Bytes that begin a gzip member may stand anywhere: those that unpack to a record's first word do."""
    back = file.tell()
    file.seek(offset)
    head = file.read(_HEAD)
    file.seek(back)
    if head.startswith(b"WARC/"):
        return True
    try:
        return zlib.decompressobj(31).decompress(head, 5) == b"WARC/"
    except zlib.error:
        return False
