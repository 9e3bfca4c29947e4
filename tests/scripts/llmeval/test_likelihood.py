"""Multiple choice, perplexity and needles of a suite: lm-eval's scores and the trainer's own, item by item."""

import hashlib
import json

import llmc
import numpy as np
import pytest
from evaluation import Evaluation, completions, questions, run_task, text, write_rows
from hostlib import fresh_random
from lmeval import COMPLETION, MMLU, PERPLEXITY, Place, T, lm_task, run_lm_eval, write_needles
from serving import Served
from suites import only, suite

from llmeval.asking import Asking, Model
from llmeval.client import Client
from llmeval.likelihood import Likely
from llmeval.run import evaluate
from llmeval.suite import read_suite
from llmeval.task import Score

pytestmark = pytest.mark.skipif("fp32" not in llmc.build_folders(), reason="no fp32 build under test: agreement is of fp32")
TOLERANCE = 2e-3  # as of lm-eval with transformers, in tests/eval
CONTEXT = T + 2  # lm-eval asks for one token more than it scores, the trainer scores one more than its rows have


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = Place(tmp_path_factory.mktemp("likelihood"))
    place.reference.save_pretrained(place.folder)
    with Served(place.folder / "log", {"m": place.folder}, "--threads", 1, "--context", CONTEXT) as place.server:
        place.client = Client(place.server.url, 4)
        yield place
        place.client.close()


def asking(place, context=CONTEXT):
    return Asking(place.client, "m", served=Model("m", place.folder, context, False))


def asked(place, name="task", **settings):
    """(the task, its result, the answers in the order of its items)"""
    (task,) = read_suite(suite(place.folder, {"name": name, **settings}))
    folder = place.folder / "items" / name
    result = evaluate(asking(place), "weights", task, folder)
    rows = {row["key"]: row for row in map(json.loads, (folder / "m.jsonl").read_text().splitlines()[1:])}
    return task, result, [rows[item.key] for item in task.items if item.key in rows]


def trained(place, path):
    """The trainer's log-likelihoods by item, and its measures."""
    opened = Evaluation(place.lib, path, T)
    return opened.by_item(opened.score(place.model())), run_task(place.lib, place.model(), path)


def by_lm_eval(place, task):
    arguments = {"model": "m", "base_url": f"{place.server.url}v1/completions", "tokenizer_backend": "huggingface",
                 "tokenizer": str(place.folder), "add_bos_token": True, "max_length": CONTEXT, "num_concurrent": 4}  # fmt: skip
    results, samples = run_lm_eval(place, [task], model="local-completions", model_args=arguments)
    return results[task["task"]], sorted(samples[task["task"]], key=lambda sample: sample["doc_id"])


def lengths_of(row, kind):
    return [1] * len(row["choices"]) if kind == "questions" else list(map(len, row["endings"]))


@pytest.mark.parametrize("kind", ["completions", "questions"])
def test_choices(place, kind):
    """Contexts longer than the model's too; solved examples drawn as lm-eval draws them."""
    if kind == "completions":
        rows, options, settings, theirs = completions(30) + completions(6, 150), [], {}, COMPLETION
        task = lm_task(kind, place.folder / f"{kind}.jsonl", **theirs)
    else:
        rows, shots = questions(20), write_rows(place.folder / "dev.jsonl", questions(5))
        options = ["--few-shot", 2, "--few-shot-seed", 1234, "--few-shot-file", shots, "--description", MMLU["description"]]
        settings = {"few_shot": 2, "few_shot_seed": 1234, "few_shot_file": "dev.jsonl", "description": MMLU["description"]}
        task = lm_task(kind, place.folder / f"{kind}.jsonl", shots, **MMLU, num_fewshot=2)
    likelihoods, measured = trained(place, place.file(kind, rows, *options))
    _, result, answers = asked(place, kind, kind="choices", file=f"{kind}.jsonl", **settings)
    theirs, samples = by_lm_eval(place, task)
    assert len(answers) == len(rows) == len(samples)
    for ours, answer, sample, row in zip(likelihoods, answers, samples, rows):
        np.testing.assert_allclose([a["loglikelihood"] for a in answer["answers"]], ours, atol=TOLERANCE)
        assert (answer["score"], answer["parts"]["acc_norm"]) == (sample["acc"], sample["acc_norm"])
        label = row.get("label", row.get("answer"))
        assert answer["score"] == (np.argmax(ours) == label)
        assert answer["parts"]["acc_norm"] == (np.argmax(ours / np.array(lengths_of(row, kind))) == label)
    summary = result.summary()
    assert summary["score"] == pytest.approx(measured["acc"], rel=1e-9) == pytest.approx(theirs["acc,none"], rel=1e-9)
    for name in ("acc_norm", "acc_bytes"):
        assert summary["parts"][name] == pytest.approx(measured[name], rel=1e-9), name


