"""Writes and reads token shards: a header of 256 bytes, then token ids of 16 or 32 bits, all little endian."""

import os
import struct
from pathlib import Path

import numpy as np

from .errors import InputError
from .output import close_synced

MAGIC = b"L3SHARD\0"
VERSION = 1
BYTE_ORDER = 0x01020304
HEADER_BYTES = 256
NO_TOKEN = 0xFFFFFFFF
# magic, version, byte order, bits per token, vocabulary size, token count, begin and end token, sha256 of tokenizer.json
_HEADER = struct.Struct("<8sIIIIQII32s")

# llm.c's shards (GPT-2's and Llama 3's) by their magic: version, bits per token, vocabulary size and begin token.
LLMC_HEADER_BYTES = 1024
_LLMC = {struct.pack("<I", 20240520): (1, 16, 50257, 50256), struct.pack("<I", 20240801): (7, 32, 128256, 128000)}

# A last shard shorter than this is not begun. Its tokens go into the shard before, so that no shard is shorter than a window.
SMALLEST_LAST_SHARD = 1 << 18


def token_bits(vocab_size: int) -> int:
    return 16 if vocab_size <= 1 << 16 else 32


def token_type(bits: int) -> np.dtype:
    return np.dtype("<u2" if bits == 16 else "<u4")


class ShardWriter:
    """Writes FOLDER/SPLIT_000.bin, SPLIT_001.bin, ... of about `shard_tokens` tokens. `counts` is the histogram of all ids."""

    def __init__(self, folder: Path, split: str, vocab_size: int, bos: int, eos: int | None, sha256: bytes, shard_tokens: int):
        self.folder, self.split, self.shard_tokens = folder, split, shard_tokens
        self.vocab_size, self.bos, self.eos, self.sha256 = vocab_size, bos, eos, sha256
        self.type = token_type(token_bits(vocab_size))
        self.smallest_last = min(SMALLEST_LAST_SHARD, shard_tokens // 2)
        self.counts = np.zeros(vocab_size, np.int64)
        self.names: list[str] = []
        self._file = None
        self._in_shard = 0
        self._waiting: list[np.ndarray] = []  # tokens beyond this shard that do not fill another one yet

    def write(self, tokens: np.ndarray) -> None:
        if tokens.size == 0:
            return
        self.counts += np.bincount(tokens, minlength=self.vocab_size)
        self._waiting.append(tokens)
        waiting = np.concatenate(self._waiting)
        while waiting.size:
            if self._file is None or (self._in_shard >= self.shard_tokens and waiting.size >= self.smallest_last):
                self._begin()
            room = self.shard_tokens - self._in_shard
            if room <= 0:
                break
            self._put(waiting[:room])
            waiting = waiting[room:]
        self._waiting = [waiting]

    def finish(self) -> None:
        if self._file is None:
            return
        self._put(np.concatenate(self._waiting))
        self._end()

    def _begin(self) -> None:
        if self._file is not None:
            self._end()
        name = f"{self.split}_{len(self.names):03d}.bin"
        self.names.append(name)
        self._file = open(self.folder / name, "wb")
        self._file.write(bytes(HEADER_BYTES))
        self._in_shard = 0

    def _put(self, tokens: np.ndarray) -> None:
        self._file.write(tokens.astype(self.type).tobytes())
        self._in_shard += tokens.size

    def _end(self) -> None:
        self._file.seek(0)
        self._file.write(header(self.vocab_size, self._in_shard, self.bos, self.eos, self.sha256))
        close_synced(self._file)
        self._file = None


def header(vocab_size: int, tokens: int, bos: int, eos: int | None, sha256: bytes) -> bytes:
    """Of a shard with so many tokens; without the zeros that fill it up."""
    eos = NO_TOKEN if eos is None else eos
    return _HEADER.pack(MAGIC, VERSION, BYTE_ORDER, token_bits(vocab_size), vocab_size, tokens, bos, eos, sha256)


def read_header(path: Path) -> dict:
    """The header's fields by name, also of llm.c's shards. A file of another format raises InputError."""
    with open(path, "rb") as file:
        data = file.read(HEADER_BYTES)
    if data[:4] in _LLMC:
        return _read_llmc(path, data)
    if len(data) < HEADER_BYTES:
        raise InputError(f"{path}: {len(data)} bytes, expected a header of {HEADER_BYTES}")
    names = ("magic", "version", "byte_order", "token_bits", "vocab_size", "token_count", "bos_id", "eos_id", "tokenizer_sha256")
    header = dict(zip(names, _HEADER.unpack_from(data)))
    if header["magic"] != MAGIC or header["version"] != VERSION or header["byte_order"] != BYTE_ORDER:
        raise InputError(f"{path}: not a shard of version {VERSION}")
    return header | {"header_bytes": HEADER_BYTES}


def _read_llmc(path: Path, data: bytes) -> dict:
    version, bits, vocab_size, bos = _LLMC[data[:4]]
    found, tokens = struct.unpack_from("<II", data.ljust(12, b"\0"), 4)
    if found != version or os.path.getsize(path) != LLMC_HEADER_BYTES + tokens * bits // 8:
        raise InputError(f"{path}: not a shard of llm.c of version {version} with the {tokens} tokens of its header")
    return {"token_bits": bits, "vocab_size": vocab_size, "token_count": tokens, "bos_id": bos, "eos_id": NO_TOKEN,
            "tokenizer_sha256": None, "header_bytes": LLMC_HEADER_BYTES}  # fmt: skip


def read_tokens(path: Path) -> np.ndarray:
    header = read_header(path)
    return np.fromfile(path, token_type(header["token_bits"]), header["token_count"], offset=header["header_bytes"])
