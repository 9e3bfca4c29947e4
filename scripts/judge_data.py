#!/usr/bin/env python3
"""Says what a candidate for the training data is worth, by annealing with it and without (Llama 3 paper, section 3.1.3).

    judge_data.py --model runs/mine/checkpoint --default 'data/web/train_*.bin' --candidate 'data/new/train_*.bin' \\
        --val 'data/mine/val_*.bin' --tokens 4e6 --lr 3e-4 --output runs/judge

From a model that is half trained, the learning rate falls linearly to 0, once over the default data alone and once with a share
(30 %) of the candidate; all of it under several seeds, the same for both. The result is the gain in validation loss and tasks,
with the interval that the seeds give. docs/recipes.md tells more.

OUTPUT receives the two recipes, a folder for each run, report.json and report.md. The same command goes on after a stop, and a run
that has ended is not run again: with more --seeds, only the new ones are made.

Exit codes: 0 done; 2 bad usage or bad input (one line on stderr); 1 anything else; 130 stopped by a signal.
"""

import argparse
import glob
import math
import re
import shlex
import signal
import sys
from dataclasses import asdict
from pathlib import Path

from llmdata import program

program.begin()

from llmdata.errors import InputError
from llmdata.options import add_version, check_bounds
from llmdata.output import write_json, write_text
from llmdata.progress import Progress
from llmdata.text_file import read_object
from llmjudge import report
from llmjudge.runs import WITH, WITHOUT, Caller, Run, Settings, recipe_of
from llmstage.runner import say
from llmtext.generator import ROOT


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_version(parser)
    add = parser.add_argument
    add("--model", required=True, type=Path, metavar="DIR", help="checkpoint of a half-trained model; its weights are used")
    add("--default", required=True, action="append", metavar="[WEIGHT:]GLOB",
        help="shards of the default data; given several times, a mixture with these weights (default: 1)")  # fmt: skip
    add("--candidate", required=True, metavar="GLOB", help="shards of the candidate")
    add("--share", type=float, default=0.3, metavar="X", help="of the candidate, in tokens (default: %(default)s)")
    add("--val", required=True, metavar="GLOB", help="validation shards; all of them are used")
    add("--eval-tasks", metavar="GLOB", help="evaluations of prepare_eval.py")
    add("--tokens", required=True, type=float, metavar="N", help="to anneal over, rounded up to whole steps")
    add("--lr", required=True, type=float, metavar="X", help="learning rate to begin with: what the model's run had reached")
    add("--warmup-steps", type=int, default=10, metavar="N",
        help="steps over which the rate first rises from 0, since AdamW's moments begin anew; at most a tenth (default: %(default)s)")  # fmt: skip
    add("--seeds", type=int, default=5, metavar="N", help="1 to N (default: %(default)s)")
    add("--gain", type=float, metavar="X", help="say also how many seeds would show this gain in validation loss")
    add("--seq-len", type=int, default=256, metavar="N", help="tokens in a row (default: %(default)s)")
    add("--batch-size", type=int, default=8, metavar="N", help="rows of a micro-batch (default: %(default)s)")
    add("--tokens-per-step", type=int, metavar="N", help="default: one micro-batch")
    add("--program", default=str(ROOT / "build/cpu/train_llama3"), metavar="COMMAND",
        help="train_llama3, perhaps with a launcher in front that starts one rank (default: %(default)s)")  # fmt: skip
    add("--threads", type=int, metavar="N", help="for the cpu build (default: all)")
    add("--output", required=True, type=Path, metavar="DIR", help="folder of the runs and the report")
    return parser.parse_args()


def default_sources(given: list[str]) -> list[tuple[float, str]]:
    sources = []
    for text in given:
        match = re.fullmatch(r"(?:([0-9.eE+-]+):)?(.+)", text)
        try:
            weight = float(match[1] or 1)
        except (TypeError, ValueError):
            weight = math.nan
        if not 0 < weight < math.inf:
            raise InputError(f"--default {text}: expected [WEIGHT:]GLOB with a weight > 0")
        sources.append((weight, match[2]))
    return sources


