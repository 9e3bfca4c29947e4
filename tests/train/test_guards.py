"""What train_llama3 does about single bad steps: skips, spikes, checksums of the weights."""

import json

import numpy as np
import pytest

from badsteps import ROWS, STEPS, Stepper, run, spiky_options
from trainrun import ON_CPU, Workplace


@pytest.fixture
def work(tmp_path):
    return Workplace(tmp_path)


def checksums(log):
    return {line["step"]: line["weights_checksum"] for line in log if "weights_checksum" in line}


# ---- updates that are not made


def test_a_step_that_is_not_finite_changes_nothing(lib, work):
    """One weight is NaN during step 4 and itself again afterwards."""
    options = dict(steps=8, checksum_every=1, lr="1e-3", threads=None)
    run = Stepper(lib, work, **options)
    for _ in range(3):
        run.step()
    good = run.model.weights()["model.norm.weight"]
    bad = good.clone()
    bad[5] = float("nan")
    run.model.set_weights({"model.norm.weight": bad})
    poisoned = run.model.checksum()
    run.step()
    assert run.model.checksum() == poisoned
    run.model.set_weights({"model.norm.weight": good})
    for _ in range(4):
        run.step()
    run.close()
    log = work.log()
    assert [line for line in log if "skipped" in line] == [
        {"step": 4, "skipped": "loss is nan", "batch": 3, "skipped_steps": 1}]
    losses = {line["step"]: line["loss"] for line in log if "loss" in line}
    assert list(losses) == list(range(1, 9)) and losses[4] is None and losses[8] < losses[1]
    sums = checksums(log)
    assert len({sums[s] for s in sums if s != 4}) == 7


def test_a_skipped_step_is_no_update_for_adam(lib, work):
    """With a constant learning rate, a run whose first step is skipped makes an update of Adam's first step next: every
    weight moves by the learning rate, which with the correction of a second step it would not."""
    run = Stepper(lib, work, steps=8, lr="1e-3", weight_decay="0", threads=None, final_lr_fraction="1")
    good = run.model.weights()["model.norm.weight"]
    bad = good.clone()
    bad[5] = float("nan")
    run.model.set_weights({"model.norm.weight": bad})
    run.step()
    run.model.set_weights({"model.norm.weight": good})
    before = run.model.weights()["model.layers.0.mlp.up_proj.weight"].double()
    run.step()
    moved = (run.model.weights()["model.layers.0.mlp.up_proj.weight"].double() - before).abs()
    run.close()
    # bf16 weights of 0.02 round the move of 0.001 by up to 6 %, on average by nothing; the wrong correction gives 0.74 of it
    assert moved.mean().item() == pytest.approx(1e-3, rel=0.03)


def test_so_many_in_a_row_stop_the_run(work):
    _, err = work.run(code=1, steps=50, lr="1e30", grad_clip="0", max_skipped=3)
    assert err.startswith("train_llama3: step ") and err.count("\n") == 1 and "nan" in err and "3 steps in a row" in err
    log = work.log()
    skips = [line for line in log if "skipped" in line]
    assert [line["step"] for line in skips] == list(range(skips[0]["step"], skips[0]["step"] + 3))
    assert "nan" in log[-1]["stopped"] and log[-1]["step"] == skips[-1]["step"]
    assert f"step {log[-1]['step']}:" in err and "--seed 42" in err  # from which the batch can be had again
    assert not (work.output / "checkpoint").exists()


# ---- loss spikes


@pytest.fixture
def rng():
    seed = np.random.SeedSequence().entropy % 2**32
    print(f"seed {seed}")
    return np.random.default_rng(seed)


@pytest.fixture
def spiky(work, rng):
    return spiky_options(work, rng)


def test_spike_is_logged(work, spiky):
    out, log = run(work, **spiky)
    spikes = [line for line in log if "spike" in line]
    assert len(spikes) == 1, spikes
    spike = spikes[0]
    losses = {line["step"]: line["loss"] for line in log if "loss" in line}
    assert spike["spike"] == losses[spike["step"]] == max(losses[s] for s in range(31, STEPS + 1))
    assert spike["limit"] < spike["spike"] and spike["batch"] == spike["step"] - 1
    assert f"step {spike['step']}: loss" in out and "spike" in out
    sums = checksums(log)
    assert sums[spike["step"]] != sums[spike["step"] - 1]
    assert not any("skipped" in line for line in log)


def test_spike_is_skipped(work, spiky):
    _, log = run(work, on_spike="skip", **spiky)
    spike = next(line for line in log if "spike" in line)
    skip = next(line for line in log if "skipped" in line)
    assert skip["step"] == spike["step"] and "spike" in skip["skipped"] and skip["skipped_steps"] == 1
    sums = checksums(log)
    assert [s for s in range(2, STEPS + 1) if sums[s] == sums[s - 1]] == [spike["step"]]


