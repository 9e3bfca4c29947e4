"""Rejection sampling: draws answers to prompts, and lets a reward model score them.

Both passes note what is done in journals, so that the same command continues where it was stopped.
"""

import argparse
import json
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Iterator

from llmdata.chat_template import Template
from llmdata.errors import Fault, InputError
from llmdata.files import Notes
from llmdata.text_file import read_json
from llmdata.tokenizer import open_tokenizer

from .fingerprint import model_fingerprint
from .generator import Generator
from .journal import Journal
from .options import sampler_options
from .prompts import Prompt, read_prompts
from .sampling import Rows, Task, seeds_of
from .scorer import Scorer
from .texts import check_ids, split_stops
from .turns import Turns

SCORER_POSITIONS = 8192  # in a forward pass of the reward model


class Work:
    """What both passes share: prompts, tokenizer and journals, and what is done: `done` and `scored`, by a prompt's key."""

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
        scored = self.scores.rows if self.scores else []
        self.scored: dict[str, list[float | None]] = {row["key"]: row["scores"] for row in scored}
        self.too_long: list[Prompt] = []
        self.ids = {prompt.key: self.turns.ask(prompt) for prompt in self.prompts}
        self._leave_out_long()
        # of all prompts, done or not: the shape of a batch must not depend on where a run was stopped
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
        header = {"reward_model": model_fingerprint(o.reward_model), "template": self.turns.template.sha256,
                  "keep_cut": o.keep_cut, "precision": o.precision}  # fmt: skip
        return Journal(o.output.with_name(o.output.name + ".scores"), header)

    def _leave_out_long(self) -> None:
        most = read_context(self.options.model) - 1  # leaves room for a token
        if self.options.max_prompt is not None:
            most = min(most, self.options.max_prompt)
        self.too_long = [prompt for prompt in self.prompts if len(self.ids[prompt.key]) > most]
        self.prompts = [prompt for prompt in self.prompts if len(self.ids[prompt.key]) <= most]

    def unsampled(self) -> list[Task]:
        o, prompts = self.options, [prompt for prompt in self.prompts if prompt.key not in self.done]
        return [Task(p.key, self.ids[p.key], seeds_of(o.seed, p.key, o.samples)) for p in prompts]

    def unscored(self) -> list[str]:
        if self.scores is None:
            return []
        return [p.key for p in self.prompts if p.key in self.done and p.key not in self.scored]

    def may_be_chosen(self, sample: dict) -> bool:
        return bool(sample["text"].strip()) and (sample["finish"] == "stop" or self.options.keep_cut)

    def close(self) -> None:
        for journal in (self.samples, self.scores):
            if journal is not None:
                journal.close()


def check_same_tokenizer(options: argparse.Namespace, tokenizer) -> None:
    theirs = open_tokenizer(options.reward_model, "--reward-model")
    if theirs.to_str() != tokenizer.to_str():
        raise InputError(f"{options.reward_model / 'tokenizer.json'} is not the tokenizer of {options.model}: "
                         "the reward model would read other tokens than it was trained on")  # fmt: skip


def check_head(option: str, folder: Path, wanted: str) -> None:
    """Finds out that the two models were mixed up before hours of sampling."""
    path = folder / "config.json"
    fields = read_json(path)
    if not isinstance(fields, dict):
        raise InputError(f"{path}: expected a JSON object")
    found = fields.get("architectures")
    if found is not None and wanted not in found or found is None and option == "--reward-model":
        raise InputError(f"{path}: architectures {json.dumps(found)}, expected {wanted} for {option}")


def read_context(folder: Path) -> int:
    value = read_json(folder / "config.json").get("max_position_embeddings", 2048)
    if not isinstance(value, int) or value < 2:
        raise InputError(f"{folder / 'config.json'}: max_position_embeddings {value}, expected 2 or more")
    return value


class SamplePass:
    """The policy draws answers to the prompts that have none yet."""

    def __init__(self, work: Work, tasks: list[Task]):
        o, self.work, self.tasks = work.options, work, tasks
        ends, stops = split_stops(work.tokenizer, o.stop)
        context = min(work.longest + o.max_tokens, 2**30)
        self.generator = Generator(o.library, o.model, o.rows + 1, context, o.threads)
        for task in tasks:
            check_ids(f"a prompt of {o.prompts[0]}", task.ids, self.generator.vocab_size)
        self.rows = Rows(self.generator, o.rows, work.tokenizer, sampler_options(o), ends, stops, o.max_tokens)

    def run(self) -> Iterator[tuple[str, str]]:
        """Yields (key, speed in words) when all answers to a prompt are there."""
        start = time.monotonic()
        for task in self.rows.run(self.tasks):
            samples = [asdict(sample) for sample in task.samples]
            self.work.samples.append({"key": task.key, "samples": samples})
            self.work.done[task.key] = samples
            yield task.key, f"{self.rows.drawn / (time.monotonic() - start):.0f} tokens/s"

    def close(self) -> None:
        self.generator.close()


class ScorePass:
    """The reward model scores the answers to one prompt after another."""

    def __init__(self, work: Work):
        o, self.work = work.options, work
        # an answer that is read again may have other tokens: up to three for one that is not text (U+FFFD)
        longest = min(work.longest + 3 * o.max_tokens + 16, 2**30)
        self.scorer = Scorer(o.library, o.reward_model, SCORER_POSITIONS, longest, o.threads)
        self.prompts = {prompt.key: prompt for prompt in work.prompts}

    def score(self, key: str) -> None:
        """Scores all different answers that may be chosen in one call, so that scores do not depend on where a run stopped."""
        samples, prompt = self.work.done[key], self.prompts[key]
        texts = list(dict.fromkeys(s["text"] for s in samples if self.work.may_be_chosen(s)))
        ids = {text: self.work.turns.answered(prompt, text) for text in texts}
        texts = [text for text in texts if ids[text] is not None and len(ids[text]) <= self.scorer.context]
        for text in texts:
            check_ids(prompt.source, ids[text], self.scorer.vocab_size)
        found = dict(zip(texts, self.scorer.score([ids[text] for text in texts]) if texts else []))
        if not all(math.isfinite(score) for score in found.values()):
            raise Fault(f"{self.work.options.reward_model}: a score for {prompt.source} is not finite")
        scores = [found.get(s["text"]) if self.work.may_be_chosen(s) else None for s in samples]
        self.work.scores.append({"key": key, "scores": scores})
        self.work.scored[key] = scores

    def close(self) -> None:
        self.scorer.close()
