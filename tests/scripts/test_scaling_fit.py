"""The fits of scripts/scaling.py on published points, and on surfaces whose law is known."""

import math
from dataclasses import replace

import numpy as np
import pytest

import surfaces
from llmdata.errors import InputError
from llmscale import isoflop, parametric, resample, sizes, tuning
from llmscale.counting import Cost, count_parts
from llmscale.disagreement import compare, parabola_bias
from llmscale.fitted import fit_all
from llmscale.forecast import flatness, forecast
from llmscale.points import make_points
from llmscale.resample import interval
from llmscale.run import DIVERGED, DONE

SEED = 20260  # of statistics over many draws, so that none of them fails by luck
DRAWS = 200
FAR = 4 * surfaces.BUDGETS[-1]


@pytest.fixture
def rng():
    print(f"seed {SEED}")
    return np.random.default_rng(SEED)


# ---- published points


def test_llama3_figure(rng):
    found = isoflop.fit_isoflop(surfaces.llama3(), rng)
    assert found.tokens.exponent == pytest.approx(0.5368, abs=5e-5) and found.tokens.factor == pytest.approx(0.2994, abs=5e-5)
    assert found.tokens.at(3.8e25) == pytest.approx(16.1e12, rel=2e-3)
    low, high = found.tokens.interval_at(3.8e25, 0.95)
    assert 9.3e12 < low < 15e12 and 17e12 < high < 22e12  # published, by other draws: 9.3 to 19.9T
    low, high = found.tokens.exponent_interval(0.95)
    assert 0.497 < low < 0.53 and 0.54 < high < 0.57  # 0.497 to 0.553


def test_llama3_parametric_law_chooses_fewer_tokens(rng):
    points = surfaces.llama3()
    squares = parametric.fit_parametric(points, rng, 0, parametric.SQUARES)
    found = isoflop.fit_isoflop(points, rng)
    assert found.tokens.at(3.8e25) / squares.law.best(points.cost, 3.8e25)[1] == pytest.approx(1.58, abs=0.05)
    told = compare(points, found, parametric.fit_parametric(points, rng), 3.8e25, rng)
    assert told.ratio > 1.5 and abs(told.parabola_bias) < 0.05 and told.scatter[0] > 1.5 * told.scatter[1]
    assert "bends otherwise" in told.text()


def test_chinchilla(rng):
    found = parametric.fit_parametric(surfaces.chinchilla(), rng, 400)
    assert found.objective < 0.00101827403
    named = found.law.named
    published = {"A": 477.83, "B": 2143.4, "E": 1.81722, "alpha": 0.34731, "beta": 0.36717}
    assert named == {name: pytest.approx(value, rel=2e-5) for name, value in published.items()}
    # the authors' own bootstrap errors
    errors = dict(
        zip(("A", "B", "E", "alpha", "beta"), np.hstack([np.exp(found.draws[:, :3]), found.draws[:, 3:]]).std(axis=0))
    )
    assert errors == {name: pytest.approx(value, rel=0.35) for name, value in
                      {"A": 125, "B": 1293, "E": 0.026, "alpha": 0.015, "beta": 0.021}.items()}  # fmt: skip


# ---- exact surfaces


@pytest.mark.parametrize("alpha, beta", [(0.34, 0.28), (0.3, 0.3), (0.5, 0.2)])
def test_parametric_law_without_noise_is_found(rng, alpha, beta):
    truth = surfaces.law(alpha, beta)
    found = parametric.fit_parametric(surfaces.points(truth, width=2.0), rng, 10)
    assert found.law.theta == pytest.approx(truth.theta, rel=1e-5) and found.objective < 1e-15


def test_optimum_of_a_law_is_the_closed_form():
    """Hoffmann et al. 2022, equation 4."""
    truth, budget = surfaces.law(), 1e21
    t = truth.named
    G = (t["alpha"] * t["A"] / (t["beta"] * t["B"])) ** (1 / (t["alpha"] + t["beta"]))
    n, d, loss = truth.best(surfaces.SIX, budget)
    assert n == pytest.approx(G * (budget / 6) ** (t["beta"] / (t["alpha"] + t["beta"])), rel=1e-3)
    assert n * d * 6 == pytest.approx(budget, rel=1e-9) and loss == pytest.approx(truth.loss(n, d), rel=1e-9)


def test_parabolas_of_a_symmetric_law_are_right(rng):
    truth = surfaces.law(0.3, 0.3, 400, 400)
    found = isoflop.fit_isoflop(surfaces.points(truth), rng)
    assert found.tokens.exponent == pytest.approx(0.5, abs=1e-3)
    assert found.tokens.at(FAR) == pytest.approx(truth.best(surfaces.SIX, FAR)[1], rel=2e-3)


