#!/usr/bin/env python3
"""Makes a herd of models from raw pages, in the stages of the Llama 3 paper: curation, tokens, scaling law, pretraining of
several sizes, post-training of the largest, evaluation of all, and one report.

    herd.py herds/laptop.json                runs the stages, or goes on where they were stopped
    herd.py herds/node.json --dry-run        checks all of them, and prints commands, time, memory and disk

docs/herd.md describes the file. Each stage is a program of this project with a file of its own in OUTPUT/files/; its log is
OUTPUT/logs/STAGE.log. After each stage OUTPUT/report.html is written anew.

A stage that is done is not run again. If the settings change, what depends on the change is removed and run anew, which is
said. Ctrl-C and SIGTERM let the running stage save and end; a second one ends it at once.

Exit codes: 0 done; 2 bad usage or bad input (one line on stderr); 1 anything else; 130 stopped by a signal.
"""

import argparse
import shlex
import sys
from pathlib import Path

from llmdata import program

program.begin()

from llmdata.errors import Fault, InputError
from llmdata.options import add_version
from llmdata.output import write_json
from llmdata.progress import duration
from llmdata.text_file import read_object
from llmherd.checks import built_target, check_all
from llmherd.needs import needs_of, size_text
from llmherd.report import Report
from llmherd.runner import HerdRunner
from llmherd.settings import read_herd
from llmherd.stages import Plan
from llmstage.runner import Lock, say


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_version(parser)
    parser.add_argument("settings", type=Path, metavar="FILE", help="the settings, a JSON file")
    parser.add_argument("--dry-run", action="store_true", help="check the settings and print what would be done")
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder of the results (default: that of the settings)")
    parser.add_argument("--seed", type=int, metavar="N",
                        help="of texts, weights and order of data (default: that of the settings)")  # fmt: skip
    return parser.parse_args()


def print_plan(plan: Plan) -> None:
    needs = needs_of(plan)
    for number, stage in enumerate(plan.stages, 1):
        print(f"# [{number}/{len(plan.stages)}] {stage.title}: {needs[stage.name].words()}")
        for step in stage.steps:
            print(shlex.join(step.command))
    known = [need.seconds for need in needs.values() if need.seconds is not None]
    more = f" and {len(needs) - len(known)} stages of unknown time" if len(known) < len(needs) else ""
    memory, disk = max(need.memory for need in needs.values()), sum(need.disk for need in needs.values())
    print(f"# in all: {duration(sum(known))}{more}, {size_text(memory)} of memory, {size_text(disk)} of disk")


def run(options: argparse.Namespace) -> None:
    settings = read_herd(options.settings, options.output, options.seed)
    plan = Plan(settings)
    if options.dry_run:
        check_all(settings)
        if built_target(settings) != settings.target:
            say(f"herd: no build for {settings.target} here: the options were checked with that for {built_target(settings)}")
        print_plan(plan)
        return
    if not plan.trainer.is_file():
        raise InputError(f"{plan.trainer} is missing: run make TARGET={settings.target} PRECISION={settings.precision}")
    lock = Lock("herd", settings.output)  # noqa: F841  it is held until this program and those that it runs have ended
    kept = settings.output / "settings.json"
    if read_object(kept) != settings.value:
        say("herd: checking the settings of all stages")
        check_all(settings)
    report = Report(settings.output, plan.stages)
    runner = HerdRunner(plan, report)
    runner.check()
    write_json(kept, settings.value)
    runner.run()
    report.write()
    if runner.failed:
        raise Fault(f"done but for {', '.join(runner.failed)}: see above, and {settings.output / 'report.html'}")
    chat = plan.files.evaluated()
    say(f"herd: {settings.output / 'report.html'}; to chat: scripts/serve.py --model {list(chat.values())[-1]} "
        f"--precision {settings.precision}")


def main() -> int:
    options = parse_arguments()
    return program.run(lambda: run(options), "herd: stopped; the same command goes on from here")


if __name__ == "__main__":
    sys.exit(main())
