"""Prints a plan as tables, or describes it as JSON."""

import textwrap
from dataclasses import asdict

from .choices import GIB, Choice, Plan, best

WIDTH = 100
MEMORY_COLUMNS = {"params": "parameters", "grads": "gradients", "optim.": "optimizer state", "comm.": "communication",
                  "activ.": "activations"}  # fmt: skip


def say(text: str) -> None:
    print(textwrap.fill(text, WIDTH))


def gib(size: float) -> str:
    value = size / GIB
    return f"{value:.2f}" if value < 99.995 else f"{value:.0f}" if value >= 9999.5 else f"{value:.1f}"


def gigabytes(size: float) -> str:
    value = size / 1e9
    return "-" if value == 0 else f"{value:.2f}" if value < 99.995 else f"{value:.0f}"


def seconds(value: float) -> str:
    return f"{value:.3f}" if value < 99.9995 else f"{value:.1f}"


def key(number: int, c: Choice, all_gpus: int) -> str:
    group = "-" if c.zero == 0 else "all" if c.group == all_gpus else str(c.group)
    return f"{number:3d}  {c.zero:4d} {group:>5} {c.recompute:>6} {f'{c.rows}x{c.micro_batches}':>8}"


KEY = f"{'':3}  {'ZeRO':>4} {'group':>5} {'recomp':>6} {'rows x M':>8}"


def print_memory(shown: list[Choice], plan: Plan, marked: Choice | None) -> None:
    print(f"Memory of each GPU, GiB (at most {plan.budget / GIB:.1f}: {plan.gpu.memory_gib:g} less "
          f"{plan.options.reserve_gib:g} for CUDA's context)")  # fmt: skip
    print(KEY + "".join(f" {name:>7}" for name in [*MEMORY_COLUMNS, "other", "total"]) + "  fits")
    for number, c in enumerate(shown, 1):
        named = [c.memory[name] for name in MEMORY_COLUMNS.values()]
        sizes = [*named, c.bytes - sum(named), c.bytes]
        fits = "best" if c is marked else "yes" if c.fits else "no"
        print(key(number, c, c.gpus) + "".join(f" {gib(size):>7}" for size in sizes) + f"  {fits}")
    say(f"other: workspace, matrix library, and what the trainer reserves for kernels and NCCL (in the first row "
        f"{gib(shown[0].memory['reserve'])})")  # fmt: skip
    if shown[0].host_bytes:
        sizes = sorted({c.host_bytes for c in shown}, reverse=True)
        say(f"Page-locked memory of the host for each GPU, GiB: {', '.join(map(gib, sizes))}"
            + (", less with more GPUs in a group" if len(sizes) > 1 else ""))  # fmt: skip


def print_times(shown: list[Choice], plan: Plan) -> None:
    print("\nEach GPU sends in a step, GB; a step's predicted seconds (M: micro-batches a step)")
    names = ["NVLink", "network", "compute", "update", "exposed", "step", "of peak"]
    print(KEY + "".join(f" {name:>8}" for name in names))
    for number, c in enumerate(shown, 1):
        t = c.time
        texts = [*map(gigabytes, c.links), *map(seconds, (t.compute, t.update, t.exposed, t.step))]
        texts.append(f"{100 * t.of_peak:.1f} %")
        print(key(number, c, c.gpus) + "".join(f" {text:>8}" for text in texts) + ("" if c.fits else " *"))
    print("exposed: communication that computation does not hide")
    if not all(c.fits for c in shown):
        print("* does not fit: the time is what it would be with more memory")


def print_head(plan: Plan) -> None:
    o, a = plan.options, plan.assumed
    elements = plan.planner.memory(1, 1, "none", 0, 1, 1)["parameters"] / plan.parameter_bytes
    print(f"{o.config}: {elements / 1e9:.2f} G parameters, {o.precision}, rows of {o.seq_len} tokens, "
          f"{o.tokens_per_step} tokens a step")  # fmt: skip
    print(f"{o.gpu}: {a.peak / 1e12:g} TFLOP/s dense, {plan.gpu.memory_gib:g} GiB; {o.gpus_per_node} a node by NVLink of "
          f"{plan.gpu.nvlink_gbytes:g} GB/s, network {a.network / 1e9:g} GB/s a GPU, each way")  # fmt: skip
    print(f"Assumed: computation alone {100 * a.efficiency:g} % of peak, links {100 * a.link_efficiency:g} % of their rate, "
          f"overlap {100 * a.overlap:g} %, {o.hop_us:g} us a hop\n")  # fmt: skip


def describe(c: Choice) -> str:
    group = "" if c.zero == 0 else f" --shard-group {c.group}"
    return (f"--zero {c.zero}{group} --recompute {c.recompute} --batch-size {c.rows} "
            f"--grad-accum {c.micro_batches}")  # fmt: skip


def print_one(plan: Plan, gpus: int, found: list[Choice]) -> None:
    chosen = best(found)
    least = min(c.rows for c in found)
    shown = [c for c in found if plan.options.all or c.fits or c.rows == least]
    print_memory(shown, plan, chosen)
    if len(shown) < len(found):
        print(f"{len(found) - len(shown)} more choices that do not fit: --all")
    print_times(shown, plan)
    print()
    if chosen:
        t = chosen.time
        print(f"Best that fits: {describe(chosen)}\n  prediction: {t.step:.3f} s a step, "
              f"{plan.options.tokens_per_step / t.step:.0f} tokens/s, {100 * t.of_peak:.1f} % of peak")  # fmt: skip
    else:
        print(f"Nothing fits on {gpus} GPUs.")


