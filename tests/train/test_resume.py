"""State that outlives a run: resumed after any end, on the same bits; what differs from the checkpoint is refused; damage,
full disks and a second run in the folder never cost a whole checkpoint."""

import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from types import SimpleNamespace

import numpy as np
import pytest
from transformers import AutoModelForCausalLM

import checkpoints
import llmc
import ranks
from seeds import SEED, how_often
from trainrun import BUILDS, ON_CPU, T, VOCAB, Workplace, documents, losses, program, read_log, snapshot
from waiting import wait_until

PRECISIONS = list(BUILDS)
STEPS = 24
# what the bits have to survive: accumulation, document masks, evaluation (which uses the model's buffers) and sampling
COMMON = {"steps": STEPS, "batch_size": 2, "grad_accum": 2, "eval_every": 4, "sample_every": 5, "sample_tokens": 6, "warmup_steps": 3}


@pytest.fixture
def work(tmp_path):
    return Workplace(tmp_path)


def common(work, **changes):
    return {**COMMON, "val_data": work.data / "val_*.bin", **changes}


def weights(folder):
    """What a run ends with, bit for bit: the model, master weights and moments."""
    return [(folder / "checkpoint" / name).read_bytes() for name in ("model.safetensors", "trainer/optimizer.safetensors")]


def steps_of(log):
    """The log's steps without what depends on the clock."""
    return [{k: v for k, v in line.items() if k != "tokens_per_second"} for line in log if "loss" in line]


@pytest.fixture(scope="module", params=PRECISIONS)
def whole(request, tmp_path_factory):
    """A run that is never stopped: its precision, steps and weights, and its folder with two checkpoints."""
    work = Workplace(tmp_path_factory.mktemp("whole"))
    work.run(precision=request.param, **common(work, save_every=16))
    return SimpleNamespace(precision=request.param, steps=steps_of(work.log()), weights=weights(work.output), work=work)


def assert_same_run(whole, work):
    assert steps_of(work.log()) == whole.steps
    assert weights(work.output) == whole.weights


# ---- the same bits


@pytest.mark.parametrize("stops", [[1], [8], [23], [3, 4, 11, 19]])
def test_same_bits_after_other_steps(whole, work, stops):
    """Ended by --steps and taken up again: as if never stopped. The log goes on, and so do its counters."""
    for steps in stops:
        work.run(precision=whole.precision, **common(work, steps=steps, schedule_steps=STEPS, resume="auto"))
    work.run(precision=whole.precision, **common(work, resume="auto"))
    assert_same_run(whole, work)
    assert [(line["step"], line["resumed"]) for line in work.log() if "resumed" in line] == [(s, f"step_{s:08d}") for s in stops]


def test_steps_only_say_where_to_stop(whole, work):
    """A run begun with --steps 12 and prolonged has the bits of one whose schedule had 12 steps from the start."""
    work.run(precision=whole.precision, **common(work, steps=12))
    work.run(precision=whole.precision, **common(work, steps=STEPS, resume="auto"))
    other = work.folder / "other"
    work.run(precision=whole.precision, **common(work, steps=STEPS, schedule_steps=12, output=other))
    assert weights(work.output) == weights(other) and steps_of(work.log()) == steps_of(work.log(other))
    assert [line["lr"] for line in work.log() if "loss" in line][12:] == pytest.approx([3e-5] * 12)  # the schedule's end


def test_same_bits_after_signals(whole, work):
    """Stopped again and again, each time by some signal at some moment."""
    log, stopped = work.output / "log.jsonl", 0

    def written():
        return log.stat().st_size if log.exists() else 0

    for turn in range(200):
        before = written()
        process = work.start(precision=whole.precision, **common(work, save_every=5, resume="auto"))
        if turn % 2:  # whatever it does by then
            time.sleep(random.uniform(0.05, 0.15))
        while turn % 2 == 0 and process.poll() is None and written() <= before:
            time.sleep(0.001)  # until it has gone on
        process.send_signal(random.choice([signal.SIGINT, signal.SIGTERM, signal.SIGUSR1]))
        out, err = (text.decode() for text in process.communicate(timeout=600))
        if process.returncode < 0 and out == "":
            continue  # before main
        assert process.returncode == 0 and err == "", (process.returncode, err)
        if "done" in out:
            break
        stopped += 1
        assert out.splitlines()[-1] in ("to go on: the same options and --resume auto",) or "nothing was trained yet" in out
    assert stopped >= 1
    assert_same_run(whole, work)


