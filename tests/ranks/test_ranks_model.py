"""A model whose training is divided among ranks, against the same training by one."""

import pytest
import torch

from model import TINY
from divided import by_ranks, check_against_one, comparisons_job, job, same
from packed import SPECS


# ranks: [(zero, shards of a group)]
DIVISIONS = {2: [(0, 1), (1, 2), (2, 2)], 3: [(1, 3), (2, 3)], 4: [(1, 4), (1, 2), (2, 2)]}


@pytest.mark.parametrize("count", DIVISIONS)
def test_divided(lib, tmp_path, count):
    """Like one rank; the same bits on all ranks, in a second run, and with communication beside the computation or not."""
    fields = TINY | dict(tie_word_embeddings=count % 2 == 0, num_hidden_layers=3)
    first = job(lib, fields)
    jobs = [first | dict(zero=zero, shards=shards, recompute="cheap" if zero == 2 else "none") for zero, shards in DIVISIONS[count]]
    again = jobs[1] | dict(overlap=False)
    results = by_ranks([*jobs, jobs[-1], again], count, tmp_path)
    for what, result in zip(jobs, results):
        check_against_one(lib, what, result, what["shards"])
        for other in result[1:]:
            same(other, result[0])
    same(results[-2][0], results[len(jobs) - 1][0])
    same(results[-1][0], results[1][0])


def test_comparisons_divided(lib, tmp_path):
    """Losses over pairs of answers, of which each rank has its own. One start of the ranks for all of them, as most of the time
    is theirs."""
    firsts = [comparisons_job(lib, SPECS[name]) for name in ("dpo_nll", "ipo", "reward")]
    jobs = [first | dict(zero=zero, shards=shards, recompute="cheap" if zero == 2 else "none") for first in firsts for zero, shards in DIVISIONS[2]]
    for what, result in zip(jobs, by_ranks(jobs, 2, tmp_path)):
        check_against_one(lib, what, result, what["shards"])
        same(result[1], result[0])


def test_a_step_without_an_update_leaves_no_trace(lib, tmp_path):
    """Begun with other batches and not ended, while its gradients travel: the next step has none of them."""
    kinds = [job(lib, TINY, zero, shards=shards) for zero, shards in ((0, 1), (1, 2), (2, 2), (2, 1))]
    results = by_ranks(kinds + [what | dict(abandon=True) for what in kinds], 2, tmp_path)
    for plain, abandoned in zip(results[: len(kinds)], results[len(kinds) :]):
        for a, b in zip(abandoned, plain):
            same(a, b)


def test_not_finite_on_one_rank(lib, tmp_path):
    """A gradient that is not finite on one rank stops the update on all: nobody's weights change."""
    kinds = [job(lib, TINY, zero, shards=2 if zero else 1) for zero in (0, 1, 2)]
    before = [what | dict(steps=what["steps"][:1]) for what in kinds]
    after = [what | dict(steps=what["steps"][:2], poison=(1, 1)) for what in kinds]
    results = by_ranks(before + after, 2, tmp_path)
    for good, bad in zip(results[:3], results[3:]):
        for result in bad:
            assert result["applied"] == [True, False]
            assert not torch.isfinite(torch.tensor(result["curve"][1])).any()
        assert torch.equal(bad[0]["sums"], good[0]["sums"])
        for key, (_, values) in good[0]["arrays"].items():
            assert torch.equal(bad[0]["arrays"][key][1], values), key
