#!/usr/bin/env python3
"""Turns chat data into rows of tokens for finetuning with train_llama3: conversations, or answers to compare.

    prepare_chat.py CHATS... --tokenizer MODEL --output DIR       prepares a set for --task sft, or for dpo and reward
    prepare_chat.py --output DIR --show 3                         shows rows of a finished set

CHATS are .jsonl, .json (an array of rows, or one row per line) or .parquet files, the first two perhaps compressed (.gz, .zst),
or folders of such files; a .json file is read only where it is named itself. The fields of a row decide what it is for:
    {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}, ...]}                sft
    {"conversations": [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}, ...]}    sft (ShareGPT, Axolotl)
    {"instruction": "...", "input": "...", "output": "..."}                sft (Alpaca: instruction, blank line, input)
    {"prompt": "...", "answer": "...", "unsafe": true, "categories": ["S1"]}                     sft (a guard; see below)
    {"prompt": "...", "chosen": "...", "rejected": "..."}         dpo, reward; an "edited" answer is better than "chosen"
    {"prompt": "...", "answers": ["best", "second", "third"]}     dpo, reward; two or three answers, best first

Roles are system, user, assistant and tool (or ipython). A prompt and an answer are a text or a list of messages; answers that
are whole conversations begin with the prompt that they share. A row's "system" becomes a system message in front. The chat
template reads all fields of the messages (tool_calls, reasoning_content, name, ...) and the row's "tools", "documents" and
"chat_template_kwargs"; a field that says something and that the template does not write is named at the end.

A guard is asked whether the prompt, or the answer where there is one, is unsafe, in the words in which serve.py and evaluate.py ask
it, and answers "safe", or "unsafe" and the categories.

The loss is taken on what an assistant writes, including tool calls and reasoning, and on the token that ends its turn. An
assistant's message with "weight": 0, "train": false or "loss": false is not trained. The template is MODEL's
(chat_template.jinja or tokenizer_config.json), or Llama 3's where MODEL has none. Rows that cannot be used are left out, named
and counted, and so are files without rows. A row ends with its last trained token. DIR receives train_*.bin, val_*.bin, the
tokenizer's files and meta.json: all of them or none.

Exit codes: 0 done; 2 bad usage or bad input (nothing is changed); 1 anything else.
"""

import argparse
import contextlib
import datetime
import hashlib
import itertools
import json
import math
import os
import shutil
import signal
import sys
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

from llmdata import program

program.begin()

from llmdata import rows
from llmdata import tokenizer as tokenizers
from llmdata.bad_row import REASONS, TOO_LONG
from llmdata.chat_rows import KIND_NAMES
from llmdata.chat_set import MIXED, Made, Settings, Source, find_kind, make_rows
from llmdata.chat_template import LLAMA3, LLAMA3_DATE, LLAMA3_TEMPLATE, OWN, Template
from llmdata.chat_tokens import ROW_FIELDS, RowEncoder, row_length
from llmdata.errors import InputError
from llmdata.files import ROWS, Notes, find_files
from llmdata.model_folder import find_model
from llmdata.options import add_version, check_bounds, check_texts
from llmdata.output import move_into_place, partial_folder
from llmdata.progress import Progress
from llmdata.records import place
from llmdata.row_display import RowDisplay, terminal_width
from llmdata.split import HeldOut
from llmdata.text_file import copy_unmarked, read_object
from llmdata.tokenizer import CONFIG, open_tokenizer

