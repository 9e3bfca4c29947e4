"""Kernels at the edges of the functions that --use_fast_math changes. In a build with sanitizers, and on a GPU, these have
their errors; see docs/kernels.md, "Fast math"."""

import math

import pytest
import torch
import torch.nn.functional as F

import compare
import llmc

# (seed, stream, counter, which of its two uniforms) where the uniform is 1, next to 1, or the least there is
UNIFORMS = [(2, 34, 417, 1), (2, 238, 552, 1), (3, 807, 1005, 0), (2, 1937, 513, 0), (3, 2800, 962, 0), (3, 3979, 96, 0),
            (2, 5734, 100, 1), (2, 851, 88, 1), (2, 2894, 672, 0), (3, 6112, 81, 1), (1, 2762, 920, 0), (1, 2631, 984, 1)]  # fmt: skip
HUGE = 3e38


@pytest.mark.checked
@pytest.mark.parametrize("seed, stream, counter, pair", UNIFORMS)
def test_normal_of_a_uniform_at_the_edge(lib, seed, stream, counter, pair):
    n = 4 * (counter + 1)
    for modelled in range(1, 9):
        lib.set_fast_math(modelled)
        master = lib.empty(n, torch.float32)
        lib.weights_init_normal(lib.empty(n), master, 0, n, n, 1.0, seed, stream)
        values = master.get()
        edge = values[4 * counter + 2 * pair : 4 * counter + 2 * pair + 2].norm().item()
        assert bool(torch.isfinite(values).all())
        assert edge < 2e-3 or abs(edge - math.sqrt(2 * 24 * math.log(2))) < 1e-4, edge


@pytest.mark.checked
def test_swiglu_of_any_gate(lib):
    """e^-x overflows, is between 2^126 and 2^128, where a quotient becomes 0, or vanishes beside 1; gates that are denormal."""
    gate = torch.cat([torch.linspace(-130, 130, 1021), torch.tensor([HUGE, -1e25, 1e-39])])
    gate = gate.to(lib.floatX)
    up, dout = torch.randn(1024).to(lib.floatX), torch.randn(1024).to(lib.floatX)
    gate_up = torch.cat([gate, up])[None]
    out, dgate_up = lib.empty((1, 1024)), lib.empty((1, 2048))
    lib.swiglu_forward(out, lib.x(gate_up), 1, 1024)
    lib.swiglu_backward(dgate_up, lib.x(dout[None]), lib.x(gate_up), 1, 1024)
    exact = gate_up.double().requires_grad_()
    want = F.silu(exact[:, :1024]) * exact[:, 1024:]
    want.backward(dout[None].double())
    unit = 2.0**-8 if lib.precision == "bf16" else 1e-5
    for ours, reference in ((out.get(), want.detach()), (dgate_up.get(), exact.grad)):
        beyond = reference.abs() > HUGE / 100  # whether these overflow is the rounding's affair
        assert bool((((ours.double() - reference).abs() <= unit * reference.abs() + 1e-6) | beyond).all())


@pytest.mark.checked
@pytest.mark.parametrize("spread", [0.0, 1e-3, 90.0, 1e4, 1e30, HUGE])
@pytest.mark.parametrize("V", [100, 5000])
def test_classifier_of_any_spread(lib, V, spread):
    """From all logits alike to one that is larger by more than e^x can say; targets at the top (a loss near 0) and below."""
    n, VP = 6, (V + 127) // 128 * 128
    logits = torch.full((n, VP), float("nan"))
    logits[:, :V] = -spread * torch.rand(n, V)
    logits[:, 7] = 0.0
    logits = logits.to(lib.floatX)
    targets = torch.tensor([7, 7, 7, 1, 2, 3])
    losses, on_device = lib.empty(n, torch.float32), lib.x(logits)
    lib.cross_entropy_backward(losses, on_device, lib.device(targets), None, lib.device([0.5]), n, V, VP)
    exact = logits[:, :V].double().requires_grad_()
    want = F.cross_entropy(exact, targets, reduction="none")
    (0.5 * want.sum()).backward()
    assert bool(((losses.get().double() - want).abs() <= 1e-6 + 1e-6 * want).all())
    unit = 2.0**-8 if lib.precision == "bf16" else 1e-5
    assert bool(((on_device.get()[:, :V].double() - exact.grad).abs() <= unit * exact.grad.abs() + 1e-6).all())


