"""Rejection sampling: scores against transformers' LlamaForSequenceClassification, texts that do not depend on what is computed
beside them, the best of them, runs that are killed and continued, and messages for bad input."""

import contextlib
import json
import os
import pathlib
import random
import signal
import subprocess
import time

import pytest
import torch

import compare
import trainrun
from trainrun import VOCAB

ROOT = pathlib.Path(__file__).resolve().parents[2]
from rejection import CONTEXT, ON_CPU, PRECISION, SAMPLES, SPECIALS, Models, library, make_model, write_chat_tokenizer
from llmdata.errors import InputError  # noqa: E402
from llmtext.fingerprint import model_fingerprint  # noqa: E402
from llmtext.generator import Generator, SamplerOptions  # noqa: E402
from llmtext.prompts import Prompt, read_prompts  # noqa: E402
from llmtext.sampling import seeds_of  # noqa: E402
from llmtext.scorer import Scorer  # noqa: E402

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import transformers  # noqa: E402

LONG = ["--samples", 30]  # of a run that is not over before it is killed


@pytest.fixture
def models(tmp_path):
    return Models(tmp_path)


# ---- scores


def texts_to_score(V):
    """With much, little and nothing in common; lists of ids, without transformers' padding, 0."""
    common = torch.randint(1, V, (37,)).tolist()
    with_prompt = [common + torch.randint(1, V, (n,)).tolist() for n in (1, 5, 70, 33, 128, 2, 9)]
    others = [torch.randint(1, V, (n,)).tolist() for n in (1, 90, 17, 200, 64, 3)]
    return [with_prompt, others, others[1:2], [common, common, common[:-1]], [[5]] * 9]


@pytest.mark.parametrize("positions", [1, 600])
def test_scores_are_transformers(lib, tmp_path, positions):
    """In one pass and in many, in one row and in several."""
    model = make_model(tmp_path, transformers.LlamaForSequenceClassification, torch.float64)
    half = transformers.LlamaForSequenceClassification.from_pretrained(tmp_path, dtype=torch.bfloat16)
    scorer = Scorer(library(lib.precision), tmp_path, positions, 200, 0)
    ours, exact, theirs = [], [], []
    for texts in texts_to_score(VOCAB):
        ours += scorer.score(texts)
        with torch.no_grad():
            for text in texts:
                ids = torch.tensor([text])
                exact.append(model(ids).logits[0, 0])
                theirs.append(half(ids).logits[0, 0])
    scorer.close()
    compare.check("scores", torch.tensor(ours), torch.stack(exact), torch.stack(theirs) if lib.precision == "bf16" else None, 6e-2)


def test_scores_refused(lib, models):
    scorer = Scorer(library(lib.precision), models.reward, 64, 100, 0)
    for texts, message in (([[1], []], "text 1 is empty"), ([[1] * (scorer.context + 1)], f"text 0 has {scorer.context + 1} tokens"),
                           ([[1, 2], [3, 999]], "text 1: token 1 has the id 999"), ([[-1]], "the id -1")):  # fmt: skip
        with pytest.raises(InputError) as refused:
            scorer.score(texts)
        assert message in str(refused.value)
    scorer.close()
    with pytest.raises(InputError, match="config.json: a language model, expected a reward model"):
        Scorer(library(lib.precision), models.policy, 64, 100, 0)
    with pytest.raises(InputError, match="LlamaForSequenceClassification"):
        Generator(library(lib.precision), models.reward, 1, 10, 0)


def test_same_texts_have_the_same_bits(lib, models):
    """Whatever was scored before: so a run that was stopped has the scores of one that was not."""
    scorer, calls = Scorer(library(lib.precision), models.reward, 8192, 200, 0), texts_to_score(VOCAB)
    first = [scorer.score(texts) for texts in calls]
    assert [scorer.score(texts) for texts in reversed(calls)] == first[::-1]
    scorer.close()


# ---- texts