BESIDE = (CONFIG, OWN, "special_tokens_map.json", "added_tokens.json")  # copied with the tokenizer where they exist
# reference_*.bin is where train_llama3 keeps a reference model's log-probabilities of the set's answers
OWN_FILES = ("train_*.bin", "val_*.bin", "reference_*.bin", "tokenizer.json", *BESIDE, "meta.json")
LISTED = 5  # so many left-out rows are named on stderr


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_version(parser)
    add = parser.add_argument
    add("chats", nargs="*", metavar="CHATS", help="file or folder of rows, each used once")
    add("--source", nargs=2, action="append", default=[], metavar=("PATH", "WEIGHT"),
        help="file or folder whose rows are used WEIGHT times in training: with 2.5, all of them twice and half of them, drawn "
             "by the seed, a third time; may be given several times")  # fmt: skip
    add("--output", required=True, type=Path, metavar="DIR", help="folder that receives the rows")
    add("--tokenizer", type=Path, metavar="MODEL",
        help="folder with tokenizer.json (or .model): a model's, or one of prepared data")  # fmt: skip
    add("--kind", choices=sorted(KIND_NAMES.values()), help="which kind to make of rows that have the fields of both")
    add("--val-fraction", type=float, default=0.05, metavar="F",
        help="share of rows held out for validation, 0 to 0.5; they are used once (default: %(default)s)")  # fmt: skip
    add("--seed", type=int, default=1, metavar="N",
        help="draws the validation rows and the fractions of sources (default: %(default)s)")  # fmt: skip
    add("--max-tokens", type=int, metavar="N",
        help="length of the longest row; answers to compare count with their prompt (default: no limit)")  # fmt: skip
    add("--too-long", choices=["drop", "cut", "refuse"], default="drop",
        help="what to do with longer rows: drop them; cut the last messages off a conversation, or the end off a single answer; "
             "or refuse the set (default: %(default)s)")  # fmt: skip
    add("--system", metavar="TEXT", help="system message for rows that have none")
    add("--date", type=datetime.date.fromisoformat, default=LLAMA3_DATE, metavar="YYYY-MM-DD",
        help="today's date for templates that write it (default: %(default)s, the date in Llama 3.1's)")  # fmt: skip
    add("--strict", action="store_true", help="refuse the set if a row cannot be used or a file has no rows")
    add("--show", type=int, default=0, metavar="N", help="print the first N rows, with the trained tokens in colour")
    add("--shard-tokens", type=int, default=100_000_000, metavar="N", help="tokens per file (default: %(default)s)")
    add("--workers", type=int, default=len(os.sched_getaffinity(0)), metavar="N",
        help="processes (default: one per core, here %(default)s)")  # fmt: skip
    add("--overwrite", action="store_true", help="replace rows that DIR already holds")
    options = parser.parse_args()
    check_options(options)
    return options


def check_options(options: argparse.Namespace) -> None:
    bounds = {"shard_tokens": (1024, 1 << 40), "workers": (1, 1024), "val_fraction": (0, 0.5), "show": (0, 1 << 30)}
    if options.max_tokens is not None:
        bounds["max_tokens"] = (2, 1 << 30)
    check_bounds(options, bounds)
    check_texts(options, "system")
    given = bool(options.chats or options.source)
    if not given and not options.show:
        raise InputError("no chats: give files or folders, or --source")
    if given and options.tokenizer is None:
        raise InputError("--tokenizer is missing: expected the folder of the model that will be trained")
    options.tokenizer = options.tokenizer and find_model(options.tokenizer)


def find_sources(options: argparse.Namespace, notes: Notes) -> list[Source]:
    sources = [Source(path, 1.0) for path in find_files(options.chats, ROWS, notes)]
    for name, text in options.source:
        try:
            weight = float(text)
        except ValueError:
            weight = math.nan
        if not 0 < weight <= 1000:
            raise InputError(f"--source {name} {text}: expected a weight over 0, up to 1000")
        sources += [Source(path, weight) for path in find_files([name], ROWS, notes)]
    return sources


# ---- count and choose


@dataclass
class SourceCount:
    """What became of a source's rows: `rows` could be used, `trained_on` were written for training (repeats included)."""

    rows: int = 0
    trained_on: int = 0
    validation: int = 0
    cut: int = 0
    skipped: Counter = field(default_factory=Counter)
    first_skipped: str = ""


class Chooser:
    """Decides into which split a row goes, and how often."""

    def __init__(self, sources: list[Source], fraction: float, seed: int):
        self.held_out = HeldOut(fraction, seed)
        self.whole = [int(source.weight) for source in sources]
        self.parts = [HeldOut(source.weight % 1, f"{seed} weight {index}") for index, source in enumerate(sources)]

    def place(self, source: int) -> tuple[str, int]:
        if self.held_out.next_is_held_out():
            return "val", 1
        return "train", self.whole[source] + self.parts[source].next_is_held_out()


