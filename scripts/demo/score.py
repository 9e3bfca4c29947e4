#!/usr/bin/env python3
"""Asks a model the questions that stories.py held out, and appends to a table how well it answered.

    score.py MODEL QUESTIONS --name "after SFT" --table table.json --target cpu

An answer is right if it names the thing that was asked for and nothing else, in either form, and ends the turn. It is polite if
it is right and in the polite form.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from stories import answer

GENERATE = Path(__file__).resolve().parent.parent / "generate.py"


def ask(model: Path, questions: Path, target: str, temperature: float, seed: int) -> list[dict]:
    """The texts that generate.py writes, in the order of the questions."""
    command = [sys.executable, GENERATE, "--model", model, "--chat", "--prompts", questions, "--json", "--max-tokens", "24",
               "--target", target, "--temperature", temperature, "--top-p", "1", "--seed", seed]  # fmt: skip
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr.strip() or done.returncode)
    return sorted(map(json.loads, filter(None, done.stdout.split("\n"))), key=lambda text: text["index"])


def score(texts: list[dict], things: list[str]) -> tuple[float, float]:
    """The shares of all texts that are (right, polite)."""
    said = [text["text"].strip() if text["finish"] == "stop" else "" for text in texts]
    polite = sum(text == answer(thing, True) for text, thing in zip(said, things, strict=True))
    plain = sum(text == answer(thing, False) for text, thing in zip(said, things, strict=True))
    return (polite + plain) / len(things), polite / len(things)


def print_table(rows: list[dict]) -> None:
    print(f"{'held-out questions':24} {'right':>8} {'polite':>8}")
    for row in rows:
        print(f"{row['name']:24} {100 * row['right']:6.1f} % {100 * row['polite']:6.1f} %")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, metavar="MODEL", help="folder of the model")
    parser.add_argument("questions", type=Path, metavar="QUESTIONS", help="questions.jsonl of stories.py")
    parser.add_argument("--name", required=True, metavar="TEXT", help="name of the row in the table")
    parser.add_argument("--table", required=True, type=Path, metavar="FILE", help="JSON file to append the row to")
    parser.add_argument("--target", required=True, choices=("cpu", "cuda"), help="build to generate with")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="seed of drawn texts (default: %(default)s)")
    options = parser.parse_args()
    things = [json.loads(line)["answer"] for line in options.questions.read_text().splitlines()]
    right, _ = score(ask(options.model, options.questions, options.target, 0, 0), things)
    # the likeliest text does not show how often a form is chosen, so the forms are counted in texts drawn by their probability
    drawn, polite = score(ask(options.model, options.questions, options.target, 1, options.seed), things)
    rows = json.loads(options.table.read_text()) if options.table.exists() else []
    rows.append({"name": options.name, "right": right, "right_drawn": drawn, "polite": polite / drawn if drawn else 0.0})
    options.table.write_text(json.dumps(rows, indent=2) + "\n")
    print_table(rows)


if __name__ == "__main__":
    main()
