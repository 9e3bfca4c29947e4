"""train_llama3 --eval-tasks and --eval-only: what is logged and printed, and what is refused."""

import json

import pytest

from evaluation import completions, file_bytes, prepare, questions, text, write_rows
from trainrun import ON_CPU, ROWS, T, VOCAB, Workplace, snapshot
from waiting import wait_until


TASKS = ("choice", "documents", "letters", "needle_22")


class EvalPlace(Workplace):
    """With an evaluation of each kind in data/."""

    def __init__(self, folder):
        super().__init__(folder)
        for name, rows in {
            "choice": completions(12, 5, 3),
            "letters": [{"question": text(1), "choices": list("wxyz"), "answer": i % 4} for i in range(8)],
            "documents": [{"text": text(n)} for n in (1, 5, 20)],
        }.items():
            source = write_rows(self.folder / f"{name}.jsonl", rows)
            prepare(source, "--tokenizer", self.data, "--output", self.data / f"{name}.eval")
        needle = [([i + 1] * 20, [([i + j], 1, 1) for j in range(2)], i % 2, 10000 * (i % 3 == 0)) for i in range(6)]
        (self.data / "needle_22.eval").write_bytes(file_bytes(needle, kind=3, vocab=VOCAB - 2, sha=self.sha))

    @property
    def pattern(self):
        return self.data / "*.eval"

    def evaluate(self, *more, **changes):
        options = {"config": None, "train_data": None, "output": None, "steps": None, "warmup_steps": None, "lr": None,
                   "init_from": self.output / "checkpoint", "eval_tasks": self.pattern}  # fmt: skip
        return self.run("--eval-only", *more, **(options | changes))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A run of five steps, evaluated after two, four and at the end."""
    place = EvalPlace(tmp_path_factory.mktemp("eval"))
    place.printed, _ = place.run(eval_tasks=place.pattern, eval_tasks_every=2, val_data=place.data / "val_*.bin")
    return place


def tasks_of(log):
    return [line for line in log if "task" in line]


def test_logged(place):
    lines = tasks_of(place.log())
    assert [(line["step"], line["task"]) for line in lines] == [(s, t) for s in (2, 4, 5) for t in TASKS]
    for line in lines:
        if line["task"] == "documents":
            assert line["items"] == 3 and 1 < line["byte_perplexity"] < line["word_perplexity"]
            # a byte a token, without a begin token
            assert line["token_perplexity"] == pytest.approx(line["byte_perplexity"]) == pytest.approx(2 ** line["bits_per_byte"], rel=1e-5)
        elif line["task"] == "needle_22":
            assert line["items"] == 6 and line["length"] == 22 and 0 <= line["exact_match"] <= 1
            assert [(cell["depth"], cell["items"]) for cell in line["cells"]] == [(0, 4), (100, 2)]
            for measure in ("exact_match", "acc"):
                assert sum(cell[measure] * cell["items"] for cell in line["cells"]) == pytest.approx(6 * line[measure])
        else:
            assert line["items"] == (12 if line["task"] == "choice" else 8)
            assert 0 <= line["acc"] <= 1 and 0 <= line["acc_norm"] <= 1 and 0 <= line["acc_stderr"] < 0.3
    for task in TASKS:
        assert f"step 5: {task}: " in place.printed


def test_training_does_not_notice(place, tmp_path):
    """The same losses without evaluations."""
    place.run(output=tmp_path / "plain")
    assert [x["loss"] for x in place.log() if "loss" in x] == [x["loss"] for x in place.log(tmp_path / "plain") if "loss" in x]


@pytest.mark.skipif(not ON_CPU, reason="ranks that outnumber the GPUs: the cpu target's test")
def test_many_ranks_wait_for_evaluations_and_samples(place, tmp_path):
    """Rank 0 computes them; training does not notice."""
    plain, full = tmp_path / "plain", tmp_path / "full"
    place.run_ranks(3, precision="bf16", output=plain)
    out, err = place.run_ranks(3, precision="bf16", output=full, eval_tasks=place.pattern, eval_tasks_every=2, sample_every=2, sample_tokens=6)
    log = place.log(full)
    assert err == "" and "step 4: sample" in out
    assert [(line["step"], line["task"]) for line in tasks_of(log)] == [(s, t) for s in (2, 4, 5) for t in TASKS]
    assert [line["step"] for line in log if "sample" in line] == [2, 4, 5]
    assert [x["loss"] for x in log if "loss" in x] == [x["loss"] for x in place.log(plain) if "loss" in x]


def test_eval_only(place, tmp_path, monkeypatch):
    """The checkpoint gives what the end of its run gave; nothing is written anywhere."""
    monkeypatch.chdir(tmp_path)
    before = snapshot(place.folder)
    out, _ = place.evaluate(batch_size=3, seq_len=T, val_data=place.data / "val_*.bin")
    assert snapshot(place.folder) == before and snapshot(tmp_path) is None
    last = {line["task"]: line for line in tasks_of(place.log()) if line["step"] == 5}
    said = dict(line.split(": ", 1) for line in out.splitlines() if ": " in line)
    for task in ("choice", "letters"):
        assert said[task].startswith(f"acc {last[task]['acc']:.4f} "), (said, last)
        assert f"acc_norm {last[task]['acc_norm']:.4f} " in said[task]
    # Rows are packed otherwise, which moves a bf16 loss of about 5 nats by some 1e-3
    bits = float(said["documents"].split("bits_per_byte ")[1].split(",")[0])
    assert bits == pytest.approx(last["documents"]["bits_per_byte"], rel=2e-3)
    loss = next(float(line.split()[-1]) for line in out.splitlines() if line.startswith("validation loss"))
    assert 3 < loss < 7


def test_eval_only_takes_the_models_length(place):
    """max_position_embeddings is 128 there: the same results as with it given."""
    assert place.evaluate(seq_len=None)[0] == place.evaluate(seq_len=128)[0] != place.evaluate(seq_len=T)[0]


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(init_from=None), ["--eval-only needs --init-from"]),
        (dict(eval_tasks=None), ["--eval-only needs --eval-tasks", "--val-data"]),
        (dict(config="x.json"), ["--config 'x.json'", "--init-from"]),
        (dict(init_from="nowhere"), ["nowhere: no such folder"]),
        (dict(eval_tasks="none_*.eval"), ["none_*.eval: no file matches"]),
        (dict(val_data="none_*.bin"), ["none_*.bin: no file matches"]),
        (dict(seq_len=129), ["129", "max_position_embeddings"]),
    ],
)  # fmt: skip
def test_eval_only_refused(place, changes, words):
    out, err = place.evaluate(code=2, **changes)
    assert err.startswith("train_llama3: ") and err.count("\n") == 1, err
    for word in words:
        assert word in err, err


ITEMS = [([5, 6], [([7], 1, 1), ([8, 9], 3, 4)], 1)]


def bad_file(place, tmp_path, items=ITEMS, **changes):
    path = tmp_path / "bad.eval"
    path.write_bytes(file_bytes(items, **({"vocab": VOCAB - 2, "sha": place.sha} | changes)))
    return path


def test_bad_files_refused(place, tmp_path):
    """Before the output folder is touched."""

    def refused(path, *words):
        place.refused(*words, eval_tasks=path, output=tmp_path / "new")

    refused(tmp_path / "none_*.eval", "none_*.eval: no file matches")
    refused(bad_file(place, tmp_path, sha=bytes(32)), "bad.eval", "tokenizer of SHA-256 00000000", place.sha.hex()[:16])
    refused(bad_file(place, tmp_path, vocab=VOCAB + 1), "bad.eval: vocabulary size is 261", f"the model's {VOCAB}")
    refused(bad_file(place, tmp_path, version=9), "bad.eval: version is 9")
    refused(bad_file(place, tmp_path, items=[([5], [([7] * (T + 1), 1, 1), ([8], 1, 1)], 1)]), "item 0: ending 0 has 33 tokens", "length 32")
    refused(place.data / "train_*.bin", "magic", "L3EVALS")
    whole = bad_file(place, tmp_path)
    whole.write_bytes(whole.read_bytes()[:-2])
    refused(whole, "bad.eval", "truncated")
    place.refused("--eval-tasks-every needs --eval-tasks", eval_tasks_every=1, output=tmp_path / "new")


def test_largest_ending(place, tmp_path):
    """As long as a row: of the context one token is left."""
    path = bad_file(place, tmp_path, items=[([5, 6, 7], [(list(range(T)), 1, 1), ([8], 1, 1)], 1)])
    place.run(eval_tasks=path, steps=1, output=tmp_path / "run", batch_size=ROWS)
    assert len(tasks_of(place.log(tmp_path / "run"))) == 1


def test_stopped_by_a_signal(place, tmp_path):
    """An evaluation of many items ends with the run."""
    import signal

    rows = write_rows(tmp_path / "many.jsonl", questions(3000))
    prepare(rows, "--tokenizer", place.data, "--output", tmp_path / "many.eval")
    process = place.start(eval_tasks=tmp_path / "many.eval", eval_tasks_every=1, output=tmp_path / "run", steps=50, seq_len=128)
    log = tmp_path / "run" / "log.jsonl"
    wait_until(lambda: log.exists() and '"loss"' in log.read_text(), "the first step", seconds=120)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert tasks_of(place.log(tmp_path / "run")) == []
    assert [json.loads(line)["step"] for line in log.read_text().splitlines() if '"loss"' in line] == [1]
