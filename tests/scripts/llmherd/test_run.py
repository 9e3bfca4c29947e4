"""A whole herd of the smallest size: run, killed three times, and compared; what fails, and what a change of settings makes anew."""

import hashlib
import json
import random
import signal

import pytest

from herds import Herd, changed
from seeds import seed_of
from waiting import wait_until

KILLED = ("scaling", "herd_large", "post_training")  # stages with something to lose, one kill in each
HOW = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 130, signal.SIGINT: 130}


def note_of(herd, stage, output="out"):
    path = herd.folder / output / "stages" / f"{stage}.json"
    return json.loads(path.read_text()) if path.exists() else {"seconds": 0.0, "steps": {}}


def numbers(herd, output="out"):
    """All of the report's but times."""
    return {name: value for name, value in json.loads((herd.folder / output / "report.json").read_text()).items() if name != "times"}


def weights(herd, output="out"):
    """Of all models that are left, by their places."""
    files = sorted((herd.folder / output).glob("**/*.safetensors"))
    return {str(path.relative_to(herd.folder / output)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def herd(tmp_path_factory):
    """One that ran without a stop."""
    made = Herd(tmp_path_factory.mktemp("herd"))
    run_through(made)
    return made


def run_through(herd, **more):
    """So small a sweep may have no minimum inside its grid, and the herd then goes on without a forecast."""
    done = herd.run(code=None, **more)
    assert done.returncode == 0 or done.returncode == 1 and "herd: done but for scaling: " in done.stderr, done.stderr[-2000:]
    return done


def test_every_stage_says_what_it_took(herd):
    for path in (herd.folder / "out/stages").glob("*.json"):
        note = json.loads(path.read_text())
        assert all(step.get("done") or name == "forecast" for name, step in note["steps"].items()), path
        assert note["seconds"] > 0 and note["processor_seconds"] > 0 and note["disk_bytes"] > 0, path
    assert note_of(herd, "herd_large")["memory_bytes"] > 1 << 20


def test_killed_three_times_it_has_the_same_numbers(herd, tmp_path):
    """At moments drawn within the time that each stage took when nobody disturbed it; nothing but the rest is done again."""
    killed, draw = Herd(tmp_path), random.Random(seed_of("kills"))
    for stage in KILLED:
        moment, how = draw.uniform(0, note_of(herd, stage)["seconds"]), draw.choice(list(HOW))
        print(f"{how.name} after {moment:.1f} s of {stage}")
        process = killed.start()
        wait_until(lambda: note_of(killed, stage)["seconds"] >= moment or process.poll() is not None, stage, 600)
        process.send_signal(how)
        code = process.wait(600)
        assert code == HOW[how] or note_of(killed, "evaluation")["steps"], (killed.folder / "said.txt").read_text()
        assert (killed.folder / "out/report.html").exists()
    done = run_through(killed)
    assert "curation: done before" in done.stderr and "begun anew" not in done.stderr
    assert numbers(killed) == numbers(herd)
    assert weights(killed) == weights(herd)


def test_what_fails_is_told_with_log_and_command_and_goes_on(herd):
    """A change makes anew what depends on it, and says so; a failed stage names its log, and the report is there."""
    broken = changed(herd.settings, "evaluation.tasks.0.label_field", "gilt")
    done = herd.run(settings=broken, code=2)
    assert 'evaluation: begun anew: evaluation.tasks.0.label_field was "gold" and is "gilt"' in done.stderr
    again = len(list((herd.folder / "out/stages").glob("*.json"))) - done.stderr.count("done before")
    assert again == 1 + ("stage scaling failed" in done.stderr)
    lines = done.stderr.splitlines()
    where = lines.index("herd: the last lines of out/logs/evaluation.log:")
    assert "no right answer in the row" in lines[-2] and where < len(lines) - 2
    assert "herd: stage evaluation failed with code 2; the command: " in lines[-1] and "scripts/evaluate.py --models" in lines[-1]
    assert "herd: done but" not in done.stderr and (herd.folder / "out/report.html").exists()
    run_through(herd)


def test_one_herd_at_a_time(herd):
    """The second waits, and says so."""
    import fcntl

    with open(herd.folder / "out/.lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = herd.start()
        said = herd.folder / "said.txt"
        wait_until(lambda: "out is in use; waiting for it" in said.read_text(), "it waits", process=process)
    assert process.wait(600) in (0, 1)
