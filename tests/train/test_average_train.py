"""--average-from: the running mean of the weights over steps, against the masters of the checkpoints themselves; part of a run's
state, and a model of its own in each checkpoint."""

import ctypes
import json
import re

import numpy as np
import pytest
import safetensors.torch
import torch
from transformers import AutoModelForCausalLM

import checkpoints
import llmc
from seeds import SEED
import badsteps
from badsteps import Stepper
from trainrun import ON_CPU, T, Workplace, documents, read_log, snapshot

STEPS, FROM, EVERY = 9, 3, 2
SAMPLES = [3, 5, 7, 9]
AVERAGING = {"average_from": FROM, "average_every": EVERY}
ROUNDED = {"bf16": torch.bfloat16, "fp32": torch.float32}


@pytest.fixture
def rng():
    return np.random.default_rng(SEED)


@pytest.fixture
def work(tmp_path):
    return Workplace(tmp_path)


def folder_of(run, step):
    return run / f"checkpoints/step_{step:08d}"


def arrays(run, step, name):
    """{parameter: fp32 values} of one of the training arrays, from whichever parts."""
    pieces = {}
    for path in sorted((folder_of(run, step) / "trainer").glob("optimizer*.safetensors")):
        for key, values in safetensors.torch.load_file(path).items():
            whole = re.fullmatch(rf"{name}\.([^\[]+)(?:\[(\d+):(\d+)\])?", key)
            if whole:
                pieces.setdefault(whole[1], []).append((int(whole[2] or 0), values.reshape(-1)))
    return {key: torch.cat([v for _, v in sorted(found, key=lambda p: p[0])]) for key, found in pieces.items()}


def check_average(run, step, samples, precision):
    """The mean of those steps' masters, in float64, up to a rounding (2^-24 of the largest) a sample; and averaged/ is it, rounded."""
    masters = [arrays(run, s, "master") for s in samples]
    mean = arrays(run, step, "average")
    state = json.loads((folder_of(run, step) / "trainer/state.json").read_text())
    assert state["average_samples"] == len(samples) and mean.keys() == arrays(run, step, "master").keys()
    if not samples:
        assert not any(v.any() for v in mean.values()) and not (folder_of(run, step) / "averaged").exists()
        return
    model = safetensors.torch.load_file(folder_of(run, step) / "averaged/model.safetensors")
    assert model.keys() == mean.keys()
    for name, found in mean.items():
        all_of_them = torch.stack([m[name] for m in masters]).double()
        limit = len(samples) * 2.0**-24 * all_of_them.abs().max(dim=0).values
        assert ((found.double() - all_of_them.mean(dim=0)).abs() <= limit).all(), name
        assert torch.equal(model[name].reshape(-1), found.to(ROUNDED[precision]))


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_each_checkpoint(work, precision):
    """Steps before the first sample have none; training itself is as without; the mean is a Hugging Face directory."""
    out, err = work.run(precision=precision, steps=STEPS, save_every=1, keep_last=0, **AVERAGING)
    assert err == "" and re.search(r"^  averaged weights +\d+\.\d MiB", out, re.M)
    for step in range(1, STEPS + 1):
        check_average(work.output, step, [s for s in SAMPLES if s <= step], precision)
        checkpoints.verify(llmc.load(precision), folder_of(work.output, step))
    averaged = work.output / "checkpoint/averaged"
    assert checkpoints.files(averaged) == ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    for name in ("config.json", "tokenizer.json"):
        assert (averaged / name).read_bytes() == (averaged.parent / name).read_bytes()
    model = AutoModelForCausalLM.from_pretrained(averaged)
    assert torch.equal(model.lm_head.weight, safetensors.torch.load_file(averaged / "model.safetensors")["lm_head.weight"])
    plain = work.folder / "plain"
    work.run(precision=precision, steps=STEPS, output=plain)
    assert arrays(plain, STEPS, "average") == {} and not (plain / "checkpoint/averaged").exists()
    for array in checkpoints.ARRAYS:
        ours, theirs = arrays(work.output, STEPS, array), arrays(plain, STEPS, array)
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs) and ours.keys() == theirs.keys()


def test_checksums_know_it(work):
    work.run(steps=3, average_from=1)
    path = work.output / "checkpoint/averaged/model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    _, err = work.run(steps=5, average_from=1, resume="auto", code=2)
    assert "averaged/model.safetensors" in err and "damaged" in err


