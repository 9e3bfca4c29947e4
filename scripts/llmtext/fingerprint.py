"""A hash that tells models apart. It covers all bytes: two reward models may differ only in the few numbers of their heads."""

import concurrent.futures
import hashlib
from pathlib import Path

from llmdata.errors import InputError

OTHER_FILES = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "chat_template.jinja",
)  # fmt: skip


def model_fingerprint(folder: Path) -> str:
    """Hex digits of a hash over the weights and over the small files that affect what a model writes, names included."""
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise InputError(f"{folder}: no safetensors in this folder")
    files = [folder / name for name in OTHER_FILES if (folder / name).is_file()] + weights
    with concurrent.futures.ThreadPoolExecutor() as threads:  # hashlib releases the interpreter lock
        digests = list(threads.map(file_digest, files))
    total = hashlib.sha256()
    for path, digest in zip(files, digests):
        total.update(f"{path.name} {digest}\n".encode())
    return total.hexdigest()[:32]


def file_digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
