"""AdamW with stochastic rounding against the same step in fp32 (adamw_update, which test_adamw.py compares with PyTorch)."""

import math

import pytest
import torch

import llmc

HYPER = dict(learning_rate=3e-3, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1)
KINDS = {"moments": (True, True), "both": (True, False), "weights": (False, False)}  # (bf16 moments, master)
LUCK = 1e-10  # of a bound below to fail by chance


def step_at(t):
    return llmc.AdamWStep(**HYPER, bias_correction1=1 - HYPER["beta1"] ** t, bias_correction2=1 - HYPER["beta2"] ** t, max_grad_norm=1.0)


def rounded_step(seed, number):
    step = step_at(3)
    step.rounding_seed, step.rounding_step = seed, number
    return step


class State:
    """params, master, m, v: of a step, on the host, as fp32 that each of the kinds can hold."""

    def __init__(self, n):
        exact = lambda x: x.bfloat16().float()  # noqa: E731
        self.n, self.w, self.m, self.v = n, exact(torch.randn(n)), exact(torch.randn(n) * 1e-2), exact(torch.rand(n) * 1e-3)
        self.grads = torch.randn(n) * 0.03

    def exact(self, lib):
        """The step in fp32."""
        w, m, v, params = (lib.device(x) for x in (self.w, self.m, self.v, torch.zeros(self.n, dtype=lib.floatX)))
        lib.adamw_update(params, w, m, v, lib.device(self.grads), lib.device([1]), lib.device([1.0]), lib.struct(step_at(3)), True, self.n)
        return w.get(), m.get(), v.get()

    def rounded(self, lib, kind, step, first=0, stream=5, part=slice(None), apply=1):
        """(weights, m, v, params) as fp32"""
        bf16_moments, has_master = kind
        moment = torch.bfloat16 if bf16_moments else torch.float32
        take = lambda x, dtype: lib.device(x[part].to(dtype).contiguous(), dtype)  # noqa: E731
        params, m, v = take(self.w, lib.floatX), take(self.m, moment), take(self.v, moment)
        master = take(self.w, torch.float32) if has_master else None
        lib.adamw_rounded_update(params, master, m, v, bf16_moments, take(self.grads, torch.float32), lib.device([apply]), lib.device([1.0]), lib.struct(step),
                                 True, first, stream, len(self.w[part]))  # fmt: skip
        weights = master.get() if has_master else params.get().float()
        return weights, m.get().float(), v.get().float(), params.get().float()


def neighbours(x):
    """(the bf16 numbers below and above, in size)"""
    bits = x.view(torch.int32)
    low = (bits & ~0xFFFF).view(torch.float32)
    return low, torch.where(bits & 0xFFFF == 0, low, ((bits & ~0xFFFF) + 0x10000).view(torch.float32))


def what_is_rounded(lib, kind, exact, found):
    """[(name, exact, found)]"""
    pairs = list(zip("wmv", exact, found))
    return (pairs[1:] if kind[0] else []) + (pairs[:1] if not kind[1] and lib.precision == "bf16" else [])


