#!/usr/bin/env python3
"""Predicts the time of a training step on GPUs from the record of machine code and a roofline. Nothing here is measured.

    dev/bench/predict.py                                      # the tables, from dev/bench/results/machine-code
    dev/bench/predict.py --write                              # and dev/bench/results/prediction/COMMIT.json and .md
    dev/bench/predict.py --compare dev/bench/results/prediction/OLD.json      # before -> after
    dev/bench/predict.py --models 8B --lengths 4096 --devices h100 --accumulate 8

The parts of a step, of N tokens in each of M micro-batches, E parameters, optimizer state divided among R ranks:
  products      6 FLOPs for each token and weight in a product, at the device's attainable rate
  gradients     weight gradients read again to be added to: 4 bytes each, in all micro-batches that do not write them first
  attention     its loops' trips, from how often they run and what the machine code does in one (below)
  elementwise   bytes that norms, RoPE, SwiGLU, embedding and the classifier's softmax move, at 0.85 of the copy rate
  update        bytes of zeroing 4 E, of the gradient norm 4 E/R and of AdamW 30 E/R, at the same rate
  host          1 microsecond from each kernel to the next, and a pause where the host waits for the loss
  share of peak = the trainer's model FLOPs (6 N weights + 6 N T layers heads head_dim) / (step x peak)

A trip of one warp through an attention loop keeps parts of a quarter of a multiprocessor busy: the scheduler (1 instruction a
cycle), the tensor core (mma.sync m16n8k16), the special function unit (4 lanes a cycle, 16 a multiprocessor), shared memory (32
bytes a cycle, 128 a multiprocessor) and, where sums pass through global memory, its share of the L2 cache. With W warps a
scheduler, as registers and shared memory allow, the trip takes
  the busiest part + (all others together) / W
cycles: a warp alone overlaps nothing, many warps hide all but the busiest part. The formula, the product rates and the copy rates
are assumptions (ASSUMED says of which); those of the H100 reproduce a review's estimate for commit 7c8f308 (REVIEW). For an RTX
4090 the product rate is too low, if the 81 % of peak that LLM.Q publishes for a whole step is right.

Not in it: communication (optimizer state is divided, but the ranks' exchange is taken as hidden), clocks that fall under load,
waves of blocks that do not fill the GPU, tiles that attention reads from the L2 cache, blocks that wait for each other, the
widths of loads in kernels bound by memory (they decide how much is under way, which only a measurement shows), evaluation,
input. Whether a model fits into memory is scripts/plan.py's matter.
"""

import argparse
import collections
import json
import pathlib
import sys
import textwrap

import machine_code
import vs_llmq
from machine import commit

ROOT = pathlib.Path(__file__).resolve().parents[2]
RESULTS = ROOT / "dev/bench/results/prediction"

# ---- devices

# peak: dense bf16 TFLOP/s with fp32 sums, memory: TB/s, both NVIDIA's data sheets' (as scripts/llmplan/gpus.py, which has their
# source; the RTX 4090's are from the Ada white paper); flops: of a multiprocessor in a cycle at that peak; shared: KB of shared
# memory of a multiprocessor (CUDA programming guide, "Compute capabilities"); cache: TB/s of L2, assumed
Device = collections.namedtuple("Device", "arch multiprocessors flops peak memory shared cache")
DEVICES = {
    "h100": Device("sm_90a", 132, 4096, 989, 3.35, 228, 5.5),
    "h200": Device("sm_90a", 132, 4096, 989, 4.8, 228, 5.5),
    "a100": Device("sm_80", 108, 2048, 312, 2.039, 164, 4.5),
    "rtx4090": Device("sm_89", 128, 512, 165.2, 1.008, 100, 5.0),
}
PRODUCT_SHARE = {2048: 630 / 989, 4096: 700 / 989}  # of peak, by hidden size, between them in proportion: the review's, H100
COPY_SHARE = 3.0 / 3.35  # a copy's rate, of the data sheet's memory rate: the review's, H100
MEMORY_SHARE = 0.85  # of a copy's rate, what kernels bound by memory reach: the aim of BENCHMARKS.md
# of the tensor cores' peak, what mma.sync reaches: on Hopper only wgmma reaches all of it, mma.sync about 63 % (arXiv 2402.13499)
MMA_SHARE = {"sm_80": 1.0, "sm_89": 1.0, "sm_90a": 0.63}
GAP, PAUSE = 1e-6, 1e-4  # seconds from a kernel to the next; in which the GPU waits for a host that waits for the loss
ASSUMED = (
    "product rates (H100: 700 TFLOP/s of 989 from hidden size 4096 on, 630 up to 2048; other devices the same share), copy rates "
    "(H100: 3.0 TB/s; others the same share of their memory's), 0.85 of the copy, clocks at the data sheet's peak, overlap in "
    "attention, the L2 cache's rate, gaps between kernels"
)

