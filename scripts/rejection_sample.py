#!/usr/bin/env python3
"""Rejection sampling: keeps, of several answers to each prompt, the one that a reward model scores highest.

    rejection_sample.py --model POLICY --reward-model REWARD --prompts prompts.jsonl --output best.jsonl
    rejection_sample.py ... --samples 20 --temperature 0.8 --rows 64 --pairs pairs.jsonl

A prompt is a row of .jsonl, .json (an array) or .parquet, the first two may be compressed (.gz, .zst), with "prompt" (what a user
says, or a list of messages) or "messages" (a conversation, used up to its last user turn). OUTPUT gets one line per prompt,
{"messages", "score", "scores"}, which prepare_chat.py accepts for SFT; --pairs writes {"prompt", "chosen", "rejected", ...} with the
best and the worst answer, which it accepts for DPO. Answers that --max-tokens truncated are not chosen unless --keep-cut is given.
Identical answers are scored once.

Results are stored in OUTPUT.samples and OUTPUT.scores as they come; after a stop or a kill, the same command continues and gives
the result of an uninterrupted run. OUTPUT is written at the end. Sampling options cannot change in between.
Both models run locally, on the GPU or the CPU, and nothing is sent anywhere.

Exit codes: 0 done; 2 bad usage or bad input (one line on stderr); 1 anything else; 130 stopped (Ctrl-C, SIGTERM).
"""

import argparse
import datetime
import json
import math
import os
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path

from llmdata.files import ROWS, Notes
from llmdata.model_folder import find_whole_model
from llmdata.text_file import read_json
from llmdata.tokenizer import open_tokenizer
from llmdata.options import add_version
from llmdata.chat_template import LLAMA3_DATE, Template
from llmdata.errors import Fault, InputError
from llmtext.fingerprint import model_fingerprint
from llmtext.generator import Generator, check_sampler_options, library_path
from llmtext.journal import Journal
from llmtext.progress import Progress
from llmtext.prompts import Prompt, read_prompts
from llmtext.sampling import Rows, Task, seeds_of
from llmtext.scorer import Scorer
from llmtext.texts import (
    add_build_options, add_sampling_options, check_ids, check_sampling_options, sampler_options, split_stops,
)  # fmt: skip
from llmtext.turns import Turns

SCORER_POSITIONS = 8192  # of a forward pass of the reward model


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_version(parser)
    add = parser.add_argument
    add("--model", required=True, type=Path, metavar="DIR", help="the policy: folder with config.json, safetensors, tokenizer")
    add("--reward-model", type=Path, metavar="DIR",
        help="who scores: a model of train_llama3 --task reward (default: nobody, the first whole answer is taken)")  # fmt: skip
    add("--prompts", required=True, nargs="+", type=Path, metavar="FILE", help="rows with \"prompt\" or \"messages\"")
    add("--output", required=True, type=Path, metavar="FILE", help="the best answers, JSONL")
    add("--pairs", type=Path, metavar="FILE", help="best and worst answers as preferences, JSONL")
    add("--pair-margin", type=float, default=0.0, metavar="X",
        help="with --pairs: scores that differ by X or less are no pair (default: %(default)s)")  # fmt: skip
    add("--keep-all", action="store_true", help="write all answers and their scores to OUTPUT too, as \"samples\"")
    add("--keep-cut", action="store_true", help="allow answers that --max-tokens truncated to be chosen")
    add("--samples", type=int, default=10, metavar="K", help="answers a prompt (default: %(default)s; the Llama 3 paper: 10 to 30)")
    add("--rows", type=int, metavar="N", help="texts computed at once (default: 12 on the CPU, 64 on a GPU)")
    add_sampling_options(add, temperature=1.0, top_p=1.0, max_tokens=512)
    add("--max-prompt", type=int, metavar="N", help="leave out prompts of more tokens (default: what the model's context holds)")
    add("--system", metavar="TEXT", help="system message of prompts that have none")
    add("--date", type=datetime.date.fromisoformat, default=LLAMA3_DATE, metavar="YYYY-MM-DD",
        help="the day for chat templates that write one, as for prepare_chat.py (default: %(default)s)")  # fmt: skip
    add("--two-pass", action="store_true", help="hold one model at a time: all answers first, then all scores")
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


# ---- what is read


