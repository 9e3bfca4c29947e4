"""The running mean of weights against float64, and weights rounded to parameters."""

import pytest
import torch

SIZES = [1, 3, 4, 6, 1023, 1024, 5001, 300_002]


@pytest.mark.checked
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("samples", [1, 2, 3, 40])
def test_mean(lib, n, samples):
    """mean + (x - mean) / k: the difference, the quotient and the sum are rounded, of which the last counts, half a place of the
    largest value, and the others at most as much together: an error of at most k places, 2^-24 each."""
    values = 0.1 * torch.randn(samples, n) + torch.randn(n)

    def run():
        mean = lib.empty(n, torch.float32)  # poisoned: the first sample does not read it
        for k, x in enumerate(values, 1):
            lib.average_update(mean, lib.device(x), k, n)
        return mean.get()

    found = lib.same_bits(run)
    largest = values.abs().max(dim=0).values.double()
    assert ((found.double() - values.double().mean(dim=0)).abs() <= samples * 2.0**-24 * largest).all()
    if samples == 1:
        assert torch.equal(found, values[0])


@pytest.mark.checked
def test_equal_weights_stay(lib):
    """The mean of equal ones is each of them, bit for bit, -0 too."""
    x = torch.randn(1030)
    x[5], x[6] = -0.0, 2.0**-126  # what is smaller is zero to a GPU
    mean = lib.empty(1030, torch.float32)
    for k in range(1, 20):
        lib.average_update(mean, lib.device(x), k, 1030)
    assert torch.equal(mean.get()[x != 0], x[x != 0]) and (mean.get()[x == 0] == 0).all()


@pytest.mark.checked
@pytest.mark.parametrize("n", SIZES)
def test_narrow(lib, n):
    x = torch.randn(n) * torch.logspace(-30, 30, n)
    params = lib.empty(n)
    lib.weights_narrow(params, lib.device(x), n)
    assert torch.equal(params.get(), x.to(lib.floatX))