def alone(models, limit=40):
    """The texts of each prompt, each in a generator of one row that computes its prompt."""
    prompts, turns = read_prompts([models.prompts], None)[0], models.turns()
    generator, found = Generator(library(), models.policy, 1, CONTEXT, 1 if ON_CPU else 0), []
    for prompt in prompts:
        found.append([])
        for seed in seeds_of(3, prompt.key, SAMPLES):
            generator.start(0, turns.ask(prompt), SamplerOptions(1.0, 0, 1.0), seed)
            ids = []
            while len(ids) < limit and (tokens := generator.next()):
                ids.append(tokens[0][1])
            whole = generator.is_end(ids[-1])
            text = turns.template.tokenizer.decode(ids[: len(ids) - whole])
            found[-1].append({"text": text, "tokens": len(ids), "finish": "stop" if whole else "length"})
    generator.close()
    return found


def test_texts_are_those_of_prompts_one_at_a_time(models):
    """Rows that take the next text when one has ended, prompts that are copied: the same texts, all different."""
    if not ON_CPU:
        pytest.skip("cuBLASLt chooses by shape")
    models.run("--keep-all", "--keep-cut", "--rows", 7)
    found = [[{k: v for k, v in sample.items() if k != "score"} for sample in row["samples"]] for row in models.rows()]
    want = alone(models)
    assert found == want
    assert {s["finish"] for samples in want for s in samples} == {"stop", "length"}
    long = [s["text"] for samples in want for s in samples if s["tokens"] > 10]
    assert len(long) > 10 and len(set(long)) == len(long)


def test_seeds():
    seeds = seeds_of(1, "a-0", 30)
    assert len(set(seeds)) == 30 and seeds[:10] == seeds_of(1, "a-0", 10)
    assert not set(seeds) & {*seeds_of(2, "a-0", 30), *seeds_of(1, "a-1", 30)}


def test_best_is_the_argmax(models):
    """Scores are the reward model's of prompt, answer and end of turn; the best stands in messages; what is cut off has none."""
    models.run("--keep-all", "--pairs", models.folder / "pairs.jsonl")
    turns, pairs = models.turns(), models.rows("pairs.jsonl")
    scorer = models.scorer.double()
    for row in models.rows():
        prompt = Prompt(row["messages"][:-1], "", "")
        assert row["scores"] == [s["score"] for s in row["samples"]]
        for sample in row["samples"]:
            assert (sample["score"] is None) == (sample["finish"] == "length" or not sample["text"].strip())
            if sample["score"] is not None:
                with torch.no_grad():
                    want = scorer(torch.tensor([turns.answered(prompt, sample["text"])])).logits[0]
                limit = 1e-5 if PRECISION == "fp32" else 5e-2
                assert abs(sample["score"] - want.item()) <= limit * max(1, abs(want.item()))
        scored = [s for s in row["samples"] if s["score"] is not None]
        best, worst = (choose(scored, key=lambda s: s["score"]) for choose in (max, min))
        assert row["score"] == best["score"] and row["messages"][-1] == {"role": "assistant", "content": best["text"]}
        pair = {"prompt": row["messages"][:-1], "chosen": best["text"], "rejected": worst["text"],
                "chosen_score": best["score"], "rejected_score": worst["score"]}  # fmt: skip
        assert (pair in pairs) == (best["score"] > worst["score"])
    assert len(pairs) > 0


def test_equal_texts_are_scored_once(models):
    """Greedy texts are all the same: one score, no pair."""
    error = models.run("--temperature", 0, "--keep-cut", "--pairs", models.folder / "pairs.jsonl")
    assert all(len(set(row["scores"])) == 1 and None not in row["scores"] for row in models.rows())
    assert models.rows("pairs.jsonl") == [] and f"0 pairs; {len(models.rows())} prompts without a difference" in error


def test_kinds_of_prompts(models):
    """A text, a list of messages, a conversation up to its last user turn; a system message for those without one."""
    user, told = {"role": "user", "content": "Hi"}, {"role": "system", "content": "Told"}
    answer = {"role": "assistant", "content": "Hello"}
    again = {"role": "user", "content": "Again"}
    models.write([{"prompt": "Hi"}, {"prompt": [told, user]}, {"messages": [user, answer, again, answer]}, {"prompt": "Hi", "chosen": "x"}])
    models.run("--system", "Be brief.", "--keep-cut")
    brief = {"role": "system", "content": "Be brief."}
    rows = models.rows()
    assert [row["messages"][:-1] for row in rows] == [[brief, user], [told, user], [brief, user, answer, again], [brief, user]]
    assert rows[0]["scores"] != rows[3]["scores"]  # the same prompt again has texts of its own


