#!/usr/bin/env python3
"""Plans a training run over many GPUs: what fits, what each link carries, and how fast it could be.

    plan.py --config configs/llama3_8b.json --gpus 8 --gpu h100        every choice, and the best
    plan.py --config configs/llama3_8b.json --gpus 1,2,4,8,16,32,64    the best for each number
    plan.py --config configs/llama3_405b.json --gpus 1024 --gpu h100   what cannot be done, and why

Memory is the library's own plan, byte for byte what train_llama3 prints, plus what a GPU's matrix
library takes and --reserve-gib. Bytes on the links follow from the collectives that the trainer
makes, as rings. Time is a prediction from assumptions that are options here: compare choices by it,
and measure before you believe it.

The published training of the 405B reached 38 to 43 % of peak on 8,192 and 16,384 H100 (Llama 3
paper, table 4), with parameters divided by 8-way tensor and 16-way pipeline parallelism: that share
counts pipeline bubbles and tensor exchange, which this trainer has not, and no recomputation. This
tool's counts neither stragglers nor input nor evaluation.

Needs a built library (make TARGET=cpu), no GPU. Exit codes: 0 done (also where nothing fits); 2 bad
usage or input; 1 anything else.
"""

import argparse
import json
import sys
import textwrap
from dataclasses import asdict, dataclass
from pathlib import Path

from llmdata.model_folder import find_model
from llmdata.text_file import read_json
from llmdata.options import add_version
from llmplan.gpus import GPUS
from llmplan.library import Fault, InputError, Planner
from llmplan.predict import FORMULA, Assumptions, ModelCosts, Prediction, predict
from llmplan.traffic import Layout, collectives, total

GIB = 1 << 30
WIDTH = 100
MEMORY_COLUMNS = {"params": "parameters", "grads": "gradients", "optim.": "optimizer state", "comm.": "communication",
                  "activ.": "activations"}  # fmt: skip


def counts(text: str) -> list[int]:
    try:
        values = [int(word) for word in text.split(",")]
    except ValueError:
        values = [0]
    if min(values) < 1 or max(values) > 1 << 20:
        raise argparse.ArgumentTypeError(f"'{text}': expected whole numbers from 1 to 1048576, separated by commas")
    return values


def number(low: float, high: float, kind=float):
    def parse(text: str):
        try:
            value = kind(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"'{text}': expected a number from {low:g} to {high:g}")
        return value

    return parse


def parse_arguments() -> argparse.Namespace:
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, epilog=FORMULA, formatter_class=shape)
    add_version(parser)
    add = parser.add_argument
    add("--config", required=True, type=Path, metavar="FILE", help="config.json of a Llama model")
    add("--gpus", required=True, type=counts, metavar="N[,N...]", help="how many; several: a row for each")
    add("--gpu", choices=GPUS, default="h100", help="kind of GPU (default: %(default)s)")
    add("--seq-len", type=number(1, 1 << 20, int), metavar="N", help="tokens a row (default: 8192, or the model's most)")
    add("--tokens-per-step", type=number(1, 1e15, int), default=1 << 24, metavar="N",
        help="of all GPUs together (default: %(default)s, the 405B's last batch)")  # fmt: skip
    add("--rows", type=counts, default=[1, 2, 4, 8], metavar="N[,N...]",
        help="micro-batch rows to try (default: 1,2,4,8)")  # fmt: skip
    add("--precision", choices=["bf16", "fp32"], default="bf16", help="the build (default: %(default)s)")
    add("--gpus-per-node", type=number(1, 1024, int), default=8, metavar="N", help="joined by NVLink (default: %(default)s)")
    add("--link-gbps", type=number(0.001, 1e6), metavar="X",
        help="network of each GPU in Gbit/s, each way (default: that of the GPU's DGX: 200 a100, else 400)")  # fmt: skip
    add("--reserve-gib", type=number(0, 1e4), default=3.0, metavar="X",
        help="GiB of a GPU left to CUDA, NCCL and fragments; assumed (default: %(default)s)")  # fmt: skip
    add("--efficiency", type=number(0.001, 1), default=0.5, metavar="X",
        help="share of peak that computation alone reaches; assumed (default: %(default)s)")  # fmt: skip
    add("--link-efficiency", type=number(0.001, 1), default=0.8, metavar="X",
        help="share of a link's rate that a ring reaches; assumed (default: %(default)s)")  # fmt: skip
    add("--overlap", type=number(0, 1), default=0.9, metavar="X",
        help="share of backward and forward time that communication hides behind; assumed (default: %(default)s)")  # fmt: skip
    add("--hop-us", type=number(0, 1e6), default=5.0, metavar="X",
        help="microseconds from a rank to the next, for each collective; assumed (default: %(default)s)")  # fmt: skip
    add("--all", action="store_true", help="also choices that do not fit, whatever their micro-batch")
    add("--json", action="store_true", help="everything as one JSON object")
    return parser.parse_args()


