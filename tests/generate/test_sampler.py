"""Drawing tokens: the kept set of temperature, top-k and top-p against a plain implementation, the distribution of draws
by a chi-square test, and determinism."""

import ctypes
import math

import numpy
import pytest

import llmc
from model import Error
from seeds import seed_of


class Options(ctypes.Structure):
    """llmc/generate/sampler.h"""

    _fields_ = [("temperature", ctypes.c_double), ("top_k", ctypes.c_int), ("top_p", ctypes.c_double)]


class Sampler:
    def __init__(self, vocab_size):
        self.lib, self.vocab_size = llmc.load(next(iter(llmc.build_folders()))), vocab_size
        self.handle = ctypes.c_void_p()
        assert self.lib.sampler_create(ctypes.byref(self.handle), vocab_size, None) == 0

    def __del__(self):
        self.lib.sampler_destroy(self.handle)

    def kept(self, logits, *options):
        """{id: probability}, in the sampler's order."""
        ids, probabilities = numpy.full(self.vocab_size, -1, numpy.int32), numpy.full(self.vocab_size, math.nan)
        count = self.lib.sampler_kept(self.handle, logits, ctypes.byref(Options(*options)), ids, probabilities)
        return dict(zip(ids[:count].tolist(), probabilities[:count].tolist()))

    def draw(self, logits, options, seed, count):
        state = ctypes.c_uint64(seed)
        return [self.lib.sampler_draw(self.handle, logits, ctypes.byref(Options(*options)), ctypes.byref(state))
                for _ in range(count)]


def plainly(logits, temperature, top_k, top_p):
    """{id: probability} as the header says it, sorted by rank."""
    numbers = [i for i in range(len(logits)) if not math.isnan(logits[i])]
    ranked = sorted(numbers, key=lambda i: (-logits[i], i))
    if temperature == 0:
        return {ranked[0]: 1.0}
    if top_k:
        ranked = ranked[:top_k]
    weights = [math.exp((float(logits[i]) - float(logits[ranked[0]])) / temperature) for i in ranked]
    kept, total = [], sum(weights)
    for i, weight in zip(ranked, weights):
        kept.append((i, weight))
        if top_p < 1 and math.fsum(w for _, w in kept) >= top_p * total:
            break
    total = math.fsum(w for _, w in kept)
    return {i: w / total for i, w in kept}


def random_logits(count, ties):
    logits = numpy.random.default_rng(numpy.random.randint(2**31)).normal(0, 2.5, count).astype(numpy.float32)
    return numpy.round(logits) if ties else logits


@pytest.mark.parametrize("ties", [False, True], ids=["", "ties"])
@pytest.mark.parametrize("options", [(1, 0, 1), (0, 0, 1), (0.7, 5, 1), (1.3, 0, 0.9), (1, 40, 0.5), (2, 1000, 0.99),
                                     (1, 1, 1), (1, 0, 1e-9), (0.05, 0, 0.999)], ids=str)
@pytest.mark.parametrize("count", [1, 7, 300, 5000])
def test_kept_set(count, options, ties, request):
    numpy.random.seed(llmc_seed(request))
    sampler = Sampler(count)
    for _ in range(5):
        logits = random_logits(count, ties)
        got, want = sampler.kept(logits, *options), plainly(logits, *options)
        assert sorted(got) == sorted(want)
        assert all(abs(got[i] - want[i]) <= 1e-12 + 1e-9 * want[i] for i in want)
        if options[1] and options[1] < count or options[2] < 1:
            assert list(got) == list(want)  # by rank


