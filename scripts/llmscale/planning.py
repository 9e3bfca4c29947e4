"""The runs of a plan: size, tokens, steps and settings of each."""

import math
from dataclasses import dataclass

from llmdata.errors import InputError

from .counting import COUNTS, EXACT, SIX_ND, Cost, Parts, count_parts, flops_per_token
from .settings import LEAST_STEPS, Budget, Settings
from .sizes import Size, config_of, size_of
from .tuning import Tuned, tune


@dataclass(frozen=True)
class Planned:
    name: str
    budget: Budget
    size: Size
    seed: int
    config: dict
    parts: Parts
    flops_per_token: float  # as the plan counts; a budget is made of these
    rows: int  # of a micro-batch, on each rank
    accumulation: int
    batch_tokens: int
    steps: int
    warmup_steps: int
    tuned: Tuned

    @property
    def tokens(self) -> int:
        return self.steps * self.batch_tokens

    @property
    def flops(self) -> float:
        """Of the whole run; differs from the budget by what steps are rounded to."""
        return self.tokens * self.flops_per_token

    def counts(self, length: int) -> dict[str, float]:
        """The run in every way of counting, for the record."""
        exact = self.tokens * flops_per_token(self.parts, length, EXACT, "all")
        six = {f"6ND {name}": self.tokens * flops_per_token(self.parts, length, SIX_ND, name) for name in COUNTS}
        return {**{f"N {name}": self.parts.count(name) for name in COUNTS}, "exact": exact, **six}


def plan_run(settings: Settings, budget: Budget, size: Size, seed: int) -> Planned:
    config = config_of(size, settings.shape)
    parts, length = count_parts(config), settings.shape.seq_len
    each = flops_per_token(parts, length, settings.flops, settings.count)
    wanted = budget.flops / each
    tuned = tune(settings.rule, parts.count(settings.count), wanted)
    in_step = max(1, round(tuned.batch_tokens / (length * settings.ranks)))  # rows of a rank
    rows = min(settings.rows, 1 << (in_step.bit_length() - 1))
    accumulation = max(1, round(in_step / rows))
    batch = rows * accumulation * length * settings.ranks
    steps = round(wanted / batch)
    name = f"{budget.name}_{size.name}" + (f"_{seed}" if len(settings.seeds) > 1 else "")
    if steps < LEAST_STEPS:
        most = wanted / LEAST_STEPS
        raise InputError(f"{settings.path}: budgets: {budget.name} FLOPs train size {size.name} for {steps} steps of {batch} "
                         f"tokens, expected at least {LEAST_STEPS}: drop the size there, or lower tuning.batch (steps of at "
                         f"most {most:.0f} tokens)")  # fmt: skip
    warmup = max(1, math.floor(tuned.warmup_tokens / batch))
    return Planned(name, budget, size, seed, config, parts, each, rows, accumulation, batch, steps, warmup, tuned)


def plan_runs(settings: Settings) -> list[Planned]:
    """Small budgets first, so that a sweep tells something early."""
    budgets = sorted(settings.budgets, key=lambda budget: budget.flops)
    return [plan_run(settings, b, s, seed) for b in budgets for s in sorted(b.sizes, key=lambda s: (s.layers, s.hidden_size))
            for seed in settings.seeds]  # fmt: skip


def cost_of_rule(settings: Settings, most_layers: int = 200) -> Cost:
    """FLOPs per token by N for sizes of the rule, far beyond those of the sweep."""
    count, shape = settings.count, settings.shape
    sizes = {size for budget in settings.budgets for size in budget.sizes}
    largest = max(size.layers for size in sizes)
    sizes |= {size_of(layers, shape) for layers in range(largest + 1, most_layers)}
    parts = [count_parts(config_of(size, shape)) for size in sizes]
    return Cost([p.count(count) for p in parts], [flops_per_token(p, shape.seq_len, settings.flops, count) for p in parts])
