"""Log-probabilities and the most probable tokens against PyTorch."""

import math

import numpy
import pytest
import torch

import llmc


def logprobs(logits, token, tops):
    lib = llmc.load(next(iter(llmc.build_folders())))
    ids, values = numpy.full(20, -1, numpy.int32), numpy.full(20, 7, numpy.float32)
    own = lib.logprobs_of(logits, len(logits), token, tops, ids, values)
    assert (ids[tops:] == -1).all() and (values[tops:] == 7).all(), "written behind what was asked for"
    return own, ids[:tops].tolist(), values[:tops].tolist()


@pytest.mark.checked
@pytest.mark.parametrize("spread", [0.1, 3, 60])
def test_against_pytorch(spread):
    logits = torch.randn(1000) * spread
    expected = logits.double().log_softmax(-1)
    for tops in (0, 1, 5, 20):
        own, ids, values = logprobs(logits, 123, tops)
        assert own == pytest.approx(expected[123].item(), rel=1e-6, abs=1e-6)
        best = expected.topk(tops)
        assert ids == best.indices.tolist()
        assert values == pytest.approx(best.values.tolist(), rel=1e-6, abs=1e-6)
        own, ids, values = logprobs(logits, int(expected.argmax()), tops)
        assert not tops or values[0] == own, "the same number in both places"


def test_equal_logits_rank_by_id():
    logits = torch.tensor([1.0, 3.0, 2.0, 3.0, 2.0, 3.0])
    assert logprobs(logits, 0, 5)[1] == [1, 3, 5, 2, 4]


def test_not_numbers():
    logits = torch.tensor([math.nan, 0.0, -math.inf, 0.0])
    own, ids, values = logprobs(logits, 0, 4)
    assert own == -math.inf and ids == [1, 3, 0, 2]
    assert values == pytest.approx([-math.log(2), -math.log(2), -math.inf, -math.inf])
