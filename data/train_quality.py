#!/usr/bin/env python3
"""Trains a classifier of documents for data/curate.py: fastText, on words and pairs of words, in seconds.

    train_quality.py --good wikipedia_cites/ --crowd crawl.jsonl --output models/quality.bin
    train_quality.py --good code.jsonl mathematics/ --crowd crawl.jsonl --features code --output models/reasoning.bin
    train_quality.py --labelled topics.jsonl --output models/topic.bin

Good examples are documents of the kind that is wanted, the crowd is what a crawl brings. With --labelled, each row of FILE (a line of
.jsonl, an element of a .json array or a row of .parquet) is an object with "text" and "label", such as a topic.

A part of the documents is held out and judged by the model: precision, recall and AUC, for good and crowd at several thresholds, for
labels one by one. Exact copies are left out first. Beside the model, NAME.json says how it was trained and what was found.

Exit codes: 0 done; 2 bad usage or bad input (nothing is changed); 1 anything else; 130 interrupted.
"""

import argparse
import hashlib
import os
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import BinaryIO, Iterator

from llmdata import program

program.begin()

import numpy as np

from curate import classifier
from llmdata import records
from llmdata.documents import read_pieces
from llmdata.errors import Fault, InputError
from llmdata.files import FORMATS, ROWS, Notes, find_files
from llmdata.options import add_version, check_bounds
from llmdata.progress import Progress
from llmdata.split import HeldOut

GOOD, CROWD = "good", "crowd"
LEAST = 10  # documents of each label, of which at least one is held out
LOOKS, FEWEST, MOST_EPOCHS = 20_000, 5, 200
THRESHOLDS = (0.1, 0.3, 0.5, 0.7, 0.9)
TRAINING = {"dim": 32, "wordNgrams": 2, "bucket": 1 << 18, "minCount": 2, "lr": 0.5, "loss": "softmax", "verbose": 0}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_version(parser)
    add = parser.add_argument
    add("--good", nargs="+", metavar="PATH", help="files or folders of good examples, as prepare_data.py reads them")
    add("--crowd", nargs="+", metavar="PATH", help="files or folders of what else there is")
    add("--labelled", nargs="+", metavar="FILE", help="files of rows with text and label, in place of --good and --crowd")
    add("--output", required=True, type=Path, metavar="FILE.bin", help="model to write")
    add("--features", choices=sorted(classifier.FEATURES), default="words",
        help="words: in lower case, without marks; code: marks and indentation too (default: %(default)s)")  # fmt: skip
    add("--held-out", type=float, default=0.1, metavar="SHARE", help="share of the documents to judge by (default: %(default)s)")
    add("--epochs", type=int, metavar="N",
        help=f"passes over the documents (default: as many as show {LOOKS} documents, within {FEWEST} and {MOST_EPOCHS})")  # fmt: skip
    add("--seed", type=int, default=1, metavar="N", help="chooses what is held out and how training begins (default: %(default)s)")
    add("--workers", type=int, default=1, metavar="N", help="threads; with one, the same input gives the same model (default: %(default)s)")
    add("--overwrite", action="store_true", help="replace FILE.bin and FILE.json")
    options = parser.parse_args()
    check_bounds(options, {"held_out": (0.01, 0.5), "workers": (1, 1024), "seed": (0, 2**31 - 1)})
    if options.epochs is not None:
        check_bounds(options, {"epochs": (1, 1000)})
    check_choice(options)
    return options


def check_choice(options: argparse.Namespace) -> None:
    pair = options.good is not None and options.crowd is not None
    if pair == (options.labelled is not None) or (options.good is None) != (options.crowd is None):
        raise InputError("expected both --good and --crowd, or else --labelled")
    if options.output.suffix != ".bin":
        raise InputError(f"--output {options.output}: expected a name that ends in .bin")
    if not options.output.parent.is_dir():
        raise InputError(f"{options.output.parent}: no such folder")
    for path in (options.output, options.output.with_suffix(".json")):
        if path.exists() and not options.overwrite:
            raise InputError(f"{path}: already there; give another name, or --overwrite")


# ---- examples


def find_examples(options: argparse.Namespace) -> list[tuple[str | None, Path]]:
    """(label, file); None: the rows say their labels."""
    notes = Notes()
    if options.labelled:
        return [(None, path) for path in find_files(options.labelled, ROWS, notes)]
    found = [(label, path) for label, paths in ((GOOD, options.good), (CROWD, options.crowd)) for path in find_files(paths, FORMATS, notes)]
    notes.report("train_quality", FORMATS)
    return found


def read_examples(label: str | None, path: Path) -> Iterator[tuple[str, str, int]]:
    """Yields (label, text, bytes of the file read so far)."""
    if label is None:
        yield from read_labelled(path)
        return
    for piece in read_pieces(path, classifier.LONGEST):
        if piece.first:  # of a long document no more is looked at later either
            yield label, piece.text, piece.consumed


def read_labelled(path: Path) -> Iterator[tuple[str, str, int]]:
    for where, row, consumed in records.read_objects(path):
        found = [row.get(name) for name in ("label", "text")]
        if not all(isinstance(text, str) and text.strip() for text in found):
            raise InputError(f'{where}: expected an object with texts under "label" and "text"')
        yield found[0].strip(), found[1], consumed


