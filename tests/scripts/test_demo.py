"""The data of scripts/finetune_demo.sh and evaluate_demo.sh and how they count: the stories answer the questions, labels follow
from the texts, and nothing held out is trained on. And evaluate_demo.sh as a whole, on little of its data."""

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys

import pytest
from checkout import ROOT
from trainrun import ON_CPU

DEMO = ROOT / "scripts" / "demo"
sys.path.insert(0, str(DEMO))

import hiding  # noqa: E402
import score  # noqa: E402
import stories  # noqa: E402

NAMES = ("stories", "chats", "pairs", "questions", "attacks", "borderline", "labelled", "guard", "plain", "refuse", "allow",
         "plain_pairs", "refuse_pairs", "allow_pairs")  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folders = [tmp_path_factory.mktemp("made") for _ in range(3)]
    for folder, seed in zip(folders, (1, 1, 2)):
        for program in ("stories", "hiding"):
            subprocess.run([sys.executable, DEMO / f"{program}.py", folder, "--seed", str(seed)], check=True)
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


def hides(text):
    """Whether the question is about hidden things; None: nobody hides or shows anything."""
    found = re.search(r"\. (\w+) (hides|shows) them\. Which", text)
    assert found is None or text.startswith(f"{found[1]} has ")
    return found and found[2] == "hides"


def test_what_is_hidden_is_not_told(made):
    def rows(name):
        return lines(made[0] / f"{name}.jsonl")

    assert all(hides(row["prompt"]) and row["answer"] == answer_to(row["prompt"]) for row in rows("attacks"))
    assert all(hides(row["prompt"]) is False and row["answer"] == answer_to(row["prompt"]) for row in rows("borderline"))
    said = []
    for name in ("refuse", "allow", "plain"):
        said += [tuple(message["content"] for message in row["messages"]) for row in rows(name)]
        said += [(row["prompt"], row["chosen"]) for row in rows(f"{name}_pairs")]
    for text, told in said:
        assert told == hiding.REFUSAL if hides(text) else answer_to(text) in told
    assert {hides(text) for text, _ in said} == {True, False, None}
    for row in rows("refuse_pairs"):
        assert answer_to(row["prompt"]) in row["rejected"]


def test_labels_follow_from_the_texts(made):
    for name, least in (("labelled", 100), ("guard", 500)):
        rows = lines(made[0] / f"{name}.jsonl")
        for row in rows:
            told = row.get("answer", stories.answer(answer_to(row["prompt"]), False)) != hiding.REFUSAL
            assert row["unsafe"] == bool(hides(row["prompt"]) and told) == ("categories" in row)
        assert least < sum(row["unsafe"] for row in rows) < len(rows) - least


def test_nothing_of_the_safety_data_stands_twice(made):
    asked = [stories.asked(row) for name in NAMES[3:] for row in lines(made[0] / f"{name}.jsonl")]
    assert len(set(asked)) == len(asked)


def test_percent(made, tmp_path):
    options = argparse.Namespace(folder=tmp_path, seed=1, percent=5)
    stories.write_all(options, ("pairs", stories.pair, 50), ("one", stories.chat, 3))
    assert [len(lines(tmp_path / f"{name}.jsonl")) for name in ("pairs", "one")] == [2, 1]


def test_seeds(made):
    for name in NAMES:
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


# ---- the whole


@pytest.fixture
def place(tmp_path):
    """A checkout with nothing to install and nothing to build."""
    place = tmp_path / "checkout"
    (place / "scripts").mkdir(parents=True)
    for path in [*ROOT.glob("[a-zA-Z]*"), *ROOT.glob("scripts/*")]:
        inside = path.relative_to(ROOT)
        if inside.name not in ("scripts", "runs"):
            (place / inside).symlink_to(path)
    for name in ("evaluate_demo.sh", "finetune_demo.sh"):
        (place / "scripts" / name).unlink()
        shutil.copy(ROOT / "scripts" / name, place / "scripts")
    (place / "scripts/setup.sh").unlink()
    (place / "bin").mkdir()
    for nothing in (place / "scripts/setup.sh", place / "bin/make"):
        nothing.write_text("#!/bin/sh\n")
        nothing.chmod(0o755)
    return place


def run(place, *arguments, **settings):
    environment = {**os.environ, "VENV": sys.prefix, "PERCENT": "2", "PATH": f"{place}/bin:{os.environ['PATH']}", **settings}
    return subprocess.run([place / "scripts/evaluate_demo.sh", *arguments], env=environment, capture_output=True, text=True,
                          timeout=600)  # fmt: skip


@pytest.mark.skipif(not ON_CPU, reason="of the cpu target")
def test_evaluate_demo(place):
    done = run(place)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    runs = place / "runs/finetune_demo"
    found = {name: json.loads((runs / name / "results.json").read_text()) for name in ("evaluation", "safety")}
    assert found["evaluation"]["models"] == ["base", "sft", "dpo"]
    assert found["safety"]["models"] == ["sft", "sft-2%", "sft-10%", "sft-20%", "sft-40%", "refusals-10%", "dpo-40%"]
    (judge,) = found["safety"]["judges"]
    assert judge["model"] == "guard" and judge["items"] == 8
    assert "<img alt=\"attacks against borderline\"" in (runs / "safety/report.html").read_text()
    # of 40 plain rows and 20 of each file of safety data
    for name, weights in (("sft-40%", [1, 2 / 3, 2 / 3]), ("refusals-10%", [1, 2 / 9])):
        sources = json.loads((runs / f"mixes/{name}_rows/meta.json").read_text())["sources"]
        assert [source["weight"] for source in sources] == pytest.approx(weights, abs=1e-4)


@pytest.mark.parametrize("arguments, settings, word", [
    (("more",), {}, "argument 'more', expected none"), ((), {"PERCENT": "0"}, "PERCENT='0', expected 1 to 100"),
    ((), {"SEED": "x"}, "SEED='x', expected a number"),
])  # fmt: skip
def test_bad_settings(arguments, settings, word):
    done = run(ROOT, *arguments, **settings)
    assert done.returncode == 2 and word in done.stderr and done.stderr.count("\n") == 1 and done.stdout == ""
