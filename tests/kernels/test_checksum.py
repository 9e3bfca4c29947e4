"""The checksum of weights, against its definition in numpy."""

import numpy
import pytest
import torch

# around a block, and the 32768 words from which there are several
SIZES = [1, 2, 255, 256, 257, 32768, 32769, 100_003]
# 275 blocks, whose sums the last one of 256 threads adds up; and beyond the 1024 blocks that there can be
LARGE = [9_000_001, 1024 * 32768 + 70_001]
WORD = 2**64


def definition(words):
    """In numpy's integers, which are modulo 2^64."""
    total, piece = 0, 1 << 20
    for first in range(0, len(words), piece):
        x = words[first : first + piece].copy()
        x += numpy.arange(first + 1, first + len(x) + 1, dtype=numpy.uint64) * numpy.uint64(0x9E3779B97F4A7C15)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            x = (x ^ x >> numpy.uint64(shift)) * numpy.uint64(factor)
        total += int((x ^ x >> numpy.uint64(31)).sum(dtype=numpy.uint64))
    return total % WORD


def random_words(n):
    seed = int(torch.randint(2**31, (1,)))  # of the test's own printed seed
    return numpy.random.default_rng(seed).integers(0, WORD, n, dtype=numpy.uint64)


def checksum(lib, words):
    total, scratch = lib.empty(1, torch.int64), lib.empty(lib.checksum_scratch(), torch.int64)
    lib.checksum(total, scratch, lib.device(torch.from_numpy(words.view(numpy.int64)), torch.int64), len(words))
    scratch.get()
    return total.get()


@pytest.mark.checked
@pytest.mark.parametrize("n", SIZES)
def test_as_defined(lib, n):
    words = random_words(n)
    assert lib.same_bits(lambda: checksum(lib, words)).item() % WORD == definition(words)


@pytest.mark.parametrize("n", LARGE)
def test_of_many_blocks(lib, n):
    words = random_words(n)
    for form in lib.each_form():
        assert checksum(lib, words).item() % WORD == definition(words), form


@pytest.mark.parametrize("n", [1, 300, 40_000])
def test_one_bit_or_one_swap_shows(lib, n):
    words = random_words(n)
    first = checksum(lib, words).item()
    for at in {0, n // 2, n - 1}:
        flipped = words.copy()
        flipped[at] ^= numpy.uint64(1 << 63)
        assert checksum(lib, flipped).item() != first, at
    swapped = words.copy()
    swapped[[0, -1]] = swapped[[-1, 0]]
    assert n == 1 or checksum(lib, swapped).item() != first


def test_zeros_count(lib):
    zeros = numpy.zeros(5, dtype=numpy.uint64)
    assert checksum(lib, zeros).item() != checksum(lib, zeros[:4]).item()
