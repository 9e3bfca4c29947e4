"""Needles in a haystack: texts of an exact length with the answer at its depth, and scores that agree with the decoder's."""

import ctypes
import random
import re
import struct
from types import SimpleNamespace

import numpy as np
import pytest

import llmc
from evaluation import Evaluation, file_bytes, make_tokenizer, prepare, run_task, text, write_rows
from hostlib import fresh_random
from lmeval import FIELDS, T, Place, greedy, write_needles
from llmdata import needles
from llmdata import tokenizer as tokenizers

needs_fp32 = pytest.mark.skipif("fp32" not in llmc.build_folders(), reason="no fp32 build under test: agreement is of fp32")


# ---- what prepare_eval.py makes


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    make_tokenizer(folder)
    rows = [{"text": "".join(f"{text(random.randrange(3, 15)).capitalize()}{random.choice('.!?')} " for _ in range(20))} for _ in range(40)]
    write_rows(folder / "texts.jsonl", rows)
    return folder


def read(path):
    """The file's items, by our own reading of its format: context, endings, label, depth."""
    content = path.read_bytes()
    kind, vocab, items, endings, tokens = struct.unpack_from("<IIQQQ", content, 16)
    entries = np.frombuffer(content, "<u4", 4 * (items + endings), 256).reshape(-1, 4)
    ids = np.frombuffer(content, "<u4", tokens, 256 + 16 * (items + endings)).tolist()
    at, ending, found = 0, items, []
    for context, count, label, depth in entries[:items].tolist():
        item = SimpleNamespace(context=ids[at : at + context], endings=[], label=label, depth=depth)
        at += context
        for length in entries[ending : ending + count, 0].tolist():
            item.endings.append(ids[at : at + length])
            at += length
        ending += count
        found.append(item)
    assert at == tokens and ending == items + endings
    return kind, found


def make(folder, *options, name="needle", lengths="700", code=0):
    said = prepare(folder / "texts.jsonl", "--needle-lengths", lengths, "--tokenizer", folder, "--output", folder / f"{name}.eval",
                   "--overwrite", *options, code=code)  # fmt: skip
    return said if code else folder


def test_made(texts):
    """Of exactly the length, the question's key with the right ending at its depth, the wrong endings those of other keys."""
    make(texts, "--needle-depths", 5, "--needle-trials", 3, lengths="700,1500")
    tokenizer = tokenizers.read(texts / "tokenizer.json")
    for length in (700, 1500):
        kind, items = read(texts / f"needle_{length}.eval")
        assert kind == 3 and [item.depth for item in items] == [d for d in (0, 2500, 5000, 7500, 10000) for _ in range(3)]
        for item in items:
            assert len(item.context) + sum(map(len, item.endings)) == length
            written, endings = tokenizer.decode(item.context), [tokenizer.decode(ending).strip() for ending in item.endings]
            planted = {key: value for key, value in re.findall(r"The secret number of the (\w+ \w+) is (\d{7})\.", written)}
            asked = re.search(r"\n\nWhat is the secret number of the (\w+ \w+)\? The secret number of the \1 is$", written)
            assert len(planted) == len(set(endings)) == 4 and sorted(planted.values()) == sorted(endings)
            assert planted[asked[1]] == endings[item.label]
            found = len(tokenizer.encode(written[: written.index(endings[item.label])], add_special_tokens=False).ids)
            # a sentence of 15 words and its needles are below 200 tokens of this tokenizer, which knows few words
            assert abs(found - item.depth / 10000 * length) < 200
        assert len({item.label for item in items}) > 1


def test_seeded(texts, tmp_path):
    contents = []
    for seed in (1, 1, 2):
        make(texts, "--needle-seed", seed, "--needle-depths", 2)
        contents.append((texts / "needle_700.eval").read_bytes())
    assert contents[0] == contents[1] != contents[2]
    make(texts, "--needle-depths", 2, lengths="650,700")
    assert (texts / "needle_700.eval").read_bytes() == contents[0]  # whatever other lengths are made with it


def test_own_words(texts):
    for name in ("keys", "values"):
        (texts / name).write_text("".join(f"{name} {i}\n\n" for i in range(3)))
    options = ["--needle-keys", texts / "keys", "--needle-values", texts / "values", "--needle-sentence", "Note {key}: {value}!",
               "--needle-question", " Recall {key}:", "--needle-distractors", 2]  # fmt: skip
    make(texts, *options, "--needle-depths", 1, lengths="400")
    tokenizer = tokenizers.read(texts / "tokenizer.json")
    for item in read(texts / "needle_400.eval")[1]:
        written = tokenizer.decode(item.context)
        key = re.search(r" Recall (keys \d):$", written)[1]
        assert f"Note {key}:{tokenizer.decode(item.endings[item.label])}!" in written and item.depth == 5000
        assert written.count(" Note keys ") == 3
    said = make(texts, *options[:-1], 3, code=2)
    assert "3 different lines, expected at least 4" in said and said.count("\n") == 1


