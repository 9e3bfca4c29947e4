"""Overlap with evaluation items, made by prepare_eval.py as a user does."""

import json
import subprocess
import sys
from random import Random

import numpy as np
import planted_text as texts
import pytest
import steprun
from checkout import script
from curate.decontaminate import Decontaminate
from llmdata import eval_set, overlap
from llmdata import tokenizer as tokenizers
from llmdata.errors import InputError
from llmdata.overlap import Index
from llmdata.words import hash_words
from planted_web import write_rows
from seeds import seed_of
from steprun import document

DESCRIPTION = "The following are questions about boxes and pens, each with four choices, of which one is right.\n\n"


def prepare_eval(*arguments):
    subprocess.run([sys.executable, script("prepare_eval"), *map(str, arguments)], check=True, capture_output=True, timeout=600)


def make_tokenizer(random, folder):
    folder.mkdir()
    tokenizers.train(("\n".join(texts.article(random)) for _ in range(50)), 600).save(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    random, path = Random(seed_of("items")), tmp_path_factory.mktemp("items")
    make_tokenizer(random, path / "tokenizer")
    make_tokenizer(random, path / "other")
    questions = [texts.question(random) for _ in range(30)]
    (path / "questions.json").write_text(json.dumps(questions))
    write_rows(path / "rows.jsonl", [{"question": text, "choices": ["1", "2", "3", "4"], "answer": 2} for text in questions])
    write_rows(path / "documents.jsonl", [{"text": "\n".join(texts.article(random))} for _ in range(3)] + [{"text": "too short"}])
    make = ["--tokenizer", path / "tokenizer", "--output"]
    prepare_eval(path / "rows.jsonl", *make, path / "asked.eval", "--few-shot", 2, "--description", DESCRIPTION)
    prepare_eval(path / "documents.jsonl", *make, path / "read.eval")
    return path


def judged(folder, documents, tmp_path, **more):
    given = {"items": [str(folder / "asked.eval"), str(folder / "read.eval")], "tokenizer": str(folder / "tokenizer")} | more
    return steprun.run(Decontaminate, [documents], tmp_path, **given)


def prose(random):
    return "\n".join(texts.article(random))


def test_leaked_items_are_found_and_named(folder, tmp_path):
    random, questions = Random(seed_of("leaked")), json.loads((folder / "questions.json").read_text())
    long_page = "\n".join([prose(random), prose(random), questions[7].upper().replace(" ", "  "), prose(random)])
    read = json.loads((folder / "documents.jsonl").read_text().splitlines()[1])["text"]
    made = [document(long_page, 0), document(f"{questions[3]}\n{questions[4]}", 1), document(read[: 2 * len(read) // 3], 2)]
    kept, counts = judged(folder, made, tmp_path)
    assert not kept[0]
    assert sorted(counts.reasons) == ["of asked.eval, item 7", "of the document, as in asked.eval, item 3", "of the document, as in read.eval, item 1"]
    assert counts.counters == {"items of fewer than 8 words, which cannot be found": 1}
    assert all(item["value"] >= item["threshold"] == 0.5 for item in counts.dropped.items)


def test_what_is_no_leak_stays(folder, tmp_path):
    """Other numbers, a part of an item, and what all items have in common."""
    random, questions = Random(seed_of("no leak")), json.loads((folder / "questions.json").read_text())
    others = [" ".join(str(random.randint(11, 99999)) if word.isdigit() else word for word in text.split(" ")) for text in questions]
    part = " ".join(questions[9].split(" ")[:10])
    made = [document(others[n] + prose(random), n) for n in range(30)]
    made += [document(f"{prose(random)}\n{part}.\n{prose(random)}", 30), document(f"{prose(random)}\n{DESCRIPTION}{prose(random)}", 31)]
    made += [document("seven words are fewer than a run", 32), document("", 33)]
    kept, counts = judged(folder, made, tmp_path)
    assert len(kept[0]) == len(made)
    value = {item["id"]: item["value"] for item in counts.kept.items}
    assert 0.2 < value.pop("id30") < 0.5 and max(value.values()) < 0.1  # sentences of a few words are in many articles
    kept, _ = judged(folder, made, tmp_path, share=0.15)
    assert [each.id for each in made if each not in kept[0]] == ["id30"]
    kept, _ = judged(folder, [document(questions[9])], tmp_path, share=1.0)
    assert not kept[0], "as much is enough"


def test_shares_by_brute_force(monkeypatch):
    random = Random(seed_of("shares"))
    monkeypatch.setattr(overlap, "COMMON", 3)
    words = [f"w{n}" for n in range(4)]
    items = [" ".join(random.choice(words) for _ in range(random.randint(5, 40))) for _ in range(30)]
    index = Index([(str(n), hash_words(text)) for n, text in enumerate(items)])

    def runs(text):
        parts = text.split(" ")
        return [tuple(parts[at : at + 8]) for at in range(len(parts) - 7)]

    def covered(found, wanted):
        return len({at + k for at, run in enumerate(found) if run in wanted for k in range(8)})

    owned = {run: sum(run in runs(text) for text in items) for text in items for run in runs(text)}
    own = {run for run, count in owned.items() if count <= 3}
    assert index.short == sum(not runs(text) for text in items)
    for _ in range(200):
        text = " ".join(random.choice(words) for _ in range(random.randint(5, 200)))
        mine = set(runs(text)) & own
        shares = [covered(runs(item), mine) / (covered(runs(item), own) or 1) for item in items]
        assert index.overlap(hash_words(text))[0] == pytest.approx(max([*shares, covered(runs(text), own) / len(text.split(" "))]))


def test_bad_files_are_refused(folder, tmp_path):
    whole = (folder / "asked.eval").read_bytes()
    counted_wrong = bytearray(whole)
    counted_wrong[256 + 4] = 200  # endings of the first item
    for name, content, message in (("cut", whole[:-3], "expected version 1 of"), ("text", b"words", "no evaluation items"),
                                   ("counts", bytes(counted_wrong), "prepare it anew")):  # fmt: skip
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=message):
            judged(folder, [], tmp_path, items=[str(tmp_path / name)])
    with pytest.raises(InputError, match="none.eval: No such file"):
        judged(folder, [], tmp_path, items=["none.eval"])
    with pytest.raises(InputError, match="made with another tokenizer"):
        judged(folder, [], tmp_path, tokenizer=str(folder / "other"))


def test_items_are_read_as_they_were_written(tmp_path):
    random = np.random.default_rng(seed_of("read"))
    items = [eval_set.Item(random.integers(0, 99, 5).tolist(), [eval_set.Ending([n, 2], 3, 4) for n in range(k + 1)], k, 7) for k in range(4)]
    eval_set.write(tmp_path / "x.eval", eval_set.CHOICE, items, 99, bytes(range(32)))
    found, sha256 = eval_set.read(tmp_path / "x.eval")
    assert sha256 == bytes(range(32))
    assert [eval_set.Item(item.context.tolist(), item.endings, item.label, item.depth) for item in found] == items
