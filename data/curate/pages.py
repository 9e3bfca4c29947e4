"""Bytes from the web as text, and what a URL tells."""

import gzip
import zlib
from pathlib import Path
from urllib.parse import urlsplit

from resiliparse.parse.encoding import bytes_to_str, detect_encoding, map_encoding_to_html5

from llmdata.text_file import BOM

HTML = ("text/html", "application/xhtml+xml")
_SECOND_LEVEL = {"ac", "co", "com", "edu", "gov", "net", "org"}  # as in example.co.uk
MOST_ZEROS = 0.01  # share of NUL bytes beyond which bytes are no text


class BadPage(Exception):
    """Why a document cannot be read; the text is the reason under which it is counted."""


def decode(data: bytes, declared: str | None) -> str:
    """The text of a page. Bytes that are UTF-8 are taken for that, whatever the page declares; a declared encoding that does
    not fit is not believed either. NUL characters are removed."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", "replace").replace("\0", "")
    if data.count(0) > MOST_ZEROS * len(data):
        raise BadPage("binary")
    try:
        text = data.removeprefix(BOM).decode("utf-8")
    except UnicodeDecodeError:
        text = bytes_to_str(data, _encoding(data, declared), "replace", [])
    return text.replace("\0", "")


def _encoding(data: bytes, declared: str | None) -> str:
    """The declared encoding, the page's own (meta), or one that is detected: the first that fits and is not UTF-8."""
    own = detect_encoding(data, from_html_meta=True)
    for name in (map_encoding_to_html5(declared) if declared else None, own):
        if name and name != "utf-8" and _fits(data, name):
            return name
    return detect_encoding(data)


def _fits(data: bytes, name: str) -> bool:
    try:
        data.decode(name)
        return True
    except (UnicodeDecodeError, LookupError):
        return False


def domain_of(url: str) -> str:
    """The registered domain, by a rule without lists: two labels, three where the last but one is as `co` in example.co.uk."""
    try:
        host = (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:
        return ""
    labels = host.split(".")
    if labels[-1].isdigit():
        return host  # an address
    count = 3 if len(labels) > 2 and len(labels[-1]) == 2 and labels[-2] in _SECOND_LEVEL else 2
    return ".".join(labels[-count:])


def read_page(path: Path, most_bytes: int) -> bytes:
    """The content of a file, unpacked if its name ends in .gz, of which no more than `most_bytes` are ever in memory."""
    try:
        with (gzip.open if path.suffix.lower() == ".gz" else open)(path, "rb") as file:
            data = file.read(most_bytes + 1)
    except FileNotFoundError:
        raise BadPage("file vanished") from None
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise BadPage("damaged gzip data") from None
    except OSError:
        raise BadPage("file cannot be read") from None
    check_size(len(data), most_bytes)
    return data


def check_size(size: int, most_bytes: int) -> None:
    if size > most_bytes:
        raise BadPage("too long")
