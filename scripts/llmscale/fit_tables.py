"""Prints fits and forecasts as tables."""

import math

from .forecast import FACTORS, TOLERANCE, Forecast, Trial, Value
from .isoflop import IsoFlop
from .parametric import Parametric
from .plan_tables import say, si
from .points import Points
from .resample import LEVEL


four = "{:.4f}".format


def between(value: Value | None, show=si) -> str:
    if value is None:
        return "-"
    bounded = math.isfinite(value.low) and math.isfinite(value.high)
    return f"{show(value.value)} ({f'{show(value.low)} to {show(value.high)}' if bounded else 'not bounded'})"


def print_fit(points: Points, isoflop: IsoFlop, parametric: Parametric, disagreement: str) -> None:
    print(f"{len(points)} runs; intervals hold {LEVEL:.0%}. N counts {points.count or 'what the table says'}\n")
    print_left_out(points, isoflop)
    print(f"{'budget':>9} {'runs':>4} {'tokens D*':>34} {'N*':>8} {'D*/N*':>6} {'loss':>8}")
    for p in isoflop.parabolas:
        if p.outside:
            print(f"{p.budget:9.3g} {len(p.x):>4} {p.outside}: not used; {p.advice}")
            continue
        tokens = between(Value(p.tokens, *p.tokens_interval))
        print(f"{p.budget:9.3g} {len(p.x):>4} {tokens:>34} {si(p.parameters):>8} {p.tokens / p.parameters:6.1f} {p.lowest:8.4f}")
    print(f"noise about the parabolas: {isoflop.noise:.4f}\n")
    for name, law in (("D*", isoflop.tokens), ("N*", isoflop.parameters)):
        if law is not None:
            low, high = law.exponent_interval()
            print(f"{name}(C) = {law.factor:.4g} C^{law.exponent:.4f}   exponent {low:.3f} to {high:.3f}")
    if isoflop.tokens is None:
        print("no power laws: fewer than two budgets with a minimum inside their grid")
    named = parametric.law.named
    print(f"L(N, D) = {named['E']:.4f} + {named['A']:.5g} / N^{named['alpha']:.4f} + {named['B']:.5g} / D^{named['beta']:.4f}   "
          f"objective {parametric.objective:.9g}, noise {parametric.noise:.2%}")  # fmt: skip
    print(f"its exponents: D* {parametric.law.token_exponent:.4f}, N* {parametric.law.size_exponent:.4f}\n")
    say(disagreement)


# ---- forecast


def print_left_out(points: Points, isoflop: IsoFlop) -> None:
    for name, status, reason in points.left_out:
        print(f"left out: {name} {status}{': ' + reason if reason else ''}")
    for p in isoflop.parabolas:
        if p.outside:
            print(f"left out of the power laws: {p.budget:.3g} FLOPs, {p.outside}: {p.advice}")


def print_trials(trials: list[Trial]) -> None:
    for trial in trials:
        print(f"  {trial.name:>20}: loss {trial.loss:.4f}, forecast {between(trial.forecast, four)}: "
              f"{'inside' if trial.inside else 'outside'}")  # fmt: skip


def print_forecast(f: Forecast) -> None:
    print(f"{f.budget:.4g} FLOPs, {f.beyond:.3g} times the largest budget of the fit; intervals hold {LEVEL:.0%}")
    print(f"  size      {between(f.parameters)} by the parametric law, {between(f.parabola_parameters)} by parabolas")
    print(f"  tokens    {between(f.tokens)} by the parametric law, {between(f.parabola_tokens)} by parabolas")
    print(f"  loss      {between(f.loss, four)}; of one run {four(f.run_loss.low)} to {four(f.run_loss.high)}")
    print(f"  flatness  within {TOLERANCE:.1%} of the lowest loss from {si(f.flatness.low)} to {si(f.flatness.high)} parameters; "
          + ", ".join(f"{factor:g}x: {f.flatness.factors[factor]:+.2%}" for factor in FACTORS))  # fmt: skip