def test_rollback(work, spiky):
    """Back to the checkpoint before the spike, and on with the batches after it."""
    out, log = run(work, on_spike="rollback", save_every=10, **spiky)
    spike = next(line for line in log if "spike" in line)
    back = next(line for line in log if "rolled_back_to" in line)
    assert back["step"] == spike["step"] and back["rolled_back_to"] == (spike["step"] - 1) // 10 * 10
    assert f"rolled back to the checkpoint of step {back['rolled_back_to']}" in out
    steps = [line["step"] for line in log if "loss" in line]
    assert steps == [*range(1, spike["step"] + 1), *range(back["rolled_back_to"] + 1, STEPS + 1)]
    state = json.loads((work.output / "checkpoint/trainer/state.json").read_text())
    assert state["data_offset"] == spike["step"] - back["rolled_back_to"]
    losses = [line["loss"] for line in log if "loss" in line][spike["step"] :]
    assert max(losses) < spike["limit"]


def test_rollback_without_a_checkpoint(work, spiky):
    out, log = run(work, on_spike="rollback", **spiky)
    assert "no checkpoint to roll back to" in out and [line["step"] for line in log if "loss" in line] == [*range(1, STEPS + 1)]


def test_no_spikes_wanted(work, spiky):
    _, log = run(work, **spiky, spike_deviations=0, on_spike="skip", checksum_every=0)
    assert not any("spike" in line or "skipped" in line or "weights_checksum" in line for line in log)


# ---- checksums


def test_same_weights_same_checksum(work):
    """Kernel and definition: test_checksum.py."""
    _, log = run(work, steps=3, checksum_every=2)
    sums = checksums(log)
    assert list(sums) == [2, 3]
    assert all(len(s) == 16 and int(s, 16) >= 0 for s in sums.values())
    again = work.folder / "again"
    run_again = work.run(steps=3, batch_size=ROWS, lr="1e-3", checksum_every=3, output=again)
    assert run_again and checksums(work.log(again))[3] == sums[3]
    other = work.folder / "other"
    work.run(steps=3, batch_size=ROWS, lr="1e-3", checksum_every=3, seed=5, output=other)
    assert checksums(work.log(other))[3] != sums[3]


def test_statistics_survive_a_resume(work, spiky):
    """A run stopped before the spike and resumed sees it with the limit of the run that was not stopped."""
    _, log = run(work, **spiky)
    whole = next(line for line in log if "spike" in line)
    work.output = work.folder / "two"
    run(work, **spiky, schedule_steps=STEPS, **{"steps": whole["step"] - 3})
    _, log = run(work, **spiky, resume="auto")
    assert [line for line in log if "spike" in line] == [whole]


def test_skipped_steps_survive_a_resume(work, spiky):
    """Adam's bias correction counts updates, so a resumed run has to know how many steps had none."""
    _, log = run(work, on_spike="skip", **spiky)
    spike, whole = next(line for line in log if "spike" in line)["step"], checksums(log)
    work.output = work.folder / "two"
    run(work, on_spike="skip", **spiky, schedule_steps=STEPS, **{"steps": spike + 2})
    assert json.loads((work.output / "checkpoint/trainer/state.json").read_text())["skipped_steps"] == 1
    _, log = run(work, on_spike="skip", **spiky, resume="auto")
    assert checksums(log) == whole


# ---- by many ranks


@pytest.mark.skipif(not ON_CPU, reason="ranks that outnumber the GPUs: the cpu target's test")
def test_many_ranks_skip_and_roll_back_as_one(work, spiky):
    """The spike is in one rank's row; what is done about it is the same on all, which their weights' checksums show."""
    for on_spike in ("skip", "rollback"):
        output = work.folder / on_spike
        options = dict(steps=STEPS, batch_size=1, checksum_every=1, on_spike=on_spike, save_every=10, output=output)
        out, err = work.run_ranks(2, precision="bf16", **options, **spiky)
        log = work.log(output)
        spike = next(line for line in log if "spike" in line)
        assert err == "" and spike["spike"] > spike["limit"] and log[-1]["step"] == STEPS
        if on_spike == "skip":
            assert [line["step"] for line in log if "skipped" in line] == [spike["step"]]
        else:
            back = next(line["rolled_back_to"] for line in log if "rolled_back_to" in line)
            assert back == (spike["step"] - 1) // 10 * 10
            steps = [line["step"] for line in log if "loss" in line]
            assert steps == [*range(1, spike["step"] + 1), *range(back + 1, STEPS + 1)]