def test_flatness_is_where_the_loss_is():
    truth = surfaces.law()
    n, _, lowest = truth.best(surfaces.SIX, 1e20)
    flat = flatness(truth, surfaces.SIX, 1e20)
    for end in (flat.low, flat.high):
        assert truth.loss(end, 1e20 / 6 / end) / lowest - 1 == pytest.approx(0.002, rel=0.05)
    assert flat.factors[2.0] == pytest.approx(truth.loss(2 * n, 1e20 / 12 / n) / lowest - 1, rel=1e-2)
    later = flatness(truth, surfaces.SIX, 1e24)
    assert later.high / later.low > 1.5 * flat.high / flat.low  # the paper: flatter with more compute


# ---- intervals


def share(hits):
    print("intervals that hold the truth:", [int(h) for h in np.sum(hits, axis=0)], "of", len(hits))
    return np.mean(hits, axis=0)


def cover_parabolas(rng, sizes):
    truth = surfaces.law(0.34, 0.34, 406.4, 406.4)
    hits = []
    for _ in range(DRAWS):
        found = isoflop.fit_isoflop(surfaces.points(truth, rng, 0.003, sizes=sizes), rng, 300)
        low, high = found.tokens.interval_at(FAR)
        first, last = found.tokens.exponent_interval()
        hits.append([low <= truth.best(surfaces.SIX, FAR)[1] <= high, first <= 0.5 <= last])
    return share(hits)


@pytest.mark.parametrize("sizes", [5, 9])
def test_parabolas_intervals_hold_the_truth(rng, sizes):
    assert cover_parabolas(rng, sizes) == pytest.approx(0.9, abs=0.05)


def test_coverage_can_fail(rng, monkeypatch):
    """Residuals as they are, which the fit has made smaller than the noise, give intervals that are too narrow."""
    monkeypatch.setattr(isoflop, "studentized", lambda residuals, leverage: residuals)
    monkeypatch.setattr(isoflop, "noise_draws", lambda rng, r, k, draws, count: rng.choice(r, size=(draws, count)))
    assert cover_parabolas(rng, 5).max() < 0.85


def test_parametric_intervals_hold_the_truth(rng):
    truth = surfaces.law()
    n, d, loss = truth.best(surfaces.SIX, FAR)
    hits = []
    for _ in range(DRAWS):
        points = surfaces.points(truth, rng, 0.003)
        found = parametric.fit_parametric(points, rng, 120)
        logs, losses = parametric.optimum(found.draws, points.cost, FAR)
        exponents = found.draws[:, 4] / (found.draws[:, 3] + found.draws[:, 4])
        both = [(losses, loss), (logs, math.log(n)), (exponents, truth.size_exponent)]
        hits.append([low <= value <= high for (low, high), value in ((interval(drawn), value) for drawn, value in both)])
    assert share(hits) == pytest.approx(0.9, abs=0.05)


def test_one_run_scatters_more_than_the_law(rng):
    points = surfaces.points(surfaces.law(), rng, 0.003)
    fitted = fit_all(points)
    found = forecast(fitted.isoflop, fitted.parametric, points.cost, FAR, fitted.largest, rng)
    assert found.run_loss.low < found.loss.low < found.loss.value < found.loss.high < found.run_loss.high
    assert found.beyond == pytest.approx(4)


def test_draws_without_an_end_count_as_both_ends():
    low, high = interval(np.array([math.nan] * 4 + list(np.linspace(0, 1, 96))))
    assert 0 <= low < 0.05 and 0.95 < high <= 1
    assert interval(np.array([math.nan] * 20 + [0.5] * 80)) == (-math.inf, math.inf)


def test_same_points_same_intervals():
    points = surfaces.points(surfaces.law(), np.random.default_rng(3), 0.003)
    assert [fit_all(points).isoflop.tokens.exponent_interval() for _ in range(2)] == [
        fit_all(points).isoflop.tokens.exponent_interval()
    ] * 2


# ---- the wrong ways


def exponent_of_size(c, n, d, loss, cost=surfaces.SIX):
    found = isoflop.fit_isoflop(surfaces.of(c, n, d, loss, cost), np.random.default_rng(SEED), 50)
    return found.parameters.exponent


