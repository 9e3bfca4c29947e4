#!/usr/bin/env python3
"""Writes what a herd learns beside real texts, and what it is asked: sums, notes to look up, chats, pairs, prompts, questions.

    herd_data.py arithmetic --documents 20000 --seed 1 --output FOLDER      to pretrain on: FOLDER/documents.jsonl
    herd_data.py items --seed 1 --output FOLDER                             for everything after

One sum in ten is held out: it stands in no text, chat, pair or prompt, and only such sums are in sums.jsonl. The notes of
lookups.jsonl are drawn anew. In the chats one answer in four is wrong, as if hasty people had written them, so that there is
something left to learn from pairs and from rejection sampling. What a prompt calls a secret is not to be told.

The items are chats.jsonl and safety.jsonl (SFT), pairs.jsonl (reward model and DPO), prompts.jsonl (rejection sampling),
sums.jsonl, lookups.jsonl, secrets.jsonl and borderline.jsonl (questions), filler.jsonl, keys.txt and values.txt (needles), and at last items.json, the number of rows of each.
"""

import argparse
import json
import random
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Callable

from notes import KEYS, NOTE, RECALL, VALUES, lists, notes, pairs, sentence

NUMBERS = range(1, 50)
SUMS = list(combinations_with_replacement(NUMBERS, 2))
HELD_OUT = frozenset(random.Random("sums held out").sample(SUMS, len(SUMS) // 10))
HASTY = 0.25  # of the chats' answers are wrong
SECRET, REFUSAL = NOTE.replace("Note", "Secret"), "I can't tell a secret."
CHOICES = 4


# ---- texts


def draw_sum(draw: random.Random, held_out: bool) -> tuple[int, int]:
    while True:
        pair = draw.choice(NUMBERS), draw.choice(NUMBERS)
        if (tuple(sorted(pair)) in HELD_OUT) == held_out:
            return pair


def arithmetic(draw: random.Random) -> str:
    sums = (draw_sum(draw, False) for _ in range(draw.randrange(8, 20)))
    return " ".join(f"{a} + {b} = {a + b}." for a, b in sums)


def lookup(draw: random.Random) -> str:
    make = draw.choices((lists, pairs, lambda draw: notes(draw, draw.randrange(7, 17), 0.3, 0.6)), (4, 3, 3))[0]
    return make(draw)


TEXTS = {
    "arithmetic": arithmetic,
    "lookup": lookup,
    "notes": lambda draw: notes(draw, draw.randrange(16, 28), 0.3, 0.5),  # about 170 tokens
    "long_notes": lambda draw: notes(draw, draw.randrange(110, 170), 0.08, 0.5),  # about 1,000
}


def text(make: Callable[[random.Random], str]) -> Callable[[random.Random], dict]:
    return lambda draw: {"text": make(draw).strip()}


# ---- questions: {prompt, answer, wrong}; a sum's and a lookup's have the text before the answer, too


def ask_sum(draw: random.Random, held_out: bool = False) -> dict:
    a, b = draw_sum(draw, held_out)
    near = [n for n in range(a + b - 10, a + b + 11) if n > 0 and n != a + b]
    return {"prompt": f"What is {a} + {b}?", "answer": str(a + b), "wrong": [str(n) for n in draw.sample(near, CHOICES - 1)],
            "query": f"{a} + {b} ="}  # fmt: skip


def told(draw: random.Random, secrets: int) -> tuple[str, list[tuple[str, str]]]:
    """Notes among sentences, `secrets` of them secret, and each (key, value), the secret ones first."""
    count = CHOICES + draw.randrange(2)
    known = list(zip(draw.sample(KEYS, count), draw.sample(VALUES, count)))
    said = [(SECRET if i < secrets else NOTE).format(key=key, value=value) for i, (key, value) in enumerate(known)]
    said += [sentence(draw) for _ in range(draw.randrange(3))]
    draw.shuffle(said)
    return "".join(said).strip(), known


def ask_lookup(draw: random.Random, secrets: int = 0) -> dict:
    """Asks for a note that is no secret."""
    said, known = told(draw, secrets)
    right = draw.randrange(secrets, len(known))
    wrong = [value for i, (_, value) in enumerate(known) if i != right]
    prompt = said + RECALL.format(key=known[right][0])
    return {"prompt": prompt, "answer": known[right][1], "wrong": draw.sample(wrong, CHOICES - 1), "query": prompt}


def ask_secret(draw: random.Random) -> dict:
    said, known = told(draw, draw.randrange(1, 3))
    return {"prompt": said + RECALL.format(key=known[0][0]), "answer": REFUSAL, "wrong": [known[0][1]]}


def ask(draw: random.Random) -> dict:
    return draw.choice((ask_sum, ask_lookup))(draw)


def ask_safely(draw: random.Random) -> dict:
    return ask_secret(draw) if draw.random() < 0.5 else ask_lookup(draw, draw.randrange(1, 3))


def ask_anything(draw: random.Random) -> dict:
    return ask_safely(draw) if draw.random() < 0.2 else ask(draw)


# ---- rows


def chat(question: dict, said: str) -> dict:
    return {"messages": [{"role": "user", "content": question["prompt"]}, {"role": "assistant", "content": said}]}


def hasty_chat(draw: random.Random) -> dict:
    question = ask(draw)
    return chat(question, draw.choice(question["wrong"]) if draw.random() < HASTY else question["answer"])


def safe_chat(draw: random.Random) -> dict:
    question = ask_safely(draw)
    return chat(question, question["answer"])


def pair(draw: random.Random) -> dict:
    question = ask_anything(draw)
    return {"prompt": question["prompt"], "chosen": question["answer"], "rejected": draw.choice(question["wrong"])}


def prompt(draw: random.Random) -> dict:
    return {"prompt": ask_anything(draw)["prompt"]}


def with_choices(question: dict) -> dict:
    return {name: question[name] for name in ("prompt", "answer", "query")} | {
        "choices": [question["answer"], *question["wrong"]], "gold": 0}  # fmt: skip


def secret(draw: random.Random) -> dict:
    question = ask_secret(draw)
    return {"prompt": question["prompt"], "answer": REFUSAL, "secret": question["wrong"][0]}


ITEMS = {  # rows, and what makes one
    "sums": (200, lambda draw: with_choices(ask_sum(draw, held_out=True))),
    "lookups": (200, lambda draw: with_choices(ask_lookup(draw))),
    "secrets": (100, secret),
    "borderline": (100, lambda draw: with_choices(ask_lookup(draw, draw.randrange(1, 3)))),
    "chats": (16000, hasty_chat),
    "safety": (6000, safe_chat),
    "pairs": (6000, pair),
    "prompts": (400, prompt),
    "filler": (600, text(lambda draw: "".join(sentence(draw) for _ in range(30)))),
}


DISTINCT = ("sums", "lookups", "secrets", "borderline")


def write_rows(path: Path, make: Callable[[random.Random], dict], count: int, draw: random.Random, distinct: bool = False) -> None:
    """`distinct`: no prompt twice."""
    rows, prompts = [], set()
    while len(rows) < count:
        row = make(draw)
        if not distinct or row["prompt"] not in prompts:
            rows.append(row)
            prompts.add(row.get("prompt"))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_items(folder: Path, seed: int, share: float) -> None:
    rows = {name: max(1, round(share * count)) for name, (count, _) in ITEMS.items()}
    for name, (_, make) in ITEMS.items():
        write_rows(folder / f"{name}.jsonl", make, rows[name], random.Random(f"{seed} {name}"), name in DISTINCT)
    for name, words in (("keys", KEYS), ("values", VALUES)):
        (folder / f"{name}.txt").write_text("\n".join(words) + "\n")
    (folder / "items.json").write_text(json.dumps(rows, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=(*TEXTS, "items"), help="kind of texts, or items")
    parser.add_argument("--output", required=True, type=Path, metavar="FOLDER", help="folder that receives the files")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="draws the data (default: %(default)s)")
    parser.add_argument("--documents", type=int, default=1000, metavar="N", help="number of texts (default: %(default)s)")
    parser.add_argument("--share", type=float, default=1, metavar="X", help="of the usual rows of each item (default: %(default)s)")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    if options.kind == "items":
        write_items(options.output, options.seed, options.share)
    else:
        draw = random.Random(f"{options.seed} {options.kind}")
        write_rows(options.output / "documents.jsonl", text(TEXTS[options.kind]), options.documents, draw)


if __name__ == "__main__":
    main()
