"""Losses over pairs of answers, and what they do to the losses of tokens, against PyTorch's autograd in float64."""

import ctypes

import pytest
import torch
import torch.nn.functional as F

from compare import FP32_LIMIT, check
from llmc import PreferenceLoss

DPO, IPO, REWARD = range(3)
LOSS, NLL, BETTER, WORSE, CORRECT, SUMS = range(6)


SPECS = {
    "dpo": PreferenceLoss(DPO, 0.1, 0.0, 0.0, 0),
    "dpo_nll": PreferenceLoss(DPO, 0.3, 0.0, 0.2, 0),
    "dpo_nll_summed": PreferenceLoss(DPO, 0.1, 0.0, 0.2, 1),
    "conservative_dpo": PreferenceLoss(DPO, 0.5, 0.15, 0.1, 0),
    "ipo": PreferenceLoss(IPO, 0.1, 0.0, 0.0, 0),
    "ipo_nll": PreferenceLoss(IPO, 0.4, 0.3, 0.2, 0),
    "reward": PreferenceLoss(REWARD, 0.1, 0.0, 0.0, 0),
    "reward_smoothed": PreferenceLoss(REWARD, 7.0, 0.1, 0.5, 1),
}


class Answers:
    """Random groups of 2 and 3 answers over n positions, in places that are not in the order of rank; losses of tokens."""

    def __init__(self, num_groups, longest=40):
        self.groups, self.spans, at = [], [], 0
        for _ in range(num_groups):
            count = int(torch.randint(2, 4, ()))
            at += int(torch.randint(0, longest, ()))  # the prompt
            spans = []
            for _ in range(count):
                length = int(torch.randint(2, longest + 2, ()))
                spans.append((at, at + length - 1))
                at += length
            self.groups.append((len(self.spans), count))
            self.spans += [spans[i] for i in torch.randperm(count)]
        self.n = at + 5
        self.targets = torch.randint(0, 1000, (self.n,))
        self.targets[torch.rand(self.n) < 0.3] = -1
        for first, last in self.spans:
            self.targets[first], self.targets[last] = 7, int(torch.randint(-1, 2, ()))  # one target at least
        self.losses = torch.where(self.targets >= 0, torch.rand(self.n) * 6, 0.0)
        self.reference = -torch.rand(len(self.spans)) * 50
        self.counters = torch.tensor([len(self.spans), num_groups])

    def logprobs(self, losses):
        return torch.stack([-losses[first : last + 1].sum() for first, last in self.spans]) if self.spans else losses[:0]

    def counts(self):
        return torch.tensor([float((self.targets[first : last + 1] >= 0).sum()) for first, last in self.spans])


def padded(values, capacity, fill):
    """[capacity, ...] with what the kernels must not look at behind."""
    values = torch.as_tensor(values)
    shape = (capacity - len(values), *(values.shape[1:] if len(values) else (2,)))
    return torch.cat([values.reshape(-1, *shape[1:]), torch.full(shape, fill, dtype=values.dtype)])


def pairs(groups):
    return [(first + i, first + j) for first, count in groups for i in range(count) for j in range(i + 1, count)]


def expected(spec, values, reference, counts, groups):
    """The five sums of terms, as [pairs, SUMS], in float64, with autograd of values."""
    rows = []
    for b, w in pairs(groups):
        gain = values - reference if spec.kind != REWARD else values
        scale = 1.0 if spec.kind == REWARD else spec.beta
        margin = scale * (gain[b] - gain[w])
        if spec.kind == IPO:
            loss = (gain[b] / counts[b] - gain[w] / counts[w] - 1 / (2 * spec.beta)) ** 2
        else:
            loss = -(1 - spec.label_smoothing) * F.logsigmoid(margin) - spec.label_smoothing * F.logsigmoid(-margin)
        nll = torch.zeros((), dtype=torch.float64)
        if spec.kind != REWARD:
            nll = -values[b] / (1 if spec.nll_summed else counts[b])
            loss = loss + spec.nll * nll
        correct = (torch.sign(gain[b] - gain[w]).detach() + 1) / 2
        rows.append(torch.stack([loss, nll, scale * gain[b], scale * gain[w], correct]))
    return torch.stack(rows) if rows else torch.zeros(0, SUMS, dtype=torch.float64)


def run_loss(lib, spec, values, reference, counts, groups, capacity, before=None):
    """(sums, danswers) of the kernel; what lies behind the answers and groups is NaN or out of bounds."""
    nan = float("nan")
    sums = lib.device(torch.zeros(SUMS) if before is None else before)
    danswers = lib.empty(capacity, torch.float32)
    scores = spec.kind == REWARD
    lib.preference_loss(
        sums, danswers, lib.device(padded(values[:, None], capacity, nan)),
        None if scores else lib.device(padded(reference[:, None], capacity, nan)),
        None if scores else lib.device(padded(counts[:, None], capacity, nan)),
        lib.device(padded(torch.tensor(groups, dtype=torch.int32), capacity, 1 << 30)),
        lib.device(torch.tensor([len(values), len(groups)])), capacity, ctypes.byref(spec))
    return sums.get(), danswers.get()


def check_sums(sums, terms, before=0.0):
    """Each to FP32_LIMIT of the sum of its terms' magnitudes: rewards of both signs may add up to next to nothing."""
    error = (sums.double() - before - terms.sum(0)).abs()
    limit = FP32_LIMIT * (terms.abs().sum(0) + before)
    assert bool((error <= limit).all()), (error, limit)


