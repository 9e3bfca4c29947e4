"""Evaluation files: read back as written; damaged and hostile ones refused with what was expected; bad rows named."""

import ctypes
import json
import struct

import numpy as np
import pytest

import evaluation
import hostlib
from evaluation import file_bytes, prepare, write_rows

pytestmark = pytest.mark.checked
library = hostlib.library


def open_set(path):
    """EvalSet *, or (code, message)"""
    opened, error = ctypes.POINTER(evaluation.EvalSet)(), hostlib.Error()
    code = library.evalset_open(ctypes.byref(opened), hostlib.path_bytes(path), ctypes.byref(error))
    return (code, error.message.decode()) if code else opened


def random_items(rng, count, documents=False):
    def tokens(most):
        return rng.integers(0, 1000, rng.integers(1, most)).tolist()

    items = []
    for _ in range(count):
        endings = [(tokens(20), int(rng.integers(1, 90)), int(rng.integers(1, 90))) for _ in range(1 if documents else rng.integers(1, 6))]
        items.append((tokens(2 if documents else 30), endings, int(rng.integers(0, len(endings)))))
    return items


@pytest.mark.parametrize("kind", [1, 2])
def test_reads_back(tmp_path, kind):
    rng = hostlib.fresh_random()
    items = random_items(rng, 40, documents=kind == 2)
    path = tmp_path / "a.eval"
    path.write_bytes(file_bytes(items, kind))
    opened = open_set(path)
    found = opened.contents
    assert (found.kind, found.vocab_size, found.num_items, bytes(found.tokenizer_sha256)) == (kind, 1000, 40, bytes(range(32)))
    tokens = found.tokens[: found.num_tokens]
    for item, (context, endings, label) in zip(found.items[: found.num_items], items):
        assert tokens[item.context : item.context + item.context_tokens] == context and item.label == label
        theirs = found.endings[item.first_ending : item.first_ending + item.num_endings]
        assert [(tokens[e.tokens : e.tokens + e.num_tokens], e.characters, e.bytes) for e in theirs] == endings
    library.evalset_close(opened)


ITEMS = [([5, 6], [([7], 1, 1), ([8, 9], 3, 4)], 1), ([1], [([2], 1, 1), ([3], 1, 1)], 0)]
GOOD = file_bytes(ITEMS)
ENTRY = 256 + 2 * 16  # of the first ending


def test_needles_read_back(tmp_path):
    """Depths in any order, some of them again."""
    rng = hostlib.fresh_random()
    depths = rng.permutation(np.repeat(rng.choice(10001, evaluation.MAX_DEPTHS, replace=False), 2)).tolist()
    path = tmp_path / "a.eval"
    path.write_bytes(file_bytes([(*ITEMS[0], depth) for depth in depths], kind=3))
    found = open_set(path)
    of = found.contents
    assert (of.kind, of.length) == (3, 5) and [item.depth for item in of.items[: of.num_items]] == depths
    assert of.depths[: of.num_depths] == sorted(set(depths))
    library.evalset_close(found)


def patched(at, value, form="<I"):
    return GOOD[:at] + struct.pack(form, value) + GOOD[at + struct.calcsize(form) :]


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", ["0 bytes", "256"]),
        (GOOD[:200], ["200 bytes", "256"]),
        (GOOD[:256], ["2 items, 4 endings and 8 tokens", "0 bytes"]),
        (GOOD[:-1], ["truncated"]),
        (GOOD + b"\0\0\0\0", ["8 tokens", "expected what fills"]),
        (file_bytes(ITEMS, magic=b"L3SHARD\0"), ["magic 4c335348", "L3EVALS"]),
        (file_bytes(ITEMS, version=2), ["version is 2", "expected 1"]),
        (file_bytes(ITEMS, byte_order=0x04030201), ["byte order", "0x04030201", "big endian"]),
        (patched(100, 1), ["header byte 100 is 1"]),
        (file_bytes(ITEMS, kind=4), ["kind is 4", "1 (multiple choice)", "2 (documents)", "3 (needles)"]),
        (file_bytes(ITEMS, kind=2), ["item 0", "context tokens is 2", "expected 1"]),
        (file_bytes(ITEMS, vocab=0), ["vocabulary size is 0"]),
        (file_bytes(ITEMS, vocab=2**31), ["vocabulary size is 2147483648"]),
        (file_bytes(ITEMS, vocab=9), ["token 4 has id 9", "vocabulary size 9"]),
        (file_bytes([]), ["number of items is 0"]),
        (file_bytes(ITEMS, counts=(2**60, 4, 8)), [2**60, "expected what fills"]),
        (file_bytes(ITEMS, counts=(2**64 - 1, 2**64 - 1, 2**64 - 1)), [2**64 - 1, "expected what fills"]),
        (patched(276, 1), ["items take 3 endings and 7 tokens", "header's 4 and 8"]),
        (patched(256, 0), ["item 0", "context tokens is 0"]),
        (patched(256, 9), ["item 0", "context tokens is 9", "left"]),
        (patched(256, 2**32 - 1), ["item 0", "context tokens is 4294967295"]),
        (patched(260, 0), ["item 0", "endings is 0"]),
        (patched(260, 5), ["item 0", "endings is 5", "left"]),
        (patched(264, 2), ["item 0", "label is 2"]),
        (patched(268, 1), ["item 0", "last field is 1"]),
        (patched(ENTRY, 0), ["ending 0", "tokens is 0"]),
        (patched(ENTRY, 7), ["ending 0", "tokens is 7", "left"]),
        (patched(ENTRY, 2**32 - 1), ["ending 0", "tokens is 4294967295"]),
        (patched(ENTRY + 4, 0), ["ending 0", "characters is 0"]),
        (patched(ENTRY + 8, 0), ["ending 0", "bytes is 0"]),
        (patched(ENTRY + 12, 3), ["ending 0", "last field is 3"]),
        (patched(ENTRY + 48, 2), ["ending 3", "tokens is 2", "left"]),
        (file_bytes(ITEMS, kind=3), ["item 1 has 3 tokens", "expected 5, as item 0"]),
        (file_bytes([(*ITEMS[0], 10000), (*ITEMS[0], 10001)], kind=3), ["item 1", "depth is 10001", "0 to 10000"]),
        (file_bytes([(*ITEMS[0], depth) for depth in range(evaluation.MAX_DEPTHS + 1)], kind=3), ["more than 128 different depths"]),
    ],
)  # fmt: skip
def test_refused(tmp_path, content, words):
    path = tmp_path / "bad.eval"
    path.write_bytes(content)
    code, message = open_set(path)
    assert code == 2 and message.startswith(f"{path}: "), message
    for word in words:
        assert str(word) in message, (word, message)


