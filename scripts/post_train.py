#!/usr/bin/env python3
"""Runs one round of post-training as in the Llama 3 paper: reward model, rejection sampling, SFT, DPO, averaging.

    post_train.py --round round.json                runs the round, or continues it
    post_train.py --round round.json --dry-run      checks the file and prints the commands

docs/round_example.json shows what the file may contain; each stage may be left out. The members of "train", "prepare", "sample"
and "options" are options of train_llama3, prepare_chat.py, rejection_sample.py and average_llama3. Paths are relative to the
folder in which this program is started.

Each stage has a folder inside the round's output, where stage.json notes what is done. A finished stage is not run again. A
stage that was stopped or killed continues from its last checkpoint or sample, and has the same result as one that was not. At
the end, OUTPUT/report.html shows settings, curves, scores, and answers to held-out prompts before and after the round.

Ctrl-C, SIGTERM and SIGUSR1 let the running stage save and end; a second one ends it at once.

Exit codes: 0 done; 2 bad usage or bad input (one line on stderr); 1 anything else; 130 stopped by a signal.
"""

import argparse
import shlex
import sys
from pathlib import Path

from llmdata import program

program.begin()

from llmdata.options import add_version
from llmround.report import Report
from llmround.settings import read_round
from llmround.stages import Plan
from llmstage.runner import Lock, Runner, say


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_version(parser)
    parser.add_argument("--round", required=True, type=Path, metavar="FILE", help="JSON file that describes the round")
    parser.add_argument("--dry-run", action="store_true", help="check the file and print the commands, but run nothing")
    parser.add_argument("--again", action="store_true",
                        help="for stages whose settings or inputs have changed: remove their folders and start anew")  # fmt: skip
    return parser.parse_args()


def print_commands(plan: Plan) -> None:
    for stage in plan.stages:
        for step in stage.steps:
            to = f" > {shlex.quote(str(step.output))}" if step.output else ""
            print(f"# {stage.title} ({step.name})\n{shlex.join(step.command)}{to}")


def run(options: argparse.Namespace) -> None:
    round_, programs = read_round(options.round)
    plan = Plan(round_, programs)
    if options.dry_run:
        print_commands(plan)
        return
    runner = Runner("post_train", plan.stages, options.again)
    lock = Lock("post_train", round_.output)  # noqa: F841  it is held until this program and those that it runs have ended
    runner.check()
    runner.run()
    Report(plan).write(round_.output / "report.html")
    say(f"post_train: {round_.output / 'report.html'}; the model: {plan.policy}")


def main() -> int:
    options = parse_arguments()
    return program.run(lambda: run(options), "post_train: stopped; the same command goes on from here")


if __name__ == "__main__":
    sys.exit(main())
