"""AdamW against torch.optim.AdamW after torch.nn.utils.clip_grad_norm_, in float64."""

import pytest
import torch

import compare
import llmc

HYPER = dict(learning_rate=3e-3, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1)
SIZES = [4, 8, 1020, 1024, 1028, 5004, 300_004]


def step_at(t, max_grad_norm=1.0, beta2=HYPER["beta2"]):
    return llmc.AdamWStep(
        **(HYPER | {"beta2": beta2}),
        bias_correction1=1 - HYPER["beta1"] ** t,
        bias_correction2=1 - beta2**t,
        max_grad_norm=max_grad_norm,
    )


class Ours:
    """The state on the device."""

    def __init__(self, lib, start):
        self.lib, self.n = lib, start.numel()
        self.master = lib.device(start)
        self.m, self.v = lib.zeros(self.n), lib.zeros(self.n)
        self.params = lib.empty(self.n)

    def update(self, grads, norm, step, decay, apply=True):
        self.lib.adamw_update(
            self.params, self.master, self.m, self.v, self.lib.device(grads), self.lib.device([int(apply)]),
            self.lib.device([norm]), self.lib.struct(step), decay, self.n,
        )  # fmt: skip

    def get(self):
        return self.params.get(), self.master.get(), self.m.get(), self.v.get()


def torch_steps(start, all_grads, max_grad_norm, decay, beta2):
    weight = torch.nn.Parameter(start.double())
    optimizer = torch.optim.AdamW(
        [weight], lr=HYPER["learning_rate"], betas=(HYPER["beta1"], beta2), eps=HYPER["eps"],
        weight_decay=HYPER["weight_decay"] if decay else 0.0,
    )  # fmt: skip
    for grads in all_grads:
        weight.grad = grads.double()
        if max_grad_norm:
            torch.nn.utils.clip_grad_norm_([weight], max_grad_norm)
        optimizer.step()
    state = optimizer.state[weight]
    return weight.detach(), state["exp_avg"], state["exp_avg_sq"]


@pytest.mark.checked
@pytest.mark.parametrize("decay", [False, True])
@pytest.mark.parametrize("max_grad_norm", [0.0, 1.0])
@pytest.mark.parametrize("n", SIZES)
def test_steps(lib, n, max_grad_norm, decay):
    """Three steps with gradients above and below the clipping threshold. An element's sign is the same in all steps:
    else the m of one element can cancel, and then no fp32 sum of three terms is right to 1e-5 of what is left."""
    check_steps(lib, n, max_grad_norm, decay, HYPER["beta2"])


@pytest.mark.parametrize("beta2", [0.99, 0.999])
def test_beta2_near_one(lib, beta2):
    """1 - beta2 must not be what is left of a beta2 rounded to fp32."""
    check_steps(lib, 5004, 1.0, True, beta2)


def check_steps(lib, n, max_grad_norm, decay, beta2):
    start, direction = torch.randn(n), torch.randn(n)
    all_grads = [direction * (0.5 + torch.rand(n)) * size / n**0.5 for size in (5.0, 0.3, 20.0)]

    def run():
        ours = Ours(lib, start)
        for t, grads in enumerate(all_grads, 1):
            ours.update(grads, grads.double().norm().float().item(), step_at(t, max_grad_norm, beta2), decay)
        return ours.get()

    params, master, m, v = lib.same_bits(run)
    weight64, m64, v64 = torch_steps(start, all_grads, max_grad_norm, decay, beta2)
    compare.check("m", m, m64)
    compare.check("v", v, v64)
    compare.check("master", master, weight64)
    # the change, too: a wrong step of size 1e-3 would pass beside weights of size 1. The weights' own rounding stays.
    rounding = 4 * 2.0**-24 * start.abs().max()
    assert ((master.double() - start) - (weight64 - start)).abs().max() <= rounding + 1e-5 * (weight64 - start).abs().max()
    assert torch.equal(params, master.to(lib.floatX))


@pytest.mark.parametrize("norm", [1.0, float("nan")])
def test_without_the_gate_nothing_changes(lib, norm):
    n = 1032
    ours = Ours(lib, torch.randn(n))
    before = ours.get()
    ours.update(torch.ones(n), norm, step_at(1), True, apply=False)
    for was, now in zip(before, ours.get()):
        assert torch.equal(was.view(torch.uint8), now.view(torch.uint8))