def test_without_a_reward_model(models):
    models.run("--keep-all", drop="--reward-model")
    for row in models.rows():
        whole = [s["text"] for s in row["samples"] if s["finish"] == "stop" and s["text"].strip()]
        assert row["messages"][-1]["content"] == whole[0] and "score" not in row


# ---- stopped, killed


def kill_after(models, name, lines, *more, how=signal.SIGKILL):
    """Starts a run and ends it once so many prompts are in the journal."""
    journal = models.folder / (name + ".samples")
    trainrun.STARTED.append(subprocess.Popen(models.command(models.folder / name, *more), stderr=subprocess.PIPE))
    process, end = trainrun.STARTED[-1], time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        if journal.exists() and journal.read_bytes().count(b"\n") > lines:
            break
        time.sleep(0.002)
    process.send_signal(how)
    code = process.wait()
    return code, process.stderr.read().decode()


@pytest.mark.parametrize("two_pass", [False, True])
def test_killed_runs_go_on(models, two_pass):
    """kill -9 twice, once leaving half a line: what is done is not done again, and the files are those of an undisturbed run."""
    more = ["--keep-all", "--rows", 4, *LONG, *(["--two-pass"] if two_pass else [])]
    pairs = lambda name: ["--pairs", models.folder / f"{name}.pairs"]  # noqa: E731
    models.run(*more, *pairs("whole"), name="whole.jsonl")
    assert kill_after(models, "best.jsonl", 3, *more, *pairs("best"))[0] == -signal.SIGKILL
    journal = models.folder / "best.jsonl.samples"
    kept = journal.read_bytes()
    assert 4 <= kept.count(b"\n") < 13 and not (models.folder / "best.jsonl").exists()
    journal.write_bytes(kept[: kept.rindex(b"\n") + 1] + b'{"key": "half a li')
    kill_after(models, "best.jsonl", 7, *more, *pairs("best"))
    error = models.run(*more, *pairs("best"))
    assert "going on: " in error
    whole = [line for line in journal.read_bytes().split(b"\n") if line]
    assert journal.read_bytes().startswith(kept[: kept.rindex(b"\n") + 1]) and len(whole) == len(set(whole)) == 13
    for name in ("jsonl", "pairs"):
        assert (models.folder / f"best.{name}").read_bytes() == (models.folder / f"whole.{name}").read_bytes()


def test_told_to_stop(models):
    code, error = kill_after(models, "best.jsonl", 2, *LONG, how=signal.SIGTERM)
    assert code == 130 and "stopped; the same command goes on from here" in error and "Traceback" not in error
    models.run(*LONG)


def test_prompts_may_be_added(models):
    """Those that are done are found by what they say."""
    rows = [json.loads(line) for line in models.prompts.read_text().splitlines()]
    models.write(rows[::2])
    models.run("--keep-all")
    models.write(rows)
    assert "going on: 6 of 12" in models.run("--keep-all")
    found = models.rows()
    models.run("--keep-all", name="whole.jsonl")
    assert found == models.rows("whole.jsonl")


def test_other_settings_refused(models):
    models.run()
    for more, words in ((["--temperature", 0.5], ["best.jsonl.samples was begun with temperature 1.0, now 0.5"]),
                        (["--samples", 4, "--seed", 4], ["samples 5, now 4", "seed 3, now 4"]),
                        (["--keep-cut"], ["best.jsonl.scores was begun with keep_cut false, now true"])):  # fmt: skip
        error = models.run(*more, code=2)
        assert all(word in error for word in words) and error.count("\n") == 1
    with change_byte(models.reward / "model.safetensors", -3):
        assert "best.jsonl.scores was begun with reward_model" in models.run(code=2)
    models.run()


@contextlib.contextmanager
def change_byte(path, place):
    whole = path.read_bytes()
    other = bytearray(whole)
    other[place] ^= 1
    path.write_bytes(other)
    yield
    path.write_bytes(whole)


