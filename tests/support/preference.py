"""The losses of pairs of answers in PyTorch, for the tests of the kernels and of the whole model. Formulas and their sources:
llmc/kernels/preference.h."""

import torch
import torch.nn.functional as F

from compare import FP32_LIMIT

DPO, IPO, REWARD = range(3)
LOSS, NLL, CHOSEN, REJECTED, CORRECT, SUMS = range(6)


def pairs(groups):
    """(chosen, rejected) of groups of (first answer, how many)"""
    return [(first + i, first + j) for first, count in groups for i in range(count) for j in range(i + 1, count)]


def pair_terms(spec, values, reference, counts, groups):
    """[pairs, SUMS] what each pair adds to the sums, in the dtype of values, with their autograd. values: log-probabilities
    or scores."""
    rows = []
    for c, r in pairs(groups):
        gain = values - reference if spec.kind != REWARD else values
        scale = 1.0 if spec.kind == REWARD else spec.beta
        margin = scale * (gain[c] - gain[r])
        if spec.kind == IPO:
            loss = (gain[c] / counts[c] - gain[r] / counts[r] - 1 / (2 * spec.beta)) ** 2
        else:
            loss = -(1 - spec.label_smoothing) * F.logsigmoid(margin) - spec.label_smoothing * F.logsigmoid(-margin)
        nll = torch.zeros((), dtype=values.dtype)
        if spec.kind != REWARD:
            nll = -values[c] / (1 if spec.nll_summed else counts[c])
            loss = loss + spec.nll * nll
        correct = (torch.sign(gain[c] - gain[r]).detach() + 1) / 2
        rows.append(torch.stack([loss, nll, scale * gain[c], scale * gain[r], correct]))
    return torch.stack(rows) if rows else torch.zeros(0, SUMS, dtype=values.dtype)


def slope_sizes(spec, values, reference, counts, groups):
    """[answers] the magnitudes of all that each answer's slope of the loss is made of, added up."""
    sizes = torch.zeros_like(values)
    for c, r in pairs(groups):
        gain = values - reference if spec.kind != REWARD else values
        scale = 1.0 if spec.kind == REWARD else spec.beta
        if spec.kind == IPO:
            size = 2 * (gain[c].abs() / counts[c] + gain[r].abs() / counts[r] + 1 / (2 * spec.beta))
            sizes[c] += size / counts[c]
            sizes[r] += size / counts[r]
        else:
            margin = scale * (gain[c] - gain[r])
            sizes[[c, r]] += scale * ((1 - spec.label_smoothing) * torch.sigmoid(-margin) + spec.label_smoothing * torch.sigmoid(margin))
        if spec.kind != REWARD:
            sizes[c] += spec.nll / (1 if spec.nll_summed else counts[c])
    return sizes


def check_sums(sums, terms, before=0.0):
    """Each to FP32_LIMIT of the sum of its terms' magnitudes: rewards of both signs may add up to next to nothing."""
    error = (sums.double() - before - terms.sum(0)).abs()
    limit = FP32_LIMIT * (terms.abs().sum(0) + before)
    assert bool((error <= limit).all()), (error, limit)
