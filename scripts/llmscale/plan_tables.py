"""Prints a plan as a table."""

from pathlib import Path

from llmdata.progress import duration
from llmplan.tables import say

from .counting import COUNTS, EXACT, SIX_ND, flops_per_token
from .planning import Planned
from .settings import Settings
from .speed import Speed, memory_of

REPEATS = 4.0  # passes over the data from which on a token teaches clearly less (Muennighoff et al. 2023)


def si(value: float) -> str:
    """Three digits and a letter."""
    for limit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * limit:
            return f"{value / limit:.3g}{letter}"
    return f"{value:.3g}"


def print_plan(settings: Settings, runs: list[Planned], speed: Speed, configs: dict[str, Path]) -> None:
    sizes = {planned.size.name: planned for planned in runs}
    print(
        "Sizes, and their parameters in every way of counting; FLOPs per token of the blocks, head and attention, and as 6N\n"
    )
    print(f"{'size':>9} {'heads':>7} {'MLP':>6}" + "".join(f" {name:>19}" for name in COUNTS) + f" {'exact':>7} {'6N':>7}")
    for name, planned in sorted(sizes.items(), key=lambda item: item[1].parts.count("all")):
        c, length = planned.config, settings.shape.seq_len
        each = [flops_per_token(planned.parts, length, rule, settings.count) for rule in (EXACT, SIX_ND)]
        heads = f"{c['num_attention_heads']}/{c['num_key_value_heads']}"
        print(f"{name:>9} {heads:>7} {c['intermediate_size']:>6}" + "".join(f" {si(planned.parts.count(n)):>19}" for n in COUNTS)
              + "".join(f" {si(value):>7}" for value in each))  # fmt: skip
    print(
        f"\nN below: {settings.count}. A budget is made of FLOPs {'with attention' if settings.flops == EXACT else 'as 6ND'}\n"
    )
    print(f"{'run':>20} {'N':>6} {'tokens':>6} {'D/N':>5} {'epochs':>6} {'steps':>6} {'batch':>6} {'lr':>8} {'warmup':>6} "
          f"{'beta2':>5} {'time':>7} {'MiB':>6}")  # fmt: skip
    for planned in runs:
        _print_run(settings, planned, speed, configs[planned.size.name])
    _print_total(settings, runs, speed)


def _print_run(settings: Settings, p: Planned, speed: Speed, config: Path) -> None:
    n, seconds = p.parts.count(settings.count), speed.seconds(p)
    time = "?" if seconds is None else duration(seconds)
    memory = memory_of(settings, p, config) / (1 << 20)
    print(f"{p.name:>20} {si(n):>6} {si(p.tokens):>6} {p.tokens / n:5.1f} {p.tokens / settings.train.tokens:6.2f} {p.steps:>6} "
          f"{p.batch_tokens:>6} {p.tuned.lr:8.2e} {p.warmup_steps:>6} {p.tuned.beta2:5} "
          f"{time:>7} {memory:6.0f}{' forecast' if p.budget.forecast else ''}")  # fmt: skip


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
