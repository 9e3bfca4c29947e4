"""Verbatim memorisation: which passages are drawn from shards, how often they stand there, and what counts as the same."""

import json
from collections import Counter

import numpy as np
import pytest
from llmdata.errors import InputError
from llmdata.shards import ShardWriter
from llmdata.tokenizer import open_tokenizer
from seeds import seed_of
from serving import parrot_model, random_model
from suites import evaluate, only, suite
from trainrun import BOS, EOS, write_tokenizer

from llmeval import memorisation
from llmeval.client import Answer
from llmeval.memorisation import occurrences
from llmeval.suite import read_suite

SAID = "fine day!"  # what the parrot says again and again
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def write_shards(folder, documents, shard_tokens=400):
    """Documents of single bytes, each between begin and end."""
    folder.mkdir(exist_ok=True)
    sha256 = write_tokenizer(folder)
    tokenizer = open_tokenizer(folder)
    writer = ShardWriter(folder, "train", 258, BOS, EOS, sha256, shard_tokens)
    for text in documents:
        writer.write(np.array([BOS, *tokenizer.encode(text, add_special_tokens=False).ids, EOS]))
    writer.finish()


def test_occurrences(monkeypatch):
    monkeypatch.setattr(memorisation, "BLOCK", 64)
    draw = np.random.default_rng(seed_of("memorisation"))
    shards = [draw.integers(0, 3, size).astype(np.uint16) for size in (1000, 7, 400)]
    for length in (1, 2, 3, 7, 8, 11):
        passages = np.array([shards[0][at : at + length] for at in draw.integers(0, 900, 20)] + [[5] * length])
        every = Counter(tuple(shard[at : at + length].tolist()) for shard in shards for at in range(len(shard) - length + 1))
        assert occurrences(shards, passages).tolist() == [every[tuple(passage.tolist())] for passage in passages]


@pytest.fixture
def shards(tmp_path):
    draw = np.random.default_rng(seed_of("memorisation"))
    others = ["".join(draw.choice(list(LETTERS), 60)) for _ in range(10)]
    write_shards(tmp_path / "shards", [SAID * 12, *others, others[0], "é" * 40])
    return tmp_path, others


SETTINGS = {"kind": "memorisation", "shards": ["shards/train_*.bin"], "lengths": [4, 12], "continuation": 8, "passages": 80}


def test_passages(shards):
    place, others = shards
    task = only(place, **SETTINGS)
    documents = [SAID * 12, *others, others[0], "é" * 40]
    assert len(list((place / "shards").glob("train_*.bin"))) > 1 and len(task.items) > 100
    for item in task.items:
        whole = item.request.prompt + item.row["continuation"]
        assert len(item.request.prompt.encode()) == item.row["length"] and len(item.row["continuation"].encode()) == 8
        times = sum(document.startswith(whole, at) for document in documents for at in range(len(document)))
        assert item.row["times"] == times > 0
    assert {item.row["times"] for item in task.items} >= {1, 2}
    assert [item.key for item in task.items] == [item.key for item in only(place, **SETTINGS).items]


def test_judged(shards):
    task = only(shards[0], **SETTINGS)
    item = next(item for item in task.items if item.row["times"] == 2)
    right = item.row["continuation"]
    short, other = right[:5], "X" + right[1:]
    said = [(right, "length"), (right + "x", "stop"), (other, "length"), (short, "stop"), (short, "length")]
    scores = [task.kind.judge(item, [Answer(text, finish)]) for text, finish in said]
    assert [score.value for score in scores] == [1, 1, 0, 0, None] and "shorter" in scores[-1].note
    group = f"{item.row['length']} tokens of prompt"
    assert scores[0].parts == {group: 1, f"{group}, stands 2 to 9 times": 1}


def test_as_a_program(shards):
    """The parrot knows one document by heart, the other model none."""
    place, _ = shards
    parrot_model(place / "parrot", SAID, ends=False)
    random_model(place / "random")
    suite(place, {"name": "memory", **SETTINGS})
    code, _, err = evaluate(place, place / "out", models=("parrot", "random"))
    assert code == 0, err
    (task,) = json.loads((place / "out/results.json").read_text())["tasks"]
    parrot, random = (task["models"][name] for name in ("parrot", "random"))
    kept = [json.loads(line) for line in (place / "out/items/memory/parrot.jsonl").read_text().splitlines()[1:]]
    by_heart = sum(row["answers"][0]["text"] in SAID * 4 and row["score"] for row in kept)
    assert 0 < parrot["score"] == by_heart / len(kept) and random["score"] == 0
    often, once = (parrot["parts"][f"12 tokens of prompt, stands {times}"] for times in ("2 to 9 times", "once"))
    assert often > once == 0


BAD = {
    "no shard": ({"shards": ["none_*.bin"]}, "none_*.bin"),
    "not a shard": ({"shards": ["suite.json"]}, "expected a header"),
    "no tokenizer": ({"tokenizer": "."}, "tokenizer"),
    "documents too short": ({"lengths": [500]}, "no document in"),
    "length 0": ({"lengths": [0]}, "lengths.0"),
}


@pytest.mark.parametrize("settings, word", BAD.values(), ids=BAD)
def test_refused(shards, settings, word):
    with pytest.raises(InputError) as error:
        read_suite(suite(shards[0], {"name": "t", **SETTINGS, **settings}))
    assert word in str(error.value)
