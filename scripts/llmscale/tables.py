"""Prints a plan, a fit or a forecast as tables."""

import math
import textwrap
from pathlib import Path

from llmdata.progress import duration

from .counting import COUNTS, EXACT, SIX_ND, flops_per_token
from .forecast import FACTORS, TOLERANCE, Forecast, Test, Value
from .isoflop import IsoFlop
from .parametric import Parametric
from .planning import Planned
from .points import Points
from .resample import LEVEL
from .settings import Settings
from .speed import Speed, memory_of

WIDTH = 100
REPEATS = 4.0  # passes over the data from which on a token teaches clearly less (Muennighoff et al. 2023)


def say(text: str) -> None:
    print(textwrap.fill(text, WIDTH))


def si(value: float) -> str:
    """Three digits and a letter."""
    for limit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * limit:
            return f"{value / limit:.3g}{letter}"
    return f"{value:.3g}"


def between(value: Value | None, show=si) -> str:
    if value is None:
        return "-"
    bounded = math.isfinite(value.low) and math.isfinite(value.high)
    return f"{show(value.value)} ({f'{show(value.low)} to {show(value.high)}' if bounded else 'not bounded'})"


# ---- plan


def print_plan(settings: Settings, runs: list[Planned], speed: Speed, configs: dict[str, Path]) -> None:
    sizes = {planned.size.name: planned for planned in runs}
    print("Sizes, and their parameters in every way of counting; FLOPs per token of the blocks, head and attention, and as 6N\n")
    print(f"{'size':>9} {'heads':>7} {'MLP':>6}" + "".join(f" {name:>19}" for name in COUNTS) + f" {'exact':>7} {'6N':>7}")
    for name, planned in sorted(sizes.items(), key=lambda item: item[1].parts.count("all")):
        c, length = planned.config, settings.shape.seq_len
        each = [flops_per_token(planned.parts, length, rule, settings.count) for rule in (EXACT, SIX_ND)]
        heads = f"{c['num_attention_heads']}/{c['num_key_value_heads']}"
        print(f"{name:>9} {heads:>7} {c['intermediate_size']:>6}" + "".join(f" {si(planned.parts.count(n)):>19}" for n in COUNTS)
              + "".join(f" {si(value):>7}" for value in each))  # fmt: skip
    print(f"\nN below: {settings.count}. A budget is made of FLOPs {'with attention' if settings.flops == EXACT else 'as 6ND'}\n")
    print(f"{'run':>20} {'N':>6} {'tokens':>6} {'D/N':>5} {'epochs':>6} {'steps':>6} {'batch':>6} {'lr':>8} {'warmup':>6} "
          f"{'beta2':>5} {'time':>7} {'MiB':>6}")  # fmt: skip
    for planned in runs:
        _print_run(settings, planned, speed, configs[planned.size.name])
    _print_total(settings, runs, speed)


def _print_run(settings: Settings, p: Planned, speed: Speed, config: Path) -> None:
    n, seconds = p.parts.count(settings.count), speed.seconds(p)
    memory = memory_of(settings, p, config) / (1 << 20)
    print(f"{p.name:>20} {si(n):>6} {si(p.tokens):>6} {p.tokens / n:5.1f} {p.tokens / settings.train.tokens:6.2f} {p.steps:>6} "
          f"{p.batch_tokens:>6} {p.tuned.lr:8.2e} {p.warmup_steps:>6} {p.tuned.beta2:5} "
          f"{duration(seconds) if seconds is not None else '?':>7} {memory:6.0f}{' forecast' if p.budget.forecast else ''}")  # fmt: skip


def _print_total(settings: Settings, runs: list[Planned], speed: Speed) -> None:
    seconds = [speed.seconds(p) for p in runs]
    print()
    if all(value is not None for value in seconds):
        measured = sum(speed.is_measured(p) for p in runs)
        source = "as measured" if measured == len(runs) else "assumed by flops_per_second" if not measured else (
            f"{measured} measured, the others assumed by flops_per_second")  # fmt: skip
        tested = sum(value for value, p in zip(seconds, runs) if p.budget.forecast)
        print(f"{len(runs)} runs: {duration(sum(seconds))} one after another, {source}"
              + (f"; {duration(tested)} of it test a forecast" if tested else ""))  # fmt: skip
    else:
        print(f"{len(runs)} runs; their time is not known: give flops_per_second, or plan --measure")
    if max(p.tokens for p in runs) > REPEATS * settings.train.tokens:
        say(f"warning: some runs pass over the {si(settings.train.tokens)} training tokens more than {REPEATS:g} times: their loss "
            "is too high for a law of fresh tokens")  # fmt: skip


# ---- fit


def print_fit(points: Points, isoflop: IsoFlop, parametric: Parametric, disagreement: str) -> None:
    print(f"{len(points)} runs; intervals hold {LEVEL:.0%}. N counts {points.count or 'what the table says'}\n")
    print_left_out(points, isoflop)
    print(f"{'budget':>9} {'runs':>4} {'tokens D*':>34} {'N*':>8} {'D*/N*':>6} {'loss':>8}")
    for p in isoflop.parabolas:
        if p.outside:
            print(f"{p.budget:9.3g} {len(p.x):>4} minimum {p.outside}: not used; {p.advice}")
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
            print(f"left out of the power laws: {p.budget:.3g} FLOPs, minimum {p.outside}: {p.advice}")


def print_tests(tests: list[Test]) -> None:
    for test in tests:
        print(f"  {test.name:>20}: loss {test.loss:.4f}, forecast {between(test.forecast, '{:.4f}'.format)}: "
              f"{'inside' if test.inside else 'outside'}")  # fmt: skip


def print_forecast(f: Forecast) -> None:
    print(f"{f.budget:.4g} FLOPs, {f.beyond:.3g} times the largest budget of the fit; intervals hold {LEVEL:.0%}")
    print(f"  size      {between(f.parameters)} by the parametric law, {between(f.parabola_parameters)} by parabolas")
    print(f"  tokens    {between(f.tokens)} by the parametric law, {between(f.parabola_tokens)} by parabolas")
    show = "{:.4f}".format
    print(f"  loss      {between(f.loss, show)}; of one run {show(f.run_loss.low)} to {show(f.run_loss.high)}")
    print(f"  flatness  within {TOLERANCE:.1%} of the lowest loss from {si(f.flatness.low)} to {si(f.flatness.high)} parameters; "
          + ", ".join(f"{factor:g}x: {f.flatness.factors[factor]:+.2%}" for factor in FACTORS))  # fmt: skip
