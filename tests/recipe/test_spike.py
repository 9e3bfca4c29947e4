"""Statistics of loss spikes, against numpy."""

import ctypes
import math

import numpy as np
import pytest

import llmc


class SpikeStats(ctypes.Structure):
    """llmc/recipe/spike.h"""

    _fields_ = [("count", ctypes.c_int64), ("mean", ctypes.c_double), ("variance", ctypes.c_double)]


LIB = llmc.load(next(iter(llmc.build_folders())))
MEMORY, MIN_LOSSES = 100, 30


def limit(stats, deviations=6.0):
    return LIB.spike_limit(ctypes.byref(stats), deviations)


def observe(stats, losses, deviations=6.0):
    for loss in losses:
        LIB.spike_observe(ctypes.byref(stats), float(loss), limit(stats, deviations))
    return stats


@pytest.fixture
def rng(request):
    seed = np.random.SeedSequence().entropy % 2**32
    print(f"seed {seed}")
    return np.random.default_rng(seed)


@pytest.mark.parametrize("count", [1, 2, 29, 30, 99, 100])
def test_mean_and_variance_of_the_first_losses(rng, count):
    losses = 3 + 0.01 * rng.random(count)  # no spike among them
    stats = observe(SpikeStats(), losses)
    assert stats.count == count
    assert stats.mean == pytest.approx(losses.mean(), rel=1e-12)
    assert stats.variance == pytest.approx(losses.var(), rel=1e-9, abs=1e-18)
    expected = losses.mean() + 6 * max(losses.std(), 1e-3 * losses.mean()) if count >= MIN_LOSSES else math.inf
    assert limit(stats) == pytest.approx(expected, rel=1e-9)


def test_later_losses_outweigh_old_ones(rng):
    stats = observe(SpikeStats(), 9 + 0.1 * rng.random(200))
    observe(stats, 4 + 0.1 * rng.random(1500))
    assert stats.mean == pytest.approx(4.05, abs=0.03)
    assert math.sqrt(stats.variance) == pytest.approx(0.1 / math.sqrt(12), rel=0.3)


def test_zero_deviations_is_no_limit(rng):
    assert limit(observe(SpikeStats(), rng.random(500)), 0) == math.inf


def test_constant_losses_leave_room():
    stats = observe(SpikeStats(), [2.0] * 50)
    assert limit(stats) == pytest.approx(2.0 * 1.006)


def test_a_spike_counts_as_its_limit(rng):
    """A spike of a million moves the mean by no more than one at the limit, and the next one is seen as well."""
    stats = observe(SpikeStats(), 3 + 0.1 * rng.random(300))
    before, mean = limit(stats), stats.mean
    observe(stats, [1e6])
    assert stats.mean == pytest.approx(mean + (before - mean) / MEMORY)
    assert limit(stats) < before * 1.2


def test_a_higher_level_becomes_normal(rng):
    stats = observe(SpikeStats(), 3 + 0.1 * rng.random(300))
    observe(stats, [5.0] * 1000)
    assert limit(stats) > 5.0
