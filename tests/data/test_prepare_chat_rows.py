"""data/prepare_chat.py: bad rows are named and counted, long ones cut or dropped, sources weighted, folders kept whole."""

import contextlib
import json
import os
import pty
import random
import re
import subprocess
import sys

import pytest
from chatprep import (
    CHATML, GOOD, NESTED, PAIR, answer, chat, flagged, goes_on, ids, model_folder, prepare_chat, read, talk, text_of, user,
    words, write_jsonl,
)  # fmt: skip
from chatprep import model, prepare, refused, trained  # noqa: F401  fixtures
from tokenizers import AddedToken, Tokenizer

from llmdata import chat_rows, chat_set, chat_tokens, rows, row_display
from checkout import script


# ---- pairs and ranked answers


def answers_of(folder, row):
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return [tokenizer.decode(ids(part), skip_special_tokens=False) for part in row.answers]


WHOLE = goes_on([user("hi")], answer("good"), answer("bad"))
MORE = [user("and"), answer("b")]
MORE_TEXT = ("<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nand"
             "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nb")  # fmt: skip

ANSWERS_PART_EARLY = {"answers": [[user("1"), answer("a"), *MORE], [user("1"), answer("a"), MORE[0], answer("c")],
                                  [user("1"), answer("other"), *MORE]]}  # fmt: skip


@pytest.mark.parametrize("fields, prompt, answers", [
    (PAIR, "hi", ["good", "bad"]),
    (PAIR | {"edited": "best"}, "hi", ["best", "good", "bad"]),
    (PAIR | {"edited": None}, "hi", ["good", "bad"]),
    ({"prompt": "hi", "answers": ["1", "2"]}, "hi", ["1", "2"]),
    ({"prompt": "hi", "answers": ["1", [answer("2")], "3"]}, "hi", ["1", "2", "3"]),
    ({"prompt": [user("hi")], "chosen": [answer("good")], "rejected": "bad"}, "hi", ["good", "bad"]),
    (WHOLE, "hi", ["good", "bad"]),
    (WHOLE | {"prompt": "hi"}, "hi", ["good", "bad"]),
    (WHOLE | {"prompt": [user("hi")]}, "hi", ["good", "bad"]),
    (ANSWERS_PART_EARLY, "1", ["a" + MORE_TEXT, "a" + MORE_TEXT[:-1] + "c", "other" + MORE_TEXT]),
    (goes_on([user("1"), answer("same"), user("hi")], answer("good"), answer("bad")), "hi", ["good", "bad"]),
    ({name: [*whole, *MORE] for name, whole in WHOLE.items()}, "hi", ["good" + MORE_TEXT, "bad" + MORE_TEXT]),
])  # fmt: skip
def test_ways_to_write_comparisons(tmp_path, model, prepare, fields, prompt, answers):
    write_jsonl(tmp_path / "a.jsonl", fields)
    prepare(tmp_path / "a.jsonl", "--tokenizer", model, "--output", tmp_path / "out", "--val-fraction", 0)
    (row,) = read(tmp_path / "out")
    assert rows.read_header(tmp_path / "out" / "train_000.bin")["kind"] == rows.COMPARISONS
    assert text_of(model, row).endswith(f"{prompt}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n")
    assert answers_of(model, row) == [text + "<|eot_id|>" for text in answers]
    meta = json.loads((tmp_path / "out" / "meta.json").read_text())
    assert (meta["kind"], meta["longest_row"]) == ("comparisons", len(row) - 1 + len(answers))
    assert meta["train_trained_tokens"] == sum(len(flagged(part, 0b10)) for part in row.answers)


# ---- rows left out