@pytest.mark.parametrize("count", [1, 2, 4, 16, 1024])
def test_the_sum_may_meet_top_p_exactly(count):
    """Of equal logits each has the same weight, 1, and sums of these are exact: as many stay as reach the share, not one more."""
    import torch
    from transformers import TopPLogitsWarper

    sampler, logits = Sampler(count + 3), numpy.full(count + 3, -math.inf, numpy.float32)
    places = numpy.sort(numpy.random.default_rng(5).permutation(count + 3)[:count])
    logits[places] = 1.5
    for kept in sorted({1, count // 4, count // 2, count - 1} - {0, count}):
        share = kept / count
        for top_p, wanted in ((share, kept), (math.nextafter(share, 0), kept), (math.nextafter(share, 1), kept + 1)):
            for top_k in (0, count, count + 1):
                assert list(sampler.kept(logits, 1.0, top_k, top_p)) == places[:wanted].tolist(), (kept, top_p, top_k)
        theirs = TopPLogitsWarper(share)(None, torch.tensor(logits, dtype=torch.float64)[None])
        assert torch.isfinite(theirs).sum() == kept
    assert len(sampler.kept(logits, 1.0, 0, 1)) == count + 3 and len(sampler.kept(logits, 1.0, 0, math.nextafter(1, 0))) == count


def test_top_k_cuts_ties_by_id():
    """At the edge, at the top, among all, and before top-p looks at what is left."""
    sampler, logits = Sampler(6), numpy.array([1, 3, 2, 3, 2, 2], numpy.float32)
    for top_k, wanted in ((1, [1]), (2, [1, 3]), (3, [1, 3, 2]), (4, [1, 3, 2, 4]), (5, [1, 3, 2, 4, 5]), (6, [0, 1, 2, 3, 4, 5])):
        assert list(sampler.kept(logits, 1.0, top_k, 1)) == wanted
    assert list(sampler.kept(numpy.ones(6, numpy.float32), 1.0, 4, 0.5)) == [0, 1]  # half of four, not of six
    assert sampler.kept(logits, 0.0, 0, 1) == sampler.kept(logits, 0.0, 4, 0.5) == {1: 1.0}
    assert set(sampler.draw(logits, (0.0, 0, 1.0), 3, 50)) == {1}


def llmc_seed(request):
    return seed_of(request.node.name) % 2**32


def test_transformers_keeps_the_same(request):
    """Without ties the kept sets are those of transformers' own cuts, in its order."""
    import torch
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    numpy.random.seed(llmc_seed(request))
    for _ in range(20):
        logits = random_logits(500, False)
        scores = torch.tensor(logits)[None]
        for warp in (TemperatureLogitsWarper(0.8), TopKLogitsWarper(60), TopPLogitsWarper(0.85)):
            scores = warp(None, scores)
        want = scores[0].double().softmax(0)
        got = Sampler(500).kept(logits, 0.8, 60, 0.85)
        assert sorted(got) == want.nonzero().flatten().tolist()
        assert all(abs(got[i] - want[i].item()) < 1e-6 for i in got)


@pytest.mark.parametrize("options", [(1, 0, 1), (0.8, 12, 1), (1.2, 0, 0.8)], ids=str)
def test_distribution(options, request):
    """Chi-square of 20000 draws over the kept set. Fails by chance once in a million runs."""
    numpy.random.seed(llmc_seed(request))
    draws, sampler, kept = 20000, Sampler(30), {}
    while len(kept) < 5:  # one likely token may be all that top-p keeps
        logits = random_logits(30, False)
        kept = sampler.kept(logits, *options)
    found = sampler.draw(logits, options, seed=llmc_seed(request), count=draws)
    assert set(found) <= set(kept)
    expected = numpy.array([p * draws for p in kept.values()])
    counts = numpy.array([found.count(i) for i in kept])
    rare = expected < 5  # taken together, as the test wants
    expected = numpy.append(expected[~rare], expected[rare].sum())
    counts = numpy.append(counts[~rare], counts[rare].sum())
    expected, counts = (x[expected > 0] if expected[-1] == 0 else x for x in (expected, counts))
    chi_square, freedom = float(((counts - expected) ** 2 / numpy.maximum(expected, 1)).sum()), len(expected) - 1
    # Wilson and Hilferty: the cube root of chi-square/freedom is about normal; 4.9 deviations
    z = ((chi_square / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))
    assert z < 4.9, f"chi-square {chi_square} with {freedom} degrees of freedom"


def test_seeds(request):
    numpy.random.seed(llmc_seed(request))
    logits, sampler = random_logits(1000, False), Sampler(1000)
    for options in ((1.0, 0, 1.0), (1.0, 50, 0.9)):
        first = sampler.draw(logits, options, 7, 50)
        assert sampler.draw(logits, options, 7, 50) == first
        assert sampler.draw(logits, options, 8, 50) != first


def test_not_a_number():
    nan, inf = math.nan, math.inf
    sampler = Sampler(4)
    for options in ((1.0, 0, 1.0), (0.0, 0, 1.0), (1.0, 2, 0.9)):
        logits = numpy.array([nan, 1, nan, 0.5], numpy.float32)
        assert set(sampler.draw(logits, options, 1, 200)) <= {1, 3}
        assert set(sampler.draw(numpy.array([nan, inf, 0, 1], numpy.float32), options, 1, 20)) == {1}
        assert set(sampler.draw(numpy.array([-inf, -inf, -inf, 1], numpy.float32), options, 1, 20)) == {3}


def test_refused():
    lib = llmc.load(next(iter(llmc.build_folders())))
    for options, message in {(-1.0, 0, 1.0): "temperature -1", (math.nan, 0, 1.0): "temperature", (1.0, -1, 1.0): "top-k -1",
                             (1.0, 0, 0.0): "top-p 0", (1.0, 0, 1.5): "top-p 1.5", (1.0, 0, math.nan): "top-p"}.items():
        error = Error()
        assert lib.sampler_check(ctypes.byref(Options(*options)), ctypes.byref(error)) == 2
        assert error.message.decode().startswith(message)
    assert lib.sampler_check(ctypes.byref(Options(0.0, 0, 1.0)), None) == 0
