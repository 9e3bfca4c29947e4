#!/usr/bin/env python3
"""One round of post-training, as the Llama 3 paper does it: reward model, rejection sampling, SFT, DPO, averaging.

    post_train.py --round round.json                runs the round, or goes on with it
    post_train.py --round round.json --dry-run      checks the file and prints the commands

docs/round_example.json shows what the file may say; stages may be left out. Members of "train", "prepare", "sample" and
"options" are options of train_llama3, prepare_chat.py, rejection_sample.py and average_llama3. Paths are relative to where
this program is started.

Each stage has a folder in the round's output, with stage.json, which notes what is done. A stage that is done is not done
again; a stage that was stopped or killed goes on from its last checkpoint, or sample, with the result of one that was not. At the
end OUTPUT/report.html shows settings, curves, scores, and answers to held-out prompts before and after.

Ctrl-C, SIGTERM and SIGUSR1 end the running stage in order; a second one ends it at once.

Exit codes: 0 done; 2 bad usage or bad input (one line on stderr); 1 anything else; 130 stopped by a signal.
"""

import argparse
import shlex
import sys
from pathlib import Path

from llmdata.options import add_version
from llmround.report import Report
from llmround.runner import STOPPED, Lock, Runner, Stopped, say
from llmround.settings import read_round
from llmround.stages import Plan
from llmdata.errors import Fault, InputError


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_version(parser)
    parser.add_argument("--round", required=True, type=Path, metavar="FILE", help="what to do, JSON")
    parser.add_argument("--dry-run", action="store_true", help="check the file and print the commands")
    parser.add_argument("--again", action="store_true",
                        help="stages whose settings or inputs have changed begin anew; their folders are removed")  # fmt: skip
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
    runner = Runner(plan, options.again)
    lock = Lock(round_.output)  # noqa: F841: held as long as this and the programs that it runs live
    runner.check()
    runner.run()
    Report(plan).write(round_.output / "report.html")
    say(f"post_train: {round_.output / 'report.html'}; the model: {plan.policy}")


def main() -> int:
    options = parse_arguments()
    try:
        run(options)
    except InputError as error:
        say(f"post_train: {error}")
        return 2
    except (Fault, OSError) as error:
        say(f"post_train: {error}")
        return 1
    except Stopped:
        say("post_train: stopped; the same command goes on from here")
        return STOPPED
    return 0


if __name__ == "__main__":
    sys.exit(main())
