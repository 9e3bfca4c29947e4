"""llmc/eval through ctypes, and what its tests need: a tokenizer, questions and documents."""

import ctypes
import json
import random
import struct
import subprocess
import sys
from ctypes import POINTER

import cstructs
import numpy as np

from hostlib import REPOSITORY, Error

from llmdata import tokenizer as tokenizers  # noqa: E402


STRUCTS = cstructs.read("eval/items.h", "eval/pack.h", "eval/metrics.h")
MAX_DEPTHS = cstructs.CONSTANTS["EVALSET_MAX_DEPTHS"]
EvalSet, EvalPacking, EvalResult = map(STRUCTS.get, ("EvalSet", "EvalPacking", "EvalResult"))


def file_bytes(items, kind=1, vocab=1000, sha=bytes(range(32)), magic=b"L3EVALS\0", version=1, byte_order=0x01020304,
               counts=None, zero=0):  # fmt: skip
    """An evaluation file; items: (context, [(tokens, characters, bytes), ...], label), of needles with the depth behind it."""
    entries, endings, tokens = [], [], []
    for context, its_endings, label, *depth in items:
        entries.append((len(context), len(its_endings), label, *(depth or [zero])))
        tokens += context
        for ids, characters, size in its_endings:
            endings.append((len(ids), characters, size, 0))
            tokens += ids
    counts = counts or (len(entries), len(endings), len(tokens))
    header = magic + struct.pack("<IIIIQQQ", version, byte_order, kind, vocab, *counts) + sha
    return header.ljust(256, b"\0") + b"".join(struct.pack("<IIII", *e) for e in entries + endings) + np.array(tokens, "<u4").tobytes()


# ---- material

WORDS = ("the of and to in is that it was for on are with as his they at be this from have or by one had not but what all were "
         "when we there can an your which their said if do will each about how up out them then she many some so these").split()


def text(count):
    return " ".join(random.choices(WORDS, k=count))


def make_tokenizer(folder):
    """Llama 3's kind, of 360 tokens; its tokenizer.json puts a begin token before each text."""
    folder.mkdir(exist_ok=True)
    made = tokenizers.train((text(200) + "\nAnswer: é, ü." for _ in range(20)), 360)
    made.save(folder)
    return made


def completions(count, longest_context=36, longest=12):
    return [{"ctx": text(random.randrange(1, longest_context)) + random.choice(["", ",", " ", "\n"]),
             "endings": [text(random.randrange(1, longest)) + random.choice(["", "é"]) for _ in range(random.randrange(2, 6))],
             "label": random.randrange(2)} for _ in range(count)]  # fmt: skip


def questions(count):
    return [{"question": text(8) + "? ", "choices": [text(3) for _ in range(4)], "answer": random.randrange(4)} for _ in range(count)]


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def prepare(*arguments, code=0):
    command = [sys.executable, REPOSITORY + "/data/prepare_eval.py", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == code, done.stderr
    return done.stderr if code else done.stdout


# ---- scoring


class Evaluation:
    """A file opened and packed for rows of T tokens."""

    def __init__(self, lib, path, T):
        self.lib, self.set, self.packing = lib, POINTER(EvalSet)(), EvalPacking()
        error = Error()
        assert lib.evalset_open(ctypes.byref(self.set), str(path).encode(), ctypes.byref(error)) == 0, error.message
        assert lib.evalpack_create(ctypes.byref(self.packing), self.set, T, ctypes.byref(error)) == 0, error.message

    def __del__(self):
        self.lib.evalpack_free(ctypes.byref(self.packing))
        self.lib.evalset_close(self.set)

    def score(self, model):
        """[num_endings] log-likelihoods"""
        found = np.full(self.set.contents.num_endings, np.nan)
        assert self.lib.eval_score(found, None, model.handle, model.B, self.set, ctypes.byref(self.packing), None, None) == 0
        return found

    def by_item(self, values):
        items = self.set.contents.items[: self.set.contents.num_items]
        return [values[i.first_ending : i.first_ending + i.num_endings] for i in items]


def run_task(lib, model, path, sha=None, decode=None):
    """What the trainer measures, {metric: value}, by the names that its log has."""
    tasks, error, result = ctypes.c_void_p(), Error(), EvalResult()
    fault = ctypes.byref(error)
    vocabulary = model.tensors[0].rows
    assert lib.evaltasks_open(ctypes.byref(tasks), str(path).encode(), model.T, vocabulary, sha, fault) == 0, error.message
    assert lib.evaltasks_count(tasks) == 1
    assert lib.evaltasks_run(tasks, 0, model.handle, model.B, decode, None, ctypes.byref(result), fault) == 0, error.message
    lib.evaltasks_close(tasks)
    shares = {name: getattr(result, name) for name in ("acc", "acc_norm", "acc_bytes")}
    others = ("nll", "word_perplexity", "byte_perplexity", "bits_per_byte", "token_perplexity")
    cells = [(cell.depth, cell.items, cell.exact_match, cell.acc) for cell in result.cells[: result.num_cells]]
    if cells:
        return {"exact_match": result.exact_match.mean, "acc": result.acc.mean, "length": result.length, "cells": cells}
    return (
        {name: share.mean for name, share in shares.items()}
        | {f"{name}_stderr": share.error for name, share in shares.items()}
        | {name: getattr(result, name) for name in others}
    )