DEEP = "[" * 100_000
BAD_ROWS = [
    ("{bad", "malformed", "not JSON"),
    (DEEP, "malformed", "not JSON"),
    ('{"messages": 1' + "0" * 5000 + "}", "malformed", "not JSON"),
    ("[1]", "malformed", "expected an object"),
    ({"text": "x"}, "malformed", 'expected "messages", or "chosen" and "rejected", or "answers"'),
    ({"messages": "hi"}, "malformed", '"messages": expected a list of messages'),
    (chat("hi"), "malformed", '"messages[0]": expected an object with "role" and "content"'),
    (chat({"content": "a"}), "malformed", 'expected a text under "role"'),
    (chat({"role": "user", "content": [1]}), "malformed", 'expected a text under "content"'),
    (chat(user("\ud800"), answer()), "malformed", "half a surrogate pair"),
    (chat(user(), answer() | {"weight": 2}), "malformed", "weight 2, expected 0 or 1"),
    (chat(user(), answer() | {"weight": "\n\x1b[31m"}), "malformed", 'weight "\\n\\u001b[31m", expected 0 or 1'),
    (chat(user(), answer() | {"weight": [1]}), "malformed", "weight a list, expected 0 or 1"),
    (chat(user(), {"role": "assistant", "content": "", "tool_calls": [{"id": 1}]}), "malformed", '"messages[1].tool_calls[0]": expected'),
    (chat(user(), {"role": "bot", "content": "a"}), "unknown_role", '"messages[1]": role "bot", expected one of system, user'),
    (chat({"role": "bot\n\x1b[31m" + "t" * 99, "content": "a"}), "unknown_role", f'role "bot\\n\\u001b[31m{"t" * 31}", expected'),
    (chat(), "empty", '"messages": no message'),
    (chat({"role": "system", "content": ""}), "empty", '"messages": no message'),
    (chat(user(" \n"), answer()), "empty", '"messages[0]": the user says nothing'),
    (chat(user(), answer("")), "empty", '"messages[1]": the assistant says nothing'),
    (chat(user(), user()), "no_assistant_turn", "no assistant's turn"),
    (chat(user(), answer() | {"weight": 0}), "nothing_trained", "no token of it is trained"),
]
BAD_PAIRS = [
    (PAIR | {"rejected": 3}, "malformed", '"rejected": expected a list of messages or a text'),
    ({"prompt": "a", "answers": ["1"]}, "malformed", '"answers": 1, expected a list of 2 or 3'),
    ({"prompt": "a", "answers": list("1234")}, "malformed", '"answers": 4, expected a list of 2 or 3'),
    ({"prompt": "a", "answers": "12"}, "malformed", '"answers": none, expected a list of 2 or 3'),
    ({"chosen": "a", "rejected": "b"}, "malformed", 'no "prompt", and the answers are no whole conversations'),
    (
        {"prompt": "other", "chosen": [user(), answer("a")], "rejected": [user(), answer("b")]},
        "malformed",
        '"prompt": is not in',
    ),
    (
        {"prompt": [user("other")], "chosen": [user(), answer("a")], "rejected": [user(), answer("b")]},
        "malformed",
        '"prompt": is not how',
    ),
    ({"chosen": [user("1"), answer("a")], "rejected": [user("2"), answer("b")]}, "malformed", "no message in common"),
    (PAIR | {"chosen": ""}, "empty", '"chosen[0]": the assistant says nothing'),
    (PAIR | {"prompt": ""}, "empty", '"prompt[0]": the user says nothing'),
    (PAIR | {"rejected": []}, "empty", '"rejected": no message'),
    (PAIR | {"chosen": "bad\n"}, "identical_answers", '"chosen" and "rejected" are the same'),
    ({"prompt": "a", "answers": ["1", "2", "1"]}, "identical_answers", '"answers[0]" and "answers[2]" are the same'),
    (
        {"prompt": [user()], "chosen": [answer("a"), user()], "rejected": "b"},
        "no_assistant_turn",
        '"chosen": expected an assistant\'s turn',
    ),
    (
        {"chosen": [user(), user("a"), answer("c")], "rejected": [user(), user("b"), answer("c")]},
        "no_assistant_turn",
        "expected an assistant's",
    ),
    (PAIR | {"chosen": [answer("a") | {"weight": 0}]}, "nothing_trained", "no token of answer 1 is trained"),
]


@pytest.mark.parametrize(
    "good, bad, reason, message", [(GOOD, *case) for case in BAD_ROWS] + [(PAIR, *case) for case in BAD_PAIRS]
)
def test_rows_left_out(tmp_path, model, prepare, refused, good, bad, reason, message):
    path = write_jsonl(tmp_path / "a.jsonl", good, "", bad, good | {"x": 1})
    arguments = (path, "--tokenizer", model, "--output", tmp_path / "out", "--val-fraction", 0)
    assert f"{path}: line 3: " in refused(*arguments, "--strict")
    assert not (tmp_path / "out").exists()
    _, error = prepare(*arguments)
    listed, total = error.splitlines()
    assert listed.startswith(f"prepare_chat: left out: {path}: line 3: ") and message in listed
    assert total == f"prepare_chat: 1 rows left out: 1 {reason.replace('_', ' ')}"
    assert [(row.source, row.line) for row in read(tmp_path / "out")] == [(0, 1), (0, 4)]
    meta = json.loads((tmp_path / "out" / "meta.json").read_text())
    assert meta["skipped"] == meta["sources"][0]["skipped"] == {reason: 1}
    assert (meta["sources"][0]["rows"], meta["train_rows"]) == (2, 2)
    found = refused(
        write_jsonl(tmp_path / "b.jsonl", good, "{"),
        *arguments[1:-3],
        tmp_path / "o2",
        "--source",
        write_jsonl(tmp_path / "c.jsonl", bad),
        1,
    )
    path = tmp_path / "c.jsonl"
    assert f"{path}: no row can be used: 1 {reason.replace('_', ' ')}; {path}: line 1: " in found and message in found


