"""What identifies the data of a run: losses on other validation texts, or in other tokens, cannot be fitted together."""

import glob
import hashlib
from dataclasses import dataclass
from pathlib import Path

from llmdata.section import Section
from llmdata.shards import read_header

SAMPLE_BYTES = 1 << 16


@dataclass(frozen=True)
class Shards:
    pattern: str
    tokens: int
    vocab_size: int
    tokenizer: str  # sha256 of tokenizer.json, shortened; "none" for llm.c's shards
    files: frozenset[Path]
    content: str  # hash of all headers and of the first and last bytes of each shard


def read_shards(section: Section, name: str) -> Shards:
    pattern = section.get(name, str, "a pattern of shards' names")
    paths = sorted(map(Path, glob.glob(pattern)))
    if not paths:
        section.fail(name, f"{pattern}: no such file")
    headers = [read_header(path) for path in paths]
    tokenizers = {(header["tokenizer_sha256"] or b"").hex()[:16] or "none" for header in headers}
    if len(tokenizers) > 1:
        section.fail(name, f"{pattern}: shards of {len(tokenizers)} tokenizers, expected one")
    tokens, vocabulary = sum(h["token_count"] for h in headers), max(h["vocab_size"] for h in headers)
    return Shards(pattern, tokens, vocabulary, tokenizers.pop(), frozenset(map(Path.resolve, paths)), content_of(paths))


def content_of(paths: list[Path]) -> str:
    """A hash of the files' lengths and of the first and last bytes of each."""
    digest = hashlib.sha256()
    for path in paths:
        size = path.stat().st_size
        digest.update(size.to_bytes(8, "little"))
        with open(path, "rb") as file:
            digest.update(file.read(SAMPLE_BYTES))
            file.seek(max(0, size - SAMPLE_BYTES))
            digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()[:16]
