"""Evaluations score as lm-eval does: the same items and weights through both, log-likelihood by log-likelihood."""


import numpy as np
import pytest
import torch

from hostlib import fresh_random
from lmeval import COMPLETION, FIELDS, MMLU, PERPLEXITY, T, Place, lm_task, run_lm_eval
import llmc  # noqa: E402
from evaluation import Evaluation, completions, file_bytes, questions, run_task, text, write_rows  # noqa: E402

# Sums of up to T float losses, each good to about 1e-5 of its logits' size (around 10), on both sides.
TOLERANCE = 2e-3


needs_fp32 = pytest.mark.skipif("fp32" not in llmc.build_folders(), reason="no fp32 build under test: agreement is of fp32")


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def loglikelihood(model, context, ending):
    """By transformers, one sequence alone, cut to T inputs as lm-eval cuts it."""
    ids = (context + ending)[-(T + 1) :]
    with torch.no_grad():
        rows = torch.log_softmax(model(torch.tensor([ids[:-1]])).logits[0].double(), -1)
    return sum(rows[i - 1, ids[i]].item() for i in range(len(ids) - len(ending), len(ids)))


def tokens_of(opened):
    """[(context, [ending, ...]), ...] as the file has them."""
    of = opened.set.contents
    ids = np.array(of.tokens[: of.num_tokens]).tolist()
    found = []
    for item in of.items[: of.num_items]:
        endings = of.endings[item.first_ending : item.first_ending + item.num_endings]
        found.append((ids[item.context : item.context + item.context_tokens],
                      [ids[e.tokens : e.tokens + e.num_tokens] for e in endings]))  # fmt: skip
    return found


@needs_fp32
@pytest.mark.parametrize("kind", ["completion", "long contexts", "question"])
def test_each_ending_against_transformers(place, kind):
    rows = {"completion": lambda: completions(20), "long contexts": lambda: completions(8, 150), "question": lambda: questions(12)}[kind]()
    opened = Evaluation(place.lib, place.file("items", rows), T)
    expected = [[loglikelihood(place.reference, context, e) for e in endings] for context, endings in tokens_of(opened)]
    for B in (1, 3):
        found = opened.by_item(opened.score(place.model(B)))
        assert [len(x) for x in found] == [len(row.get("endings", row.get("choices"))) for row in rows]
        np.testing.assert_allclose(np.concatenate(found), np.concatenate(expected), atol=TOLERANCE)
    if kind == "question":  # letters share their input: one sequence an item
        assert opened.packing.num_sequences == len(rows)


# (tokens of the context, tokens of each ending)
EDGES = {
    "more targets than positions": (1, [1] * 150),
    "fills a row": (T - 14, [8, 8, 1]),
    "one token too long": (T - 14, [8, 1, 9, 1]),
    "one letter after a row": (T, [1, 1]),
    "one letter after more": (T + 1, [1, 2, 1]),
    "an ending of a row": (1, [T, 1, T]),
}


def write_items(path, shapes, rng):
    """Random tokens; every third item ends twice in the same way."""

    def ending(tokens):
        return rng.integers(0, FIELDS["vocab_size"], tokens).tolist(), 1, 1

    items = [(ending(context)[0], [ending(tokens) for tokens in endings], 0) for context, endings in shapes]
    for _, endings, _ in items[::3]:
        endings.append(endings[0])
    path.write_bytes(file_bytes(items, vocab=FIELDS["vocab_size"]))
    return path


