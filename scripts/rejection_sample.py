#!/usr/bin/env python3
"""Rejection sampling: draws several answers to each prompt and keeps the one that a reward model likes best.

    rejection_sample.py --model POLICY --reward-model REWARD --prompts prompts.jsonl --output best.jsonl
    rejection_sample.py ... --samples 20 --temperature 0.8 --rows 64 --pairs pairs.jsonl

A prompt is a row of .jsonl, .json (an array) or .parquet, the first two perhaps compressed (.gz, .zst), with "prompt" (what a
user says, or a list of messages) or "messages" (a conversation, which is used up to its last user turn). OUTPUT receives one
line per prompt, {"messages", "score", "scores"}, which prepare_chat.py takes for SFT. --pairs receives the best and the worst
answer, {"prompt", "chosen", "rejected", ...}, which it takes for DPO. Answers that --max-tokens cut off are not chosen, unless
with --keep-cut. Equal answers are scored once.

Finished work is kept in OUTPUT.samples and OUTPUT.scores. After a stop or a kill, the same command continues and has the same
result as if it had not been stopped; the options of sampling must not change in between. OUTPUT is written when all is done.
Nothing is sent anywhere: both models run on this machine, on the GPU or the CPU.

Exit codes: 0 done; 2 bad usage or bad input (one line on stderr); 1 anything else; 130 stopped (Ctrl-C, SIGTERM).
"""

import argparse
import datetime
import json
import math
import os
import signal
import sys
from pathlib import Path

from llmdata import program

program.begin()

from llmdata.chat_template import LLAMA3_DATE
from llmdata.errors import InputError
from llmdata.files import ROWS
from llmdata.model_folder import find_whole_model
from llmdata.options import add_version
from llmdata.progress import Progress
from llmtext.generator import check_sampler_options, library_path
from llmtext.options import add_build_options, add_sampling_options, check_sampling_options, sampler_options
from llmtext.prompts import Prompt
from llmtext.rejection import SamplePass, ScorePass, Work


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_version(parser)
    add = parser.add_argument
    add("--model", required=True, type=Path, metavar="DIR",
        help="the model that answers: folder with config.json, safetensors and tokenizer")  # fmt: skip
    add("--reward-model", type=Path, metavar="DIR",
        help="the model that scores, from train_llama3 --task reward (default: none, keep the first complete answer)")
    add("--prompts", required=True, nargs="+", type=Path, metavar="FILE", help="rows with \"prompt\" or \"messages\"")
    add("--output", required=True, type=Path, metavar="FILE", help="JSONL file for the best answers")
    add("--pairs", type=Path, metavar="FILE", help="JSONL file for pairs of the best and the worst answer")
    add("--pair-margin", type=float, default=0.0, metavar="X",
        help="with --pairs: make no pair of answers whose scores differ by X or less (default: %(default)s)")  # fmt: skip
    add("--keep-all", action="store_true", help="write all answers and their scores to OUTPUT too, under \"samples\"")
    add("--keep-cut", action="store_true", help="allow answers that --max-tokens cut off to be chosen")
    add("--samples", type=int, default=10, metavar="K",
        help="answers per prompt (default: %(default)s; the Llama 3 paper uses 10 to 30)")  # fmt: skip
    add("--rows", type=int, metavar="N", help="texts that are written at once (default: 12 on the CPU, 64 on a GPU)")
    add_sampling_options(add, temperature=1.0, top_p=1.0, max_tokens=512)
    add("--max-prompt", type=int, metavar="N", help="leave out longer prompts, in tokens (default: the model's context)")
    add("--system", metavar="TEXT", help="system message for prompts that have none")
    add("--date", type=datetime.date.fromisoformat, default=LLAMA3_DATE, metavar="YYYY-MM-DD",
        help="today's date for chat templates that write it, as in prepare_chat.py (default: %(default)s)")  # fmt: skip
    add("--two-pass", action="store_true", help="hold one model in memory at a time: first draw all answers, then score them")
    add_build_options(add)
    return parser.parse_args()


def check_options(options: argparse.Namespace) -> None:
    check_sampling_options(options)
    check_sampler_options(options.library, sampler_options(options))
    if options.rows is None:
        options.rows = 64 if options.library.parent.name.startswith("cuda") else 12
    for name, value, most in (("samples", options.samples, 65535), ("rows", options.rows, 65534)):
        if not 1 <= value <= most:
            raise InputError(f"--{name} {value}: expected 1 to {most}")
    options.model = find_whole_model(options.model)
    options.reward_model = options.reward_model and find_whole_model(options.reward_model)
    if options.pairs is not None and options.reward_model is None:
        raise InputError("--pairs: expected --reward-model, which tells best from worst")
    if options.max_prompt is not None and options.max_prompt < 1:
        raise InputError(f"--max-prompt {options.max_prompt}: expected 1 or more")
    if not 0 <= options.pair_margin < math.inf:
        raise InputError(f"--pair-margin {options.pair_margin}: expected 0 or more")
    for path in (options.output, options.pairs):
        if path is not None and (path.is_dir() or not path.parent.is_dir()):
            raise InputError(f"{path}: {'is a folder' if path.is_dir() else 'its folder does not exist'}")
        if path is not None and path.resolve() in [prompts.resolve() for prompts in options.prompts]:
            raise InputError(f"{path}: one of --prompts, expected another file to write to")
    if options.pairs is not None and options.pairs.resolve() == options.output.resolve():
        raise InputError(f"--pairs {options.pairs}: the same file as --output")


# ---- the two passes