def observations(log):
    return [(line["step"], kind, line[kind]) for line in log for kind in ("val_loss", "sample") if kind in line]


def stop_until_done(work, count, steps, options):
    """Ranks stopped by a signal soon after each start until the run has all its steps; how often something was left out."""
    log, left_out = work.output / "log.jsonl", 0

    def written():
        return log.stat().st_size if log.exists() else 0

    for _ in range(200):
        before = written()
        process = ranks.start([program("fp32"), *work.arguments(**options)], ranks=count)
        try:
            while process.poll() is None and written() < before + 1000:
                time.sleep(0.001)
            process.send_signal(signal.SIGUSR1)  # mpirun passes it on
            out, err = process.communicate(timeout=600)
        finally:
            ranks.kill(process)
        assert process.returncode == 0 and err == "", (process.returncode, err)
        owed = "owed" in json.loads((work.output / "checkpoint" / "trainer" / "state.json").read_text())
        left_out += owed
        if f"done after {steps}" in out and not owed or "done: " in out:
            break
    return left_out


@pytest.mark.parametrize("count", [1, 2])
def test_what_a_signal_left_out_is_made_up(work, count):
    """Evaluations and samples that were due after the very step of a signal: the log has each once, as if there had been none."""
    steps = 40
    options = common(work, steps=steps, batch_size=2 // count, eval_every=1, sample_every=1, save_every=5, resume="auto")
    work.run_ranks(count, **options, output=work.folder / "whole")
    expected = observations(work.log(work.folder / "whole"))
    assert [(step, kind) for step, kind, _ in expected] == [(s, k) for s in range(1, steps + 1) for k in ("val_loss", "sample")]
    for attempt in range(10):  # on a busy machine a run may be over before this test has seen that it began
        work.output = work.folder / f"stopped{attempt}"
        left_out = stop_until_done(work, count, steps, {**options, "output": work.output})
        assert observations(work.log()) == expected
        if left_out:
            break
    assert left_out


def test_same_bits_from_a_folder_elsewhere(whole, work):
    """--resume DIR into another folder: a checkpoint by its name, or the newest of a run; its own log begins there."""
    work.run(precision=whole.precision, **common(work, steps=7, schedule_steps=STEPS, save_every=3))
    for start, step in ((work.output / "checkpoints" / "step_00000003", 3), (work.output / "checkpoint", 7), (work.output, 7)):
        other = work.folder / f"other{step}{start.name}"
        work.run(precision=whole.precision, **common(work, resume=start, output=other))
        assert weights(other) == whole.weights and steps_of(work.log(other)) == whole.steps[step:]
        assert work.log(other)[0] == {"step": step, "resumed": str((work.output / "checkpoints" / f"step_{step:08d}").resolve())}


@pytest.mark.parametrize("changes", [{"recompute": "block"}, {"optimizer_state": "host"}, {"activations": "host"}, {"threads": 2}, {"eval_every": 3},
                                     {"sample_every": 0}, {"save_every": 1}])  # fmt: skip
def test_changes_without_effect(whole, work, changes):
    """What the table calls without effect on the result is."""
    if "threads" in changes and not ON_CPU:
        pytest.skip("threads are an option of the cpu build")
    work.run(precision=whole.precision, **common(work, steps=6, schedule_steps=STEPS))
    out, _ = work.run(precision=whole.precision, **common(work, resume="auto", **changes))
    assert_same_run(whole, work)
    assert ("rounding may differ" in out) == ("threads" in changes)


def test_time_left_after_resume(work):
    """Judged by the steps of this process: thousands of steps are not done in a moment because hundreds were done before."""
    work.run(steps=300, schedule_steps=300)
    process = work.start(steps=1_000_000, resume="auto", log_every=5)
    wait_for(lambda: len(work.log()) > 330, process)
    process.terminate()
    out = process.communicate(timeout=600)[0].decode()
    line = [line for line in out.splitlines() if line.endswith(" left")][-1]
    seconds_a_step = T * 4 / np.median([line["tokens_per_second"] for line in work.log()[-20:] if "loss" in line])
    hours, minutes = re.search(r"(?:(\d+)d)?(\d+)h(\d+)", line).group(2, 3) if "h" in line else (0, re.search(r"(\d+)m", line)[1])
    days = re.search(r"(\d+)d", line)
    shown = 3600 * int(hours) + 60 * int(minutes) + (86400 * int(days[1]) if days else 0)
    assert shown > 0.3 * 1_000_000 * seconds_a_step, (line, seconds_a_step)


def wait_for(condition, process):
    def there():
        try:
            return condition()
        except (FileNotFoundError, ValueError, AssertionError):  # half of it is there
            return False

    wait_until(there, "what the test waits for", process=process)


# ---- kill -9


def test_kills(work):
    """Killed at many random moments, with a write nearly always under way (on a busy machine at more of them, until it has made
    steps and was killed in writes often enough); then the end has the undisturbed run's bits."""
    rng = random.Random(SEED)
    print(f"LLMC_TEST_SEED={SEED}")
    options = common(work, save_every=1, resume="auto", schedule_steps=2000, sample_every=50, eval_every=50)
    began = time.time()
    work.run(**common(work, steps=1, schedule_steps=2000, output=work.folder / "timed"))
    longest = 3 * (time.time() - began)  # so that a slow or busy machine gets to train too
    kills = in_writes = 0
    while kills < how_often(40, 400) or (kills < 1000 and (in_writes < 10 or newest_step(work.output) < 50)):
        process = work.start(**{**options, "steps": 100_000})
        time.sleep(rng.uniform(0, longest))
        process.kill()
        out, err = process.communicate(timeout=600)
        assert process.returncode == -signal.SIGKILL and err == b"", (process.returncode, out, err)
        kills += 1
        in_writes += any(p.suffix in (".tmp", ".old") for p in work.output.glob("checkpoints/*"))
    steps = newest_step(work.output) + 3
    work.run(**{**options, "steps": steps})
    other = work.folder / "undisturbed"
    work.run(**{**options, "steps": steps, "save_every": 0, "resume": "never", "output": other})
    print(f"{kills} kills, {in_writes} of them in a write, {steps} steps")
    assert weights(work.output) == weights(other)
    assert steps_of(work.log()) == steps_of(work.log(other))
    assert in_writes >= 10 and steps > 50, (in_writes, steps)
    assert sorted(p.name for p in (work.output / "checkpoints").iterdir()) == ["latest"] + [f"step_{s:08d}" for s in (steps - 2, steps - 1, steps)]


def newest_step(output):
    return max((int(p.name[5:]) for p in output.glob("checkpoints/step_*") if p.name[5:].isdigit()), default=0)


# ---- what is not as it was


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A run of 6 steps, to be copied."""
    work = Workplace(tmp_path_factory.mktemp("begun"))
    work.run(steps=6, schedule_steps=20, save_every=2)
    return work


@pytest.fixture
def half(begun, tmp_path):
    """A workplace with a copy of that run, and its options."""
    folder = tmp_path / "copy"
    shutil.copytree(begun.folder, folder, symlinks=True)
    work = Workplace.__new__(Workplace)
    work.folder, work.data, work.output, work.sha = folder, folder / "data", folder / "run", begun.sha
    return work


CHANGES = {
    "document_mask": "off", "batch_size": 2, "seq_len": 16, "grad_accum": 3, "lr": 0.00125, "warmup_steps": 2, "schedule_steps": 30,
    "final_lr_fraction": 0.5, "weight_decay": 0.25, "beta1": 0.8, "beta2": 0.99, "eps": 1e-6, "grad_clip": 2, "seed": 43, "grad_reduce": "bf16",
}  # fmt: skip


def test_changed_options(half):
    """All of them, with both values, in one line; nothing is touched. Without the change it goes on."""
    err = half.refused("--lr 0.00125 (was 0.003)", "--accept-changes", "step_00000006", resume="auto", steps=8, lr=0.00125)
    assert err.count("(was") == 1
    err = half.refused(*(f"--{k.replace('_', '-')} {v} (was " for k, v in CHANGES.items() if k != "eps"), "--eps 1e-06 (was 1e-08)",
                       "--tokens-per-step 96 (was 128)", resume="auto", steps=8, **CHANGES)  # fmt: skip
    assert err.count("(was") == len(CHANGES) + 1
    half.run(resume="auto", steps=8)
    assert len(losses(half.log())) == 8


def test_changes_accepted(half):
    """They are listed, and hold."""
    out, _ = half.run(resume="auto", steps=8, lr=0.00125, accept_changes=True)
    assert "changed   --lr 0.00125 (was 0.003)" in out
    rates = [line["lr"] for line in half.log() if "loss" in line]
    assert len(rates) == 8 and rates[6] < 0.00125 < rates[5]
    # from here on these are the run's
    half.run(resume="auto", steps=10, lr=0.00125)


MODES = {"moments": "bf16", "master_weights": "none"}


@pytest.mark.parametrize("changes", [dict([mode]) for mode in MODES.items()] + [MODES], ids=["moments", "weights", "both"])
def test_less_memory_resumes_on_the_same_bits(work, changes):
    work.run(steps=8, output=work.folder / "whole", **changes)
    work.run(steps=3, schedule_steps=8, **changes)
    work.run(steps=5, schedule_steps=8, resume="auto", optimizer_state="host", **changes)
    work.run(steps=8, schedule_steps=8, resume="auto", **changes)
    assert losses(work.log()) == losses(work.log(work.folder / "whole"))
    assert weights(work.output) == weights(work.folder / "whole")
    work.run(steps=8, output=work.folder / "plain")
    assert weights(work.output) != weights(work.folder / "plain")


def test_less_memory_is_a_change(half):
    """Refused, as every change of the result; accepted, the state is converted."""
    half.refused("--moments bf16 (was fp32)", "--master-weights none (was fp32)", resume="auto", steps=8, **MODES)
    half.run(resume="auto", steps=8, accept_changes=True, **MODES)
    half.refused("--moments fp32 (was bf16)", "--master-weights fp32 (was none)", resume="auto", steps=9)
    half.run(resume="auto", steps=9, accept_changes=True)
    half.run(resume="auto", steps=10, accept_changes=True, optimizer_state="host", **MODES)
    assert len(losses(half.log())) == 10


def test_steps_of_another_size(half):
    """Accepted: the data go on behind the last token read, and tokens are counted on."""
    half.run(resume="auto", steps=8, grad_accum=4, accept_changes=True)
    assert [line["tokens"] for line in half.log() if "loss" in line][5:] == [6 * 128, 6 * 128 + 512, 6 * 128 + 1024]
    state = json.loads((half.output / "checkpoint/trainer/state.json").read_text())
    assert state["data_offset"] == 2 - 6  # 6 steps of 128 tokens are one and a half of 512
    assert state["tokens"] == 6 * 128 + 1024
    half.run(resume="auto", steps=10, grad_accum=4)
    state = json.loads((half.output / "checkpoint/trainer/state.json").read_text())
    assert state["data_offset"] == 2 - 6 and state["tokens"] == 6 * 128 + 4 * 512


def test_other_data(half):  # row 14
    half.write("train_001.bin", documents(np.random.default_rng(3), 5_000))
    half.refused("--train-data: fingerprint", "(was ", "--accept-changes", resume="auto", steps=8)
    out, _ = half.run(resume="auto", steps=8, accept_changes=True)
    assert "--train-data: fingerprint" in out


def test_moved_data(half):
    """Where the data lie doesn't matter."""
    (half.folder / "elsewhere").mkdir()
    half.data = half.data.rename(half.folder / "elsewhere" / "texts")
    half.run(resume="auto", steps=8)


def test_other_tokenizer(half):
    path = half.data / "tokenizer.json"
    path.write_bytes(path.read_bytes() + b"\n")
    half.sha = hashlib.sha256(path.read_bytes()).digest()
    half.write("train_000.bin", documents(np.random.default_rng(1), 20_000))
    half.refused("tokenizer: SHA-256", half.sha.hex()[:16], "(was ", "--train-data", resume="auto", steps=8)


@pytest.mark.skipif(len(PRECISIONS) < 2, reason="one build only")
def test_other_precision(half):
    half.refused("precision fp32 (was bf16)", precision="fp32", resume="auto", steps=8)
    out, _ = half.run(precision="fp32", resume="auto", steps=8, accept_changes=True)
    assert "precision fp32 (was bf16)" in out and len(losses(half.log())) == 8


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"num_hidden_layers": 3}, ["num_hidden_layers is 3", "it is 2"]),
        ({"hidden_size": 128}, ["hidden_size is 128", "it is 64"]),
        ({"rms_norm_eps": 1e-6}, ["rms_norm_eps"]),
        ({"rope_theta": 500000.0}, ["rope_theta is 500000", "it is 10000"]),
        ({"tie_word_embeddings": True}, ["tie_word_embeddings is true", "it is false"]),
    ],
)
def test_other_model(half, changes, words):
    half.write_config(**changes)
    half.refused("--config", *words, resume="auto", steps=8, accept_changes=True)
    half.run(resume="auto", steps=8, config=None)  # the checkpoint has its own


