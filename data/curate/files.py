"""Files that are whole or absent: written under a temporary name, then renamed."""

import contextlib
import json
import os
from pathlib import Path
from typing import BinaryIO, Iterator

from llmdata.output import close_synced


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A binary file that gets its name when the block ends without a fault."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    file = open(partial, "wb")
    try:
        yield file
        close_synced(file)
        os.replace(partial, path)
    finally:
        file.close()


def write_json(path: Path, value) -> None:
    with whole_file(path) as file:
        file.write(json.dumps(value, ensure_ascii=False, indent=1).encode("utf-8", "surrogatepass") + b"\n")


def read_json_or(path: Path, default):
    """The value in a file that `write_json` wrote; `default` where there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8", errors="surrogatepass"))
    except FileNotFoundError:
        return default
