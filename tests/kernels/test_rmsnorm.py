"""RMSNorm, alone and with the residual added, against PyTorch in float64 and its operator in bf16."""

import pytest
import torch
import torch.nn.functional as F

import compare

EPS = 1e-5
# each way a row is laid out over threads (a warp with 8, 4 or 2 rows; a block of up to 512 threads, or more), full and ragged;
# N not a multiple of the rows a warp takes, and more rows than the backward pass has groups. Of dweight, which the backward pass
# adds up in segments of 32 groups: one segment, whole ones, part of one at last, and as many groups as there can be
SHAPES = [(1, 16), (5, 48), (67, 256), (3, 272), (37, 512), (9, 784), (33, 1024), (4, 1040), (3, 4112), (2, 16384)]
SHAPES += [(3, 16400)]
WIDE = [(3, 2048), (2, 4096), (2, 8192), (2, 32768)]  # of 1B, 8B and 70B, and the widest

LARGE = WIDE + [(2048, 256), (1100, 64), (1100, 1040), (17000, 1040), (300, 4096), (600, 4112), (20, 16384)]


def draw(lib, N, C):
    """Rows of unlike sizes, one of them near zero, where eps matters."""
    x = torch.randn(N, C) * torch.rand(N, 1) * 4
    x[N // 2] *= 1e-3
    return x.to(lib.floatX), torch.randn(C).to(lib.floatX)


def rstd_of(x):
    return (x.double().pow(2).mean(-1) + EPS).rsqrt()


def torch_backward(x, weight, dout, dresidual):
    x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
    F.rms_norm(x, x.shape[-1:], weight, EPS).backward(dout)
    dx = x.grad if dresidual is None else x.grad + dresidual
    return dx, weight.grad


def bf16_only(lib, value):
    return value if lib.precision == "bf16" else None


@pytest.mark.checked
@pytest.mark.parametrize("N, C", SHAPES)
def test_forward(lib, N, C):
    check_forward(lib, N, C)


@pytest.mark.parametrize("N, C", LARGE)
def test_forward_large(lib, N, C):
    check_forward(lib, N, C)


def check_forward(lib, N, C):
    x, weight = draw(lib, N, C)

    def run():
        out, rstd = lib.empty((N, C)), lib.empty(N, torch.float32)
        lib.rmsnorm_forward(out, rstd, lib.x(x), lib.x(weight), N, C, EPS)
        return out.get(), rstd.get()

    reference, theirs = F.rms_norm(x.double(), (C,), weight.double(), EPS), F.rms_norm(x, (C,), weight, EPS)
    for out, rstd in lib.forms(run):
        compare.check("out", out, reference, bf16_only(lib, theirs))
        compare.check("rstd", rstd, rstd_of(x))


@pytest.mark.checked
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("N, C", SHAPES)
def test_add_forward(lib, N, C, in_place):
    residual, weight = draw(lib, N, C)
    delta = torch.randn(N, C).to(lib.floatX)
    total = residual + delta  # rounded to floatX

    def run():
        before = lib.x(residual)
        after = before if in_place else lib.empty((N, C))
        out, rstd = lib.empty((N, C)), lib.empty(N, torch.float32)
        lib.add_rmsnorm_forward(after, out, rstd, before, lib.x(delta), lib.x(weight), N, C, EPS)
        return after.get(), out.get(), rstd.get()

    reference, theirs = F.rms_norm(total.double(), (C,), weight.double(), EPS), F.rms_norm(total, (C,), weight, EPS)
    for after, out, rstd in lib.forms(run):
        assert torch.equal(after, total)
        compare.check("out", out, reference, bf16_only(lib, theirs))
        compare.check("rstd", rstd, rstd_of(total))


@pytest.mark.checked
@pytest.mark.parametrize("residual", ["none", "apart", "in place"])
@pytest.mark.parametrize("N, C", SHAPES)
def test_backward(lib, N, C, residual):
    check_backward(lib, N, C, residual, accumulate=residual != "apart")


@pytest.mark.parametrize("N, C", LARGE)
def test_backward_large(lib, N, C):
    check_backward(lib, N, C, "apart", accumulate=False)


def check_backward(lib, N, C, residual, accumulate):
    x, weight = draw(lib, N, C)
    dout = torch.randn(N, C).to(lib.floatX)
    dresidual = None if residual == "none" else torch.randn(N, C).to(lib.floatX)
    start = torch.randn(C)

    def run():
        past = None if residual == "none" else lib.x(dresidual)
        dx = past if residual == "in place" else lib.empty((N, C))
        dweight = lib.device(start) if accumulate else lib.empty(C, torch.float32)
        scratch = lib.empty(lib.rmsnorm_backward_scratch(C), torch.float32)
        rstd = lib.device(rstd_of(x).float())
        lib.rmsnorm_backward(dx, dweight, scratch, lib.x(dout), past, lib.x(x), lib.x(weight), rstd, accumulate, N, C)
        scratch.get()  # checks its guards
        return dx.get(), dweight.get()

    dx64, dweight64 = torch_backward(*(None if t is None else t.double() for t in (x, weight, dout, dresidual)))
    theirs, _ = torch_backward(x, weight, dout, dresidual)
    for dx, dweight in lib.forms(run):
        compare.check("dx", dx, dx64, bf16_only(lib, theirs))
        compare.check("dweight", dweight, dweight64 + (start.double() if accumulate else 0))  # fp32 in both builds
