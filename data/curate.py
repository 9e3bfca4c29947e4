#!/usr/bin/env python3
"""Turns raw web pages into documents for pretraining, in the steps of the Llama 3 paper, and reports what was thrown away.

    curate.py --config FILE                                   runs the steps that the file names
    curate.py --input PATH... --output DIR --languages en,de  the common case: all steps that need no files of the user's
    curate.py --config FILE --dry-run                         prints what would be done
    curate.py --config FILE --sample language.threshold       how much of a sample stays, by that threshold: a page in DIR

Input: WARC (.warc, .warc.gz), WET, folders of HTML, .jsonl (perhaps .gz, .zst) and .parquet. DIR receives documents/SOURCE/
(.jsonl.zst or .parquet), tokens/SOURCE/ where token shards are asked for, statistics.json and report.html. While it runs, work/
holds what passes leave for each other. A run that was stopped goes on by the same command, and its output has the same bytes.

Bad pages, files and records are counted by reason and named in the report; they never end a run. docs/curate.md has all
settings.

Exit codes: 0 done; 2 bad usage or bad settings; 130 interrupted; 1 anything else.
"""

import argparse
import json
import math
import signal
import sys
from pathlib import Path

from llmdata import program

program.begin()

from curate.inputs import find_inputs
from curate.run import Run, workers_of, write_shards
from curate.settings import check_settings, read_settings
from curate.threshold import Threshold, html, sample
from llmdata.errors import InputError
from llmdata.options import add_version, check_bounds
from llmdata.output import locked

COMMON = ("url_filter", "extract", "language", "url_dedup", "minhash", "line_dedup", "repetition", "divergence", "pii")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_version(parser)
    add = parser.add_argument
    add("--config", type=Path, metavar="FILE", help="the settings, in JSON")
    add("--input", nargs="+", metavar="PATH", help="without --config: files and folders of pages")
    add("--output", metavar="DIR", help="folder that receives the documents (default: that of the settings)")
    add("--languages", metavar="CODES", help="without --config: languages that are kept, as en,de (default: all)")
    add("--workers", type=int, metavar="N", help="processes at once (default: one per core, as far as memory allows)")
    add("--limit", type=int, metavar="N", help="read N documents at most, spread over all tasks")
    add("--dry-run", action="store_true", help="print files, steps and passes, and do nothing")
    add("--sample", metavar="STEP.SETTING", help="judge a sample anew for many values of a threshold, and write DIR/threshold_STEP.SETTING.html")
    add("--documents", type=int, default=1000, metavar="N", help="with --sample: documents to read (default: %(default)s)")
    add("--values", type=numbers, metavar="X,Y,...", help="with --sample: values of the threshold (default: its range, or around its present value)")
    add("--overwrite", action="store_true", help="remove what DIR holds of an earlier run")
    options = parser.parse_args()
    bounds = {"limit": (1, 1 << 50), "workers": (1, 1024), "documents": (1, 1_000_000)}
    check_bounds(options, {name: bound for name, bound in bounds.items() if getattr(options, name) is not None})
    return options


def numbers(text: str) -> list[float]:
    found = [float(part) for part in text.split(",")]
    if not all(map(math.isfinite, found)):
        raise ValueError
    return found


def settings_of(options: argparse.Namespace) -> dict:
    if options.config is None:
        if not options.input or not options.output:
            raise InputError("expected --config FILE, or --input PATH... and --output DIR")
        return check_settings(common_case(options), "the options")
    if options.input or options.languages:
        name = "input" if options.input else "languages"
        raise InputError(f"--{name}: is for runs without --config; write it into {options.config}")
    return read_settings(options.config)


def common_case(options: argparse.Namespace) -> dict:
    """All steps that need no files of the user's, with their defaults, but not the rules of Gopher, C4 and FineWeb, which drop
    code and mathematics."""
    steps: dict[str, dict] = {name: {} for name in COMMON}
    if options.languages:
        steps["language"] = {"languages": options.languages.split(",")}
    return {"input": [{"paths": options.input}], "output": {"folder": options.output}, "steps": steps}


def curate(options: argparse.Namespace) -> None:
    settings = settings_of(options)
    if options.output:
        settings["output"]["folder"] = options.output
    if options.workers:
        settings["executor"]["workers"] = options.workers
    if options.sample:
        return draw_threshold(Threshold(settings, options.sample, options.values), options.documents)
    run = Run(settings, options.limit)
    if options.dry_run:
        return print_plan(run)
    with locked(run.output):
        run.begin(options.overwrite)
        found = run.run()
        write_shards(run)
    print_summary(run, found)


def draw_threshold(threshold: Threshold, count: int) -> None:
    documents = sample(threshold, count)
    if not documents:
        raise InputError(f"--sample {threshold.step}: the steps before leave none of {count} documents; give --documents N with more")
    points = threshold.points(documents)
    for point in points:
        print(f"{threshold.step}.{threshold.member} {point.value:.4g}: {len(point.kept) / len(documents):.2%} of the documents kept")
    path = Path(threshold.settings["output"]["folder"]) / f"threshold_{threshold.step}.{threshold.member}.html"
    path.write_text(html(threshold, documents, points), encoding="utf-8")
    print(path)


def print_plan(run: Run) -> None:
    files = list(find_inputs(run.settings["input"]))
    size = sum(entry["bytes"] for entry in files)
    formats = sorted({entry["format"] for entry in files})
    executor = run.settings["executor"]
    print(f"input: {len(files):,} files ({', '.join(formats)}), {size:,} bytes, of {', '.join(run.sources)}")
    print(f"output: {run.output}, {run.settings['output']['format']}")
    print(f"executor: {executor['kind']}, {min(executor['tasks'], len(files))} tasks, {workers_of(executor)} at once")
    for name in run.steps:
        print(f"step {name}: {json.dumps(run.settings['steps'][name], ensure_ascii=False)}")
    for work in run.passes():
        print(f"pass {work.name}: {' -> '.join(step.name for step in work.pipeline)}")


def print_summary(run: Run, found: dict) -> None:
    documents, tokens, size = found["input"]["total"]["out"]
    print(f"read: {documents:,} documents, {size:,} bytes")
    pages = found["input"]["counters"].get("type/html")
    if pages and "extract" not in run.steps:
        print(f"curate: warning: without the step extract, {pages:,} of {documents:,} documents read are HTML, tags and all", file=sys.stderr)
    for name in found["order"]:
        step = found["steps"][name]
        (before, *_), (after, tokens, size) = step["total"]["in"], step["total"]["out"]
        faults = sum(fault["count"] for fault in step["faults"].values())
        more = [f"{count:,} {what}" for count, what in ((step["changes"], "changes"), (faults, "faults")) if count]
        left = [f"{after:,} of {before:,} documents left", f"{tokens:,} tokens", f"{size:,} bytes"]
        print(f"{name}: {', '.join(left + more)}")
    for reason, fault in found["input"]["faults"].items():
        print(f"not read, {reason}: {fault['count']:,}, as {fault['names'][0]}")
    print(f"{run.output}: documents/, report.html, statistics.json")


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that its processes end with it
    return program.run(lambda: curate(parse_arguments()), "curate: interrupted; the same command goes on")


if __name__ == "__main__":
    sys.exit(main())