def edit_state(half, **changes):
    """Changes trainer/state.json of the newest checkpoint, with checksums that agree."""
    folder = half.output / "checkpoints" / "step_00000006"
    path = folder / "trainer/state.json"
    path.write_text(json.dumps({k: v for k, v in {**json.loads(path.read_text()), **changes}.items() if v is not None}))
    lib, names = llmc.load("bf16"), [name for name in checkpoints.files(folder) if name != checkpoints.SUMS]
    checkpoints.write_sums(lib, folder, [f"{checkpoints.digest(lib, (folder / name).read_bytes())}  {name}" for name in names])


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"format_version": 99, "program_version": "7.8.9"}, ["written by version 7.8.9", "state.json"]),  # row 23
        ({"step": None}, ["state.json", "step"]),
        ({"step": "six"}, ["state.json", "step"]),
        ({"step": -1}, ["state.json", "step"]),
        ({"skipped_steps": 0.5}, ["state.json", "skipped_steps"]),
        ({"data_offset": -7}, ["state.json", "data_offset"]),
        ({"options": {"lr": "fast"}}, ["step_00000006", "--lr"]),
        ({"options": {"batch-size": 0}}, ["step_00000006", "--batch-size"]),
    ],
)
def test_bad_state(half, changes, words):
    edit_state(half, **changes)
    for resume in ("auto", half.output / "checkpoint"):
        half.refused(*words, resume=resume, steps=8)


