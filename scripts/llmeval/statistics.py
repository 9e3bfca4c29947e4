"""What a score over N items says: its interval, and whether two models differ on the same items."""

import math
from statistics import fmean, stdev

from scipy.special import stdtr  # scipy.stats takes a second to import


def interval(values: list[float], weights: list[float] | None = None) -> float | None:
    """Half of the 95 % interval of the mean. Of right and wrong answers it is the paper's 1.96 sqrt(S (1 - S) / N) (arXiv
    2407.21783, section 5.1.1); of graded ones the same with their own variance. weights: of a weighted mean, as of documents
    by their bytes. None of fewer than two."""
    if len(values) < 2:
        return None
    shares = [1 / len(values)] * len(values) if weights is None else [weight / sum(weights) for weight in weights]
    score = sum(share * value for share, value in zip(shares, values))
    variance = sum((share * (value - score)) ** 2 for share, value in zip(shares, values))  # S (1 - S) / N of 0 and 1
    return 1.96 * math.sqrt(variance)


def paired_p(ours: list[float], theirs: list[float]) -> float | None:
    """The probability of a difference as large as that of the two means, if the models were equally good; both on the same
    items. McNemar's exact test of right and wrong answers, else the paired t test. None where nothing can be said."""
    pairs = list(zip(ours, theirs, strict=True))
    if all(value in (0, 1) for pair in pairs for value in pair):
        better, worse = sum(a > b for a, b in pairs), sum(a < b for a, b in pairs)
        tail = sum(math.comb(better + worse, k) for k in range(min(better, worse) + 1))
        return min(1.0, 2 * tail / 2 ** (better + worse))
    differences = [a - b for a, b in pairs]
    if len(differences) < 2:
        return None
    if max(differences) == min(differences):
        return 1.0 if differences[0] == 0 else 0.0
    t = fmean(differences) / (stdev(differences) / math.sqrt(len(differences)))
    return float(2 * stdtr(len(differences) - 1, -abs(t)))


def pass_at(k: int, samples: int, passed: int) -> float:
    """The unbiased estimate, from `samples` programs of which `passed` are right, of the probability that one of k is right:
    1 - C(n - c, k) / C(n, k) (Chen et al., arXiv 2107.03374, section 2.1). k <= samples."""
    return 1 - math.comb(samples - passed, k) / math.comb(samples, k)