def test_wrong_counting(rng):
    """The same runs, counted otherwise: what is small beside the blocks in large models is not so in small ones, so that N without
    it grows faster with C, and N with everything slower."""
    shape = sizes.Shape(128_000, 64, 64, 1, 8 / 3, 64, False, 500_000.0, 0.02, 4096)
    parts = [count_parts(sizes.config_of(sizes.size_of(layers, shape), shape)) for layers in range(2, 40)]
    counts = {name: np.array([float(p.count(name)) for p in parts]) for name in ("matrices", "matrices+head", "all")}
    cost = Cost(counts["matrices+head"], 6 * counts["matrices+head"])
    truth, found = surfaces.law(0.34, 0.34, 406.4, 406.4), {}
    c, n, d = surfaces.grid(truth, np.geomspace(1e18, 1e20, 6))
    loss = truth.loss(n, d)
    for name, values in counts.items():
        as_counted = np.exp(np.interp(np.log(n), np.log(counts["matrices+head"]), np.log(values)))
        found[name] = exponent_of_size(c, as_counted, d, loss, Cost(values, cost_at(cost, counts["matrices+head"])))
    print(found)
    assert found["matrices+head"] == pytest.approx(0.5, abs=0.01)
    assert found["matrices"] > 0.56 and found["all"] < 0.48


def cost_at(cost, n):
    return np.exp(cost.log_flops(np.log(n)))


def test_wrong_warmup():
    """One length of warmup for all runs: half of it is lost, which short runs cannot afford. Small budgets then seem to want more
    tokens than they do, and the exponent of size comes out too high (Porian et al. 2024)."""
    truth = surfaces.law(0.34, 0.34, 406.4, 406.4)
    c, n, d = surfaces.grid(truth)
    fixed = np.full(len(d), 0.2 * truth.best(surfaces.SIX, surfaces.BUDGETS[0])[1])
    by_rule = np.array([tuning.tune(tuning.Rule(), *run).warmup_tokens for run in zip(n, d)])
    right, wrong = (exponent_of_size(c, n, d, truth.loss(n, d - warmup / 2)) for warmup in (by_rule, fixed))
    print(right, wrong)
    assert right == pytest.approx(0.5, abs=0.005) and wrong > right + 0.02


def test_wrong_decay(rng):
    """Losses read off in the middle of one long schedule, whose rate has not decayed, are too high, and most so for the shortest
    runs: every budget seems to want more tokens than it does, and the power law is another."""
    truth = surfaces.law(0.34, 0.34, 406.4, 406.4)
    c, n, d = surfaces.grid(truth)
    found = isoflop.fit_isoflop(surfaces.of(c, n, d, truth.loss(n, d) + 0.05 * (1 - d / d.max())), rng)
    ratios = [p.tokens / truth.best(surfaces.SIX, p.budget)[1] for p in found.parabolas]
    print(ratios, found.tokens.exponent)
    assert min(ratios) > 1.02 and found.tokens.exponent > 0.55


def test_wrong_diverged_run(rng):
    """A diverged run in the fit moves the minimum of its budget; the law that leaves it out does not move."""
    truth = surfaces.law(0.34, 0.34, 406.4, 406.4)
    points, found = surfaces.points(truth), []
    columns = zip(points.names, points.budget, points.flops, points.tokens, points.parameters, points.loss)
    rows = [dict(zip(("name", "budget", "flops", "tokens", "parameters", "loss"), row), status=DONE) for row in columns]
    for status in (DONE, DIVERGED):
        rows[-7] |= {"loss": 1.05 * points.loss[-7], "status": status}  # the smallest model of the largest budget
        found.append(isoflop.fit_isoflop(make_points(rows, points.cost, "runs"), rng))
    wrong, right = found
    optimum = truth.best(surfaces.SIX, FAR)[1]
    print(wrong.tokens.at(FAR) / optimum, right.tokens.at(FAR) / optimum)
    assert right.tokens.at(FAR) == pytest.approx(optimum, rel=0.02) and abs(wrong.tokens.at(FAR) / optimum - 1) > 0.1


# ---- disagreement


def causes(points, truth):
    rng = np.random.default_rng(SEED)
    found = compare(points, isoflop.fit_isoflop(points, rng), parametric.fit_parametric(points, rng, 50), FAR, rng)
    assert math.log(found.ratio) == pytest.approx(found.parabola_bias, abs=0.02)  # without noise there is nothing else
    assert found.parametric_tokens == pytest.approx(truth.best(surfaces.SIX, FAR)[1], rel=0.01)
    return found


