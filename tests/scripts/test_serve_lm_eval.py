"""lm-eval through the server: loglikelihood tasks score as the trainer does, item by item; chats are what the model says."""

import json

import llmc
import numpy as np
import pytest
import transformers
from evaluation import Evaluation, completions, prepare, questions, run_task, text, write_rows
from lmeval import COMPLETION, MMLU, PERPLEXITY, Place, T, lm_task, run_lm_eval
from model import greedy_text
from serving import KEPT, Served, parrot_model, random_model

pytestmark = pytest.mark.skipif("fp32" not in llmc.build_folders(), reason="no fp32 build under test: agreement is of fp32")
TOLERANCE = 2e-3  # as of lm-eval with transformers, in tests/eval


class ServedPlace(Place):
    """The tokenizer of `plain` puts no begin token before a text, as lm-eval asks a server's own tokenizer to."""

    def __init__(self, folder):
        super().__init__(folder)
        self.reference.save_pretrained(folder)
        (folder / "plain").mkdir()
        for path in folder.glob("*.*"):
            (folder / "plain" / path.name).write_bytes(path.read_bytes())
        fields = json.loads((folder / "tokenizer.json").read_text())
        (folder / "plain/tokenizer.json").write_text(json.dumps(fields | {"post_processor": None}))
        parrot_model(folder / "parrot")
        self.random = random_model(folder / "random")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = ServedPlace(tmp_path_factory.mktemp("lm_eval"))
    models = {"plain": place.folder / "plain", "begun": place.folder} | {name: place.folder / name for name in ("parrot", "random")}
    with Served(place.folder / "log", models, "--threads", 1) as place.server:
        yield place


def compare(place, name, path, results, samples):
    """Every log-likelihood, and what they are summed up to."""
    opened = Evaluation(place.lib, path, T)
    by_document = sorted(samples[name], key=lambda sample: sample["doc_id"])
    expected = [float(r[0] if isinstance(r, (list, tuple)) else r) for sample in by_document for r in sample["filtered_resps"]]
    found = np.concatenate(opened.by_item(opened.score(place.model())))
    np.testing.assert_allclose(found, expected, atol=TOLERANCE, rtol=1e-5, err_msg=name)
    measured, compared = run_task(place.lib, place.model(), path), 0
    for metric, value in results[name].items():
        metric = metric.partition(",")[0]
        if metric in measured and value != "N/A" and not metric.endswith("stderr"):
            assert measured[metric] == pytest.approx(value, rel=1e-9 if metric.startswith("acc") else 1e-4), (name, metric)
            compared += 1
    assert compared == 3


def test_local_completions(place):
    """With the model's own tokenizer, in batches, several at once; contexts that are cut too."""
    ours, theirs = {}, []
    for name, rows, task in (("plain", completions(16), COMPLETION), ("long", completions(6, 150), COMPLETION),
                             ("documents", [{"text": text(n) + "  é \n"} for n in (1, 30, 200)], PERPLEXITY)):  # fmt: skip
        ours[name] = place.file(name, rows)
        theirs.append(lm_task(name, place.folder / f"{name}.jsonl", **task))
    shots = write_rows(place.folder / "shots_dev.jsonl", questions(4))
    few = ["--description", "About words.\n\n", "--few-shot", 2, "--few-shot-seed", 1234, "--few-shot-file", shots]
    ours["shots"] = place.file("shots", questions(8), *few)
    theirs.append(lm_task("shots", place.folder / "shots.jsonl", shots, **MMLU, num_fewshot=2))
    arguments = {"model": "begun", "base_url": f"{place.server.url}v1/completions", "tokenizer_backend": "huggingface",
                 "tokenizer": str(place.folder), "add_bos_token": True, "max_length": T + 2, "num_concurrent": 4}  # fmt: skip
    results, samples = run_lm_eval(place, theirs, model="local-completions", model_args=arguments, batch_size=3)
    for name, path in ours.items():
        compare(place, name, path, results, samples)


def test_the_servers_tokenizer(place):
    """lm-eval finds it by itself; it is that of the first model."""
    source, path = write_rows(place.folder / "remote.jsonl", completions(12)), place.folder / "remote.eval"
    prepare(source, "--tokenizer", place.folder / "plain", "--output", path)
    arguments = {"model": "plain", "base_url": f"{place.server.url}v1/completions", "max_length": T + 2}
    task = lm_task("remote", source, **COMPLETION)
    results, samples = run_lm_eval(place, [task], model="local-completions", model_args=arguments)
    compare(place, "remote", path, results, samples)


def chats(place, model, rows, **task):
    """{question: answer}, and the share of answers that are the right ones."""
    source = write_rows(place.folder / f"{model}.jsonl", rows)
    metric = {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}
    task = lm_task(f"chat_{model}", source, output_type="generate_until", doc_to_text="{{question}}", doc_to_target="{{answer}}",
                   metric_list=[metric], **task)  # fmt: skip
    arguments = {"model": model, "base_url": f"{place.server.url}v1/chat/completions", "num_concurrent": 3}
    how = {"model": "local-chat-completions", "model_args": arguments, "apply_chat_template": True}
    results, samples = run_lm_eval(place, [task], **how)
    answers = {s["doc"]["question"]: s["filtered_resps"][0] for s in samples[f"chat_{model}"]}
    return answers, results[f"chat_{model}"]["exact_match,none"]


def test_local_chat_completions(place):
    """Greedy answers are transformers', and what ends them is what lm-eval asks for."""
    rows = [{"question": f"{text(3)} {n}?", "answer": KEPT if n % 4 else "x"} for n in range(8)]
    answers, share = chats(place, "parrot", rows)
    assert set(answers.values()) == {KEPT} and share == 0.75
    answers, _ = chats(place, "random", rows, generation_kwargs={"until": ["<|eot_id|>", "zz"], "max_gen_toks": 12})
    tokenizer = transformers.AutoTokenizer.from_pretrained(place.folder / "random")
    for row in rows:
        chat = [{"role": "user", "content": row["question"]}]
        ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
        told, _ = greedy_text(place.random, ids, 12)
        assert answers[row["question"]] == tokenizer.decode(told, skip_special_tokens=True)
