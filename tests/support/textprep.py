"""Runs data/prepare_data.py as a user does, and makes texts for it."""

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from checkout import script
from llmdata import shards

# White space runs, digits, scripts without spaces, emoji of several code points, look-alikes of special tokens, NUL.
ODD_WORDS = [
    " ", "   ", "\n", "\n\n", " \n \n", "\r\n", "\t", "1", "12345", "'S", "don't", "\u00a0", "\u3000", "\x00", "\x85", "\u2028",
    "\u4f60\u597d\u4e16\u754c", "\u65e5\u672c\u8a9e", "\u0440\u0443\u0441", "\u05e2\u05d1\u05e8", "\U0001f600",
    "\U0001f468\u200d\U0001f469", "\u00e9", "e\u0301", "\ufdfa", "<|end_of_text|>", "<|begin_of_text|>", "<|eot_id|>", "...", "=!",
]  # fmt: skip


def random_text(rng: random.Random, words: int) -> str:
    known = ["".join(rng.choice("etaoinshrdlu") for _ in range(rng.randint(1, 6))) for _ in range(60)]
    parts = []
    for _ in range(words):
        parts.append(rng.choice(ODD_WORDS) if rng.random() < 0.2 else rng.choice(known))
        parts.append(rng.choice([" ", " ", " ", " ", ", ", ".\n", ".\n\n"]))
    return "".join(parts)


def run(*arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, script("prepare_data"), *(word if isinstance(word, bytes) else str(word) for word in arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


def prepare(*arguments) -> None:
    result = run(*arguments)
    assert result.returncode == 0, result.stderr


def refused(*arguments) -> str:
    """The message of a run that must end with code 2 and one line."""
    result = run(*arguments)
    assert result.returncode == 2, (result.returncode, result.stderr)
    assert result.stderr.count("\n") == 1 and result.stderr.startswith("prepare_data: "), result.stderr
    return result.stderr


def documents(folder: Path, name: str) -> list[str]:
    """The text of each document of a split, checked to stand between a begin and an end token."""
    meta = json.loads((folder / "meta.json").read_text())
    tokens = np.concatenate([shards.read_tokens(folder / shard) for shard in meta[f"{name}_shards"]]).astype(int)
    begins, ends = np.flatnonzero(tokens == meta["bos_id"]), np.flatnonzero(tokens == meta["eos_id"])
    assert begins[0] == 0 and ends[-1] == len(tokens) - 1
    assert (begins[1:] == ends[:-1] + 1).all()
    assert meta[f"{name}_tokens"] == len(tokens) and meta[f"{name}_documents"] == len(begins)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return [tokenizer.decode(list(tokens[b + 1 : e]), skip_special_tokens=False) for b, e in zip(begins, ends)]
