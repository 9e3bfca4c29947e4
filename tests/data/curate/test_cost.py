"""dev/bench/curate_cost.py: hours for more than was measured."""

import pytest
from curate_cost import cost


def test_cost_grows_with_the_input():
    found = {
        "input": {"total": {"out": [10, 0, 2 * 10**6]}, "seconds": 1.0},
        "steps": {"extract": {"seconds": 5.0}, "pii": {"seconds": 0.5}},
        "passes": {"00": {"seconds": 7.0}, "01": {"seconds": 1.5}},
    }
    hours = cost(found, 3)  # 1.5 million times as much as was measured
    assert {name: value / 1.5e6 * 3600 for name, value in hours.items()} == pytest.approx(
        {"read": 1.0, "extract": 5.0, "pii": 0.5, "around": 2.0})  # fmt: skip
    assert cost(found, 6)["extract"] == pytest.approx(2 * hours["extract"])
