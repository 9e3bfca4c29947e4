#!/usr/bin/env python3
"""What a mixture of sources costs beside one set of shards: batches of the same files, read in turns, and the start of a span.

    python dev/bench/mixture.py [--json FILE]

  fetch   microseconds a batch of 8 rows of T tokens, with the document mask: loader_fetch of all files, mixture_fetch of the
          same files as 5 sources whose shares change linearly. Processor time, medians over the rounds; files in memory.
  ranks   the same where each batch is one rank's of 1,024: the rows between are counted by source
  span    nanoseconds a row to begin a span of 10^8 rows, of 2, 5 and 16 sources; and as much to resume at its end
"""

import argparse
import json
import pathlib
import statistics
import sys
import tempfile
import time
from ctypes import byref

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/support"))
import loaders  # noqa: E402
from hostlib import LoaderSpec, batch_at, call, pointer, write_shard  # noqa: E402
from mixtures import Mixture  # noqa: E402

VOCAB, BLOCK, B, SPAN = 32_000, 8192, 8, 10**8
WEIGHTS, AT_END = [5, 2.5, 1.7, 0.8, 0.3], [3, 2.5, 2.5, 1, 1]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="turns of each side (default: %(default)s)")
    parser.add_argument("--batches", type=int, default=100, help="batches in a turn (default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="also write the result to this file")
    return parser.parse_args()


def write_files(folder, sources):
    """4 shards a source of a million tokens, in documents of 500 on average."""
    rng = np.random.default_rng(0)
    for name in sources:
        (folder / name).mkdir()
        for i in range(4):
            tokens = rng.integers(1, VOCAB, 1_000_000)
            tokens[rng.random(len(tokens)) < 1 / 500] = 0
            write_shard(folder / name / f"{i}.bin", tokens, vocab=VOCAB)


def processor_time(calls):
    began = time.process_time_ns()
    for one in calls:
        one()
    return (time.process_time_ns() - began) / 1000


def compare_fetches(folder, sources, T, ranks, args):
    """Medians of microseconds a batch: (loader, mixture)."""
    spec = LoaderSpec(B=B, T=T, grad_accum=1, rank=0, world=ranks, seed=1, document_mask=True, shuffle=True)
    arrays = [np.zeros((B, T), np.int32) for _ in range(4)]
    batch = batch_at(*map(pointer, arrays))
    rows = args.rounds * args.batches * B * ranks
    times = [], []
    with loaders.opened(folder, spec, VOCAB, pattern="*/*.bin") as loader, Mixture(folder, sources, BLOCK, 1, VOCAB) as mixture:
        mixture.begin(rows, T, WEIGHTS, AT_END, mask=True)
        for turn in range(args.rounds):
            steps = range(turn * args.batches, (turn + 1) * args.batches)
            of_loader = [lambda s=s: call("loader_fetch", loader, s, 0, byref(batch)) for s in steps]
            of_mixture = [lambda s=s: call("mixture_fetch", mixture.handle, s * B * ranks, B, byref(batch)) for s in steps]
            sides = [(times[0], of_loader), (times[1], of_mixture)]
            for kept, calls in sides if turn % 2 else sides[::-1]:
                kept.append(processor_time(calls) / args.batches)
    return tuple(round(statistics.median(kept), 2) for kept in times)


def begin_span(folder, count):
    """Nanoseconds a row."""
    names = [f"of{count}_{i}" for i in range(count)]
    for name in names:
        (folder / name).mkdir()
        write_shard(folder / name / "0.bin", np.ones(100_000), vocab=VOCAB)
    rng = np.random.default_rng(count)
    with Mixture(folder, dict.fromkeys(names, 0), BLOCK, 1, VOCAB) as mixture:
        took = processor_time([lambda: mixture.begin(SPAN, 64, rng.random(count) + 0.05, rng.random(count) + 0.05)])
    return round(1000 * took / SPAN, 2)


def main():
    args = arguments()
    result = {"fetch": {}, "ranks": {}, "span": {}}
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        sources = dict.fromkeys("abcde", 0)
        write_files(folder, sources)
        for what, ranks in (("fetch", 1), ("ranks", 1024)):
            for T in (1024, 8192):
                loader, mixture = compare_fetches(folder, sources, T, ranks, args)
                result[what][T] = {"loader": loader, "mixture": mixture}
                print(f"{what}, T {T}: loader {loader} us, mixture {mixture} us, {100 * (mixture / loader - 1):+.1f} %", flush=True)
        for count in (2, 5, 16):
            result["span"][count] = begin_span(folder, count)
            print(f"span of {count} sources: {result['span'][count]} ns a row", flush=True)
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
