#!/usr/bin/env python3
"""A long-context stage on two CPU cores: a small model learns to find a needle among 256 tokens, then, by recipes/mini_long.json's
last stage, among 2048.

    dev/bench/long_context.py --output runs/mini_long [--seeds 1,2,3]         after make TARGET=cpu

Makes the data (data/mini_long/, of its own words, the same for all seeds), trains each seed, scores needles of 256 to 2048 tokens
before and after the last stage (with its RoPE and with the old one), writes OUTPUT/result.json and OUTPUT/heat_map.png, and
exits with 1 unless each seed finds few needles of 2048 tokens before that stage and nearly all after it. A run that has ended is
not run again.

After a thousand steps of lists, pairs and dense notes (scripts/demo/notes.py says why) the model can look up in notes among other
sentences, too.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts/demo"))
from notes import KEYS, NOTE, RECALL, VALUES, lists, notes, pairs, sentence  # noqa: E402

DATA = Path("data/mini_long")
RECIPE = ROOT / "recipes/mini_long.json"
LENGTHS = (256, 512, 1024, 2048)
SHORT, LONG = 256, 2048  # tokens of a row before the last stage, and in it
THETA = 10000, 500000  # the same
VOCABULARY = 704
FEW, NEARLY_ALL = 0.3, 0.9  # of 110 needles of 2048 tokens, before and after the last stage


# ---- data


SOURCES = {  # documents, and what makes one
    "lists": (20000, lists),
    "pairs": (20000, pairs),
    "dense": (20000, lambda rng: notes(rng, rng.randrange(7, 17), 0.3, 0.6)),
    "notes": (16000, lambda rng: notes(rng, rng.randrange(20, 40), 0.25, 0.25)),
    "long_notes": (2400, lambda rng: notes(rng, rng.randrange(180, 300), 0.036, 0.25)),
    "filler": (600, lambda rng: "".join(sentence(rng) for _ in range(30))),
}


def call(*command, **more) -> None:
    subprocess.run([str(part) for part in command], check=True, cwd=ROOT, **more)


def write_rows(name: str) -> Path:
    rng = random.Random(name)
    count, make = SOURCES[name]
    path = DATA / f"{name}.jsonl"
    path.write_text("".join(json.dumps({"text": make(rng).strip()}) + "\n" for _ in range(count)))
    return path


def make_data() -> None:
    if (DATA / f"needle_{LONG}.eval").exists():
        return
    shutil.rmtree(DATA, ignore_errors=True)
    DATA.mkdir(parents=True)
    prepare, quiet = [sys.executable, "data/prepare_data.py"], {"stdout": subprocess.DEVNULL}
    paths = {name: write_rows(name) for name in SOURCES}
    call(*prepare, *paths.values(), "--vocab-size", VOCABULARY, "--output", DATA / "tokenizer", **quiet)
    for name, path in paths.items():
        if name != "filler":
            call(*prepare, path, "--tokenizer", DATA / "tokenizer", "--output", DATA / name, **quiet)
    for name, words in (("keys", KEYS), ("values", VALUES)):
        (DATA / f"{name}.txt").write_text("\n".join(words))
    write_config(DATA / "config.json")
    call(sys.executable, "data/prepare_eval.py", paths["filler"], "--needle-lengths", ",".join(map(str, LENGTHS)), "--tokenizer",
         DATA / "tokenizer", "--needle-keys", DATA / "keys.txt", "--needle-values", DATA / "values.txt", "--needle-sentence",
         NOTE.strip(), "--needle-question", RECALL, "--output", DATA / "needle.eval", **quiet)  # fmt: skip


def write_config(path: Path) -> None:
    begin = json.loads((DATA / "tokenizer/meta.json").read_text())["bos_id"]
    fields = json.loads((ROOT / "configs/tiny.json").read_text()) | {
        "vocab_size": VOCABULARY, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 4, "max_position_embeddings": LONG, "rope_theta": THETA[0], "initializer_range": 0.06,
        "bos_token_id": begin, "eos_token_id": begin + 1}  # fmt: skip
    path.write_text(json.dumps(fields, indent=2) + "\n")


# ---- runs


def before_steps() -> int:
    """Steps before the recipe's last stage."""
    return sum(stage["steps"] for stage in json.loads(RECIPE.read_text())["stages"][:-1])


def train(options: argparse.Namespace, seed: int, run: Path) -> None:
    if (run / "checkpoint").exists():
        return
    call(options.program, "--recipe", RECIPE, "--config", DATA / "config.json", "--output", run, "--seed", seed, "--overwrite",
         "--eval-tasks", DATA / "needle_*.eval", "--tokenizer", DATA / "tokenizer", "--save-every", before_steps(), "--keep-last", 0,
         "--log-every", 200, stdout=sys.stderr)  # fmt: skip


def score(options: argparse.Namespace, checkpoint: Path, theta: float, output: Path) -> dict:
    """{length: {exact_match, acc, cells}} by the decoder, with rows of the long stage and this theta."""
    log = output / "log.jsonl"
    if not log.exists() or f'"needle_{LONG}"' not in log.read_text():
        model = output / "model"
        shutil.rmtree(output, ignore_errors=True)
        shutil.copytree(checkpoint.resolve(), model, ignore=shutil.ignore_patterns("trainer*", "averaged"))
        fields = json.loads((model / "config.json").read_text())
        fields["rope_theta"], fields["max_position_embeddings"] = theta, LONG
        if "rope_parameters" in fields:
            fields["rope_parameters"]["rope_theta"] = theta
        (model / "config.json").write_text(json.dumps(fields))
        call(options.program, "--eval-only", "--init-from", model, "--eval-tasks", DATA / "needle_*.eval", "--seq-len", LONG,
             "--batch-size", 1, "--output", output / "log", stdout=sys.stderr)  # fmt: skip
        os.replace(output / "log/log.jsonl", log)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return {line["length"]: {k: line[k] for k in ("exact_match", "acc", "cells")} for line in lines if "cells" in line}


def run_seed(options: argparse.Namespace, seed: int) -> dict:
    run = options.output / f"seed_{seed}"
    train(options, seed, run)
    before = run / f"checkpoints/step_{before_steps():08d}"
    after = run / "checkpoint"
    return {
        "seed": seed,
        "before": score(options, before, THETA[0], options.output / f"seed_{seed}_before"),
        "before, new theta": score(options, before, THETA[1], options.output / f"seed_{seed}_before_theta"),
        "after": score(options, after, THETA[1], options.output / f"seed_{seed}_after"),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/mini_long"), metavar="DIR", help="default: %(default)s")
    parser.add_argument("--seeds", default="1,2,3", metavar="N[,N...]", help="default: %(default)s")
    parser.add_argument("--program", default="build/cpu/train_llama3", metavar="FILE", help="default: %(default)s")
    parser.add_argument("--data", action="store_true", help="only make the data, which recipes/mini.json has too")
    options = parser.parse_args()
    options.output = options.output.resolve()
    os.chdir(ROOT)
    make_data()
    if options.data:
        return 0
    options.output.mkdir(parents=True, exist_ok=True)
    results, failed = [], 0
    for seed in map(int, options.seeds.split(",")):
        results.append(run_seed(options, seed))
        found = {name: results[-1][name][LONG]["exact_match"] for name in ("before", "before, new theta", "after")}
        good = found["before"] <= FEW and found["after"] >= NEARLY_ALL
        failed += not good
        print(f"seed {seed}: exact match at {LONG} tokens: {json.dumps(found)}{'' if good else ': FAILED'}", flush=True)
        (options.output / "result.json").write_text(json.dumps(results, indent=1) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
