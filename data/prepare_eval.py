#!/usr/bin/env python3
"""Turns questions, documents or long texts into files that train_llama3 --eval-tasks scores.

    prepare_eval.py items.jsonl --tokenizer data/mine --output data/mine/items.eval
    prepare_eval.py mmlu_test.jsonl --few-shot 5 --few-shot-file mmlu_dev.jsonl --tokenizer ... --output ...
    prepare_eval.py my_texts/ --needle-lengths 2048,8192 --tokenizer data/mine --output data/mine/needle.eval

A row is an object: a line of .jsonl, an element of a .json array or a row of .parquet; the first two may be compressed
(.gz, .zst). There are four kinds of rows; by default the fields of the first row tell which it is:

    completion  {"ctx" or "query" or "context", "endings" or "choices", "label"}    which ending continues the context?
    question    {"question", "choices", "answer"}    each choice gets a letter; the letters are scored after "Answer:"
    hellaswag   {"activity_label", "ctx_a", "ctx_b", "endings", "label"}    HellaSwag's own rows, cleaned as lm-eval does
    document    {"text"}    perplexity

The label is the index of the right ending, counted from 0, or its letter. Prompts and tokens are those of lm-eval's `hf` model:
a context, " " and an ending are encoded together, with what the tokenizer puts in front of a text (Llama's: its begin token),
and the ending's tokens are those after the context's own; white space at the end of a context counts as part of the ending.
Text that looks like a special token stays text (lm-eval would read it as one).

With --needle-lengths, FILE are texts as prepare_data.py reads them, or folders of them, and what comes out are needles in a
haystack: a file for each length (needle_2048.eval, needle_8192.eval). An item is a stretch of the texts in which sentences were
planted, each of which says the value of a key. It ends with the question for the value of one key; the other keys' values are
the wrong endings. Context and endings together have exactly as many tokens as the length says.

The tokenizer must be the model's: give the folder of the training data or of the checkpoint.

Exit codes: 0 done; 2 bad usage or bad input (nothing is changed); 1 anything else.
"""

import argparse
import hashlib
import json
import re
import sys
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Iterator

from llmdata import program

program.begin()

from tokenizers import Tokenizer

from llmdata import eval_set, needles
from llmdata import tokenizer as tokenizers
from llmdata.errors import InputError
from llmdata.eval_rows import (ENDING_DELIMITER, FIELDS, Question, Row, RowOptions, count_words, kind_of, prompts_of,
                               question_of, read_rows, text_of)  # fmt: skip
from llmdata.files import FORMATS, ROWS, Notes, find_files
from llmdata.model_folder import find_model
from llmdata.options import add_version, check_bounds, check_texts