# ---- which checkpoint


def test_nothing_to_resume(half):
    empty = half.folder / "empty"
    empty.mkdir()
    for folder, words in [
        (half.folder / "nowhere", ["no such folder"]),
        (empty, ["trainer/"]),
        (half.data, ["trainer/"]),
        (half.folder / "config.json", ["config.json"]),
    ]:
        half.refused("--resume", folder, *words, resume=folder, output=half.folder / "new")
    (empty / "checkpoints").mkdir()
    half.refused("--resume", empty, "found none", resume=empty, output=half.folder / "new")
    model = half.folder / "model"
    shutil.copytree(half.output / "checkpoint", model, ignore=shutil.ignore_patterns("trainer"))
    half.refused("--init-from", resume=model, output=half.folder / "new")


def test_auto_begins(work):
    """Without a checkpoint it is a new run, also in the folder of one that was killed before its first; but it needs a model."""
    work.refused("--config", resume="auto", config=None)
    work.run(resume="auto", steps=3, save="off")
    work.run(resume="auto", steps=4)
    assert len(losses(work.log())) == 4 and not any("resumed" in line for line in work.log())


def test_auto_with_init_from(half):
    """The same command line begins and goes on: what it began from is not read again."""
    start = half.folder / "start"
    shutil.copytree(half.output / "checkpoint", start)
    options = {"config": None, "init_from": start, "resume": "auto", "output": half.folder / "tuned", "schedule_steps": 9}
    half.run(steps=4, **options)
    shutil.rmtree(start)
    half.run(steps=6, **options)
    assert len(losses(half.log(half.folder / "tuned"))) == 6


