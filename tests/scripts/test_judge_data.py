"""scripts/judge_data.py: a candidate like the validation texts helps, noise does not; stopped and continued; what it refuses."""

import json
import math
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
from scipy.stats import t, ttest_rel

import llmc
import trainrun
from hostlib import fresh_random
from llmjudge.gain import gain_of, half_width, seeds_needed
from trainrun import BOS, EOS, T, Workplace, documents
from waiting import wait_until

JUDGE = llmc.ROOT / "scripts/judge_data.py"
STEPS = 120  # of a run that is stopped: seconds
on_cpu = pytest.mark.skipif(not trainrun.ON_CPU, reason="of the cpu target")


def downward(rng, count):
    """Documents that walk the other way, in steps that documents() never has."""
    out = []
    while len(out) < count:
        out += [BOS, *((rng.integers(0, 256) - rng.integers(5, 8) * np.arange(40)) % 256).tolist(), EOS]
    return np.array(out[:count])


class Place(Workplace):
    """Default data, two candidates, validation data of both kinds, and a model that is half trained on the default."""

    def __init__(self, folder):
        super().__init__(folder)
        rng = np.random.default_rng(5)
        self.write("good_000.bin", downward(rng, 20_000))
        self.write("noise_000.bin", rng.integers(0, 256, 20_000))
        self.write("down_000.bin", downward(rng, 20 * T + 1))
        self.run(steps=150, batch_size=16)

    def command(self, name, kind, judged_on, *more, **changes):
        options = {"model": self.output / "checkpoint", "default": self.data / "train_*.bin", "candidate": self.data / f"{kind}_*.bin",
                   "val": self.data / f"{judged_on}_*.bin", "tokens": 30 * 16 * T, "lr": 3e-3, "seeds": 3, "seq-len": T, "batch-size": 16,
                   "threads": 1, "program": trainrun.program(), "output": self.folder / name}  # fmt: skip
        given = [part for key, value in (options | changes).items() if value is not None for part in (f"--{key}", str(value))]
        return [sys.executable, str(JUDGE), *given, *map(str, more)]

    def judge(self, name, *arguments, code=0, **changes):
        done = subprocess.run(self.command(name, *arguments, **changes), capture_output=True, text=True, timeout=600)
        print(done.stdout, done.stderr, file=sys.stderr)
        assert done.returncode == code, done.stderr
        return done if code else json.loads((self.folder / name / "report.json").read_text())


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return Place(tmp_path_factory.mktemp("judge"))


@on_cpu
def test_a_candidate_like_the_validation_texts_helps(place):
    """By far: steps downwards are not in the default data at all. More seeds then make only the new runs."""
    found = place.judge("good", "good", "down")
    (gain,) = found["gains"]
    assert gain["measure"] == "val_loss" and gain["verdict"] == "helps" and gain["mean"] > 0.5 and gain["low"] > 0.3, gain
    assert gain["mean"] == pytest.approx(gain["without"] - gain["with_candidate"]) and found["seeds"] == [1, 2, 3]
    assert gain["seeds_to_see_this_gain"] in (2, 3)
    recipes = {arm: json.loads((place.folder / f"good/{arm}.json").read_text()) for arm in ("without", "with")}
    stages = {arm: recipe["stages"] for arm, recipe in recipes.items()}
    assert [[w["weight"] for w in stages[arm][0]["mixture"]] for arm in stages] == [[1], [0.7, 0.3]]
    assert stages["with"][0]["learning_rate"][-1] == {"shape": "linear", "from": 3e-3, "to": 0}
    log = [json.loads(line) for line in (place.folder / "good/with_2/run/log.jsonl").read_text().splitlines()]
    steps = [line for line in log if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, 31)) and steps[-1]["lr"] == 0
    assert steps[-1]["sources"]["candidate"]["tokens"] == pytest.approx(0.3 * 30 * 16 * T, rel=0.02)

    before = {path: path.stat().st_mtime_ns for path in (place.folder / "good").glob("*/result.json")}
    again = place.judge("good", "good", "down", seeds=4)
    assert again["seeds"] == [1, 2, 3, 4] and again["runs"][:6] == found["runs"] and len(before) == 6
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    page = (place.folder / "good/report.md").read_text()
    assert re.search(r"\| val_loss \| [\d.]+ \| [\d.]+ \| \+[\d.]+ \[\+[\d.]+, \+[\d.]+\] \| helps \|", page), page
    assert "4 seeds" in page and page.count("% of the loss") == 3


@on_cpu
def test_noise_does_not_help(place):
    """With validation texts like the default data: it takes the place of three tenths of them."""
    found = place.judge("noise", "noise", "val", gain=0.25)
    assert found["gains"][0]["verdict"] != "helps" and found["gains"][0]["mean"] < 0.02, found["gains"]
    assert 0.25 in [line["val_loss_gain"] for line in found["seeds_needed"]]


