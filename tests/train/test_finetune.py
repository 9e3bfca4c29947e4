"""train_llama3 --task sft, dpo and reward: what is computed against transformers and PyTorch, what is kept, ranks, resuming, and
what is refused."""

import json
import math
import os
import shutil
import signal
import subprocess

import numpy as np
import pytest
import torch
from finetuning import EOS, Finetuning, comparisons, rows
from trainrun import losses, program, read_log
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

TASKS = ("sft", "dpo", "reward")
BETA, NLL = 0.1, 0.2


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return Finetuning(tmp_path_factory.mktemp("finetune"))


def ids(part):
    return (part & rows.ID_MASK).astype(np.int64)


def evaluations(log):
    return [line for line in log if "val_loss" in line]


def val_rows(work, folder):
    return list(rows.read_rows(folder / "val_000.bin"))


# ---- independent computations, a text at a time

def token_losses(model, tokens):
    """Of tokens[1:], in float64."""
    with torch.no_grad():
        logits = model(torch.tensor(tokens)[None]).logits[0]
    return torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(tokens)[1:], reduction="none")


def causal(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()


def sft_loss(model, sets):
    total = count = 0
    for row in sets:
        trained = torch.tensor((row.prompt[1:] & rows.TRAINED) != 0)
        total += token_losses(model, ids(row.prompt))[trained].sum().item()
        count += int(trained.sum())
    return total / count


def answer_logprob(model, row, answer):
    """(log-probability of the answer's trained tokens that are no format, how many there are)"""
    chosen = torch.tensor((answer & (rows.TRAINED | rows.FORMAT)) == rows.TRAINED)
    found = token_losses(model, np.concatenate([ids(row.prompt), ids(answer)]))[-len(answer) :][chosen]
    return -found.sum().item(), len(found)


def pairs_of(values):
    return [(values[i], values[j]) for i in range(len(values)) for j in range(i + 1, len(values))]


def dpo_means(policy, reference, sets):
    """loss, accuracy, margin, reward of chosen and rejected, nll: means over pairs."""
    out = []
    for row in sets:
        now = [(*answer_logprob(policy, row, a), answer_logprob(reference, row, a)[0]) for a in row.answers]
        for (chosen, length, chosen_ref), (rejected, _, rejected_ref) in pairs_of(now):
            better, worse, nll = BETA * (chosen - chosen_ref), BETA * (rejected - rejected_ref), -chosen / length
            loss = math.log1p(math.exp(worse - better)) + NLL * nll
            out.append((loss, float(better > worse), better - worse, better, worse, nll))
    return np.mean(out, axis=0)


def reward_means(folder, sets):
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float64).eval()
    out = []
    for row in sets:
        with torch.no_grad():
            scores = [model(torch.tensor(np.concatenate([ids(row.prompt), ids(a)]))[None]).logits.item() for a in row.answers]
        out += [(math.log1p(math.exp(worse - better)), float(better > worse), better - worse) for better, worse in pairs_of(scores)]
    return np.mean(out, axis=0)


# ---- what a run computes

def test_sft(work):
    """The validation loss is transformers' on the assistant's tokens, before and after, and falls."""
    output = work.folder / "sft"
    out, _ = work.run(precision="fp32", output=output, **work.task("sft", eval_every=30))
    assert "task      sft" in out and "150 conversations" in out
    last = evaluations(read_log(output / "log.jsonl"))[-1]["val_loss"]
    sets = val_rows(work, work.chat)
    assert last == pytest.approx(sft_loss(causal(output / "checkpoint"), sets), rel=1e-5)
    assert last < sft_loss(causal(work.base), sets) - 0.2
    out, _ = work.run(precision="fp32", eval_only=True, task="sft", init_from=output / "checkpoint", config=None, train_data=None,
                      val_data=work.chat / "val_*.bin", seq_len=64, steps=None, lr=None, warmup_steps=None, output=None)  # fmt: skip
    assert f"validation loss {last:.4f}" in out