class Work:
    """All that both passes share: prompts, tokenizer, journals."""

    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.notes = Notes("prompts")
        self.prompts, self.empty = read_prompts(options.prompts, options.system, self.notes)
        if not self.prompts:
            raise InputError(f"{' '.join(map(str, options.prompts))}: no prompt in it")
        self.tokenizer = open_tokenizer(options.model)
        check_head("--model", options.model, "LlamaForCausalLM")
        if options.reward_model is not None:
            check_same_tokenizer(options, self.tokenizer)
            check_head("--reward-model", options.reward_model, "LlamaForSequenceClassification")
        self.turns = Turns(Template(options.model, self.tokenizer, options.date))
        self.samples = self._open_samples()
        try:
            self.scores = self._open_scores() if options.reward_model is not None else None
        except InputError:
            self.samples.close()
            raise
        self.done: dict[str, list[dict]] = {row["key"]: row["samples"] for row in self.samples.rows}
        self.scored: dict[str, list[float | None]] = {row["key"]: row["scores"] for row in self.scores.rows} if self.scores else {}
        self.too_long: list[Prompt] = []
        self.ids = {prompt.key: self.turns.ask(prompt) for prompt in self.prompts}
        self._leave_out_long()
        # of all prompts, done or not: what a text is computed beside must not depend on where a run was stopped
        self.longest = max((len(self.ids[prompt.key]) for prompt in self.prompts), default=0)

    def _open_samples(self) -> Journal:
        o = self.options
        header = {
            "model": model_fingerprint(o.model), "samples": o.samples, "temperature": o.temperature, "top_k": o.top_k,
            "top_p": o.top_p, "seed": o.seed, "max_tokens": o.max_tokens, "stop": o.stop, "precision": o.precision,
            "target": o.library.parent.name.split("-")[0], "rows": o.rows,
            "template": self.turns.template.sha256, "date": o.date.isoformat(),
        }  # fmt: skip
        return Journal(o.output.with_name(o.output.name + ".samples"), header, loose=("target", "rows"))

    def _open_scores(self) -> Journal:
        o = self.options
        header = {"reward_model": model_fingerprint(o.reward_model), "template": self.turns.template.sha256, "keep_cut": o.keep_cut,
                  "precision": o.precision}  # fmt: skip
        return Journal(o.output.with_name(o.output.name + ".scores"), header)

    def _leave_out_long(self) -> None:
        most = read_context(self.options.model) - 1  # room for a token
        if self.options.max_prompt is not None:
            most = min(most, self.options.max_prompt)
        self.too_long = [prompt for prompt in self.prompts if len(self.ids[prompt.key]) > most]
        self.prompts = [prompt for prompt in self.prompts if len(self.ids[prompt.key]) <= most]

    def unsampled(self) -> list[Task]:
        o = self.options
        return [Task(p.key, self.ids[p.key], seeds_of(o.seed, p.key, o.samples)) for p in self.prompts if p.key not in self.done]

    def unscored(self) -> list[str]:
        if self.scores is None:
            return []
        return [p.key for p in self.prompts if p.key in self.done and p.key not in self.scored]

    def close(self) -> None:
        for journal in (self.samples, self.scores):
            if journal is not None:
                journal.close()

    def report_begin(self) -> None:
        for change in self.samples.changed:
            say(f"{self.samples.path} was begun with {change}: the rest may differ in rounding from what that would give")
        have = sum(prompt.key in (self.done if self.scores is None else self.scored) for prompt in self.prompts)
        if self.samples.rows:
            say(f"going on: {have} of {len(self.prompts)} prompts are done")


def check_same_tokenizer(options: argparse.Namespace, tokenizer) -> None:
    theirs = open_tokenizer(options.reward_model, "--reward-model")
    if theirs.to_str() != tokenizer.to_str():
        raise InputError(f"{options.reward_model / 'tokenizer.json'} is not the tokenizer of {options.model}: "
                         "the reward model would read other tokens than it was trained on")  # fmt: skip


def check_head(option: str, folder: Path, wanted: str) -> None:
    """So that a mix-up of the two is found before an hour of sampling."""
    path = folder / "config.json"
    fields = read_json(path)
    if not isinstance(fields, dict):
        raise InputError(f"{path}: expected a JSON object")
    found = fields.get("architectures")
    if found is not None and wanted not in found or found is None and option == "--reward-model":
        raise InputError(f"{path}: architectures {json.dumps(found)}, expected {wanted} for {option}")


