#!/usr/bin/env python3
"""Writes the logs of runs as TensorBoard, trackio and Weights & Biases keep them.

    export_log.py runs/mine --to tensorboard                  then: tensorboard --logdir runs/tensorboard
    export_log.py runs/a runs/b --to tensorboard --follow     goes on while the runs do, until Ctrl-C

Losses, validation by source, learning rate, norms, tokens per second, tasks, samples, events and settings, by step. Run again,
it adds what is new and writes nothing twice; where a run was resumed and its log has gone back, that run is written anew.
Nothing is sent anywhere: all three tools keep files, in OUTPUT/RUN (trackio: a database in OUTPUT).

The tools are not installed with the trainer: pip install -r requirements-export.txt, or the one that is wanted.

Exit codes: 0 done; 2 bad usage or bad input (one line on stderr); 1 anything else; 130 stopped by a signal.
"""

import argparse
import importlib.util
import os
import signal
import sys
import time
from pathlib import Path

from llmdata import program

program.begin()

from llmdata.errors import InputError
from llmdata.options import add_version
from llmdata.progress import SECONDS_BETWEEN_LINES, Progress
from llmexport.export import Export, Tool
from llmplot.run_log import log_of, run_of

TOOLS = {"tensorboard": "TensorBoard", "trackio": "Trackio", "wandb": "Wandb"}
SECONDS_BETWEEN_LOOKS = 1


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_version(parser)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder, or a log file")
    parser.add_argument("--to", required=True, choices=list(TOOLS), help="whose files to write")
    parser.add_argument("--output", type=Path, metavar="DIR",
                        help="folder to write to (default: one with the tool's name beside the first run's)")  # fmt: skip
    parser.add_argument("--follow", action="store_true", help="go on as the logs grow, until a signal")
    return parser.parse_args()


def names_of(logs: list[Path]) -> list[str]:
    """The runs' names; where two have the same, their paths from the folder that all have in common."""
    if len({log.resolve() for log in logs}) < len(logs):
        raise InputError("RUN: found the same run twice, expected each once")
    names = [run_of(log) for log in logs]
    if len(set(names)) == len(names):
        return names
    folders = [log.resolve().parent / ("" if log.name == "log.jsonl" else log.stem) for log in logs]
    common = os.path.commonpath([folder.parent for folder in folders])
    return [str(folder.relative_to(common)) for folder in folders]


def tool_of(name: str) -> type[Tool]:
    if importlib.util.find_spec(name) is None:
        raise InputError(f"--to {name}: the Python package {name} is missing, expected what installs it: "
                         "pip install -r requirements-export.txt")  # fmt: skip
    return getattr(importlib.import_module(f"llmexport.to_{name}"), TOOLS[name])


def export_once(export: Export) -> None:
    """With a bar, and a line at the end."""
    progress = Progress(f"export_log: {export.name}", export.log.path.stat().st_size)
    try:
        export.update(progress.update)
    finally:
        progress.close()
    left_out = f", left out {export.unreadable} unreadable lines" if export.unreadable else ""
    progress.finish(f"{export.written} lines written, up to step {export.step}{left_out}, in {export.folder}")


def follow(exports: list[Export]) -> None:
    last = time.monotonic()
    while True:
        time.sleep(SECONDS_BETWEEN_LOOKS)
        changed = [export.update(lambda _: None) for export in exports]
        if any(changed) and time.monotonic() - last > SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            reached = ", ".join(f"{export.name} at step {export.step}" for export in exports)
            print(f"export_log: {reached}", flush=True)


def run(options: argparse.Namespace) -> None:
    tool, logs, exports = tool_of(options.to), [log_of(name) for name in options.runs], []
    output = options.output or logs[0].resolve().parent.parent / options.to
    try:
        for log, name in zip(logs, names_of(logs)):
            exports.append(Export(log, output / name, name, tool))
        for export in exports:
            export_once(export)
        if options.follow:
            follow(exports)
    finally:
        for export in exports:
            export.close()


def main() -> int:
    options = parse_arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return program.run(lambda: run(options), "export_log: stopped; the same command goes on")


if __name__ == "__main__":
    sys.exit(main())
