"""The learning rate of a recipe against a computation of its own: corner points by numpy.interp, cosines by their formula."""

import ctypes
import math
import random

import cstructs
import numpy as np
import pytest
from hostlib import expect_refusal, fresh_random, library
from recipes import BASE, opened, write

Schedule = cstructs.read("recipe/schedule.h")["Schedule"]
STAGE = {"seq_len": 8, "batch_size": 1, "mixture": [{"source": "web", "weight": 1}]}


def recipe_of(stages, rate=None):
    made = [{**STAGE, "name": f"s{i}", **stage} for i, stage in enumerate(stages)]
    return {**BASE, "stages": made, **({"learning_rate": rate} if rate else {"learning_rate": [{"shape": "constant", "from": 1}]})}


def run_through(recipe):
    """(stage, step in it, step, tokens before it) of every update."""
    step = tokens = 0
    for number, stage in enumerate(recipe.stages[: recipe.num_stages]):
        for inside in range(stage.steps):
            yield number, inside, step, tokens
            step += 1
            tokens += stage.tokens_per_step


def reference(pieces, ends, at):
    """The rate `at` tokens or steps from the beginning of pieces that end at `ends`."""
    starts = [0, *ends[:-1]]
    rates = [piece["from"] for piece in pieces[:1]]
    for piece in pieces:
        rates.append(piece.get("to", piece.get("from", rates[-1])))
    for piece, start, end, before, to in zip(pieces, starts, ends, rates, rates[1:]):
        if at > end:
            continue
        begin = piece.get("from", before)
        if piece["shape"] == "constant":
            return begin
        way = np.interp(at, [start, end], [0, 1])
        if piece["shape"] == "cosine":
            way = math.sin(math.pi / 2 * way) ** 2  # (1 - cos(pi way)) / 2
        return begin * (1 - way) + to * way
    return rates[-1]


