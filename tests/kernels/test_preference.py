"""Losses over pairs of answers, and what they do to the losses of tokens, against PyTorch's autograd in float64."""

import ctypes
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from compare import check
from llmc import PreferenceLoss
from preference import CHOSEN, CORRECT, DPO, IPO, LOSS, REJECTED, REWARD, SUMS, check_sums, pair_terms, slope_sizes

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

LEAST_SLOPE = 0.2  # of the sum of its parts' magnitudes


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


def run_loss(lib, spec, values, reference, counts, groups, capacity, before=None):
    """(sums, dseq) of the kernel; what lies behind the answers and groups is NaN or out of bounds."""
    nan = float("nan")
    sums = lib.device(torch.zeros(SUMS) if before is None else before)
    dseq = lib.empty(capacity, torch.float32)
    scores = spec.kind == REWARD
    lib.preference_loss(
        sums, dseq, lib.device(padded(values[:, None], capacity, nan)),
        None if scores else lib.device(padded(reference[:, None], capacity, nan)),
        None if scores else lib.device(padded(counts[:, None], capacity, nan)),
        lib.device(padded(torch.tensor(groups, dtype=torch.int32), capacity, 1 << 30)),
        lib.device(torch.tensor([len(values), len(groups)])), capacity, ctypes.byref(spec))
    return sums.get(), dseq.get()


@pytest.mark.checked
@pytest.mark.parametrize("num_groups, longest", [(1, 40), (7, 40), (200, 40), (3, 200)])
def test_logprobs(lib, num_groups, longest):
    a = Answers(num_groups, longest)
    capacity = len(a.spans) + 3

    def run():
        logprobs, counts = lib.empty(capacity, torch.float32), lib.empty(capacity, torch.float32)
        spans = lib.device(padded(torch.tensor(a.spans, dtype=torch.int32), capacity, 1 << 30))
        lib.answer_logprobs(logprobs, counts, lib.device(a.losses), lib.device(a.targets), spans,
                            lib.device(a.counters), capacity)
        return logprobs.get(), counts.get()

    used = len(a.spans)
    for logprobs, counts in lib.forms(run):
        check("logprobs", logprobs[:used], a.logprobs(a.losses.double()))
        assert torch.equal(counts[:used], a.counts())
        assert bool(torch.isnan(logprobs[used:]).all()) and bool(torch.isnan(counts[used:]).all())


def draw_pairs(spec, num_groups, longest):
    """(answers, what the kernel is given of each, terms of the pairs, derivative by every token's loss or answer's score).
    A slope is a difference, and of one pair it may by luck be next to nothing, so that no fp32 can tell it to FP32_LIMIT
    of itself: such pairs are drawn again."""
    while True:
        a = Answers(num_groups, longest)
        leaf = (torch.randn(len(a.spans)) * 2).double() if spec.kind == REWARD else a.losses.double()
        leaf.requires_grad_()
        values = leaf if spec.kind == REWARD else a.logprobs(leaf)
        # the kernel's inputs are fp32: the reference works with the very same
        values = values + (values.detach().float().double() - values.detach())
        terms = pair_terms(spec, values, a.reference.double(), a.counts().double(), a.groups)
        terms[:, LOSS].sum().backward()
        sizes = slope_sizes(spec, values.detach(), a.reference.double(), a.counts().double(), a.groups)
        slopes = slopes_of(a, leaf.grad, spec)
        if slopes.norm() > LEAST_SLOPE * sizes.norm():
            return a, values.detach().float(), terms.detach(), leaf.grad


def slopes_of(a, grad, spec):
    """By answer: all its targets have the same. That of a log-probability is minus that of the losses it is the sum of."""
    if spec.kind == REWARD:
        return grad
    return torch.stack([-grad[first : last + 1][a.targets[first : last + 1] >= 0][0] for first, last in a.spans])


@pytest.mark.checked
@pytest.mark.parametrize("num_groups", [1, 6, 300])
@pytest.mark.parametrize("name", SPECS)
def test_loss_and_weights(lib, name, num_groups):
    """The loss of pairs, and its derivative by every token's loss or every answer's score."""
    check_loss_and_weights(lib, SPECS[name], num_groups, longest=40 if num_groups < 100 else 6)


def test_answers_longer_than_a_block(lib):
    check_loss_and_weights(lib, SPECS["dpo_nll"], 5, longest=400)


def check_loss_and_weights(lib, spec, num_groups, longest):
    a, values, terms, slope = draw_pairs(spec, num_groups, longest)
    capacity, used = len(a.spans) + 4, len(a.spans)

    def run():
        sums, dseq = run_loss(lib, spec, values, a.reference, a.counts(), a.groups, capacity)
        weights = lib.empty(a.n, torch.float32)
        spans = lib.device(padded(torch.tensor(a.spans, dtype=torch.int32), capacity, 1 << 30))
        lib.answer_weights(weights, lib.device(dseq), spans, lib.device(a.counters), a.n, capacity)
        return sums, dseq, weights.get()

    for sums, dseq, weights in lib.forms(run):
        check_sums(sums, terms)
        check("derivative", dseq[:used] if spec.kind == REWARD else weights, slope)
        assert bool(torch.isnan(dseq[used:]).all())


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
            terms = pair_terms(spec, leaf, torch.zeros(2), torch.ones(2), [(0, 2)])
            terms[:, LOSS].sum().backward()
            sums, dseq = run_loss(lib, spec, values, torch.zeros(2), torch.ones(2), [(0, 2)], 2)
            grad = leaf.grad if kind == REWARD else -leaf.grad
            # what is below the smallest normal float may become 0
            assert bool(((sums - terms.sum(0)).abs() <= 1e-5 * terms.sum(0).abs() + 1.2e-38).all()), (margin, sign, sums)
            assert bool(((dseq - grad).abs() <= 1e-5 * grad.abs() + 1.2e-38).all()), (margin, sign, dseq)


