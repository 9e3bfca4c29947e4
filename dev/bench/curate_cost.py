#!/usr/bin/env python3
"""What curation costs in hours of one core, by step, for larger inputs: on paper, from the rates of a run that was made.

    dev/bench/curate_cost.py data/web/statistics.json [--terabytes 1,100]

Seconds are of the processor, so a busy machine hardly changes them. A step's share is what its own code took, with what it collects of
all documents and its passes that sort and merge this; `around` is the rest: unpacking and writing documents between passes, and the
start of processes. All costs grow with
the bytes read (pages as they are in WARC files, unpacked); sorted files are merged in one pass up to the sizes shown, so that
logarithms are left out.
"""

import argparse
import json
import pathlib
import sys

TERABYTE = 10**12


def cost(statistics: dict, terabytes: float) -> dict[str, float]:
    """Core-hours by step, for so many terabytes read, of pages such as those of the run."""
    factor = terabytes * TERABYTE / statistics["input"]["total"]["out"][2] / 3600
    steps = {"read": statistics["input"]["seconds"]} | {name: step["seconds"] for name, step in statistics["steps"].items()}
    around = sum(work["seconds"] for work in statistics["passes"].values()) - sum(steps.values())
    return {name: seconds * factor for name, seconds in {**steps, "around": around}.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("statistics", type=pathlib.Path, metavar="FILE", help="statistics.json of a run")
    parser.add_argument("--terabytes", default="1,100", metavar="X,Y,...", help="sizes of the input (default: %(default)s)")
    options = parser.parse_args()
    found = json.loads(options.statistics.read_text())
    sizes = [float(size) for size in options.terabytes.split(",")]
    columns = [cost(found, size) for size in sizes]
    documents, _, size = found["input"]["total"]["out"]
    print(f"{documents:,} documents, {size / 1e6:.1f} MB read\n")
    print(f"| step | MB/s of a core | {' | '.join(f'core-hours, {size:g} TB' for size in sizes)} |\n|{' --- |' * (2 + len(sizes))}")
    for name in columns[0]:
        hours = columns[0][name] / sizes[0]
        rate = f"{TERABYTE / 1e6 / 3600 / hours:,.1f}" if hours > 0 else "–"
        print(f"| {name} | {rate} | {' | '.join(f'{column[name]:,.1f}' for column in columns)} |")
    print(f"| all | {TERABYTE / 1e6 / 3600 / (sum(columns[0].values()) / sizes[0]):,.2f} | "
          f"{' | '.join(f'{sum(column.values()):,.0f}' for column in columns)} |")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
