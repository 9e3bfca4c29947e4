#!/usr/bin/env python3
"""Checkpoints: how writing compares with `dd` on the same disk, how long training waits, how loading compares with reading.

    python dev/bench/checkpoint.py                                     # configs/small_124m.json, 1.7 GB, in a temporary folder
    python dev/bench/checkpoint.py --config configs/tiny.json --folder /mnt/disk --json result.json

The sides take turns, round by round, so that a disk that slows down slows all:
  dd        writes as many bytes as a checkpoint has, with bs=8M conv=fsync; direct: past the page cache (oflag=direct)
  snapshot  copies master weights and moments, for which training waits
  write     checkpoint_write from the snapshot: files, checksums, fsync, renames
  verify    checks all checksums; load: reads weights, master weights and moments into a model. Both with files that are not in
            memory (cold), and in memory (warm)
  read      reads the same files by dd into /dev/null, cold and warm
The growth of peak resident memory during a load is measured too. Results are medians over the rounds.
"""

import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from ctypes import byref, c_void_p

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/support"))
import checkpoints  # noqa: E402
import llmc  # noqa: E402
import model as models  # noqa: E402

BLOCK = 8 << 20


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/small_124m.json", help="config.json of the model (default: %(default)s)")
    parser.add_argument("--folder", help="folder on the disk to measure (default: the repository's build/)")
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16", help="build to measure (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side (default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="also write the result to this file")
    return parser.parse_args()


def timed(call):
    began = time.monotonic()
    call()
    return time.monotonic() - began


def dd(*words):
    subprocess.run(["dd", f"bs={BLOCK}", "status=none", *words], check=True)


def forget(folder):
    """Drops the files from the page cache; they are on the disk already."""
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_files(folder):
    for name in ("model.safetensors", "trainer/optimizer.safetensors"):
        dd(f"if={folder / name}", "of=/dev/null")


def peak_growth(call):
    """How many bytes the peak of resident memory rises above what is resident now."""
    def status(field):
        line = next(line for line in open("/proc/self/status") if line.startswith(field))
        return int(line.split()[1]) << 10

    pathlib.Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = status("VmRSS")
    call()
    return max(0, status("VmHWM") - before)


class Bench:
    def __init__(self, options, folder):
        self.lib, self.folder = llmc.load(options.precision), folder
        config = json.loads((ROOT / options.config).read_text())
        fields = {name: config[name] for name in models.TINY if name in config}
        fields.update(rope_scaling=None, rope_theta=10000.0, head_dim=config.get("head_dim") or
                      config["hidden_size"] // config["num_attention_heads"])  # fmt: skip
        self.model = models.Model(self.lib, fields, 1, 16)
        self.model.fields = fields
        self.lib.llama3_init_weights(self.model.handle, 1)
        self.snapshot = c_void_p()
        checkpoints.call(self.lib, "snapshot_create", byref(self.snapshot), self.model.handle)
        self.store = folder / "store"
        self.checkpoint = self.store / "step_00000001"
        self.bytes = self.write()  # once, untimed

    def write(self):
        return checkpoints.write(self.model, self.store, 1, snapshot=self.snapshot)

    def load(self):
        checkpoints.call(self.lib, "checkpoint_read_training", os.fsencode(self.checkpoint), self.model.handle)

    def dd_write(self, *words):
        blocks, path = max(1, round(self.bytes / BLOCK)), self.folder / "dd"
        os.sync()
        seconds = timed(lambda: dd("if=/dev/zero", f"of={path}", f"count={blocks}", "conv=fsync", *words))
        path.unlink()
        os.sync()
        return seconds * self.bytes / (blocks * BLOCK)

    def round(self):
        found = {"dd": self.dd_write(), "dd_direct": self.dd_write("oflag=direct")}
        found["snapshot"] = timed(lambda: self.lib.snapshot_take(self.snapshot, self.model.handle))
        found["write"] = timed(self.write)
        for state in ("cold", "warm"):
            for name, call in (
                ("read", lambda: read_files(self.checkpoint)),
                ("load", self.load),
                ("verify", lambda: checkpoints.verify(self.lib, self.checkpoint)),
            ):
                if state == "cold":
                    forget(self.checkpoint)
                found[f"{name}_{state}"] = timed(call)
        found["load_peak_bytes"] = peak_growth(self.load)
        return found


def summary(bench, rounds):
    median = {name: statistics.median(r[name] for r in rounds) for name in rounds[0]}
    ratios = {
        "write_rate_to_dd": median["dd"] / median["write"],
        "write_rate_to_dd_direct": median["dd_direct"] / median["write"],
        "wait_to_write": median["snapshot"] / median["write"],
        "load_cold_rate_to_read": median["read_cold"] / median["load_cold"],
        "load_warm_rate_to_read": median["read_warm"] / median["load_warm"],
        "verify_cold_rate_to_read": median["read_cold"] / median["verify_cold"],
        "load_peak_to_bytes": median["load_peak_bytes"] / bench.bytes,
    }
    return median, ratios


def main():
    options = arguments()
    parent = options.folder or str(ROOT / "build")
    os.makedirs(parent, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        bench = Bench(options, pathlib.Path(folder))
        rounds = []
        for _ in range(options.rounds):
            rounds.append(bench.round())
            print(" ".join(f"{name} {value:.3f}" for name, value in rounds[-1].items() if "bytes" not in name), flush=True)
        median, ratios = summary(bench, rounds)
        bench.lib.snapshot_destroy(bench.snapshot)
    size, growth = bench.bytes / 1e9, median["load_peak_bytes"] / 2**20
    print(f"{size:.3f} GB, dd {size / median['dd']:.2f} GB/s, write {size / median['write']:.2f} GB/s, "
          f"peak of a load +{growth:.1f} MiB")  # fmt: skip
    for name, value in ratios.items():
        print(f"{name:26} {value:.3f}")
    if options.json:
        result = dict(config=options.config, precision=options.precision, target="cpu" if bench.lib.on_cpu else "cuda",
                      machine=platform.processor() or platform.machine(), cores=os.cpu_count(), bytes=bench.bytes,
                      median=median, ratios=ratios, rounds=rounds)  # fmt: skip
        pathlib.Path(options.json).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
