"""The folder of a herd as its programs would leave it, but with losses that are made up, so that each is known."""

import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import checkout
import trainrun
from llmscale.planning import plan_runs
from llmscale.settings import read_settings

SIZES = {"small": 32, "medium": 48, "large": 64}  # and their widths
SOURCES = {"docs": 1000, "sums": 3000}  # and their held-out tokens
STAGES = [("short", 20, 128, 32), ("main", 20, 256, 32), ("long", 10, 256, 64), ("annealing", 10, 256, 64)]  # steps, tokens a step, row
NAMES = "raw_docs curate tokenizer shards items baseline scaling herd_small herd_medium herd_large post_training evaluation".split()
E, A, B, ALPHA, BETA = 1.2, 30.0, 30.0, 0.4, 0.35


def law(parameters: float, tokens: float) -> float:
    return E + A / parameters**ALPHA + B / tokens**BETA


class Herd:
    """Every method makes what a stage of that name leaves."""

    def __init__(self, folder: Path):
        self.folder = folder
        steps = SimpleNamespace(name="run", command=[sys.executable, str(checkout.ROOT / "scripts/x.py"), "--file", "a b"])
        self.stages = [SimpleNamespace(name=name, title=name, note=folder / f"stages/{name}.json", steps=[steps]) for name in NAMES]
        recipe = {"sources": {name: {} for name in SOURCES}, "stages": [
            {"name": name, "steps": steps, "tokens_per_step": per_step, "seq_len": length} for name, steps, per_step, length in STAGES]}  # fmt: skip
        recipe["stages"][0]["mixture"] = [{"source": "docs", "weight": 3}, {"source": "sums", "weight": 1}]
        self.write("files/recipe.json", recipe)
        self.write("settings.json", {"name": "made", "models": dict.fromkeys(SIZES, {}), "sources": dict.fromkeys(SOURCES, {}),
                                     "ranks": 1, "target": "cpu", "precision": "fp32", "seed": 1, "scaling": {}})  # fmt: skip
        for name, width in SIZES.items():
            self.write(f"files/{name}.json", {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": 2, "vocab_size": 256,
                                              "num_attention_heads": 2, "num_key_value_heads": 2, "tie_word_embeddings": True})  # fmt: skip

    def write(self, name: str, value) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value))

    def note(self, name: str, **more) -> None:
        self.write(f"stages/{name}.json", {"key": {}, "steps": {"run": {"done": True}}, "seconds": 60, "processor_seconds": 90,
                                           "memory_bytes": 1 << 30, "disk_bytes": 1 << 29} | more)  # fmt: skip

    def data(self) -> None:
        languages = {"en": [6, 60, 600, 4, 40, 400], "de": [2, 20, 200, 1, 10, 100]}
        step = {"total": {"in": [8, 80, 800], "out": [5, 50, 500]}, "by": {"language": languages}}
        self.write("curated/statistics.json", {"order": ["language"], "steps": {"language": step}})
        for name, held_out in SOURCES.items():
            self.write(f"shards/{name}/meta.json", {"train_documents": 5, "train_tokens": 9000, "val_tokens": held_out})

    def baseline(self, **losses: float) -> None:
        self.write("baseline/ngram.json", {"order": 5, "tokens": 18000, "sources": {
            name: {"loss": loss, "tokens": 1000} for name, loss in losses.items()}})  # fmt: skip

    def train(self, size: str, losses: list[float], found: list[float], mean: float | None = None) -> None:
        """`losses` at the ends of stages; `found`: the share of needles of 32 and of 64 tokens, there."""
        lines, step, tokens = [], 0, 0
        for (stage, steps, per_step, _), loss, share in zip(STAGES, losses, found):
            for _ in range(steps):
                step, tokens = step + 1, tokens + per_step
                read = {name: {"tokens": tokens // 2, "epochs": tokens / 18000} for name in SOURCES}
                lines.append({"step": step, "loss": loss + 1 / step, "tokens": tokens, "tokens_per_second": 1000.0 + step, "stage": stage,
                              "sources": read})  # fmt: skip
            lines.append({"step": step, "val_loss": loss, "val_losses": {"docs": loss + 0.5, "sums": loss - 0.5}})
            lines += [{"step": step, "task": "sums", "acc": share, "acc_stderr": 0.1}]
            lines += [{"step": step, "task": f"needle_{length}", "length": length, "cells": [
                {"depth": depth, "exact_match": share} for depth in (0, 100)]} for length in (32, 64)]  # fmt: skip
        lines += [{"step": step, "val_loss_averaged": mean}] if mean else []
        folder = self.folder / "herd" / size
        folder.mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / "log.jsonl").write_text(text + '{"step": 61, "lo')  # a kill leaves half a line

    def sweep(self, place: trainrun.Workplace) -> None:
        """Results of every run of a plan, with losses by the law."""
        self.write("files/scaling.json", {
            "output": str(self.folder / "scaling"), "seq_len": 32, "rows": 4, "val_rows": 8, "precision": "fp32", "target": "cpu",
            "data": {"train": str(place.data / "train_*.bin"), "val": str(place.data / "val_*.bin")},
            "model": {"head_dim": 16, "width_per_layer": 16, "ffn_multiple": 16}, "sizes": [1, 2, 3, 4, 5],
            "tuning": {"batch": 32, "batch_exponent": 0, "lr": 0.003, "lr_exponent": 0}, "budgets": [3e10, 6e10, 1.2e11]})  # fmt: skip
        settings = read_settings(self.folder / "files/scaling.json")
        for number, run in enumerate(plan_runs(settings)):
            n = run.parts.count(settings.count)
            loss = law(n, run.tokens) * math.exp(0.002 * math.sin(7 * number))
            self.write(f"scaling/runs/{run.name}/result.json", {
                "name": run.name, "status": "done", "budget": run.budget.flops, "flops": run.flops, "tokens": run.tokens, "parameters": n,
                "loss": loss, "forecast": False})  # fmt: skip
