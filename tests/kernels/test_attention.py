"""Flash attention, forward and backward, against float64 by the rule of compare.py."""

import math

import pytest
import torch
from attention import Case, check_case, fused_attention, plain_attention
from compare import check, relative_error

# T, query heads, key/value heads, head dimension, rows of the batch, documents
# T on both sides of the tiles' sizes (16 to 128), one token; head dimensions of every instantiation, filled up
# or not; groups of 1, 2, 3 and 4 heads.
SHAPES = [
    (1, 9, 3, 64, 2, False),
    (7, 8, 8, 16, 2, True),
    (63, 4, 1, 48, 2, True),
    (64, 8, 4, 32, 2, False),
    (65, 9, 3, 64, 2, True),
    (130, 4, 1, 128, 2, True),
    (130, 2, 2, 80, 1, False),
    (257, 8, 4, 32, 1, True),
    (257, 3, 1, 64, 1, False),
    (65, 4, 2, 112, 1, True),
    (130, 2, 1, 256, 1, True),
    (65, 2, 2, 208, 1, False),
    (300, 2, 1, 16, 1, True),
]
SMALL = [(1, 2, 1, 16, 2, False), (19, 3, 1, 48, 1, True), (33, 2, 1, 144, 1, True)]


def make_groups(B, T):
    """(doc_start [B,T], excluded [B,T,2], groups) of rows with a prompt and 2 or 3 answers, several times, and padding behind
    them. groups: (row, begin of the prompt, begins of the answers, end)."""
    starts = torch.arange(T, dtype=torch.int32).repeat(B, 1)  # padding: documents of one token
    excluded = torch.randint(0, T, (B, T, 1), dtype=torch.int32).minimum(starts[:, :, None]).repeat(1, 1, 2)  # nothing, anywhere
    groups = []
    for b in range(B):
        t = 0
        while t + 8 <= T - 3:
            prompt, count = int(torch.randint(0, T // 3, ())), int(torch.randint(2, 4, ()))
            lengths = [int(torch.randint(2, max(3, T // 4), ())) for _ in range(count)]
            if t + prompt + sum(lengths) > T - 3:
                prompt, lengths = 1, [2, 3]
            begins = [t + prompt + sum(lengths[:k]) for k in range(len(lengths) + 1)]
            starts[b, t : begins[-1]] = t
            for begin, end in zip(begins[1:], begins[2:]):
                excluded[b, begin:end, 0], excluded[b, begin:end, 1] = begins[0], begin
            groups.append((b, t, begins[:-1], begins[-1]))
            t = begins[-1]
    return starts, excluded, groups


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_attention(lib, shape):
    check_case(lib, Case(lib, shape))


@pytest.mark.checked
@pytest.mark.parametrize("shape", SMALL, ids=str)
def test_attention_small(lib, shape):
    check_case(lib, Case(lib, shape))


# every instantiation, groups of 1, 2, 3 and 4 heads, tiles that are excluded from whole warps
EXCLUDED_SHAPES = [(40, 8, 8, 16, 3), (257, 8, 4, 32, 2), (400, 4, 2, 32, 1), (130, 9, 3, 64, 2), (400, 3, 1, 64, 1), (65, 4, 2, 112, 2),
                 (300, 4, 1, 128, 1), (130, 2, 1, 256, 1), (65, 2, 2, 208, 1)]


@pytest.mark.parametrize("shape", EXCLUDED_SHAPES, ids=str)
def test_answers(lib, shape):
    case = Case(lib, (*shape, False))
    case.exclude(*make_groups(case.B, case.T)[:2])
    check_case(lib, case)


@pytest.mark.checked
@pytest.mark.parametrize("shape", [(29, 2, 1, 16, 2), (45, 3, 1, 48, 1), (33, 2, 1, 144, 1)], ids=str)
def test_answers_small(lib, shape):
    case = Case(lib, (*shape, False))
    case.exclude(*make_groups(case.B, case.T)[:2])
    check_case(lib, case)


@pytest.mark.parametrize("shape", [(200, 4, 2, 32, 2), (200, 3, 1, 64, 2), (90, 2, 1, 128, 2)], ids=str)
def test_any_interval(lib, shape):
    """Each token with an interval of its own, which may reach before its document, or exclude all but the token itself."""
    case = Case(lib, (*shape, True))
    t = torch.arange(case.T).repeat(case.B, 1)
    ends = torch.stack([(torch.rand(case.B, case.T) * (t + 1)).long() for _ in range(2)], -1).sort(-1).values
    ends[torch.rand(case.B, case.T) < 0.3] = 0
    alone = torch.rand(case.B, case.T) < 0.1
    ends[alone] = torch.stack([torch.zeros_like(t), t], -1)[alone]
    case.exclude(case.starts, ends.int())
    check_case(lib, case)


@pytest.mark.parametrize("begin, end", [(64, 128), (65, 128), (64, 127), (63, 129)])
@pytest.mark.parametrize("HD", [32, 64])
def test_interval_edges(lib, HD, begin, end):
    """Whole tiles are excluded from whole tiles of queries, or all but one key at one of their ends."""
    case = Case(lib, (256, 2, 1, HD, 1, False))
    excluded = torch.zeros(1, 256, 2, dtype=torch.int32)
    excluded[0, 160:] = torch.tensor([begin, end])
    case.exclude(case.starts, excluded)
    check_case(lib, case)


@pytest.mark.parametrize("shape", [(257, 4, 2, 32, 2), (200, 3, 1, 64, 2), (130, 2, 1, 128, 2)], ids=str)
def test_answers_as_documents(lib, shape):
    """A prompt with several answers has the outputs, and the gradients, of the prompt with each answer by itself."""
    together = Case(lib, (*shape, False))
    starts, excluded, groups = make_groups(together.B, together.T)
    together.exclude(starts, excluded)
    out, _, dqkv = (x.double() for x in together.run())
    want_out, want_dqkv = torch.full_like(out, math.nan), torch.zeros_like(dqkv)
    for b, start, begins, end in groups:
        for k, (begin, stop) in enumerate(zip(begins, begins[1:] + [end])):
            tokens = torch.cat([torch.arange(start, begins[0]), torch.arange(begin, stop)])
            alone = Case(lib, (len(tokens), *shape[1:4], 1, False))
            alone.qkv, alone.dout = together.qkv[b : b + 1, tokens], together.dout[b : b + 1, tokens].clone()
            if k > 0:
                alone.dout[:, : begins[0] - start] = 0  # the prompt's own gradient comes with the first answer
            own_out, _, own_dqkv = alone.run()
            want_out[b, tokens] = own_out[0].double()
            want_dqkv[b, tokens] += own_dqkv[0].double()
    covered = ~want_out[..., 0].isnan()
    # bf16: each of the two is rounded, and so are the probabilities in between, relative to another maximum
    limit = 1e-5 if lib.precision == "fp32" else 2.0**-7
    assert relative_error(out[covered], want_out[covered]) <= limit
    for name, ours, want in zip(("dq", "dk", "dv"), together.split(dqkv * covered[..., None]), together.split(want_dqkv)):
        assert relative_error(ours, want) <= limit, name


# every instantiation; a row that ends within a tile, groups of 1 to 3 heads
@pytest.mark.parametrize("shape", [(257, 4, 2, 32, 1), (200, 3, 1, 64, 2), (130, 2, 2, 80, 1), (130, 2, 1, 208, 1)], ids=str)
def test_any_number_of_threads(lib, shape):
    """On the CPU, blocks that have all keys, or where those are too few, blocks that take turns: the same bits; and those of a
    GPU's form, which always take turns, are its own whoever comes first."""
    if not lib.on_cpu:
        pytest.skip("a GPU has no threads to choose")
    for answers in (False, True):
        case = Case(lib, (*shape, not answers))
        if answers:
            case.exclude(*make_groups(case.B, case.T)[:2])
        for seeds in (0, 0), (1, 12345):
            before, found = lib.c.host_threads(), []
            try:
                for threads in (1, 7):
                    lib.c.host_set_threads(threads)
                    found.append(lib.same_bits(case.run, seeds)[2])
            finally:
                lib.c.host_set_threads(before)
            assert torch.equal(*found)


def check_turns(lib, shape):
    """Many blocks that add to the same dQ, on more threads than there are cores, again and again with the same scratch."""
    case = Case(lib, shape)
    scratch = lib.empty(lib.attention_backward_scratch(case.sizes()), torch.float32)
    before = lib.c.host_threads() if lib.on_cpu else 0
    try:
        if lib.on_cpu:
            lib.c.host_set_threads(5)
        for seeds in ((0, 0), (3, 4, 5)) if lib.on_cpu and not lib.race else ((0, 0),):
            lib.same_bits(lambda: case.run(scratch)[2], seeds)
    finally:
        if lib.on_cpu:
            lib.c.host_set_threads(before)


# a row of many tiles; enough heads for more than one round of HEADS_AT_ONCE (attention_backward.cu), and parts of columns
@pytest.mark.parametrize("shape", [(1100, 2, 1, 32, 1, True), (700, 3, 1, 64, 1, True), (300, 10, 10, 32, 2, True),
                                   (140, 10, 5, 256, 1, False)], ids=str)  # fmt: skip
def test_turns(lib, shape):
    check_turns(lib, shape)


@pytest.mark.checked
def test_turns_small(lib):
    """In fp32 these are tiles of 16 keys. ThreadSanitizer sees blocks that do not wait."""
    check_turns(lib, (70, 1, 1, 144, 1, False))


def test_large_scores(lib):
    """Scores far apart: the running maximum moves, nothing overflows."""
    case = Case(lib, (130, 2, 1, 64, 1, True))
    case.qkv = (case.qkv * 12).to(lib.floatX)
    out, lse, dqkv = case.run()
    want, _ = case.reference(plain_attention, torch.float64)
    theirs = case.reference(fused_attention, torch.bfloat16)[0] if lib.precision == "bf16" else None
    check("out", out, want, theirs)
    assert bool(torch.isfinite(dqkv).all()) and bool(torch.isfinite(lse).all())


def test_documents_do_not_mix(lib):
    """Other tokens before a document change nothing in it, to the bit where tiles are the same."""
    case = Case(lib, (130, 4, 2, 64, 1, False))
    case.starts[:, 64:] = 64
    out, lse, dqkv = case.run()
    case.qkv[:, :64] = torch.randn_like(case.qkv[:, :64])
    case.dout[:, :64] = torch.randn_like(case.dout[:, :64])
    out2, lse2, dqkv2 = case.run()
    assert torch.equal(out[:, 64:], out2[:, 64:]) and torch.equal(lse[:, :, 64:], lse2[:, :, 64:])
    assert torch.equal(dqkv[:, 64:], dqkv2[:, 64:])
    assert not torch.equal(out[:, :64], out2[:, :64])
