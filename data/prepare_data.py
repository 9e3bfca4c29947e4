#!/usr/bin/env python3
"""Turns text into token shards that train_llama3 reads.

    prepare_data.py TEXT... --output DIR --vocab-size 2048      trains a tokenizer like Llama 3's on the text
    prepare_data.py TEXT... --output DIR --tokenizer PATH       uses an existing tokenizer

TEXT are .txt, .jsonl, .json or .parquet files, all but the last perhaps compressed (.gz, .zst), or folders of such files. In
.jsonl and .json (an array of rows, or one row per line) the text is under the key "text", in .parquet in the column "text"; a
.json file is read only where it is named itself. DIR receives train_*.bin, val_*.bin, tokenizer.json, tokenizer_config.json and
meta.json: all of them or none.

Text is UTF-8. A byte order mark at the start of a file is dropped, and CRLF in .txt becomes a newline. A document is a whole
.txt file, or one row of the other formats; its tokens are those of its whole text, however long it is. For validation, one out
of every 1/FRACTION parts is held out, chosen by a hash of the seed. A part is a whole row, or in .txt files a block of up to
16,384 characters, cut at a blank line where there is one. A document ends before a held-out block and begins anew after it. Files
without text, and files in folders that have another ending, are counted and named at the end.

Exit codes: 0 done; 2 bad usage or bad input (nothing is changed); 1 anything else.
"""

import argparse
import contextlib
import hashlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Iterator

from llmdata import program

program.begin()

import numpy as np

from llmdata import shards, split
from llmdata import tokenizer as tokenizers
from llmdata.characters import harmless
from llmdata.cut_points import CutPoints, cut_units
from llmdata.encode import encode_all
from llmdata.errors import InputError
from llmdata.files import FORMATS, Notes, find_files
from llmdata.model_folder import find_model
from llmdata.options import add_version, check_bounds, check_texts
from llmdata.output import move_into_place, partial_folder
from llmdata.progress import Progress
from llmdata.records import unpacked_bytes

OWN_FILES = ("train_*.bin", "val_*.bin", "tokenizer.json", "tokenizer_config.json", "meta.json")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_version(parser)
    add = parser.add_argument
    add("text", nargs="+", metavar="TEXT", help="file or folder of text")
    add("--output", required=True, type=Path, metavar="DIR", help="folder that receives the shards")
    choice = parser.add_mutually_exclusive_group(required=True)
    choice.add_argument("--vocab-size", type=int, metavar="N", help="train a tokenizer of N tokens, special tokens included")
    choice.add_argument("--tokenizer", type=Path, metavar="PATH",
                        help="use this tokenizer.json, tokenizer.model (Meta's, SentencePiece's) or folder with one")  # fmt: skip
    add("--bos-token", metavar="TOKEN", help="with --tokenizer: the token that begins a document")
    add("--eos-token", metavar="TOKEN", help="with --tokenizer: the token that ends a document")
    add("--val-fraction", type=float, default=0.05, metavar="F",
        help="share of the text held out for validation, 0 to 0.5 (default: %(default)s)")  # fmt: skip
    add("--shard-tokens", type=int, default=100_000_000, metavar="N", help="tokens per shard (default: %(default)s)")
    add("--tokenizer-bytes", type=int, default=1_000_000_000, metavar="N",
        help="train the tokenizer on a sample of about N bytes (default: %(default)s)")  # fmt: skip
    add("--seed", type=int, default=1, metavar="N", help="draws the validation text (default: %(default)s)")
    add("--workers", type=int, default=len(os.sched_getaffinity(0)), metavar="N",
        help="processes (default: one per core, here %(default)s)")  # fmt: skip
    add("--strict", action="store_true", help="refuse the set if a file has no text")
    add("--overwrite", action="store_true", help="replace shards that DIR already holds")
    options = parser.parse_args()
    check_options(options)
    return options