def test_dpo(work):
    """Before the first update nothing is preferred, to the bit; afterwards loss, rewards and accuracy are those of PyTorch."""
    output = work.folder / "dpo"
    out, _ = work.run(precision="fp32", output=output, **work.task("dpo"))
    assert "reference log-probabilities of 320 training answers; nothing is trained yet" in out and "validation answers" in out
    shown = [line for line in out[: out.index("step 1/")].splitlines() if "tok/s" in line]
    assert len(shown) >= 2 and all(line.startswith("reference pass, batch ") for line in shown)
    assert not any(word in line for line in shown for word in ("loss", "lr ", "step "))
    log = read_log(output / "log.jsonl")
    first, last = log[0], evaluations(log)[-1]
    assert first["margin"] == first["reward_chosen"] == first["reward_rejected"] == 0 and first["accuracy"] == 0.5
    assert first["loss"] == pytest.approx(math.log(2) + NLL * first["nll"], rel=1e-6)
    names = ("val_loss", "val_accuracy", "val_margin", "val_reward_chosen", "val_reward_rejected", "val_nll")
    expected = dpo_means(causal(output / "checkpoint"), causal(work.base), val_rows(work, work.prefs))
    for name, value in zip(names, expected):
        assert last[name] == pytest.approx(value, rel=2e-4, abs=1e-5), name  # differences of sums of 10 to 40 nats
    assert last["val_margin"] > 0.05 and last["val_accuracy"] > 0.7


def test_reward(work):
    """Scores are those of transformers' LlamaForSequenceClassification; answers are told apart better than before."""
    output = work.folder / "reward"
    work.run(precision="fp32", output=output, **work.task("reward", steps=60))
    log = evaluations(read_log(output / "log.jsonl"))
    expected = reward_means(output / "checkpoint", val_rows(work, work.prefs))
    for name, value in zip(("val_loss", "val_accuracy", "val_margin"), expected):
        assert log[-1][name] == pytest.approx(value, rel=1e-4, abs=1e-5), name
    assert log[-1]["val_accuracy"] > 0.8 and log[-1]["val_loss"] < log[0]["val_loss"]
    fields = json.loads((output / "checkpoint/config.json").read_text())
    assert fields["architectures"] == ["LlamaForSequenceClassification"]
    out, _ = work.run(precision="fp32", eval_only=True, task="reward", init_from=output / "checkpoint", config=None, train_data=None,
                      val_data=work.prefs / "val_*.bin", seq_len=64, steps=None, lr=None, warmup_steps=None, output=None)  # fmt: skip
    assert f"{100 * log[-1]['val_accuracy']:.1f} % of" in out


@pytest.mark.parametrize("changes", [dict(dpo_loss="ipo"), dict(label_smoothing=0.2), dict(dpo_beta=0.5, dpo_nll=0),
                                     dict(dpo_nll_sum=True)], ids=lambda c: "-".join(c))  # fmt: skip
def test_dpo_options_change_the_run(work, tmp_path, changes):
    work.run(precision="fp32", output=tmp_path / "plain", **work.task("dpo", steps=3, eval_every=0))
    work.run(precision="fp32", output=tmp_path / "other", **work.task("dpo", steps=3, eval_every=0), **changes)
    plain, other = (losses(read_log(tmp_path / name / "log.jsonl")) for name in ("plain", "other"))
    assert all(a != b for a, b in zip(plain[1:], other[1:]))  # before the first update margins are 0


def test_finetuning_in_bf16(work, tmp_path):
    """bf16 runs the same step: the first DPO step still prefers nothing, and losses are near those of fp32."""
    for task in TASKS:
        for precision in ("bf16", "fp32"):
            work.run(precision=precision, output=tmp_path / task / precision, **work.task(task, steps=2))
        ours, exact = (read_log(tmp_path / task / p / "log.jsonl") for p in ("bf16", "fp32"))
        assert losses(ours)[0] == pytest.approx(losses(exact)[0], rel=0.02)
        if task == "dpo":
            assert ours[0]["margin"] == 0


def test_defaults(work, tmp_path):
    """The paper's learning rate; so many epochs, to the next whole step."""
    epochs = {"sft": 2, "dpo": 1, "reward": 1}
    for task in TASKS:
        out, _ = work.run(precision="fp32", output=tmp_path / task, save="off", **work.task(task, steps=None, lr=None, eval_every=0))
        options = json.loads((tmp_path / task / "trainer_options.json").read_text())
        packs = int(out.partition(" packs of ")[0].split()[-1])
        assert options["lr"] == 1e-5 and options["steps"] == math.ceil(epochs[task] * packs / 4) == len(losses(read_log(tmp_path / task / "log.jsonl")))
    work.run(precision="fp32", output=tmp_path / "half", save="off", epochs=0.5, **work.task("sft", steps=None, eval_every=0))
    assert json.loads((tmp_path / "half/trainer_options.json").read_text())["steps"] == math.ceil(packs_of(work, "sft") / 8)