def test_any_flipped_byte_is_harmless(tmp_path):
    """Whatever a byte becomes, the reader refuses the file or gives items that lie inside it."""
    rng = hostlib.fresh_random()
    path = tmp_path / "flipped.eval"
    for _ in range(400):
        content = bytearray(GOOD)
        for _ in range(rng.integers(1, 4)):
            content[rng.integers(16, len(content))] = rng.choice([0, 1, 2, 4, 127, 255])
        path.write_bytes(content[: len(content) - rng.integers(0, 2) * rng.integers(0, 20)])
        opened = open_set(path)
        if isinstance(opened, tuple):
            assert opened[0] == 2
            continue
        found = opened.contents
        for item in found.items[: found.num_items]:
            assert 0 <= item.context and item.context + item.context_tokens <= found.num_tokens and 0 <= item.label < item.num_endings
            assert item.first_ending + item.num_endings <= found.num_endings
        assert all(e.tokens + e.num_tokens <= found.num_tokens for e in found.endings[: found.num_endings])
        library.evalset_close(opened)


def test_missing_file(tmp_path):
    assert open_set(tmp_path / "none.eval")[0] == 2
    assert open_set(tmp_path)[0] == 2


# ---- prepare_eval.py


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    evaluation.make_tokenizer(folder)
    return folder


GOOD_ROW = {"ctx": "the cat", "endings": ["sat", "ran"], "label": 0}
QUESTION = {"question": "which?", "choices": ["this", "that"], "answer": 1}


@pytest.mark.parametrize(
    "row, words",
    [
        (b"{", ["not JSON"]),
        (b"\xff{}", ["not UTF-8 at byte 0"]),
        (b"[" * 100000, ["not JSON"]),
        ([1], ["expected an object"]),
        (GOOD_ROW | {"label": 2}, ["label is 2", "0 to 1"]),
        (GOOD_ROW | {"label": -1}, ["label is -1"]),
        (GOOD_ROW | {"label": "2"}, ['label is "2"']),
        (GOOD_ROW | {"label": "C"}, ['label is "C"']),
        (GOOD_ROW | {"label": ""}, ['label is ""']),
        (GOOD_ROW | {"label": True}, ["'label' is true", "index"]),
        (GOOD_ROW | {"label": 0.0}, ["'label' is 0.0", "index"]),
        (GOOD_ROW | {"endings": ["one"]}, ["at least two"]),
        (GOOD_ROW | {"endings": ["one", ""]}, ["none empty"]),
        (GOOD_ROW | {"endings": ["one", 2]}, ["at least two texts"]),
        (GOOD_ROW | {"endings": "one"}, ["'endings' is \"one\"", "list"]),
        (GOOD_ROW | {"ctx": 3}, ["'ctx' is 3", "a text"]),
        (GOOD_ROW | {"ctx": "\ud800"}, ["'ctx'", "surrogate"]),
        ({"ctx": "a", "endings": ["b", "c"]}, ["no field 'label'"]),
        ({"endings": ["b", "c"], "label": 0}, ["no field 'ctx' or 'query' or 'context'"]),
    ],
)  # fmt: skip
def test_bad_row(tmp_path, tokenizer, row, words):
    lines = [json.dumps(GOOD_ROW).encode(), b"", row if isinstance(row, bytes) else json.dumps(row).encode()]
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join(lines))
    said = prepare(tmp_path / "rows.jsonl", "--tokenizer", tokenizer, "--output", tmp_path / "out.eval", code=2)
    assert said.startswith(f"prepare_eval: {tmp_path}/rows.jsonl: line 3: ") and said.count("\n") == 1, said
    for word in words:
        assert word in said, (word, said)
    assert not (tmp_path / "out.eval").exists()