def test_all_are_counted_and_a_few_named(tmp_path, model, prepare):
    bad = [case[0] for case in BAD_ROWS if case[0] != DEEP]
    write_jsonl(tmp_path / "a.jsonl", GOOD, *bad, GOOD)
    _, error = prepare(tmp_path / "a.jsonl", "--tokenizer", model, "--output", tmp_path / "out", "--val-fraction", 0)
    lines = error.splitlines()
    assert (
        len(lines) == 6
        and f"{len(bad)} rows left out: 13 malformed, 2 unknown role, 4 empty, 1 no assistant turn, 1 nothing trained"
        in lines[5]
    )
    meta = json.loads((tmp_path / "out" / "meta.json").read_text())
    assert sum(meta["skipped"].values()) == len(bad)


def test_rows_that_a_template_refuses(tmp_path, trained, prepare):
    folder = model_folder(tmp_path, trained, NESTED)
    write_jsonl(tmp_path / "a.jsonl", GOOD, chat(user(), user(), answer()))
    _, error = prepare(tmp_path / "a.jsonl", "--tokenizer", folder, "--output", tmp_path / "out", "--val-fraction", 0)
    assert "a.jsonl: line 2: the chat template says: roles must take turns" in error and "1 rows left out: 1 template" in error


def test_what_a_template_says_of_a_message_is_harmless(tmp_path, trained, prepare):
    """Where that is what the message says."""
    says = "{% if 'no' in m.content %}{{ raise_exception('no ' + m.content) }}{% endif %}"
    folder = model_folder(tmp_path, trained, CHATML.replace("%}", "%}" + says, 1))
    write_jsonl(tmp_path / "a.jsonl", GOOD, chat(user("no\n\x1b[31m"), answer()))
    _, error = prepare(tmp_path / "a.jsonl", "--tokenizer", folder, "--output", tmp_path / "out", "--val-fraction", 0)
    assert "a.jsonl: line 2: the chat template says: no no \ufffd[31m\n" in error, error


def test_text_that_would_become_a_token_of_the_template(tmp_path, trained, prepare):
    """A token that is added but not special is one wherever it stands: such rows are left out."""
    folder = model_folder(tmp_path, trained, CHATML.replace("<|im_end|>", "<|stop|>"))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens([AddedToken("<|stop|>", special=False, normalized=False)])
    tokenizer.save(str(folder / "tokenizer.json"))
    write_jsonl(tmp_path / "a.jsonl", GOOD, chat(user("<|stop|>"), answer()))
    _, error = prepare(tmp_path / "a.jsonl", "--tokenizer", folder, "--output", tmp_path / "out", "--val-fraction", 0)
    assert "line 2: message 1 would become a token of the template" in error and "1 special token in text" in error


def test_answers_that_are_the_same_tokens(tmp_path, trained, prepare):
    """The texts differ, but not for this tokenizer, which folds upper and lower case."""
    folder = model_folder(tmp_path, trained, None)
    fields = json.loads((folder / "tokenizer.json").read_text())
    fields["normalizer"] = {"type": "Lowercase"}
    (folder / "tokenizer.json").write_text(json.dumps(fields))
    write_jsonl(tmp_path / "a.jsonl", PAIR, PAIR | {"chosen": "Yes", "rejected": "yes"})
    _, error = prepare(tmp_path / "a.jsonl", "--tokenizer", folder, "--output", tmp_path / "out", "--val-fraction", 0)
    assert 'line 2: "answer 1" and "answer 2" are the same tokens' in error and "1 no difference in tokens" in error


def test_turns_that_never_end_are_refused(tmp_path, trained, refused):
    """Here the template ends only a first turn, which is not trained."""
    template = (
        "{% for m in messages %}<|user|>{{ m.role }}: {{ m.content }}{% if loop.index < 3 %}<|eot_id|>{% endif %}{% endfor %}"
    )
    folder = model_folder(tmp_path, trained, template)
    write_jsonl(tmp_path / "a.jsonl", chat(user(), answer() | {"weight": 0}, user(), answer()))
    error = refused(tmp_path / "a.jsonl", "--tokenizer", folder, "--output", tmp_path / "out", "--val-fraction", 0)
    assert "the token that ends a turn is trained in no row" in error