# ---- the two passes


def read_context(folder: Path) -> int:
    value = read_json(folder / "config.json").get("max_position_embeddings", 2048)
    if not isinstance(value, int) or value < 2:
        raise InputError(f"{folder / 'config.json'}: max_position_embeddings {value}, expected 2 or more")
    return value


class SamplePass:
    """The policy and its rows of texts; only for prompts that are not done."""

    def __init__(self, work: Work, tasks: list[Task]):
        o, self.work, self.tasks = work.options, work, tasks
        ends, stops = split_stops(work.tokenizer, o.stop)
        context = min(work.longest + o.max_tokens, 2**30)
        self.generator = Generator(o.library, o.model, o.rows + 1, context, o.threads)
        for task in tasks:
            check_ids(f"a prompt of {o.prompts[0]}", task.ids, self.generator.vocab_size)
        self.rows = Rows(self.generator, o.rows, work.tokenizer, sampler_options(o), ends, stops, o.max_tokens)

    def run(self):
        """(key, how fast it goes), as samples are there."""
        start = time.monotonic()
        for task in self.rows.run(self.tasks):
            samples = [asdict(sample) for sample in task.samples]
            self.work.samples.append({"key": task.key, "samples": samples})
            self.work.done[task.key] = samples
            yield task.key, f"{self.rows.drawn / (time.monotonic() - start):.0f} tokens/s"

    def close(self) -> None:
        self.generator.close()


class ScorePass:
    def __init__(self, work: Work):
        o, self.work = work.options, work
        # an answer may have other tokens when it is read again: at most three for one that is no text (U+FFFD)
        longest = min(work.longest + 3 * o.max_tokens + 16, 2**30)
        self.scorer = Scorer(o.library, o.reward_model, SCORER_POSITIONS, longest, o.threads)
        self.prompts = {prompt.key: prompt for prompt in work.prompts}

    def score(self, key: str) -> None:
        """The different answers that may be chosen, in one call, so that scores do not depend on where a run was stopped."""
        samples, prompt = self.work.done[key], self.prompts[key]
        texts = list(dict.fromkeys(s["text"] for s in samples if may_be_chosen(self.work, s)))
        ids = {text: self.work.turns.answered(prompt, text) for text in texts}
        texts = [text for text in texts if ids[text] is not None and len(ids[text]) <= self.scorer.context]
        for text in texts:
            check_ids(prompt.source, ids[text], self.scorer.vocab_size)
        found = dict(zip(texts, self.scorer.score([ids[text] for text in texts]) if texts else []))
        if not all(math.isfinite(score) for score in found.values()):
            raise Fault(f"{self.work.options.reward_model}: a score for {prompt.source} is not finite")
        scores = [found.get(s["text"]) if may_be_chosen(self.work, s) else None for s in samples]
        self.work.scores.append({"key": key, "scores": scores})
        self.work.scored[key] = scores

    def close(self) -> None:
        self.scorer.close()


def may_be_chosen(work: Work, sample: dict) -> bool:
    return bool(sample["text"].strip()) and (sample["finish"] == "stop" or work.options.keep_cut)


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
    return Progress(name, len(work.prompts), min(done, len(work.prompts)))


# ---- what is written


def best_and_worst(work: Work, prompt: Prompt) -> tuple[int, int] | None:
    """Places among the samples; of equal scores the first is the best. Without a reward model the first that may be chosen."""
    if work.scores is None:
        places = [k for k, sample in enumerate(work.done[prompt.key]) if may_be_chosen(work, sample)]
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
    """Whole, or as it was."""
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
    note = f", mean score {mean([row['score'] for row in chosen]):.4g}; of all {len(scores)} scored {mean(scores):.4g}" if scores else ""
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
        work.report_begin()
        (run_both if options.reward_model and not options.two_pass else run_one_after_the_other)(work)
        write_results(work)
    finally:
        work.close()


def stop(number, frame) -> None:
    raise KeyboardInterrupt


def main() -> int:
    options = parse_arguments()
    signal.signal(signal.SIGTERM, stop)
    try:
        run(options)
    except InputError as error:
        say(f"rejection_sample: {error}")
        return 2
    except (Fault, OSError) as error:
        say(f"rejection_sample: {error}")
        return 1
    except KeyboardInterrupt:
        say("\nrejection_sample: stopped; the same command goes on from here")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
