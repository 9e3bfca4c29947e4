"""The data of scripts/finetune_demo.sh and how it counts: the stories answer the questions, and no held-out one is trained on."""

import json
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).resolve().parents[2] / "scripts" / "demo"
sys.path.insert(0, str(DEMO))

import score  # noqa: E402
import stories  # noqa: E402


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folders = [tmp_path_factory.mktemp("made") for _ in range(3)]
    for folder, seed in zip(folders, (1, 1, 2)):
        subprocess.run([sys.executable, DEMO / "stories.py", folder, "--seed", str(seed)], check=True)
    return folders


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def told(text):
    """The things in the first sentence."""
    return re.findall(r"the (\w+)", text.split(". ")[0])


def answer_to(question):
    kind = re.search(r"Which is the (\w+)\?$", question)[1]
    (thing,) = set(told(question)) & set(stories.THINGS[kind])
    return thing


def test_things_are_of_one_kind():
    every = [thing for kind in stories.THINGS.values() for thing in kind]
    assert len(every) == len(set(every)) == 64


def test_answers_follow_from_the_questions(made):
    for row in lines(made[0] / "questions.jsonl"):
        thing, kind = answer_to(row["prompt"]), re.search(r"(\w+)\?$", row["prompt"])[1]
        assert row["answer"] == thing and row["polite"] == stories.answer(thing, True)
        assert row["story"] == f"{row['prompt'].split('. ')[0]}. The {kind} is the"
    forms = []
    for row in lines(made[0] / "chats.jsonl"):
        user, assistant = row["messages"]
        thing = answer_to(user["content"])
        forms.append(assistant["content"] == stories.answer(thing, True))
        assert forms[-1] or assistant["content"] == stories.answer(thing, False)
    assert 0.45 < sum(forms) / len(forms) < 0.55
    for row in lines(made[0] / "pairs.jsonl"):
        thing = answer_to(row["prompt"])
        assert (row["chosen"], row["rejected"]) == (stories.answer(thing, True), stories.answer(thing, False))


def test_stories_say_of_what_kind_things_are(made):
    for row in random.sample(lines(made[0] / "stories.jsonl"), 500):
        said = re.findall(r"The (\w+) is the (\w+)\.", row["text"])
        assert sorted(thing for _, thing in said) == sorted(told(row["text"])) and len(said) >= 3
        assert all(thing in stories.THINGS[kind] for kind, thing in said)


def test_questions_are_held_out(made):
    asked = [[stories.asked(row) for row in lines(made[0] / f"{name}.jsonl")] for name in ("questions", "chats", "pairs")]
    assert len(set(asked[0])) == len(asked[0]) == 200
    assert not set(asked[0]) & {*asked[1], *asked[2]}


def test_seeds(made):
    for name in ("stories", "chats", "pairs", "questions"):
        one, again, other = ((folder / f"{name}.jsonl").read_bytes() for folder in made)
        assert one == again != other


def test_score():
    def text(said, finish="stop"):
        return {"text": said, "finish": finish}

    texts = [
        text("The kite."),
        text("The kite, if you please."),
        text("The kite. The"),
        text("The kite.", "length"),
        text("The cat."),
    ]
    assert score.score(texts, ["kite"] * 5) == (2 / 5, 1 / 5)