@pytest.mark.parametrize("options, words", [
    (["--needle-lengths", "0"], ["--needle-lengths 0", "take", "expected a greater length"]),
    (["--needle-lengths", "8,x"], ["'8,x'", "numbers, separated by commas"]),
    (["--needle-lengths", "9999999"], ["--needle-lengths 9999999", "bytes", "fewer --needle-trials"]),
    (["--needle-lengths", "200000", "--needle-trials", 1], ["the texts have", "expected at least"]),
    (["--needle-depths", 129], ["--needle-depths 129", "1 to 128"]),
    (["--needle-trials", 0], ["--needle-trials 0"]),
    (["--needle-distractors", 26], ["--needle-distractors 26", "0 to 25"]),
    (["--needle-sentence", "{key}"], ["--needle-sentence", "{value}"]),
    (["--needle-question", "what?"], ["--needle-question", "{key}"]),
    (["--needle-keys", "/nowhere"], ["/nowhere: No such file"]),
])  # fmt: skip
def test_refused(texts, options, words):
    """Before anything is written."""
    (texts / "needle_700.eval").unlink(missing_ok=True)
    said = make(texts, *options, code=2)
    assert said.strip().splitlines()[-1].startswith("prepare_eval") and "Traceback" not in said
    for word in words:
        assert word in said, said
    assert not (texts / "needle_700.eval").exists()


def test_texts_of_other_kinds(texts):
    """Folders; lines without a full stop; one sentence that is longer than the length."""
    folder = texts / "more"
    folder.mkdir()
    (folder / "lines.txt").write_text("".join(f"{text(9)}\n" for _ in range(300)))
    (folder / "one.txt").write_text(text(4000))
    for file in (folder, folder / "one.txt"):
        prepare(file, "--needle-lengths", 500, "--needle-depths", 3, "--tokenizer", texts, "--output", texts / "o.eval", "--overwrite")
        assert all(len(i.context) + sum(map(len, i.endings)) == 500 for i in read(texts / "o_500.eval")[1])


def test_depths():
    assert needles.depths_of(1) == [5000] and needles.depths_of(2) == [0, 10000] and needles.depths_of(4) == [0, 3333, 6667, 10000]


# ---- scores


@needs_fp32
def test_exact_match_in_the_loop_and_by_the_decoder(tmp_path):
    """One forward pass over the right ending and decoding token by token say the same as transformers, item by item."""
    place, rng = Place(tmp_path), fresh_random()
    path, items, exact = write_needles(place, rng)
    opened = Evaluation(place.lib, path, T)
    for B in (1, 3):
        model = place.model(B)
        losses, found = np.full(opened.set.contents.num_endings, np.nan), np.full(opened.set.contents.num_endings, 7, np.uint8)
        assert place.lib.eval_score(losses, found, model.handle, B, opened.set, ctypes.byref(opened.packing), None, None) == 0
        assert [bool(row[label]) for row, (_, _, label, _) in zip(opened.by_item(found), items)] == exact
        np.testing.assert_array_equal(losses, opened.score(model))  # as without matches
        decoded = np.full(len(items), 7, np.uint8)
        assert place.lib.greedy_match(decoded, model.handle, opened.set, None, None) == 0
        assert decoded.astype(bool).tolist() == exact


@needs_fp32
def test_contexts_cut_alike(tmp_path):
    """An item longer than the row: both ways cut the context to the same tokens."""
    place, rng = Place(tmp_path), fresh_random()
    items = []
    for _ in range(12):
        context = rng.integers(0, FIELDS["vocab_size"], 2 * T).tolist()
        items.append((context, [(greedy(place.reference, context[-(T - 2) :], 3), 1, 1)], 0, 0))
    path = place.folder / "long.eval"
    path.write_bytes(file_bytes(items, kind=3, vocab=FIELDS["vocab_size"]))
    model = place.model(2)
    for decode in (None, place.lib.c.greedy_match):
        assert run_task(place.lib, model, path, decode=decode)["exact_match"] == 1


@needs_fp32
def test_measured_by_depth(tmp_path):
    place, rng = Place(tmp_path), fresh_random()
    path, items, exact = write_needles(place, rng)
    model = place.model(2)
    found = run_task(place.lib, model, path)
    assert found == run_task(place.lib, model, path, decode=place.lib.c.greedy_match)
    opened = Evaluation(place.lib, path, T)
    right = [np.argmax(row) == item[2] for row, item in zip(opened.by_item(opened.score(model)), items)]
    expected = []
    for depth in sorted({item[3] for item in items}):
        here = [i for i, item in enumerate(items) if item[3] == depth]
        expected.append((depth / 100, len(here), np.mean([exact[i] for i in here]), np.mean([right[i] for i in here])))
    np.testing.assert_allclose(found["cells"], expected, rtol=1e-6)
    assert found["length"] == 50 and 0 < np.mean(right) < 1
    assert found["exact_match"] == pytest.approx(np.mean(exact)) and found["acc"] == pytest.approx(np.mean(right))