def random_pieces(rng, unit, total):
    """Pieces that fill `total` tokens or steps, the last one by not saying how long it is, or up to half of them more or less."""
    count = int(rng.integers(1, 5))
    lengths = rng.integers(1, max(2, total * 3 // (2 * count)), count).tolist()
    pieces = []
    for i, length in enumerate(lengths):
        piece = {"shape": str(rng.choice(["linear", "cosine", "constant"])), unit: length}
        if i == 0 or rng.random() < 0.3:
            piece["from"] = float(rng.choice([0, rng.random()]))
        if piece["shape"] != "constant":
            piece["to"] = float(rng.choice([0, rng.random()]))
        pieces.append(piece)
    if rng.random() < 0.5 and sum(lengths[:-1]) < total:
        del pieces[-1][unit]
        lengths[-1] = total - sum(lengths[:-1])
    return pieces, np.cumsum(lengths).tolist()


@pytest.mark.parametrize("unit", ["steps", "tokens"])
@pytest.mark.parametrize("over", ["run", "stage"])
def test_against_reference(tmp_path, unit, over):
    rng = fresh_random()
    for _ in range(12):
        stages = [{"steps": int(rng.integers(1, 60)), "tokens_per_step": 8 * int(rng.integers(1, 6))} for _ in range(3)]
        totals = [s["steps"] if unit == "steps" else s["steps"] * s["tokens_per_step"] for s in stages]
        pieces, ends = random_pieces(rng, unit, sum(totals) if over == "run" else totals[1])
        if over == "stage":
            stages[1]["learning_rate"] = pieces
        if list(pieces[0]) == ["shape"] or (len(pieces) == 1 and unit not in pieces[0]):
            continue  # one piece without a length counts tokens: its own test
        recipe = opened(tmp_path, recipe_of(stages, pieces if over == "run" else None), ranks=1)
        for stage, inside, step, tokens in run_through(recipe):
            batch = stages[stage]["tokens_per_step"]
            expected = 1.0
            if over == "run":
                expected = reference(pieces, ends, step + 1 if unit == "steps" else tokens + batch)
            elif stage == 1:
                expected = reference(pieces, ends, inside + 1 if unit == "steps" else (inside + 1) * batch)
            # few operations in float64 on either side
            assert recipe.rate(stage, inside, step, tokens) == pytest.approx(expected, rel=1e-11, abs=1e-15)


def test_ends_are_exact(tmp_path):
    """Whatever the numbers, a piece's last update has exactly its `to`, and a constant one nothing else."""
    for _ in range(200):
        peak, low, high = random.random(), random.random(), random.random()
        lengths = [random.randint(1, 50) for _ in range(3)]
        pieces = [{"shape": "linear", "from": 0, "to": peak, "steps": lengths[0]},
                  {"shape": "constant", "steps": lengths[1]},
                  {"shape": "cosine", "to": low, "steps": lengths[2]}, {"shape": "linear", "to": high}]  # fmt: skip
        recipe = opened(tmp_path, recipe_of([{"steps": 200, "tokens_per_step": 8}], pieces), ranks=1)
        rates = [recipe.rate(*update) for update in run_through(recipe)]
        a, b, c = np.cumsum(lengths)
        assert rates[a - 1 : b] == [peak] * (lengths[1] + 1) and rates[c - 1] == low and rates[-1] == high
        assert rates[0] == pytest.approx(peak / lengths[0], rel=1e-12)  # no update has rate 0


def test_as_the_schedule_of_options(tmp_path):
    """Warmup and cosine are those of --warmup-steps and --schedule cosine."""
    peak, warmup, total, fraction = random.uniform(1e-4, 1e-2), random.randint(1, 40), random.randint(60, 200), random.random()
    pieces = [{"shape": "linear", "from": 0, "to": peak, "steps": warmup}, {"shape": "cosine", "to": peak * fraction}]
    recipe = opened(tmp_path, recipe_of([{"steps": total, "tokens_per_step": 8}], pieces), ranks=1)
    schedule = Schedule(peak, warmup, total, fraction, cstructs.CONSTANTS["SCHEDULE_COSINE"])
    library.schedule_lr.restype = ctypes.c_double
    for update in run_through(recipe):
        expected = library.schedule_lr(ctypes.byref(schedule), ctypes.c_int64(update[2]))
        assert recipe.rate(*update) == pytest.approx(expected, rel=1e-12, abs=1e-17)


def test_tokens_count_what_batches_see(tmp_path):
    """Over a run whose batch doubles, a line in tokens rises twice as fast per step, and one in steps does not."""
    stages = [{"steps": 10, "tokens_per_step": 8}, {"steps": 10, "tokens_per_step": 16}]
    for unit, total in (("tokens", 240), ("steps", 20)):
        rate = [{"shape": "linear", "from": 0, "to": 1, unit: total}]
        recipe = opened(tmp_path, recipe_of(stages, rate), ranks=1)
        rates = np.array([recipe.rate(*update) for update in run_through(recipe)])
        growth = np.diff(rates)
        assert rates[-1] == 1
        assert growth[:9] == pytest.approx(8 / 240 if unit == "tokens" else 1 / 20)
        assert growth[9:] == pytest.approx(16 / 240 if unit == "tokens" else 1 / 20)


def test_a_single_piece_without_a_length_counts_tokens(tmp_path):
    stages = [{"steps": 5, "tokens_per_step": 8}, {"steps": 5, "tokens_per_step": 24}]
    recipe = opened(tmp_path, recipe_of(stages, [{"shape": "linear", "from": 1, "to": 0}]), ranks=1)
    rates = [recipe.rate(*update) for update in run_through(recipe)]
    assert rates[4] == 0.75 and rates[-1] == 0


def test_the_paper(tmp_path):
    """405B: warmup of 8,000 steps to 8e-5, cosine to 8e-7 over 1,200,000 more (Llama 3, 3.4.1)."""
    rate = [{"shape": "linear", "from": 0, "to": 8e-5, "steps": 8000}, {"shape": "cosine", "to": 8e-7, "steps": 1_200_000}]
    recipe = opened(tmp_path, recipe_of([{"steps": 1_300_000, "tokens_per_step": 8}], rate), ranks=1)
    at = lambda step: recipe.rate(0, step, step, 8 * step)  # noqa: E731
    assert at(0) == pytest.approx(1e-8) and at(7999) == 8e-5 and at(1_207_999) == 8e-7 and at(1_299_999) == 8e-7
    assert at(607_999) == pytest.approx((8e-5 + 8e-7) / 2, rel=1e-9)


def test_pieces_of_two_units(tmp_path):
    rate = [{"shape": "linear", "from": 0, "to": 1, "steps": 3}, {"shape": "constant", "tokens": 80}]
    path = write(tmp_path, recipe_of([{"steps": 20, "tokens_per_step": 8}], rate))
    expect_refusal(2, ["learning_rate[1]: expected steps, as in the first piece"], "recipe_open", ctypes.byref(ctypes.c_void_p()), str(path).encode())
