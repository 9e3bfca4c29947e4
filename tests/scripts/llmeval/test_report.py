"""The report: which examples it shows, hostile texts, and how it fits a screen."""

import browser
import pytest
from htmlpages import HOSTILE, Structure
from suites import gsm8k, only, write

from llmeval import report
from llmeval.run import Result
from llmeval.task import Score

MODELS = ["base <b>", "tuned", "a model with a name that is longer than any other's"]


def found_of(folder, right, text="It is 7."):
    """The report's data: right[model] has the numbers of the items that the model gets right."""
    task = only(folder, kind="generate", file=write(folder / "q.jsonl", gsm8k(12)))
    results = []
    for model, numbers in zip(MODELS, right):
        scores = {item.key: Score(float(number in numbers), text) for number, item in enumerate(task.items)}
        results.append(Result(task, model, scores, {item.key: text for item in task.items}))
    return report.collect(MODELS, [task], results), task


def test_examples(tmp_path):
    found, task = found_of(tmp_path, ([0, 1, 2], [0, 1, 2, 5, 6], [0, 5]))
    examples = found["tasks"][0]["examples"]
    assert [example["place"] for example in examples] == [task.items[n].place for n in (0, 1, 3, 5, 6)]
    assert examples[1]["right"] == task.items[1].row["target"] and examples[1]["asked"] == task.items[1].request.prompt
    assert [answer["score"] for answer in examples[1]["answers"].values()] == [1, 1, 0]


def test_hostile_texts(tmp_path):
    found, _ = found_of(tmp_path, ([0], [1], [2]), HOSTILE + "x" * 10_000)
    page = Structure(report.page(found, f"Evaluation: {HOSTILE}"))
    assert not page.wrong and not {"script", "img"} & set(page.seen)
    assert not any(name.startswith("on") for name, _ in page.attributes)
    whole = report.page(found, HOSTILE)
    assert "\u202e" not in whole and "\x00" not in whole and whole.encode()
    assert "x" * report.MOST_TEXT not in whole


@browser.is_there
def test_fits_a_screen(tmp_path):
    found, _ = found_of(tmp_path, ([0, 1, 2], range(12), [5]), "word " * 100 + "w" * 300)
    (tmp_path / "report.html").write_text(report.page(found, "Evaluation: suite"))
    browser.check_page(tmp_path / "report.html")