# ---- choices


@dataclass
class Choice:
    gpus: int
    zero: int
    group: int
    recompute: bool
    rows: int
    micro_batches: int
    memory: dict[str, int]  # bytes by category
    links: tuple[float, float]  # bytes a step and GPU over NVLink, over the network
    time: Prediction
    fits: bool

    @property
    def bytes(self) -> int:
        return sum(self.memory.values())


class Plan:
    def __init__(self, options: argparse.Namespace):
        self.options, self.gpu = options, GPUS[options.gpu]
        if options.config.is_dir():
            options.config = find_model(options.config) / "config.json"
        self.planner = Planner(options.config, options.precision)
        self.parameter_bytes = 2 if options.precision == "bf16" else 4
        self.budget = (self.gpu.memory_gib - options.reserve_gib) * GIB
        peak = self.gpu.bf16_tflops if options.precision == "bf16" else self.gpu.fp32_tflops
        network = (options.link_gbps or self.gpu.network_gbits) * 1e9 / 8
        self.assumed = Assumptions(options.efficiency, options.link_efficiency, options.overlap, options.hop_us / 1e6,
                                   1e12 * peak, self.gpu, network)  # fmt: skip
        fields = self.read_config()
        options.seq_len = options.seq_len or min(8192, fields["max_position_embeddings"])
        self.planner.memory(1, options.seq_len, False, 0, 1, 1)  # the library refuses what it cannot train
        self.costs = ModelCosts(fields, options.seq_len)

    def read_config(self) -> dict:
        self.planner.memory(1, 1, False, 0, 1, 1)  # checks the file: its fields are there from here on
        return read_json(self.options.config)

    def layouts(self, gpus: int) -> list[Layout]:
        node = self.options.gpus_per_node
        if gpus > node and gpus % node:
            raise InputError(f"--gpus {gpus}: expected at most --gpus-per-node, {node}, or a multiple of it")
        divided = [(zero, group) for zero in (1, 2) for group in sorted({min(node, gpus), gpus}) if group > 1]
        return [Layout(gpus, node, zero, group) for zero, group in [(0, 1), *divided]]

    def accumulation(self, gpus: int, rows: int) -> int:
        """Micro-batches a step; 0: it does not divide."""
        tokens = gpus * rows * self.options.seq_len
        return 0 if self.options.tokens_per_step % tokens else self.options.tokens_per_step // tokens

    def choice(self, layout: Layout, recompute: bool, rows: int) -> Choice:
        o, micro = self.options, self.accumulation(layout.gpus, rows)
        memory = self.planner.memory(rows, o.seq_len, recompute, layout.zero, layout.group, layout.replicas)
        elements = memory["parameters"] // self.parameter_bytes
        rings = collectives(layout, elements, self.parameter_bytes, micro)
        time = predict(self.costs, o.tokens_per_step // layout.gpus, micro, layout.zero, layout.group, recompute, elements,
                       self.parameter_bytes, rings, self.assumed)  # fmt: skip
        fits = sum(memory.values()) <= self.budget
        return Choice(layout.gpus, layout.zero, layout.group, recompute, rows, micro, memory, total(rings), time, fits)

    def choices(self, gpus: int) -> list[Choice]:
        layouts = self.layouts(gpus)
        rows = [r for r in self.options.rows if self.accumulation(gpus, r)]
        return [self.choice(layout, recompute, r) for layout in layouts for recompute in (False, True) for r in rows]

    def too_many(self, gpus: int) -> str:
        o = self.options
        least = gpus * o.seq_len * min(o.rows)
        if least > o.tokens_per_step:
            most = o.tokens_per_step // (o.seq_len * min(o.rows))
            return (f"{gpus} GPUs with a row of {o.seq_len} tokens each make {least} tokens a step, more than "
                    f"--tokens-per-step {o.tokens_per_step}: data parallelism ends at {most} GPUs")  # fmt: skip
        return (f"--tokens-per-step {o.tokens_per_step} is no multiple of {gpus} GPUs x --rows {','.join(map(str, o.rows))} "
                f"x {o.seq_len} tokens")  # fmt: skip

    # ---- however many GPUs

    def floor(self, zero: int) -> dict[str, float]:
        """Bytes by category with recomputation, one row and ever more ranks that divide."""
        shards = 2 if zero == 2 else 1
        memory = dict(self.planner.memory(1, self.options.seq_len, True, zero, shards, 1))
        if zero > 0:
            memory["optimizer state"] = 0
        if zero == 2:  # whole buckets stay, their pieces vanish
            memory.update({"gradients": 0, "communication": memory["communication"] * shards // (shards + 1)})
        return memory

    def smallest(self, zero: int) -> int | None:
        """The least power of two of GPUs that holds the model, in the least memory."""
        gpus = 1
        while self.accumulation(gpus, 1):
            group = 1 if zero == 0 else gpus
            memory = self.planner.memory(1, self.options.seq_len, True, zero, group, gpus // group)
            if sum(memory.values()) <= self.budget:
                return gpus
            gpus *= 2
        return None


def best(found: list[Choice]) -> Choice | None:
    """The fastest that fits; of equals the one that takes less memory."""
    fitting = [c for c in found if c.fits]
    return min(fitting, key=lambda c: (round(c.time.step, 4), c.bytes)) if fitting else None


# ---- what a person sees


def say(text: str) -> None:
    print(textwrap.fill(text, WIDTH))


def gib(size: float) -> str:
    value = size / GIB
    return f"{value:.2f}" if value < 99.995 else f"{value:.0f}" if value >= 9999.5 else f"{value:.1f}"


def gigabytes(size: float) -> str:
    value = size / 1e9
    return "-" if value == 0 else f"{value:.2f}" if value < 99.995 else f"{value:.0f}"


def seconds(value: float) -> str:
    return f"{value:.3f}" if value < 99.9995 else f"{value:.1f}"


def key(number: int, c: Choice, all_gpus: int) -> str:
    group = "-" if c.zero == 0 else "all" if c.group == all_gpus else str(c.group)
    return f"{number:3d}  {c.zero:4d} {group:>5} {'block' if c.recompute else 'none':>6} {f'{c.rows}x{c.micro_batches}':>8}"


KEY = f"{'':3}  {'ZeRO':>4} {'group':>5} {'recomp':>6} {'rows x M':>8}"


def print_memory(shown: list[Choice], plan: Plan, marked: Choice | None) -> None:
    print(f"Memory of each GPU, GiB (at most {plan.budget / GIB:.1f}: {plan.gpu.memory_gib:g} less "
          f"{plan.options.reserve_gib:g} for CUDA and NCCL)")  # fmt: skip
    print(KEY + "".join(f" {name:>7}" for name in [*MEMORY_COLUMNS, "other", "total"]) + "  fits")
    for number, c in enumerate(shown, 1):
        named = [c.memory[name] for name in MEMORY_COLUMNS.values()]
        sizes = [*named, c.bytes - sum(named), c.bytes]
        fits = "best" if c is marked else "yes" if c.fits else "no"
        print(key(number, c, c.gpus) + "".join(f" {gib(size):>7}" for size in sizes) + f"  {fits}")


def print_times(shown: list[Choice], plan: Plan) -> None:
    print("\nEach GPU sends in a step, GB; a step's predicted seconds (M: micro-batches a step)")
    names = ["NVLink", "network", "compute", "update", "exposed", "step", "of peak"]
    print(KEY + "".join(f" {name:>8}" for name in names))
    for number, c in enumerate(shown, 1):
        t = c.time
        texts = [*map(gigabytes, c.links), *map(seconds, (t.compute, t.update, t.exposed, t.step))]
        texts.append(f"{100 * t.of_peak:.1f} %")
        print(key(number, c, c.gpus) + "".join(f" {text:>8}" for text in texts) + ("" if c.fits else " *"))
    print("exposed: communication that computation does not hide")
    if not all(c.fits for c in shown):
        print("* does not fit: the time is what it would be with more memory")


def print_head(plan: Plan) -> None:
    o, a = plan.options, plan.assumed
    elements = plan.planner.memory(1, 1, False, 0, 1, 1)["parameters"] / plan.parameter_bytes
    print(f"{o.config}: {elements / 1e9:.2f} G parameters, {o.precision}, rows of {o.seq_len} tokens, "
          f"{o.tokens_per_step} tokens a step")  # fmt: skip
    print(f"{o.gpu}: {a.peak / 1e12:g} TFLOP/s dense, {plan.gpu.memory_gib:g} GiB; {o.gpus_per_node} a node by NVLink of "
          f"{plan.gpu.nvlink_gbytes:g} GB/s, network {a.network / 1e9:g} GB/s a GPU, each way")  # fmt: skip
    print(f"Assumed: computation alone {100 * a.efficiency:g} % of peak, links {100 * a.link_efficiency:g} % of their rate, "
          f"overlap {100 * a.overlap:g} %, {o.hop_us:g} us a hop\n")  # fmt: skip


def describe(c: Choice) -> str:
    group = "" if c.zero == 0 else f" --shard-group {c.group}"
    return (f"--zero {c.zero}{group} --recompute {'block' if c.recompute else 'none'} --batch-size {c.rows} "
            f"--grad-accum {c.micro_batches}")  # fmt: skip


def print_one(plan: Plan, gpus: int, found: list[Choice]) -> None:
    chosen = best(found)
    least = min(c.rows for c in found)
    shown = [c for c in found if plan.options.all or c.fits or c.rows == least]
    print_memory(shown, plan, chosen)
    if len(shown) < len(found):
        print(f"{len(found) - len(shown)} more choices that do not fit: --all")
    print_times(shown, plan)
    print()
    if chosen:
        t = chosen.time
        print(f"Best that fits: {describe(chosen)}\n  prediction: {t.step:.3f} s a step, "
              f"{plan.options.tokens_per_step / t.step:.0f} tokens/s, {100 * t.of_peak:.1f} % of peak")  # fmt: skip
    else:
        print(f"Nothing fits on {gpus} GPUs.")


def print_several(plan: Plan, all_found: dict[int, list[Choice]]) -> None:
    """A row for each number of GPUs: its best, or what comes nearest to fitting."""
    print("The fastest choice that fits, by number of GPUs; seconds, share of peak and tokens/s are predictions\n")
    names = ["GiB", "NVLink", "network", "step", "of peak", "tokens/s"]
    print(f"{'GPUs':>6} {'ZeRO':>4} {'group':>5} {'recomp':>6} {'rows x M':>8}" + "".join(f" {n:>8}" for n in names) + "  fits")
    for gpus, found in all_found.items():
        if not found:
            print(textwrap.fill(plan.too_many(gpus), WIDTH, initial_indent=f"{gpus:6d} ", subsequent_indent=" " * 7))
            continue
        chosen = best(found)
        c = chosen or min(found, key=lambda c: c.bytes)
        t = c.time
        texts = [gib(c.bytes), *map(gigabytes, c.links)]
        rate = plan.options.tokens_per_step / t.step
        texts += [seconds(t.step), f"{100 * t.of_peak:.1f} %", f"{rate:.0f}"] if chosen else ["-"] * 3
        group = "-" if c.zero == 0 else "all" if c.group == gpus else str(c.group)
        print(f"{gpus:6d} {c.zero:4d} {group:>5} {'block' if c.recompute else 'none':>6} {f'{c.rows}x{c.micro_batches}':>8}"
              + "".join(f" {text:>8}" for text in texts) + ("  yes" if chosen else "  no"))  # fmt: skip
    print("GiB of each GPU; NVLink and network: GB that each GPU sends in a step; M: micro-batches a step")
    if any(found and not best(found) for found in all_found.values()):
        print("no: no choice fits, and this is the one that takes least")


def print_limits(plan: Plan) -> None:
    """Where data parallelism alone stops being possible."""
    o = plan.options
    smallest = {zero: plan.smallest(zero) for zero in (0, 1, 2)}
    print("\nFewest GPUs (of 1, 2, 4, ...; one row, recompute block): "
          + ", ".join(f"ZeRO-{zero} {n or 'none'}" for zero, n in smallest.items()))  # fmt: skip
    print(f"However many GPUs divide the rest, each one holds (GiB, of {plan.budget / GIB:.1f}; one row, recompute block):")
    print(f"{'':8}" + "".join(f" {name:>7}" for name in ("params", "grads", "optim.", "other", "total")))
    for zero in (0, 1, 2):
        floor = plan.floor(zero)
        whole, size = [floor[name] for name in ("parameters", "gradients", "optimizer state")], sum(floor.values())
        fits = "can fit" if size <= plan.budget else "never fits"
        print(f"  ZeRO-{zero}" + "".join(f" {gib(n):>7}" for n in (*whole, size - sum(whole), size)) + f"  {fits}")
    print(f"A step of {o.tokens_per_step} tokens is at most one row for each of {o.tokens_per_step // o.seq_len} GPUs.")
    if sum(plan.floor(2).values()) > plan.budget:
        elements = plan.floor(0)["parameters"] // plan.parameter_bytes
        each = plan.parameter_bytes + 16
        say(f"Data parallelism alone cannot train this model on {o.gpu} in rows of {o.seq_len} tokens, whatever the number of "
            f"GPUs: every rank keeps all parameters. Needed: parameters divided too, by ZeRO-3, tensor or pipeline parallelism, "
            f"which this trainer has not. Divided evenly, parameters, gradients and optimizer state ({each} bytes a "
            f"parameter) alone fill {-int(-elements * each // plan.budget)} GPUs.")  # fmt: skip
    elif not any(smallest.values()):
        say(f"It would fit on more GPUs than a step of {o.tokens_per_step} tokens can be divided among.")


def as_json(plan: Plan, all_found: dict[int, list[Choice]]) -> dict:
    def row(c: Choice) -> dict:
        times = {**asdict(c.time), "exposed": c.time.exposed, "step": c.time.step}
        return {"zero": c.zero, "group": c.group, "recompute": "block" if c.recompute else "none", "rows": c.rows,
                "micro_batches": c.micro_batches, "memory": c.memory, "bytes": c.bytes, "fits": c.fits,
                "nvlink_bytes": c.links[0], "network_bytes": c.links[1], "predicted_seconds": times}  # fmt: skip

    o = plan.options
    assumed = {name: getattr(o, name) for name in "efficiency link_efficiency overlap hop_us reserve_gib".split()}
    runs = [{"gpus": n, "best": best(f) and found_index(f), "choices": [row(c) for c in f]} for n, f in all_found.items()]
    return {"config": str(o.config), "gpu": o.gpu, "seq_len": o.seq_len, "tokens_per_step": o.tokens_per_step,
            "precision": o.precision, "budget_bytes": int(plan.budget), "assumed": assumed, "runs": runs,
            "least_bytes": {f"zero{z}": sum(plan.floor(z).values()) for z in (0, 1, 2)},
            "least_gpus": {f"zero{z}": plan.smallest(z) for z in (0, 1, 2)}}  # fmt: skip


def found_index(found: list[Choice]) -> dict:
    c = best(found)
    return {"index": next(i for i, other in enumerate(found) if other is c), "options": describe(c)}


def run(options: argparse.Namespace) -> None:
    plan = Plan(options)
    all_found = {gpus: plan.choices(gpus) for gpus in options.gpus}
    if options.json:
        print(json.dumps(as_json(plan, all_found), indent=1))
        return
    if not any(all_found.values()):
        raise InputError(plan.too_many(options.gpus[0]))
    print_head(plan)
    if len(all_found) > 1:
        print_several(plan, all_found)
    else:
        print_one(plan, *next(iter(all_found.items())))
    print_limits(plan)
    print()
    say("Times are predictions by the formula in --help, not measurements; GPU data are NVIDIA's data sheets'. Larger "
        "micro-batches make larger matrix products, which the prediction does not count.")  # fmt: skip
    if options.config.stem.endswith("405b"):
        say("Published for the 405B: 38 to 43 % of peak on 8,192 and 16,384 H100, with 8-way tensor and 16-way pipeline "
            "parallelism and without recomputation. The shares above, were there memory, come from the assumed --efficiency "
            f"of {100 * options.efficiency:g} % less exposed communication; they count no pipeline bubbles, tensor exchange or "
            "stragglers (--help).")  # fmt: skip


def main() -> int:
    options = parse_arguments()
    try:
        run(options)
        sys.stdout.flush()
    except InputError as error:
        print(f"plan: {error}", file=sys.stderr)
        return 2
    except Fault as error:
        print(f"plan: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