def check_options(options: argparse.Namespace) -> None:
    check_texts(options, "bos_token", "eos_token")
    options.tokenizer = options.tokenizer and find_model(options.tokenizer)
    bounds = {"shard_tokens": (1024, 1 << 40), "tokenizer_bytes": (1, 1 << 50), "workers": (1, 1024), "val_fraction": (0, 0.5)}
    if options.vocab_size is not None:
        bounds["vocab_size"] = (tokenizers.SMALLEST_VOCABULARY, 1 << 24)
    check_bounds(options, bounds)


def training_texts(files: list[Path], options: argparse.Namespace, notes: Notes, progress: Progress) -> Iterator[str]:
    """Text to train the tokenizer on: nothing that is held out, thinned evenly to about --tokenizer-bytes."""
    keep = min(1.0, options.tokenizer_bytes / max(1, unpacked_bytes(files)))
    due = 1.0
    for unit in split.read_units(files, options.val_fraction, options.seed, notes):
        progress.update(unit.consumed)
        due += keep
        if unit.split == "train" and due >= 1:
            due -= 1
            yield unit.text


def make_tokenizer(files: list[Path], options: argparse.Namespace, notes: Notes) -> tokenizers.TextTokenizer:
    if options.tokenizer is not None:
        return tokenizers.load(options.tokenizer, options.bos_token, options.eos_token)
    progress = Progress("tokenizer", sum(path.stat().st_size for path in files))
    result = tokenizers.train(training_texts(files, options, notes, progress), options.vocab_size)
    progress.finish(f"{result.vocab_size} tokens trained")
    return result


def find_cut_points(text_tokenizer: tokenizers.TextTokenizer) -> CutPoints:
    cut_points = CutPoints(text_tokenizer.tokenizer)
    if cut_points.unknown:
        print(f"prepare_data: {cut_points.unknown}: where this lets a text be cut is not known, so each document is encoded as a "
              "whole; memory grows with the longest one", file=sys.stderr)  # fmt: skip
    return cut_points


def write_shards(files: list[Path], options: argparse.Namespace, notes: Notes, text_tokenizer: tokenizers.TextTokenizer,
                 folder: Path) -> dict:  # fmt: skip
    """Encodes all text into shards in `folder`. Returns what meta.json says of them."""
    path = folder / "tokenizer.json"
    sha256 = hashlib.sha256(path.read_bytes())
    bos, eos = text_tokenizer.bos, text_tokenizer.eos
    writers = {
        name: shards.ShardWriter(folder, name, text_tokenizer.vocab_size, bos, eos, sha256.digest(), options.shard_tokens)
        for name in ("train", "val")
    }
    documents, text_bytes = {"train": 0, "val": 0}, {"train": 0, "val": 0}
    progress = Progress("tokens", sum(file.stat().st_size for file in files))
    units = cut_units(split.read_units(files, options.val_fraction, options.seed, notes), find_cut_points(text_tokenizer))
    with contextlib.closing(encode_all(units, path, bos, eos, options.workers)) as results:
        for result in results:
            for name, tokens in result.tokens.items():
                writers[name].write(tokens)
                documents[name] += result.documents[name]
                text_bytes[name] += result.text_bytes[name]
            progress.update(result.consumed)
    for writer in writers.values():
        writer.finish()
    counts = {name: int(writer.counts.sum()) for name, writer in writers.items()}
    progress.finish(f"{counts['train']} to train, {counts['val']} to validate")
    check_splits(counts, options)
    return describe(options, text_tokenizer, sha256.hexdigest(), writers, counts, documents, text_bytes)


def check_splits(counts: dict[str, int], options: argparse.Namespace) -> None:
    if counts["train"] == 0 or (options.val_fraction > 0 and counts["val"] == 0):
        missing = "train" if counts["train"] == 0 else "validate"
        raise InputError(f"{options.text[0]}: too little text to {missing} with --val-fraction {options.val_fraction}, "
                         "expected some of both: give more text, or --val-fraction 0, which holds out nothing")  # fmt: skip


