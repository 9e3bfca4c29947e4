#!/usr/bin/env python3
"""Scaling laws: plans a sweep of small training runs, runs it, fits laws to it, and forecasts larger runs.

    scaling.py plan scaling.json                    the runs, their time and memory, before anything runs
    scaling.py run scaling.json                     all runs, one after another; the same command goes on after a stop
    scaling.py run scaling.json --slurm             the same as a Slurm array
    scaling.py fit scaling.json                     laws, with intervals, and OUTPUT/report.html
    scaling.py forecast scaling.json --budget 1e18  size, tokens and loss of a budget that was not trained

docs/scaling.md describes the file; docs/scaling_example.json is one. fit and forecast also take a table of runs (.csv or .jsonl).

Exit codes: 0 done; 2 bad usage or bad input (one line on stderr); 1 anything else; 130 stopped by a signal.
"""

import argparse
import sys
from pathlib import Path

from llmdata import program

program.begin()

from llmdata.errors import InputError
from llmdata.options import add_version
from llmscale.plan_tables import print_plan
from llmscale.planning import plan_runs
from llmscale.resample import SEED
from llmscale.run import Run
from llmscale.settings import read_settings
from llmscale.speed import MEASURED_STEPS, Speed
from llmscale.sweep import Sweep
from llmstage.runner import say


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_version(parser)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    plan = commands.add_parser("plan", help="print the runs")
    plan.add_argument("--measure", action="store_true", help="train each size for a few steps, to know its time")
    run = commands.add_parser("run", help="train what has not ended")
    run.add_argument("--only", action="append", default=[], metavar="NAME", help="this run alone; may be given several times")
    run.add_argument("--forecast", action="store_true", help="also the runs that test a forecast: make that first")
    run.add_argument("--again", action="store_true", help="remove runs that were made with other settings, and begin them anew")
    run.add_argument("--slurm", action="store_true", help="submit the runs as a Slurm array, and wait for it")
    run.add_argument("--no-wait", action="store_true", help="with --slurm: end after submitting")
    fit = commands.add_parser("fit", help="fit laws to what has ended")
    beyond = commands.add_parser("forecast", help="say what a budget buys")
    beyond.add_argument("--budget", required=True, type=flops, metavar="FLOPS[,FLOPS...]", help="training FLOPs, as 1e18")
    beyond.add_argument("--task", type=Path, metavar="NAME|CSV",
                        help="forecast the accuracy too, on an evaluation that the runs were scored on, or by a table of "
                             "nll, accuracy, flops, items")  # fmt: skip
    beyond.add_argument("--chance", type=float, default=0.25, metavar="X",
                        help="accuracy of guessing, from which the sigmoid rises (default: %(default)s)")  # fmt: skip
    for command in (plan, run):
        command.add_argument("file", type=Path, metavar="FILE", help="the plan, a JSON file")
    for command in (fit, beyond):
        command.add_argument("file", type=Path, metavar="FILE", help="the plan, or a table of runs (.csv, .jsonl)")
        command.add_argument("--output", type=Path, metavar="DIR",
                             help="folder of report.html and fit.json (default: the plan's output; of a table: none)")  # fmt: skip
        command.add_argument("--seed", type=whole, default=SEED, metavar="N",
                             help="of the draws of intervals (default: %(default)s)")  # fmt: skip
        command.add_argument("--json", action="store_true", help="print everything as one JSON object")
    parser.epilog = "\n".join(f"COMMAND {name}\n{sub.format_help()}" for name, sub in commands.choices.items())
    return parser.parse_args()


def whole(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"'{text}': expected a whole number of 0 or more")
    return int(text)


def flops(text: str) -> list[float]:
    try:
        values = [float(word) for word in text.split(",")]
    except ValueError:
        values = [0.0]
    if not all(1 <= value <= 1e35 for value in values):
        raise argparse.ArgumentTypeError(f"'{text}': expected numbers from 1 to 1e35, separated by commas")
    return values


def plan(options: argparse.Namespace) -> None:
    settings = read_settings(options.file)
    runs = plan_runs(settings)
    speed, configs = Speed(settings), {}
    for planned in runs:
        run = Run(settings, planned)
        run.write_config()
        configs[planned.size.name] = run.config
    if options.measure:
        speed.measure(runs, lambda planned, folder: Run(settings, planned).measuring(folder, MEASURED_STEPS))
    print_plan(settings, runs, speed, configs)


def train(options: argparse.Namespace) -> None:
    if options.no_wait and not options.slurm:
        raise InputError("--no-wait: expected together with --slurm")
    settings = read_settings(options.file)
    runs = [p for p in plan_runs(settings) if options.forecast or not p.budget.forecast or p.name in options.only]
    sweep = Sweep(settings, runs, options.again)
    if options.slurm:
        job = sweep.submit(options.only)
        if job and not options.no_wait:
            sweep.wait(job)
    else:
        sweep.run_here(options.only)
    say("scaling: " + ", ".join(f"{count} {status}" for status, count in sweep.summary().items() if count))


def conclude(options: argparse.Namespace) -> None:
    if options.output is not None and options.output.exists() and not options.output.is_dir():
        raise InputError(f"--output {options.output}: expected a folder, found a file")
    from llmscale import results  # here, since matplotlib takes long to import

    (results.fit if options.command == "fit" else results.forecast)(options)


COMMANDS = {"plan": plan, "run": train, "fit": conclude, "forecast": conclude}


def main() -> int:
    options = parse_arguments()
    return program.run(lambda: COMMANDS[options.command](options), "scaling: stopped; the same command goes on from here")


if __name__ == "__main__":
    sys.exit(main())