def report_begin(work: Work) -> None:
    for change in work.samples.changed:
        say(f"{work.samples.path} was begun with {change}: the rest may differ in rounding from what that would give")
    have = sum(prompt.key in (work.done if work.scores is None else work.scored) for prompt in work.prompts)
    if work.samples.rows:
        say(f"going on: {have} of {len(work.prompts)} prompts are done")


def run_both(work: Work) -> None:
    tasks, unscored = work.unsampled(), work.unscored()
    if not tasks and not unscored:
        return
    score_pass = ScorePass(work)
    sample_pass = SamplePass(work, tasks) if tasks else None
    progress = progress_of("rejection sampling", work, len(work.scored))
    for key in unscored:
        score_pass.score(key)
        progress.add()
    for key, speed in sample_pass.run() if sample_pass else []:
        score_pass.score(key)
        progress.add(speed)
    progress.close()
    score_pass.close()
    if sample_pass:
        sample_pass.close()


def run_one_after_the_other(work: Work) -> None:
    if tasks := work.unsampled():
        sample_pass, progress = SamplePass(work, tasks), progress_of("sampling", work, len(work.done))
        for _, speed in sample_pass.run():
            progress.add(speed)
        progress.close()
        sample_pass.close()
    if unscored := work.unscored():
        score_pass, progress = ScorePass(work), progress_of("scoring", work, len(work.scored))
        for key in unscored:
            score_pass.score(key)
            progress.add()
        progress.close()
        score_pass.close()


def progress_of(name: str, work: Work, done: int) -> Progress:
    return Progress(name, len(work.prompts), "prompt", min(done, len(work.prompts)), sys.stderr)


# ---- results


def best_and_worst(work: Work, prompt: Prompt) -> tuple[int, int] | None:
    """Indices into the samples; the first of equal scores wins. Without a reward model, the first that may be chosen."""
    if work.scores is None:
        places = [k for k, sample in enumerate(work.done[prompt.key]) if work.may_be_chosen(sample)]
        return (places[0], places[0]) if places else None
    scores = work.scored[prompt.key]
    places = [k for k, score in enumerate(scores) if score is not None]
    return (max(places, key=lambda k: scores[k]), min(places, key=lambda k: scores[k])) if places else None


def chosen_row(work: Work, prompt: Prompt, best: int) -> dict:
    samples = work.done[prompt.key]
    row = {"messages": [*prompt.messages, {"role": "assistant", "content": samples[best]["text"]}]} | prompt.fields
    scores = work.scored.get(prompt.key)
    if scores is not None:
        row |= {"score": scores[best], "scores": scores}
    if work.options.keep_all:
        row["samples"] = [sample | {"score": score} for sample, score in zip(samples, scores or [None] * len(samples))]
    return row


def pair_row(work: Work, prompt: Prompt, best: int, worst: int) -> dict | None:
    samples, scores = work.done[prompt.key], work.scored[prompt.key]
    if scores[best] - scores[worst] <= work.options.pair_margin:
        return None
    return {"prompt": prompt.messages, "chosen": samples[best]["text"], "rejected": samples[worst]["text"],
            "chosen_score": scores[best], "rejected_score": scores[worst]} | prompt.fields  # fmt: skip


def write_lines(path: Path, rows: list[dict]) -> None:
    """Replaces the file as a whole, or leaves it as it was."""
    part = path.with_name(path.name + ".part")
    with open(part, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def write_results(work: Work) -> None:
    chosen, pairs, nothing = [], [], []
    for prompt in work.prompts:
        found = best_and_worst(work, prompt)
        if found is None:
            nothing.append(prompt)
            continue
        chosen.append(chosen_row(work, prompt, found[0]))
        if work.options.pairs:
            pairs.append(pair_row(work, prompt, *found))
    if work.options.pairs:
        write_lines(work.options.pairs, [pair for pair in pairs if pair])
    write_lines(work.options.output, chosen)
    summarise(work, chosen, pairs, nothing)


def summarise(work: Work, chosen: list[dict], pairs: list[dict | None], nothing: list[Prompt]) -> None:
    scores = [score for row in chosen for score in row.get("scores", []) if score is not None]
    note = ""
    if scores:
        note = f", mean score {mean([row['score'] for row in chosen]):.4g}; of all {len(scores)} scored {mean(scores):.4g}"
    say(f"{work.options.output}: {len(chosen)} answers{note}")
    if work.options.pairs:
        same = sum(pair is None for pair in pairs)
        say(f"{work.options.pairs}: {len(pairs) - same} pairs; {same} prompts without a difference in score")
    for what, places in (("empty", work.empty), ("too long", [p.source for p in work.too_long]),
                         ("no answer that may be chosen", [p.source for p in nothing])):  # fmt: skip
        if places:
            say(f"left out, {what}: {len(places)} prompts ({', '.join(places[:3])}{', ...' if len(places) > 3 else ''})")
    work.notes.report("rejection_sample", ROWS)


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def run(options: argparse.Namespace) -> None:
    options.library = library_path(options.target, options.precision)
    check_options(options)
    work = Work(options)
    try:
        report_begin(work)
        (run_both if options.reward_model and not options.two_pass else run_one_after_the_other)(work)
        write_results(work)
    finally:
        work.close()


def stop(number, frame) -> None:
    raise KeyboardInterrupt


def main() -> int:
    options = parse_arguments()
    signal.signal(signal.SIGTERM, stop)
    return program.run(lambda: run(options), "\nrejection_sample: stopped; the same command goes on from here")


if __name__ == "__main__":
    sys.exit(main())
