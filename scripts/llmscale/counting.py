"""Parameters and training FLOPs of a Llama model, in every way that published scaling laws count them.

The same runs give other laws when they are counted otherwise: the exponent of N*(C) has been 0.37 with all parameters, 0.54
with matrices and head, and 0.70 with the matrices of the blocks alone. So every run carries all counts, and each fit names its own.
"""

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import make_interp_spline

# what N counts: the parts that are added
COUNTS = {
    "matrices": ("matrices",),
    "matrices+head": ("matrices", "head"),
    "matrices+embeddings": ("matrices", "embeddings"),
    "all": ("matrices", "head", "embeddings", "norms"),
}
EXACT, SIX_ND = "exact", "6ND"
FLOPS = (EXACT, SIX_ND)


@dataclass(frozen=True)
class Parts:
    """Parameters by kind. A tied head has its weights in `embeddings`, yet is multiplied: see `multiplied`."""

    matrices: int  # of attention and MLP, in all blocks
    head: int  # of the output projection; 0 where it is tied
    embeddings: int
    norms: int
    multiplied_head: int  # weights of the output product, tied or not
    attention: int  # layers * heads * head_dim, the width that attention scores are computed over

    def count(self, name: str) -> int:
        """N as `name` of COUNTS has it. With matrices+head a tied head counts too: it costs the same products."""
        if name == "matrices+head":
            return self.matrices + self.multiplied_head
        return sum(getattr(self, part) for part in COUNTS[name])


def count_parts(config: dict) -> Parts:
    C, F, L, V = (config[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size"))
    heads = config["num_attention_heads"]
    width = config.get("head_dim") or C // heads
    queries, keys = heads * width, (config.get("num_key_value_heads") or heads) * width
    matrices = L * (C * (2 * queries + 2 * keys) + 3 * C * F)
    head = 0 if config.get("tie_word_embeddings") else V * C
    return Parts(matrices, head, V * C, (2 * L + 1) * C, V * C, L * queries)


def flops_per_token(parts: Parts, length: int, rule: str, count: str) -> float:
    """Of the forward and the backward pass, for a token in rows of `length` tokens.

    6ND: six for each parameter that `count` counts. exact: six for each weight of a matrix product, the head included, and 6 *
    length * heads * head_dim a layer for causal attention, as llmc/recipe/flops.h counts.
    """
    if rule == SIX_ND:
        return 6.0 * parts.count(count)
    return 6.0 * (parts.matrices + parts.multiplied_head) + 6.0 * length * parts.attention


class Cost:
    """FLOPs per token as a function of N, and its inverse: straight lines in log-log, drawn on beyond the sizes that are known.
    A size that costs no more than a smaller one, as a wide one beside a deep one may, is left out."""

    def __init__(self, parameters, flops):
        x, first = np.unique(np.log(np.asarray(parameters, float)), return_index=True)
        y = np.log(np.asarray(flops, float)[first])
        rises = np.diff(np.maximum.accumulate(y), prepend=-np.inf) > 1e-9
        x, y = x[rises], y[rises]
        if len(x) == 1:  # proportional to N
            x, y = np.append(x, x + 1), np.append(y, y + 1)
        self._flops, self._size = make_interp_spline(x, y, 1), make_interp_spline(y, x, 1)

    def log_flops(self, log_n):
        """log FLOPs per token at log N."""
        return self._flops(log_n)

    def log_size(self, log_budget, log_tokens):
        """log N of the model that a budget trains on so many tokens."""
        return self._size(np.subtract(log_budget, log_tokens))