def write_table(path, contents):
    """A .parquet of conversations in which the user says each of the contents; bytes stand in it as text, whatever they are."""
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    said = [content if isinstance(content, bytes) else content.encode() for content in contents]
    texts = arrow.Array.from_buffers(arrow.string(), len(said), arrow.array(said).buffers())
    roles = arrow.array(["user"] * len(said))
    users = arrow.StructArray.from_arrays([roles, texts], ["role", "content"])
    answers = arrow.StructArray.from_arrays([arrow.array(["assistant"] * len(said)), roles], ["role", "content"])
    both = arrow.concat_arrays([users, answers]).take([n + part * len(said) for n in range(len(said)) for part in (0, 1)])
    talks = arrow.ListArray.from_arrays(list(range(0, 2 * len(said) + 1, 2)), both)
    parquet.write_table(arrow.table({"n": range(len(said)), "messages": talks}), path, compression="snappy",
                        use_dictionary=False, row_group_size=300, data_page_size=1000)  # fmt: skip
    return path


def test_a_row_of_a_table_that_is_not_utf_8_spoils_no_other(tmp_path, model, prepare, refused):
    path = write_table(tmp_path / "a.parquet", [b"\xff" if n in (299, 400) else f"hi {n}" for n in range(600)])
    arguments = (path, "--tokenizer", model, "--output", tmp_path / "out", "--val-fraction", 0)
    assert f'{path}: row 300: "messages": not UTF-8' in refused(*arguments, "--strict")
    _, error = prepare(*arguments)
    assert f"{path}: row 401: " in error and "2 rows left out: 2 malformed" in error
    assert [row.line for row in read(tmp_path / "out")] == [n for n in range(1, 601) if n not in (300, 401)]


def test_a_table_with_days_that_no_calendar_has(tmp_path, model, prepare):
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    table = arrow.Table.from_pylist([GOOD, GOOD])
    days = arrow.array([1, 2**31 - 1], arrow.int32()).cast(arrow.date32())
    parquet.write_table(table.append_column("day\x1b[31m", days), tmp_path / "a.parquet")
    _, error = prepare(tmp_path / "a.parquet", "--tokenizer", model, "--output", tmp_path / "out", "--val-fraction", 0)
    assert 'a.parquet: row 2: "day\\u001b[31m": ' in error and [row.line for row in read(tmp_path / "out")] == [1]


def test_damaged_tables(tmp_path, model, refused):
    """What is told of a page that can't be read is the file, and how far it could."""
    import pyarrow.parquet as parquet

    path = write_table(tmp_path / "a.parquet", [f"{n} {'x' * 60}" for n in range(600)])
    group = parquet.ParquetFile(path).metadata.row_group(1)
    contents = group.column(group.num_columns - 1)
    data, end = bytearray(path.read_bytes()), contents.data_page_offset + contents.total_compressed_size
    data[end - 40 : end] = bytes(40)
    path.write_bytes(data)
    error = refused(path, "--tokenizer", model, "--output", tmp_path / "out", "--val-fraction", 0)
    assert re.fullmatch(rf"prepare_chat: {path}: damaged after row \d+ \(.+\)\n", error), error
    assert 256 <= int(re.search(r"after row (\d+)", error)[1]) < 600


# ---- length


def lengths(folder, prepare, tmp_path, *fields):
    write_jsonl(tmp_path / "measure.jsonl", *fields)
    prepare(
        tmp_path / "measure.jsonl", "--tokenizer", folder, "--output", tmp_path / "measured", "--val-fraction", 0, "--overwrite"
    )
    return [chat_tokens.row_length(row) for row in read(tmp_path / "measured")]


def test_long_conversations(tmp_path, model, prepare, refused):
    messages = talk(3)
    messages[0] = user(words(20))  # so that no limit cuts GOOD too
    one, two, three = lengths(model, prepare, tmp_path, *(chat(*messages[: 2 * n]) for n in (1, 2, 3)))
    path = write_jsonl(tmp_path / "a.jsonl", chat(*messages), GOOD)
    base = (path, "--tokenizer", model, "--output", tmp_path / "out", "--val-fraction", 0, "--overwrite")
    for limit, want in ((three, three), (three - 1, two), (two, two), (two - 1, one), (one, one), (one - 1, one - 1)):
        _, error = prepare(*base, "--max-tokens", limit, "--too-long", "cut")
        assert [len(row.prompt) for row in read(tmp_path / "out")][0] == want
        assert error == ("" if limit == three else f"prepare_chat: 1 rows cut to --max-tokens {limit}\n")
        assert json.loads((tmp_path / "out" / "meta.json").read_text())["cut"] == (limit < three)
    # dropped, or the set refused
    _, error = prepare(*base, "--max-tokens", three - 1)
    assert f"{path}: line 1: {three} tokens, --max-tokens {three - 1}" in error and "1 rows left out: 1 too long" in error
    assert len(read(tmp_path / "out")) == 1
    assert f"{path}: line 1: {three} tokens, --max-tokens {three - 1}" in refused(
        *base, "--max-tokens", three - 1, "--too-long", "refuse"
    )


