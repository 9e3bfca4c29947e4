"""Softmax with cross-entropy, forward and backward, against float64."""

import pytest
import torch
import torch.nn.functional as F

from compare import check

# rows, vocabulary: the benchmark model's; Llama's size class; GPT-2's (no multiple of 8); between; one column; one row
SHAPES = [(130, 2048), (3, 50257), (2, 128256), (9, 5003), (5, 1), (1, 7), (6, 4096), (6, 4097)]


def padded(vocabulary):
    return (vocabulary + 127) // 128 * 128


def run(lib, logits, targets, dloss, VP):
    """(losses of the forward, losses of the backward, gradient [n,VP]); the padding holds NaN before."""
    n, V = logits.shape
    buffer = lib.x(torch.cat([logits, torch.full((n, VP - V), float("nan"), dtype=logits.dtype)], 1))
    stored_targets, factor = lib.device(targets), lib.device(torch.tensor([dloss]))
    forward, backward = lib.empty(n, torch.float32), lib.empty(n, torch.float32)
    lib.cross_entropy_forward(forward, buffer, stored_targets, n, V, VP)
    unchanged = buffer.get()[:, :V]
    assert torch.equal(unchanged, logits), "the forward changed the logits"
    lib.cross_entropy_backward(backward, buffer, stored_targets, None, factor, n, V, VP)
    return forward.get(), backward.get(), buffer.get()


def expected(logits, targets, dloss):
    """losses and gradient in the dtype of the logits, as PyTorch computes them"""
    x = logits.clone().requires_grad_()
    losses = F.cross_entropy(x, targets.long(), ignore_index=-1, reduction="none")
    (losses.sum() * dloss).backward()
    return losses.detach(), x.grad


def check_all(lib, logits, targets, extra_padding=0):
    n, V = logits.shape
    dloss = 1.0 / max(1, int((targets >= 0).sum()))
    VP = padded(V) + extra_padding
    ref_losses, ref_gradient = expected(logits.double(), targets, dloss)
    theirs = expected(logits, targets, dloss)[1] if lib.floatX == torch.bfloat16 else None
    for forward, backward, gradient in lib.forms(lambda: run(lib, logits, targets, dloss, VP)):
        assert torch.equal(forward, backward), "forward and backward disagree on the losses"
        check("losses", forward, ref_losses)  # fp32 in both builds
        check("gradient", gradient[:, :V], ref_gradient, theirs)
        assert bool((gradient[:, V:] == 0).all()), "gradient in the padding"
        assert bool((gradient[targets < 0] == 0).all()) and bool((forward[targets < 0] == 0).all())


def random_targets(n, V, ignored=0.2):
    targets = torch.randint(0, V, (n,))
    targets[torch.rand(n) < ignored] = -1
    return targets


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_loss_and_gradient(lib, shape):
    n, V = shape
    logits = (torch.randn(n, V) * 3).to(lib.floatX)
    targets = random_targets(n, V)
    targets[0], targets[-1] = 0, V - 1  # the edges of the row
    check_all(lib, logits, targets)


@pytest.mark.checked
@pytest.mark.parametrize("shape", [(5, 300), (2, 4099)], ids=str)
def test_small(lib, shape):
    n, V = shape
    check_all(lib, torch.randn(n, V).to(lib.floatX), random_targets(n, V))


def test_more_padding(lib):
    """A padding of whole packs and more, beyond what the vocabulary needs."""
    check_all(lib, torch.randn(5, 130).to(lib.floatX), random_targets(5, 130), extra_padding=384)


@pytest.mark.parametrize("V", [100, 5000])
def test_all_ignored(lib, V):
    logits = torch.randn(6, V).to(lib.floatX)
    logits[2, 1] = float("nan")  # of an ignored row nothing is used
    for _ in lib.each_form():
        forward, backward, gradient = run_ignoring_nan(lib, logits)
        assert bool((forward == 0).all()) and bool((backward == 0).all()) and bool((gradient == 0).all())


