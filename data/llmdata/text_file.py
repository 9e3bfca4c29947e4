"""Opens text files as people have them. Every reader uses this module, so that all read the same text from the same file.

The ending of a name says what a file is (`format_of`), in upper or lower case, followed by .gz or .zst where it is compressed. A
byte order mark at the start is dropped; lines end with \\n or \\r\\n. A file that is not UTF-8 text is refused, and the message
names a command that helps.
"""

import codecs
import io
import json
import math
import re
import shlex
from pathlib import Path
from typing import Iterator

from .characters import harmless
from .errors import InputError

TEXT, LINES, ARRAY, TABLE = ".txt", ".jsonl", ".json", ".parquet"
PACKED = {".gz": "gzip", ".zst": "zstd"}  # tables are compressed internally
READ_BYTES = 1 << 20
PACKED_BYTES = 1 << 16  # read at once from a compressed file
LONGEST_LINE = 1 << 28  # bytes; a compressed file may contain a line that does not fit in memory

BOM = codecs.BOM_UTF8

# How files that are not text begin: bytes, their offset, what the file is, how to make text of it.
_MAGIC = (
    (b"\x1f\x8b", 0, "gzip-compressed", "name it with .gz at the end, or gunzip it"),
    (b"\x28\xb5\x2f\xfd", 0, "zstd-compressed", "name it with .zst at the end, or unpack it by zstd -d"),
    (b"PAR1\x15", 0, "a Parquet table", "name it with .parquet at the end"),
    (b"PK\x03\x04", 0, "a zip archive", "unpack it by unzip"),
    (b"ustar\0", 257, "a tar archive", "unpack it by tar -xf"),
    (b"ustar  \0", 257, "a tar archive", "unpack it by tar -xf"),
    (b"1AY&SY", 4, "bzip2-compressed", "unpack it by bunzip2"),
    (b"\xfd7zXZ\0", 0, "xz-compressed", "unpack it by unxz"),
    (b"\x04\x22\x4d\x18", 0, "lz4-compressed", "unpack it by lz4 -d"),
    (b"7z\xbc\xaf\x27\x1c", 0, "a 7z archive", "unpack it by 7z x"),
    (b"version https://git-lfs.github.com/spec/", 0, "a Git LFS pointer", "fetch the file that it stands for by git lfs pull"),
    (b"%PDF-", 0, "a PDF", "make text of it by pdftotext"),
)
_WIDE_MARKS = ((codecs.BOM_UTF32_LE, "UTF-32"), (codecs.BOM_UTF32_BE, "UTF-32"), (codecs.BOM_UTF16_LE, "UTF-16"),
               (codecs.BOM_UTF16_BE, "UTF-16"))  # fmt: skip
_HEAD = 512  # so many bytes tell what a file is
_SKIPPED = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18")  # a skippable zstd frame, with which some packers begin a file
WINDOWS = "WINDOWS-1252"  # Latin-1's characters and a few more
LATIN1 = f"if the file is Latin-1 or Windows text: iconv -f {WINDOWS} -t UTF-8"


def _packing(path: Path) -> str:
    """The ending .gz or .zst, or an empty text."""
    suffix = path.suffix.lower()
    return suffix if suffix in PACKED else ""


def format_of(path: Path) -> str | None:
    """TEXT, LINES, ARRAY or TABLE, by the ending of the name; None for any other ending."""
    packing = _packing(path)
    suffix = (path.with_suffix("") if packing else path).suffix.lower()
    return suffix if suffix in (TEXT, LINES, ARRAY) or (suffix == TABLE and not packing) else None


def endings(formats: tuple[str, ...]) -> str:
    """The endings of these formats, for messages."""
    packed = any(name != TABLE for name in formats)
    return ", ".join(formats) + (f" (also with {' or '.join(PACKED)})" if packed else "")


# ---- open


class _Counted(io.FileIO):
    """The file's own bytes. `position` is how many have been read."""

    def __init__(self, path: Path):
        try:
            super().__init__(path)
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}") from None
        self.position = 0

    def readinto(self, buffer) -> int:
        count = super().readinto(buffer)
        self.position += count
        return count


