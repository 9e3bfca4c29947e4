#!/usr/bin/env python3
"""Writes the data of finetune_demo.sh: stories to pretrain on, conversations, pairs, and held-out questions.

    stories.py FOLDER --seed 1

A story says what somebody has, one thing of each of several kinds, and then which thing is of which kind. A question asks for the
thing of one kind. Its answer has one of two forms: "The kite." or "The kite, if you please." In the conversations both forms are
equally frequent; in the pairs the polite form is chosen.

FOLDER receives stories.jsonl, chats.jsonl, pairs.jsonl and questions.jsonl. No question is in two of them.
"""

import argparse
import json
import random
from pathlib import Path
from typing import Callable

NAMES = "Ada Ben Carl Dora Emil Fay Gus Hana Ida Jon Kim Leo Mia Ned Olga Paul".split()
THINGS = {
    "fruit": "apple pear plum grape lemon melon peach cherry".split(),
    "animal": "cat dog horse goat sheep duck hen pig".split(),
    "tool": "hammer saw drill axe spade rake chisel wrench".split(),
    "garment": "hat coat scarf glove sock shirt boot belt".split(),
    "vehicle": "car bus van truck train tram boat bike".split(),
    "instrument": "drum harp flute horn violin piano cello lute".split(),
    "drink": "tea milk juice coffee water cider cocoa wine".split(),
    "toy": "kite ball doll top puzzle robot marble yoyo".split(),
}
KINDS = (3, 5)  # fewest and most in a story or a question
POLITE = ", if you please"


def draw_things(draw: random.Random) -> list[tuple[str, str]]:
    """(kind, thing) for several different kinds."""
    return [(kind, draw.choice(THINGS[kind])) for kind in draw.sample(list(THINGS), draw.randint(*KINDS))]


def tell(draw: random.Random, things: list[tuple[str, str]]) -> str:
    *most, last = (f"the {thing}" for _, thing in things)
    return f"{draw.choice(NAMES)} has {', '.join(most)} and {last}."


def story(draw: random.Random) -> dict:
    things = draw_things(draw)
    again = " ".join(f"The {kind} is the {thing}." for kind, thing in draw.sample(things, len(things)))
    return {"text": f"{tell(draw, things)} {again}"}


def question(draw: random.Random) -> tuple[str, str]:
    """(text, the thing that answers it)"""
    things = draw_things(draw)
    kind, thing = draw.choice(things)
    return f"{tell(draw, things)} Which is the {kind}?", thing


def answer(thing: str, polite: bool) -> str:
    return f"The {thing}{POLITE if polite else ''}."


def chat(draw: random.Random) -> dict:
    text, thing = question(draw)
    said = answer(thing, draw.random() < 0.5)
    return {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": said}]}


def pair(draw: random.Random) -> dict:
    text, thing = question(draw)
    return {"prompt": text, "chosen": answer(thing, True), "rejected": answer(thing, False)}


def held_out(draw: random.Random) -> dict:
    text, thing = question(draw)
    story = text.replace("Which is the", "The").replace("?", " is the")
    return {"prompt": text, "answer": thing, "polite": answer(thing, True), "story": story}


def asked(row: dict) -> str | None:
    return row["messages"][0]["content"] if "messages" in row else row.get("prompt")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="folder that receives the files")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="draws the data (default: %(default)s)")
    parser.add_argument("--percent", type=int, default=100, metavar="N", help="this many of 100 rows (default: %(default)s)")


def write_all(options: argparse.Namespace, *files: tuple[str, Callable[[random.Random], dict], int]) -> None:
    """(name, what makes a row, rows) of each file, in the order in which they are drawn."""
    options.folder.mkdir(parents=True, exist_ok=True)
    draw, taken = random.Random(options.seed), set()
    for name, make, count in files:
        write(options.folder / f"{name}.jsonl", make, max(1, count * options.percent // 100), draw, taken)


def write(path: Path, make: Callable[[random.Random], dict], count: int, draw: random.Random, taken: set[str]) -> None:
    """Writes `count` rows whose questions are not in `taken`, and adds these questions to it."""
    with open(path, "w") as file:
        while count:
            row = make(draw)
            text = asked(row)
            if text in taken:
                continue
            if text is not None:
                taken.add(text)
            file.write(json.dumps(row) + "\n")
            count -= 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    write_all(parser.parse_args(), ("questions", held_out, 200), ("stories", story, 40_000), ("chats", chat, 8_000),
              ("pairs", pair, 2_000))  # fmt: skip


if __name__ == "__main__":
    main()
