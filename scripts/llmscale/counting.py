"""Parameters and training FLOPs of a Llama model, in every way that published scaling laws count them.

The same runs give other laws when they are counted otherwise: the exponent of N*(C) has been 0.37 with all parameters, 0.54
with matrices and head, and 0.70 with the matrices of the blocks alone. So every run carries all counts, and each fit names its own.
"""

from dataclasses import dataclass

import numpy as np

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
    """FLOPs per token as a function of N, between and beyond the sizes that are known: straight lines in log-log."""

    def __init__(self, parameters, flops):
        order = np.argsort(np.asarray(parameters, float))
        x, y = np.log(np.asarray(parameters, float)[order]), np.log(np.asarray(flops, float)[order])
        keep = np.concatenate([[True], np.diff(x) > 1e-9])
        self.x, self.y = x[keep], y[keep]

    def log_flops(self, log_n):
        """log FLOPs per token at log N."""
        if len(self.x) == 1:
            return log_n + (self.y[0] - self.x[0])
        log_n = np.asarray(log_n, float)
        inside = np.interp(log_n, self.x, self.y)
        low = self.y[0] + (log_n - self.x[0]) * self._slope(slice(None, 2))
        high = self.y[-1] + (log_n - self.x[-1]) * self._slope(slice(-2, None))
        return np.where(log_n < self.x[0], low, np.where(log_n > self.x[-1], high, inside))

    def _slope(self, ends: slice) -> float:
        x, y = self.x[ends], self.y[ends]
        return (y[1] - y[0]) / (x[1] - x[0])

    def log_size(self, log_budget, log_tokens):
        """log N of the model that a budget trains on so many tokens: the inverse of log_flops."""
        wanted = np.asarray(log_budget, float) - np.asarray(log_tokens, float)
        if len(self.x) == 1:
            return wanted - (self.y[0] - self.x[0])
        inside = np.interp(wanted, self.y, self.x)
        low = self.x[0] + (wanted - self.y[0]) / self._slope(slice(None, 2))
        high = self.x[-1] + (wanted - self.y[-1]) / self._slope(slice(-2, None))
        return np.where(wanted < self.y[0], low, np.where(wanted > self.y[-1], high, inside))