@pytest.mark.parametrize("stops", [[1], [4], [5], [2, 3, 6, 8]])
def test_same_bits_after_a_resume(work, stops):
    common = {"schedule_steps": STEPS, **AVERAGING}
    work.run(steps=STEPS, output=work.folder / "whole", **common)
    for steps in [*stops, STEPS]:
        work.run(steps=steps, resume="auto", **common)
    whole, ours = snapshot(work.folder / "whole/checkpoint"), snapshot(work.output / "checkpoint")
    for name in ("averaged/model.safetensors", "trainer/optimizer.safetensors", "model.safetensors"):
        assert ours[name] == whole[name], name


def test_validation_of_the_mean(work):
    """What the run logs is what --eval-only finds of averaged/; the last weights are validated, and saved, as themselves."""
    options = {"steps": STEPS, "val_data": work.data / "val_*.bin", "eval_every": 4, "eval_batches": 3}
    out, _ = work.run(precision="fp32", **options, **AVERAGING)
    lines = [line for line in work.log() if "val_loss_averaged" in line]
    assert [(line["step"], line["averaged_steps"]) for line in lines] == [(STEPS, len(SAMPLES))]
    assert f"validation loss {lines[0]['val_loss_averaged']:.4f} of the weights averaged over {len(SAMPLES)} steps" in out
    validated = [line["val_loss"] for line in work.log() if "val_loss" in line]
    plain = work.folder / "plain"
    work.run(precision="fp32", output=plain, **options)
    assert [line["val_loss"] for line in read_log(plain / "log.jsonl") if "val_loss" in line] == validated
    assert (plain / "checkpoint/model.safetensors").read_bytes() == (work.output / "checkpoint/model.safetensors").read_bytes()
    out, _ = work.run(precision="fp32", config=None, train_data=None, steps=None, warmup_steps=None, lr=None, output=None, eval_only=True,
                      init_from=work.output / "checkpoint/averaged", val_data=options["val_data"], eval_batches=3)  # fmt: skip
    assert f"validation loss {lines[0]['val_loss_averaged']:.4f}\n" in out
    assert abs(lines[0]["val_loss_averaged"] - validated[-1]) > 1e-3


def test_skipped_steps_are_no_samples(lib, work):
    """Step 4 is not finite: it leaves the weights of step 3, which would count twice."""
    run = Stepper(lib, work, steps=6, average_from=2, threads=None)
    index = run.model.names.index("model.norm.weight")
    good = run.model.weights()["model.norm.weight"]

    def put(values):
        run.lib.llama3_set_parameter_piece(run.model.handle, index, 0, 64, values)

    for step in range(1, 7):
        if step == 4:
            good = run.model.weights()["model.norm.weight"]
            put(torch.full_like(good, float("nan")))
        run.step()
        if step == 4:
            put(good)
    run.check(run.lib.c.finish_run(run.trainer, ctypes.byref(run.error)))
    run.close()
    state = json.loads((work.output / "checkpoint/trainer/state.json").read_text())
    assert state["skipped_steps"] == 1 and state["average_samples"] == 4  # of steps 2, 3, 5, 6


def test_rollback_takes_the_mean_back(work, rng):
    """A run that is rolled back goes on with the mean of the checkpoint, not with samples of the steps that are undone."""
    badsteps.run(work, on_spike="rollback", save_every=10, average_from=1, **badsteps.spiky_options(work, rng))
    (back,) = [line for line in work.log() if "rolled_back_to" in line]
    assert back["step"] > back["rolled_back_to"] + 1
    state = json.loads((work.output / "checkpoint/trainer/state.json").read_text())
    assert state["average_samples"] == state["step"] == badsteps.STEPS


# ---- resuming with other options


def test_changes(work):
    """The options are compared; a mean that begins with a resume is one of that part, as if it had begun there."""
    work.run(steps=3, schedule_steps=STEPS)
    work.refused("--average-from 5 (was 0)", resume="auto", steps=STEPS, average_from=5)
    work.run(resume="auto", steps=STEPS, average_from=5, accept_changes=True, save_every=1, keep_last=0)
    check_average(work.output, STEPS, [5, 6, 7, 8, 9], "bf16")
    work.refused("--average-every 2 (was 1)", resume="auto", steps=STEPS + 1, average_from=5, average_every=2)
    work.run(resume="auto", steps=STEPS + 1, accept_changes=True)
    assert arrays(work.output, STEPS + 1, "average") == {} and not (work.output / "checkpoint/averaged").exists()
    assert "average_samples" not in json.loads((work.output / "checkpoint/trainer/state.json").read_text())