def test_cut_text_has_no_end_and_a_prompt_alone_is_no_row(tmp_path, model, prepare):
    (whole,) = lengths(model, prepare, tmp_path, chat(user("a"), answer("one two three")))
    long, hopeless = chat(user("a"), answer("one two three")), chat(user("a b c d e f g h i j k l m n o p q r"), answer())
    path = write_jsonl(tmp_path / "a.jsonl", long, hopeless, chat(user("a"), answer("x")))
    prepare(
        path,
        "--tokenizer",
        model,
        "--output",
        tmp_path / "out",
        "--val-fraction",
        0,
        "--max-tokens",
        whole - 2,
        "--too-long",
        "cut",
    )
    found = read(tmp_path / "out")
    assert [row.line for row in found] == [1, 3]
    eot = Tokenizer.from_file(str(model / "tokenizer.json")).token_to_id("<|eot_id|>")
    assert ids(found[0].prompt).count(eot) == 1 and len(found[0].prompt) == whole - 2 and int(found[0].prompt[-1]) >> 30 == 0b10
    meta = json.loads((tmp_path / "out" / "meta.json").read_text())
    assert meta["skipped"] == {"too_long": 1} and meta["cut"] == 1


def test_long_comparisons(tmp_path, model, prepare, refused):
    fields = {"prompt": "a", "answers": ["1 2 3 4 5 6 7 8", "9 8 7 6 5 4 3 2 1 0", "x"]}
    (whole,) = lengths(model, prepare, tmp_path, fields)
    sizes = [len(part) for part in read(tmp_path / "measured")[0].answers]
    base = (
        write_jsonl(tmp_path / "a.jsonl", fields, PAIR),
        "--tokenizer",
        model,
        "--val-fraction",
        0,
        "--output",
        tmp_path / "out",
        "--overwrite",
    )
    assert "tokens, --max-tokens" in refused(*base, "--max-tokens", whole - 1, "--too-long", "refuse")
    prepare(*base, "--max-tokens", whole - 1)
    assert len(read(tmp_path / "out")) == 1
    for less in range(1, sum(sizes) - 6):
        prepare(*base, "--max-tokens", whole - less, "--too-long", "cut")
        row = read(tmp_path / "out")[0]
        found = [len(part) for part in row.answers]
        assert (
            whole - less - 2 < chat_tokens.row_length(row) <= whole - less
        )  # one length for all that are cut: up to one place is left
        longest = max(found)
        assert all(n == size or n == longest for n, size in zip(found, sizes))


# ---- sources


def numbered(path, count, name):
    return write_jsonl(path, *(chat(user(f"{name} {i}"), answer(f"{i}")) for i in range(count)))


def test_weights(tmp_path, model, prepare):
    a, b, c = (numbered(tmp_path / f"{name}.jsonl", 40, name) for name in "abc")
    arguments = (a, "--source", b, 2.5, "--source", c, 0.3, "--tokenizer", model, "--val-fraction", 0.1, "--output")
    times = {}
    for out, seed in (("1", 1), ("2", 1), ("3", 2)):
        prepare(*arguments, tmp_path / out, "--seed", seed)
        times[out] = {}
        for row in read(tmp_path / out):
            times[out][row.source, row.line] = times[out].get((row.source, row.line), 0) + 1
        held = [(row.source, row.line) for row in read(tmp_path / out, "val")]
        assert len(held) == len(set(held)) == 12 and not set(held) & set(times[out])
        meta = json.loads((tmp_path / out / "meta.json").read_text())
        for index, (path, weight) in enumerate(((a, 1), (b, 2.5), (c, 0.3))):
            source, val = meta["sources"][index], sum(place[0] == index for place in held)
            found = [n for (place, _), n in times[out].items() if place == index]
            allowed = [{1}, {2, 3}, {1}][index]
            assert (source["path"], source["weight"], source["rows"], source["val_rows"]) == (str(path), weight, 40, val)
            assert source["train_rows"] == sum(found)
            assert abs(sum(found) - weight * (40 - val)) <= 1 and set(found) <= allowed
    assert (tmp_path / "1" / "train_000.bin").read_bytes() == (tmp_path / "2" / "train_000.bin").read_bytes()
    assert times["1"] == times["2"] != times["3"]


def test_the_seed_chooses_validation_rows_and_the_part_of_a_source(tmp_path, model, prepare):
    chats = numbered(tmp_path / "a.jsonl", 40, "a")
    for arguments, split, count in (((chats, "--val-fraction", 0.25), "val", 10), (("--source", chats, 0.5), "train", 19)):
        lines = {}
        for seed in (1, 2):
            prepare(*arguments, "--tokenizer", model, "--output", tmp_path / "out", "--seed", seed, "--overwrite")
            lines[seed] = [row.line for row in read(tmp_path / "out", split)]
        assert len(lines[1]) == len(lines[2]) == count and lines[1] != lines[2]


