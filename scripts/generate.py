#!/usr/bin/env python3
"""Writes text with a model: any Llama in a Hugging Face directory, or a checkpoint of train_llama3.

    generate.py --model DIR --prompt "Once upon a time"                  continues the text, printed as it comes
    generate.py --model DIR --chat --prompt "What is a llama?"           asks an instruct model
    generate.py --model DIR --prompts FILE --json > answers.jsonl        answers many prompts in one batch

FILE has one prompt per line, or rows {"prompt": "..."} in .jsonl, .json (an array) or .parquet; all but the last may be
compressed (.gz, .zst). As in transformers, the model's tokenizer decides what stands around a prompt: Llama's adds its begin
token, others add nothing. Several prompts are computed side by side, and each text is printed when it is complete. Nothing is
sent anywhere: the model runs on this machine, on the GPU or the CPU.

Exit codes: 0 done; 2 bad usage or bad input (one line on stderr); 1 anything else; 130 interrupted.
"""

import argparse
import json
import sys
import time
from pathlib import Path

from llmdata import program

program.begin()

from llmdata.characters import harmless, is_text
from llmdata.chat_template import Chat
from llmdata.errors import InputError
from llmdata.files import ROWS
from llmdata.model_folder import find_whole_model
from llmdata.options import add_version
from llmdata.records import parse, place, read_rows
from llmdata.text_file import format_of, read_text_lines
from llmdata.tokenizer import open_tokenizer
from llmtext.generator import Generator, library_path
from llmtext.options import add_build_options, add_sampling_options, check_sampling_options, sampler_options
from llmtext.texts import Row, check_ids, split_stops, take_token

FEWEST_FOR_A_RATE = 16  # tokens; the rate of fewer would be that of the start


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_version(parser)
    add = parser.add_argument
    add("--model", required=True, type=Path, metavar="DIR",
        help="folder with config.json, safetensors and tokenizer.json (or .model)")  # fmt: skip
    add("--prompt", action="append", default=[], metavar="TEXT", help="text to continue; may be given several times")
    add("--prompts", type=Path, metavar="FILE", help="file with one prompt per line, or rows with the key \"prompt\"")
    add_sampling_options(add, temperature=0.8, top_p=0.95, max_tokens=256)
    add("--chat", action="store_true", help="treat prompts as what a user says, in the model's chat template")
    add("--system", metavar="TEXT", help="with --chat: the system message")
    add("--json", action="store_true", help="print one JSON object per text: prompt, text, tokens, finish (stop or length)")
    add_build_options(add)
    return parser.parse_args()


# ---- prompts


def read_prompts(path: Path) -> list[str]:
    if format_of(path) not in ROWS:
        return [line for _, line in read_text_lines(path)]
    prompts = []
    for number, value, _ in read_rows(path):
        where = place(path, number)
        try:
            prompts.append(parse(value)["prompt"])
        except InputError as error:
            raise InputError(f"{where}: {error}, expected an object with the key \"prompt\"") from None
        except (TypeError, KeyError):
            raise InputError(f"{where}: expected an object with the key \"prompt\"") from None
        if not isinstance(prompts[-1], str):
            raise InputError(f"{where}: \"prompt\": expected a text")
    return prompts


def collect_prompts(options: argparse.Namespace) -> list[str]:
    prompts = options.prompt + (read_prompts(options.prompts) if options.prompts else [])
    if not prompts:
        raise InputError(f"{options.prompts}: no prompt in it" if options.prompts else "no prompt: give --prompt or --prompts")
    for number, prompt in enumerate(prompts, 1):
        if not prompt.strip():
            raise InputError(f"prompt {number} is empty")
        if not is_text(prompt):
            raise InputError(f"prompt {number} is not valid text (UTF-8)")
    return prompts


def encode_all(options: argparse.Namespace, tokenizer, prompts: list[str]) -> list[list[int]]:
    chat = Chat(options.model, tokenizer, options.system) if options.chat else None
    encode = chat.encode if chat else lambda text: tokenizer.encode(text).ids  # with the tokens that its post-processor adds
    found = [encode(prompt) for prompt in prompts]
    for number, ids in enumerate(found, 1):
        if not ids:
            raise InputError(f"prompt {number}: the tokenizer makes no token of it")
    return found


# ---- output


class Output:
    """Prints texts: the text of a single prompt as it comes, others when they are complete."""

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


def write_texts(generator: Generator, rows: list[Row], ends: set[int], limit: int, output: Output) -> None:
    while tokens := generator.next():
        for index, token in tokens:
            row = rows[index]
            output.piece(take_token(generator, row, token, ends, limit))
            if row.finish:
                generator.stop(index)
                output.whole(index, row.stream.text, row.count, row.finish)
    for index, row in enumerate(rows):
        if not row.finish:  # the context is full
            output.piece(row.stream.finish())
            output.whole(index, row.stream.text, row.count, "length")


def start_all(generator: Generator, options: argparse.Namespace, prompts: list[list[int]]) -> None:
    sampling = sampler_options(options)
    for row, ids in enumerate(prompts):
        try:
            generator.start(row, ids, sampling, (options.seed + row) % 2**64)
        except InputError as error:
            raise InputError(f"prompt {row + 1}: {error}") from None


def check_options(options: argparse.Namespace) -> None:
    check_sampling_options(options)
    if options.system and not options.chat:
        raise InputError("--system needs --chat")


def run(options: argparse.Namespace) -> None:
    check_options(options)
    options.model = find_whole_model(options.model)
    prompts = collect_prompts(options)
    tokenizer = open_tokenizer(options.model)
    ids = encode_all(options, tokenizer, prompts)
    ends, stops = split_stops(tokenizer, options.stop)
    context = min(max(map(len, ids)) + options.max_tokens, 2**30)
    generator = Generator(library_path(options.target, options.precision), options.model, len(ids), context, options.threads)
    for number, prompt in enumerate(ids, 1):
        check_ids(f"prompt {number}", prompt, generator.vocab_size)
    start = time.perf_counter()
    start_all(generator, options, ids)
    began, rows = time.perf_counter(), [Row(tokenizer, stops) for _ in ids]
    output = Output(options.json, prompts)
    output.piece("" if options.chat else prompts[0])
    write_texts(generator, rows, ends, options.max_tokens, output)
    report(sum(map(len, ids)), began - start, sum(row.count for row in rows), time.perf_counter() - began)
    generator.close()


def report(prompt_tokens: int, prompt_seconds: float, tokens: int, seconds: float) -> None:
    print(f"{prompt_tokens} prompt tokens{rate(prompt_tokens, prompt_seconds, 0)}; "
          f"{tokens} new tokens{rate(tokens, seconds, 1)}", file=sys.stderr)  # fmt: skip


def rate(tokens: int, seconds: float, digits: int) -> str:
    return f", {tokens / max(seconds, 1e-9):.{digits}f} tokens/s" if tokens >= FEWEST_FOR_A_RATE else ""


def main() -> int:
    options = parse_arguments()
    sys.stdout.reconfigure(errors="replace")  # a terminal may not know all characters
    return program.run(lambda: run(options), interrupted="")


if __name__ == "__main__":
    sys.exit(main())
