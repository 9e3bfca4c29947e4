"""One round of post-training: every stage really run with a very small model, killed in each and gone on with, its report, and what
is said to a file that does not say what it must."""

import contextlib
import fcntl
import hashlib
import html.parser
import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time

import pytest

import llmc
import trainrun
from test_rejection import Models

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
from llmround.settings import read_round  # noqa: E402
from llmround.stages import Plan  # noqa: E402
from llmtext.errors import InputError  # noqa: E402

PRECISION = "fp32" if "fp32" in llmc.build_folders() else "bf16"
TARGET = "cpu" if trainrun.ON_CPU else "cuda"
EVIL = "<script>alert(1)</script> & \"so\""
TRAIN = {"seq_len": 128, "batch_size": 2, "steps": 12, "lr": 1e-3, "warmup_steps": 0, "save_every": 1, "eval_every": 4, "checksum_every": 1}
# what begins to be made, the signal that then comes, whether to the running program alone, and the code
KILLS = [
    ("reward_model/run", signal.SIGKILL, False, -signal.SIGKILL), ("rejection_sampling/best.jsonl.samples", signal.SIGTERM, False, 130),
    ("sft/run", signal.SIGINT, False, 130), ("dpo/run", signal.SIGTERM, True, 130),
]  # fmt: skip