def test_a_mean_that_is_missing(work):
    """state.json tells of samples, the file has none, and the checksums are right."""
    work.run(steps=4, average_from=1)
    checkpoint = work.output / "checkpoint"
    path = checkpoint / "trainer/optimizer.safetensors"
    kept = safetensors.torch.load_file(path)
    for dropped, words in (("model.norm.weight", ["average.model.norm.weight", "missing"]), ("", ["average.", "missing", "4 samples"])):
        safetensors.torch.save_file({k: v for k, v in kept.items() if not (k.startswith("average.") and dropped in k)}, path)
        lines = [line for line in (checkpoint / checkpoints.SUMS).read_text().splitlines() if not line.startswith("#")]
        lines = [f"{checkpoints.digest(llmc.load('bf16'), path.read_bytes())}  trainer/optimizer.safetensors" if "optimizer" in x else x for x in lines]
        checkpoints.write_sums(llmc.load("bf16"), checkpoint.resolve(), lines)
        work.refused(*words, resume="auto", steps=6, average_from=1)


# ---- many ranks


@pytest.mark.skipif(not ON_CPU, reason="ranks that outnumber the GPUs: the cpu target's tests")
@pytest.mark.parametrize("count, zero", [(2, 1), (3, 2), (2, 0)])
def test_ranks(work, rng, count, zero):
    """Each rank keeps its shard's mean, so that memory falls; rank 0 makes the model of it. Any number of ranks goes on."""
    work.write("val_000.bin", documents(rng, 60 * T + 1))  # more windows than any of them takes
    options = {"steps": STEPS, "schedule_steps": STEPS, "batch_size": 12 // count, "checksum_every": 0, "val_data": work.data / "val_*.bin",
               **AVERAGING}  # fmt: skip
    out, err = work.run_ranks(count, zero=zero, save_every=1, keep_last=0, eval_batches=count, **options)
    assert err == ""
    for step in (1, 2, 3, 6, 9):
        check_average(work.output, step, [s for s in SAMPLES if s <= step], "fp32")
        checkpoints.verify(llmc.load("fp32"), folder_of(work.output, step))
    for path in folder_of(work.output, STEPS).glob("model*.safetensors"):  # what was validated last is not what is trained
        for name, values in safetensors.torch.load_file(path).items():
            assert torch.equal(values.reshape(-1), arrays(work.output, STEPS, "master")[name]), name
    (logged,) = [line["val_loss_averaged"] for line in work.log() if "val_loss_averaged" in line]

    def kept(text):
        return float(re.search(r"averaged weights +(\d+\.\d) MiB", text)[1])

    other = work.folder / "other"
    once, _ = work.run(precision="fp32", resume=folder_of(work.output, 6), output=other, save_every=1, keep_last=0,
                       eval_batches=1, **{**options, "batch_size": 12})  # fmt: skip
    assert kept(out) == pytest.approx(kept(once) / (count if zero else 1), abs=0.06)
    (alone,) = [line["val_loss_averaged"] for line in read_log(other / "log.jsonl") if "val_loss_averaged" in line]
    assert alone == pytest.approx(logged, rel=1e-5)
    ours, theirs = arrays(work.output, STEPS, "average"), arrays(other, STEPS, "average")
    for name in ours:
        torch.testing.assert_close(theirs[name], ours[name], rtol=0, atol=1e-4 * ours[name].abs().max().item(), msg=name)
    back = work.folder / "back"
    work.run_ranks(count, zero=zero, resume=folder_of(other, 8), output=back, **options)
    check = arrays(back, STEPS, "average")
    for name in check:
        torch.testing.assert_close(check[name], ours[name], rtol=0, atol=1e-4 * ours[name].abs().max().item(), msg=name)


@pytest.mark.skipif(not ON_CPU, reason="ranks that outnumber the GPUs: the cpu target's tests")
def test_ranks_same_bits_after_a_resume(work):
    common = {"schedule_steps": STEPS, "batch_size": 2, "checksum_every": 0, **AVERAGING}
    work.run_ranks(2, steps=STEPS, output=work.folder / "whole", **common)
    for steps in (4, 7, STEPS):
        work.run_ranks(2, steps=steps, resume="auto", **common)
    whole, ours = snapshot(work.folder / "whole/checkpoint"), snapshot(work.output / "checkpoint")
    names = [name for name in whole if name.endswith(".safetensors")]
    assert len(names) == 5 and all(ours[name] == whole[name] for name in names)
