"""How often the tests draw at random, and from which seed. pytest prints the seed of its run, and whatever it starts has it in
LLMC_TEST_SEED: pytest-xdist's workers, ranks, programs."""

import os
import random

SEED = int(os.environ.setdefault("LLMC_TEST_SEED", str(random.SystemRandom().randrange(2**31))))


def how_often(usual, long):
    """long in scripts/soak.sh, which has hours."""
    return long if os.environ.get("LLMC_SOAK") else usual


def seed_of(name):
    """A test's own seed, 63 bits drawn from the run's and its name (FNV-1a)."""
    value = 1469598103934665603
    for byte in f"{SEED} {name}".encode():
        value = (value ^ byte) * 1099511628211 % 2**64
    return value >> 1
