#!/usr/bin/env python3
"""Writes text with a model: any Llama of a Hugging Face directory, or a checkpoint of train_llama3.

    generate.py --model DIR --prompt "Once upon a time"                  goes on with the text, as it comes
    generate.py --model DIR --chat --prompt "What is a llama?"           asks an instruct model
    generate.py --model DIR --prompts FILE --json > answers.jsonl        many prompts in one batch

FILE has a prompt a line, or is .jsonl with {"prompt": "..."} a line. Several prompts are computed side by side and each text
is printed when it is whole. Nothing is sent anywhere: the model runs here, on the GPU or the CPU.

Exit codes: 0 done; 2 bad usage or bad input (one line on stderr); 1 anything else; 130 interrupted.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

from llmtext.chat import Chat, read_json, token_text
from llmtext.errors import Fault, InputError
from llmtext.generator import Generator, SamplerOptions, library_path
from llmtext.stream import TextStream, harmless


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", required=True, type=Path, metavar="DIR", help="folder with config.json, safetensors and tokenizer.json")
    add("--prompt", action="append", default=[], metavar="TEXT", help="text to go on with; may be given several times")
    add("--prompts", type=Path, metavar="FILE", help="a prompt a line, or .jsonl with the key \"prompt\"")
    add("--max-tokens", type=int, default=256, metavar="N", help="length of a text behind its prompt (default: %(default)s)")
    add("--temperature", type=float, default=0.8, metavar="T", help="0: always the likeliest token (default: %(default)s)")
    add("--top-k", type=int, default=0, metavar="K", help="draw from the K likeliest tokens; 0: all (default: %(default)s)")
    add("--top-p", type=float, default=0.95, metavar="P",
        help="draw from the fewest tokens that together have probability P (default: %(default)s)")  # fmt: skip
    add("--seed", type=int, default=0, metavar="N", help="the same seed gives the same text (default: %(default)s)")
    add("--stop", action="append", default=[], metavar="TEXT",
        help="text or special token that ends a text, beside the model's own end tokens; may be given several times")  # fmt: skip
    add("--chat", action="store_true", help="the prompts are what a user says; uses the model's chat template")
    add("--system", metavar="TEXT", help="with --chat: the system message")
    add("--json", action="store_true", help="an object a text: prompt, text, tokens, finish (stop or length)")
    add("--target", choices=["cpu", "cuda"], help="default: cuda where a GPU is visible and built for, else cpu")
    add("--precision", choices=["bf16", "fp32"], default="bf16", help="the build to use (default: %(default)s)")
    add("--threads", type=int, default=0, metavar="N", help="CPU threads; 0: all (default: %(default)s)")
    return parser.parse_args()


# ---- prompts


def read_prompts(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {error}") from None
    if path.suffix != ".jsonl":
        return [line for line in lines if line.strip()]
    prompts = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            prompts.append(json.loads(line)["prompt"])
        except (ValueError, TypeError, KeyError, RecursionError):
            raise InputError(f"{path}: line {number}: expected an object with the key \"prompt\"") from None
        if not isinstance(prompts[-1], str):
            raise InputError(f"{path}: line {number}: \"prompt\": expected a text")
    return prompts


def collect_prompts(options: argparse.Namespace) -> list[str]:
    prompts = options.prompt + (read_prompts(options.prompts) if options.prompts else [])
    if not prompts:
        raise InputError(f"{options.prompts}: no prompt in it" if options.prompts else "no prompt: give --prompt or --prompts")
    for number, prompt in enumerate(prompts, 1):
        if not prompt.strip():
            raise InputError(f"prompt {number} is empty")
        if any("\ud800" <= c <= "\udfff" for c in prompt):
            raise InputError(f"prompt {number} is not valid text (UTF-8)")
    return prompts


def open_tokenizer(folder: Path):
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    if not folder.is_dir():
        raise InputError(f"--model {folder}: no such folder")
    if not path.exists():
        raise InputError(f"{path} is missing")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more precise
        raise InputError(f"{path}: {' '.join(str(error).split())}") from None


def encode_text(folder: Path, tokenizer, text: str) -> list[int]:
    """The ids with the token that begins a document in front, as in training."""
    ids = tokenizer.encode(text).ids
    bos = tokenizer.token_to_id(token_text(read_json(folder / "tokenizer_config.json").get("bos_token")) or "<|begin_of_text|>")
    return ids if bos is None or ids[:1] == [bos] else [bos, *ids]


def encode_all(options: argparse.Namespace, tokenizer, prompts: list[str]) -> list[list[int]]:
    chat = Chat(options.model, tokenizer, options.system) if options.chat else None
    encode = chat.encode if chat else lambda text: encode_text(options.model, tokenizer, text)
    return [encode(prompt) for prompt in prompts]


# ---- writing


class Output:
    """Where texts go. One prompt on its own streams."""

    def __init__(self, as_json: bool, prompts: list[str]):
        self.as_json, self.prompts = as_json, prompts
        self.streams = len(prompts) == 1 and not as_json
        self.show = harmless if sys.stdout.isatty() else str

    def piece(self, text: str) -> None:
        if self.streams and text:
            print(self.show(text), end="", flush=True)

    def whole(self, row: int, text: str, tokens: int, finish: str) -> None:
        if self.as_json:
            fields = {"index": row, "prompt": self.prompts[row], "text": text, "tokens": tokens, "finish": finish}
            print(json.dumps(fields, ensure_ascii=False), flush=True)
        elif self.streams:
            print(flush=True)
        else:
            print(f"--- {row + 1}: {self.show(self.prompts[row])}\n{self.show(text)}\n", flush=True)


class Row:
    """One text on its way."""

    def __init__(self, tokenizer, stops: list[str]):
        self.stream, self.count, self.finish = TextStream(tokenizer, stops), 0, None


def split_stops(tokenizer, stops: list[str]) -> tuple[set[int], list[str]]:
    """Special tokens by id, since their text is not written; the others as text."""
    if "" in stops:
        raise InputError("--stop: expected a text, found an empty one")
    added = {token.content: number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    return {added[stop] for stop in stops if stop in added}, [stop for stop in stops if stop not in added]


def take_token(generator: Generator, row: Row, index: int, token: int, ends: set[int], limit: int) -> str:
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


def write_texts(generator: Generator, rows: list[Row], ends: set[int], limit: int, output: Output) -> None:
    while tokens := generator.next():
        for index, token in tokens:
            row = rows[index]
            output.piece(take_token(generator, row, index, token, ends, limit))
            if row.finish:
                generator.stop(index)
                output.whole(index, row.stream.text, row.count, row.finish)
    for index, row in enumerate(rows):
        if not row.finish:  # its context is full
            output.piece(row.stream.finish())
            output.whole(index, row.stream.text, row.count, "length")


def check_ids(prompts: list[list[int]], vocab_size: int) -> None:
    for number, ids in enumerate(prompts, 1):
        largest = max(ids, default=0)
        if largest >= vocab_size:
            raise InputError(f"prompt {number}: the tokenizer gives the id {largest}, the model's vocabulary has {vocab_size} ids:"
                             " tokenizer.json and config.json do not belong together")  # fmt: skip


def start_all(generator: Generator, options: argparse.Namespace, prompts: list[list[int]]) -> None:
    sampling = SamplerOptions(options.temperature, options.top_k, options.top_p)
    for row, ids in enumerate(prompts):
        try:
            generator.start(row, ids, sampling, (options.seed + row) % 2**64)
        except InputError as error:
            raise InputError(f"prompt {row + 1}: {error}") from None


def check_options(options: argparse.Namespace) -> None:
    if options.max_tokens < 1:
        raise InputError(f"--max-tokens {options.max_tokens}: expected 1 or more")
    if options.system and not options.chat:
        raise InputError("--system is for --chat")
    if not -(2**31) <= options.top_k < 2**31 or not 0 <= options.threads < 2**16:
        raise InputError(f"--top-k {options.top_k} or --threads {options.threads} is out of range")


def run(options: argparse.Namespace) -> None:
    check_options(options)
    prompts = collect_prompts(options)
    tokenizer = open_tokenizer(options.model)
    ids = encode_all(options, tokenizer, prompts)
    ends, stops = split_stops(tokenizer, options.stop)
    context = min(max(map(len, ids)) + options.max_tokens, 2**30)
    generator = Generator(library_path(options.target, options.precision), options.model, len(ids), context, options.threads)
    check_ids(ids, generator.vocab_size)
    start = time.perf_counter()
    start_all(generator, options, ids)
    began, rows = time.perf_counter(), [Row(tokenizer, stops) for _ in ids]
    output = Output(options.json, prompts)
    output.piece("" if options.chat else prompts[0])
    write_texts(generator, rows, ends, options.max_tokens, output)
    report(sum(map(len, ids)), began - start, sum(row.count for row in rows), time.perf_counter() - began)
    generator.close()


def report(prompt_tokens: int, prompt_seconds: float, tokens: int, seconds: float) -> None:
    print(f"{prompt_tokens} prompt tokens, {prompt_tokens / max(prompt_seconds, 1e-9):.0f} tokens/s; "
          f"{tokens} new tokens, {tokens / max(seconds, 1e-9):.1f} tokens/s", file=sys.stderr)  # fmt: skip


def main() -> int:
    options = parse_arguments()
    sys.stdout.reconfigure(errors="replace")  # a terminal may not know all characters
    try:
        run(options)
    except InputError as error:
        print(f"generate: {error}", file=sys.stderr)
        return 2
    except Fault as error:
        print(f"generate: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