class Split:
    """Training lines in a file as fastText reads them, shuffled, and the held-out examples: [(label, features)].

    fastText learns in the order of the file: label by label, it would forget the first ones.
    """

    def __init__(self, options: argparse.Namespace, path: Path):
        self.options, self.counts, self.held_out, self.copies = options, Counter(), [], 0
        self.seen, self.chance, self.begins = set(), {}, []
        files, before = find_examples(options), 0
        progress = Progress("read", sum(path.stat().st_size for _, path in files))
        with tempfile.TemporaryFile(dir=path.parent) as lines:
            for label_of_all, file in files:
                for label, text, consumed in read_examples(label_of_all, file):
                    self._add(label, classifier.to_features(text, options.features), lines)
                    progress.update(before + consumed, f"{self.counts.total()} documents")
                before += file.stat().st_size
            progress.close()
            self._check()
            self._shuffle(lines, path)

    def _add(self, label: str, features: str, lines: BinaryIO) -> None:
        digest = hashlib.blake2b(features.encode("utf-8", "replace"), digest_size=8).digest()
        if not features or digest in self.seen:
            self.copies += 1
            return
        self.seen.add(digest)
        self.counts[label] += 1
        if self.chance.setdefault(label, HeldOut(self.options.held_out, f"{self.options.seed} {label}")).next_is_held_out():
            self.held_out.append((label, features))
        else:
            self.begins.append(lines.tell())
            lines.write(f"{classifier.to_label(label)} {features}\n".encode("utf-8", "replace"))

    def _shuffle(self, lines: BinaryIO, path: Path) -> None:
        random.Random(self.options.seed).shuffle(self.begins)
        with open(path, "wb") as file:
            for begin in self.begins:
                lines.seek(begin)
                file.write(lines.readline())

    def _check(self) -> None:
        if len(self.counts) < 2:
            raise InputError(f"only the label {', '.join(self.counts) or '(none)'}, expected at least two")
        for label, count in self.counts.items():
            held_out = sum(each == label for each, _ in self.held_out)
            if count < LEAST or not held_out:
                raise InputError(f"label {label}: {count} different documents, {held_out} of them held out; expected at least {LEAST} and 1")


# ---- judgement


def area(scores: np.ndarray, right: np.ndarray) -> float:
    """AUC: the chance that a right one has a higher score than a wrong one; half of it where they are equal."""
    _, ranks, counts = np.unique(scores, return_inverse=True, return_counts=True)
    middle = (np.cumsum(counts) - (counts - 1) / 2)[ranks]
    good = int(right.sum())
    return float((middle[right].sum() - good * (good + 1) / 2) / (good * (len(right) - good)))


def rates(chosen: np.ndarray, right: np.ndarray) -> dict[str, float]:
    hits = int((chosen & right).sum())
    return {"precision": round(hits / max(1, int(chosen.sum())), 4), "recall": round(hits / int(right.sum()), 4),
            "kept": round(float(chosen.mean()), 4)}  # fmt: skip


def judge(model, split: Split, options: argparse.Namespace) -> dict:
    """What the held-out documents say, by threshold or by label."""
    names = np.array([label for label, _ in split.held_out])
    found = [dict(zip(map(classifier.from_label, labels), scores))
             for labels, scores in (model.predict(features, k=-1) for _, features in split.held_out)]  # fmt: skip
    result: dict = {"documents": len(names), "auc": {}}
    for label in [GOOD] if options.good else sorted(split.counts):
        scores = np.array([each.get(label, 0.0) for each in found])
        result["auc"][label] = round(area(scores, names == label), 4)
        if options.good:
            result["thresholds"] = {str(least): rates(scores >= least, names == label) for least in THRESHOLDS}
    if not options.good:
        first = np.array([max(each, key=each.__getitem__) for each in found])
        result["labels"] = {label: rates(first == label, names == label) for label in sorted(split.counts)}
    return result


def show(found: dict) -> None:
    by = "thresholds" if "thresholds" in found else "labels"
    print(f"held out: {found['documents']} documents; AUC " + ", ".join(f"{label} {value:.4f}" for label, value in found["auc"].items()))
    width = max(len(name) for name in [by, *found[by]])
    print(f"{by[:-1]:>{width}} precision    recall      kept")
    for name, row in found[by].items():
        print(f"{name:>{width}} " + " ".join(f"{row[key]:9.4f}" for key in ("precision", "recall", "kept")))


def train(options: argparse.Namespace) -> None:
    import fasttext

    with tempfile.TemporaryDirectory(dir=options.output.parent) as folder:
        lines, model_path = Path(folder) / "train.txt", Path(folder) / "model.bin"
        split = Split(options, lines)
        epochs = options.epochs or min(MOST_EPOCHS, max(FEWEST, LOOKS // split.counts.total()))
        try:
            model = fasttext.train_supervised(str(lines), epoch=epochs, seed=options.seed, thread=options.workers, **TRAINING)
        except RuntimeError as error:  # NaN
            raise Fault(f"fastText: {error}: training diverged, try fewer --epochs") from None
        found = judge(model, split, options)
        model.save_model(str(model_path))
        os.replace(model_path, options.output)
    classifier.write_settings(options.output, {
        "features": options.features, "labels": dict(sorted(split.counts.items())), "copies_left_out": split.copies,
        "training": {**TRAINING, "epochs": epochs, "seed": options.seed, "held_out": options.held_out}, "held_out": found,
    })  # fmt: skip
    show(found)
    print(f"{options.output}: {split.counts.total()} documents (" + ", ".join(f"{n} {label}" for label, n in split.counts.most_common())
          + f"), {split.copies} copies or empty ones left out")  # fmt: skip


def main() -> int:
    return program.run(lambda: train(parse_arguments()), interrupted="train_quality: interrupted, nothing was written")


if __name__ == "__main__":
    sys.exit(main())
