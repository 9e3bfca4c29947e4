"""Instructions that a program checks: scores are lm-eval's, and rows that its checks cannot judge are named."""

import json

import pytest
from llmdata.errors import InputError
from suites import only, write

from llmeval.client import Answer

ROWS = [
    {"key": 1, "prompt": "Say something without commas, in two sentences.",
     "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_sentences"],
     "kwargs": [{}, {"num_sentences": 2, "relation": "at least"}]},
    {"key": 2, "prompt": "Answer in lower case.", "instruction_id_list": ["change_case:english_lowercase"], "kwargs": [{}]},
]  # fmt: skip
ANSWERS = [["Fine. It has none.", "One, two. Three."], ["Sure:\nthis is a small text about a small animal"]]


def test_scores(tmp_path):
    """Strict and loose, by prompt and by instruction, as lm-eval counts them."""
    from lm_eval.tasks.ifeval.utils import agg_inst_level_acc, process_results

    task = only(tmp_path, kind="instructions", file=write(tmp_path / "if.jsonl", ROWS))
    assert [item.request.messages[0]["content"] for item in task.items] == [row["prompt"] for row in ROWS] and task.kind.chats
    first, wrong = (task.kind.judge(task.items[0], [Answer(text, "stop")]) for text in ANSWERS[0])
    second = task.kind.judge(task.items[1], [Answer(ANSWERS[1][0], "stop")])
    assert (first.value, wrong.value, second.value) == (1, 0, 0) and second.parts["prompts, loose"] == 1
    for chosen, texts in (([first, second], [ANSWERS[0][0], ANSWERS[1][0]]), ([wrong, second], [ANSWERS[0][1], ANSWERS[1][0]])):
        theirs = [process_results(row, [text]) for row, text in zip(ROWS, texts)]
        score, _, measures = task.kind.total(chosen)
        assert score == pytest.approx(sum(each["prompt_level_strict_acc"] for each in theirs) / 2)
        for name in ("strict", "loose"):
            expected = agg_inst_level_acc([each[f"inst_level_{name}_acc"] for each in theirs])
            assert measures[f"instructions, {name}"] == pytest.approx(expected), name
        assert "count" not in measures


BAD = {
    "another checker": ({"instruction_id_list": ["count:keywords_multiple"]}, "count:keywords_multiple is none of IFEval's 25"),
    "too few arguments": ({"kwargs": []}, '"kwargs", an object for each instruction'),
    "unknown argument": ({"kwargs": [{"words": 3}]}, '"kwargs": TypeError'),
    "no prompt": ({"prompt": None}, '"prompt": found NoneType, expected a text'),
}


@pytest.mark.parametrize("change, words", BAD.values(), ids=BAD)
def test_refused(tmp_path, change, words):
    file = write(tmp_path / "if.jsonl", [ROWS[1], ROWS[1] | change])
    with pytest.raises(InputError) as error:
        only(tmp_path, kind="instructions", file=file)
    assert words in str(error.value) and "if.jsonl" in str(error.value) and "2" in str(error.value)


def test_rows_without_instructions(tmp_path):
    rows = [ROWS[1], {"prompt": "Write.", "instruction_id_list": []}, ROWS[1]]
    task = only(tmp_path, kind="instructions", file=write(tmp_path / "if.jsonl", rows))
    assert [item.fault for item in task.items] == ["", "no instructions in the row"] and task.duplicates == 1
    assert json.dumps(task.items[0].row)
