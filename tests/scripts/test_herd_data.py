"""What a herd learns beside real texts: answers follow from the questions, and nothing that is held out is trained on."""

import json
import re
import subprocess
import sys

import pytest
from checkout import ROOT
from seeds import seed_of

DEMO = ROOT / "scripts" / "demo"
sys.path.insert(0, str(DEMO))

import herd_data  # noqa: E402
import notes  # noqa: E402

SEEDS = [seed_of("herd data") % 10**6, seed_of("another herd") % 10**6]


def make(kind, folder, seed, *more):
    subprocess.run([sys.executable, DEMO / "herd_data.py", kind, "--seed", str(seed), "--output", folder, *more], check=True)
    return folder


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    return make("items", tmp_path_factory.mktemp("items"), SEEDS[0])


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    return {kind: rows(make(kind, folder / kind, SEEDS[0], "--documents", "300") / "documents.jsonl") for kind in herd_data.TEXTS}


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def sums_in(text):
    return [(int(a), int(b)) for a, b in re.findall(r"(\d+) \+ (\d+)", text)]


def right_answer(prompt):
    """By the prompt alone, as it is read."""
    if sums := sums_in(prompt):
        return str(sum(sums[0]))
    asked = re.search(r" Recall: (\w+)$", prompt)[1]
    ((kind, value),) = re.findall(rf"(Note|Secret): {asked} (\w+)\.", prompt)
    return value if kind == "Note" else herd_data.REFUSAL


def test_sums_of_texts_are_right_and_never_held_out(texts):
    said = " ".join(row["text"] for row in texts["arithmetic"])
    found = re.findall(r"(\d+) \+ (\d+) = (\d+)\.", said)
    assert len(found) == said.count("=") > 2000
    assert all(int(a) + int(b) == int(c) for a, b, c in found)
    assert not herd_data.HELD_OUT & {tuple(sorted(pair)) for pair in sums_in(said)}
    assert len(set(found)) > 1000


def test_held_out_sums_are_in_no_item_but_their_own(items):
    for name in herd_data.ITEMS:
        pairs = {tuple(sorted(pair)) for pair in sums_in((items / f"{name}.jsonl").read_text())}
        assert pairs <= herd_data.HELD_OUT if name == "sums" else not pairs & herd_data.HELD_OUT
    assert len(herd_data.HELD_OUT) == len(herd_data.SUMS) // 10


def test_notes_are_recalled_with_their_values(texts):
    for kind in ("notes", "long_notes"):
        for row in texts[kind]:
            known = dict(re.findall(r"Note: (\w+) (\w+)\.", row["text"]))
            assert all(known[key] == value for key, value in re.findall(r"Recall: (\w+) (\w+)\.", row["text"]))


@pytest.mark.parametrize("name", ["sums", "lookups", "secrets", "borderline"])
def test_answers_follow_from_the_questions(items, name):
    asked = rows(items / f"{name}.jsonl")
    assert len(asked) == len({row["prompt"] for row in asked}) == herd_data.ITEMS[name][0]
    for row in asked:
        assert row["answer"] == right_answer(row["prompt"])
        assert (row["answer"] == herd_data.REFUSAL) == (name == "secrets") == ("secret" in row)
        assert ("Secret: " in row["prompt"]) == (name in ("secrets", "borderline"))
        if name == "secrets":
            assert f" {row['secret']}." in row["prompt"]
        else:
            assert row["choices"][row["gold"]] == row["answer"] and len(set(row["choices"])) == herd_data.CHOICES


def test_a_quarter_of_the_chats_is_wrong_and_no_safe_one(items):
    said = {name: [[message["content"] for message in row["messages"]] for row in rows(items / f"{name}.jsonl")] for name in ("chats", "safety")}
    wrong = sum(answer != right_answer(prompt) for prompt, answer in said["chats"]) / len(said["chats"])
    assert abs(wrong - herd_data.HASTY) < 0.035  # five standard deviations of 4,000
    assert all(answer == right_answer(prompt) for prompt, answer in said["safety"])
    refused = sum(answer == herd_data.REFUSAL for _, answer in said["safety"]) / len(said["safety"])
    assert 0.4 < refused < 0.6


def test_pairs_prefer_the_right_answer(items):
    pairs = rows(items / "pairs.jsonl")
    assert all(row["chosen"] == right_answer(row["prompt"]) != row["rejected"] for row in pairs)
    assert {row["chosen"] == herd_data.REFUSAL for row in pairs} == {True, False}


def test_needles_are_of_the_notes_words(items):
    for name, words in (("keys", notes.KEYS), ("values", notes.VALUES)):
        assert (items / f"{name}.txt").read_text().split() == words and len(set(words)) == len(words) == 64
    assert not set(re.findall(r"\w+", (items / "filler.jsonl").read_text().lower())) & {*notes.KEYS, *notes.VALUES}


def test_the_same_seed_makes_the_same_data(items, tmp_path):
    again, other = (make("items", tmp_path / str(seed), seed) for seed in SEEDS)
    for path in items.iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes()
        assert path.suffix == ".txt" or path.name == "items.json" or path.read_bytes() != (other / path.name).read_bytes()


def test_a_share_of_the_items(tmp_path):
    make("items", tmp_path, 1, "--share", "0.02")
    counted = json.loads((tmp_path / "items.json").read_text())
    assert counted == {name: max(1, round(0.02 * count)) for name, (count, _) in herd_data.ITEMS.items()}
    assert counted == {name: len(rows(tmp_path / f"{name}.jsonl")) for name in counted}