@pytest.mark.checked
def test_ties(lib):
    values, zeros = torch.tensor([1.5, 1.5, 1.5, 2.0, 1.0, -3.0, -2.0]), torch.zeros(7)
    sums, dseq = run_loss(lib, SPECS["reward"], values, zeros, zeros, [(0, 3), (3, 2), (5, 2)], 7)
    assert sums[CORRECT] == 3 * 0.5 + 1 + 0
    assert dseq[0] == -1.0 and dseq[1] == 0.0 and dseq[2] == 1.0  # each pair -0.5 and 0.5


@pytest.mark.checked
@pytest.mark.parametrize("name", SPECS)
def test_no_groups(lib, name):
    """A batch without answers: nothing is added, all weights are 0."""
    none, before = torch.zeros(0), torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    sums, dseq = run_loss(lib, SPECS[name], none, none, none, [], 5, before)
    assert torch.equal(sums, before) and bool(torch.isnan(dseq).all())
    weights, spans = lib.empty(33, torch.float32), lib.device(torch.full((5, 2), 1 << 30, dtype=torch.int32))
    lib.answer_weights(weights, lib.device(dseq), spans, lib.device([0, 0]), 33, 5)
    assert bool((weights.get() == 0).all())


@pytest.mark.checked
def test_sums_add_up(lib):
    """Micro-batches of a step add to the same sums."""
    spec, before = SPECS["dpo_nll"], torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    a = Answers(3)
    values = a.logprobs(a.losses)
    terms = pair_terms(spec, values.double(), a.reference.double(), a.counts().double(), a.groups)
    sums, _ = run_loss(lib, spec, values, a.reference, a.counts(), a.groups, len(a.spans), before)
    check_sums(sums, terms, before.double())


@pytest.mark.checked
def test_not_finite(lib):
    """A score that is NaN makes the loss NaN, so that the step is left out."""
    values = torch.tensor([1.0, float("nan")])
    sums, dseq = run_loss(lib, SPECS["reward"], values, None, None, [(0, 2)], 2)
    assert bool(torch.isnan(sums[LOSS])) and bool(torch.isnan(dseq).all())


class StandIn:
    """Just what trl's loss of a batch asks of its trainer and of its model."""

    def __init__(self, spec, log_probs):
        self.beta, self.label_smoothing = spec.beta, spec.label_smoothing
        self.loss_types, self.loss_weights = [{DPO: "sigmoid", IPO: "ipo"}[spec.kind]], [1.0]
        self.f_divergence_type, self.ld_alpha, self.use_weighting, self.aux_loss_enabled = "reverse_kl", None, False, False
        self.precompute_ref_logps = True
        self.model = SimpleNamespace(training=True)
        self.accelerator = SimpleNamespace(device="cpu", gather=lambda x: x, gather_for_metrics=lambda x: x)
        self._metrics = {"train": defaultdict(list)}
        self._total_train_tokens, self._tp_size = 0, 1
        nothing = torch.zeros_like(log_probs)
        self.outputs = SimpleNamespace(log_probs=log_probs, entropy=nothing, mean_logits=nothing, is_top1=nothing.bool())

    def forward(self, **_):
        return self.outputs


@pytest.mark.parametrize("name", ["dpo", "ipo"])
def test_like_trl(lib, name):
    """trl's own loss, its derivative and its metrics, of pairs of answers of different lengths."""
    trainer = pytest.importorskip("trl.trainer.dpo_trainer").DPOTrainer
    if not hasattr(trainer, "_compute_loss"):
        pytest.skip("this version of trl computes its loss elsewhere")
    spec, num_pairs, length = SPECS[name], 9, 12
    lengths = torch.randint(1, length + 1, (2 * num_pairs,))  # all chosen answers, then all rejected ones
    mask = (torch.arange(length) < lengths[:, None]).long()
    log_probs = (-torch.rand(2 * num_pairs, length) * 4 * mask).double().requires_grad_()
    reference = -torch.rand(2 * num_pairs) * 20
    stand_in = StandIn(spec, log_probs)
    inputs = dict(
        input_ids=torch.ones(2 * num_pairs, length + 1, dtype=torch.long),
        attention_mask=torch.ones(2 * num_pairs, length + 1, dtype=torch.long),
        completion_mask=F.pad(mask, (1, 0)),  # behind one token of the prompt
        ref_chosen_logps=reference[:num_pairs].double(), ref_rejected_logps=reference[num_pairs:].double())
    loss = trainer._compute_loss(stand_in, stand_in.forward, inputs, False)
    loss.backward()
    order = torch.arange(2 * num_pairs).reshape(2, num_pairs).T.reshape(-1)  # pair by pair
    groups = [(2 * i, 2) for i in range(num_pairs)]
    values = log_probs.detach().sum(1).float()
    sums, dseq = run_loss(lib, spec, values[order], reference[order], lengths[order].float(), groups, 2 * num_pairs)
    # their sums of log-probabilities are float64, ours were rounded to fp32
    check("loss", sums[LOSS] / num_pairs, loss.detach())
    check("derivative", -dseq[:, None].expand(-1, length) / num_pairs, log_probs.grad[order])
    metrics = {key: value[0] * num_pairs for key, value in stand_in._metrics["train"].items()}
    assert sums[CORRECT] == metrics["rewards/accuracies"]
    for i, key in ((CHOSEN, "rewards/chosen"), (REJECTED, "rewards/rejected")):
        assert abs(sums[i].item() - metrics[key]) <= 1e-5 * (spec.beta * (values - reference).abs()).sum().item(), key