def test_done_already(half):
    before = snapshot(half.folder)
    for steps in (6, 3):
        out, err = half.run(resume="auto", steps=steps)
        assert "done" in out and "step_00000006" in out and err == ""
    assert snapshot(half.folder) == before


def test_a_folder_whose_name_is_not_utf8(work):
    """What is saved of paths is JSON that the run can read."""
    odd = type(work.folder)(os.fsdecode(os.fsencode(work.folder) + b"/\xe9"))
    work.run(output=odd, steps=2)
    work.run(output=odd, steps=3, resume="auto")
    for name in ("log.jsonl", "trainer_options.json", "checkpoint/trainer/state.json"):
        (odd / name).read_text(encoding="utf-8")


def test_older_checkpoint(half):
    """Of the output folder: refused as long as newer ones are there; --overwrite drops them, and the log's lines."""
    start = half.output / "checkpoints" / "step_00000004"
    half.refused("step_00000006", "--overwrite", resume=start, steps=8)
    half.run(resume=start, steps=5, overwrite=True)
    assert sorted(p.name for p in start.parent.iterdir()) == ["latest", "step_00000002", "step_00000004", "step_00000005"]
    assert len(losses(half.log())) == 5


def test_output_with_another_run(half):
    """--resume of a run elsewhere does not write over the one that is there."""
    half.run(steps=2, output=half.folder / "other")
    half.refused("--overwrite", "--resume auto", resume=half.output, output=half.folder / "other", steps=8)
    half.refused("--overwrite", "--resume auto", steps=8)