def test_fingerprint_is_of_every_byte(tmp_path):
    """Of large weights too, where the head is some bytes among many: nothing is passed over, whatever the file."""
    rng = random.Random(1)
    for name, size in (("model-00001-of-00002", 9 << 20), ("model-00002-of-00002", 5000)):
        (tmp_path / f"{name}.safetensors").write_bytes(rng.randbytes(size))
    (tmp_path / "config.json").write_text("{}")
    fingerprint = model_fingerprint(tmp_path)
    for path in sorted(tmp_path.iterdir()):
        size = path.stat().st_size
        for place in {0, size // 2 - 1, size * 5 // 7, size - 1}:
            with change_byte(path, place):
                assert model_fingerprint(tmp_path) != fingerprint, f"{path.name}: byte {place}"
    assert model_fingerprint(tmp_path) == fingerprint
    (tmp_path / "model-00002-of-00002.safetensors").rename(tmp_path / "c.safetensors")
    assert model_fingerprint(tmp_path) != fingerprint


def test_two_runs_at_once(models):
    import fcntl

    with open(models.folder / "best.jsonl.samples", "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "another program is writing it" in models.run(code=2)


# ---- bad input


@pytest.mark.parametrize("line, message", [
    ("{", "not JSON"),
    ("[]", 'expected an object with either "prompt" or "messages"'),
    ('{"prompt": "a", "messages": []}', 'expected an object with either "prompt" or "messages"'),
    ('{"prompt": 3}', "expected a list of messages or a text"),
    ('{"prompt": [{"role": "elf", "content": "a"}]}', '"prompt[0]": role "elf", expected one of system'),
    ('{"prompt": [{"role": "user", "content": 1}]}', '"prompt[0]": expected a text under "content"'),
    ('{"prompt": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}', "the last message is the assistant's"),
    ('{"messages": [{"role": "assistant", "content": "b"}]}', '"messages": expected a user turn'),
    ('{"prompt": "\\ud800"}', "half a surrogate pair"),
])  # fmt: skip
def test_malformed_prompts(tmp_path, line, message):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "good"}\n\n' + line + "\n")
    with pytest.raises(InputError) as refused:
        read_prompts([path], None)
    assert f"{path}: line 3: " in str(refused.value) and message in str(refused.value)


def test_prompts_left_out(models):
    """Empty and too long ones are counted and named."""
    models.write([{"prompt": "good"}, {"prompt": "  "}, {"prompt": "x" * CONTEXT}, {"prompt": "x" * 60}])
    error = models.run("--keep-cut", "--max-prompt", 90)
    assert f"left out, empty: 1 prompts ({models.prompts}:2)" in error and f"left out, too long: 1 prompts ({models.prompts}:3)" in error
    assert len(models.rows()) == 2
    error = models.run("--keep-cut", "--max-prompt", 40, name="short.jsonl")
    assert "left out, too long: 2 prompts" in error and len(models.rows("short.jsonl")) == 1


def test_bad_input(models):
    other = models.folder / "other"
    make_model(other, transformers.LlamaForSequenceClassification)
    write_chat_tokenizer(other, SPECIALS[::-1])
    nowhere = models.folder / "nowhere"
    for more, message in (
        (["--reward-model", models.policy], 'config.json: architectures ["LlamaForCausalLM"], expected LlamaForSequenceClassification'),
        (["--model", models.reward], "expected LlamaForCausalLM for --model"),
        (["--reward-model", other], f"is not the tokenizer of {models.policy}"),
        (["--reward-model", nowhere], f"--reward-model {nowhere}: no such folder"),
        (["--prompts", nowhere], f"{nowhere}: "),
        (["--samples", 0], "--samples 0: expected 1 to"),
        (["--rows", 0], "--rows 0: expected 1 to"),
        (["--temperature", -1], "temperature -1"),
        (["--pairs", models.folder / "bad.jsonl"], "the same file as --output"),
        (["--pair-margin", "nan"], "--pair-margin nan"),
        (["--output", nowhere / "x"], "its folder does not exist"),
        (["--output", models.prompts], f"{models.prompts}: one of --prompts"),
        (["--pairs", models.folder / "." / models.prompts.name], "one of --prompts"),
        (["--system", "\udcff"], "--system: found"),
    ):
        error = models.run(*more, code=2, name="bad.jsonl")
        assert message in error and error.count("\n") == 1, error
    assert not list(models.folder.glob("bad*")), "nothing is written before all is checked"
    models.prompts.write_text('{"prompt": 1}\n')
    assert f"rejection_sample: {models.prompts}: line 1: " in models.run(code=2)
    models.prompts.write_text("\n")
    assert "no prompt in it" in models.run(code=2)
