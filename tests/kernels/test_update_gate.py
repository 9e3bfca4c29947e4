"""Which steps may change the weights."""

import math

import pytest

NAN, INF = math.nan, math.inf
LIMIT = 2.5


def gate(lib, loss_sum, loss_scale, max_loss, norm):
    values = [lib.device([float(v)]) for v in (loss_sum, loss_scale, max_loss, norm)]
    apply = lib.device([-1])
    lib.update_gate(apply, *values)
    return apply.get().item()


@pytest.mark.checked
@pytest.mark.parametrize(
    "loss_sum, max_loss, norm, expected",
    [
        (8, INF, 1, 1), (0, INF, 0, 1), (-8, INF, 1, 1),
        (NAN, INF, 1, 0), (INF, INF, 1, 0), (-INF, INF, 1, 0), (NAN, LIMIT, NAN, 0),
        (8, INF, NAN, 0), (8, INF, INF, 0), (3e38, INF, 1, 1),
        (10, LIMIT, 1, 1), (10.001, LIMIT, 1, 0), (9.9, LIMIT, 1, 1), (-100, LIMIT, 1, 1), (8, NAN, 1, 0),
    ],
)  # fmt: skip
def test_gate(lib, loss_sum, max_loss, norm, expected):
    assert gate(lib, loss_sum, 0.25, max_loss, norm) == expected


def test_the_mean_may_be_too_large_where_the_sum_is_finite(lib):
    assert gate(lib, 3e38, 10, INF, 1) == 0