@pytest.mark.parametrize("label, right", [(0, (1, 0, 1)), (1, (0, 1, 0)), (2, (0, 0, 0))])
def test_sizes_of_endings(tmp_path, label, right):
    """-1, -0.8 and -1 for a character, -0.5, -0.8 and -1 for a byte: without the blank before an ending."""
    rows = [{"ctx": "It is", "endings": ["é", "abc", "abcd"], "label": label}]
    write_rows(tmp_path / "q.jsonl", rows)
    task = only(tmp_path, kind="choices", file="q.jsonl")
    score = task.kind.judge(task.items[0], [Likely(value, False) for value in (-1, -2.4, -4)])
    assert (score.value, score.parts["acc_norm"], score.parts["acc_bytes"]) == right
    scores = [Score(value, parts={f"subject: {name}": value}) for value, name in ((1, "law"), (0, "law"), (0, "art"))]
    assert task.kind.total(scores)[2]["mean of subjects"] == 0.25


def test_subjects_and_rows_without_an_answer(place):
    rows = [row | {"subject": subject} for row, subject in zip(questions(9), ["law"] * 6 + ["art"] * 3)]
    write_rows(place.folder / "subjects.jsonl", [*rows, {**rows[0], "answer": None, "question": "?"}, rows[1]])
    task, result, answers = asked(place, "subjects", kind="choices", file="subjects.jsonl")
    summary, scores = result.summary(), [answer["score"] for answer in answers]
    assert task.duplicates == 1 and summary["items"] == 9 and summary["not_counted"] == {"no right answer in the row": 1}
    law, art = np.mean(scores[:6]), np.mean(scores[6:])
    assert summary["parts"]["subject: law"] == pytest.approx(law)
    assert summary["parts"]["mean of subjects"] == pytest.approx((law + art) / 2)


def test_perplexity(place):
    rows = [{"text": text(n) + "  é \n"} for n in (1, 30, 200, 7)]
    likelihoods, measured = trained(place, place.file("documents", rows))
    _, result, answers = asked(place, "documents", kind="perplexity", file="documents.jsonl")
    theirs, _ = by_lm_eval(place, lm_task("documents", place.folder / "documents.jsonl", **PERPLEXITY))
    found = [answer["answers"][0]["loglikelihood"] for answer in answers]
    np.testing.assert_allclose(found, np.concatenate(likelihoods), rtol=1e-5)
    summary = result.summary()
    for ours, key in ((summary["score"], "bits_per_byte"), (summary["parts"]["byte perplexity"], "byte_perplexity"),
                      (summary["parts"]["word perplexity"], "word_perplexity")):  # fmt: skip
        assert ours == pytest.approx(measured[key], rel=1e-4) and ours == pytest.approx(theirs[f"{key},none"], rel=1e-6), key
    assert 0 < summary["interval"] < summary["score"]


def test_needles(place):
    sha = hashlib.sha256((place.folder / "tokenizer.json").read_bytes()).digest()
    path, items, exact = write_needles(place, fresh_random(), sha=sha)
    likelihoods, measured = trained(place, path)
    task, result, answers = asked(place, "needles", kind="needle", file=path.name)
    assert [answer["score"] for answer in answers] == list(map(float, exact))
    best = [np.argmax(found) == item[2] for found, item in zip(likelihoods, items)]
    assert [answer["parts"]["acc"] for answer in answers] == best
    summary = result.summary()
    assert summary["score"] == pytest.approx(measured["exact_match"])
    assert summary["parts"]["acc"] == pytest.approx(measured["acc"])
    for depth, _, share, _ in measured["cells"]:
        assert summary["parts"][f"depth {depth:>5g} %"] == pytest.approx(share)
    short = asking(place, 42)
    (number, refused), *others = task.kind.ask_all(short, task.items[:1])
    assert number == 0 and "tokens, expected less than" in str(refused) and not others
    assert task.kind.unfit(short.served) == ""
    (place.folder / "other").mkdir()
    (place.folder / "other/tokenizer.json").write_text("{}")
    assert "its tokenizer is not that of" in task.kind.unfit(Model("m", place.folder / "other", 42, False))


def test_goes_on(place):
    """What is kept is not asked again."""
    rows = completions(10)
    write_rows(place.folder / "again.jsonl", rows)
    _, first, _ = asked(place, "again", kind="choices", file="again.jsonl")
    kept = place.folder / "items/again/m.jsonl"
    lines = kept.read_text().splitlines()
    kept.write_text("\n".join(lines[:5]) + "\n")
    _, second, _ = asked(place, "again", kind="choices", file="again.jsonl")
    assert second.summary() == first.summary() and kept.read_text().splitlines()[:5] == lines[:5]
    assert sorted(kept.read_text().splitlines()) == sorted(lines)
