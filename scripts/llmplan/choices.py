"""What can be chosen for a number of GPUs, and what each choice takes: memory, bytes on the links, time."""

import argparse
from dataclasses import dataclass

from llmdata.errors import InputError
from llmdata.model_folder import find_model
from llmdata.text_file import read_json

from .gpus import GPUS
from .library import Planner
from .predict import Assumptions, ModelCosts, Prediction, Step, predict
from .traffic import Layout, collectives, total

GIB = 1 << 30
RECOMPUTE = ("none", "cheap", "block")
MODES = ("moments", "master_weights", "optimizer_state", "activations", "grad_reduce")  # as options of train_llama3


@dataclass
class Choice:
    gpus: int
    zero: int
    group: int  # ranks that divide parameters' state among them
    recompute: str  # none, cheap or block
    rows: int
    micro_batches: int
    memory: dict[str, int]  # bytes by category
    host_bytes: int  # page-locked host memory
    links: tuple[float, float]  # bytes that each GPU sends in a step over NVLink and over the network
    time: Prediction
    fits: bool

    @property
    def bytes(self) -> int:
        return sum(self.memory.values())


class Plan:
    """All choices for one model and kind of GPU."""

    def __init__(self, options: argparse.Namespace):
        self.options, self.gpu = options, GPUS[options.gpu]
        if options.config.is_dir():
            options.config = find_model(options.config) / "config.json"
        modes = {name: getattr(options, name) for name in MODES}
        self.planner = Planner(options.config, options.precision, modes)
        self.parameter_bytes = 2 if options.precision == "bf16" else 4
        self.budget = (self.gpu.memory_gib - options.reserve_gib) * GIB
        peak = self.gpu.bf16_tflops if options.precision == "bf16" else self.gpu.fp32_tflops
        network = (options.link_gbps or self.gpu.network_gbits) * 1e9 / 8
        self.assumed = Assumptions(options.efficiency, options.link_efficiency, options.overlap, options.hop_us / 1e6,
                                   1e12 * peak, self.gpu, network)  # fmt: skip
        fields = self.read_config()
        options.seq_len = options.seq_len or min(8192, fields["max_position_embeddings"])
        self.planner.memory(1, options.seq_len, "none", 0, 1, 1)  # raises for a model that the library cannot train
        self.costs = ModelCosts(fields, options.seq_len)

    def read_config(self) -> dict:
        self.planner.memory(1, 1, "none", 0, 1, 1)  # checks the file, so that its fields exist from here on
        return read_json(self.options.config)

    def update_bytes(self) -> int:
        """Of a parameter: its gradient twice (norm and update), its optimizer state in and out, the parameter out."""
        moments, master = (2 if self.options.moments == "bf16" else 4), 4 if self.options.master_weights == "fp32" else 0
        return 8 + 2 * (2 * moments + master) + self.parameter_bytes * (1 if master else 2)

    def input_bytes(self, rows: int) -> int:
        """Of the blocks' inputs of a micro-batch that wait in host memory; those of two blocks stay on the device."""
        tokens = rows * self.options.seq_len if self.options.activations == "host" else 0
        return max(self.costs.layers - 2, 0) * tokens * self.costs.width * self.parameter_bytes

    def layouts(self, gpus: int) -> list[Layout]:
        node = self.options.gpus_per_node
        if gpus > node and gpus % node:
            raise InputError(f"--gpus {gpus}: expected at most --gpus-per-node, {node}, or a multiple of it")
        divided = [(zero, group) for zero in (1, 2) for group in sorted({min(node, gpus), gpus}) if group > 1]
        return [Layout(gpus, node, zero, group) for zero, group in [(0, 1), *divided]]

    def accumulation(self, gpus: int, rows: int) -> int:
        """Micro-batches in a step; 0: the tokens of a step cannot be divided so."""
        tokens = gpus * rows * self.options.seq_len
        return 0 if self.options.tokens_per_step % tokens else self.options.tokens_per_step // tokens

    def choice(self, layout: Layout, recompute: str, rows: int) -> Choice:
        o, micro = self.options, self.accumulation(layout.gpus, rows)
        shape = (rows, o.seq_len, recompute, layout.zero, layout.group, layout.replicas)
        memory, host_bytes = self.planner.memory(*shape), self.planner.host_bytes(*shape)
        elements = memory["parameters"] // self.parameter_bytes
        rings = collectives(layout, elements, self.parameter_bytes, micro, o.grad_reduce == "bf16")
        inputs = self.input_bytes(rows)
        step = Step(o.tokens_per_step // layout.gpus, micro, layout.zero, layout.group, recompute, elements, self.parameter_bytes,
                    self.update_bytes(), host_bytes - inputs, micro * inputs)  # fmt: skip
        time = predict(self.costs, step, rings, self.assumed)
        fits = sum(memory.values()) <= self.budget
        return Choice(layout.gpus, layout.zero, layout.group, recompute, rows, micro, memory, host_bytes, total(rings), time, fits)

    def choices(self, gpus: int) -> list[Choice]:
        layouts = self.layouts(gpus)
        rows = [r for r in self.options.rows if self.accumulation(gpus, r)]
        return [self.choice(layout, recompute, r) for layout in layouts for recompute in RECOMPUTE for r in rows]

    def too_many(self, gpus: int) -> str:
        o = self.options
        least = gpus * o.seq_len * min(o.rows)
        if least > o.tokens_per_step:
            most = o.tokens_per_step // (o.seq_len * min(o.rows))
            return (f"{gpus} GPUs with a row of {o.seq_len} tokens each make {least} tokens a step, more than "
                    f"--tokens-per-step {o.tokens_per_step}: data parallelism ends at {most} GPUs")  # fmt: skip
        return (f"--tokens-per-step {o.tokens_per_step} is no multiple of {gpus} GPUs x --rows {','.join(map(str, o.rows))} "
                f"x {o.seq_len} tokens")  # fmt: skip

    # ---- with any number of GPUs

    def floor(self, zero: int) -> dict[str, float]:
        """Bytes by category that remain with recomputation and one row, however many ranks divide the rest."""
        shards = 2 if zero == 2 else 1
        memory = dict(self.planner.memory(1, self.options.seq_len, "block", zero, shards, 1))
        if zero > 0:
            memory["optimizer state"] = 0
        if zero == 2:  # buffers for whole buckets remain, the pieces that ranks keep vanish
            memory.update({"gradients": 0, "communication": memory["communication"] * shards // (shards + 1)})
        return memory

    def smallest(self, zero: int) -> int | None:
        """The smallest power of two of GPUs that can hold the model; None: no number of GPUs can."""
        gpus = 1
        while self.accumulation(gpus, 1):
            group = 1 if zero == 0 else gpus
            memory = self.planner.memory(1, self.options.seq_len, "block", zero, group, gpus // group)
            if sum(memory.values()) <= self.budget:
                return gpus
            gpus *= 2
        return None


def best(found: list[Choice]) -> Choice | None:
    """The fastest choice that fits; among equals, the one that takes less memory."""
    fitting = [c for c in found if c.fits]
    return min(fitting, key=lambda c: (round(c.time.step, 4), c.bytes)) if fitting else None
