#!/usr/bin/env python3
"""Time and memory of attention by the length of a row: measured on this device, predicted for GPUs.

    dev/bench/long_rows.py                              # heads of Llama 3.2 1B and 3.1 8B, 1024 tokens and on, doubled
    LLMC_TARGET=cuda dev/bench/long_rows.py             # on a GPU, all heads of a layer
    dev/bench/long_rows.py --predict-only               # no device is asked

Measured: one row, forward and backward pass of attention in one layer, by events; on the CPU of one key/value head and the query
heads that share it (--groups), since time is proportional to their number. Lengths double until a call would take longer than
--seconds. TFLOP/s count 2 per multiply-add of the causal half, the backward pass as 2.5 times the forward pass.
Memory: what attention of one layer reads and writes in both passes, and its scratch, which grow with the length; the matrix of
scores, which is never made, would grow with its square.
Predicted: by the roofline of dev/bench/predict.py, from the record of machine code, for all layers; nothing of it is measured.
"""

import argparse
import json
import os
import pathlib
import statistics
import sys

import machine_code
import predict
from kernels import Bench, attention, llmc
from machine import commit, device_name

MODELS = ("1B", "8B")
GROWTH = 4  # of the time, at the next length
GIB = 2**30


def shapes(model, T, groups):
    m = predict.models()[model]
    return dict(B=1, T=T, C=m.C, NH=m.NH // m.NKV * groups, NKV=groups, HD=m.HD, V=m.V)


def memory(bench, s):
    """Bytes of a layer's attention: qkv and out with their gradients, log-sum-exps, scratch of the backward pass."""
    element = 2 if bench.lib.precision == "bf16" else 4
    width = (s["NH"] + 2 * s["NKV"]) * s["HD"] + s["NH"] * s["HD"]
    scratch = bench.lib.attention_backward_scratch(llmc.AttentionShape(1, s["T"], s["NH"], s["NKV"], s["HD"]))
    return 2 * element * width * s["T"] + 4 * s["NH"] * s["T"] + 4 * scratch


def milliseconds(bench, call):
    """Median of three, or of one where that takes more than five seconds."""
    first = bench.sample(call, 1)  # may choose or load the kernel
    return bench.sample(call, 1) if first > 5000 else statistics.median(bench.sample(call, 1) for _ in range(3))


def measure(bench, model, T, groups):
    s = shapes(model, T, groups)
    row = {"model": model, "T": T, "groups": groups, "memory_bytes": memory(bench, s), "scores_bytes": 2 * s["NH"] * T * T}
    for name, _, call, count, keep in attention(bench, s, None):
        ms = milliseconds(bench, call)
        row[name] = {"ms": ms, "tflops": count["flops"] / ms / 1e9}
    return row


def print_measured(row):
    forward, backward = row["attention_forward"], row["attention_backward"]
    print(f"{row['model']:>5} {row['T']:8d} {forward['ms'] / 1e3:10.4f} {forward['tflops']:8.3f} {backward['ms'] / 1e3:10.4f} "
          f"{backward['tflops']:8.3f} {row['memory_bytes'] / GIB:9.4f} {row['scores_bytes'] / GIB:12.3f}", flush=True)  # fmt: skip


def measure_all(options, lengths):
    bench = Bench(options.precision)
    groups = options.groups or (1 if bench.lib.on_cpu else None)
    threads = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count()))
    device = device_name("cpu" if bench.lib.on_cpu else "cuda")
    found = {"device": device, "precision": options.precision, "commit": commit(), "threads": threads, "rows": []}
    print(f"Measured: {device}, {threads} threads, {options.precision}; seconds of one layer, key/value heads: {groups or 'all'}")
    print(f"{'heads':>5} {'tokens':>8} {'forward':>10} {'TFLOP/s':>8} {'backward':>10} {'TFLOP/s':>8} {'GiB':>9} {'GiB of scores':>12}")
    for model in options.models.split(","):
        for T in lengths:
            row = measure(bench, model, T, groups or predict.models()[model].NKV)
            print_measured(row)
            found["rows"].append(row)
            if GROWTH * row["attention_backward"]["ms"] > 1e3 * options.seconds:
                break
    return found


def predict_all(options, lengths):
    """Attention of all layers and the whole step, of one row, in seconds."""
    nvcc, record = machine_code.read_record()
    rows = []
    print("\nPredicted by a roofline, not measured: seconds of a step of one row, optimizer state divided among 8 GPUs (1B: 1)")
    print(f"{'model':>5} {'device':>8} {'tokens':>8} {'attention':>10} {'step':>9} {'share':>6} {'of peak':>8}")
    for model in options.models.split(","):
        for device in options.devices.split(","):
            for T in lengths:
                m = predict.models()[model]._replace(tokens=T)
                row = predict.predict(model, m, T, device, record)
                parts = row["parts"]
                spent = parts["attention forward"] + parts["attention backward"]
                rows.append({"model": model, "device": device, "T": T, "attention_ms": spent, "step_ms": row["ms"]})
                print(f"{model:>5} {device:>8} {T:8d} {spent / 1e3:10.3f} {row['ms'] / 1e3:9.3f} {spent / row['ms']:6.1%} {row['share']:8.1%}")
    return {"prediction": True, "measured": False, "commit": commit(), "nvcc": nvcc, "assumed": predict.ASSUMED, "rows": rows}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS), help="whose heads (default: %(default)s)")
    parser.add_argument("--longest", type=int, default=131072, metavar="N", help="tokens (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=60, metavar="X", help="that one call may take (default: %(default)g)")
    parser.add_argument("--groups", type=int, metavar="N", help="key/value heads to measure (default: 1 on the CPU, else all)")
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16", help="build to measure (default: %(default)s)")
    parser.add_argument("--devices", default="h100,a100", help="to predict (default: %(default)s)")
    parser.add_argument("--predict-only", action="store_true", help="measure nothing")
    parser.add_argument("--json", metavar="FILE", type=pathlib.Path, help="also write the result to this file")
    return parser.parse_args()


def main():
    options = arguments()
    lengths = [1 << k for k in range(10, options.longest.bit_length()) if 1 << k <= options.longest]
    result = {} if options.predict_only else {"measured": measure_all(options, lengths)}
    result["predicted"] = predict_all(options, lengths)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"long_rows: {error}")
