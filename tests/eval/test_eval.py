"""Evaluations score as lm-eval does: the same items and weights through both, log-likelihood by log-likelihood."""


import numpy as np
import pytest
import torch

from lmeval import COMPLETION, MMLU, T, Place, lm_task, run_lm_eval
import llmc  # noqa: E402
from evaluation import Evaluation, completions, questions, run_task, text, write_rows  # noqa: E402

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


def test_packing_fills_rows(place):
    opened = Evaluation(place.lib, place.file("items", completions(60)), T)
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


PERPLEXITY = dict(output_type="loglikelihood_rolling", doc_to_text="", doc_to_target="{{text}}",
                  metric_list=[{"metric": m} for m in ("word_perplexity", "byte_perplexity", "bits_per_byte")])  # fmt: skip


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
        for metric, value in results[name].items():
            metric = metric.partition(",")[0]
            if value == "N/A" or metric in ("alias", "sample_len", "name", "sample_count"):
                continue
            exact = metric.startswith("acc")
            assert measured[metric] == pytest.approx(value, rel=1e-9 if exact else 1e-4), (name, metric)