def files_of(option: str, pattern: str) -> dict[str, int]:
    found = {name: Path(name).stat().st_size for name in sorted(glob.glob(pattern))}
    if not found:
        raise InputError(f"{option} {pattern}: no such file")
    return found


def settings_of(options: argparse.Namespace) -> Settings:
    row = options.seq_len * options.batch_size
    check_bounds(options, {"seeds": (2, 1000), "seq_len": (1, 1 << 24), "batch_size": (1, 1 << 20), "tokens": (1, 1e15)})
    if not 0 < options.share < 1:
        raise InputError(f"--share {options.share}: expected a number between 0 and 1")
    for name in ("lr", "gain"):
        value = getattr(options, name)
        if value is not None and not 0 < value < math.inf:
            raise InputError(f"--{name} {value}: expected a number > 0")
    per_step = row if options.tokens_per_step is None else options.tokens_per_step
    if per_step < row or per_step % row:
        raise InputError(f"--tokens-per-step {per_step}: expected a multiple of {row}, --batch-size times --seq-len")
    if not (options.model / "config.json").is_file():
        raise InputError(f"{options.model}/config.json: no such file, expected a checkpoint's folder")
    default, steps = default_sources(options.default), math.ceil(options.tokens / per_step)
    patterns = [("--default", pattern) for _, pattern in default] + [("--candidate", options.candidate), ("--val", options.val)]
    patterns += [("--eval-tasks", options.eval_tasks)] if options.eval_tasks else []
    warmup = min(max(0, options.warmup_steps), steps // 10)
    return Settings(str(options.model), default, options.candidate, options.share, options.val, options.eval_tasks, steps, warmup,
                    options.lr, options.seq_len, options.batch_size, per_step,
                    {pattern: files_of(option, pattern) for option, pattern in patterns})  # fmt: skip


def check_same(settings: Settings, output: Path) -> None:
    """Runs that were made with other settings cannot be compared with new ones."""
    path, now = output / "settings.json", asdict(settings) | {"default": [list(source) for source in settings.default]}
    if path.is_file():
        before = read_object(path)
        for name, value in now.items():
            if before.get(name) != value:
                raise InputError(f"{path}: {name} is {str(before.get(name))[:80]}, now {str(value)[:80]}: expected the same, or another "
                                 "--output")  # fmt: skip
        return
    output.mkdir(parents=True, exist_ok=True)
    write_json(path, now)


def make_runs(runs: list[Run], settings: Settings) -> None:
    total = len(runs) * settings.steps
    reached = lambda: sum(run.steps_done() for run in runs)  # noqa: E731
    progress = Progress("judge_data", total, " steps", reached(), sys.stderr)
    try:
        for number, run in enumerate(runs, 1):
            before = run.result()
            result = before or run.make(Caller(lambda: progress.update(reached(), run.name)))
            left = progress.left()
            say(f"judge_data: [{number}/{len(runs)}] {run.name}: validation loss {result['measures']['val_loss']:.4f}"
                f"{' (before)' if before else ''}{f'; {left}' if left and number < len(runs) else ''}")  # fmt: skip
    finally:
        progress.close()


def judge(options: argparse.Namespace) -> None:
    settings, output = settings_of(options), options.output
    check_same(settings, output)
    for arm in (WITHOUT, WITH):
        write_json(output / f"{arm}.json", recipe_of(settings, arm))
    launch = shlex.split(options.program)
    runs = [Run(settings, output, launch, options.threads, arm, seed) for seed in range(1, options.seeds + 1) for arm in (WITH, WITHOUT)]
    make_runs(runs, settings)
    pairs = report.pairs_of(runs)
    write_json(output / "report.json", report.as_json(settings, pairs, options.gain))
    page = report.as_page(settings, pairs, options.gain)
    write_text(output / "report.md", page)
    print(page, end="")


def main() -> int:
    options = parse_arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return program.run(lambda: judge(options), "judge_data: stopped; the same command goes on")


if __name__ == "__main__":
    sys.exit(main())
