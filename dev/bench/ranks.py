#!/usr/bin/env python3
"""Many ranks on the cpu target: what overlap hides, what ZeRO saves, and what ranks cost compared with threads.

    python dev/bench/ranks.py --json dev/bench/results/DEVICE-COMMIT/ranks.json       # a quiet machine of 2 cores; a few minutes
    python dev/bench/ranks.py --rounds 1 --steps 4 --rate 200mbit                     # a quick look

Speed: all sides have the same tokens per step. They take turns, round by round:
  one rank      of two threads
  two ranks     of one thread each, in shared memory; with --overlap on and off
  two hosts     two ranks over a slow cable: network namespaces joined by a veth pair that tc holds to --rate (needs root and
                Debian's iproute2); with --overlap on and off. Where this is not possible, it is left out and the reason printed
Seconds are medians over the steps of a turn (without the first two), then over the rounds. They are from log.jsonl: the whole
step; the time in which rank 0's collectives ran or waited for the other rank (busy); and the time for which computation waited
for them (exposed). In shared memory the copies need the cores that compute, so little can be hidden; a cable needs no core.

Memory: each rank's memory by category, as the program's table prints it, for 1, 2 and 4 ranks and ZeRO-0, 1 and 2.
"""

import argparse
import json
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/support"))
import machine  # noqa: E402
import ranks  # noqa: E402
import trainrun  # noqa: E402

