#!/usr/bin/env python3
"""Downloads Debian packages and takes texts out of them, as pages and documents to train on. Nothing is installed.

    package_files.py debian-handbook --files 'usr/share/doc/*.html' --output DIR

DIR receives HTML files at their places in the package, all other files that match as rows of documents.jsonl ("text", "id"),
those that are not UTF-8 left out, and packages.json with the versions and what was taken. In a pattern * stands for slashes
too.

Exit codes: 0 done; 2 bad usage or bad input (one line on stderr); 1 anything else.
"""

import argparse
import fnmatch
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from llmdata import program

program.begin()

from llmdata.errors import Fault, InputError
from llmdata.options import add_version
from llmdata.output import write_json

PAGES = (".html", ".htm", ".xhtml")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_version(parser)
    add = parser.add_argument
    add("packages", nargs="+", metavar="PACKAGE", help="names of packages that apt knows")
    add("--files", required=True, nargs="+", metavar="PATTERN", help="files inside the packages, as 'usr/share/doc/*.html'")
    add("--output", required=True, type=Path, metavar="DIR", help="folder that receives the texts; what it holds is replaced")
    return parser.parse_args()


def download(package: str, folder: Path) -> Path:
    """The package's file. Errors: InputError with apt's message."""
    done = subprocess.run(["apt-get", "download", package], cwd=folder, capture_output=True, text=True)
    found = list(folder.glob("*.deb"))
    if done.returncode or len(found) != 1:
        said = (done.stderr.strip() or "no file").splitlines()[-1]
        raise InputError(f"{package}: apt-get download says \"{said}\"; apt-get update may help")
    return found[0]


def take(root: Path, package: str, patterns: list[str], output: Path, rows) -> dict[str, int]:
    """Moves pages, and writes other texts as rows."""
    counts = {"pages": 0, "documents": 0, "not UTF-8": 0}
    for path in sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink()):
        name = str(path.relative_to(root))
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
            continue
        if path.suffix.lower() in PAGES:
            target = output / package / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(path, target)
            counts["pages"] += 1
            continue
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:
            counts["not UTF-8"] += 1
            continue
        if text.strip():
            rows.write(json.dumps({"text": text, "id": f"{package}/{name}"}, ensure_ascii=False) + "\n")
            counts["documents"] += 1
    return counts


def run(options: argparse.Namespace) -> None:
    shutil.rmtree(options.output, ignore_errors=True)
    options.output.mkdir(parents=True)
    found = {}
    with open(options.output / "documents.jsonl", "w", encoding="utf-8") as rows:
        for number, package in enumerate(options.packages, 1):
            with tempfile.TemporaryDirectory(dir=options.output) as name:
                folder = Path(name)
                file = download(package, folder)
                unpacked = subprocess.run(["dpkg-deb", "-x", file, folder / "root"], capture_output=True, text=True)
                if unpacked.returncode:
                    raise Fault(f"{package}: dpkg-deb says \"{unpacked.stderr.strip()}\"")
                found[package] = {"file": file.name, **take(folder / "root", package, options.files, options.output, rows)}
            print(f"[{number}/{len(options.packages)}] {found[package]['file']}: {found[package]}", flush=True)
    empty = [name for name, counts in found.items() if not counts["pages"] + counts["documents"]]
    if empty:
        raise InputError(f"{empty[0]}: no file of {' '.join(options.files)} in it")
    if not any(counts["documents"] for counts in found.values()):
        (options.output / "documents.jsonl").unlink()
    write_json(options.output / "packages.json", found)


def main() -> int:
    options = parse_arguments()
    return program.run(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
