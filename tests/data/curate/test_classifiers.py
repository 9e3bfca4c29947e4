"""data/train_quality.py, and the steps that use its models."""

import json
import subprocess
import sys
from argparse import Namespace
from random import Random

import numpy as np
import planted_text as texts
import pytest
import steprun
from checkout import script
from curate.classifier import Classifier, to_features
from curate.quality import Quality, Reasoning, Topic
from llmdata.errors import InputError
from planted_web import write_rows
from seeds import seed_of
from steprun import document
from train_quality import Split, area, rates

TOPICS = list(texts.TOPICS)[:3]


def train(*arguments):
    command = [sys.executable, script("train_quality"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


def articles(random, count, **kind):
    return [{"text": "\n".join(texts.article(random, **kind))} for _ in range(count)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Examples, and a model of each kind."""
    random, path = Random(seed_of("classifiers")), tmp_path_factory.mktemp("classifiers")
    (path / "good").mkdir()
    write_rows(path / "good/one.jsonl", articles(random, 60))
    (path / "good/two.txt").write_text(articles(random, 1)[0]["text"])
    crowd = articles(random, 60, crowd=True)
    write_rows(path / "crowd.jsonl", crowd + crowd[:7])
    write_rows(path / "code.jsonl", [{"text": texts.code(random)} for _ in range(60)])
    write_rows(path / "topics.jsonl", [{"label": f"about {topic}", **row} for topic in TOPICS for row in articles(random, 40, topic=topic)])
    made = [("quality", "--good", path / "good", "--crowd", path / "crowd.jsonl"), ("topic", "--labelled", path / "topics.jsonl", "--epochs", 150),
            ("reasoning", "--good", path / "code.jsonl", "--crowd", path / "crowd.jsonl", "--features", "code")]  # fmt: skip
    for name, *arguments in made:
        done = train("--held-out", 0.2, "--epochs", 40, *arguments, "--output", path / f"{name}.bin")
        assert done.returncode == 0, done.stderr
        (path / f"{name}.out").write_text(done.stdout)
    return path


def test_what_is_printed_and_kept(folder):
    said, settings = (folder / "quality.out").read_text(), json.loads((folder / "quality.json").read_text())
    assert settings["labels"] == {"good": 61, "crowd": 60} and settings["copies_left_out"] == 7 and settings["features"] == "words"
    found = settings["held_out"]
    assert found["documents"] == 12 + 12 and f"AUC good {found['auc']['good']:.4f}" in said and "7 copies" in said
    assert found["auc"]["good"] > 0.95 and found["thresholds"]["0.5"]["precision"] > 0.9 and found["thresholds"]["0.5"]["recall"] > 0.9
    assert set(json.loads((folder / "topic.json").read_text())["held_out"]["labels"]) == {f"about {topic}" for topic in TOPICS}


def test_the_same_input_gives_the_same_model(folder):
    arguments = ["--good", folder / "good", "--crowd", folder / "crowd.jsonl", "--held-out", 0.2, "--epochs", 40,
                 "--output", folder / "again.bin"]  # fmt: skip
    assert train(*arguments).returncode == 0
    assert (folder / "again.bin").read_bytes() == (folder / "quality.bin").read_bytes()
    assert train(*arguments, "--overwrite", "--seed", 2).returncode == 0
    assert (folder / "again.bin").read_bytes() != (folder / "quality.bin").read_bytes()


def test_labels_are_mixed(folder, tmp_path):
    """fastText learns in the order of the lines."""
    given = Namespace(labelled=[str(folder / "topics.jsonl")], good=None, crowd=None, features="words", held_out=0.2, seed=1)
    Split(given, tmp_path / "lines")
    labels = [line.split(" ")[0] for line in (tmp_path / "lines").read_text().splitlines()]
    assert len(labels) == 96 and sum(one != other for one, other in zip(labels, labels[1:])) > 30


def test_area_under_the_curve():
    random = np.random.default_rng(seed_of("area"))
    scores, right = random.integers(0, 20, 300) / 20, random.random(300) < 0.3
    pairs = np.sign(scores[right][:, None] - scores[~right][None, :])
    assert area(scores, right) == pytest.approx((pairs + 1).mean() / 2)
    assert rates(scores >= 0.5, right) == {
        "precision": round(float(right[scores >= 0.5].mean()), 4), "recall": round(float((scores[right] >= 0.5).mean()), 4),
        "kept": round(float((scores >= 0.5).mean()), 4)}  # fmt: skip


def new_documents(name, **kinds):
    random = Random(seed_of(name))
    return [document(row["text"], f"{kind}{n}") for kind, more in kinds.items() for n, row in enumerate(articles(random, 30, **more))]


def test_quality(folder, tmp_path):
    made = new_documents("quality", good={}, crowd={"crowd": True})
    kept, counts = steprun.run(Quality, [made], tmp_path, model=str(folder / "quality.bin"))
    names = [each.id for each in kept[0]]
    assert sum(name.startswith("idgood") for name in names) >= 28 and sum(name.startswith("idcrowd") for name in names) <= 2
    assert set(counts.reasons) == {"unlike the good examples"} and sum(counts.counters.values()) == 60
    assert all(each.metadata["quality"] >= 0.5 for each in kept[0]) and all(item["value"] < 0.5 for item in counts.dropped.items)
    kept, _ = steprun.run(Quality, [made], tmp_path, model=str(folder / "quality.bin"), least=None)
    assert len(kept[0]) == 60
    score = Classifier(folder / "quality.bin").scores(made[0].text)["good"]
    kept, _ = steprun.run(Quality, [made[:1]], tmp_path, model=str(folder / "quality.bin"), least=score)
    assert len(kept[0]) == 1, "as much is enough"


def test_code_and_reasoning_are_noted_by_default(folder, tmp_path):
    random = Random(seed_of("reasoning"))
    made = [document(texts.code(random), n) for n in range(20)] + new_documents("prose", crowd={"crowd": True})
    kept, _ = steprun.run(Reasoning, [made], tmp_path, model=str(folder / "reasoning.bin"))
    scores = [each.metadata["reasoning"] for each in kept[0]]
    assert len(scores) == 50 and min(scores[:20]) > max(scores[20:])
    assert to_features("if x1:\n\treturn_y()", "code") == "if x 0 : \u23ce1 return _ y ( )"


def test_topics_and_their_shares(folder, tmp_path):
    made = new_documents("topics", **{topic: {"topic": topic} for topic in TOPICS})
    kept, counts = steprun.run(Topic, [made], tmp_path, model=str(folder / "topic.bin"))
    assert sum(each.id.startswith(f"id{each.metadata['topic'].removeprefix('about ')}") for each in kept[0]) >= 80
    assert sum(value for name, value in counts.counters.items() if name.startswith("topic/")) == 90
    topic = f"about {TOPICS[0]}"
    kept, counts = steprun.run(Topic, [made], tmp_path, model=str(folder / "topic.bin"), keep={topic: 0.4})
    left = [each.metadata["topic"] for each in kept[0]].count(topic)
    assert 2 <= left <= 24 and counts.reasons == {f"too much of {topic}": 90 - len(kept[0])} and counts.counters[f"topic/{topic}"] == left


@pytest.mark.parametrize("arguments, message", [
    ([], "expected both --good and --crowd, or else --labelled"), (["--good", "crowd.jsonl"], "expected both"),
    (["--labelled", "crowd.jsonl"], 'crowd.jsonl: line 1: expected an object with texts under "label" and "text"'),
    (["--good", "crowd.jsonl", "--crowd", "none.jsonl"], "none.jsonl: no such file"),
    (["--good", "crowd.jsonl", "--crowd", "crowd.jsonl"], "only the label good, expected at least two"),
    (["--good", "good/two.txt", "--crowd", "crowd.jsonl"], "label good: 1 different documents"),
    (["--good", "good", "--crowd", "crowd.jsonl", "--held-out", "0.9"], "--held-out 0.9: expected 0.01 to 0.5"),
    (["--good", "good", "--crowd", "crowd.jsonl", "--output", "quality.bin"], "quality.bin: already there"),
    (["--good", "good", "--crowd", "crowd.jsonl", "--output", "new.model"], "expected a name that ends in .bin"),
])  # fmt: skip
def test_bad_input_is_refused(folder, monkeypatch, arguments, message):
    monkeypatch.chdir(folder)
    before = sorted(folder.rglob("*"))
    done = train(*arguments, *([] if "--output" in arguments else ["--output", "new.bin"]))
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert sorted(folder.rglob("*")) == before


def test_bad_models_are_refused(folder, tmp_path):
    (tmp_path / "alone.bin").write_bytes((folder / "quality.bin").read_bytes())
    (tmp_path / "other.bin").write_bytes(b"")
    (tmp_path / "other.json").write_text('{"features": "pictures"}')
    for name, message in (("none.bin", "no such file"), ("alone.bin", "alone.json: no such file"), ("other.bin", 'expected "features"')):
        with pytest.raises(InputError, match=message):
            Classifier(tmp_path / name)
    with pytest.raises(InputError, match="steps.quality: label best is none of the model's, expected one of crowd, good"):
        steprun.run(Quality, [[]], tmp_path, model=str(folder / "quality.bin"), label="best")
    with pytest.raises(InputError, match="label sports is none"):
        steprun.run(Topic, [[]], tmp_path, model=str(folder / "topic.bin"), keep={"sports": 0.5})