def print_several(plan: Plan, all_found: dict[int, list[Choice]]) -> None:
    """Prints a row for each number of GPUs: the best choice, or the one that comes nearest to fitting."""
    print("The fastest choice that fits, by number of GPUs; seconds, share of peak and tokens/s are predictions\n")
    names = ["GiB", "NVLink", "network", "step", "of peak", "tokens/s"]
    print(f"{'GPUs':>6} {'ZeRO':>4} {'group':>5} {'recomp':>6} {'rows x M':>8}" + "".join(f" {n:>8}" for n in names) + "  fits")
    for gpus, found in all_found.items():
        if not found:
            print(textwrap.fill(plan.too_many(gpus), WIDTH, initial_indent=f"{gpus:6d} ", subsequent_indent=" " * 7))
            continue
        chosen = best(found)
        c = chosen or min(found, key=lambda c: c.bytes)
        t = c.time
        texts = [gib(c.bytes), *map(gigabytes, c.links)]
        rate = plan.options.tokens_per_step / t.step
        texts += [seconds(t.step), f"{100 * t.of_peak:.1f} %", f"{rate:.0f}"] if chosen else ["-"] * 3
        group = "-" if c.zero == 0 else "all" if c.group == gpus else str(c.group)
        print(f"{gpus:6d} {c.zero:4d} {group:>5} {c.recompute:>6} {f'{c.rows}x{c.micro_batches}':>8}"
              + "".join(f" {text:>8}" for text in texts) + ("  yes" if chosen else "  no"))  # fmt: skip
    print("GiB of each GPU; NVLink and network: GB that each GPU sends in a step; M: micro-batches a step")
    if any(found and not best(found) for found in all_found.values()):
        print("no: no choice fits, and this is the one that takes least memory")


def print_limits(plan: Plan) -> None:
    """Prints where data parallelism alone stops being possible."""
    o = plan.options
    smallest = {zero: plan.smallest(zero) for zero in (0, 1, 2)}
    print("\nFewest GPUs (of 1, 2, 4, ...; one row, recompute block): "
          + ", ".join(f"ZeRO-{zero} {n or 'none'}" for zero, n in smallest.items()))  # fmt: skip
    print(f"However many GPUs divide the rest, each one holds (GiB, of {plan.budget / GIB:.1f}; one row, recompute block):")
    print(f"{'':8}" + "".join(f" {name:>7}" for name in ("params", "grads", "optim.", "other", "total")))
    for zero in (0, 1, 2):
        floor = plan.floor(zero)
        whole, size = [floor[name] for name in ("parameters", "gradients", "optimizer state")], sum(floor.values())
        fits = "can fit" if size <= plan.budget else "never fits"
        print(f"  ZeRO-{zero}" + "".join(f" {gib(n):>7}" for n in (*whole, size - sum(whole), size)) + f"  {fits}")
    print(f"A step of {o.tokens_per_step} tokens is at most one row for each of {o.tokens_per_step // o.seq_len} GPUs.")
    if sum(plan.floor(2).values()) > plan.budget:
        elements = plan.floor(0)["parameters"] // plan.parameter_bytes
        each = plan.parameter_bytes + 16
        say(f"Data parallelism alone cannot train this model on {o.gpu} in rows of {o.seq_len} tokens, whatever the number of "
            f"GPUs: every rank keeps all parameters. They would have to be divided too, by ZeRO-3, tensor or pipeline "
            f"parallelism, which this trainer does not have. Divided evenly, parameters, gradients and optimizer state "
            f"({each} bytes per parameter) alone fill {-int(-elements * each // plan.budget)} GPUs.")  # fmt: skip
    elif not any(smallest.values()):
        say(f"It would only fit on more GPUs than a step of {o.tokens_per_step} tokens can be divided among.")


def as_json(plan: Plan, all_found: dict[int, list[Choice]]) -> dict:
    def row(c: Choice) -> dict:
        times = {**asdict(c.time), "exposed": c.time.exposed, "step": c.time.step}
        return {"zero": c.zero, "group": c.group, "recompute": c.recompute, "rows": c.rows,
                "micro_batches": c.micro_batches, "memory": c.memory, "bytes": c.bytes, "host_bytes": c.host_bytes, "fits": c.fits,
                "nvlink_bytes": c.links[0], "network_bytes": c.links[1], "predicted_seconds": times}  # fmt: skip

    o = plan.options
    assumed = {name: getattr(o, name) for name in "efficiency link_efficiency overlap hop_us reserve_gib".split()}
    runs = [{"gpus": n, "best": best(f) and found_index(f), "choices": [row(c) for c in f]} for n, f in all_found.items()]
    return {"config": str(o.config), "gpu": o.gpu, "seq_len": o.seq_len, "tokens_per_step": o.tokens_per_step,
            "precision": o.precision, "budget_bytes": int(plan.budget), "assumed": assumed, "runs": runs,
            "least_bytes": {f"zero{z}": sum(plan.floor(z).values()) for z in (0, 1, 2)},
            "least_gpus": {f"zero{z}": plan.smallest(z) for z in (0, 1, 2)}}  # fmt: skip


def found_index(found: list[Choice]) -> dict:
    c = best(found)
    return {"index": next(i for i, other in enumerate(found) if other is c), "options": describe(c)}