@needs_fp32
def test_endings_together(place):
    """Endings of one token and of several, which share a context, see it and themselves, wherever a row ends."""
    rng = fresh_random()
    drawn = [(rng.integers(1, T), rng.integers(1, 1 + rng.choice([1, 3, T // 2]), rng.integers(1, 6))) for _ in range(30)]
    opened = Evaluation(place.lib, write_items(place.folder / "items.eval", [*EDGES.values(), *drawn], rng), T)
    expected = [loglikelihood(place.reference, context, e) for context, endings in tokens_of(opened) for e in endings]
    for B in (1, 3):
        np.testing.assert_allclose(opened.score(place.model(B)), expected, atol=TOLERANCE)


def test_endings_share_a_context_where_they_fit(place):
    opened = Evaluation(place.lib, write_items(place.folder / "items.eval", [(2, [1]), *EDGES.values()], fresh_random()), T)
    p = opened.packing
    found = sorted((s.item, s.ending, s.num_endings, s.length) for s in p.sequences[: p.num_sequences])
    first = opened.set.contents.items[1].first_ending
    lengths = [(item, ending - first, count, length) for item, ending, count, length in found if item > 0]
    assert lengths == [(1, 0, 150, 1), (2, 150, 3, T), (3, 153, 2, T - 7), (3, 155, 2, T - 6), (3, 157, 1, T - 7),
                       (4, 158, 2, T), (5, 160, 1, T), (5, 161, 1, T), (5, 162, 1, T),
                       (6, 163, 2, T), (6, 165, 1, T), (6, 166, 1, T)]  # fmt: skip


def test_packing_fills_rows(place):
    opened = Evaluation(place.lib, place.file("items", completions(60, 14, 6)), T)
    p = opened.packing
    used = np.zeros((p.num_rows, T), int)
    for row in range(p.num_rows):
        for s in p.sequences[p.row_first[row] : p.row_first[row + 1]]:
            assert s.row == row
            used[row, s.start : s.start + s.length] += 1
    assert used.max() == 1 and used[:, 0].all()
    assert sum(s.length for s in p.sequences[: p.num_sequences]) == used.sum()
    assert used.mean() > 0.85, used.mean()


# ---- lm-eval


@needs_fp32
def test_agrees_with_lm_eval(place):
    """Contexts longer than T too; examples in order and drawn; documents of one to several windows."""
    ours, theirs = {}, []

    def add(name, rows, options=(), pool=None, **task):
        shots_path = write_rows(place.folder / f"{name}_dev.jsonl", pool) if pool else None
        options = [*options, *(["--few-shot-file", shots_path] if pool else [])]
        ours[name] = place.file(name, rows, *options)
        theirs.append(lm_task(name, place.folder / f"{name}.jsonl", shots_path, **task))

    add("plain", completions(30), **COMPLETION)
    add("long", completions(10, 150), **COMPLETION)
    add("own_shots", completions(12, 8, 5), ["--few-shot", 2, "--few-shot-seed", 1234], **COMPLETION, num_fewshot=2, fewshot_split="test")
    description = ["--description", "About words.\n\n"]
    add("no_shots", questions(20), description, **(MMLU | dict(fewshot_split=None)))
    first = dict(num_fewshot=1, fewshot_config={"sampler": "first_n"})
    add("first_shots", questions(20), [*description, "--few-shot", 1], questions(3), **MMLU, **first)
    add("drawn_shots", questions(20), [*description, "--few-shot", 2, "--few-shot-seed", 1234], questions(6), **MMLU, num_fewshot=2)
    documents = [{"text": text(n) + "  é \n"} for n in (1, 10, 30, 90, 200)]
    add("documents", documents, **PERPLEXITY)

    results, samples = run_lm_eval(place, theirs)
    model = place.model()
    for name, path in ours.items():
        opened = Evaluation(place.lib, path, T)
        expected = [[float(r[0]) for r in s["filtered_resps"]] if name != "documents" else [float(s["filtered_resps"][0])]
                    for s in sorted(samples[name], key=lambda s: s["doc_id"])]  # fmt: skip
        found = opened.by_item(opened.score(model))
        np.testing.assert_allclose(np.concatenate(found), np.concatenate(expected), atol=TOLERANCE, rtol=1e-5, err_msg=name)
        measured = run_task(place.lib, model, path)
        if name != "documents":
            of = opened.set.contents
            right = [values[item.label] / of.endings[item.first_ending + item.label].characters
                     for values, item in zip(expected, of.items[: of.num_items])]  # fmt: skip
            assert measured["nll"] == pytest.approx(-np.mean(right), rel=1e-4)
        for metric, value in results[name].items():
            metric = metric.partition(",")[0]
            if value == "N/A" or metric in ("alias", "sample_len", "name", "sample_count"):
                continue
            exact = metric.startswith("acc")
            assert measured[metric] == pytest.approx(value, rel=1e-9 if exact else 1e-4), (name, metric)
