"""The files of a run's input: found once, listed in a file, and dealt to tasks."""

import glob
import json
import os
from pathlib import Path
from typing import Iterator

from llmdata.errors import InputError

from .files import whole_file

_ENDINGS = {".warc": "warc", ".wet": "warc", ".html": "html", ".htm": "html", ".xhtml": "html", ".jsonl": "jsonl",
            ".parquet": "parquet"}  # fmt: skip
_PACKED = (".gz", ".zst")


def format_of(path: Path) -> str | None:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packed = suffixes[-1:] and suffixes[-1] in _PACKED
    ending = _ENDINGS.get(suffixes[-1] if suffixes and not packed else suffixes[-2] if len(suffixes) > 1 else "")
    packings = {"warc": (".gz",), "html": (".gz",), "jsonl": _PACKED}.get(ending, ())
    return ending if not packed or suffixes[-1] in packings else None


def find_inputs(settings: list[dict]) -> Iterator[dict]:
    """Yields {"path", "format", "source", "bytes", "root"} (and "language") of each file, as the settings and names order them."""
    for number, entry in enumerate(settings):
        count = 0
        for pattern in entry["paths"]:
            for root in [Path(name) for name in sorted(glob.glob(pattern))] or _missing(number, pattern):
                for path in _files_below(root):
                    if found := _entry(path, root, entry):
                        count += 1
                        yield found
        if count == 0:
            raise InputError(f"input.{number}.paths: {', '.join(entry['paths'])}: expected files of WARC, WET, HTML, JSONL or Parquet")


def _missing(number: int, pattern: str):
    raise InputError(f"input.{number}.paths: {pattern}: no such file or folder")


def _files_below(root: Path) -> Iterator[Path]:
    if not root.is_dir():
        yield root
        return
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(folder, name) for name in sorted(names) if not name.startswith("."))


def _entry(path: Path, root: Path, entry: dict) -> dict | None:
    kind = format_of(path) if entry["format"] == "auto" else entry["format"]
    if kind is None or (root.is_dir() and entry["format"] != "auto" and format_of(path) != kind):
        return None
    more = {"language": entry["language"]} if "language" in entry else {}
    try:
        size = path.stat().st_size
    except OSError:  # the reader will say so
        size = 0
    return {"path": str(path), "format": kind, "source": entry["source"], "bytes": size, "root": str(root), **more}


def write_list(path: Path, settings: list[dict]) -> None:
    """Lists all files."""
    with whole_file(path) as file:
        for entry in find_inputs(settings):
            file.write(json.dumps(entry, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")


def read_list(path: Path, rank: int = 0, tasks: int = 1) -> Iterator[dict]:
    """The entries of a task."""
    with open(path, encoding="utf-8", errors="surrogatepass") as file:
        for number, line in enumerate(file):
            if number % tasks == rank:
                yield json.loads(line)
