"""Which items of a suite stand in the shards that a model was trained on: 8-gram overlap (arXiv 2407.21783, 5.1.4)."""

import hashlib
from glob import glob
from pathlib import Path
from typing import Iterator

import numpy as np

from llmdata import shards, tokenizer
from llmdata.errors import InputError
from llmdata.overlap import Index
from llmdata.progress import Progress
from llmdata.schema import check, one_object
from llmdata.text_file import read_json
from llmdata.words import hash_words

from .suite import Task
from .task import TEXT

PIECE = 1 << 16  # tokens that are decoded together at most
SHARED = 64  # of which two pieces of a document share so many, so that no run of eight words is cut
BATCH = 256  # documents
SCHEMA = one_object({
    "shards": {"type": "array", "items": TEXT, "minItems": 1},
    "tokenizer": TEXT,
    "share": {"type": "number", "exclusiveMinimum": 0, "maximum": 1, "default": 0.5},
}, ("shards",))  # fmt: skip


def search(suite: Path, tasks: list[Task]) -> dict[str, set[str]] | None:
    """{task: keys of the items of whose words at least `share` lie in runs of eight words that stand in the shards}. None: the
    suite does not ask. Errors: InputError."""
    given = read_json(suite).get("contamination")
    if given is None:
        return None
    settings = check(given, SCHEMA, f"{suite}: contamination")
    paths = _find(suite.resolve().parent, settings["shards"])
    asked = [(task.name, item) for task in tasks for item in task.items if item.request is not None]
    index = Index([(item.place, hash_words(item.own or item.asked)) for _, item in asked])
    seen = np.zeros(len(index.hashes), bool)
    progress = Progress("contamination", sum(shards.read_header(path)["token_count"] for path in paths), "token")
    for path in paths:
        where = suite.resolve().parent / settings["tokenizer"] if "tokenizer" in settings else path.parent
        for text, count in _texts(path, where):
            seen[index.found(hash_words(text))] = True
            progress.add(count)
    found: dict[str, set[str]] = {task.name: set() for task in tasks}
    for owner, share in index.shares(np.flatnonzero(seen)).items():
        if share >= settings["share"]:
            name, item = asked[owner]
            found[name].add(item.key)
    progress.finish(f"{sum(map(len, found.values()))} of {len(asked)} items; {index.short} are too short to be found")
    return found


def _find(folder: Path, names: list[str]) -> list[Path]:
    paths = []
    for name in names:
        found = sorted(glob(str(folder / Path(name).expanduser())))
        if not found:
            raise InputError(f'"contamination": "shards": {name}: no such file')
        paths += map(Path, found)
    return paths


def _texts(path: Path, where: Path) -> Iterator[tuple[str, int]]:
    """(text, tokens) of the pieces of a shard's documents. where: the tokenizer or its folder."""
    header, file = shards.read_header(path), tokenizer.find(where)
    made_with = header["tokenizer_sha256"]
    if made_with and file.suffix == ".json" and hashlib.sha256(file.read_bytes()).digest() != made_with:
        raise InputError(f'{path}: was made with another tokenizer than {file}: name its own as "tokenizer"')
    decode, tokens = tokenizer.read(file).decode_batch, shards.read_tokens(path)
    pieces = [piece for document in np.split(tokens, np.flatnonzero(tokens == header["bos_id"])) for piece in _pieces(document)]
    for first in range(0, len(pieces), BATCH):
        batch = [piece.tolist() for piece in pieces[first : first + BATCH]]
        yield from zip(decode(batch, skip_special_tokens=True), map(len, batch))


def _pieces(document: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(document), PIECE):
        yield document[start : start + PIECE + SHARED]