@pytest.mark.checked
@pytest.mark.parametrize("size", [0.0, 1e-22, 1e-12, 1.0, 1e9])
def test_rmsnorm_of_any_size(lib, size):
    """Squares that are denormal, or nothing: eps alone remains."""
    x, weight = (torch.randn(3, 64) * size).to(lib.floatX), torch.randn(64).to(lib.floatX)
    out, rstd = lib.empty((3, 64)), lib.empty(3, torch.float32)
    lib.rmsnorm_forward(out, rstd, lib.x(x), lib.x(weight), 3, 64, 1e-5)
    want = F.rms_norm(x.double(), (64,), weight.double(), 1e-5)
    unit = 2.0**-8 if lib.precision == "bf16" else 1e-5
    assert bool(((out.get().double() - want).abs() <= unit * want.abs()).all())


@pytest.mark.checked
@pytest.mark.parametrize("grad, norm", [(0.0, 0.0), (1e-25, 1e-20), (1e-17, 1.0), (1e17, 1e18), (1e10, 2.0**127), (3e18, 3e19)])
def test_adamw_of_any_gradient(lib, grad, norm):
    """v is denormal or near the largest number; the norm beyond 2^126, where clipping's quotient becomes 0."""
    n = 1032
    start, grads = torch.randn(n), grad * torch.randn(n)
    grads[::3] = 0.0
    step = llmc.AdamWStep(3e-3, 0.9, 0.95, 1e-8, 0.1, 1 - 0.9, 1 - 0.95, 1.0)
    params, master, m, v = lib.empty(n), lib.device(start), lib.zeros(n), lib.zeros(n)
    lib.adamw_update(
        params, master, m, v, lib.device(grads), lib.device([1]), lib.device([norm]), lib.struct(step), True, n)  # fmt: skip
    for state in (params, master, m, v):
        assert bool(torch.isfinite(state.get()).all())
    assert bool(((master.get().double() - start * (1 - 3e-4)).abs() <= 3e-3 * 1.001 + 1e-6).all())  # Adam's step is at most lr


@pytest.mark.checked
@pytest.mark.parametrize("scale", [1e-22, 1.0, 30.0, 1e4])
def test_attention_of_any_score(lib, scale):
    """Scores from denormal to far apart: a maximum that moves, probabilities that vanish, keys that nobody weighs."""
    B, T, NH, NKV, HD = 1, 40, 2, 1, 32
    qkv = torch.randn(B, T, (NH + 2 * NKV) * HD)
    qkv[..., : NH * HD] *= scale
    qkv = qkv.to(lib.floatX)
    shape, mask = llmc.AttentionShape(B, T, NH, NKV, HD), llmc.AttentionMask(lib.zeros((B, T), torch.int32))
    out, lse, dqkv = lib.empty((B, T, NH * HD)), lib.empty((B, NH, T), torch.float32), lib.empty(qkv.shape)
    scratch = lib.empty(lib.attention_backward_scratch(shape), torch.float32)
    lib.attention_forward(out, lse, lib.x(qkv), mask, shape)
    dout = lib.x(torch.randn(B, T, NH * HD))
    lib.attention_backward(dqkv, scratch, dout, out, lib.x(qkv), lse, mask, shape)
    q, k, v = qkv.double().view(B, T, -1, HD).transpose(1, 2).split([NH, NKV, NKV], dim=1)
    want = F.scaled_dot_product_attention(q, k.repeat_interleave(NH, 1), v.repeat_interleave(NH, 1), is_causal=True)
    assert bool(torch.isfinite(dqkv.get()).all()) and bool(torch.isfinite(lse.get()).all())
    # scores as large as 1e5 are sums of fp32, which are off by more than the softmax allows
    limit = max(1e-2 if lib.precision == "bf16" else 1e-5, 1e-6 * scale)
    assert compare.relative_error(out.get(), want.transpose(1, 2).reshape(B, T, -1)) <= limit
