"""The rule that makes a Llama configuration of a number of layers, so that a sweep's models differ by size alone.

    hidden_size          width_per_layer * layers, rounded up to a multiple of head_dim
    heads                hidden_size / head_dim; key and value heads: as many as divide the heads, at most heads / query_group
    intermediate_size    ffn_ratio * hidden_size, rounded up to a multiple of ffn_multiple

A size may also give its width: {"layers": 4, "hidden_size": 192}.
"""

import math
from dataclasses import dataclass

from llmdata.section import Section, short


@dataclass(frozen=True)
class Shape:
    """What all models of a sweep have in common."""

    vocab_size: int
    width_per_layer: int
    head_dim: int
    query_group: int  # queries for each head of keys and values
    ffn_ratio: float
    ffn_multiple: int
    tied: bool
    rope_theta: float
    initializer_range: float  # standard deviation of the first weights
    seq_len: int


@dataclass(frozen=True)
class Size:
    layers: int
    hidden_size: int

    @property
    def name(self) -> str:
        return f"{self.layers}x{self.hidden_size}"


def read_shape(section: Section, vocab_size: int, seq_len: int) -> Shape:
    number = section.number
    shape = Shape(
        number("vocab_size", 2, 1 << 24, vocab_size, whole=True), number("width_per_layer", 1, 4096, 64, whole=True),
        number("head_dim", 16, 256, 64, whole=True), number("query_group", 1, 256, 2, whole=True),
        float(number("ffn_ratio", 0.25, 16, 8 / 3)), number("ffn_multiple", 1, 4096, 64, whole=True), section.flag("tied", True),
        float(number("rope_theta", 1, 1e9, 500000)), float(number("initializer_range", 1e-6, 1, 0.02)), seq_len,
    )  # fmt: skip
    if shape.vocab_size < vocab_size:
        section.fail("vocab_size", f"expected at least the data's {vocab_size}, found {shape.vocab_size}")
    if shape.head_dim % 16:
        section.fail("head_dim", f"expected a multiple of 16, found {shape.head_dim}")
    section.close()
    return shape


def round_up(value: float, multiple: int) -> int:
    return multiple * math.ceil(value / multiple - 1e-9)


def size_of(layers: int, shape: Shape) -> Size:
    return Size(layers, round_up(layers * shape.width_per_layer, shape.head_dim))


def read_size(owner: Section, name: str, value, shape: Shape) -> Size:
    if isinstance(value, int) and not isinstance(value, bool):
        value = {"layers": value}
    if not isinstance(value, dict):
        owner.fail(name, f'expected a number of layers, or {{"layers", "hidden_size"}}, found {short(value)}')
    section = type(owner)(owner.path, ".".join(filter(None, (owner.place, name))), value)
    layers = section.number("layers", 1, 1000, whole=True)
    width = section.number("hidden_size", 1, 1 << 20, size_of(layers, shape).hidden_size, whole=True)
    section.close()
    if width % shape.head_dim:
        near = max(1, width // shape.head_dim) * shape.head_dim
        section.fail("hidden_size", f"expected a multiple of head_dim {shape.head_dim}, as {near}, found {short(width)}")
    return Size(layers, width)


def config_of(size: Size, shape: Shape) -> dict:
    """The model as config.json has it."""
    heads = size.hidden_size // shape.head_dim
    keys = max(k for k in range(1, heads + 1) if heads % k == 0 and k <= max(1, heads // shape.query_group))
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": shape.vocab_size,
        "hidden_size": size.hidden_size, "intermediate_size": round_up(shape.ffn_ratio * size.hidden_size, shape.ffn_multiple),
        "num_hidden_layers": size.layers, "num_attention_heads": heads, "num_key_value_heads": keys,
        "head_dim": shape.head_dim, "hidden_act": "silu", "max_position_embeddings": shape.seq_len, "rms_norm_eps": 1e-5,
        "rope_theta": shape.rope_theta, "initializer_range": shape.initializer_range, "attention_bias": False, "mlp_bias": False,
        "attention_dropout": 0.0, "tie_word_embeddings": shape.tied, "torch_dtype": "bfloat16",
    }  # fmt: skip
