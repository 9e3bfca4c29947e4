"""Verbatim memorisation: passages of the training shards are begun, and the model's text is compared with how they go on."""

import glob
from pathlib import Path
from typing import Iterator

import numpy as np
from llmdata.errors import InputError
from llmdata.progress import Progress
from llmdata.shards import read_header, token_type
from llmdata.tokenizer import open_tokenizer

from .client import Answer, Request
from .task import COUNT, TEXT, Item, Kind, Score

DRAWS = 50  # of a passage, for each that is wanted
BLOCK = 1 << 22  # tokens that are looked through at once
FACTOR = 0x9E3779B97F4A7C15
REPEATED = ((100, "100 times or more"), (10, "10 to 99 times"), (2, "2 to 9 times"), (1, "once"))


class Memorisation(Kind):
    """Score: the share of passages, drawn from all places of the shards alike, that greedy decoding continues word for word. Of
    each length of the prompt, `parts` tell passages by how often prompt and continuation stand in the shards."""

    name = "memorisation"
    metric = "verbatim continuations"
    REQUIRED = ("shards",)
    SCHEMA = {
        "shards": {"type": "array", "items": TEXT, "minItems": 1},
        "tokenizer": TEXT,
        "lengths": {"type": "array", "items": COUNT, "minItems": 1, "default": [50]},
        "continuation": {**COUNT, "default": 50},
        "passages": {**COUNT, "default": 1000},
        "seed": {"type": "integer", "minimum": 0, "default": 1},
    }

    def items(self) -> Iterator[Item]:
        shards = [_map(Path(path)) for path in self._paths()]
        folder = self.path(self.settings["tokenizer"]) if "tokenizer" in self.settings else Path(shards[0].filename).parent
        tokenizer, draw = open_tokenizer(folder), np.random.default_rng(self.settings["seed"])
        for length in self.settings["lengths"]:
            passages = self._draw(shards, tokenizer, length, draw)
            if not passages:
                raise InputError(f'"lengths": no document in {shards[0].filename} has {length} tokens and a continuation')
            times = occurrences(shards, np.array([tokens for _, tokens, _, _ in passages]))
            for (place, _, prompt, continuation), count in zip(passages, times.tolist()):
                request = Request(prompt=prompt, max_tokens=self.settings["continuation"])
                yield Item(place, request, {"continuation": continuation, "length": length, "times": count})

    def _paths(self) -> list[str]:
        found = [path for name in self.settings["shards"] for path in sorted(glob.glob(str(self.path(name))))]
        if not found:
            raise InputError(f'"shards": no file {self.path(self.settings["shards"][0])}')
        return list(dict.fromkeys(found))

    def _draw(self, shards: list, tokenizer, length: int, draw) -> list[tuple[str, np.ndarray, str, str]]:
        """(place, tokens, prompt, continuation) of different passages inside of documents."""
        whole, found = length + self.settings["continuation"], {}
        rooms = np.array([max(0, len(shard) - whole + 1) for shard in shards], float)
        for _ in range(DRAWS * self.settings["passages"] if rooms.any() else 0):
            shard = shards[draw.choice(len(shards), p=rooms / rooms.sum())]
            at = int(draw.integers(len(shard) - whole + 1))
            tokens = np.array(shard[at : at + whole])
            texts = None if np.isin(tokens, shard.ends).any() else _texts(tokenizer, tokens.tolist(), length)
            if texts:
                found.setdefault(tokens.tobytes(), (f"{shard.filename}: token {at}", tokens, *texts))
            if len(found) == self.settings["passages"]:
                break
        return list(found.values())

    def judge(self, item: Item, answers: list[Answer]) -> Score:
        said, wanted = answers[0].text, item.row["continuation"]
        if answers[0].finish == "length" and len(said) < len(wanted) and wanted.startswith(said):
            return Score(None, "the same as far as it goes, but the model's tokens are shorter than those of the shards")
        value, group = float(said.startswith(wanted)), f"{item.row['length']} tokens of prompt"
        repeated = next(name for least, name in REPEATED if item.row["times"] >= least)
        return Score(value, "", {group: value, f"{group}, stands {repeated}": value})

    def right(self, item: Item) -> str:
        return item.row["continuation"]


def _map(path: Path) -> np.memmap:
    header = read_header(path)
    shard = np.memmap(path, token_type(header["token_bits"]), "r", header["header_bytes"], (header["token_count"],))
    shard.ends = [header["bos_id"], header["eos_id"]]
    return shard


def _texts(tokenizer, ids: list[int], length: int) -> tuple[str, str] | None:
    """Prompt and continuation. None where the prompt's text would become other tokens, or a character is cut."""
    prompt, whole = tokenizer.decode(ids[:length]), tokenizer.decode(ids)
    if not whole.startswith(prompt) or "\ufffd" in whole:
        return None
    same = tokenizer.encode(prompt, add_special_tokens=False).ids == ids[:length]
    return (prompt, whole[len(prompt) :]) if same else None


def occurrences(shards: list[np.ndarray], passages: np.ndarray) -> np.ndarray:
    """How often each of the passages (rows of equally many tokens) stands in the shards, overlaps included."""
    length = passages.shape[1]
    wanted = np.array([_hashes(passage, length)[0] for passage in passages])
    known, places = np.unique(wanted, return_inverse=True)
    counts = np.zeros(len(known), np.int64)
    progress = Progress("how often the passages stand in the shards", sum(map(len, shards)), "token")
    for shard in shards:
        for begin in range(0, len(shard) - length + 1, BLOCK):
            hashes = _hashes(shard[begin : begin + BLOCK + length - 1], length)
            at = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
            counts += np.bincount(at[known[at] == hashes], minlength=len(known))
            progress.add(min(BLOCK, len(hashes)))
    progress.finish(f"{len(passages)} passages")
    return counts[places]


def _hashes(tokens: np.ndarray, length: int) -> np.ndarray:
    """A hash of 64 bits of each window of so many tokens: those of windows twice as long are made of two, until two that
    overlap make the length."""
    hashes, width = tokens.astype(np.uint64) * np.uint64(FACTOR), 1
    while width < length:
        step = min(width, length - width)
        hashes = hashes[:-step] * np.uint64(FACTOR + 2 * width) + (hashes[step:] ^ (hashes[step:] >> np.uint64(29)))
        width += step
    return hashes