class _Unpacked(io.RawIOBase):
    """The content of a compressed file: all of its members or frames."""

    def __init__(self, path: Path, counted: _Counted, file: io.BufferedReader, codec: str):
        import pyarrow

        self.path, self.counted, self.codec = path, counted, codec
        self.stream = pyarrow.CompressedInputStream(pyarrow.PythonFile(file, "r"), codec)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        try:
            data = self.stream.read(len(buffer))
        except OSError as error:
            raise InputError(f"{self.path}: {self._fault(str(error))}") from None
        buffer[: len(data)] = data
        return len(data)

    def _fault(self, said: str) -> str:
        read = self.counted.position
        if said.startswith("Truncated"):
            return f"cut off: its {self.codec} data do not end, though the file does at byte {read}"
        if "too much memory" in said:
            return "zstd data of a window over 128 MiB: pack it anew, zstd -dc --long=31 FILE | zstd > NEW"
        return f"damaged {self.codec} data before byte {read} ({one_line(said)})"

    def close(self) -> None:
        self.counted.close()
        super().close()


class TextFile(io.BufferedReader):
    """The bytes of a file's text, unpacked. `position` is how many bytes of the file itself have been read."""

    def __init__(self, path: Path):
        self.path, self.counted, packing = path, _Counted(path), _packing(path)
        try:
            raw = self._unpacked(packing) if packing else self.counted
            super().__init__(raw, READ_BYTES)
            self.skipped = self._check_head(self.peek(_HEAD))
        except BaseException:
            self.counted.close()
            raise
        self.read(self.skipped)

    @property
    def position(self) -> int:
        return self.counted.position

    def _unpacked(self, packing: str) -> io.IOBase:
        file, codec = io.BufferedReader(self.counted, PACKED_BYTES), PACKED[packing]
        head = file.peek(_HEAD)
        kind = _kind(head)
        known = (kind and kind[0].startswith(codec)) or (codec == "zstd" and _SKIPPED.match(head))
        if head and not known:
            raise InputError(f"{self.path}: {kind[0] if kind else f'not {codec}-compressed'}, though its name ends in {packing}: "
                             f"{kind[1] if kind else 'if it is text, name it without that'}")  # fmt: skip
        return _Unpacked(self.path, self.counted, file, codec) if head else file

    def _check_head(self, head: bytes) -> int:
        """How many bytes of a mark to skip. A file that is not text is refused."""
        if wide := _wide(head):
            raise InputError(f"{self.path}: {wide} text, expected UTF-8: {iconv(self.path, wide)}")
        if len(head) >= 16 and not head[:_HEAD].strip(b"\0"):
            raise InputError(f"{self.path}: begins with zero bytes, expected text: it was not written completely, or is not text")
        if kind := _kind(head):
            raise InputError(f"{self.path}: {kind[0]}, expected text: {kind[1]}")
        return len(BOM) if head.startswith(BOM) else 0


def kind_of_file(path: Path) -> str | None:
    """What a file that is not text is, by its bytes, and what to do about it; None: nothing known."""
    with _Counted(path) as file:
        kind = _kind(file.read(_HEAD))
    return kind and ": ".join(kind)


def _kind(head: bytes) -> tuple[str, str] | None:
    return next(((what, way) for magic, at, what, way in _MAGIC if head[at:].startswith(magic)), None)