def test_folders_and_tables_and_many_processes(tmp_path, model, prepare, monkeypatch):
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    (tmp_path / "in").mkdir()
    numbered(tmp_path / "in" / "a.jsonl", 30, "a")
    values = [json.loads(line) for line in numbered(tmp_path / "b.jsonl", 30, "b").read_text().splitlines()]
    parquet.write_table(
        arrow.Table.from_pylist([value | dict.fromkeys(("tools", "chosen", "rejected")) for value in values]),
        tmp_path / "in" / "b.parquet",
    )
    arguments = ("--tokenizer", model, "--output")
    prepare(tmp_path / "in" / "a.jsonl", tmp_path / "b.jsonl", *arguments, tmp_path / "1")
    prepare(tmp_path / "in", *arguments, tmp_path / "2")
    prepare(tmp_path / "in" / "b.parquet", *arguments, tmp_path / "table")  # whose kind is not known from elsewhere
    monkeypatch.setattr(chat_set, "SMALL", 0)
    monkeypatch.setattr(chat_set, "TASK_BYTES", 500)
    prepare(tmp_path / "in", *arguments, tmp_path / "3", "--workers", 2)
    for name in ("train_000.bin", "val_000.bin"):
        assert (
            (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes() == (tmp_path / "3" / name).read_bytes()
        )


def test_files_of_a_size(tmp_path, model, prepare):
    numbered(tmp_path / "a.jsonl", 200, "a")
    prepare(tmp_path / "a.jsonl", "--tokenizer", model, "--output", tmp_path / "out", "--shard-tokens", 1024)
    meta = json.loads((tmp_path / "out" / "meta.json").read_text())
    assert len(meta["train_shards"]) > 2 and (meta["train_rows"], meta["val_rows"]) == (190, 10)
    found = read(tmp_path / "out")
    assert meta["train_tokens"] == sum(map(len, found)) and meta["longest_row"] >= max(map(len, found))
    assert meta["train_trained_tokens"] == sum(int((row.prompt >> 31).sum()) for row in found)
    assert len({row.line for row in found + read(tmp_path / "out", "val")}) == 200


@pytest.mark.parametrize("change, message", [
    (lambda a: a.write_text(""), "no row in it, expected"),
    (lambda a: a.write_text("\n"), "no row in it, expected"),
    (lambda a: a.unlink(), "no such file or folder"),
    (lambda a: write_jsonl(a, GOOD, PAIR), "a.jsonl: line 2: comparisons, expected conversations: one set holds one kind"),
    (lambda a: write_jsonl(a, PAIR, GOOD), "a.jsonl: line 2: conversations, expected comparisons: one set holds one kind"),
    (lambda a: write_jsonl(a, "{", GOOD | PAIR), 'a.jsonl: line 2: has "messages" and answers to compare: say by --kind'),
    (lambda a: write_jsonl(a, {"text": "a"}), "a.jsonl: no row in it, expected"),
    (lambda a: a.write_bytes(b'{"messages": "\xe9"}\n'), "a.jsonl: line 1: not UTF-8 at byte 14 of the line (if"),
    (lambda a: write_jsonl(a, GOOD), "too few rows to validate with --val-fraction 0.5"),
])  # fmt: skip
def test_sets_that_are_refused(tmp_path, model, refused, change, message):
    change(write_jsonl(tmp_path / "a.jsonl", GOOD))
    seed = next(n for n in range(99) if not prepare_chat.HeldOut(0.5, n).next_is_held_out())
    assert message in refused(
        tmp_path / "a.jsonl", "--tokenizer", model, "--output", tmp_path / "out", "--val-fraction", 0.5, "--seed", seed
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments, message", [
    ((), "no chats: give files or folders"),
    (("a.txt", "--tokenizer", "m"), "a.txt: no such file"),
    (("a.jsonl",), "--tokenizer is missing"),
    (("--source", "a.jsonl", "-1", "--tokenizer", "m"), "--source a.jsonl -1: expected a weight over 0"),
    (("--source", "a.jsonl", "nan", "--tokenizer", "m"), "--source a.jsonl nan: expected a weight over 0"),
    (("a.jsonl", "--tokenizer", "m", "--max-tokens", "1"), "--max-tokens 1: expected 2 to"),
    (("a.jsonl", "--tokenizer", "m", "--val-fraction", "0.6"), "--val-fraction 0.6: expected 0 to 0.5"),
    (("a.jsonl", "--tokenizer", "m", "--system", "\udcff"), '--system: found "\\udcff", expected UTF-8 text'),
    (("a.jsonl", "--tokenizer", "nowhere"), "--tokenizer nowhere: no such folder"),
    (("--show", "1"), "no rows in this folder"),
])  # fmt: skip
def test_options_that_are_refused(tmp_path, monkeypatch, refused, arguments, message):
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "a.jsonl", GOOD)
    assert message in refused(*arguments, "--output", tmp_path / "out")


