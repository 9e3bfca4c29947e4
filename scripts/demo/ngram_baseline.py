#!/usr/bin/env python3
"""The held-out loss of an n-gram model with Kneser-Ney smoothing on the tokens that a herd reads: what its models have to beat.

    scripts/demo/ngram_baseline.py --shards runs/herd/shards --order 5 --output runs/herd/baseline/ngram.json

FOLDER has a folder of token shards for each source. KenLM's lmplz estimates one model (modified Kneser-Ney, nothing pruned) from all
train_*.bin, and its query scores each source's val_*.bin. A document is a sentence to KenLM: its begin token is given, and its
end token scored. A loss is in nats for each token of the shards, as the trainer's; begin tokens, which always follow an end, cost
nothing and count. Unlike the trainer's rows, a document is never cut, so that each of its tokens has its whole context.
"""

import argparse
import json
import math
import re
import shutil
import subprocess
import sys
import tempfile
from itertools import chain, islice
from pathlib import Path
from typing import Iterator

from llmdata import program

program.begin()

import numpy as np

from llmdata.errors import Fault, InputError
from llmdata.options import check_bounds
from llmdata.output import write_json
from llmdata.shards import read_header, read_tokens

LARGEST_ORDER = 6  # of the KenLM that scripts/setup.sh builds


def find_program(name: str) -> str:
    found = shutil.which(name, path=Path(sys.executable).parent) or shutil.which(name)
    if found is None:
        raise Fault(f"{name} of KenLM is missing, expected what scripts/setup.sh herd installs")
    return found


def read_lines(paths: list[Path]) -> Iterator[str]:
    """Documents as KenLM reads them: the ids of a document's tokens, without begin and end."""
    for path in paths:
        header, tokens = read_header(path), read_tokens(path)
        for document in np.split(tokens, np.flatnonzero(tokens == header["bos_id"])):
            inside = document[(document != header["bos_id"]) & (document != header["eos_id"])]
            if inside.size:
                yield " ".join(map(str, inside.tolist())) + "\n"


def count_tokens(paths: list[Path]) -> int:
    return sum(read_header(path)["token_count"] for path in paths)


def pipe(command: list, lines: Iterator[str], folder: Path) -> str:
    """What the command prints when it is given the lines; its messages go to a file, and fault and warnings to stderr."""
    text, said = folder / "text", folder / "messages"
    with open(text, "w") as file:
        file.writelines(lines)
    with open(text) as given, open(said, "w") as messages:
        done = subprocess.run([str(word) for word in command], stdin=given, stdout=subprocess.PIPE, stderr=messages, text=True)
    if done.returncode:
        raise Fault(f"{command[0]}: exit code {done.returncode}: {' / '.join(said.read_text().splitlines()[-3:])}")
    for line in said.read_text().splitlines():
        if line.startswith("Substituting"):
            print(line, file=sys.stderr)
    return done.stdout


def estimate(train: list[Path], order: int, folder: Path) -> Path:
    """The model as an ARPA file. Few different tokens may lack the counts that discounts are estimated from: KenLM then has others."""
    model = folder / "model.arpa"
    pipe([find_program("lmplz"), "--order", order, "--arpa", model, "--temp_prefix", f"{folder}/", "--memory", "1G",
          "--discount_fallback"], read_lines(train), folder)  # fmt: skip
    return model


def score(model: Path, sources: dict[str, list[Path]], folder: Path) -> dict[str, dict]:
    """{source: {loss, tokens, unseen}}: nats per token, tokens, and those among them that the model does not know."""
    lines = chain.from_iterable(read_lines(val) for val in sources.values())
    said = pipe([find_program("kenlm_query"), "-v", "sentence", model], lines, folder)
    totals = iter(re.findall(r"^Total: (\S+) OOV: (\d+)$", said, re.MULTILINE))
    found = {}
    for source, val in sources.items():
        own = list(islice(totals, sum(1 for _ in read_lines(val))))
        nats, tokens = -math.log(10) * math.fsum(float(log10) for log10, _ in own), count_tokens(val)
        found[source] = {"loss": nats / tokens, "tokens": tokens, "unseen": sum(int(unseen) for _, unseen in own)}
    return found


def measure(shards: Path, order: int, output: Path) -> None:
    held_out = {folder.name: sorted(folder.glob("val_*.bin")) for folder in sorted(shards.iterdir())}
    sources = {name: val for name, val in held_out.items() if val}
    train = sorted(shards.glob("*/train_*.bin"))
    if not train or not sources:
        raise InputError(f"{shards}: expected a folder for each source, with train_*.bin and val_*.bin")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent) as name:
        print(f"estimating from {count_tokens(train)} tokens, order {order}", flush=True)
        found = score(estimate(train, order, Path(name)), sources, Path(name))
    for source, scored in found.items():
        print(f"{source}: {scored['loss']:.4f} nats per token, {scored['tokens']} tokens")
    write_json(output, {"order": order, "smoothing": "modified Kneser-Ney, KenLM", "tokens": count_tokens(train), "sources": found})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", required=True, type=Path, metavar="FOLDER", help="folder with a folder of shards for each source")
    parser.add_argument("--order", type=int, default=5, metavar="N", help="tokens of the longest n-grams (default: %(default)s)")
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="JSON file to write")
    options = parser.parse_args()

    def work() -> None:
        check_bounds(options, {"order": (2, LARGEST_ORDER)})
        if not options.shards.is_dir():
            raise InputError(f"{options.shards}: no such folder")
        measure(options.shards, options.order, options.output)

    return program.run(work)


if __name__ == "__main__":
    sys.exit(main())
