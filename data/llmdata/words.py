"""Words of a text as 64-bit hashes, and runs of words (n-grams) of them. Numbers stay as they are: two problems that differ only in
their numbers are two problems."""

import re
import unicodedata

import numpy as np
from xxhash import xxh3_64_intdigest

# Each character of scripts that put no space between words counts as a word: Thai to Myanmar, Khmer, kana, Chinese.
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
UNSPACED_LANGUAGES = {"zh", "ja", "th", "lo", "km", "my", "bo", "wuu", "yue"}
_WORD = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+")
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


def hash_text(text: str) -> int:
    """64 bits."""
    return xxh3_64_intdigest(text.encode("utf-8", "surrogatepass"))


def words(text: str) -> list[str]:
    """In lower case, without punctuation."""
    return _WORD.findall(unicodedata.normalize("NFC", text).lower())


def hash_words(text: str) -> np.ndarray:
    """uint64, one for each word."""
    return np.fromiter(map(xxh3_64_intdigest, words(text)), np.uint64)


def run_length(size: int, language: str | None) -> int:
    """Of a run of `size` words, twice as many where each character counts as a word: two of them make one of Chinese, about."""
    return size * (2 if language in UNSPACED_LANGUAGES else 1)


def ngrams(hashes: np.ndarray, size: int, seed: int = 0) -> np.ndarray:
    """uint64, one for each run of `size` words, in order; another seed gives hashes that have nothing in common with these."""
    count = max(0, len(hashes) - size + 1)
    total = np.full(count, seed, np.uint64)
    for place in range(size):
        total = total * _FACTOR + hashes[place : place + count]
    total ^= total >> np.uint64(29)  # the low bits of a sum of products are poor
    return total * _FACTOR