def test_overwrite_keeps_the_old_checkpoints(half):
    """Until the first new one is whole: `checkpoint` leads to them, a killed start changes nothing about that, and they are
    not what --resume auto goes on from."""
    before = snapshot(half.output / "checkpoint")
    for _ in range(2):
        (half.output / "log.jsonl").unlink()
        process = half.start(steps=100_000, overwrite=True, seed=7)
        wait_for(lambda: len(losses(half.log())) >= 3, process)
        process.kill()
        process.communicate(timeout=600)
        assert snapshot(half.output / "checkpoint") == before
    half.run(steps=2, resume="auto", seed=7)
    assert [line["step"] for line in half.log() if "loss" in line] == [1, 2]
    assert not (half.output / "checkpoints.replaced").exists()
    assert [p.name for p in (half.output / "checkpoints").glob("step*")] == ["step_00000002"]
    assert AutoModelForCausalLM.from_pretrained(half.output / "checkpoint").config.vocab_size == VOCAB


def test_background_saves(work):
    """Every 2nd step in the background and the last: logged with what they took, the newest two and each 6th kept."""
    out, err = work.run(steps=15, save_every=2, keep_last=2, keep_every=6)
    assert err == ""
    events = [line for line in work.log() if "checkpoint" in line]
    assert [line["step"] for line in events] == [*range(2, 15, 2), 15]
    for line in events:
        assert line["checkpoint"] == f"step_{line['step']:08d}" and line["wait_seconds"] >= 0 and line["write_seconds"] > 0
        assert out.count(f"step {line['step']}: checkpoint of ") == 1
    folder = work.output / "checkpoints"
    assert sorted(p.name for p in folder.glob("step_*")) == [f"step_{s:08d}" for s in (6, 12, 14, 15)]
    assert events[-1]["bytes"] == sum(p.stat().st_size for p in (folder / "step_00000015").rglob("*") if p.is_file())
    assert os.readlink(work.output / "checkpoint") == "checkpoints/latest" and os.readlink(folder / "latest") == "step_00000015"


# ---- damage


FILES = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "trainer/state.json",
         "trainer/optimizer.safetensors", "trainer/checksums.xxh128"]  # fmt: skip


