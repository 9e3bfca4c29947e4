"""data/curate.py with a step that misbehaves where a document says so: PLANTED:crash, hang, hungry, slow or raises."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "data"), str(ROOT / "tests/support")]

from checkout import load_script
from curate.step import Filter
from curate.steps import STEPS


def crash():
    os.kill(os.getpid(), 11)


def hang():
    """In C, where Python runs no handler of a signal."""
    sum(range(10**14))


def hungry():
    return [bytearray(1 << 28) for _ in range(64)]


def slow():
    while True:
        pass


def raises():
    raise ValueError("planted")


class Planted(Filter):
    name = "planted"

    def change(self, document):
        for work in (crash, hang, hungry, slow, raises):
            if f"PLANTED:{work.__name__}" in document.text:
                work()
        return 0


STEPS[Planted.name] = Planted

if __name__ == "__main__":
    sys.exit(load_script("curate").main())
