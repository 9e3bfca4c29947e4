#!/usr/bin/env python3
"""Tables in Markdown of what scripts/gpu_check.sh has left in a folder, for BENCHMARKS.md.

    python dev/bench/report.py dev/bench/results/DEVICE-COMMIT

Of a call that was cut the tables have what it had found; a stage that had only begun is called so.
"""

import argparse
import json
import pathlib


def table(title, head, rows):
    if not rows:
        return
    print(f"\n**{title}**\n\n| {' | '.join(head)} |\n|{' --- |' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(str(cell).replace('|', '/') for cell in row)} |")


def read_events(path):
    """What can be read; the last line of a call that was killed may be half a line."""
    for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
        try:
            yield json.loads(line)
        except ValueError:
            print(f"\n{path.name}: not JSON: {line[:80]}")


def show_call(folder, call):
    start, stages, items, facts = {}, {}, [], {}
    for event in read_events(folder / f"{call}.jsonl"):
        if "plan" in event:
            start = event
        elif "item" in event:
            items.append((event["stage"], event["item"], event["verdict"], event["reason"]))
        elif "fact" in event:
            facts.setdefault(event["stage"], []).append(f"{event['fact']}: {event['value']}")
        else:
            stages[event["stage"]] = event
    if not start:
        return
    print(f"\n## {call.capitalize()} call\n\n{start['device']}, target {start['target']}, commit {start['commit']}, "
          f"SEED={start['seed']}, {start['time']}")  # fmt: skip
    rows = [(name, e["verdict"], e.get("seconds", ""), "; ".join(filter(None, [e.get("reason"), *facts.get(name, [])])))
            for name, e in stages.items()]  # fmt: skip
    table("Stages", ("stage", "verdict", "s", "reason, facts"), rows)
    table("Parts of stages", ("stage", "part", "verdict", "reason"), items)


def load(folder, name):
    path = folder / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def shape(row):
    return "×".join(str(n) for n in row["shape"])


def show_benchmarks(folder):
    for name in ("accuracy_attention", "accuracy_products"):
        rows = [(r["model"], r["case"], shape(r), f"{r['error'] or float('nan'):.2e}", f"{r['torch_error']:.2e}",
                 "yes" if r["ok"] else "NO", f"{r.get('tflops', float('nan')):.3g}", f"{r.get('torch_tflops', float('nan')):.3g}")
                for r in load(folder, name).get("results", [])]  # fmt: skip
        head = ("model", "case", "shape", "error", "PyTorch's", "within limit", "TFLOP/s", "PyTorch's")
        table(name.replace("_", ": "), head, rows)
    found = load(folder, "kernels")
    rows = [(r["model"], r["kernel"], shape(r), f"{r['ms']:.4f}", f"{r['rate']:.3g} {r['unit']}", f"{r['share']:.0%}")
            for r in found.get("kernels", [])]  # fmt: skip
    ceilings = ", ".join(f"{value:.4g} {unit}" for unit, value in found.get("ceilings", {}).items())
    table(f"Kernels, beside {ceilings} of a copy and a product", ("model", "kernel", "shape", "ms", "rate", "share"), rows)
    rates = load(folder, "pytorch").get("tokens_per_second", {})
    ours = next((rate for name, rate in rates.items() if name.startswith("train_llama3")), None)
    rows = [(name, f"{rate:.0f}", f"{ours / rate:.2f}" if ours else "") for name, rate in rates.items()]
    table("Training steps", ("side", "tokens/s", "ours / theirs"), rows)
    found = load(folder, "llmq")
    rows = [(r["shape"], f"{r['tokens_per_second']:.0f}" if r["tokens_per_second"] else r["why"], r["published_on"] or "", r["published"] or "")
            for r in found.get("results", [])]  # fmt: skip
    source = f"LLM.Q's is published, not measured here ({found.get('published')})"
    table(f"Shapes of LLM.Q's table, rows of {found.get('sequence')}; {source}", ("shape", "tokens/s", "LLM.Q on", "tokens/s"), rows)
    rows = [(r["precision"], r["batch"], r["side"], *(f"{r[what]:.1f}" for what in ("prompt", "new")), f"{r['ours_new']:.2f}")
            for r in load(folder, "generate").get("results", [])]  # fmt: skip
    table("Generation, tokens/s", ("dtype", "batch", "side", "of prompts", "new", "ours / theirs, new"), rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path, help="of the results")
    folder = parser.parse_args().folder
    calls = [call for call in ("first", "second") if (folder / f"{call}.jsonl").exists()]
    if not calls:
        parser.error(f"{folder} has neither first.jsonl nor second.jsonl")
    for call in calls:
        show_call(folder, call)
    show_benchmarks(folder)


if __name__ == "__main__":
    main()
