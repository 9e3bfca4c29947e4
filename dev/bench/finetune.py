#!/usr/bin/env python3
"""Finetuning compared with pretraining on the cpu target: what packing, masks and pairs of answers cost.

    python dev/bench/finetune.py --json dev/bench/results/DEVICE-COMMIT/finetune.json       # a quiet machine; a few minutes
    python dev/bench/finetune.py --rounds 1 --steps 4                                       # a quick look

All sides have the same model and shape of a step. They take turns, round by round:
  pretraining              documents as long as the conversations, with attention inside each; and as one text, without that mask
  sft                      conversations packed into rows
  dpo                      pairs of answers that follow their common prompt; the reference's log-probabilities are read
  reference                these log-probabilities are computed (--reference-only). The program's start is subtracted: it is the
                           time of the same command when they are there already
Lengths are drawn from a log-normal distribution, which has a long tail like those of chats. Rates are medians over the steps of
a turn (without the first two), then over the rounds. For packed data there are three:
  positions/s              all positions of the batches, including unused ones at the ends of rows
  tokens/s                 tokens of rows as their files count them, with each prompt once
  chosen tokens/s          tokens of prompts and their chosen answers: what SFT on the chosen answers would have trained on
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/support"), str(ROOT / "data")]
import machine  # noqa: E402
import trainrun  # noqa: E402
from llmdata import rows  # noqa: E402

PROGRAM = ROOT / "build" / "cpu" / "train_llama3"
IDS = (0, 256)  # the tokenizer's ids that are text
SIDES = ("pretraining", "pretraining, no mask", "sft", "dpo", "reference")
GOALS = {"sft to pretraining": 0.9, "dpo to sft": 0.45, "reference to dpo": 2.5}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default=str(ROOT / "configs" / "tiny.json"), help="config.json (default: configs/tiny.json)")
    parser.add_argument("--rows", type=int, default=8, help="rows per step (default: %(default)s)")
    parser.add_argument("--sequence", type=int, default=256, help="positions per row (default: %(default)s)")
    parser.add_argument("--prompt", type=int, default=20, help="median tokens of a prompt (default: %(default)s)")
    parser.add_argument("--answer", type=int, default=40, help="median tokens of an answer (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads (default: one per core)")
    parser.add_argument("--steps", type=int, default=10, help="timed steps per turn (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side (default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="also write the result to this file")
    return parser.parse_args()


# ---- data


def draw_length(rng, median, most):
    return int(np.clip(rng.lognormal(np.log(median), 0.6), 2, most))


def text(rng, count, flags=0):
    return rng.integers(*IDS, count).astype(np.uint32) | np.uint32(flags)


def answer(rng, length):
    """An answer, all of which is trained. Its last token ends the turn."""
    tokens = text(rng, length, rows.TRAINED)
    tokens[-1] = trainrun.EOS | rows.TRAINED | rows.FORMAT
    return tokens


def prompt(rng, length):
    return np.concatenate([[np.uint32(trainrun.BOS)], text(rng, length - 1)])


def draw_rows(rng, options, answers, positions):
    """Rows of a prompt and its answers (with one answer, conversations) until they fill so many positions."""
    made, total = [], 0
    while total < positions:
        asked = prompt(rng, draw_length(rng, options.prompt, options.sequence // 4))
        said = [answer(rng, draw_length(rng, options.answer, options.sequence * 3 // 8)) for _ in range(answers)]
        made.append(rows.Row(np.concatenate([asked, *said])) if answers == 1 else rows.Row(asked, said))
        total += len(made[-1]) + answers - 1
    return made


class Data:
    """Folders with the data of each side, and the model that finetuning starts from."""

    def __init__(self, folder, options):
        self.work, self.options = trainrun.Workplace(folder), options
        rng = np.random.default_rng(0)
        positions = 4 * options.rows * options.sequence * options.steps  # more rows make fuller packs
        self.talks, self.pairs = draw_rows(rng, options, 1, positions), draw_rows(rng, options, 2, positions)
        self.chat = self.write("chat", rows.CONVERSATIONS, self.talks)
        self.prefs = self.write("prefs", rows.COMPARISONS, self.pairs)
        self.work.write("train_000.bin", np.concatenate([row.prompt & rows.ID_MASK for row in self.talks]))
        self.base = self.work.folder / "base"
        run(self.command(self.work.data, output=self.base, config=options.config, steps=1, save="on"))

    def write(self, name, kind, made):
        folder = self.work.folder / name
        folder.mkdir()
        for file in ("tokenizer.json", "tokenizer_config.json"):
            (folder / file).write_bytes((self.work.data / file).read_bytes())
        rows.write(folder, "train", kind, made, trainrun.VOCAB - 2, bos=trainrun.BOS, end=trainrun.EOS, sha256=self.work.sha)
        return folder

    def command(self, data, *more, **changes):
        o = self.options
        run = dict(config=None, train_data=data / "train_*.bin", seq_len=o.sequence, batch_size=o.rows, threads=o.threads,
                   steps=o.steps + 2, save="off", eval_every=0, checksum_every=0, overwrite=True)  # fmt: skip
        return [PROGRAM, *self.work.arguments(**{**run, **changes}), *more]

    def finetuning(self, task, data, *more):
        return self.command(data, *more, task=task, init_from=self.base / "checkpoint", lr="1e-5")


# ---- turns


def run(command):
    done = subprocess.run([str(part) for part in command], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"finetune: {' '.join(map(str, command))} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout


def training_rate(data, command):
    run(command)
    rates = [line["tokens_per_second"] for line in data.work.log() if "tokens_per_second" in line][2:]
    return statistics.median(rates)


def reference_rate(data):
    """Positions per second of a pass over all pairs. The values stay where the next turn of dpo finds them."""
    command = data.finetuning("dpo", data.prefs, "--reference-only")
    for file in data.prefs.glob("reference_*.bin"):
        file.unlink()
    seconds = []
    for _ in range(2):  # computed, then found
        began = time.monotonic()
        run(command)
        seconds.append(time.monotonic() - began)
    return packs_of(data, data.pairs) * data.options.sequence / (seconds[0] - seconds[1])


def turn(data, side):
    """One turn of a side. Returns positions per second."""
    if side == "reference":
        return reference_rate(data)
    if side.startswith("pretraining"):
        mask = "off" if "no mask" in side else "on"
        return training_rate(data, data.command(data.work.data, config=data.options.config, document_mask=mask))
    return training_rate(data, data.finetuning(side, data.chat if side == "sft" else data.prefs))


def measure(data):
    turns = {side: [] for side in SIDES}
    reference_rate(data)  # the first turn of dpo needs its values
    for number in range(data.options.rounds):
        print(f"round {number + 1} of {data.options.rounds}", file=sys.stderr, flush=True)
        for side in SIDES:
            turns[side].append(turn(data, side))
    return {side: statistics.median(rates) for side, rates in turns.items()}, turns


# ---- what the positions contain


def packs_of(data, made):
    """How many rows of a batch the library's loader makes of these rows."""
    return loader_numbers(data, made)[0]