def packs_of(work, task):
    out, _ = work.run(precision="fp32", output=work.folder / "packs", overwrite=True, save="off", **work.task(task, steps=1, eval_every=0))
    return int(out.partition(" packs of ")[0].split()[-1])


# ---- many ranks, resuming

@pytest.mark.parametrize("task", TASKS)
def test_two_ranks(work, tmp_path, task):
    """The same training as one rank's; with the same bits each time."""
    work.run(precision="fp32", output=tmp_path / "one", **work.task(task, steps=20))
    for name in ("two", "again"):
        work.run_ranks(2, output=tmp_path / name, **work.task(task, steps=20, batch_size=2))
    one, two, again = (read_log(tmp_path / name / "log.jsonl") for name in ("one", "two", "again"))
    assert losses(two) == losses(again)
    for a, b in zip(losses(one), losses(two)):
        assert b == pytest.approx(a, rel=1e-5)
    for name in ("accuracy", "margin", "reward_chosen", "reward_rejected") if task != "sft" else ():
        assert [line[name] for line in two if "loss" in line] == pytest.approx([line[name] for line in one if "loss" in line], rel=1e-3, abs=1e-5)
    for name in ("val_loss", "val_accuracy", "val_margin") if task != "sft" else ("val_loss",):
        assert evaluations(two)[-1][name] == pytest.approx(evaluations(one)[-1][name], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("zero", [0, 2])
def test_zero_stages(work, tmp_path, zero):
    work.run_ranks(2, output=tmp_path / "one", **work.task("dpo", steps=5, batch_size=2, eval_every=0))
    work.run_ranks(2, output=tmp_path / "other", zero=zero, **work.task("dpo", steps=5, batch_size=2, eval_every=0))
    one, other = (losses(read_log(tmp_path / name / "log.jsonl")) for name in ("one", "other"))
    assert other == pytest.approx(one, rel=1e-5)


@pytest.mark.parametrize("task", TASKS)
def test_resume(work, tmp_path, task):
    """Stopped after some steps and gone on with: the bits of a run that was never stopped."""
    options = work.task(task, steps=12, eval_every=6, schedule_steps=12)
    work.run(precision="fp32", output=tmp_path / "whole", **options)
    work.run(precision="fp32", output=tmp_path / "parts", resume="auto", **options | dict(steps=5))
    out, _ = work.run(precision="fp32", output=tmp_path / "parts", resume="auto", **options)
    assert "reference log-probabilities" not in out
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert losses(read_log(whole / "log.jsonl")) == losses(read_log(parts / "log.jsonl"))
    for name in ("model.safetensors", "trainer/optimizer.safetensors"):
        assert (whole / "checkpoint" / name).read_bytes() == (parts / "checkpoint" / name).read_bytes()


# ---- the reference's log-probabilities

@pytest.fixture
def prefs(work, tmp_path):
    """A copy of the preference data without log-probabilities, as options."""
    folder = tmp_path / "prefs"
    shutil.copytree(work.prefs, folder, ignore=shutil.ignore_patterns("reference_*"))
    return dict(train_data=folder / "train_*.bin", val_data=folder / "val_*.bin", folder=folder)


def dpo(work, prefs, **changes):
    data = {name: value for name, value in prefs.items() if name != "folder"}
    return dict(precision="fp32", **work.task("dpo", steps=3, eval_every=0) | data | changes)


def references(prefs):
    return sorted(prefs["folder"].glob("reference_*.bin"))


def test_reference_is_computed_once(work, prefs, tmp_path):
    out, _ = work.run(output=tmp_path / "none", reference_only=True, **dpo(work, prefs))
    kept = references(prefs)
    assert len(kept) == 2 and "step 1/3" not in out and not (tmp_path / "none/log.jsonl").exists()
    before = [path.stat().st_mtime_ns for path in kept]
    first, _ = work.run(output=tmp_path / "one", **dpo(work, prefs))
    work.run(output=tmp_path / "two", **dpo(work, prefs, dpo_beta=0.3, lr="1e-4"))
    assert references(prefs) == kept and [path.stat().st_mtime_ns for path in kept] == before
    assert "reference log-probabilities" not in first
    work.run(output=tmp_path / "three", **dpo(work, prefs, seq_len=48))  # other packs, other rounding
    assert len(references(prefs)) == 4


def test_stop_while_it_is_computed(work, prefs, tmp_path):
    """A signal that waits for the program as it starts: nothing is kept, and it says so."""
    settings = dpo(work, prefs)
    settings.pop("precision")
    command = [program("fp32"), *work.arguments(output=tmp_path / "run", reference_only=True, **settings)]

    def leave_signal():
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        os.kill(os.getpid(), signal.SIGTERM)

    done = subprocess.run(list(map(str, command)), preexec_fn=leave_signal, capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stderr) == (0, "") and references(prefs) == []
    assert done.stdout.count("stopped before all were computed: none is kept") == 2  # of both sets


def test_ranks_compute_it_together(work, prefs, tmp_path):
    one, two = (dict(prefs, **copy) for copy in [{}, {}])
    work.run(output=tmp_path / "one", reference_only=True, **dpo(work, one, batch_size=2))
    values = [path.read_bytes() for path in references(prefs)]
    for path in references(prefs):
        path.unlink()
    work.run_ranks(3, output=tmp_path / "two", reference_only=True, **dpo(work, two, batch_size=2))
    assert [path.read_bytes() for path in references(prefs)] == values


def test_reference_of_another_model(work, prefs, tmp_path):
    """Another model's has another name; under this one's name it is refused."""
    work.run(output=tmp_path / "one", reference_only=True, **dpo(work, prefs))
    ours = references(prefs)
    work.run(output=tmp_path / "sft", precision="fp32", **work.task("sft", steps=2))
    work.run(output=tmp_path / "two", reference_only=True, **dpo(work, prefs, init_from=tmp_path / "sft/checkpoint"))
    theirs = [path for path in references(prefs) if path not in ours]
    assert len(theirs) == 2
    size = {path.stat().st_size: path for path in theirs}
    for path in ours:
        path.write_bytes(size[path.stat().st_size].read_bytes())
    work.refused("reference_", "another model", output=tmp_path / "three", **dpo(work, prefs))


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "longer"])
def test_damaged_reference(work, prefs, tmp_path, damage):
    work.run(output=tmp_path / "one", reference_only=True, **dpo(work, prefs))
    for path in references(prefs):
        data = bytearray(path.read_bytes())
        if damage == "flipped":
            data[70] ^= 1
        path.write_bytes({"flipped": data, "cut": data[:-5], "empty": b"", "longer": data + b"x"}[damage])
    work.refused("reference_", output=tmp_path / "two", **dpo(work, prefs))


