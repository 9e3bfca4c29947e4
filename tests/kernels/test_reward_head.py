"""Scores of answers and their gradients against float64."""

import pytest
import torch

from compare import check

# rows, width, answers
SHAPES = [(40, 64, 3), (9, 16, 2), (300, 1040, 17), (700, 4096, 2), (1500, 48, 290)]


class Case:
    def __init__(self, lib, N, C, answers):
        self.N, self.C, self.answers, self.capacity = N, C, answers, answers + 3
        self.x = torch.randn(N, C).to(lib.floatX)
        self.w = torch.randn(C).to(lib.floatX)
        last = torch.randperm(N)[:answers]
        first = (last - torch.randint(0, 5, (answers,))).clamp(min=0)
        self.last = last
        # what lies behind the answers points outside
        self.spans = torch.full((self.capacity, 2), 1 << 30)
        self.spans[:answers] = torch.stack([first, last], 1)
        self.dscores = torch.full((self.capacity,), float("nan"))
        self.dscores[:answers] = torch.randn(answers)
        self.dloss, self.before = 0.37, torch.randn(C)

    def run(self, lib, accumulate=True):
        """scores, dx, dw"""
        x, w, spans = lib.x(self.x), lib.x(self.w), lib.device(self.spans)
        counters, dscores = lib.device([self.answers, 1]), lib.device(self.dscores)
        scores = lib.empty(self.capacity, torch.float32)
        lib.reward_scores(scores, x, w, spans, counters, self.capacity, self.C)
        dx = lib.empty((self.N, self.C))
        dw = lib.device(self.before) if accumulate else lib.empty(self.C, torch.float32)
        lib.reward_backward(dx, dw, dscores, lib.device(torch.tensor([self.dloss])), x, w, spans, counters, accumulate,
                            self.N, self.C, self.capacity)
        return scores.get(), dx.get(), dw.get()

    def expected(self, dtype):
        x, w = self.x.to(dtype).requires_grad_(), self.w.to(dtype).requires_grad_()
        scores = x[self.last] @ w
        (scores * (self.dscores[: self.answers] * self.dloss).to(dtype)).sum().backward()
        return scores.detach(), x.grad, w.grad


@pytest.mark.checked
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_reward_head(lib, shape):
    case = Case(lib, *shape)
    want_scores, want_dx, want_dw = case.expected(torch.float64)
    theirs = case.expected(torch.bfloat16)[1] if lib.precision == "bf16" else None
    others = torch.ones(case.N, dtype=torch.bool)
    others[case.last] = False
    for scores, dx, dw in lib.forms(lambda: case.run(lib)):
        check("scores", scores[: case.answers], want_scores)  # fp32 from exact products, in both builds
        assert bool(torch.isnan(scores[case.answers :]).all())
        check("dx", dx, want_dx, theirs)
        assert bool((dx[others] == 0).all())
        check("dw", dw, want_dw + case.before)
    for _, _, dw in lib.forms(lambda: case.run(lib, accumulate=False)):
        check("dw", dw, want_dw)


@pytest.mark.checked
def test_no_answers(lib):
    case = Case(lib, 20, 16, 0)
    for _ in lib.each_form():
        scores, dx, dw = case.run(lib)
        assert bool(torch.isnan(scores).all()) and bool((dx == 0).all()) and torch.equal(dw, case.before)
        assert bool((case.run(lib, accumulate=False)[2] == 0).all())