def loader_numbers(data, made):
    """(packs, share of their positions that are used)"""
    from ctypes import byref, c_void_p

    import hostlib

    o, pairs = data.options, made is data.pairs
    spec = hostlib.LoaderSpec(B=o.rows, T=o.sequence, grad_accum=1, world=1, seed=0, kind=2 if pairs else 1)
    loader = c_void_p()
    folder = data.prefs if pairs else data.chat
    hostlib.call("loader_open", byref(loader), hostlib.path_bytes(folder / "train_*.bin"), byref(spec), trainrun.VOCAB, None)
    found = hostlib.library.loader_num_windows(loader), hostlib.library.loader_fill(loader)
    hostlib.library.loader_close(loader)
    return found


def packing(data):
    """By side: the used share of positions (fill), and per position the tokens of rows, and of prompts and chosen answers."""
    found = {}
    for side, made in (("sft", data.talks), ("dpo", data.pairs)):
        packs, fill = loader_numbers(data, made)
        positions = packs * data.options.sequence
        chosen = sum(len(row.prompt) + (len(row.answers[0]) if row.answers else 0) for row in made)
        found[side] = {"rows": len(made), "packs": packs, "fill": fill, "tokens": sum(map(len, made)) / positions,
                       "chosen": chosen / positions}  # fmt: skip
    return found


# ---- results


def rates(medians, held):
    """{side: {unit: rate per second}}"""
    found = {side: {"positions": value} for side, value in medians.items()}
    for side, of in (("sft", "sft"), ("dpo", "dpo"), ("reference", "dpo")):
        for unit in ("tokens", "chosen"):
            found[side][unit] = medians[side] * held[of][unit]
    return found


def ratios(found):
    plain, sft, dpo = (found[side] for side in ("pretraining", "sft", "dpo"))
    return {
        "sft to pretraining": sft["positions"] / plain["positions"],
        "sft to pretraining without mask": sft["positions"] / found["pretraining, no mask"]["positions"],
        "sft's rows to pretraining": sft["tokens"] / plain["positions"],
        "dpo to sft": dpo["chosen"] / sft["tokens"],
        "dpo to sft, positions": dpo["positions"] / sft["positions"],
        "reference to dpo": found["reference"]["positions"] / dpo["positions"],
    }


def print_all(found, held, compared):
    print(f"{'':24}{'positions/s':>12}{'tokens/s':>12}{'chosen/s':>12}{'fill':>9}")
    for side, units in found.items():
        cells = "".join(f"{units[unit]:12.0f}" if unit in units else f"{'-':>12}" for unit in ("positions", "tokens", "chosen"))
        fill = f"{100 * held[side]['fill']:8.1f}%" if side in held else f"{'-':>9}"
        print(f"{side:24}{cells}{fill}")
    print()
    for name, value in compared.items():
        goal = f"   goal {GOALS[name]:.2f}: {'met' if value >= GOALS[name] else 'NOT met'}" if name in GOALS else ""
        print(f"{name:36}{value:8.3f}{goal}")


def main():
    options = arguments()
    if not PROGRAM.exists():
        sys.exit(f"finetune: {PROGRAM} is missing: run make TARGET=cpu")
    head = machine.describe()
    with tempfile.TemporaryDirectory(prefix="finetune.") as folder:
        data = Data(folder, options)
        held = packing(data)
        medians, turns = measure(data)
    found = rates(medians, held)
    compared = ratios(found)
    print_all(found, held, compared)
    if options.json:
        shape = {name: getattr(options, name) for name in "rows sequence prompt answer threads steps rounds".split()}
        result = {**head, "config": pathlib.Path(options.config).name, **shape, "per_second": found, "packing": held,
                  "ratios": compared, "goals": GOALS, "turns": turns}  # fmt: skip
        path = pathlib.Path(options.json)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