@pytest.mark.parametrize("damage", ["flip", "cut", "missing"])
@pytest.mark.parametrize("name", FILES)
def test_damage(half, name, damage):
    """The file is named; a checkpoint asked for by name is refused, `auto` goes on from the one before and ends with the same
    bits; the damaged one is kept aside."""
    folder = half.output / "checkpoints" / "step_00000006"
    assert {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} == set(FILES)
    half.run(resume=half.output, steps=8, output=half.folder / "undamaged")
    content = bytearray((folder / name).read_bytes())
    if damage == "flip":
        content[random.randrange(len(content))] ^= 1 << random.randrange(8)
    else:
        content = content[: random.randrange(len(content))]
    (folder / name).write_bytes(content)
    if damage == "missing":
        (folder / name).unlink()
    half.refused(name, resume=folder, steps=8)
    out, err = half.run(resume="auto", steps=8)
    assert err.count("\n") == 1 and name in err and "step_00000006" in err
    assert "after step 4" in out and weights(half.output) == weights(half.folder / "undamaged")
    assert [line["passed_over"] for line in half.log() if "passed_over" in line] == ["step_00000006"]
    assert (half.output / "checkpoints" / "step_00000006.broken").is_dir()


def test_all_damaged(half):
    for folder in half.output.glob("checkpoints/step_*"):
        (folder / "model.safetensors").write_bytes(b"")
    before = snapshot(half.output)
    for resume in ("auto", half.output):
        _, err = half.run(resume=resume, steps=8, code=2)
        assert err.count("\n") == 1 and "found 3, none of them whole: " in err
        assert all(f"{name}/model.safetensors" in err for name in ("step_00000006", "step_00000004", "step_00000002"))
    assert snapshot(half.output) == before
    half.run(resume="auto", steps=8, overwrite=True)
    assert len(losses(half.log())) == 8


def test_several_damaged(half):
    """One line names the newer ones, and the oldest is resumed."""
    for name in ("step_00000006", "step_00000004"):
        (half.output / "checkpoints" / name / "config.json").unlink()
    out, err = half.run(resume="auto", steps=8)
    assert err.count("\n") == 1 and err.startswith("train_llama3: checkpoints passed over: ")
    assert "step_00000006/config.json" in err and "step_00000004/config.json" in err and "after step 2" in out


# ---- two runs in one folder


def test_lock(half):  # row 21
    process = half.start(steps=100_000, resume="auto")
    wait_for(lambda: len(losses(half.log())) > 8, process)
    for more in ({"resume": "auto"}, {"overwrite": True}, {}):
        _, err = half.run(code=2, steps=8, **more)
        assert err.count("\n") == 1 and f"locked by {os.uname().nodename}/{process.pid}" in err
    process.terminate()
    assert process.communicate(timeout=600)[1] == b"" and process.returncode == 0
    assert not (half.output / "lock").exists()
    steps = [line["step"] for line in half.log() if "loss" in line]
    assert steps == list(range(1, len(steps) + 1))


def test_stale_lock(half):  # row 21
    (half.output / "lock").write_text("somewhere 4711\n")
    out, _ = half.run(resume="auto", steps=8)
    assert "taken over from somewhere/4711" in out


# ---- signals


def test_usr1_then_term(work):
    """A warning and, while the checkpoint is written, the batch system's SIGTERM: the checkpoint gets finished."""
    process = work.start(steps=100_000, save_every=1)
    wait_for(lambda: len(losses(work.log())) >= 3, process)
    os.kill(process.pid, signal.SIGSTOP)
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGUSR1):
        process.send_signal(number)
    os.kill(process.pid, signal.SIGCONT)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0 and err == b""
    assert out.decode().splitlines()[-1] == "to go on: the same options and --resume auto"
    assert newest_step(work.output) == len(losses(work.log()))


