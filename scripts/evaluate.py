#!/usr/bin/env python3
"""Evaluates models side by side with the tasks of a suite: scores with intervals, and whether the models differ.

    evaluate.py --models base=runs/base sft=runs/sft dpo=runs/dpo --suite my_suite.json --output results/mine

The models are served by scripts/serve.py on this machine (or --server URL names a server that runs). SUITE is a JSON file:
{"tasks": [{"name": ..., "kind": ..., "file": ..., ...}]}; docs/evaluate.md has the kinds and their settings. Files are named
relative to it. Programs that a model writes run in a sandbox (bubblewrap) without network and files.

--output gets report.html, results.json, and items/TASK/MODEL.jsonl with each answer and its score. An evaluation that was
stopped goes on where it was; other weights or settings need another folder.

Exit codes: 0 done; 2 bad usage or bad input (one line on stderr); 1 anything else; 130 interrupted.
"""

import argparse
import contextlib
import sys
from pathlib import Path

from llmdata import program

program.begin()

from llmdata.errors import InputError
from llmdata.model_folder import find_whole_model, named_models
from llmdata.options import add_version, check_bounds, check_texts
from llmdata.output import write_json, write_text
from llmeval import contamination, report
from llmeval.asking import Asking, Guard, Model
from llmeval.client import Client
from llmeval.run import Result, evaluate
from llmeval.server import served
from llmeval.suite import Task, read_suite
from llmtext.fingerprint import model_fingerprint
from llmtext.options import add_build_options


LONGEST = 4096  # tokens of prompt and answer together, unless the server says otherwise


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_version(parser)
    add = parser.add_argument
    add("--models", required=True, nargs="+", metavar="[NAME=]DIR", help="folders of models, the columns of the report")
    add("--suite", required=True, type=Path, metavar="FILE", help="the suite's JSON file")
    add("--output", required=True, type=Path, metavar="DIR", help="folder of the results")
    add("--guard", metavar="[NAME=]DIR", help="folder of the model that judges whether answers are safe")
    add("--server", metavar="URL", help="ask this server, which serves the models under these names")
    add("--api-key", metavar="KEY", help="key of that server")
    add("--at-once", type=int, default=16, metavar="N", help="requests at the same time (default: %(default)s)")
    add("--context", type=int, default=LONGEST, metavar="N",
        help="longest prompt and answer together, in tokens; at most the model's (default: %(default)s)")  # fmt: skip
    add_build_options(add)
    return parser.parse_args()


@contextlib.contextmanager
def server(options: argparse.Namespace, folders: dict[str, Path]):
    if options.server:
        yield options.server
        return
    given = {"--rows": options.at_once, "--queue": 4 * options.at_once, "--context": options.context,
             "--precision": options.precision, "--threads": options.threads}  # fmt: skip
    given |= {"--target": options.target} if options.target else {}
    with served(folders, *(str(word) for pair in given.items() for word in pair)) as url:
        yield url


def evaluate_all(client: Client, folders: dict[str, Path], guard: Guard | None, tasks: list[Task],
                 output: Path) -> list[Result]:  # fmt: skip
    known, results = client.models(), []
    missing = [name for name in [*folders, *([guard.name] if guard else [])] if name not in known]
    if missing:
        raise InputError(f"the server has no model {missing[0]}, it has {', '.join(known)}")
    for task in (task.judge for task in tasks if task.judge):
        asking = Asking(client, guard.name if task.kind.guarded else "phrases", guard)
        results.append(evaluate(asking, "", task, output / "items" / task.name))
    for name, folder in folders.items():
        identity, says = model_fingerprint(folder), known[name]
        model = Model(name, folder, says.get("max_model_len", LONGEST), says.get("chat", True))
        for task in tasks:
            if fault := task.kind.unfit(model):
                results.append(Result(task, name, {}, fault=fault))
                continue
            results.append(evaluate(Asking(client, name, guard, model), identity, task, output / "items" / task.name))
    return results


def find_guard(options: argparse.Namespace, tasks: list[Task], folders: dict[str, Path]) -> Guard | None:
    """Adds the guard to the folders of models to serve. It may be one of those that are evaluated."""
    guarded = [task.name for task in tasks if task.kind.guarded]
    if options.guard is None:
        if guarded:
            raise InputError(f"task {guarded[0]} needs --guard, a model that judges whether answers are safe")
        return None
    ((name, folder),) = named_models([options.guard], "--guard").items()
    if folders.setdefault(name, folder) != folder:
        raise InputError(f"--guard {options.guard}: the name {name} is taken by a model")
    return Guard(name, folder)


def run(options: argparse.Namespace) -> None:
    check_texts(options, "server", "api_key", "models", "guard")
    check_bounds(options, {"at_once": (1, 1024), "context": (2, 2**31 - 1), "threads": (0, 2**16 - 1)})
    folders = {name: find_whole_model(folder) for name, folder in named_models(options.models, "--models").items()}
    tasks, served_too = read_suite(options.suite), dict(folders)
    guard = find_guard(options, tasks, served_too)
    trained = contamination.search(options.suite, tasks)
    with server(options, served_too) as url:
        client = Client(url, options.at_once, options.api_key)
        try:
            results = evaluate_all(client, folders, guard, tasks, options.output)
        finally:
            client.close()
    found = report.collect(list(folders), tasks, results, trained)
    write_json(options.output / "results.json", found)
    write_text(options.output / "report.html", report.page(found, f"Evaluation: {options.suite.stem}"))
    report.print_table(found)
    print(f"evaluate: {options.output / 'report.html'}")


def main() -> int:
    options = parse_arguments()
    return program.run(lambda: run(options), "stopped; the same command goes on")


if __name__ == "__main__":
    sys.exit(main())
