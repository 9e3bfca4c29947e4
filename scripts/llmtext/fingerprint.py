"""Which model a folder holds, without reading all of it."""

import hashlib
from pathlib import Path

from .errors import InputError

BLOCKS, BLOCK_BYTES = 64, 1 << 16
OTHER_FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def model_fingerprint(folder: Path) -> str:
    """Hex digits of the small files, and of sizes and evenly spaced blocks of the weights: training changes all of them."""
    total = hashlib.sha256()
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise InputError(f"{folder}: no safetensors in this folder")
    for path in [folder / name for name in OTHER_FILES if (folder / name).is_file()]:
        total.update(f"{path.name} {file_digest(path)}\n".encode())
    for path in weights:
        total.update(f"{path.name} {path.stat().st_size}\n".encode())
        _add_blocks(total, path)
    return total.hexdigest()[:32]


def _add_blocks(total, path: Path) -> None:
    size = path.stat().st_size
    step = max(BLOCK_BYTES, size // BLOCKS)
    with open(path, "rb") as file:
        for at in range(0, size, step):
            file.seek(at)
            total.update(file.read(BLOCK_BYTES))


def file_digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
