"""scripts/scaling.py run: very small models are really trained, killed, and continued; on this machine and under Slurm."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import evaluation
import llmc
import ranks
import slurmcluster
import trainrun
from llmscale.run import CUT, DIVERGED, DONE, RISE, judge
from llmscale.points import points_of_table
from llmdata.errors import InputError

pytestmark = pytest.mark.skipif(not trainrun.ON_CPU, reason="of the cpu target")

SCALING = llmc.ROOT / "scripts" / "scaling.py"
PRECISION = "fp32" if "fp32" in llmc.build_folders() else "bf16"
SIZES = [1, {"layers": 1, "hidden_size": 32}, {"layers": 1, "hidden_size": 48}, {"layers": 2, "hidden_size": 32}]


class Place:
    def __init__(self, folder):
        self.work = trainrun.Workplace(folder)
        self.folder, self.output, self.path = self.work.folder, self.work.folder / "out", self.work.folder / "plan.json"
        self.fields = {
            "output": str(self.output), "precision": PRECISION, "target": "cpu", "seq_len": 32, "rows": 4, "val_rows": 8,
            "data": {"train": str(self.work.data / "train_*.bin"), "val": str(self.work.data / "val_*.bin")},
            "model": {"head_dim": 16, "width_per_layer": 16, "ffn_multiple": 16},
            "tuning": {"batch": 128, "batch_exponent": 0, "lr": 0.003, "lr_exponent": 0},
            "budgets": [{"flops": 4e9, "sizes": SIZES}], "train": {"threads": 1, "save_every": 20},
        }  # fmt: skip

    def write(self, **changes):
        self.path.write_text(json.dumps({k: v for k, v in (self.fields | changes).items() if v is not None}))
        return self

    def command(self, *words):
        return [sys.executable, str(SCALING), words[0], str(self.path), *words[1:]]

    def call(self, *words, code=0, environment=None):
        done = subprocess.run(self.command(*words), capture_output=True, text=True, timeout=600, env=environment)
        print(done.stdout, done.stderr, file=sys.stderr)
        assert done.returncode == code, done.stderr
        return done

    def refused(self, *words, text, code=2):
        done = self.call(*words, code=code)
        assert done.stderr.startswith("scaling: ") and done.stderr.count("\n") == 1 and text in done.stderr, done.stderr

    def start(self, *words):
        said = open(self.folder / "said.txt", "w")
        trainrun.STARTED.append(subprocess.Popen(self.command(*words), stdout=said, stderr=said))
        return trainrun.STARTED[-1]

    def run_folder(self, name):
        return self.output / "runs" / name

    def result(self, name):
        return json.loads((self.run_folder(name) / "result.json").read_text())

    def names(self):
        return sorted(path.name for path in (self.output / "runs").iterdir())

    def until_step(self, name, step):
        """Until the run's log has that step."""
        log, end = self.run_folder(name) / "run/log.jsonl", time.monotonic() + 120
        while not (log.exists() and f'"step":{step},' in log.read_text()) and time.monotonic() < end:
            time.sleep(0.01)
        assert time.monotonic() < end, "the run never got so far"


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path).write()


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A sweep that has run, and what it said."""
    place = Place(tmp_path_factory.mktemp("done")).write()
    place.said = place.call("run").stderr
    return place


NAMES = ["4e09_1x16", "4e09_1x32", "4e09_1x48", "4e09_2x32"]


def test_all_runs_are_made(done):
    assert done.names() == NAMES
    for name in NAMES:
        result, folder = done.result(name), done.run_folder(name)
        log = trainrun.read_log(folder / "run/log.jsonl")
        assert result["status"] == DONE and result["loss"] == [line["val_loss"] for line in log if "val_loss" in line][-1]
        assert result["steps"] == max(line["step"] for line in log) and result["tokens"] == 128 * result["steps"]
        assert result["flops"] == pytest.approx(4e9, rel=0.5 / result["steps"])
    assert [f"[{i}/4] {name}: done, loss" in done.said for i, name in enumerate(NAMES, 1)] == [True] * 4
    assert "% of the sweep, " in done.said and " left" in done.said and done.said.endswith("scaling: 4 done\n")


def test_settings_reach_the_trainer(done):
    options = json.loads((done.run_folder("4e09_1x32") / "run/trainer_options.json").read_text())
    result = done.result("4e09_1x32")
    wanted = {"steps": result["steps"], "schedule-steps": result["steps"], "warmup-steps": result["warmup_steps"],
              "final-lr-fraction": 0.1, "beta2": 0.99, "lr": 0.003}  # fmt: skip
    told = {name: options.get(name, options.get(name.replace("-", "_"))) for name in wanted}
    assert told == {name: pytest.approx(value) for name, value in wanted.items()}
    warmup = min(result["parameters"], 0.1 * result["tokens"]) / 128
    assert result["warmup_steps"] == pytest.approx(warmup, abs=1)


def test_nothing_is_run_twice(done):
    before = {name: (done.run_folder(name) / "run/log.jsonl").stat().st_mtime_ns for name in NAMES}
    said = done.call("run").stderr
    assert said.count("done before") == 4
    assert before == {name: (done.run_folder(name) / "run/log.jsonl").stat().st_mtime_ns for name in NAMES}


def test_changed_settings_are_refused_until_again(done, tmp_path):
    shutil.copytree(done.output, tmp_path / "out")
    place = Place(tmp_path).write(
        data=done.fields["data"], output=str(tmp_path / "out"), tuning=done.fields["tuning"] | {"lr": 0.002}
    )
    place.refused("run", text="4e09_1x16: was run with other settings (options)")
    assert place.call("run", "--again", "--only", "4e09_1x32").returncode == 0
    assert json.loads((place.run_folder("4e09_1x32") / "key.json").read_text())["options"]["lr"] == "0.002"


def test_changed_data_are_refused(done, tmp_path):
    place = copied(done, tmp_path, data=None)
    place.work.write("val_000.bin", trainrun.documents(np.random.default_rng(7), 400))
    place.write(output=str(tmp_path / "out"))
    place.refused("run", text="4e09_1x16: was run with other settings (val)")


@pytest.mark.parametrize("how, code", [(signal.SIGTERM, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_stopped_it_goes_on(done, tmp_path, how, code):
    """The losses are those of a sweep that nobody stopped."""
    place = Place(tmp_path).write(data=done.fields["data"])
    process = place.start("run")
    place.until_step("4e09_1x16", 200)
    process.send_signal(how)
    assert process.wait(timeout=120) == code
    if how == signal.SIGTERM:
        assert "stopped" in (tmp_path / "said.txt").read_text()
    assert not (place.run_folder("4e09_1x16") / "result.json").exists()
    place.call("run")
    assert [place.result(name)["loss"] for name in NAMES] == [done.result(name)["loss"] for name in NAMES]
    assert any("resumed" in line for line in trainrun.read_log(place.run_folder("4e09_1x16") / "run/log.jsonl"))


def test_two_share_a_sweep(done, tmp_path):
    """The second makes what the first does not, then waits for it; each run is made once."""
    place = Place(tmp_path).write(data=done.fields["data"])
    first = place.start("run", "--only", "4e09_1x16")
    place.until_step("4e09_1x16", 1)
    first.send_signal(signal.SIGSTOP)  # its trainer goes on, but who makes the run is the first
    second = place.start("run")
    for name in NAMES[1:]:
        place.until_step(name, 2)
    assert not (place.run_folder("4e09_1x16") / "result.json").exists()
    first.send_signal(signal.SIGCONT)
    assert first.wait(timeout=120) == 0 and second.wait(timeout=120) == 0
    assert [place.result(name)["loss"] for name in NAMES] == [done.result(name)["loss"] for name in NAMES]
    steps = [line["step"] for line in trainrun.read_log(place.run_folder("4e09_1x16") / "run/log.jsonl") if "loss" in line]
    assert steps == list(range(1, len(steps) + 1))
    place.refused("run", "--only", "4e09_9x9", text="--only 4e09_9x9: no such run")


def test_runs_that_test_a_forecast_are_made_last(done, tmp_path):
    """They are no part of the sweep, so that nobody sees their losses before there is a forecast."""
    place = copied(done, tmp_path, budgets=[*done.fields["budgets"], {"flops": 5e9, "sizes": [1], "forecast": True}])
    assert place.call("run").stderr.endswith("scaling: 4 done\n") and place.names() == NAMES
    assert place.call("run", "--forecast").stderr.endswith("scaling: 5 done\n")
    assert place.result("5e09_1x16")["forecast"] is True
    place.refused("fit", text="4 finished runs, expected at least 7")  # the fifth is no part of the fit


def test_any_launcher(done, tmp_path):
    words = ["bash", "-c", f'echo "$@" >> {tmp_path}/launched; exec "$@"', "launcher"]
    place = Place(tmp_path).write(data=done.fields["data"], launch=words)
    place.call("run", "--only", "4e09_1x48")
    assert (tmp_path / "launched").read_text().count("train_llama3 --config") == 1
    assert place.result("4e09_1x48")["loss"] == done.result("4e09_1x48")["loss"]


def test_a_failed_run_is_told_and_tried_again(done, tmp_path):
    place = Place(tmp_path).write(
        data=done.fields["data"], launch=["bash", "-c", f'[ -e {tmp_path}/works ] && exec "$@"; exit 1', "launcher"]
    )
    said = place.call("run", code=1).stderr
    assert "4 of 4 runs failed" in said and said.count(": failed") == 4
    (tmp_path / "works").touch()
    place.call("run", "--only", "4e09_1x48")
    assert place.result("4e09_1x48")["status"] == DONE


def test_what_the_trainer_refuses_ends_the_sweep(done, tmp_path):
    place = Place(tmp_path).write(data=done.fields["data"], train={"threads": 1, "moments": "fp8"})
    said = place.call("run", code=2).stderr
    assert "--moments" in said and "the command: " in said


# ---- runs that did not end well


def log_of(losses, val=2.0, **more):
    lines = [{"step": step, "loss": loss} for step, loss in enumerate(losses, 1)]
    return lines + ([{"step": len(losses), "val_loss": val}] if val is not None else []) + ([more] if more else [])


FALLING = list(np.linspace(5, 2, 200))
NOISY = [1.5, 2.5] * 70 + [1.5] * 10 + [1.5, 2.5] * 25  # small batches: ten of them are low by chance


@pytest.mark.parametrize("log, code, status, reason", [
    (log_of(FALLING), 0, DONE, ""),
    (log_of(FALLING[:150], None), 0, CUT, "step 150 of 200"),
    (log_of(FALLING[:150], None), 137, CUT, "step 150 of 200"),
    (log_of(FALLING[:150], None, skipped="loss", skipped_steps=10), 1, DIVERGED, "1 steps skipped"),
    (log_of(FALLING, float("nan")), 0, DIVERGED, "validation loss is not finite"),
    (log_of(FALLING, 5.6), 0, DIVERGED, "worse than that of guessing, 5.561"),
    (log_of(FALLING, None), 0, DIVERGED, "validation loss is not finite"),
    (log_of([*FALLING[:100], None, *FALLING[101:]]), 0, DIVERGED, "training loss is not finite"),
    (log_of([*FALLING[:180], *[9.0] * 20]), 0, DIVERGED, "rose from"),
    (log_of([*FALLING[:180], *[FALLING[180] * (RISE - 0.02)] * 20]), 0, DONE, ""),
    (log_of([*FALLING[:100], *[9.0] * 5, *FALLING[105:]]), 0, DONE, ""),  # a spike that heals
    (log_of(NOISY), 0, DONE, ""),
    (log_of([*NOISY[:180], *[9.0] * 20]), 0, DIVERGED, "rose from"),
])  # fmt: skip
def test_how_a_run_ended(log, code, status, reason):
    found = judge(log, 200, code, 260)
    assert found[0] == status and reason in found[1]


def copied(done, tmp_path, **changes):
    shutil.copytree(done.output, tmp_path / "out")
    return Place(tmp_path).write(**{"data": done.fields["data"], "output": str(tmp_path / "out")} | changes)


def change_result(place, name, **changes):
    path = place.run_folder(name) / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_run_that_really_diverges(done, tmp_path):
    place = Place(tmp_path).write(data=done.fields["data"], tuning=done.fields["tuning"] | {"lr": 10, "lr_most": 10},
                                  train={"threads": 1, "grad_clip": 0})  # fmt: skip
    said = place.call("run", "--only", "4e09_1x48").stderr
    result = place.result("4e09_1x48")
    assert result["status"] == DIVERGED and f"diverged: {result['reason']}" in said
    assert result["reason"] in place.call("run", "--only", "4e09_1x48").stderr


def made_up(done, tmp_path, budgets, **changes):
    """A sweep whose losses follow a parabola."""
    plan = [{"flops": f, "sizes": [*SIZES, {"layers": 2, "hidden_size": 16}]} for f in budgets]
    place = copied(done, tmp_path, budgets=plan, **changes)
    like = place.result("4e09_1x16")
    sizes = {"1x16": 7e3, "1x32": 2e4, "1x48": 4e4, "2x32": 3.2e4, "2x16": 1.1e4}
    for f in budgets:
        for name, n in sizes.items():
            whole = f"{f:.0e}".replace("+", "") + "_" + name
            place.run_folder(whole).mkdir(exist_ok=True)
            result = {"name": whole, "budget": f, "flops": f, "parameters": n, "tokens": f / 6 / n}
            result["loss"] = 2 + np.log10(n / 1.8e4) ** 2 - np.log10(f) / 10
            (place.run_folder(whole) / "result.json").write_text(json.dumps(like | result))
    return place


def test_accuracy_of_the_runs(done, tmp_path):
    """What the trainer measures on an evaluation is what `forecast --task` reads."""
    items = [([1 + i, 2], [([3, 4], 2, 2), ([5 + i, 6], 2, 2)], i % 2) for i in range(6)]
    (tmp_path / "pairs.eval").write_bytes(evaluation.file_bytes(items, vocab=trainrun.VOCAB - 2, sha=done.work.sha))
    place = made_up(done, tmp_path, (4e9, 6e9, 9e9), train={"threads": 1, "eval_tasks": str(tmp_path / "pairs.eval")})
    shutil.rmtree(place.run_folder("4e09_1x16"))
    fitted = {path: json.loads(path.read_text()) for path in place.output.glob("runs/*/result.json")}
    place.call("run", "--only", "4e09_1x16", "--again")
    measured = place.result("4e09_1x16")["tasks"]["pairs"]
    assert measured["items"] == 6 and 0 < measured["nll"] < 10
    for path, result in fitted.items():
        path.parent.mkdir(exist_ok=True)
        task = measured | {"nll": result["loss"], "acc": 1.5 - result["loss"] / 2}
        path.write_text(json.dumps(result | {"tasks": {"pairs": task}}))
        (path.parent / "key.json").unlink(missing_ok=True)
    found = json.loads(place.call("forecast", "--budget", "2e10", "--json", "--task", "pairs", "--chance", "0").stdout)
    best = [min(result["loss"] for result in fitted.values() if result["budget"] == f) for f in (4e9, 6e9, 9e9)]
    slope, offset = np.polyfit(np.log10([4e9, 6e9, 9e9]), best, 1)
    assert found["tasks"][0]["nll"]["value"] == pytest.approx(offset + slope * np.log10(2e10))
    place.refused("forecast", "--budget", "2e10", "--task", "pears", text="no such file, and no run of")


def test_left_out_visibly(done, tmp_path):
    """Two budgets with made-up losses; one run of each did not end well."""
    place = made_up(done, tmp_path, (4e9, 6e9))
    change_result(place, "4e09_1x48", status=DIVERGED, reason="its training loss rose from 2 to 9")
    (place.run_folder("6e09_1x48") / "result.json").unlink()
    (place.run_folder("6e09_1x48") / "run").mkdir()
    (place.run_folder("6e09_1x48") / "run/log.jsonl").write_text('{"step":7,"loss":3.5}\n')
    said = place.call("fit").stdout
    assert "8 runs;" in said and "left out: 4e09_1x48 diverged: its training loss rose from 2 to 9\n" in said
    assert re.search(r"^left out: 6e09_1x48 cut: at step 7 of \d+$", said, re.M)
    page = (place.output / "report.html").read_text()
    assert "Runs left out" in page and "its training loss rose" in page
    table = points_of_table(place.output / "runs.csv")  # the same runs, for others
    assert len(table) == 8 and [name for name, *_ in table.left_out] == ["4e09_1x48", "6e09_1x48"]
    assert table.loss[0] == pytest.approx(place.result(table.names[0])["loss"])
    change_result(place, "4e09_1x32", status=DIVERGED)
    place.refused("fit", text="budget 4e+09: 3 sizes that finished, expected at least 4")


@pytest.mark.parametrize("name, value, text", [
    ("val", "other", "val: expected the same validation data in all runs of a fit, found "),
    ("tokenizer", "other", "tokenizer: expected the same tokenizer"),
    ("train", "other", "train: expected the same training data"),
    ("val_rows", 16, "val_rows: expected the same number of validation rows"),
    ("count", "all", "count: expected the same count of parameters"),
    ("flops_rule", "6ND", "flops_rule: expected the same count of FLOPs"),
])  # fmt: skip
def test_mixed_runs_are_refused(done, tmp_path, name, value, text):
    place = copied(done, tmp_path)
    change_result(place, "4e09_1x48", **{name: value})
    place.refused("fit", text=text)


def test_mixed_rows_of_a_table_are_refused(tmp_path):
    rows = [
        {"flops": 1e18, "tokens": 1e9 * k, "loss": 3 + k, "val": "a" if k < 3 else "b", "name": f"r{k}"} for k in range(1, 5)
    ]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match="t.jsonl: val: expected the same .* found a in r1 and b in r3: fit them apart"):
        points_of_table(tmp_path / "t.jsonl")


# ---- Slurm


@pytest.fixture(scope="module")
def cluster():
    yield from slurmcluster.cluster()


def test_array(cluster, done, tmp_path):
    """Two of four runs had ended before; the array makes the others, with the same losses."""
    place = copied(done, tmp_path, slurm={"options": ["--cpus-per-task=1", "--time=10"], "at_once": 1})
    for name in NAMES[:2]:
        shutil.rmtree(place.run_folder(name))
    said = place.call("run", "--slurm", environment=cluster.environment).stderr
    assert "has 2 runs, 2 of 4 had ended before" in said and said.endswith("scaling: 4 done\n")
    assert [place.result(name)["loss"] for name in NAMES] == [done.result(name)["loss"] for name in NAMES]
    assert "scaling: 4 done" in place.call("run", "--slurm", environment=cluster.environment).stderr  # and nothing is submitted
    assert (place.output / "array.txt").read_text().split() == NAMES[:2]


def test_array_warned_it_saves_and_is_queued_again(cluster, done, tmp_path):
    place = Place(tmp_path).write(data=done.fields["data"], slurm={"options": ["--cpus-per-task=1", "--time=10"]})
    said = place.call("run", "--slurm", "--no-wait", "--only", NAMES[0], environment=cluster.environment).stderr
    job = said.split("job ")[1].split()[0]
    place.until_step(NAMES[0], 200)
    cluster.call("scancel", "--batch", "--signal=USR1", f"{job}_0")
    cluster.until(lambda: cluster.job(f"{job}_0").get("JobState") == "PENDING", "queueing")
    saved = int(os.readlink(place.run_folder(NAMES[0]) / "run/checkpoints/latest").removeprefix("step_"))
    assert saved >= 200 and not (place.run_folder(NAMES[0]) / "result.json").exists()
    time.sleep(2)  # the first start's credential was revoked: one of the same second would not count
    cluster.call("scontrol", "update", f"JobId={job}_0", "StartTime=now")  # else it waits two minutes
    cluster.until(lambda: (place.run_folder(NAMES[0]) / "result.json").exists(), "end of the run")
    assert place.result(NAMES[0])["loss"] == done.result(NAMES[0])["loss"]


def test_without_slurm(place):
    environment = {**os.environ, "PATH": str(place.folder)}
    done = subprocess.run(place.command("run", "--slurm"), capture_output=True, text=True, env=environment)
    assert done.returncode == 2 and "sbatch is not installed" in done.stderr
    place.refused("run", "--no-wait", text="--no-wait: expected together with --slurm")


def test_the_script_is_bash():
    script = llmc.ROOT / "scripts/slurm/scaling.sbatch"
    assert shutil.which("shellcheck"), "shellcheck is missing: scripts/setup.sh test installs it"
    done = subprocess.run(["shellcheck", str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    alone = subprocess.run(["bash", str(script)], env=ranks.alone(), capture_output=True, text=True)
    assert (alone.returncode, alone.stderr) == (2, "scaling.sbatch: expected to be started by scaling.py run --slurm\n")
