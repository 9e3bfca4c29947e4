"""The gain of a measure over pairs of runs that differ in the candidate alone.

The interval is Student's t of the pairs' differences: the seeds of a pair are the same, so what a seed does to both runs drops
out.
"""

import math
from dataclasses import asdict, dataclass

from scipy.special import stdtrit  # scipy.stats takes a second to import

CONFIDENCE = 0.95
MOST_SEEDS = 10000
LOWER_IS_BETTER = ("val_loss", "nll", "bits_per_byte", "byte_perplexity", "word_perplexity", "token_perplexity")
HIGHER_IS_BETTER = ("exact_match", "acc", "acc_norm", "acc_bytes")


@dataclass
class Gain:
    """Positive where the candidate makes the measure better."""

    measure: str
    without: float  # means over the seeds
    with_candidate: float
    mean: float
    deviation: float  # of the pairs' differences
    low: float
    high: float
    seeds: int

    @property
    def verdict(self) -> str:
        return "helps" if self.low > 0 else "harms" if self.high < 0 else "not decided"

    def as_dict(self) -> dict:
        return asdict(self) | {"verdict": self.verdict, "seeds_to_see_this_gain": seeds_needed(self.deviation, abs(self.mean))}


def half_width(deviation: float, seeds: int) -> float:
    """Of the interval of a mean over so many differences."""
    return float(stdtrit(seeds - 1, (1 + CONFIDENCE) / 2)) * deviation / math.sqrt(seeds)


def seeds_needed(deviation: float, gain: float) -> int | None:
    """The fewest seeds whose interval is narrow enough to tell this gain from 0; None: more than MOST_SEEDS."""
    low, high = 2, MOST_SEEDS
    if gain <= 0 or half_width(deviation, high) >= gain:
        return None
    while low < high:  # the width falls with every seed
        middle = (low + high) // 2
        low, high = (low, middle) if half_width(deviation, middle) < gain else (middle + 1, high)
    return low


def is_known(measure: str) -> bool:
    return measure in LOWER_IS_BETTER + HIGHER_IS_BETTER


def gain_of(name: str, without: list[float], with_candidate: list[float]) -> Gain:
    """name: a measure, perhaps with its task and a blank in front. Of each seed both values, in the same order."""
    sign = -1 if name.split()[-1] in LOWER_IS_BETTER else 1
    differences = [sign * (after - before) for before, after in zip(without, with_candidate, strict=True)]
    n = len(differences)
    mean = sum(differences) / n
    deviation = math.sqrt(sum((d - mean) ** 2 for d in differences) / (n - 1))
    width = half_width(deviation, n)
    return Gain(name, sum(without) / n, sum(with_candidate) / n, mean, deviation, mean - width, mean + width, n)
