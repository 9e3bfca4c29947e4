"""A step's time, predicted. Nothing of it is measured: what it assumes are the options of plan.py."""

from dataclasses import dataclass

from .gpus import Gpu
from .traffic import Collective

FORMULA = """\
How time is predicted (M micro-batches a step; E parameters, G ranks that divide them):
  compute  = FLOPs of a GPU's tokens / (peak x --efficiency); what is computed again costs FLOPs too
  update   = E/G x 34 bytes (fp32: 36) / (memory bandwidth x 0.8): norm and AdamW
  a ring   = max(bytes on NVLink / its rate, bytes on the network / its rate) / --link-efficiency
             + (ranks - 1) x buckets x --hop-us
  reduce   = rings of gradients - --overlap x backward pass of one micro-batch (ZeRO-2: of all M),
             not below the embedding's part, which comes last
  gather   = ring of parameters - --overlap x forward pass of one micro-batch, not below the
             embedding's part, which is needed first
  replicas = their sum: with ZeRO-2 hidden by nothing, else a part of reduce
  step     = compute + update + reduce + gather + replicas
  of peak  = the model's FLOPs, nothing counted twice / (step x peak)
Model FLOPs of a token: 6 for each weight that is multiplied, and 6 T heads head_dim a layer (causal
attention).
"""


@dataclass(frozen=True)
class Assumptions:
    efficiency: float
    link_efficiency: float
    overlap: float
    hop_seconds: float
    peak: float  # FLOP/s
    gpu: Gpu
    network: float  # bytes a second


MEMORY_EFFICIENCY = 0.8


class ModelCosts:
    """FLOPs of a token, from the fields of config.json."""

    def __init__(self, fields: dict, length: int):
        C, F, L = fields["hidden_size"], fields["intermediate_size"], fields["num_hidden_layers"]
        heads = fields["num_attention_heads"]
        width = heads * (fields.get("head_dim") or C // heads)
        keys = (fields.get("num_key_value_heads") or heads) * width // heads
        self.layers, vocabulary = L, fields["vocab_size"] * C
        layer = C * (2 * width + 2 * keys) + 3 * C * F
        norms = (2 * L + 1) * C
        attention = L * width * length
        self.flops = 6 * (L * layer + vocabulary + norms) + 6 * attention
        # again from the block's input to the swiglu; the last block's activations are still there
        self.recomputed = (L - 1) * (2 * (layer - C * F) + 2 * width * length)
        self.buckets = L + (2 if fields.get("tie_word_embeddings") else 3)
        self.vocabulary = vocabulary


@dataclass(frozen=True)
class Prediction:
    compute: float
    update: float
    reduce: float
    replicas: float
    gather: float
    of_peak: float

    @property
    def exposed(self) -> float:
        return self.reduce + self.replicas + self.gather

    @property
    def step(self) -> float:
        return self.compute + self.update + self.exposed


def ring_seconds(c: Collective, a: Assumptions, buckets: int) -> float:
    """Of one time."""
    nvlink, network = (b / c.times for b in c.bytes())
    slowest = max(nvlink / (1e9 * a.gpu.nvlink_gbytes), network / a.network)
    return slowest / a.link_efficiency + c.passes * (c.ring.size - 1) * buckets * a.hop_seconds


def predict(costs: ModelCosts, tokens: int, micro_batches: int, zero: int, group: int, recompute: bool, elements: int,
            parameter_bytes: int, rings: list[Collective], a: Assumptions) -> Prediction:  # fmt: skip
    """tokens: of one GPU in a step."""
    rate = a.peak * a.efficiency
    forward = tokens * costs.flops / 3 / rate
    backward = 2 * forward + (tokens * costs.recomputed / rate if recompute else 0)
    update = elements / group * (4 + 28 + parameter_bytes) / (1e9 * a.gpu.memory_gbytes * MEMORY_EFFICIENCY)
    seconds = {c.name: ring_seconds(c, a, costs.buckets) for c in rings}
    last = costs.vocabulary / elements  # the embedding's gradient comes last, its parameters are needed first
    shards = zero == 2 and group > 1
    once = seconds.get("reduce", 0) + (0 if shards else seconds.get("replicas", 0))
    times = micro_batches if shards else 1
    reduce = max(times * once - a.overlap * backward * times / micro_batches, once * last)
    gather = seconds.get("gather", 0)
    gather = max(gather - a.overlap * forward / micro_batches, gather * last)
    replicas = seconds.get("replicas", 0) if shards else 0
    step = forward + backward + update + reduce + gather + replicas
    of_peak = tokens * costs.flops / (step * a.peak)
    return Prediction(forward + backward, update, reduce, replicas, gather, of_peak)
