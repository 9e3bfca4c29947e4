"""The rule that says whether a kernel's result is right. The reference is computed in float64 from the same inputs that the
kernel had (already rounded to floatX), so that only the kernel's own error is measured.

  bf16: the error is at most 1.5 times that of PyTorch's own bf16 operator on the same input, and small in itself.
  fp32: relative L2 error at most 1e-5; of results with few elements, that of ten draws or more taken together where one
  draw exceeds it: terms that cancel can leave a single number next to nothing, whose relative error says nothing.

A single draw of inputs does not determine the ratio of the two errors: where a few roundings outweigh all others (one steep
softmax in a small model is enough), chance decides which side made the larger ones. So a test in which some bf16 result
is not clearly within the limit is repeated with new inputs (see judged), and the rule is applied to the root mean
squares of all draws, including the first. A fault that shows in every draw is still found, and so is a gross one in a
single draw.
"""

import collections
import functools

import torch

FP32_LIMIT = 1e-5
BF16_FACTOR = 1.5
BF16_LIMIT = 2e-2  # a result that is wrong somewhere exceeds this, whatever PyTorch's error is
# Of few elements (a loss is one) PyTorch's error can be next to nothing by luck, and 1.5 times that says nothing about
# ours. There an error up to one correct rounding, half a unit in the last place of bf16, is allowed. Tensors get no such room.
FEW_ELEMENTS = 16
BF16_ROUNDING = 2.0**-9
CLEARLY = 0.8  # of the limit: one draw is enough
DRAWS = 10
FEW_DRAWS = 40  # where a result has few elements: of ten numbers each, one root mean square is 1.5 times the other by chance too often


def relative_error(value, reference):
    value, reference = value.double(), reference.double()
    norm = reference.norm().item()
    return (value - reference).norm().item() / (norm if norm > 0 else 1.0)


def root_mean_square(values):
    return (sum(v * v for v in values) / len(values)) ** 0.5


class Bf16Result:
    """One result of a test, in each draw of its inputs."""

    def __init__(self, name, few, small):
        self.name, self.few, self.room, self.small = name, few, BF16_ROUNDING if few else 0.0, small
        self.ours, self.theirs = [], []

    def errors(self):
        """(ours, PyTorch's, the limit of ours)"""
        ours, theirs = root_mean_square(self.ours), root_mean_square(self.theirs)
        return ours, theirs, min(max(BF16_FACTOR * theirs, self.room), self.small)

    def is_clear(self):
        ours, _, limit = self.errors()
        return ours <= CLEARLY * limit

    def judge(self):
        ours, theirs, limit = self.errors()
        draws = f" (root mean square of {len(self.ours)} draws)" if len(self.ours) > 1 else ""
        assert ours <= limit, f"{self.name}: relative error {ours:.3g}, PyTorch's {theirs:.3g}, limit {limit:.3g}{draws}"


class FewFp32Result:
    """One fp32 result of few elements, in each draw of its inputs."""

    few = True

    def __init__(self, name):
        self.name, self.errors, self.norms = name, [], []

    def error(self):
        return root_mean_square(self.errors) / (root_mean_square(self.norms) or 1.0)

    def is_clear(self):
        return self.error() <= FP32_LIMIT

    def judge(self):
        error = self.error()
        assert error <= FP32_LIMIT, f"{self.name}: relative error {error:.3g} of {len(self.errors)} draws, limit {FP32_LIMIT}"


class Draw:
    """One run of a test. results: {(name, how many of that name came before): its result in all runs}"""

    running = []  # the innermost last

    def __init__(self, results):
        self.results, self.seen = results, collections.Counter()

    def __enter__(self):
        Draw.running.append(self)

    def __exit__(self, *_):
        Draw.running.pop()

    def result(self, kind, name, *arguments):
        key = name, self.seen[name]
        self.seen[name] += 1
        if key not in self.results:
            self.results[key] = kind(name, *arguments)
        return self.results[key]


def judged(test):
    """The test, with the bf16 results and those of few elements that it checks judged at its end, over DRAWS (FEW_DRAWS)
    draws where one is not enough. It has to draw its inputs anew each time it is called. conftest.py does this to all tests."""

    @functools.wraps(test)
    def run(*arguments, **named):
        results = {}
        for draws in range(1, FEW_DRAWS + 1):
            with Draw(results):
                test(*arguments, **named)
            unclear = [r for r in results.values() if not r.is_clear()]
            if not unclear:
                return
            if draws >= DRAWS and not any(r.few for r in unclear):
                break
        for result in results.values():
            result.judge()

    return run


def check(name, ours, reference, torch_bf16=None, small=BF16_LIMIT):
    """ours against the float64 reference; torch_bf16: the result of PyTorch's bf16 operator, given iff ours is judged by
    the bf16 rule, with `small` for "small in itself"."""
    assert ours.shape == reference.shape, f"{name}: shape {tuple(ours.shape)}, expected {tuple(reference.shape)}"
    assert bool(torch.isfinite(ours).all()), f"{name}: not finite"
    few = reference.numel() < FEW_ELEMENTS
    assert Draw.running or not few and torch_bf16 is None, "judged over several draws, within compare.judged"
    error = relative_error(ours, reference)
    if torch_bf16 is not None:
        result = Draw.running[-1].result(Bf16Result, name, few, small)
        result.ours.append(error)
        result.theirs.append(relative_error(torch_bf16, reference))
    elif few:
        result = Draw.running[-1].result(FewFp32Result, name)
        result.errors.append((ours.double() - reference.double()).norm().item())
        result.norms.append(reference.double().norm().item())
    else:
        assert error <= FP32_LIMIT, f"{name}: relative error {error:.3g}, limit {FP32_LIMIT}"