def run_ignoring_nan(lib, logits):
    n, V = logits.shape
    targets, factor = lib.device(torch.full((n,), -1)), lib.device(torch.tensor([1.0]))
    buffer, forward, backward = lib.empty((n, padded(V))), lib.empty(n, torch.float32), lib.empty(n, torch.float32)
    buffer.set(F.pad(logits, (0, padded(V) - V)))
    lib.cross_entropy_forward(forward, buffer, targets, n, V, padded(V))
    lib.cross_entropy_backward(backward, buffer, targets, None, factor, n, V, padded(V))
    return forward.get(), backward.get(), buffer.get()


@pytest.mark.parametrize("V", [300, 5003])
def test_extreme_logits(lib, V):
    """±1e4, equal logits, a row that is all very negative, one that rises steadily (a new maximum at each step)."""
    rows = [
        torch.where(torch.rand(V) < 0.5, 1e4, -1e4),
        torch.zeros(V),
        torch.full((V,), 1e4),
        torch.full((V,), -1e4),
        torch.linspace(-60, 60, V),
        torch.linspace(60, -60, V),
    ]
    logits = torch.stack(rows).to(lib.floatX)
    targets = torch.tensor([int(rows[0].argmax()), V // 2, 1, V - 1, V - 1, 0])
    check_all(lib, logits, targets)


def test_infinite(lib):
    """-infinity is a probability of 0; NaN in a row makes that row's loss NaN, and no other."""
    logits = torch.randn(4, 200).to(lib.floatX)
    logits[0, 10:150] = float("-inf")
    check_all(lib, logits, torch.tensor([3, 4, 5, 6]))
    logits[2, 77] = float("nan")
    for _ in lib.each_form():
        forward = losses_of(lib, logits)
        assert bool(torch.isnan(forward[2])) and bool(torch.isfinite(forward[[0, 1, 3]]).all())


def losses_of(lib, logits):
    n, V = logits.shape
    buffer, losses = lib.x(F.pad(logits, (0, padded(V) - V))), lib.empty(n, torch.float32)
    lib.cross_entropy_forward(losses, buffer, lib.device(torch.tensor([3, 4, 5, 6])), n, V, padded(V))
    return losses.get()


@pytest.mark.checked
@pytest.mark.parametrize("shape", [(9, 300), (3, 5003)], ids=str)
def test_weights(lib, shape):
    """Weights of any sign scale the gradients of their rows, and no loss."""
    n, V = shape
    logits, targets = (torch.randn(n, V) * 2).to(lib.floatX), random_targets(n, V)
    weights = torch.randn(n)
    weights[0], targets[0] = 0.0, 5
    weights[targets < 0] = float("nan")  # of an ignored row nothing is used

    def run():
        buffer, losses = lib.x(F.pad(logits, (0, padded(V) - V))), lib.empty(n, torch.float32)
        lib.cross_entropy_backward(losses, buffer, lib.device(targets), lib.device(weights),
                                   lib.device(torch.tensor([0.25])), n, V, padded(V))
        return losses.get(), buffer.get()

    def weighted(dtype):
        x = logits.to(dtype).requires_grad_()
        losses = F.cross_entropy(x, targets, ignore_index=-1, reduction="none")
        (losses * weights.nan_to_num().to(dtype)).sum().mul(0.25).backward()
        return losses.detach(), x.grad

    want_losses, want = weighted(torch.float64)
    theirs = weighted(torch.bfloat16)[1] if lib.precision == "bf16" else None
    for losses, gradient in lib.forms(run):
        check("losses", losses, want_losses)
        check("gradient", gradient[:, :V], want, theirs)
        assert bool((gradient[:, V:] == 0).all()) and bool((gradient[targets < 0] == 0).all())
        assert bool((gradient[0] == 0).all()) and losses[0] > 0
