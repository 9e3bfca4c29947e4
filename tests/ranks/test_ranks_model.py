"""A model whose training is divided among ranks, against the same training by one."""

import pytest
import torch

from model import TINY, Model, targets_of
from divided import MICRO_BATCHES, by_ranks, check_against_one, comparisons_job, job, same
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


def gradients(lib, what, mine, targets):
    """Of these micro-batches of the first step, in one process, as numbers in double precision."""
    model = Model(lib, what["fields"], what["B"], what["T"], len(mine))
    lib.llama3_init_weights(model.handle, 7)
    model.accumulate(mine, targets)
    return {i: g.double().reshape(-1) for i, g in enumerate(model.gradients().values())}


def reduced(result):
    """The gradients of the first step, which the first moments are when beta1 is 0."""
    pieces = {}
    for rank in result:
        for (array, tensor), (first, values) in rank["arrays"].items():
            if array == 1:
                pieces.setdefault(tensor, {})[first] = values
    return {tensor: torch.cat([found[first] for first in sorted(found)]).double() for tensor, found in pieces.items()}


# ranks: [(zero, shards of a group, roundings on the way)]
ROUNDINGS = {2: [(0, 1, 2), (1, 2, 1), (2, 2, 1)], 4: [(1, 2, 3), (2, 2, 3)]}


@pytest.mark.parametrize("count", ROUNDINGS)
def test_gradients_travel_in_bf16(lib, tmp_path, count):
    """What a rank sends is rounded once: 2^-8 of its magnitude; what is sent on, once more. With zero 2 that is each micro-batch's.
    The same bits again, and without overlap."""
    first = job(lib, TINY)
    batches = first["steps"][0]
    first |= dict(steps=[batches], updates=[first["updates"][0] | dict(beta1=0.0, bias_correction1=1.0, max_grad_norm=0.0)])
    targets = sum(map(targets_of, batches))
    plain = [first | dict(zero=zero, shards=shards) for zero, shards, _ in ROUNDINGS[count]]
    jobs = plain + [what | dict(grad_reduce="bf16", overlap=overlap) for overlap in (True, False) for what in plain]
    results = by_ranks(jobs, count, tmp_path)
    each, n = [gradients(lib, first, [batch], targets) for batch in batches], len(plain)
    for i, (zero, shards, roundings) in enumerate(ROUNDINGS[count]):
        exact, rounded, again = results[i], results[n + i], results[2 * n + i]
        for a, b in zip(rounded, again):
            same(a, b)
        same(rounded[0], rounded[1])
        wanted, got = reduced(exact), reduced(rounded)
        for tensor in wanted:
            sent = [each[b][tensor].abs() for b in range(MICRO_BATCHES)] if zero == 2 else [
                sum(each[b][tensor] for b in range(rank, MICRO_BATCHES, count)).abs() for rank in range(count)]
            near = roundings * 2.0**-8 * sum(sent)
            error = (got[tensor] - wanted[tensor]).abs()
            assert (error <= 1.01 * near + 1e-5 * wanted[tensor].abs().max()).all(), (zero, shards, tensor)
            assert error.any(), (zero, shards, tensor)


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
