"""Learning rate, batch, warmup and beta2 as functions of size, so that no size is handicapped by settings tuned for another.

With n = N / 108e6, N counted as the plan file says:

    batch    batch * n^batch_exponent tokens a step                     327,680 * n^(2/3)
    rate     lr * n^lr_exponent                                         0.00235 * n^(-1/3), at most lr_most
    warmup   N tokens, at most warmup_most of the run                   a long one would cut short runs off
    beta2    0.99 in steps of fewer than 524,288 tokens, else 0.95      few tokens make a noisy second moment

The constants are those of OLMo-core's model ladder (src/olmo_core/model_ladder/wsds_chinchilla_run_configurator.py); "tuning"
in the plan file replaces any of them. The rate decays along a cosine to a tenth, as in the Llama 3 paper, section 3.2.1: at the
end of each run, never later, as a run whose rate has not decayed has too high a loss.
"""

from dataclasses import dataclass, fields

from llmdata.section import Section

REFERENCE = 108e6  # parameters
FINAL_FRACTION = 0.1


@dataclass(frozen=True)
class Rule:
    batch: float = 2048 * 160
    batch_exponent: float = 2 / 3
    lr: float = 0.0047 / 2
    lr_exponent: float = -1 / 3
    lr_most: float = 0.02
    warmup_most: float = 0.1
    beta2_small: float = 0.99
    beta2_large: float = 0.95
    beta2_from: float = 524_288


BOUNDS = {
    "batch": (1, 1e12), "batch_exponent": (-2, 2), "lr": (1e-9, 10), "lr_exponent": (-2, 2), "lr_most": (1e-9, 10),
    "warmup_most": (0, 1), "beta2_small": (0, 0.999999), "beta2_large": (0, 0.999999), "beta2_from": (0, 1e15),
}  # fmt: skip


def read_rule(section: Section) -> Rule:
    rule = Rule(**{f.name: float(section.number(f.name, *BOUNDS[f.name], f.default)) for f in fields(Rule)})
    section.close()
    return rule


@dataclass(frozen=True)
class Tuned:
    batch_tokens: float  # wanted; what rows and steps allow is planning's
    lr: float
    warmup_tokens: float
    beta2: float


def tune(rule: Rule, parameters: float, tokens: float) -> Tuned:
    n = parameters / REFERENCE
    batch = rule.batch * n**rule.batch_exponent
    warmup = min(parameters, rule.warmup_most * tokens)
    return Tuned(batch, min(rule.lr * n**rule.lr_exponent, rule.lr_most), warmup,
                 rule.beta2_small if batch < rule.beta2_from else rule.beta2_large)  # fmt: skip
