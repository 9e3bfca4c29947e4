"""Predicts the time of a step. Nothing is measured; the assumptions are options of plan.py."""

from dataclasses import dataclass

from .gpus import Gpu
from .traffic import Collective

FORMULA = """\
How time is predicted (M micro-batches in a step; E parameters; G ranks that divide the optimizer state):
  compute  = FLOPs of a GPU's tokens / (peak x --efficiency), recomputation included (cheap: bytes read
             and written / (memory bandwidth x 0.8)); with --activations host, if longer, each of the
             two passes takes as long as its bytes / (PCIe's rate x --link-efficiency)
  update   = E/G x 34 bytes (fp32: 36; less with bf16 moments or without
             master weights) / (memory bandwidth x 0.8): norm and AdamW; with --optimizer-state
             host, if longer, its bytes / (PCIe's rate x --link-efficiency), in and out at once
  a ring   = max(bytes on NVLink / its rate, bytes on the network / its rate) / --link-efficiency
             + (ranks - 1) x buckets x --hop-us
  reduce   = rings of gradients less --overlap x backward pass of one micro-batch (ZeRO-2: of all M),
             at least the embedding's part, which comes last
  gather   = ring of parameters less --overlap x forward pass of one micro-batch, at least the
             embedding's part, which is needed first
  replicas = the all-reduce over replicas; with ZeRO-2 nothing hides it, otherwise it is part of reduce
  step     = compute + update + reduce + gather + replicas
  of peak  = the model's FLOPs, without recomputation / (step x peak)
Model FLOPs per token: 6 for each weight in a product, and 6 x T x heads x head_dim per layer (causal
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
    network: float  # bytes per second


MEMORY_EFFICIENCY = 0.8


class ModelCosts:
    """FLOPs per token, from the fields of config.json."""

    def __init__(self, fields: dict, length: int):
        C, F, L = fields["hidden_size"], fields["intermediate_size"], fields["num_hidden_layers"]
        heads = fields["num_attention_heads"]
        width = heads * (fields.get("head_dim") or C // heads)
        keys = (fields.get("num_key_value_heads") or heads) * width // heads
        self.layers, self.width, vocabulary = L, C, fields["vocab_size"] * C
        layer = C * (2 * width + 2 * keys) + 3 * C * F
        norms = (2 * L + 1) * C
        attention = L * width * length
        self.flops = 6 * (L * layer + vocabulary + norms) + 6 * attention
        # recomputed from a block's input to its SwiGLU, except in the last block, whose activations are still there
        self.recomputed = (L - 1) * (2 * (layer - C * F) + 2 * width * length)
        # read and written for the outputs of norms and SwiGLU: floats of parameters' size
        self.recomputed_cheaply = L * (2 * 2 * C + 3 * F)
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
    """Seconds of one such collective."""
    nvlink, network = (b / c.times for b in c.bytes())
    slowest = max(nvlink / (1e9 * a.gpu.nvlink_gbytes), network / a.network)
    return slowest / a.link_efficiency + c.passes * (c.ring.size - 1) * buckets * a.hop_seconds


@dataclass(frozen=True)
class Step:
    tokens: int  # of one GPU
    micro_batches: int
    zero: int
    group: int  # ranks that divide the optimizer state
    recompute: str
    elements: int  # of all parameters
    parameter_bytes: int  # of one element
    update_bytes: int  # that the update of one element reads and writes
    host_bytes: int  # that it copies from the host, and back
    input_bytes: int  # of blocks' inputs that the forward pass copies to the host, and the backward pass back


def predict(costs: ModelCosts, s: Step, rings: list[Collective], a: Assumptions) -> Prediction:
    rate = a.peak * a.efficiency
    forward = s.tokens * costs.flops / 3 / rate
    memory_rate = 1e9 * a.gpu.memory_gbytes * MEMORY_EFFICIENCY
    recompute = {"none": 0, "cheap": s.parameter_bytes * costs.recomputed_cheaply / memory_rate, "block": costs.recomputed / rate}
    host_rate = 1e9 * a.gpu.pcie_gbytes * a.link_efficiency
    backward = max(2 * forward + s.tokens * recompute[s.recompute], s.input_bytes / host_rate)
    forward = max(forward, s.input_bytes / host_rate)
    update = max(s.elements / s.group * s.update_bytes / memory_rate, s.host_bytes / host_rate)
    seconds = {c.name: ring_seconds(c, a, costs.buckets) for c in rings}
    last = costs.vocabulary / s.elements  # the embedding's gradient comes last, its parameters are needed first
    shards = s.zero == 2 and s.group > 1
    once = seconds.get("reduce", 0) + (0 if shards else seconds.get("replicas", 0))
    times = s.micro_batches if shards else 1
    reduce = max(times * once - a.overlap * backward * times / s.micro_batches, once * last)
    gather = seconds.get("gather", 0)
    gather = max(gather - a.overlap * forward / s.micro_batches, gather * last)
    replicas = seconds.get("replicas", 0) if shards else 0
    step = forward + backward + update + reduce + gather + replicas
    of_peak = s.tokens * costs.flops / (step * a.peak)
    return Prediction(forward + backward, update, reduce, replicas, gather, of_peak)