@pytest.mark.parametrize("numbers", [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGINT)])
def test_second_signal_leaves_the_checkpoint(work, numbers):
    """The end at once, in the middle of a write as a rule: the checkpoint before is whole."""
    process = work.start(steps=100_000, save_every=1)
    wait_for(lambda: newest_step(work.output) >= 3, process)
    process.send_signal(numbers[0])
    process.send_signal(numbers[1])
    process.communicate(timeout=600)
    # two signals of one number may have become one
    assert process.returncode in (-numbers[0], -numbers[1], 0)
    work.run(resume="auto", steps=newest_step(work.output) + 2, schedule_steps=100_000)


def test_no_checkpoint_before_the_first_step(half):
    """Stopped while it loads: nothing new to save, and what was there stays."""
    before = snapshot(half.output / "checkpoints")
    process = half.start(steps=100_000, resume="auto")
    process.send_signal(signal.SIGUSR1)
    out, _ = process.communicate(timeout=600)
    if process.returncode == 0 and b"after 6 steps" in out:
        assert snapshot(half.output / "checkpoints") == before


# ---- no room


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own with 8 MiB, so far as this user may make one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("mounting a tmpfs is not permitted here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_oldest_checkpoints_make_room(work, small_disk, ranks):
    """There is room for two checkpoints and for none more: of the three that may stay the oldest goes first, the last one of
    the run included."""
    if ranks > 1 and not ON_CPU:
        pytest.skip("ranks that outnumber the GPUs")
    output = small_disk / "run"
    options = {"steps": 9, "save_every": 2, "keep_last": 3, "output": output}
    out, err = work.run(**options) if ranks == 1 else work.run_ranks(ranks, precision="bf16", **options)
    assert err == "" and "step 9: the disk has no room for one more: 1 older checkpoint went before" in out
    steps = [int(path.name[5:]) for path in sorted(output.glob("checkpoints/step_*"))]
    assert steps == [8, 9] and newest_step(output) == 9
    assert not any("checkpoint_failed" in line for line in read_log(output / "log.jsonl"))


def test_full_disk_while_training(work, small_disk):  # rows 17, 24
    """There is room for two checkpoints of 1.5 MB but not, with some to spare, for three; the run goes on, says each
    time what is missing, keeps what it has, and writes again when there is room."""
    output = small_disk / "run"
    process = work.start(steps=100_000, save_every=10, keep_last=0, output=output)
    wait_for(lambda: any("checkpoint_failed" in line for line in read_log(output / "log.jsonl")), process)
    whole = sorted(output.glob("checkpoints/step_*[0-9]"))
    assert len(whole) == 2, (whole, read_log(output / "log.jsonl"))
    wait_for(lambda: sum("checkpoint_failed" in line for line in read_log(output / "log.jsonl")) >= 3, process)
    assert sorted(output.glob("checkpoints/step_*[0-9]")) == whole
    shutil.rmtree(whole[0])
    wait_for(lambda: newest_step(output) > int(whole[1].name[5:]), process)
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    process.send_signal(signal.SIGUSR1)
    out, err = (text.decode() for text in process.communicate(timeout=600))
    log = work.log(output)
    failed = [line for line in log if "checkpoint_failed" in line]
    assert process.returncode == 0 and err.count("\n") == len(failed)
    for line, event in zip(err.splitlines(), failed):
        assert f"no checkpoint of step {event['step']}: " in line and "training goes on" in line and event["checkpoint_failed"] in line
        assert "MiB needed" in line and "MiB free" in line, line
    steps = [line["step"] for line in log if "loss" in line]
    assert steps == list(range(1, len(steps) + 1)) and newest_step(output) == steps[-1]
    work.run(resume="auto", steps=steps[-1] + 1, schedule_steps=100_000, output=output)


def test_failed_writes_while_training(work):  # row 17
    """Files may have 200 KiB: the log fits, the weights don't. Training goes on to the end, where it is code 1."""
    out, err = work.run(steps=9, save_every=3, code=1, limit_file_size=200)
    assert len(losses(work.log())) == 9
    assert [line["step"] for line in work.log() if "checkpoint_failed" in line] == [3, 6, 9]
    assert err.count("training goes on") == 2 and err.count("\n") == 3 and "done after 9 steps" in out
    assert not (work.output / "checkpoint").exists()