class Round:
    def __init__(self, folder):
        self.folder, self.models = folder, Models(folder)
        self.output = folder / "out"
        self.write("prefs.jsonl", [{"prompt": f"Which {n}?", "chosen": f"Good {n}", "rejected": "Bad " * (1 + n % 3)} for n in range(24)])
        self.write("chats.jsonl", [{"messages": [{"role": "user", "content": f"Count to {n}"}, {"role": "assistant", "content": "1 2 3"}]}
                                   for n in range(24)])  # fmt: skip
        self.write("held_out.jsonl", [{"prompt": "Hello?"}, {"prompt": EVIL}])
        train = TRAIN | ({"threads": 1} if trainrun.ON_CPU else {})
        prepare = {"val_fraction": 0.2, "workers": 1}
        sample = {"samples": 3, "max_tokens": 24, "rows": 4, "keep_cut": True, "threads": train.get("threads", 0)}
        self.fields = {
            "model": str(self.models.policy), "output": str(self.output), "precision": PRECISION, "target": TARGET,
            "reward_model": {"data": [str(folder / "prefs.jsonl")], "prepare": prepare, "train": train},
            "rejection_sampling": {"prompts": [str(self.models.prompts)], "sample": sample},
            "sft": {"data": [str(folder / "chats.jsonl")], "sampled": 1.5, "prepare": prepare, "train": train},
            "dpo": {"data": [{"path": str(folder / "prefs.jsonl"), "weight": 2}], "prepare": prepare, "train": train | {"steps": 40}},
            "average": {"models": ["sft", "dpo", "model"], "weights": [0.3, 0.5, 0.2]},
            "held_out": {"prompts": str(folder / "held_out.jsonl"), "options": {"max_tokens": 16, "threads": train.get("threads", 0)}},
        }  # fmt: skip

    def write(self, name, rows):
        (self.folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    def command(self, *more, **changes):
        path = self.folder / "round.json"
        path.write_text(json.dumps({k: v for k, v in (self.fields | changes).items() if v is not None}))
        return [sys.executable, str(ROOT / "scripts" / "post_train.py"), "--round", str(path), *more]

    def run(self, *more, code=0, **changes):
        done = subprocess.run(self.command(*more, **changes), capture_output=True, text=True)
        print(done.stdout, done.stderr, file=sys.stderr)
        assert done.returncode == code, done.stderr
        return done

    def kill(self, path, how, child=False):
        """Starts the round and sends a signal, to it or to the program that it runs, once that file or folder holds something."""
        said = self.folder / "said.txt"
        with open(said, "wb") as file:
            trainrun.STARTED.append(subprocess.Popen(self.command(), stderr=file, stdout=subprocess.DEVNULL))
        process, end = trainrun.STARTED[-1], time.monotonic() + 90
        while time.monotonic() < end and process.poll() is None and not begun(self.output / path):
            time.sleep(0.01)
        children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while child and not children.read_text().split() and time.monotonic() < end:
            time.sleep(0.01)
        os.kill(int(children.read_text().split()[0]) if child else process.pid, how)
        return process.wait(), said.read_text()


def begun(path):
    """A run has a checkpoint, a journal an answer."""
    if path.suffix == ".samples":
        return path.exists() and path.read_bytes().count(b"\n") > 2
    return any((path / "checkpoints").glob("step_*")) if path.is_dir() else False


def weights(folder):
    return hashlib.sha256(b"".join(p.read_bytes() for p in sorted(folder.glob("*.safetensors")))).hexdigest()


def results(output):
    """What a round results in, apart from times."""
    models = [*(f"{name}/run/checkpoint" for name in ("reward_model", "sft", "dpo")), "average/model"]
    files = [f"{name}/held_out.jsonl" for name in ("base", "sft", "dpo", "average")]
    files += [f"rejection_sampling/{name}.jsonl" for name in ("best", "pairs")]
    return {name: weights(output / name) for name in models} | {name: (output / name).read_text() for name in files}


@pytest.fixture
def round_(tmp_path):
    return Round(tmp_path)


@pytest.fixture(scope="module")
def any_round(tmp_path_factory):
    """Of which nothing is run."""
    return Round(tmp_path_factory.mktemp("round"))


def test_a_round_killed_in_each_stage(round_):
    """kill -9, SIGTERM and SIGINT in turn; nothing trains on behind it; the same files as of a round that nobody disturbed."""
    round_.run()
    want = results(round_.output)
    models = [value for name, value in want.items() if not name.endswith(".jsonl")]
    assert len(set(models)) == 4
    round_.output = round_.folder / "again"
    round_.fields["output"] = str(round_.output)
    for path, how, child, code in KILLS:
        found, error = round_.kill(path, how, child)
        assert found == code, error
        assert how == signal.SIGKILL or "stopped; the same command goes on from here" in error
        assert "Traceback" not in error
    done = round_.run()
    assert "reward model: done before" in done.stderr
    assert results(round_.output) == want
    before = {path: path.stat().st_mtime_ns for path in round_.output.rglob("*.safetensors")}
    assert round_.run().stderr.count("done before") == 6
    assert before == {path: path.stat().st_mtime_ns for path in round_.output.rglob("*.safetensors")}
    check_report(round_)


def test_nothing_trains_on_behind_a_killed_round(round_):
    """The trainer ends in order, and lets go of the folder."""
    round_.fields["reward_model"]["train"] |= {"steps": 10**6, "save_every": 5}
    assert round_.kill("reward_model/run", signal.SIGKILL)[0] == -signal.SIGKILL
    with open(round_.output / ".lock", "a") as lock:
        end = time.monotonic() + 30
        while time.monotonic() < end:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            time.sleep(0.05)
        else:
            pytest.fail("train_llama3 goes on")
    run = round_.output / "reward_model/run"
    last = [entry["step"] for entry in trainrun.read_log(run / "log.jsonl") if "loss" in entry][-1]
    assert last < 10**6 and json.loads((run / "checkpoint/trainer/state.json").read_text())["step"] == last


class Page(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.outside, self.text = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        sources = [value for name, value in attributes if name in ("src", "href")]
        self.outside += [value for value in sources if not value.startswith("data:image/svg+xml;base64,")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def check_report(round_):
    text = (round_.output / "report.html").read_bytes().decode()  # as it is: an answer may hold any character
    page = Page(text)
    assert page.open == [] and page.outside == [] and "script" not in page.tags and EVIL in page.text
    for word in ("reward model", "rejection sampling", "Training: DPO", "Held-out prompts", "Scores", "Margin", "Hello?"):
        assert word in text, word
    assert page.tags.count("img") >= 8
    for name in ("base", "average"):
        rows = [json.loads(line) for line in (round_.output / name / "held_out.jsonl").read_text().split("\n") if line]
        assert all(row["messages"][-1]["content"].strip() in page.text for row in rows)


def test_stages_left_out(any_round):
    """SFT alone, with no reward model: its data are the given ones."""
    done = any_round.run("--dry-run", reward_model=None, rejection_sampling=None, dpo=None, average=None, held_out=None,
                      sft={k: v for k, v in any_round.fields["sft"].items() if k != "sampled"})  # fmt: skip
    lines = [shlex.split(line) for line in done.stdout.splitlines() if not line.startswith("#")]
    assert [pathlib.Path(line[0]).name for line in lines] == [pathlib.Path(sys.executable).name, "train_llama3", "train_llama3"]
    assert "--task" in lines[2] and lines[2][lines[2].index("--task") + 1] == "sft" and "--lr" in lines[2]
    assert not any_round.output.exists()


def test_dry_run_names_every_command(any_round):
    out = any_round.run("--dry-run", launch=["mpirun", "-np", "2"]).stdout
    assert out.count("mpirun -np 2 ") == 3 and out.count("--task dpo") == 1 and out.count("prepare_chat.py") == 3
    assert "average_llama3" in out and "--weights 0.3,0.5,0.2" in out and out.count("rejection_sample.py") == 5
    assert f"--source {any_round.output}/rejection_sampling/best.jsonl 1.5" in out
    assert f"--source {any_round.output}/rejection_sampling/pairs.jsonl 1 " in out


def test_the_example(tmp_path, monkeypatch):
    """Each option in it is one of its program; here its files are there."""
    monkeypatch.chdir(tmp_path)
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / "runs/base/checkpoint").mkdir(parents=True, exist_ok=True)
        (tmp_path / "runs/base/checkpoint" / name).write_text("{}")
    (tmp_path / "data").mkdir()
    for name in ("preferences", "prompts", "chats", "skills", "held_out"):
        (tmp_path / f"data/{name}.jsonl").write_text("{}\n")
    made, programs = read_round(ROOT / "docs" / "round_example.json")
    assert [stage.name for stage in Plan(made, programs).stages] == ["reward_model", "base", "rejection_sampling", "sft", "dpo", "average"]


def change(fields, place, value):
    """The fields with another value at "a.b"."""
    fields = json.loads(json.dumps(fields))
    *way, last = place.split(".")
    inner = fields
    for name in way:
        inner = inner[name]
    inner[last] = value
    return fields


@pytest.mark.parametrize("place, value, message", [
    ("modle", "x", "modle: is not known, expected one of"),
    ("model", "/nowhere", "model: /nowhere/config.json is missing"),
    ("model", 3, "model: expected a model's folder, found 3"),
    ("output", None, "output: is missing, expected a folder"),
    ("precision", "fp8", 'precision: expected one of bf16, fp32, found "fp8"'),
    ("sft.epochs", 2, "sft.epochs: is not known"),
    ("sft.train.epoch", 2, "sft.train.epoch: no such option of the program"),
    ("sft.train.task", "dpo", "sft.train.task: the round sets this option itself"),
    ("sft.train.lr", None, "sft.train.lr: expected a value, found null"),
    ("sft.data", ["/nowhere.jsonl"], "sft.data: /nowhere.jsonl: no such file"),
    ("sft.data", [{"path": "/", "wight": 2}], "sft.data.wight: is not known"),
    ("sft.sampled", -1, "sft.sampled: expected 0 to 1000"),
    ("dpo.init_from", "/nowhere", "dpo.init_from: /nowhere/config.json is missing"),
    ("rejection_sampling.prompts", [], "rejection_sampling.prompts: expected a file at least"),
    ("rejection_sampling.sample.seeds", 1, "rejection_sampling.sample.seeds: no such option"),
    ("reward_model", None, "rejection_sampling: needs reward_model"),
    ("reward_model", [], "reward_model: expected an object, found []"),
    ("average.models", ["sft", "elsewhere"], "average.models: elsewhere: neither a stage before"),
    ("average.weights", [1, 2], "average.weights: expected 3 numbers"),
    ("held_out.prompts", "/nowhere", "held_out.prompts: /nowhere: no such file"),
    ("launch", "mpirun", 'launch: expected a list of texts, found "mpirun"'),
])  # fmt: skip
def test_refused(any_round, place, value, message):
    path = any_round.folder / "round.json"
    path.write_text(json.dumps(change(any_round.fields, place, value)))
    with pytest.raises(InputError) as refused:
        read_round(path)
    assert f"{path}: {message}" in str(refused.value) and "\n" not in str(refused.value)


def test_refused_by_the_program(any_round):
    """One line, code 2, nothing made."""
    error = any_round.run(code=2, modle="x").stderr
    assert error == f"post_train: {any_round.folder / 'round.json'}: modle: is not known, expected one of " + error.split("one of ")[1]
    assert error.count("\n") == 1 and not any_round.output.exists()
    (any_round.folder / "round.json").write_text("{")
    done = subprocess.run(any_round.command()[:2] + ["--round", str(any_round.folder / "none.json")], capture_output=True, text=True)
    assert done.returncode == 2 and "none.json: No such file" in done.stderr