def describe(options, text_tokenizer, sha256, writers, counts, documents, text_bytes) -> dict:
    in_text = {name: max(1, count - frame_tokens(writers[name])) for name, count in counts.items()}
    return {
        "format_version": shards.VERSION,
        "vocab_size": text_tokenizer.vocab_size,
        "token_bits": shards.token_bits(text_tokenizer.vocab_size),
        "bos_id": text_tokenizer.bos,
        "eos_id": text_tokenizer.eos,
        "tokenizer_sha256": sha256,
        "train_tokens": counts["train"],
        "val_tokens": counts["val"],
        "train_documents": documents["train"],
        "val_documents": documents["val"],
        "train_shards": writers["train"].names,
        "val_shards": writers["val"].names,
        "text_bytes": sum(text_bytes.values()),
        "text_bytes_per_token": sum(text_bytes.values()) / sum(in_text.values()),
        "val_text_bytes_per_token": text_bytes["val"] / in_text["val"],
        "unigram_val_loss": unigram_loss(writers["train"], writers["val"]),
        "val_fraction": options.val_fraction,
        "seed": options.seed,
        "text": options.text,
    }


def frame_tokens(writer: shards.ShardWriter) -> int:
    """How many of the tokens begin or end a document and are not text."""
    return int(writer.counts[writer.bos] + (0 if writer.eos is None else writer.counts[writer.eos]))


def unigram_loss(train: shards.ShardWriter, val: shards.ShardWriter) -> float | None:
    """Cross-entropy, in nats per validation token, under the frequencies of the training tokens with add-one smoothing.

    Begin tokens are left out: with a document mask they are never predicted.
    """
    seen, asked = train.counts.astype(np.float64) + 1, val.counts.astype(np.float64)
    seen[train.bos] = asked[train.bos] = 0
    if asked.sum() == 0:
        return None
    used = asked > 0
    return float(-(asked[used] * np.log(seen[used] / seen.sum())).sum() / asked.sum())


def prepare(options: argparse.Namespace) -> None:
    notes = Notes(strict=options.strict)
    files = find_files(options.text, FORMATS, notes)
    with partial_folder(options.output, OWN_FILES, options.overwrite) as folder:
        text_tokenizer = make_tokenizer(files, options, notes)
        text_tokenizer.save(folder)
        print(document_tokens(text_tokenizer), flush=True)
        meta = write_shards(files, options, notes, text_tokenizer, folder)
        (folder / "meta.json").write_text(json.dumps(meta, indent=2) + "\n")
        move_into_place(folder, options.output, OWN_FILES)
    notes.report("prepare_data", FORMATS)
    print_summary(options.output, meta)


def document_tokens(text_tokenizer: tokenizers.TextTokenizer) -> str:
    """Says which tokens stand around a document, and which options would name others if these are guesses."""
    begin, end = (
        None if number is None else f"{harmless(text_tokenizer.tokenizer.id_to_token(number))} ({number})"
        for number in (text_tokenizer.bos, text_tokenizer.eos)
    )
    said = f"documents begin with {begin}" + (f" and end with {end}" if end else ", which ends the one before")
    guessed = text_tokenizer.guessed
    names = "names" if len(guessed) > 1 else "name"
    if guessed:
        said += (f"; a guess by the usual {names}, as the tokenizer does not say it: "
                 f"give {' and '.join(guessed)} if it is wrong")  # fmt: skip
    return said


def print_summary(output: Path, meta: dict) -> None:
    print(f"{output}: vocabulary {meta['vocab_size']}, {meta['text_bytes_per_token']:.2f} bytes of text per token", end="")
    loss = meta["unigram_val_loss"]
    print("" if loss is None else f", unigram validation loss {loss:.4f}")


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the partial folder is removed
    return program.run(lambda: prepare(parse_arguments()))


if __name__ == "__main__":
    sys.exit(main())