PROGRAM = ROOT / "build" / "cpu" / "train_llama3"
TIMEOUT = 600


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default=str(ROOT / "configs" / "tiny.json"), help="config.json (default: configs/tiny.json)")
    parser.add_argument("--rows", type=int, default=4, help="rows per step, an even number (default: %(default)s)")
    parser.add_argument("--sequence", type=int, default=256, help="tokens per row (default: %(default)s)")
    parser.add_argument("--zero", type=int, choices=[0, 1, 2], default=1, help="--zero of the timed runs (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=10, help="timed steps per turn (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side (default: %(default)s)")
    parser.add_argument("--rate", default="1gbit", help="rate of the slow cable, as for tc (default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="also write the result to this file")
    return parser.parse_args()


def train(work, options, world, hosts=None, **more):
    """Runs the program. Returns its stdout."""
    run = dict(config=options.config, seq_len=options.sequence, save="off", eval_every=0, checksum_every=0, overwrite=True)
    command = [PROGRAM, *work.arguments(**{**run, **more})]
    launch = hosts.run if hosts else ranks.run
    done = launch(command, ranks=world, timeout=TIMEOUT)
    if done.returncode:
        sys.exit(f"ranks: {' '.join(map(str, command))} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout


# ---- speed


def turn(work, options, world, threads, overlap, hosts):
    """Median seconds over the steps: {"step", "busy", "exposed"}."""
    train(work, options, world, hosts, steps=options.steps + 2, batch_size=options.rows // world, threads=threads,
          zero=options.zero, overlap=overlap)  # fmt: skip
    steps = [line for line in work.log() if "tokens_per_second" in line][2:]
    tokens = options.rows * options.sequence
    found = {"step": statistics.median(tokens / s["tokens_per_second"] for s in steps)}
    if world > 1:
        found["busy"] = statistics.median(s["comm_seconds"] for s in steps)
        found["exposed"] = statistics.median(s["exposed_seconds"] for s in steps)
    return found


def open_hosts(rate):
    """(two hosts, or None and the reason)"""
    try:
        import twohosts
    except ImportError:
        return None, "tests/support/twohosts.py is missing"
    why = twohosts.reason()
    if why:
        return None, why
    hosts = twohosts.TwoHosts().__enter__()
    try:
        hosts.slow(rate)
    except (OSError, subprocess.CalledProcessError) as error:
        hosts.__exit__()
        return None, f"tc cannot hold a link to {rate} here ({error})"
    return hosts, None


def sides(options, hosts):
    found = {"one rank, two threads": (1, 2, "on", None)}
    for overlap in ("on", "off"):
        found[f"two ranks, overlap {overlap}"] = (2, 1, overlap, None)
    for overlap in ("on", "off") if hosts else ():
        found[f"two hosts, overlap {overlap}"] = (2, 1, overlap, hosts)
    return found


def speed(work, options, hosts):
    """({side: medians}, {side: [turns]})"""
    places = sides(options, hosts)
    turns = {name: [] for name in places}
    for number in range(options.rounds):
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
        for name, place in places.items():
            turns[name].append(turn(work, options, *place))
    medians = {name: {what: statistics.median(t[what] for t in found) for what in found[0]} for name, found in turns.items()}
    return medians, turns


def ratios(medians):
    found = {"two ranks to one: tokens/s": medians["one rank, two threads"]["step"] / medians["two ranks, overlap on"]["step"]}
    for place in ("two ranks", "two hosts"):
        on, off = (medians.get(f"{place}, overlap {overlap}") for overlap in ("on", "off"))
        if on:
            found[f"{place}: step, overlap on to off"] = on["step"] / off["step"]
            found[f"{place}: exposed, overlap on to off"] = on["exposed"] / off["exposed"]
            found[f"{place}: exposed to busy, overlap on"] = on["exposed"] / on["busy"]
    return found


def print_speed(options, medians, found):
    print(f"{'':26}{'step ms':>10}{'tokens/s':>10}{'busy ms':>10}{'exposed ms':>12}")
    for name, m in medians.items():
        texts = [f"{1000 * m[what]:.1f}" if what in m else "-" for what in ("busy", "exposed")]
        rate = options.rows * options.sequence / m["step"]
        print(f"{name:26}{1000 * m['step']:10.1f}{rate:10.0f}{texts[0]:>10}{texts[1]:>12}")
    for name, value in found.items():
        print(f"{name:44}{value:8.3f}")


# ---- memory


def memory_table(work, options, world, zero):
    """{category: MiB of each rank}, from the program's table."""
    out = train(work, options, world, steps=1, batch_size=1, threads=1, zero=zero)
    rows = re.findall(r"^  (\S.*?) +([\d.]+) MiB +[\d.]+ %$", out.split("memory\n", 1)[1], re.M)
    return {name: float(size) for name, size in rows}


def memory(work, options):
    places = [(1, 0)] + [(world, zero) for zero in (0, 1, 2) for world in (2, 4)]
    return {f"{world} x ZeRO-{zero}": memory_table(work, options, world, zero) for world, zero in places}


def print_memory(tables):
    names = list(dict.fromkeys(name for table in tables.values() for name in table if name != "total"))
    print(f"\n{'MiB of each rank':18}" + "".join(f"{place:>11}" for place in tables))
    for name in [*names, "total"]:
        print(f"{name:18}" + "".join(f"{table[name]:11.1f}" if name in table else f"{'-':>11}" for table in tables.values()))


# ---- results


def main():
    options = arguments()
    if not PROGRAM.exists():
        sys.exit(f"ranks: {PROGRAM} is missing: run make TARGET=cpu")
    if options.rows < 2 or options.rows % 2:
        sys.exit(f"ranks: --rows {options.rows}: expected an even number")
    head = machine.describe()
    hosts, why_not = open_hosts(options.rate)
    try:
        with tempfile.TemporaryDirectory(prefix="ranks.") as folder:
            work = trainrun.Workplace(folder)
            medians, turns = speed(work, options, hosts)
            tables = memory(work, options)
    finally:
        if hosts:
            hosts.__exit__()
    found = ratios(medians)
    print_speed(options, medians, found)
    if why_not:
        print(f"two hosts: not measured: {why_not}")
    print_memory(tables)
    if options.json:
        shape = {name: getattr(options, name) for name in "rows sequence zero steps rounds rate".split()}
        result = {**head, "config": pathlib.Path(options.config).name, **shape, "two_hosts_left_out": why_not, "seconds": medians,
                  "ratios": found, "turns": turns, "memory_mib": tables}  # fmt: skip
        path = pathlib.Path(options.json)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
