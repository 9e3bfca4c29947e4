"""Shapes that cuBLASLt has no algorithm for, as its stand-in plays it (LLMC_STANDIN_STRICT=1: leading dimensions of whole 16
bytes alone): a kernel of our own takes its place, and says so once; what training multiplies never needs it."""

import sys

import pytest

import llmc
import oncpu
import trainrun

SAID = "cuBLASLt has no algorithm, a slow kernel is used"
# prints whether two odd products have matmul_plain's bits
ODD = """
import sys, torch
sys.path.insert(0, "{}")
import llmc, oncpu
lib = llmc.Library("bf16", oncpu.ON_CPU)
for m, n, k in ((5, 33, 7), (9, 3, 1)):
    a, b, found = lib.x(torch.randn(m, k)), lib.x(torch.randn(k, n)), []
    for launcher in (lib.matmul, lib.matmul_plain):
        found.append(lib.empty((m, n), torch.float32))
        launcher(found[-1], 1, a, b, m, n, k, False, False, False)
    print(torch.equal(found[0].get(), found[1].get()))
"""


@pytest.fixture(autouse=True)
def needed():
    oncpu.need()


def test_the_plain_kernel_takes_its_place():
    done = oncpu.run([sys.executable, "-c", ODD.format(llmc.ROOT / "tests/support")], LLMC_STANDIN_STRICT="1")
    assert done.stdout.split() == ["True", "True"], done.stderr
    assert done.stderr.count(SAID) == 1 and "m=5 n=33 k=7" in done.stderr, done.stderr


def test_training_never_needs_it(tmp_path):
    """Odd numbers of rows and tokens are no reason."""
    work = trainrun.Workplace(tmp_path)
    arguments = work.arguments(steps=1, batch_size=3, seq_len=25, eval_every=0, save="off", output=tmp_path / "run", threads=None)
    done = oncpu.run([oncpu.ON_CPU / "train_llama3", *arguments], LLMC_STANDIN_STRICT="1")
    assert SAID not in done.stderr
