#!/usr/bin/env python3
"""Writes the Python sources of this environment's packages as a text for training: a corpus that every machine with the tests'
requirements has, of more than 100 million tokens.

    dev/bench/python_texts.py data/python/texts.jsonl --megabytes 200

One document per file, each once, in the order of the hashes of their contents, so that a part is as mixed as the whole. What
comes out depends on the versions of the packages: the SHA-256 that is printed says whether two machines have the same.
"""

import argparse
import hashlib
import json
import pathlib
import sys
import sysconfig

SHORTEST = 500  # bytes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=pathlib.Path, metavar="JSONL", help="file to write")
    parser.add_argument("--megabytes", type=float, default=200, metavar="X", help="most text to write (default: %(default)s)")
    options = parser.parse_args()
    found = {}
    for path in pathlib.Path(sysconfig.get_paths()["purelib"]).rglob("*.py"):
        data = path.read_bytes()
        if len(data) >= SHORTEST:
            found[hashlib.sha256(data).digest()] = data
    options.output.parent.mkdir(parents=True, exist_ok=True)
    whole, size, count = hashlib.sha256(), 0, 0
    with open(options.output, "w", encoding="utf-8") as file:
        for digest in sorted(found):
            if size + len(found[digest]) > 1e6 * options.megabytes:
                break
            try:
                text = found[digest].decode("utf-8")
            except UnicodeDecodeError:
                continue
            file.write(json.dumps({"text": text}) + "\n")
            whole.update(digest)
            size, count = size + len(found[digest]), count + 1
    print(f"{options.output}: {count} documents, {size / 1e6:.1f} MB, SHA-256 {whole.hexdigest()[:16]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
