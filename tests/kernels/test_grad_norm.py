"""The global gradient norm and the sum of losses."""

import pytest
import torch

import compare

# around the vector width, the 64 elements that a thread alone reads at once, the 1024 of a block, the 65536 from which there are
# several blocks, and 260 blocks, whose sums the last one adds up
SIZES = [1, 3, 4, 5, 63, 64, 65, 1000, 1025, 65536, 65537, 200003, 3_000_001, 17_000_001]
MOST_BLOCKS = 1024


def norm_of(lib, grads):
    norm, total = lib.empty(1, torch.float32), lib.empty(1, torch.float32)
    scratch = lib.empty(lib.sum_squares_scratch(), torch.float32)
    lib.sum_squares(total, scratch, lib.device(grads), grads.numel())
    lib.norm_of_squares(norm, total)
    scratch.get()
    return norm.get()


@pytest.mark.checked
@pytest.mark.parametrize("n", SIZES[:-1])
def test_norm(lib, n):
    check_norm(lib, n)


def test_norm_of_many_blocks(lib):
    check_norm(lib, SIZES[-1])


def check_norm(lib, n):
    grads = torch.randn(n) + 0.5
    for norm in lib.forms(lambda: norm_of(lib, grads)):
        compare.check("norm", norm, grads.double().norm().reshape(1))


@pytest.mark.parametrize("n", [5, 70001])
def test_every_element_counts_once(lib, n):
    grads = torch.zeros(n)
    for i in {0, 1, 3, n // 2, n - 2, n - 1}:
        grads.zero_()
        grads[i] = 3.0
        for form in lib.each_form():
            assert norm_of(lib, grads).item() == pytest.approx(3.0, rel=1e-6), (form, i)  # a GPU's square root may be 1 ulp off


def test_more_than_all_blocks_take_at_first(lib):
    """Beyond the largest number of blocks each takes more."""
    n = MOST_BLOCKS * 65536 + 70_001
    grads = torch.zeros(n)
    places = torch.cat([torch.randint(n, (1000,)), torch.tensor([0, n - 70_002, n - 70_001, n - 2, n - 1])])
    grads[places] = torch.randn(len(places))
    for _ in lib.each_form():
        compare.check("norm", norm_of(lib, grads), grads[places.unique()].double().norm().reshape(1))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_not_finite(lib, bad):
    for i in (0, 70000):
        grads = torch.ones(70001)
        grads[i] = bad
        for _ in lib.each_form():
            assert not torch.isfinite(norm_of(lib, grads)).item()


@pytest.mark.checked
@pytest.mark.parametrize("n", [1, 31, 256, 257, 5000])
def test_sum_losses(lib, n):
    losses = torch.rand(n) * 10

    def run():
        total = lib.device(torch.tensor([2.5]))
        lib.sum_losses(total, lib.device(losses), n)
        return total.get()

    for total in lib.forms(run):
        compare.check("sum", total, losses.double().sum().reshape(1) + 2.5)


@pytest.mark.checked
@pytest.mark.parametrize("n", [1, 5, 64, 1000])
def test_sum_in_order(lib, n):
    parts, total = torch.rand(n), lib.empty(1, torch.float32)
    lib.sum_in_order(total, lib.device(parts), n)
    expected = torch.zeros(())
    for part in parts:
        expected += part
    assert torch.equal(total.get(), expected.reshape(1))


@pytest.mark.checked
@pytest.mark.parametrize("n", [4, 8, 1020, 1024, 1028, 70004])
def test_add_gradients(lib, n):
    to, more = torch.randn(n), torch.randn(n)
    sums = lib.device(to)
    lib.add_gradients(sums, lib.device(more), n)
    assert torch.equal(sums.get(), to + more)