BATCH = 256  # items that are encoded at once


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_version(parser)
    add = parser.add_argument
    add("items", nargs="+", type=Path, metavar="FILE", help="file of rows; with --needle-lengths: file or folder of texts")
    add("--output", required=True, type=Path, metavar="FILE", help="file to write; its name without the ending names the task")
    add("--tokenizer", required=True, type=Path, metavar="PATH",
        help="tokenizer.json or tokenizer.model, or a folder that holds one")  # fmt: skip
    add("--bos-token", metavar="TOKEN", help="token that begins a document, where the tokenizer does not name it")
    add("--kind", choices=sorted(FIELDS), help="kind of the rows (default: told by the first row's fields)")
    add("--context-field", metavar="NAME", help="field that holds the context or question")
    add("--endings-field", metavar="NAME", help="field that holds the list of endings or choices")
    add("--label-field", metavar="NAME", help="field that holds the index of the right ending")
    add("--text-field", metavar="NAME", help="field that holds a document's text")
    add("--few-shot", type=int, default=0, metavar="N", help="put N solved examples in front of each item (default: 0)")
    add("--few-shot-file", type=Path, metavar="JSONL",
        help="take the examples from this file (default: from the items, but never an item itself)")  # fmt: skip
    add("--few-shot-seed", type=int, metavar="N",
        help="draw new examples for each item, as lm-eval does with that seed (default: always take the first ones)")  # fmt: skip
    add("--description", default="", metavar="TEXT", help="text that is put, unchanged, in front of everything else")
    add("--limit", type=int, metavar="N", help="use only the first N items")
    add("--strict", action="store_true", help="refuse the items if one of the files has none")
    add("--overwrite", action="store_true", help="replace FILE")
    add_needles(parser.add_argument_group("needles in a haystack"))
    options = parser.parse_args()
    check_texts(options, "bos_token", "description", "needle_sentence", "needle_question")
    for name, least in (("few_shot", 0), ("limit", 1)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise InputError(f"--{name.replace('_', '-')} {value}: expected at least {least}")
    check_needles(options)
    return options


def add_needles(group) -> None:
    add = group.add_argument
    add("--needle-lengths", type=numbers, metavar="N[,N...]", help="make needles of these lengths, in tokens")
    add("--needle-depths", type=int, default=11, metavar="N",
        help="plant the sentence that is asked for at so many depths, evenly from the text's beginning to its end (default: %(default)s)")  # fmt: skip
    add("--needle-trials", type=int, default=10, metavar="N", help="items for each length and depth (default: %(default)s)")
    add("--needle-distractors", type=int, default=3, metavar="N", help="other keys with their values (default: %(default)s)")
    add("--needle-sentence", default=needles.SENTENCE, metavar="TEXT", help='what is planted (default: "%(default)s")')
    add("--needle-question", default=needles.QUESTION, metavar="TEXT",
        help="what stands at the end, before the value (default: the question for the default sentence)")  # fmt: skip
    add("--needle-keys", type=Path, metavar="FILE", help="keys, one in each line (default: adjectives and nouns of our own)")
    add("--needle-values", type=Path, metavar="FILE", help="values, one in each line (default: numbers of 7 digits)")
    add("--needle-seed", type=int, default=1, metavar="N", help="draws texts, keys, values and places (default: %(default)s)")


def numbers(text: str) -> list[int]:
    if not re.fullmatch(r"[0-9]{1,9}(,[0-9]{1,9})*", text):
        raise argparse.ArgumentTypeError(f"'{text}': expected numbers, separated by commas")
    return sorted({int(number) for number in text.split(",")})


def check_needles(options: argparse.Namespace) -> None:
    check_bounds(options, {"needle_depths": (1, eval_set.MAX_DEPTHS), "needle_trials": (1, 10**6), "needle_distractors": (0, 25)})
    for name, fields in (("sentence", ("{key}", "{value}")), ("question", ("{key}",))):
        text = getattr(options, f"needle_{name}")
        for field_name in fields:
            if field_name not in text:
                raise InputError(f"--needle-{name}: found {json.dumps(text)[:60]}, expected a text with {field_name}")
    for length in options.needle_lengths or ():
        size = 4 * length * options.needle_depths * options.needle_trials
        if size > eval_set.MAX_BYTES // 2:
            raise InputError(f"--needle-lengths {length}: the file would have {size} bytes, expected at most {eval_set.MAX_BYTES // 2}: "
                             "fewer --needle-trials or --needle-depths")  # fmt: skip


# ---- tokens


class Encoder:
    """The tokenizer as lm-eval uses it, and what the file that is written says about it."""

    def __init__(self, path: Path, bos: str | None):
        loaded = tokenizers.load(path, bos, bos)
        self.vocab_size, self.prefix = loaded.vocab_size, loaded.bos
        if loaded.guessed == ("--bos-token",) and loaded.eos is not None:
            self.prefix = loaded.eos  # as lm-eval does where a tokenizer names an end token but no begin token
        with tempfile.TemporaryDirectory() as folder:
            loaded.save(Path(folder))  # the file that prepare_data.py would write, for its hash
            path = Path(folder) / "tokenizer.json"
            self.sha256 = hashlib.sha256(path.read_bytes()).digest()
            self.tokenizer: Tokenizer = tokenizers.encoder(path)

    def encode(self, texts: list[str], special: bool = True) -> list[list[int]]:
        return [encoding.ids for encoding in self.tokenizer.encode_batch_fast(texts, add_special_tokens=special)]


def encode_questions(encoder: Encoder, questions: list[Question], prompts: list[str]) -> Iterator[eval_set.Item]:
    for first in range(0, len(questions), BATCH):
        batch, texts = questions[first : first + BATCH], prompts[first : first + BATCH]
        contexts = encoder.encode([text.rstrip() for text in texts])
        joined = [text + ENDING_DELIMITER + ending for question, text in zip(batch, texts) for ending in question.endings]
        whole = iter(encoder.encode(joined))
        for question, text, context in zip(batch, texts, contexts):
            ids = [next(whole) for _ in question.endings]
            if not text:
                context, ids = [], encoder.encode([ENDING_DELIMITER + ending for ending in question.endings], special=False)
            yield item_of(encoder, question, context, ids)


def item_of(encoder: Encoder, question: Question, context: list[int], whole: list[list[int]]) -> eval_set.Item:
    endings = []
    for index, (ending, ids) in enumerate(zip(question.endings, whole)):
        tokens = ids[len(context) :]
        if not tokens:
            raise InputError(f"{question.where}: ending {index} has no token of its own after the context")
        endings.append(eval_set.Ending(tokens, len(ending), len(ending.encode())))
    return eval_set.Item(context or [encoder.prefix], endings, question.label)


def encode_documents(encoder: Encoder, rows: list[Row], options: RowOptions) -> Iterator[eval_set.Item]:
    for first in range(0, len(rows), BATCH):
        batch = rows[first : first + BATCH]
        texts = [text_of(row, options) for row in batch]
        for row, text, ids in zip(batch, texts, encoder.encode(texts)):
            if not ids:
                raise InputError(f"{row.where}: the text is empty")
            yield eval_set.Item([encoder.prefix], [eval_set.Ending(ids, count_words(text), len(text.encode()))])


# ---- needles


def needle_path(options: argparse.Namespace, length: int) -> Path:
    return options.output.with_name(f"{options.output.stem}_{length}{options.output.suffix}")


def prepare_needles(options: argparse.Namespace) -> None:
    paths = {length: needle_path(options, length) for length in options.needle_lengths}
    for path in paths.values():
        check_output(path, options.overwrite)
    notes = Notes(strict=options.strict)
    files = find_files(options.items, FORMATS, notes)
    encoder = Encoder(find_model(options.tokenizer), options.bos_token)
    encode = lambda texts: encoder.encode(texts, special=False)  # noqa: E731
    least = options.needle_distractors + 1
    words = [path and needles.read_words(path, least) for path in (options.needle_keys, options.needle_values)]
    chosen = needles.NeedleOptions(options.needle_depths, options.needle_trials, options.needle_distractors, options.needle_seed,
                                   options.needle_sentence, options.needle_question, *words)  # fmt: skip
    haystack = needles.read_haystack(files, encode)
    notes.report("prepare_eval", FORMATS)
    made = {length: list(needles.make_items(haystack, length, chosen, encoder.prefix, encode)) for length in paths}
    for length, items in made.items():
        eval_set.write(paths[length], eval_set.NEEDLES, items, encoder.vocab_size, encoder.sha256)
        print(f"{paths[length]}: {len(items)} items of kind needle, each of {length} tokens, "
              f"{chosen.trials} at each of {chosen.depths} depths")  # fmt: skip


# ---- everything


def read_items(options: argparse.Namespace, notes: Notes) -> list[Row]:
    rows: list[Row] = []
    for path in options.items:
        before = len(rows)
        rows += read_rows(path)
        if len(rows) == before:
            notes.add_blank(path)
    notes.check_some(options.items)
    return rows[: options.limit]


def prepare_questions(rows: list[Row], encoder: Encoder, options: RowOptions, few_shot_file: Path | None) -> list[eval_set.Item]:
    questions = [question_of(row, options) for row in rows]
    return list(encode_questions(encoder, questions, list(prompts_of(questions, few_shot_file, options))))


def check_output(path: Path, overwrite: bool) -> None:
    if path.exists() and not overwrite:
        raise InputError(f"{path}: already there; give another name, or --overwrite")
    if not path.parent.is_dir():
        raise InputError(f"{path.parent}: no such folder")


def prepare(options: argparse.Namespace) -> None:
    if options.needle_lengths:
        return prepare_needles(options)
    check_output(options.output, options.overwrite)
    notes = Notes("items", options.strict)
    rows = read_items(options, notes)
    chosen = RowOptions(**{member.name: getattr(options, member.name) for member in fields(RowOptions)})
    chosen.kind = chosen.kind or kind_of(rows[0])
    encoder = Encoder(find_model(options.tokenizer), options.bos_token)
    documents = chosen.kind == "document"
    if documents and (options.few_shot or options.description):
        raise InputError(f"{'--few-shot' if options.few_shot else '--description'}: documents have none")
    if documents:
        items = list(encode_documents(encoder, rows, chosen))
    else:
        items = prepare_questions(rows, encoder, chosen, options.few_shot_file)
    kind = eval_set.DOCUMENTS if documents else eval_set.CHOICE
    eval_set.write(options.output, kind, items, encoder.vocab_size, encoder.sha256)
    longest = max(len(item.context) + len(ending.tokens) for item in items for ending in item.endings)
    notes.report("prepare_eval", ROWS)
    print(f"{options.output}: {len(items)} items of kind {chosen.kind}, the longest of {longest} tokens")


def main() -> int:
    return program.run(lambda: prepare(parse_arguments()))


if __name__ == "__main__":
    sys.exit(main())
