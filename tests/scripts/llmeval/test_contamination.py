"""Items that stand in the shards of a training set, and what scores are without them."""

import hashlib
import json
import random

import numpy as np
import pytest
from evaluation import WORDS, make_tokenizer
from llmdata.errors import InputError
from llmdata.shards import ShardWriter
from suites import suite, write

from llmeval import contamination, report
from llmeval.run import Result
from llmeval.suite import read_suite
from llmeval.task import Score

QUESTIONS = 12


def sentence(count=14):
    return " ".join(random.choice(WORDS) + random.choice("abcdefgh") for _ in range(count))


@pytest.fixture
def place(tmp_path):
    """Twelve questions. The shards have 0 whole, 1 in other writing, 2 but for its last two words, half of 3, and 4 in
    two documents."""
    made = make_tokenizer(tmp_path)
    made.save(tmp_path)
    questions = [sentence() for _ in range(QUESTIONS)]
    rows = [{"question": question, "answer": "yes"} for question in questions]
    write(tmp_path / "q.jsonl", [*rows, {"question": "Too short?", "answer": "no"}])
    pieces = [q.split() for q in questions]
    documents = [f"{sentence(40)}. {questions[0]} yes {sentence(5)}", questions[1].upper().replace(" ", ", "),
                 " ".join(pieces[2][:12]), " ".join(pieces[3][:8]) + " " + sentence(30), " ".join(pieces[4][:9]),
                 " ".join([*pieces[4][-8:], "yes"])]  # fmt: skip
    ids = [[made.bos, *encoding.ids] for encoding in made.tokenizer.encode_batch(documents, add_special_tokens=False)]
    sha256 = hashlib.sha256((tmp_path / "tokenizer.json").read_bytes()).digest()
    writer = ShardWriter(tmp_path, "train", made.vocab_size, made.bos, made.eos, sha256, 10**6)
    writer.write(np.concatenate(ids).astype(np.int64))
    writer.finish()
    return tmp_path


def searched(place, **settings):
    task = {"name": "t", "kind": "generate", "file": "q.jsonl", "prompt": "Question: {question}", "extract": "all"}
    path = suite(place, task)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"contamination": {"shards": ["train_*.bin"], **settings}}))
    tasks = read_suite(path)
    return tasks, contamination.search(path, tasks)


@pytest.mark.parametrize("share, found", [(0.5, {0, 1, 2, 3, 4}), (0.7, {0, 1, 2, 4}), (0.9, {0, 4})])
def test_found(place, share, found):
    """Of an item's 16 words, with its prompt's first one and its answer, these lie in runs that stand there: 15, 14, 12, 8,
    and 15 in two documents together."""
    (task,), keys = searched(place, share=share)
    assert {n for n, item in enumerate(task.items) if item.key in keys["t"]} == found


def test_scores_without(place):
    (task,), trained = searched(place)
    scores = {item.key: Score(float(item.key in trained["t"]), "") for item in task.items}
    found = report.collect(["m"], [task], [Result(task, "m", scores)], trained)
    row = found["tasks"][0]["contamination"]
    assert row["items"] == len(trained["t"]) > 0
    assert row["models"]["m"]["others"]["score"] == 0 and row["models"]["m"]["found"]["score"] == 1
    assert row["models"]["m"]["others"]["items"] == len(task.items) - row["items"]
    assert "Contamination" in report.page(found, "x") and "Contamination" not in report.page(
        report.collect(["m"], [task], [Result(task, "m", scores)]), "x")  # fmt: skip


def test_pieces_share_tokens(place, monkeypatch):
    """A run of eight words is found wherever a long document is cut."""
    monkeypatch.setattr(contamination, "PIECE", 16)
    assert searched(place)[1] == {"t": {item.key for n, item in enumerate(searched(place)[0][0].items) if n < 5}}


BAD = [({"shards": ["none_*.bin"]}, "none_*.bin: no such file"), ({"share": 2}, "share: found 2"),
       ({"tokenizer": "other"}, "another tokenizer"), ({"n": 8}, '"n" is not known')]  # fmt: skip


@pytest.mark.parametrize("settings, words", BAD)
def test_refused(place, settings, words):
    (place / "other").mkdir()
    (place / "other/tokenizer.json").write_text((place / "tokenizer.json").read_text() + " ")
    with pytest.raises(InputError) as error:
        searched(place, **settings)
    assert words in str(error.value)