@pytest.mark.checked
@pytest.mark.parametrize("num_groups", [1, 7, 200])
def test_logprobs(lib, num_groups):
    a = Answers(num_groups)
    capacity = len(a.spans) + 3

    def run():
        logprobs, counts = lib.empty(capacity, torch.float32), lib.empty(capacity, torch.float32)
        spans = lib.device(padded(torch.tensor(a.spans, dtype=torch.int32), capacity, 1 << 30))
        lib.answer_logprobs(logprobs, counts, lib.device(a.losses), lib.device(a.targets), spans,
                            lib.device(a.counters), capacity)
        return logprobs.get(), counts.get()

    logprobs, counts = lib.same_bits(run)
    used = len(a.spans)
    check("logprobs", logprobs[:used], a.logprobs(a.losses.double()))
    assert torch.equal(counts[:used], a.counts())
    assert bool(torch.isnan(logprobs[used:]).all()) and bool(torch.isnan(counts[used:]).all())


@pytest.mark.checked
@pytest.mark.parametrize("num_groups", [1, 6, 300])
@pytest.mark.parametrize("name", SPECS)
def test_loss_and_weights(lib, name, num_groups):
    """The loss of pairs, and its derivative by every token's loss or every answer's score."""
    spec, a = SPECS[name], Answers(num_groups, longest=40 if num_groups < 100 else 6)
    capacity, used = len(a.spans) + 4, len(a.spans)
    leaf = (torch.randn(used) * 2).double() if spec.kind == REWARD else a.losses.double()
    leaf.requires_grad_()
    values = leaf if spec.kind == REWARD else a.logprobs(leaf)
    # the kernel's inputs are fp32: the reference works with the very same
    values = values + (values.detach().float().double() - values.detach())
    terms = expected(spec, values, a.reference.double(), a.counts().double(), a.groups)
    terms[:, LOSS].sum().backward()

    def run():
        sums, danswers = run_loss(lib, spec, values.detach().float(), a.reference, a.counts(), a.groups, capacity)
        weights = lib.empty(a.n, torch.float32)
        spans = lib.device(padded(torch.tensor(a.spans, dtype=torch.int32), capacity, 1 << 30))
        lib.answer_weights(weights, lib.device(danswers), spans, lib.device(a.counters), a.n, capacity)
        return sums, danswers, weights.get()

    sums, danswers, weights = lib.same_bits(run)
    check_sums(sums, terms.detach())
    check("derivative", danswers[:used] if spec.kind == REWARD else weights, leaf.grad)
    assert bool(torch.isnan(danswers[used:]).all())


@pytest.mark.checked
@pytest.mark.parametrize("kind", [DPO, REWARD])
@pytest.mark.parametrize("smoothing", [0.0, 0.25])
def test_margins(lib, kind, smoothing):
    """Each margin by itself, from ties to far beyond where exp overflows or vanishes."""
    spec = PreferenceLoss(kind, 1.0, smoothing, 0.0, 0)
    for margin in (0.0, 1e-4, 0.5, 3.0, 20.0, 80.0, 89.0, 1000.0, 1e5, 3e37):
        for sign in (1, -1):
            values = torch.tensor([sign * margin, 0.0])
            leaf = values.double().requires_grad_()
            terms = expected(spec, leaf, torch.zeros(2), torch.ones(2), [(0, 2)])
            terms[:, LOSS].sum().backward()
            sums, danswers = run_loss(lib, spec, values, torch.zeros(2), torch.ones(2), [(0, 2)], 2)
            grad = leaf.grad if kind == REWARD else -leaf.grad
            # what is below the smallest normal float may become 0
            assert bool(((sums - terms.sum(0)).abs() <= 1e-5 * terms.sum(0).abs() + 1.2e-38).all()), (margin, sign, sums)
            assert bool(((danswers - grad).abs() <= 1e-5 * grad.abs() + 1.2e-38).all()), (margin, sign, danswers)


@pytest.mark.checked
def test_ties(lib):
    values, zeros = torch.tensor([1.5, 1.5, 1.5, 2.0, 1.0, -3.0, -2.0]), torch.zeros(7)
    sums, danswers = run_loss(lib, SPECS["reward"], values, zeros, zeros, [(0, 3), (3, 2), (5, 2)], 7)
    assert sums[CORRECT] == 3 * 0.5 + 1 + 0
    assert danswers[0] == -1.0 and danswers[1] == 0.0 and danswers[2] == 1.0  # each pair -0.5 and 0.5


@pytest.mark.checked
@pytest.mark.parametrize("name", SPECS)
def test_no_groups(lib, name):
    """A batch without answers: nothing is added, all weights are 0."""
    none, before = torch.zeros(0), torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    sums, danswers = run_loss(lib, SPECS[name], none, none, none, [], 5, before)
    assert torch.equal(sums, before) and bool(torch.isnan(danswers).all())
    weights, spans = lib.empty(33, torch.float32), lib.device(torch.full((5, 2), 1 << 30, dtype=torch.int32))
    lib.answer_weights(weights, lib.device(danswers), spans, lib.device([0, 0]), 33, 5)
    assert bool((weights.get() == 0).all())


@pytest.mark.checked
def test_sums_add_up(lib):
    """Micro-batches of a step add to the same sums."""
    spec, before = SPECS["dpo_nll"], torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    a = Answers(3)
    values = a.logprobs(a.losses)
    terms = expected(spec, values.double(), a.reference.double(), a.counts().double(), a.groups)
    sums, _ = run_loss(lib, spec, values, a.reference, a.counts(), a.groups, len(a.spans), before)
    check_sums(sums, terms, before.double())


@pytest.mark.checked
def test_not_finite(lib):
    """A score that is NaN makes the loss NaN, so that the step is left out."""
    values = torch.tensor([1.0, float("nan")])
    sums, danswers = run_loss(lib, SPECS["reward"], values, None, None, [(0, 2)], 2)
    assert bool(torch.isnan(sums[LOSS])) and bool(torch.isnan(danswers).all())