def test_reference_missing_on_resume(work, prefs, tmp_path):
    run = dpo(work, prefs, resume="auto", steps=2, schedule_steps=4)
    work.run(output=tmp_path / "run", **run)
    for path in references(prefs):
        path.unlink()
    work.refused("reference_", "missing", "--reference-only", output=tmp_path / "run", **run | dict(steps=4))
    work.run(output=tmp_path / "aside", reference_only=True, **dpo(work, prefs))
    work.run(output=tmp_path / "run", **run | dict(steps=4))


def test_data_that_cannot_be_written_to(work, prefs, tmp_path):
    """The log-probabilities are kept in the run's folder."""
    work.run(output=tmp_path / "one", reference_only=True, **dpo(work, prefs))
    names = [path.name for path in references(prefs)]
    for path in references(prefs):
        path.unlink()
        (path.parent / (path.name + ".tmp")).mkdir()  # root may write into any folder
    work.run(output=tmp_path / "two", **dpo(work, prefs))
    assert sorted(path.name for path in (tmp_path / "two").glob("reference_*.bin")) == names
    out, _ = work.run(output=tmp_path / "two", resume="auto", **dpo(work, prefs, steps=4))
    assert "reference log-probabilities" not in out


# ---- what is refused

@pytest.mark.parametrize("changes, words", [
    (dict(init_from=None), ["--config", "--init-from"]),
    (dict(config="x", init_from=None), ["--config 'x'", "--init-from DIR"]),
    (dict(document_mask="off"), ["--document-mask off"]),
    (dict(dpo_beta=0.2), ["--dpo-beta", "--task dpo", "--task sft"]),
    (dict(dpo_nll_sum=True), ["--dpo-nll-sum"]),
    (dict(reference_only=True), ["--reference-only"]),
    (dict(label_smoothing=0.1), ["--label-smoothing"]),
    (dict(task="dpo", label_smoothing=0.6), ["--label-smoothing", "0.6"]),
    (dict(task="dpo", label_smoothing=0.1, dpo_loss="ipo"), ["--label-smoothing", "ipo"]),
    (dict(task="pretrain", skip_long=True), ["--skip-long"]),
    (dict(task="reward", sample_every=5), ["--sample-every", "reward model"]),
    (dict(epochs=1), ["--steps", "--epochs"]),
    (dict(task="rlhf"), ["--task", "pretrain|sft|dpo|reward", "rlhf"]),
], ids=lambda value: "-".join(value) if isinstance(value, dict) else "")  # fmt: skip
def test_options_refused(work, changes, words):
    work.refused(*words, precision="fp32", output=work.folder / "refused", **work.task("sft") | changes)


