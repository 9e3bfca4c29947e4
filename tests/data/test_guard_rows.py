"""data/prepare_chat.py on labelled conversations: rows that teach a guard what to answer to serve.py and evaluate.py."""

import pytest
from chatprep import answer, flagged, read, text_of, user, write_jsonl
from chatprep import model, prepare, trained  # noqa: F401  fixtures
from tokenizers import Tokenizer

from llmdata import guard, rows
from llmdata.bad_row import BadRow
from llmdata.chat_rows import kinds_of, read_row


HEADER = "<|start_header_id|>{}<|end_header_id|>\n\n"
QUESTION = HEADER.format("user") + "{}<|eot_id|>" + HEADER.format("assistant") + "{}<|eot_id|>"
ROWS = [
    ({"prompt": "Do it?", "answer": "No.", "unsafe": False}, "User: Do it?\n\nAssistant: No.", "safe"),
    ({"prompt": "Do it?", "unsafe": False, "categories": ["S1"]}, "User: Do it?", "safe"),
    ({"prompt": "Do it?", "answer": "Yes.", "unsafe": True}, "User: Do it?\n\nAssistant: Yes.", "unsafe"),
    ({"prompt": [user("Hi"), answer("Ho"), user("Do it?")], "unsafe": True, "categories": ["S1", "S9"]},
     "User: Hi\n\nAssistant: Ho\n\nUser: Do it?", "unsafe\nS1,S9"),
]  # fmt: skip


@pytest.mark.parametrize("row, said, verdict", ROWS)
def test_rows(tmp_path, model, prepare, row, said, verdict):
    write_jsonl(tmp_path / "a.jsonl", row)
    prepare(tmp_path / "a.jsonl", "--tokenizer", model, "--output", tmp_path / "out", "--val-fraction", 0)
    (made,) = read(tmp_path / "out")
    assert text_of(model, made).endswith(QUESTION.format(guard.PROMPT + said, verdict))
    trained = flagged(made.prompt, 0b10)
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    assert tokenizer.decode(trained, skip_special_tokens=False) == verdict
    assert guard.is_unsafe(verdict) is row["unsafe"]


BAD = [
    ({"prompt": "p", "unsafe": "yes"}, '"unsafe": "yes", expected true or false'),
    ({"prompt": "p", "unsafe": True, "categories": "S1"}, '"categories": "S1", expected a list of texts'),
    ({"prompt": "p", "unsafe": True, "categories": [1]}, '"categories": a list, expected a list of texts'),
    ({"prompt": " ", "unsafe": True}, '"prompt[0]": the user says nothing'),
    ({"prompt": "p", "answer": "", "unsafe": True}, '"answer[0]": the assistant says nothing'),
]


@pytest.mark.parametrize("row, word", BAD)
def test_bad_rows(row, word):
    (kind,) = kinds_of(row)
    with pytest.raises(BadRow) as bad:
        read_row(row, kind, None)
    assert word in str(bad.value)


def test_labels_of_other_rows_say_nothing():
    """Sets of preferences and conversations may have the field, too."""
    assert kinds_of({"prompt": "p", "chosen": "a", "rejected": "b", "unsafe": True}) == [rows.COMPARISONS]
    talk = {"messages": [user("a"), answer("b")], "prompt": "p", "unsafe": True}
    assert read_row(talk, rows.CONVERSATIONS, None).messages == talk["messages"]
