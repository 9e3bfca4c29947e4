"""The learning rate against its formula written in Python, and its corner points."""

import ctypes
import math
import random

import pytest

from hostlib import library


COSINE, LINEAR = 0, 1


class Schedule(ctypes.Structure):
    """llmc/recipe/schedule.h"""

    _fields_ = [
        ("peak", ctypes.c_double),
        ("warmup_steps", ctypes.c_int64),
        ("total_steps", ctypes.c_int64),
        ("final_fraction", ctypes.c_double),
        ("form", ctypes.c_int),
    ]


@pytest.fixture(scope="module")
def lr():
    function = library.schedule_lr
    function.argtypes = [ctypes.POINTER(Schedule), ctypes.c_int64]
    function.restype = ctypes.c_double
    return lambda schedule, step: function(ctypes.byref(schedule), step)


def reference(s, step):
    """transformers' get_cosine_schedule_with_warmup, or get_linear_schedule_with_warmup, shifted by one step, between peak
    and final_fraction of it."""
    done = step + 1
    if done <= s.warmup_steps:
        return s.peak * done / s.warmup_steps
    progress = (done - s.warmup_steps) / (s.total_steps - s.warmup_steps)
    left = 1 - progress if s.form == LINEAR else 0.5 * (1 + math.cos(math.pi * progress))
    return s.peak * (s.final_fraction + (1 - s.final_fraction) * left)


@pytest.mark.parametrize("form", [COSINE, LINEAR])
def test_against_formula(lr, form):
    for _ in range(50):
        total = random.randint(1, 3000)
        s = Schedule(random.uniform(1e-5, 1e-2), random.randint(0, total), total, random.random(), form)
        for step in {0, total - 1, *(random.randrange(total) for _ in range(50))}:
            # both are the same few operations in float64
            assert lr(s, step) == pytest.approx(reference(s, step), rel=1e-12, abs=1e-17)


def test_corner_points(lr):
    s = Schedule(8e-5, 8000, 1_200_000, 0.01)  # Llama 3 405B
    assert lr(s, 0) == pytest.approx(1e-8)
    assert lr(s, 7999) == 8e-5
    assert lr(s, 8000) < 8e-5
    assert lr(s, 8000 + (1_200_000 - 8000) // 2 - 1) == pytest.approx(8e-5 * 0.505)
    assert lr(s, 1_199_999) == pytest.approx(8e-7)


def test_annealing(lr):
    """To zero, by equal steps."""
    s = Schedule(2e-5, 10, 110, 0.0, LINEAR)
    rates = [lr(s, step) for step in range(9, 110)]
    assert rates[0] == 2e-5 and rates[-1] == 0
    assert [a - b for a, b in zip(rates, rates[1:])] == pytest.approx([2e-7] * 100)
    assert lr(s, 5000) == 0


@pytest.mark.parametrize("form", [COSINE, LINEAR])
@pytest.mark.parametrize("warmup, total", [(0, 1), (1, 1), (5, 5), (0, 10)])
def test_short_runs(lr, warmup, total, form):
    s = Schedule(1.0, warmup, total, 0.1, form)
    rates = [lr(s, step) for step in range(total)]
    assert all(0 < r <= 1 for r in rates)
    assert rates[-1] == pytest.approx(1.0 if warmup == total else 0.1)