class Preparation:
    """Writes the rows of one set to its files and counts what was left out."""

    def __init__(self, options: argparse.Namespace, sources: list[Source], writers: dict[str, rows.RowWriter], notes: Notes):
        self.options, self.sources, self.writers, self.notes = options, sources, writers, notes
        self.counts = [SourceCount() for _ in sources]
        self.chooser = Chooser(sources, options.val_fraction, options.seed)
        self.listed: list[str] = []
        self.unwritten: Counter[str] = Counter()
        self.turn_ends = self.longest = 0

    def take(self, made: Made) -> None:
        if made.row is None:
            self._leave_out(made)
            return
        count = self.counts[made.source]
        count.rows += 1
        count.cut += made.cut
        self.unwritten.update(made.unwritten)
        split, times = self.chooser.place(made.source)
        for _ in range(times):
            self.writers[split].write(made.row)
        count.trained_on += times if split == "train" else 0
        count.validation += split == "val"
        if times:
            end = self.writers[split].end | int(rows.TRAINED | rows.FORMAT)
            self.turn_ends += sum(int((part == end).sum()) for part in made.row.parts())
            self.longest = max(self.longest, row_length(made.row))

    def _leave_out(self, made: Made) -> None:
        where = f"{place(self.sources[made.source].path, made.number)}: {made.text}"
        if made.reason == MIXED or self.options.strict or (made.reason == TOO_LONG and self.options.too_long == "refuse"):
            raise InputError(where)
        count = self.counts[made.source]
        count.skipped[made.reason] += 1
        count.first_skipped = count.first_skipped or where
        if len(self.listed) < LISTED:
            self.listed.append(where)

    def skipped(self) -> Counter:
        return sum((count.skipped for count in self.counts), Counter())

    def check(self) -> None:
        for source, count in zip(self.sources, self.counts):
            if not count.rows and not count.skipped:
                self.notes.add_blank(source.path)
            elif not count.rows:
                raise InputError(f"{source.path}: no row can be used: {in_words(count.skipped)}; {count.first_skipped}")
        train, val = self.writers["train"], self.writers["val"]
        if not train.rows or (self.options.val_fraction > 0 and not val.rows):
            missing = "validate" if train.rows else "train"
            raise InputError(f"{self.sources[0].path}: too few rows to {missing} "
                             f"with --val-fraction {self.options.val_fraction}")  # fmt: skip
        if not self.turn_ends:
            raise InputError(f"{self.sources[0].path}: the token that ends a turn is trained in no row: "
                             "a model would never learn to end one")  # fmt: skip

    def report(self) -> None:
        for text in self.listed:
            print(f"prepare_chat: left out: {text}", file=sys.stderr)
        skipped, cut = self.skipped(), sum(count.cut for count in self.counts)
        if skipped:
            print(f"prepare_chat: {skipped.total()} rows left out: {in_words(skipped)}", file=sys.stderr)
        if cut:
            print(f"prepare_chat: {cut} rows cut to --max-tokens {self.options.max_tokens}", file=sys.stderr)
        self.notes.report("prepare_chat", ROWS)
        for name, number in sorted(self.unwritten.items()):
            of = "rows" if name in ROW_FIELDS else "messages"
            print(f"prepare_chat: {name} of {number} {of} is not written by this chat template", file=sys.stderr)


def in_words(reasons: Counter) -> str:
    return ", ".join(f"{reasons[reason]} {reason.replace('_', ' ')}" for reason in REASONS if reasons[reason])


# ---- files


def copy_tokenizer(template: Template, folder: Path) -> None:
    """Copies tokenizer.json byte for byte, so that train_llama3 recognizes it, and saves the template that made the rows."""
    path = tokenizers.find(template.folder)
    if path.suffix == ".json":
        shutil.copyfile(path, folder / "tokenizer.json")
    else:
        template.tokenizer.save(str(folder / "tokenizer.json"))
    for name in BESIDE:
        if (template.folder / name).is_file():
            copy_unmarked(template.folder / name, folder / name)
    if template.origin != LLAMA3:
        return
    eot = "<|eot_id|>"
    defaults = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    fields = defaults | template.fields | {"bos_token": template.bos, "eos_token": eot, "chat_template": LLAMA3_TEMPLATE}
    (folder / CONFIG).write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
    (folder / OWN).write_text(LLAMA3_TEMPLATE, encoding="utf-8")


def open_writers(options: argparse.Namespace, encoder: RowEncoder, kind: int, folder: Path) -> dict[str, rows.RowWriter]:
    tokenizer = encoder.template.tokenizer
    sha256 = hashlib.sha256((folder / "tokenizer.json").read_bytes()).digest()
    vocab_size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    bos = tokenizer.token_to_id(encoder.template.bos) if encoder.template.bos else None
    arguments = (kind, vocab_size, bos, encoder.end, sha256, options.shard_tokens)
    return {name: rows.RowWriter(folder, name, *arguments) for name in ("train", "val")}