def test_reward_models_score_no_texts(work):
    for changes, words in [(dict(eval_only=True, steps=None, lr=None, warmup_steps=None, seq_len=None, train_data=None), []), ({}, [])]:
        work.refused("--eval-tasks", "reward model", precision="fp32", output=None if changes else work.folder / "refused",
                     **work.task("reward", val_data=None, eval_every=0, eval_tasks=work.data / "x.eval") | changes)  # fmt: skip


def test_data_of_another_kind(work):
    for task, data, words in [("sft", work.prefs, ["comparisons", "conversations"]), ("dpo", work.chat, ["conversations", "comparisons"]),
                              ("reward", work.data, ["comparisons"]), ("sft", work.data, ["conversations"])]:
        work.refused(*words, precision="fp32", output=work.folder / "refused",
                     **work.task(task, train_data=data / "train_*.bin", val_data=None, eval_every=0))
    work.refused("conversations", "documents", precision="fp32", output=work.folder / "refused",
                 train_data=work.chat / "train_*.bin")


def test_rows_longer_than_a_pack(work, tmp_path):
    """Refused, or left out of both sets: counted, and the first named."""
    task, said = work.task("sft", seq_len=16, steps=2), {}
    for split in ("train", "val"):
        path = work.chat / f"{split}_000.bin"
        longer = [(i, len(row.prompt)) for i, row in enumerate(rows.read_rows(path), 1) if len(row.prompt) > 16]
        said[split] = (f"skipped   {len(longer)} of the rows of --{split}-data, longer than --seq-len 16 (--skip-long), the first: "
                       f"{path}: row {longer[0][0]} (line ", f") takes {longer[0][1]} positions")  # fmt: skip
    work.refused("--seq-len", "--skip-long", precision="fp32", output=tmp_path / "run", **task)
    out, _ = work.run(precision="fp32", output=tmp_path / "run", skip_long=True, **task)
    evaluated, _ = work.run(precision="fp32", eval_only=True, task="sft", init_from=tmp_path / "run/checkpoint", config=None,
                            train_data=None, val_data=work.chat / "val_*.bin", seq_len=16, skip_long=True, steps=None, lr=None,
                            warmup_steps=None, output=None)  # fmt: skip
    for text, splits in ((out, ("train", "val")), (evaluated, ("val",))):
        found = [line for line in text.splitlines() if line.startswith("skipped ")]
        assert len(found) == len(splits)
        for line, split in zip(found, splits):
            assert line.startswith(said[split][0]) and line.endswith(said[split][1]), (line, said[split])