def _wide(head: bytes) -> str | None:
    """UTF-16 or UTF-32 if a mark says so, or if every other byte is zero; else None."""
    head = head[:_HEAD]
    for mark, name in _WIDE_MARKS:
        if head.startswith(mark):
            return name
    zeros = [place for place in (0, 1) if len(head) >= 16 and head[place::2].count(0) > 0.7 * (len(head) // 2)]
    return None if len(zeros) != 1 else "UTF-16LE" if zeros == [1] else "UTF-16BE"


def iconv(path: Path, encoding: str) -> str:
    """The command that converts the file to UTF-8."""
    packing, name = _packing(path), harmless(shlex.quote(str(path)))
    unpack = {"": "", ".gz": f"gzip -dc {name} | ", ".zst": f"zstd -dc {name} | "}[packing]
    return f"{unpack}iconv -f {encoding} -t UTF-8 {'' if unpack else name + ' '}> NEW"


def not_utf8(path: Path, place: str) -> InputError:
    return InputError(f"{path}: {place}, expected UTF-8; if it is Latin-1 or Windows text: {iconv(path, WINDOWS)}")


def one_line(error: object) -> str:
    """The first line of a library's message, which may quote the file."""
    return harmless(str(error).strip().split("\n")[0])


# ---- read


def read_chunks(path: Path) -> Iterator[tuple[str, int]]:
    """Yields (text, bytes of the file read so far) until the end of the file. Each \\r\\n becomes \\n."""
    decoder, held = codecs.getincrementaldecoder("utf-8")("strict"), ""
    with TextFile(path) as file:
        read, data = file.skipped, b"\0"
        while data:
            data = file.read(READ_BYTES)
            start = read - len(decoder.getstate()[0])  # the decoder holds back the bytes of an unfinished character
            try:
                text = held + decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                raise not_utf8(path, f"not UTF-8 at byte offset {start + error.start}") from None
            read += len(data)
            held = "\r" if data and text.endswith("\r") else ""
            yield text.removesuffix(held).replace("\r\n", "\n"), file.position


def read_lines(path: Path) -> Iterator[tuple[int, bytes, int]]:
    """Yields (number from 1, line without its end, bytes of the file read so far) of all lines that are not blank."""
    with TextFile(path) as file:
        for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE + 1), b""), 1):
            if len(line) > LONGEST_LINE:
                raise InputError(f"{path}: line {number} is longer than {LONGEST_LINE >> 20} MiB, expected one row per line")
            if line.strip():
                yield number, line[:-2] if line.endswith(b"\r\n") else line.removesuffix(b"\n"), file.position


def read_text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yields (number from 1, line) of all lines that are not blank."""
    for number, line, _ in read_lines(path):
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise not_utf8(path, f"line {number}: not UTF-8 at byte {error.start} of the line") from None
        if text.strip():
            yield number, text


def read_text(path: Path) -> str:
    return "".join(text for text, _ in read_chunks(path))


def read_json(path: Path):
    """The value in a JSON file, such as a configuration."""
    return parse_json(path, read_text(path))


def read_object(path: Path) -> dict:
    """The object in a JSON file, empty if the file does not exist."""
    value = read_json(path) if path.exists() else {}
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object")
    return value


def parse_json(path: Path, text: str):
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: not JSON at line {error.lineno}, column {error.colno} ({error.msg})") from None
    except (ValueError, RecursionError):
        raise InputError(f"{path}: not JSON (nested too deep, or a number too long)") from None


def copy_unmarked(path: Path, to: Path) -> None:
    """Copies the file without a byte order mark, which other programs refuse."""
    to.write_bytes(path.read_bytes().removeprefix(BOM))


def refuse_mark(path: Path) -> None:
    """Refuses a byte order mark in a file that will be copied byte for byte."""
    with open(path, "rb") as file:
        if file.read(len(BOM)) == BOM:
            raise InputError(f"{path}: begins with a byte order mark, which tokenizers do not take: remove it, "
                             f"tail -c +4 {harmless(shlex.quote(str(path)))} > NEW")  # fmt: skip


def text_bytes(paths: list[Path], limit: float = math.inf) -> int:
    """Bytes of all text as UTF-8, unpacked. Reading stops at `limit`."""
    total = 0
    for path in paths:
        for text, _ in read_chunks(path):
            total += len(text.encode())
            if total >= limit:
                return limit
    return total


def unpacked_size(path: Path) -> int:
    """The size of the file, or of the content of a compressed one, in bytes."""
    if not _packing(path):
        return path.stat().st_size
    with TextFile(path) as file:
        return sum(map(len, iter(lambda: file.read(READ_BYTES), b"")))