@on_cpu
def test_stopped_and_continued(place):
    """In the middle of a run; the report is that of runs that were not stopped, to the last bit."""
    command = place.command("stopped", "good", "down", seeds=2, tokens=STEPS * 16 * T)
    log = place.folder / "stopped/with_1/run/log.jsonl"
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    trainrun.STARTED.append(process)
    wait_until(lambda: log.is_file() and log.read_text().count("grad_norm") > 5, "steps of the first run")
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=600)
    assert process.returncode == 130 and "the same command goes on" in said, said
    assert not (place.folder / "stopped/with_1/result.json").exists()
    inside = log.read_text().count("grad_norm") < STEPS  # unless the test was held up just then
    done = {"tokens": STEPS * 16 * T, "seeds": 2}
    continued, whole = (place.judge(name, "good", "down", **done) for name in ("stopped", "whole"))
    assert continued["gains"] == whole["gains"]
    assert ('"resumed"' in log.read_text()) == inside and '"resumed"' not in (place.folder / "whole/with_1/run/log.jsonl").read_text()


@on_cpu
def test_tasks_are_judged_too(place):
    from evaluation import file_bytes

    items = [([BOS, *((a - 6 * np.arange(12)) % 256).tolist()], [([(a - 72) % 256], 1, 1), ([(a + 3) % 256], 1, 1)], 0) for a in range(0, 250, 9)]
    (place.data / "down.eval").write_bytes(file_bytes(items, vocab=258, sha=place.sha))
    found = place.judge("tasks", "good", "down", **{"eval-tasks": place.data / "down.eval", "seeds": 2})
    gains = {gain["measure"]: gain for gain in found["gains"]}
    assert {"val_loss", "down acc", "down nll"} <= set(gains)
    assert gains["down nll"]["mean"] == pytest.approx(gains["down nll"]["without"] - gains["down nll"]["with_candidate"]) and gains["down nll"]["mean"] > 0
    assert gains["down acc"]["mean"] == pytest.approx(gains["down acc"]["with_candidate"] - gains["down acc"]["without"])


@on_cpu
@pytest.mark.parametrize("changes, words", [
    (dict(candidate="none_*.bin"), ["--candidate none_*.bin: no such file"]),
    (dict(val="none_*.bin"), ["--val none_*.bin: no such file"]),
    (dict(default="0:x.bin"), ["--default 0:x.bin", "weight > 0"]),
    (dict(default="1e:x.bin"), ["--default 1e:x.bin", "weight > 0"]),
    (dict(model="nowhere"), ["nowhere/config.json: no such file"]),
    (dict(share=1), ["--share 1", "between 0 and 1"]),
    (dict(seeds=1), ["--seeds 1", "expected 2 to"]),
    (dict(lr=0), ["--lr 0", "> 0"]),
    (dict(tokens=0), ["--tokens 0"]),
    ({"tokens-per-step": 100}, ["--tokens-per-step 100", f"multiple of {16 * T}"]),
])  # fmt: skip
def test_refused(place, changes, words):
    done = place.judge("bad", "good", "down", code=2, **changes)
    assert done.stderr.startswith("judge_data: ") and done.stderr.count("\n") == 1, done.stderr
    for word in words:
        assert word in done.stderr
    assert not (place.folder / "bad").exists()


@on_cpu
def test_refused_by_the_trainer(place):
    """Its message comes with the run's name, and the code is its own."""
    place.write("other_000.bin", np.arange(20_000) % 256, sha=bytes(32))
    done = place.judge("worse", "other", "down", code=2)
    assert "with_1: train_llama3: " in done.stderr and "tokenizer" in done.stderr and done.stderr.count("\n") == 1, done.stderr


@on_cpu
def test_other_settings_refused(place):
    place.judge("other", "good", "down", seeds=2)
    done = place.judge("other", "good", "down", seeds=2, lr=1e-3, code=2)
    assert "settings.json: lr is 0.003, now 0.001" in done.stderr


# ---- the interval


def test_interval_is_the_paired_t_tests():
    rng = fresh_random()
    for n in (2, 3, 10):
        without = rng.normal(3, 1, n).tolist()
        with_candidate = [value - rng.normal(0.1, 0.2) for value in without]
        expected = ttest_rel(without, with_candidate).confidence_interval(0.95)
        for name, sign in (("val_loss", 1), ("some task acc", -1)):
            gain = gain_of(name, without, with_candidate)
            bounds = sorted([sign * expected.low, sign * expected.high])
            assert (gain.low, gain.high) == pytest.approx(bounds) and gain.mean == pytest.approx(np.mean(bounds))
            assert (gain.verdict == "helps") == (bounds[0] > 0) and (gain.verdict == "harms") == (bounds[1] < 0)


def test_seeds_needed():
    """The fewest that tell a gain from 0, by trying each number."""
    for gain in (3.0, 0.5, 0.2, 0.05):
        expected = next(n for n in range(2, 10001) if t.ppf(0.975, n - 1) / math.sqrt(n) < gain) if gain > 0.02 else None
        assert seeds_needed(1.0, gain) == expected
    assert seeds_needed(1.0, 0.001) is None and seeds_needed(1.0, 0) is None and seeds_needed(0, 0.1) == 2
    assert half_width(1, 2) == pytest.approx(8.9846, abs=1e-3)  # 12.7062 / sqrt(2), from a table