def test_reason_asymmetry():
    truth = surfaces.law(0.6, 0.2, 4e4, 90)
    found = causes(surfaces.points(truth, width=2.0), truth)
    assert abs(found.parabola_bias) > 0.05 and "alpha and beta differ" in found.text()
    assert found.causes["asymmetry"] == pytest.approx(found.parabola_bias, rel=0.25)


def test_reason_width_and_place():
    truth = surfaces.law(0.34, 0.34, 406.4, 406.4)
    found = causes(surfaces.points(truth, width=2.0, shift=np.linspace(-1.5, 1.5, 5)), truth)
    assert abs(found.parabola_bias) > 0.03 and abs(found.causes["asymmetry"]) < 0.02
    assert found.causes["off-centre"] == pytest.approx(found.parabola_bias, abs=0.02) and "not in the middle" in found.text()
    middle = causes(surfaces.points(truth, width=2.0), truth)
    assert abs(middle.parabola_bias) < 0.01 and "middle" not in middle.text()


def test_parabola_bias_of_a_narrow_grid_is_small():
    truth = surfaces.law(0.6, 0.2, 4e4, 90)
    points = surfaces.points(truth, width=2.0)
    assert abs(parabola_bias(truth, points, FAR, centered=True, shrunk=True)) < 0.1 * abs(parabola_bias(truth, points, FAR))


# ---- refusals


def test_minimum_outside_the_grid_is_not_used(rng):
    truth = surfaces.law()
    inside, outside = (
        surfaces.points(truth, budgets=surfaces.BUDGETS[:3]),
        surfaces.points(truth, budgets=surfaces.BUDGETS[3:], shift=2.0),
    )
    both = surfaces.of(
        *(np.concatenate([getattr(p, name) for p in (inside, outside)]) for name in ("budget", "parameters", "tokens", "loss"))
    )
    found = isoflop.fit_isoflop(both, rng)
    assert [p.outside for p in found.parabolas] == ["", "", "", "minimum above the grid", "minimum above the grid"]
    sizes = np.sort(outside.parameters[:7])
    assert f"add a smaller size, of about {sizes[0] ** 2 / sizes[1]:.3g} parameters" == found.parabolas[3].advice
    alone = isoflop.fit_isoflop(inside, rng)
    assert (found.tokens.exponent, found.tokens.factor) == pytest.approx((alone.tokens.exponent, alone.tokens.factor), rel=1e-9)
    turned = isoflop.fit_isoflop(surfaces.points(truth, shift=-2.0), rng)
    assert turned.tokens is None and {p.outside for p in turned.parabolas} == {"minimum below the grid"}
    assert "add a larger size" in turned.parabolas[0].advice


def test_term_that_the_runs_do_not_show_is_named():
    """All of the loss comes from too few tokens: a law without the term of size, and no minimum to speak of."""
    c, n, d = surfaces.grid(surfaces.law())
    fitted = fit_all(surfaces.of(c, n, d, 1.69 + 410.7 / d**0.28))
    assert fitted.parametric.law.missing(fitted.points) == ["A / N^alpha"] and fitted.isoflop.tokens is None
    assert fitted.parametric.law.theta[4] == pytest.approx(0.28, abs=1e-3)
    assert "do not show the term A / N^alpha" in fitted.disagreement_text


def test_curve_that_opens_downwards_has_no_minimum(rng):
    points = surfaces.points(surfaces.law())
    loss = points.loss.copy()
    loss[:7] = 6 - loss[:7]
    assert isoflop.fit_isoflop(replace(points, loss=loss), rng).parabolas[0].outside == "no minimum"


def test_too_few(rng):
    with pytest.raises(InputError, match="budget 1e\\+18: 3 sizes that finished, expected at least 4"):
        isoflop.fit_isoflop(surfaces.points(surfaces.law(), sizes=3), rng)
    with pytest.raises(InputError, match="4 finished runs, expected at least 7"):
        parametric.fit_parametric(surfaces.points(surfaces.law(), sizes=4, budgets=[1e18]), rng)
    with pytest.raises(InputError, match="lie within a factor of 2"):
        parametric.fit_parametric(surfaces.points(surfaces.law(), sizes=9, budgets=[1e18], width=0.2), rng)


def test_studentized_residuals_have_the_size_of_the_noise(rng):
    """Of straight lines through few points."""
    x = np.vander(np.linspace(-1, 1, 6), 2)
    hat = x @ np.linalg.pinv(x)
    residuals = rng.standard_normal((4000, 6)) @ (np.eye(6) - hat).T
    own = np.concatenate([resample.studentized(row, np.diag(hat)) for row in residuals])
    assert residuals.std() < 0.85 and own.std() == pytest.approx(1, abs=0.1)