@pytest.mark.parametrize("source, fraction", [((), 1e-320), (("--source", "a.jsonl", 1e-320), 0)])
def test_parts_so_small_that_nothing_is_in_them(tmp_path, monkeypatch, model, refused, source, fraction):
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "a.jsonl", GOOD)
    error = refused(*(source or ["a.jsonl"]), "--tokenizer", model, "--output", "out", "--val-fraction", fraction)
    assert f"too few rows to {'train' if source else 'validate'} with" in error


@pytest.mark.parametrize("kind", ["conversations", "comparisons"])
def test_rows_of_both_kinds(tmp_path, model, prepare, kind):
    write_jsonl(tmp_path / "a.jsonl", GOOD | PAIR)
    prepare(tmp_path / "a.jsonl", "--tokenizer", model, "--output", tmp_path / "out", "--val-fraction", 0, "--kind", kind)
    assert rows.read_header(tmp_path / "out" / "train_000.bin")["kind"] == {v: k for k, v in chat_rows.KIND_NAMES.items()}[kind]


# ---- the folder


def test_tokenizer_files(tmp_path, model, prepare):
    """The model's own, byte for byte; without a template there, one that transformers then uses."""
    from transformers import AutoTokenizer

    (model / "special_tokens_map.json").write_text('{"bos_token": "<|begin_of_text|>"}')
    write_jsonl(tmp_path / "a.jsonl", GOOD)
    prepare(tmp_path / "a.jsonl", "--tokenizer", model, "--output", tmp_path / "out", "--val-fraction", 0)
    for name in ("tokenizer.json", "special_tokens_map.json"):
        assert (tmp_path / "out" / name).read_bytes() == (model / name).read_bytes()
    theirs = AutoTokenizer.from_pretrained(tmp_path / "out")
    (row,) = read(tmp_path / "out")
    assert theirs.apply_chat_template(GOOD["messages"], return_dict=False) == ids(row.prompt)
    assert theirs.eos_token == "<|eot_id|>"
    header = rows.read_header(tmp_path / "out" / "train_000.bin")
    assert (header["bos_id"], header["end_id"]) == (theirs.bos_token_id, theirs.eos_token_id)
    # the set is itself a folder that says how to prepare more of the kind
    prepare(tmp_path / "a.jsonl", "--tokenizer", tmp_path / "out", "--output", tmp_path / "again", "--val-fraction", 0)
    assert (tmp_path / "again" / "train_000.bin").read_bytes() == (tmp_path / "out" / "train_000.bin").read_bytes()
    assert (tmp_path / "again" / "chat_template.jinja").read_bytes() == (tmp_path / "out" / "chat_template.jinja").read_bytes()


def test_own_templates_are_taken_over(tmp_path, trained, prepare):
    folder = model_folder(tmp_path, trained, None)
    (folder / "chat_template.jinja").write_text(CHATML)
    write_jsonl(tmp_path / "a.jsonl", GOOD)
    prepare(tmp_path / "a.jsonl", "--tokenizer", folder, "--output", tmp_path / "out", "--val-fraction", 0)
    for name in ("tokenizer_config.json", "chat_template.jinja"):
        assert (tmp_path / "out" / name).read_bytes() == (folder / name).read_bytes()
    meta = json.loads((tmp_path / "out" / "meta.json").read_text())
    assert meta["template"] == "chat_template.jinja"


def test_a_tokenizer_that_cuts_is_made_not_to(tmp_path, model, prepare):
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding()
    tokenizer.save(str(model / "tokenizer.json"))
    write_jsonl(tmp_path / "a.jsonl", chat(user("one two three four"), answer("five six seven")))
    prepare(tmp_path / "a.jsonl", "--tokenizer", model, "--output", tmp_path / "out", "--val-fraction", 0)
    (row,) = read(tmp_path / "out")
    assert text_of(model, row).endswith("five six seven<|eot_id|>")


def test_earlier_sets_are_kept_or_replaced(tmp_path, model, prepare, refused):
    out = tmp_path / "out"
    base = (write_jsonl(tmp_path / "a.jsonl", GOOD), "--tokenizer", model, "--output", out, "--val-fraction", 0)
    prepare(*base)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert "already holds" in refused(*base)
    (out / "reference_0123456789abcdef.bin").write_bytes(b"x")
    write_jsonl(tmp_path / "a.jsonl", "{")
    refused(*base, "--overwrite")
    assert {path.name: path.read_bytes() for path in out.iterdir() if "reference" not in path.name} == before
    write_jsonl(tmp_path / "a.jsonl", chat(user("other"), answer()))
    prepare(*base, "--overwrite")
    assert sorted(path.name for path in out.iterdir()) == sorted(before)
    assert (out / "train_000.bin").read_bytes() != before["train_000.bin"]


