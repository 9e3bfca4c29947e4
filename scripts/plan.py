#!/usr/bin/env python3
"""Plans a training run on many GPUs: what fits, how many bytes each link carries, and how fast a step could be.

    plan.py --config configs/llama3_8b.json --gpus 8 --gpu h100        every choice, and the best
    plan.py --config configs/llama3_8b.json --gpus 1,2,4,8,16,32,64    the best for each number of GPUs
    plan.py --config configs/llama3_405b.json --gpus 1024 --gpu h100   what cannot be done, and why
    plan.py --config configs/llama3_8b.json --gpus 64 --recipe recipes/llama3_8b.json    each stage, and the whole run

Memory is the library's own plan, byte for byte what train_llama3 prints, plus the workspace of the GPU's matrix library and
--reserve-gib. Bytes on the links follow from the trainer's collectives, carried out as rings. Times are predictions from
assumptions that are options here: use them to compare choices, and measure before you believe them.

The published training of the 405B model reached 38 to 43 % of peak on 8,192 and 16,384 H100 GPUs (Llama 3 paper, table 4), with
parameters divided by 8-way tensor and 16-way pipeline parallelism. That figure includes pipeline bubbles and tensor exchange,
which this trainer does not have, and no recomputation. The predictions here include neither stragglers nor input nor evaluation.

It needs a built library (make TARGET=cpu) but no GPU. Exit codes: 0 done (also where nothing fits); 2 bad usage or bad input;
1 anything else.
"""

import argparse
import json
import sys
from pathlib import Path

from llmdata import program

program.begin()

from llmdata.errors import InputError
from llmdata.options import add_version
from llmplan.choices import Plan
from llmplan.gpus import GPUS
from llmplan.predict import FORMULA
from llmplan.stages import StagePlan, print_stages, stages_as_json
from llmplan.tables import as_json, print_head, print_limits, print_one, print_several, say


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
    add("--gpus", required=True, type=counts, metavar="N[,N...]", help="number of GPUs; with several, one row for each")
    add("--gpu", choices=GPUS, default="h100", help="kind of GPU (default: %(default)s)")
    add("--seq-len", type=number(1, 1 << 20, int), metavar="N",
        help="tokens per row (default: 8192, or the model's maximum if that is less)")  # fmt: skip
    add("--tokens-per-step", type=number(1, 1e15, int), default=1 << 24, metavar="N",
        help="tokens in a step, of all GPUs together (default: %(default)s, the 405B model's last batch)")  # fmt: skip
    add("--rows", type=counts, default=[1, 2, 4, 8], metavar="N[,N...]",
        help="numbers of rows in a micro-batch to try (default: 1,2,4,8)")  # fmt: skip
    add("--recipe", type=Path, metavar="FILE",
        help="a recipe of train_llama3: what each stage takes, and which options make it fit; in place of --seq-len, --rows, "
             "--tokens-per-step, --activations and --optimizer-state")  # fmt: skip
    add("--precision", choices=["bf16", "fp32"], default="bf16", help="precision of the build (default: %(default)s)")
    add("--moments", choices=["fp32", "bf16"], default="fp32", help="as train_llama3's option (default: %(default)s)")
    add("--master-weights", choices=["fp32", "none"], default="fp32", help="likewise (default: %(default)s)")
    add("--optimizer-state", choices=["device", "host"], default="device", help="likewise (default: %(default)s)")
    add("--activations", choices=["device", "host"], default="device", help="likewise (default: %(default)s)")
    add("--grad-reduce", choices=["fp32", "bf16"], default="fp32", help="likewise (default: %(default)s)")
    add("--gpus-per-node", type=number(1, 1024, int), default=8, metavar="N",
        help="GPUs in a node, joined by NVLink (default: %(default)s)")  # fmt: skip
    add("--link-gbps", type=number(0.001, 1e6), metavar="X",
        help="network rate of each GPU in each direction, in Gbit/s (default: 200 for a100, else 400, as in DGX)")  # fmt: skip
    add("--reserve-gib", type=number(0, 1e4), default=1.5, metavar="X",
        help="GiB of each GPU that CUDA's context and the driver take; assumed (default: %(default)s)")  # fmt: skip
    add("--efficiency", type=number(0.001, 1), default=0.5, metavar="X",
        help="share of peak that computation reaches by itself; assumed (default: %(default)s)")  # fmt: skip
    add("--link-efficiency", type=number(0.001, 1), default=0.8, metavar="X",
        help="share of a link's rate that a ring reaches; assumed (default: %(default)s)")  # fmt: skip
    add("--overlap", type=number(0, 1), default=0.9, metavar="X",
        help="share of the forward and backward pass that can hide communication; assumed (default: %(default)s)")  # fmt: skip
    add("--hop-us", type=number(0, 1e6), default=5.0, metavar="X",
        help="microseconds from one rank to the next, in each collective; assumed (default: %(default)s)")  # fmt: skip
    add("--all", action="store_true", help="show every choice, also those that do not fit")
    add("--json", action="store_true", help="print everything as one JSON object")
    return parser.parse_args()


def run_stages(options: argparse.Namespace) -> None:
    if len(options.gpus) > 1:
        raise InputError(f"--gpus {','.join(map(str, options.gpus))}: expected one number with --recipe")
    plan = StagePlan(options)
    if options.json:
        print(json.dumps(stages_as_json(plan), indent=1))
    else:
        print_stages(plan)


def run(options: argparse.Namespace) -> None:
    if options.recipe:
        run_stages(options)
        return
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
    say("Times are predictions by the formula in --help, not measurements; GPU data are from NVIDIA's data sheets. The "
        "prediction does not take into account that larger micro-batches make larger, faster matrix products.")  # fmt: skip
    if options.config.stem.endswith("405b"):
        say("Published for the 405B: 38 to 43 % of peak on 8,192 and 16,384 H100, with 8-way tensor and 16-way pipeline "
            "parallelism and without recomputation. The shares above assume that there is enough memory. They are the assumed "
            f"--efficiency of {100 * options.efficiency:g} % less exposed communication, without pipeline bubbles, tensor "
            "exchange or stragglers (--help).")  # fmt: skip


def main() -> int:
    options = parse_arguments()
    return program.run(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