def test_reward_head(work, tmp_path):
    """A reward model is no language model; one without its head is refused; one with it is trained on."""
    work.run(precision="fp32", output=tmp_path / "reward", **work.task("reward", steps=2))
    reward = tmp_path / "reward/checkpoint"
    for task in ("sft", "dpo"):
        work.refused("reward model", precision="fp32", output=tmp_path / "x", **work.task(task, init_from=reward))
    work.refused("reward model", precision="fp32", eval_only=True, task="reward", init_from=work.base, config=None, train_data=None,
                 val_data=work.prefs / "val_*.bin", steps=None, lr=None, warmup_steps=None, output=None)  # fmt: skip
    before = evaluations(read_log(tmp_path / "reward/log.jsonl"))[-1]
    out, _ = work.run(precision="fp32", output=tmp_path / "more", **work.task("reward", init_from=reward, steps=1, lr="0", eval_every=1))
    assert evaluations(read_log(tmp_path / "more/log.jsonl"))[-1] == before | {"step": 1}
    headless = tmp_path / "headless"
    shutil.copytree(work.base, headless, ignore=shutil.ignore_patterns("trainer"))
    shutil.copy(reward / "config.json", headless / "config.json")
    work.refused("score.weight", precision="fp32", output=tmp_path / "x", **work.task("reward", init_from=headless))


def test_tokenizer_of_another_model(work, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(work.base, other, ignore=shutil.ignore_patterns("trainer"))
    text = (other / "tokenizer.json").read_text()
    (other / "tokenizer.json").write_text(text.replace("<|end_of_text|>", "<|the_end|>"))
    work.refused("tokenizer", precision="fp32", output=tmp_path / "x", **work.task("sft", init_from=other))


def test_few_pairs(work, tmp_path):
    """Many rows, few packs: validation sees every pair once."""
    rng = np.random.default_rng(5)
    folder = work.folder / "few"
    if not folder.exists():
        work.rows_folder("few")
    made = comparisons(rng, 7, 3)
    work.write_rows(folder, "val", rows.COMPARISONS, made)
    work.run(precision="fp32", output=tmp_path / "run", **work.task("reward", steps=1, eval_every=1, val_data=folder / "val_*.bin"))
    expected = reward_means(tmp_path / "run/checkpoint", made)
    assert evaluations(read_log(tmp_path / "run/log.jsonl"))[-1]["val_loss"] == pytest.approx(expected[0], rel=1e-5)


def test_chat_template_of_the_rows(work, tmp_path):
    """The model is saved with it, in place of the template of the model that training began with."""
    base = tmp_path / "base"
    shutil.copytree(work.base, base, ignore=shutil.ignore_patterns("trainer"))
    (base / "chat_template.jinja").write_text("of the model")
    (base / "generation_config.json").write_text("{}")
    data = tmp_path / "data"
    shutil.copytree(work.chat, data)
    for template in (None, "of the rows"):
        if template:
            (data / "chat_template.jinja").write_text(template)
            (data / "tokenizer_config.json").write_text('{"chat_template": "of the rows"}')
        options = work.task("sft", init_from=base, train_data=data / "train_*.bin", steps=1)
        work.run(precision="fp32", output=tmp_path / "run", overwrite=True, **options)
        saved = tmp_path / "run/checkpoint"
        assert (saved / "chat_template.jinja").read_text() == (template or "of the model")
        assert (saved / "tokenizer_config.json").read_bytes() == (data / "tokenizer_config.json").read_bytes()
        assert json.loads((saved / "generation_config.json").read_text())


def test_end_of_turn_becomes_an_end_token(work, tmp_path):
    work.run(precision="fp32", output=tmp_path / "run", **work.task("sft", steps=1))
    ends = json.loads((tmp_path / "run/checkpoint/config.json").read_text())["eos_token_id"]
    assert EOS in (ends if isinstance(ends, list) else [ends])


@pytest.mark.parametrize("task", ["pretrain", "sft"])
def test_validation_is_of_the_same_batches_whatever_the_seed(tmp_path, task):
    """Weights that stay: each evaluation, in each epoch and of each seed, of one batch of several, is the same number."""
    work, found = Finetuning(tmp_path, steps=2), []
    options = dict(config=None, init_from=work.base, val_data=work.data / "val_*.bin") if task == "pretrain" else work.task(task)
    for seed in (1, 2):
        work.run(**options | dict(precision="fp32", steps=3, seed=seed, lr=0, weight_decay=0, eval_every=1, eval_batches=1), overwrite=True)
        found += [line["val_loss"] for line in work.log() if "val_loss" in line]
    assert len(found) >= 6 and len(set(found)) == 1, found