SCHEDULERS, REGISTERS, MAX_WARPS = 4, 65536, {"sm_80": 64, "sm_89": 48, "sm_90a": 64}  # of a multiprocessor; the same source
MMA_FLOPS = 2 * 16 * 8 * 16


def device_named(name):
    if name not in DEVICES:
        raise ValueError(f"no device '{name}': expected one of {', '.join(DEVICES)}")
    return DEVICES[name]


def clock(d):
    return 1e12 * d.peak / (d.multiprocessors * d.flops)


def product_rate(d, C):
    """FLOP/s of matrix products in a model of hidden size C."""
    (low, small), (high, large) = sorted(PRODUCT_SHARE.items())
    at = min(max((C - low) / (high - low), 0), 1)
    return 1e12 * d.peak * (small + at * (large - small))


def memory_rate(d):
    """Bytes per second of a kernel bound by memory."""
    return 1e12 * d.memory * COPY_SHARE * MEMORY_SHARE


# ---- models

# tokens: of a micro-batch, as far as rows divide them, at least one row; ranks: that divide the optimizer state, as it does not
# fit one GPU of 80 GB. 0.5B has the shapes of Qwen2.5-0.5B, of which LLM.Q publishes rates
Model = collections.namedtuple("Model", "C F L NH NKV HD V tied tokens ranks")
SMALL = Model(*vs_llmq.SHAPES["0.5B"][0], 16384, 1)