def write_rows(options: argparse.Namespace, sources: list[Source], settings: Settings, writers: dict,
               notes: Notes) -> Preparation:  # fmt: skip
    preparation = Preparation(options, sources, writers, notes)
    progress = Progress("rows", sum(source.path.stat().st_size for source in sources))
    with contextlib.closing(make_rows(sources, settings, options.workers)) as results:
        for made in results:
            preparation.take(made)
            progress.update(made.consumed)
    preparation.check()
    for writer in writers.values():
        writer.finish()
    progress.finish(f"{writers['train'].rows} to train, {writers['val'].rows} to validate")
    return preparation


def describe(options: argparse.Namespace, settings: Settings, encoder: RowEncoder, preparation: Preparation) -> dict:
    train, val = preparation.writers["train"], preparation.writers["val"]
    counts = [
        {"path": str(source.path), "weight": source.weight, "rows": count.rows, "train_rows": count.trained_on,
         "val_rows": count.validation, "cut": count.cut, "skipped": dict(count.skipped)}
        for source, count in zip(preparation.sources, preparation.counts)
    ]  # fmt: skip
    return {
        "format_version": rows.VERSION,
        "kind": KIND_NAMES[settings.kind],
        "vocab_size": train.vocab_size,
        "bos_id": train.bos,
        "end_id": train.end,
        "tokenizer_sha256": train.sha256.hex(),
        "template": encoder.template.origin,
        "template_sha256": encoder.template.sha256,
        "date": options.date.isoformat(),
        "system": options.system,
        "seed": options.seed,
        "val_fraction": options.val_fraction,
        "max_tokens": options.max_tokens,
        "too_long": options.too_long,
        "longest_row": preparation.longest,
        "train_rows": train.rows,
        "val_rows": val.rows,
        "train_tokens": train.tokens,
        "val_tokens": val.tokens,
        "train_trained_tokens": train.trained,
        "val_trained_tokens": val.trained,
        "skipped": dict(preparation.skipped()),
        "not_written": dict(preparation.unwritten),
        "cut": sum(count.cut for count in preparation.counts),
        "sources": counts,
        "train_shards": train.names,
        "val_shards": val.names,
    }


def prepare(options: argparse.Namespace) -> None:
    notes = Notes("rows", options.strict)
    sources = find_sources(options, notes)
    wanted = {name: kind for kind, name in KIND_NAMES.items()}.get(options.kind)
    settings = Settings(options.tokenizer, options.date, options.system, options.max_tokens, options.too_long == "cut")
    encoder = settings.encoder()
    settings = replace(settings, kind=find_kind(sources, wanted))
    with partial_folder(options.output, OWN_FILES, options.overwrite) as folder:
        copy_tokenizer(encoder.template, folder)
        writers = open_writers(options, encoder, settings.kind, folder)
        preparation = write_rows(options, sources, settings, writers, notes)
        meta = describe(options, settings, encoder, preparation)
        (folder / "meta.json").write_text(json.dumps(meta, indent=2) + "\n")
        move_into_place(folder, options.output, OWN_FILES)
    preparation.report()
    print(f"{options.output}: {meta['kind']}, {meta['train_tokens']} tokens to train on, of which "
          f"{100 * meta['train_trained_tokens'] / meta['train_tokens']:.0f} % are trained, "
          f"longest row {meta['longest_row']}")  # fmt: skip


# ---- show


def show(folder: Path, count: int) -> None:
    """Prints the first training rows."""
    files = sorted(folder.glob("train_*.bin"))
    if not files or not (folder / "meta.json").is_file():
        raise InputError(f"--output {folder}: no rows in this folder")
    meta = read_object(folder / "meta.json")
    kind = rows.read_header(files[0])["kind"]
    display = RowDisplay(open_tokenizer(folder, "--output"), kind, sys.stdout.isatty(), terminal_width())
    print(display.legend())
    every = itertools.chain.from_iterable(rows.read_rows(path) for path in files)
    for number, row in enumerate(itertools.islice(every, count), 1):
        print("\n".join(display.row(f"row {number}, {place(Path(meta['sources'][row.source]['path']), row.line)}", row)))


def run(options: argparse.Namespace) -> None:
    if options.chats or options.source:
        prepare(options)
    if options.show:
        show(options.output, options.show)


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the partial folder is removed
    return program.run(lambda: run(parse_arguments()))


if __name__ == "__main__":
    sys.exit(main())