def test_as_a_program(tmp_path, model):
    write_jsonl(tmp_path / "a.jsonl", GOOD, "{", PAIR)
    command = [
        sys.executable,
        script("prepare_chat"),
        tmp_path / "a.jsonl",
        "--tokenizer",
        model,
        "--output",
        tmp_path / "out",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1) and "line 3: comparisons" in done.stderr
    write_jsonl(tmp_path / "a.jsonl", GOOD, "{")
    done = subprocess.run([*command, "--val-fraction", "0"], capture_output=True, text=True)
    assert done.returncode == 0 and "rows: 1 to train, 0 to validate" in done.stdout and "1 rows left out" in done.stderr


# ---- --show


def test_show(tmp_path, model, prepare):
    write_jsonl(tmp_path / "a.jsonl", chat(user("q"), answer("one\ntwo"), user("r"), answer("three")), GOOD)
    out, _ = prepare(tmp_path / "a.jsonl", "--tokenizer", model, "--output", tmp_path / "out", "--val-fraction", 0, "--show", 1)
    header = "<|start_header_id|>{}<|end_header_id|>"
    title = f"--- row 1, {tmp_path / 'a.jsonl'}: line 1: {len(read(tmp_path / 'out')[0])} tokens, "
    shown = [title, "<|begin_of_text|>" + header.format("user"),
             "", "q<|eot_id|>" + header.format("assistant"), "", "[[one]]", "[[two<|eot_id|>]]" + header.format("user"), "",
             "r<|eot_id|>" + header.format("assistant"), "", "[[three<|eot_id|>]]"]  # fmt: skip
    lines = out.splitlines()[-len(shown) :]
    assert lines[0].startswith(shown[0]) and lines[1:] == shown[1:]
    again, _ = prepare("--output", tmp_path / "out", "--show", 1)
    assert out.endswith(again)
    write_jsonl(tmp_path / "b.jsonl", PAIR)
    out, _ = prepare(
        tmp_path / "b.jsonl", "--tokenizer", model, "--output", tmp_path / "pairs", "--val-fraction", 0, "--show", 5
    )
    assert out.splitlines()[-4:] == [
        "--- answer 1 of 2, 5 tokens",
        "[[good]]<|eot_id|>",
        "--- answer 2 of 2, 4 tokens",
        "[[bad]]<|eot_id|>",
    ]


def read_to_end(master):
    """All that was written to a terminal whose other side is closed: one read may bring a part of it."""
    data = b""
    with open(master, "rb", buffering=0) as file, contextlib.suppress(OSError):  # EIO is the end
        while piece := file.read(1 << 16):
            data += piece
    return data.decode()


def test_show_in_colour_and_harmless(tmp_path, model, prepare):
    """On a terminal. What a text holds of escape codes does nothing there."""
    write_jsonl(tmp_path / "a.jsonl", chat(user("q"), answer("\x1b[31mred")))
    prepare(tmp_path / "a.jsonl", "--tokenizer", model, "--output", tmp_path / "out", "--val-fraction", 0)
    master, slave = pty.openpty()
    command = [sys.executable, script("prepare_chat"), "--output", tmp_path / "out", "--show", "1"]
    done = subprocess.run(command, stdout=slave, stderr=subprocess.PIPE)
    os.close(slave)
    text = read_to_end(master)
    assert done.returncode == 0
    assert f"{row_display.GREEN}\ufffd[31mred{row_display.PLAIN}{row_display.YELLOW}<|eot_id|>{row_display.PLAIN}" in text
    assert f"{row_display.DIM}q{row_display.PLAIN}{row_display.CYAN}<|eot_id|>" in text


def test_wrapping():
    draw = random.Random(random.random())
    alphabet = ["a", "bc", "日本", "\n", " ", "   ", "x" * 50]
    for _ in range(300):
        width = draw.randint(2, 30)
        text = "".join(draw.choices(alphabet, k=draw.randint(0, 40)))
        pieces = [("", word) for word in re.findall(r"\n|[^\S\n]+|\S+", text)]
        lines = ["".join(word for _, word in line) for line in row_display.wrap(pieces, width)]
        assert all(row_display.columns(line) <= width for line in lines)
        assert "".join("".join(lines).split()) == "".join(text.split())
        assert len(lines) >= text.rstrip("\n").count("\n")