def read_model(path, tokens, ranks):
    c = json.loads((ROOT / "configs" / path).read_text())
    sizes = [c[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")]
    more = [c[name] for name in ("num_key_value_heads", "head_dim", "vocab_size", "tie_word_embeddings")]
    return Model(*sizes, *more, tokens, ranks)


def models():
    found = {"0.5B": SMALL}
    for name, tokens, ranks in (("llama3.2_1b", 16384, 1), ("llama3.2_3b", 8192, 8), ("llama3.1_8b", 4096, 8)):
        found[name.split("_")[1].upper()] = read_model(f"{name}.json", tokens, ranks)
    return found


def layer_weights(m):
    """In the products of a layer."""
    return m.C * (m.NH + 2 * m.NKV) * m.HD + m.NH * m.HD * m.C + 3 * m.C * m.F


def weights(m):
    """In products, the classifier's included; the vocabulary is padded to whole 128."""
    return m.L * layer_weights(m) + padded(m) * m.C


def padded(m):
    return -(-m.V // 128) * 128


def parameters(m):
    return weights(m) + (2 * m.L + 1) * m.C + (0 if m.tied else padded(m) * m.C)


def model_flops(m, T):
    """Per token, as the trainer's share of peak counts them: no recomputation, the causal half of attention."""
    return 6 * (m.L * layer_weights(m) + m.V * m.C + (2 * m.L + 1) * m.C) + 6 * m.L * m.NH * m.HD * T


# ---- attention

# products: of matrices of scores' shape in the loop. rows: of a warp; warps: of a block. In shared memory are so many tiles of
# the block's rows and of its columns, both of HD elements, and `stats` bytes for each column
Loop = collections.namedtuple("Loop", "kernel products rows warps row_tiles column_tiles stats")
FORWARD = {HD: Loop(f"attention_forward_kernel<ForwardTiles<{HD}>, false>", 2, 32, 4, 1, 2, 0) for HD in (64, 128)}
DS = 2 * 16 * 8  # bytes of dS for each column of a block
BACKWARD = {HD: [Loop(f"attention_gradients_kernel<Backward<{HD}>, false>", 5, 16, 8, 2, 3, 24 + DS)] for HD in (64, 128)}


def columns(loop, trip, HD):
    """Of scores that a trip of a warp computes: from its matrix instructions."""
    return trip["matrix"] * MMA_FLOPS // (2 * HD * loop.products * loop.rows)


def shared_bytes(loop, trip, HD):
    """Of a block, as the launchers ask for them."""
    wide = columns(loop, trip, HD)
    return (loop.row_tiles * loop.rows * loop.warps + loop.column_tiles * wide) * HD * 2 + loop.stats * wide


def warps_resident(d, warps, registers, shared):
    """On one scheduler, of blocks of so many warps, registers a thread and bytes of shared memory."""
    of_a_warp = -(-registers * 32 // 256) * 256
    blocks = min(REGISTERS // (of_a_warp * warps), d.shared * 1024 // (shared + 1024), MAX_WARPS[d.arch] // warps)
    return blocks * warps / SCHEDULERS


def trip_parts(d, loop, trip, HD):
    """Cycles of each part in a trip of one warp."""
    wide = columns(loop, trip, HD)
    slots, shared = trip["slots"], trip["shared"]
    if trip["copy_loop"]:  # an inner loop, which counts once: as often as two tiles of 16-byte copies need
        again = 2 * wide * HD * 2 / 16 / (32 * loop.warps) / trip["copies"] - 1
        slots += again * trip["copy_loop"]
        shared += again * trip["copies"] * 16
    mma = MMA_FLOPS * SCHEDULERS / d.flops / MMA_SHARE[d.arch]
    cache = trip.get("global_", 0) * 32 * d.multiprocessors * SCHEDULERS * clock(d) / (1e12 * d.cache)
    return {"issue": slots, "matrix": trip["matrix"] * mma, "mufu": trip["mufu"] * 32 / 4, "shared": shared, "cache": cache}


def trip_cycles(parts, warps):
    busiest = max(parts.values())
    return busiest + (sum(parts.values()) - busiest) / warps


def trips(T, rows, wide):
    """Of all warps over one head of a causal row of T tokens, whole tiles."""
    return sum(-(-min(first + rows, T) // wide) for first in range(0, T, rows))


def attention_seconds(d, record, loop, m, B, T):
    row = record[loop.kernel, d.arch]
    trip = row["trip"]
    warps = warps_resident(d, loop.warps, row["registers"], row["shared"] + shared_bytes(loop, trip, m.HD))
    if warps < 1:
        raise ValueError(f"{loop.kernel}: no block fits a multiprocessor of {d.arch}")
    of_all = B * m.NH * m.L * trips(T, loop.rows, columns(loop, trip, m.HD))
    return of_all * trip_cycles(trip_parts(d, loop, trip, m.HD), warps) / (d.multiprocessors * SCHEDULERS * clock(d))


# ---- the step

# How the step is as it stands; a change of the step changes this.
STEP = {
    "zeroes_gradients": False,  # before the first micro-batch, which then adds to them as the others do
    "waits_for_loss": False,  # the host reads a step's loss before it begins the next
    "norm_reads_gradients": True,  # a pass of its own over all gradients
}


def elementwise_bytes(m):
    """{part: bytes for each token}, forward and backward, all layers: as dev/bench/kernels.py counts them."""
    A, rope = m.NH * m.HD, 4 * (m.NH + m.NKV) * m.HD
    return {
        "norms forward": 16 * m.C * m.L + 8 * m.C,  # with the residual: x, delta, sum, out
        "norms backward": 16 * m.C * m.L + 6 * m.C,
        "RoPE": 2 * rope * m.L,
        "SwiGLU": (6 + 10) * m.F * m.L,
        "attention's D": (4 * A + 4 * m.NH) * m.L,
        "embedding": 4 * m.C + 10 * m.C,  # backward: fp32 += at most one row a token
        "classifier's softmax": 6 * padded(m),  # read twice, written once
    }


def kernels(m):
    """Launches in a micro-batch: 9 and 17 for each layer."""
    return 26 * m.L + 20


def predict(name, m, T, device, record, step=STEP, accumulate=1):
    """A row of the tables: milliseconds of each part of a step."""
    d, B = device_named(device), max(1, m.tokens // T)
    N, E, rate = B * T, parameters(m), memory_rate(d)
    adding = accumulate if step["zeroes_gradients"] else accumulate - 1
    seconds = {
        "products": accumulate * N * 6 * weights(m) / product_rate(d, m.C),
        "gradients": adding * 4 * weights(m) / rate,
        "attention forward": accumulate * attention_seconds(d, record, FORWARD[m.HD], m, B, T),
        "attention backward": accumulate * sum(attention_seconds(d, record, loop, m, B, T) for loop in BACKWARD[m.HD]),
        "elementwise": accumulate * N * sum(elementwise_bytes(m).values()) / rate,
        "zeroing": 4 * E / rate if step["zeroes_gradients"] else 0.0,
        "norm": 4 * E / m.ranks / rate if step["norm_reads_gradients"] else 0.0,
        "AdamW": 30 * E / m.ranks / rate,
        "host": accumulate * kernels(m) * GAP + (PAUSE if step["waits_for_loss"] else 0),
    }
    total = sum(seconds.values())
    share = accumulate * N * model_flops(m, T) / (total * 1e12 * d.peak)
    return {"model": name, "T": T, "device": device, "rows": B, "accumulate": accumulate, "ranks": m.ranks,
            "ms": 1e3 * total, "share": share, "tokens_per_second": accumulate * N / total,
            "parts": {part: 1e3 * value for part, value in seconds.items()}}  # fmt: skip


# A review's estimate for commit 7c8f308, H100, 8B, one row of 4096 tokens, optimizer state divided among 8 ranks: ms
REVIEW = {"products": 264, "attention": 91, "elementwise": 22, "gradients": 13, "zeroing, norm, AdamW": 27, "all": 417}


def review_parts(row):
    p = row["parts"]
    attention, update = p["attention forward"] + p["attention backward"], p["zeroing"] + p["norm"] + p["AdamW"]
    return {"products": p["products"], "attention": attention, "elementwise": p["elementwise"], "gradients": p["gradients"],
            "zeroing, norm, AdamW": update, "all": row["ms"]}  # fmt: skip


# ---- tables


def table(head, rows):
    return ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)] + ["| " + " | ".join(row) + " |" for row in rows]


def shares_table(rows):
    """Milliseconds and share of peak: a line for each model and length, a column for each device."""
    devices = list(dict.fromkeys(r["device"] for r in rows))
    lines = {}
    for r in rows:
        cells = lines.setdefault((r["model"], r["T"]), [r["model"], str(r["T"]), str(r["rows"])])
        cells.append(f"{r['ms']:.0f} ms, {r['share']:.0%}")
    return table(["model", "T", "rows", *devices], lines.values())


def parts_table(rows):
    rows = [r for r in rows if r["T"] == 4096]
    if not rows:
        return []
    body = [[r["model"], r["device"], *(f"{value:.1f}" for value in r["parts"].values()), f"{r['ms']:.0f}"] for r in rows]
    return table(["model", "device", *rows[0]["parts"], "all"], body)


def compare_table(old, new):
    """Before -> after, of the rows that both have, with a column that waits for measurements."""
    before = {(r["model"], r["T"], r["device"], r["accumulate"]): r for r in old}
    body = []
    for r in new:
        if b := before.get((r["model"], r["T"], r["device"], r["accumulate"])):
            body.append([r["model"], str(r["T"]), r["device"], f"{b['ms']:.0f} → {r['ms']:.0f}",
                         f"{b['share']:.1%} → {r['share']:.1%}", f"{b['ms'] / r['ms']:.2f}", ""])  # fmt: skip
    return table(["model", "T", "device", "ms a step, predicted", "of peak, predicted", "faster", "measured"], body)


def compare_parts(old, new):
    """Where the difference is, at 4096 tokens on an H100."""
    chosen = [{r["model"]: r for r in rows if r["T"] == 4096 and r["device"] == "h100"} for rows in (old, new)]
    both = [name for name in chosen[1] if name in chosen[0]]
    parts = list(chosen[1][both[0]]["parts"]) if both else []
    body = [[part, *(f"{chosen[0][m]['parts'][part]:.1f} → {chosen[1][m]['parts'][part]:.1f}" for m in both)] for part in parts]
    return table(["ms, H100, T 4096", *both], body) if both else []


def as_markdown(found):
    about = (f"**Predicted, not measured**, by `dev/bench/predict.py` at commit {found['commit']}, from the machine code of nvcc "
             f"{found['nvcc']} in dev/bench/results/machine-code. Assumed: {ASSUMED}.")  # fmt: skip
    lines = ["# Prediction of a training step", "", textwrap.fill(about, 120), ""]
    lines += shares_table(found["rows"]) + ["", "Milliseconds of each part, T = 4096:", ""] + parts_table(found["rows"])
    ours = next((r for r in found["rows"] if (r["model"], r["T"], r["device"]) == ("8B", 4096, "h100")), None)
    if ours and ours["accumulate"] == 1:
        body = [[part, str(REVIEW[part]), f"{value:.0f}"] for part, value in review_parts(ours).items()]
        lines += ["", "Beside the review's estimate for commit 7c8f308 (8B, T = 4096, H100):", ""]
        lines += table(["ms", "review", "here"], body)
    return "\n".join(lines) + "\n"


def rounded(value):
    """A row with its numbers to four decimals."""
    if isinstance(value, dict):
        return {name: rounded(part) for name, part in value.items()}
    return round(value, 4) if isinstance(value, float) else value


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="0.5B,1B,3B,8B", help="(default: %(default)s)")
    parser.add_argument("--lengths", default="1024,4096,8192", help="tokens in a row (default: %(default)s)")
    parser.add_argument("--devices", default=",".join(DEVICES), help="(default: %(default)s)")
    parser.add_argument("--accumulate", type=int, default=1, help="micro-batches in a step (default: %(default)s)")
    parser.add_argument("--write", action="store_true", help="write dev/bench/results/prediction/COMMIT.json and .md")
    parser.add_argument("--compare", metavar="OLD.json", type=pathlib.Path, help="print before -> after")
    return parser.parse_args()


def main():
    options = arguments()
    nvcc, record = machine_code.read_record()
    known, rows = models(), []
    for name in options.models.split(","):
        if name not in known:
            raise ValueError(f"no model '{name}': expected one of {', '.join(known)}")
        for T in map(int, options.lengths.split(",")):
            for device in options.devices.split(","):
                rows.append(predict(name, known[name], T, device, record, accumulate=options.accumulate))
    found = {"prediction": True, "measured": False, "commit": commit(), "nvcc": nvcc, "step": STEP}
    found |= {"assumed": ASSUMED, "rows": rows}
    if options.write:
        RESULTS.mkdir(parents=True, exist_ok=True)
        lines = ",\n".join(json.dumps(rounded(row)) for row in rows)
        head = json.dumps({**found, "rows": []}, indent=1).replace('"rows": []', f'"rows": [\n{lines}\n]')
        (RESULTS / f"{found['commit']}.json").write_text(head + "\n")
        (RESULTS / f"{found['commit']}.md").write_text(as_markdown(found))
    if options.compare:
        old = json.loads(options.compare.read_text())
        print(f"Predicted, not measured: {old['commit']} → {found['commit']}\n")
        print("\n".join(compare_table(old["rows"], rows) + [""] + compare_parts(old["rows"], rows)))
    else:
        print(as_markdown(found), end="")


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"predict: {error}")
