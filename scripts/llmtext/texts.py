"""What programs that write text with a model share: their options, and a text on its way."""

import argparse

from llmdata.errors import InputError
from llmdata.options import check_texts

from .generator import Generator, SamplerOptions
from llmdata.detokenizer import TextStream


def add_sampling_options(add, temperature: float, top_p: float, max_tokens: int) -> None:
    """add: add_argument of a parser or group; the others are its defaults."""
    add("--max-tokens", type=int, default=max_tokens, metavar="N", help="length of a text behind its prompt (default: %(default)s)")
    add("--temperature", type=float, default=temperature, metavar="T", help="0: always the likeliest token (default: %(default)s)")
    add("--top-k", type=int, default=0, metavar="K", help="draw from the K likeliest tokens; 0: all (default: %(default)s)")
    add("--top-p", type=float, default=top_p, metavar="P",
        help="draw from the fewest tokens that together have probability P (default: %(default)s)")  # fmt: skip
    add("--seed", type=int, default=0, metavar="N", help="the same seed gives the same text (default: %(default)s)")
    add("--stop", action="append", default=[], metavar="TEXT",
        help="text or special token that ends a text, beside the model's own end tokens; may be given several times")  # fmt: skip


def add_build_options(add) -> None:
    add("--target", choices=["cpu", "cuda"], help="default: cuda where a GPU is visible and built for, else cpu")
    add("--precision", choices=["bf16", "fp32"], default="bf16", help="the build to use (default: %(default)s)")
    add("--threads", type=int, default=0, metavar="N", help="CPU threads; 0: all (default: %(default)s)")


def check_sampling_options(options: argparse.Namespace) -> None:
    check_texts(options, "system", "stop")
    if options.max_tokens < 1:
        raise InputError(f"--max-tokens {options.max_tokens}: expected 1 or more")
    if not -(2**31) <= options.top_k < 2**31 or not 0 <= options.threads < 2**16:
        raise InputError(f"--top-k {options.top_k} or --threads {options.threads} is out of range")


def sampler_options(options: argparse.Namespace) -> SamplerOptions:
    return SamplerOptions(options.temperature, options.top_k, options.top_p)


# ---- tokens


def check_ids(name: str, ids: list[int], vocab_size: int) -> None:
    largest = max(ids, default=0)
    if largest >= vocab_size:
        raise InputError(f"{name}: the tokenizer gives the id {largest}, the model's vocabulary has {vocab_size} ids:"
                         " tokenizer.json and config.json do not belong together")  # fmt: skip


# ---- a text on its way


class Row:
    """finish: None, then "stop" (an end token or stop text) or "length"."""

    def __init__(self, tokenizer, stops: list[str]):
        self.stream, self.count, self.finish = TextStream(tokenizer, stops, follows=True), 0, None


def split_stops(tokenizer, stops: list[str]) -> tuple[set[int], list[str]]:
    """Special tokens by id, since their text is not written; the others as text."""
    if "" in stops:
        raise InputError("--stop: expected a text, found an empty one")
    added = {token.content: number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    return {added[stop] for stop in stops if stop in added}, [stop for stop in stops if stop not in added]


def take_token(generator: Generator, row: Row, token: int, ends: set[int], limit: int) -> str:
    """The text that the token makes certain."""
    row.count += 1
    if generator.is_end(token) or token in ends:
        row.finish = "stop"
        return row.stream.finish()
    text = row.stream.add(token)
    if not row.stream.stopped and row.count == limit:
        text += row.stream.finish()
        row.finish = "length"
    if row.stream.stopped:
        row.finish = "stop"
    return text
