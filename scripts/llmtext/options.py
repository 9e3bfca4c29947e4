"""Options that the programs which write text with a model share."""

import argparse

from llmdata.errors import InputError
from llmdata.options import check_texts

from .generator import SamplerOptions


def add_sampling_options(add, temperature: float, top_p: float, max_tokens: int) -> None:
    """`add` is the add_argument of a parser or group; the other arguments are defaults."""
    add("--max-tokens", type=int, default=max_tokens, metavar="N",
        help="longest text to write after a prompt, in tokens (default: %(default)s)")  # fmt: skip
    add("--temperature", type=float, default=temperature, metavar="T",
        help="sampling temperature; 0 always takes the likeliest token (default: %(default)s)")  # fmt: skip
    add("--top-k", type=int, default=0, metavar="K", help="draw from the K likeliest tokens; 0: all (default: %(default)s)")
    add("--top-p", type=float, default=top_p, metavar="P",
        help="draw from the fewest tokens that together have probability P (default: %(default)s)")  # fmt: skip
    add("--seed", type=int, default=0, metavar="N", help="the same seed gives the same text (default: %(default)s)")
    add("--stop", action="append", default=[], metavar="TEXT",
        help="end texts also at this text or special token, besides the model's own; may be given several times")


def add_build_options(add) -> None:
    add("--target", choices=["cpu", "cuda"], help="build to use (default: cuda with a GPU and a build for it, else cpu)")
    add("--precision", choices=["bf16", "fp32"], default="bf16", help="precision of the build (default: %(default)s)")
    add("--threads", type=int, default=0, metavar="N", help="CPU threads; 0: one per core (default: %(default)s)")


def check_sampling_options(options: argparse.Namespace) -> None:
    check_texts(options, "system", "stop")
    if options.max_tokens < 1:
        raise InputError(f"--max-tokens {options.max_tokens}: expected 1 or more")
    if not -(2**31) <= options.top_k < 2**31 or not 0 <= options.threads < 2**16:
        raise InputError(f"--top-k {options.top_k} or --threads {options.threads} is out of range")


def sampler_options(options: argparse.Namespace) -> SamplerOptions:
    return SamplerOptions(options.temperature, options.top_k, options.top_p)