def test_bad_usage(tmp_path, tokenizer):
    rows = write_rows(tmp_path / "rows.jsonl", [QUESTION])
    ok = [rows, "--tokenizer", tokenizer, "--output", tmp_path / "out.eval"]
    empty = write_rows(tmp_path / "empty.jsonl", [])
    assert "no items" in prepare(empty, *ok[1:], code=2)
    assert "few-shot 3: only 1 examples" in prepare(*ok, "--few-shot", 3, "--few-shot-file", rows, code=2)
    assert "--few-shot -1" in prepare(*ok, "--few-shot", -1, code=2)
    assert "no field 'where'" in prepare(*ok, "--context-field", "where", code=2)
    assert "No such file" in prepare(tmp_path / "none.jsonl", *ok[1:], code=2)
    assert "no such file" in prepare(rows, "--tokenizer", tmp_path / "t.json", *ok[3:], code=2)
    documents = write_rows(tmp_path / "documents.jsonl", [{"text": "a"}, {"text": ""}])
    assert "line 2: the text is empty" in prepare(documents, *ok[1:], code=2)
    assert "--few-shot: documents have none" in prepare(documents, *ok[1:], "--few-shot", 1, code=2)
    assert not (tmp_path / "out.eval").exists()
    assert "1 items of kind question" in prepare(*ok)
    before = (tmp_path / "out.eval").read_bytes()
    assert "already there" in prepare(*ok, "--limit", 1, code=2)
    assert (tmp_path / "out.eval").read_bytes() == before
    prepare(*ok, "--overwrite")


def decoded(tokenizer, path):
    """Items as text: (context, [endings], label), by tokens."""
    from tokenizers import Tokenizer

    made, opened = Tokenizer.from_file(str(tokenizer / "tokenizer.json")), open_set(path)
    of, found = opened.contents, []
    tokens = of.tokens[: of.num_tokens]
    for item in of.items[: of.num_items]:
        endings = [tokens[e.tokens : e.tokens + e.num_tokens] for e in of.endings[item.first_ending : item.first_ending + item.num_endings]]
        context = tokens[item.context : item.context + item.context_tokens]
        found.append((made.decode(context, skip_special_tokens=False), [made.decode(e) for e in endings], item.label))
    library.evalset_close(opened)
    return found


BOS = "<|begin_of_text|>"


def test_prompts(tmp_path, tokenizer):
    """White space at the context's end counts with the ending; letters and own field names; text stays text."""
    out = tmp_path / "out.eval"

    def items(rows, *options):
        prepare(write_rows(tmp_path / "rows.jsonl", rows), "--tokenizer", tokenizer, "--output", out, "--overwrite", *options)
        return decoded(tokenizer, out)

    assert items([GOOD_ROW | {"ctx": "the cat \n"}]) == [(BOS + "the cat", [" \n sat", " \n ran"], 0)]
    assert items([GOOD_ROW | {"ctx": ""}]) == [(BOS, [" sat", " ran"], 0)]
    assert items([GOOD_ROW | {"ctx": BOS + "the"}]) == [(BOS + BOS + "the", [" sat", " ran"], 0)]
    assert items([QUESTION | {"answer": "B"}], "--description", "D. ") == [(BOS + "D. which?\nA. this\nB. that\nAnswer:", [" A", " B"], 1)]
    renamed = {"c": "the", "e": ["x", "y"], "l": "1"}
    fields = ["--context-field", "c", "--endings-field", "e", "--label-field", "l"]
    assert items([renamed], *fields) == [(BOS + "the", [" x", " y"], 1)]
    shots = items([QUESTION, GOOD_ROW | QUESTION], "--few-shot", 1, "--few-shot-file", tmp_path / "rows.jsonl")
    block = "which?\nA. this\nB. that\nAnswer:"
    assert shots == [(f"{BOS}{block} B\n\n{block}", [" A", " B"], 1)] * 2
    assert items([{"text": "the cat"}]) == [(BOS, ["the cat"], 0)]


def test_hellaswag_rows_as_lm_eval_cleans_them(tmp_path, tokenizer):
    tasks = pytest.importorskip("lm_eval.tasks.hellaswag.utils")
    row = {"activity_label": "Baking  cakes", "ctx_a": " [header] How to bake [title] Mix.", "ctx_b": "the Cook",
           "endings": [" stirs [step] it. ", "runs  off [title] and on"], "label": "1"}  # fmt: skip
    datasets = pytest.importorskip("datasets")
    (expected,) = tasks.process_docs(datasets.Dataset.from_list([row]))
    prepare(write_rows(tmp_path / "rows.jsonl", [row]), "--tokenizer", tokenizer, "--output", tmp_path / "out.eval")
    ((context, endings, label),) = decoded(tokenizer, tmp_path / "out.eval")
    assert (context + endings[0], context + endings[1], label) == (
        *(BOS + expected["query"] + " " + choice for choice in expected["choices"]), expected["gold"])  # fmt: skip