@pytest.mark.checked
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("n", [4, 8, 12, 1024, 5000])
def test_a_neighbour_of_the_exact_step(lib, n, kind):
    state = State(n)
    exact = state.exact(lib)
    found = lib.same_bits(lambda: state.rounded(lib, kind, rounded_step(11, 3)))
    rounded = what_is_rounded(lib, kind, exact, found)
    for name, wanted, values in rounded:
        low, high = neighbours(wanted)
        assert ((values == low) | (values == high)).all(), name
    names = {name for name, _, _ in rounded}
    for name, wanted, values in zip("wmv", exact, found):
        assert name in names or torch.equal(values, wanted), name
    assert torch.equal(found[3], found[0].to(lib.floatX).float())


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_unbiased(lib, kind):
    """The mean over draws is the exact value. An error, in units of the distance between neighbours, lies in an interval of
    length 1 and has mean 0, so by Hoeffding's inequality the mean of N of them is beyond sqrt(ln(2 / p) / 2 N) with a
    probability below p; a product of two independent ones lies in one of length 2. Rounding to nearest fails, as elements'
    rests are all of one side."""
    state, draws = State(2048), 100
    exact = state.exact(lib)
    errors = {}
    for number in range(draws):
        for name, wanted, values in what_is_rounded(lib, kind, exact, state.rounded(lib, kind, rounded_step(11, number))):
            low, high = neighbours(wanted)
            share = ((wanted - low) / (high - low)).nan_to_num(0)
            kept = (share > 0) & (share < 0.5)  # nearest would round all of these down
            errors.setdefault(name, []).append((((values - low) / (high - low)).nan_to_num(0) - share)[kept])
    sizes = []
    for name, found in errors.items():
        found = torch.stack(found).double()
        sizes.append(found.numel())
        assert found.mean().abs() < math.sqrt(math.log(2 / LUCK) / (2 * found.numel())), name
        # draws of one element are independent of each other, and so are neighbouring elements of one draw
        for other in (found[:-1] * found[1:])[::2], (found[:, :-1] * found[:, 1:])[:, ::2]:
            assert other.mean().abs() < 2 * math.sqrt(math.log(2 / LUCK) / (2 * other.numel())), name
    assert all(size > 40_000 for size in sizes)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_moments_and_weights_are_rounded_independently(lib, kind):
    """Whether each is rounded up, against whether the others are: the mean product of their errors, bounded as above."""
    state, draws = State(2048), 60
    exact = state.exact(lib)
    all_errors = []
    for number in range(draws):
        errors = []
        for _, wanted, values in what_is_rounded(lib, kind, exact, state.rounded(lib, kind, rounded_step(12, number))):
            low, high = neighbours(wanted)
            errors.append(((values - wanted) / (high - low)).nan_to_num(0).double())
        all_errors.append(errors)
    for a in range(len(all_errors[0])):
        for b in range(a):
            products = torch.stack([errors[a] * errors[b] for errors in all_errors])
            assert products.mean().abs() < 2 * math.sqrt(math.log(2 / LUCK) / (2 * products.numel()))


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_any_division_gives_the_same_bits(lib, kind):
    state = State(1024)
    whole = state.rounded(lib, kind, rounded_step(11, 3))
    for cut in (8, 128, 776):
        parts = [state.rounded(lib, kind, rounded_step(11, 3), first, part=slice(first, end)) for first, end in ((0, cut), (cut, 1024))]
        for all_of_it, first, second in zip(whole, *parts):
            assert torch.equal(all_of_it, torch.cat([first, second]))


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_what_draws_depend_on(lib, kind):
    state = State(1024)
    first = state.rounded(lib, kind, rounded_step(11, 3))
    changed = {
        "seed": state.rounded(lib, kind, rounded_step(11 + (1 << 40), 3)), "step": state.rounded(lib, kind, rounded_step(11, 4)),
        "stream": state.rounded(lib, kind, rounded_step(11, 3), stream=6), "first": state.rounded(lib, kind, rounded_step(11, 3), first=8),
    }  # fmt: skip
    rounded = [i for i, name in enumerate("wmv") if name in {n for n, _, _ in what_is_rounded(lib, kind, first, first)}]
    for name, other in changed.items():
        assert all(not torch.equal(first[i], other[i]) for i in rounded), name


def test_small_changes_add_up(lib):
    """A weight in bf16 moves by a hundredth of its last bit in each of a hundred steps: rounded to nearest it would stay for ever.
    Hoeffding's bound of the sum of all steps of all elements, whose errors have mean 0 whatever came before."""
    if lib.precision != "bf16":
        pytest.skip("fp32 weights are not rounded")
    n, steps, rate = 65536, 100, 2.0**-7 / 100  # between 1 and 2 neighbours are 2^-7 apart
    params, m, v = lib.device(torch.full((n,), 1.5, dtype=lib.floatX), lib.floatX), lib.zeros(n), lib.zeros(n)
    for t in range(1, steps + 1):
        step = llmc.AdamWStep(**(HYPER | dict(learning_rate=rate, weight_decay=0.0)), bias_correction1=1 - HYPER["beta1"] ** t,
                              bias_correction2=1 - HYPER["beta2"] ** t, max_grad_norm=0.0, rounding_step=t, rounding_seed=5)  # fmt: skip
        lib.adamw_rounded_update(params, None, m, v, False, lib.device(torch.full((n,), -1.0)), lib.device([1]), lib.device([1.0]), lib.struct(step),
                                 False, 0, 1, n)  # fmt: skip
    moved = params.get().double().mean() - 1.5
    luck = 2.0**-7 * math.sqrt(steps * math.log(2 / LUCK) / (2 * n))
    assert abs(moved - steps * rate) < luck and moved > 0, (moved, steps * rate, luck)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_without_the_gate_nothing_changes(lib, kind):
    state = State(1030)
    weights, m, v, params = state.rounded(lib, kind, rounded_step(1, 1), apply=0)
    assert torch.equal(weights, state.w) and torch.equal(m, state.m) and torch.equal(v, state.v) and torch.equal(params, state.w)
