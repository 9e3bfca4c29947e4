"""One round of post-training: every stage is really run with a very small model, killed and continued; the report; and messages for
a bad file."""

import contextlib
import fcntl
import hashlib
import html.parser
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest

import llmc
import trainrun
from rejection import Models

ROOT = pathlib.Path(__file__).resolve().parents[2]
from llmround.settings import known_options, read_round  # noqa: E402
from llmround.stages import Plan  # noqa: E402
from llmdata.errors import InputError  # noqa: E402
from checkout import script

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
        return [sys.executable, str(script("post_train")), "--round", str(path), *more]

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
    assert f"--source {any_round.output}/rejection_sampling/pairs.jsonl 1.0 " in out


def plan(round_, fields):
    path = round_.folder / "round.json"
    path.write_text(json.dumps(fields))
    return Plan(*read_round(path))


def argument(step, name):
    return step.arguments[step.arguments.index(name) + 1]


def test_weights_keep_all_digits(any_round):
    fields = change(any_round.fields, "average.weights", [0.123456789, 1e-7, 1])
    fields["sft"]["sampled"] = 1.23456789
    made = plan(any_round, fields)
    assert argument(made.find("average").steps[0], "--weights") == "0.123456789,1e-07,1"
    assert "1.23456789" in made.find("sft").steps[0].arguments


def test_rows_are_of_one_length(any_round):
    """Without seq_len that of the trainer holds for preparation and validation too."""
    help_text = subprocess.run([trainrun.program(PRECISION), "--help"], capture_output=True, text=True, check=True).stdout
    default = re.search(r"--seq-len=N .*?default: (\d+)", help_text, re.S)[1]
    for given, want in ({}, default), ({"seq_len": 64}, "64"):
        prepare, validate, train, *_ = plan(any_round, change(any_round.fields, "sft.train", given)).find("sft").steps
        assert [argument(prepare, "--max-tokens"), argument(validate, "--seq-len"), argument(train, "--seq-len")] == [want] * 3


def test_nothing_to_validate(any_round):
    """The trainer refuses --eval-every without validation rows."""
    sft = {"data": any_round.fields["sft"]["data"]}
    steps = plan(any_round, change(any_round.fields, "sft", sft)).find("sft").steps
    assert argument(steps[2], "--eval-every") == "50" and "--val-data" in steps[2].arguments
    steps = plan(any_round, change(any_round.fields, "sft", sft | {"prepare": {"val_fraction": 0}})).find("sft").steps
    assert [step.name for step in steps[:2]] == ["prepare", "train"]
    assert not {"--eval-every", "--val-data"} & set(steps[1].arguments)


def test_an_averaged_folder_named_like_a_stage(any_round, monkeypatch):
    monkeypatch.chdir(any_round.folder)
    for name in ("base", "reward_model"):
        (any_round.folder / name).symlink_to(any_round.models.policy)
    made = plan(any_round, change(any_round.fields, "average", {"models": ["sft", "base", "reward_model", "model"]})).find("average")
    assert made.steps[0].arguments[1:3] == ["base", "reward_model"]
    assert made.inputs[:3] == [pathlib.Path("base"), pathlib.Path("reward_model"), any_round.models.policy]


@pytest.mark.parametrize("name, value", [("precision", "other"), ("target", "other")])
def test_a_stage_is_of_a_build(any_round, name, value):
    """Weights of one precision are not those of another."""
    made = plan(any_round, any_round.fields)
    before = made.find("reward_model").key({})
    setattr(made.round, name, value)
    after = Plan(made.round, made.programs).find("reward_model").key({})
    assert {field for field in before if before[field] != after[field]} == {"build"}


def test_options_are_what_a_line_of_help_begins_with():
    text = f"uses --nothing\n  -a, --all=N   every --one\n      --bare     as\n{' ' * 29}--behind goes\n  --long LIST  x\n  -h, --help  x"
    command = [sys.executable, "-c", f"print({text!r})"]
    assert known_options(*command) == {"all": True, "bare": False, "long": True}


def test_a_base_whose_config_is_not_json(any_round, tmp_path):
    shutil.copytree(any_round.models.policy, tmp_path / "broken")
    (tmp_path / "broken/config.json").write_text("{")
    with pytest.raises(InputError) as refused:
        plan(any_round, change(any_round.fields, "reward_model.init_from", str(tmp_path / "broken")))
    assert f"{tmp_path}/broken/config.json: not JSON" in str(refused.value)


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
    ("rejection_sampling.prompts", [], "rejection_sampling.prompts: expected at least one file"),
    ("rejection_sampling.sample.seeds", 1, "rejection_sampling.sample.seeds: no such option"),
    ("reward_model", None, "rejection_sampling: needs reward_model"),
    ("reward_model", [], "reward_model: expected an object, found []"),
    ("average.models", ["sft", "elsewhere"], "average.models: elsewhere: neither a stage before"),
    ("average.weights", [1, 2], "average.weights: expected 3 numbers"),
    ("held_out.prompts", "/nowhere", "held_out.prompts: /nowhere: no such file"),
    ("held_out.options", {"temprature": 1}, "held_out.options.temprature: no such option of the program"),
    ("held_out.options", {"temperature": False}, "held_out.options.temperature: expected a value, found false"),
    ("held_out.options", {"max_tokens": []}, "held_out.options.max_tokens: expected a value, found []"),
    ("held_out.options", {"samples": 2}, "held_out.options.samples: the round sets this option itself"),
    ("sft.train.skip_long", 1, "sft.train.skip_long: expected true or false, found 1"),
    ("sft.train.lora_rank", 16, "sft.train.lora_rank: the next stage needs a whole model: train adapters by hand"),
    ("dpo.train.lora-targets", "q_proj", "dpo.train.lora_targets: the next stage needs a whole model"),
    ("sft.train.save", "off", "sft.train.save: expected on"),
    ("sft.prepare.val_fraction", "5%", 'sft.prepare.val_fraction: expected a number from 0 to 0.5, found "5%"'),
    ("reward_model.prepare.val_fraction", ["0.1"], 'reward_model.prepare.val_fraction: expected a number from 0 to 0.5, found ["0.1"]'),
    ("sft.prepare.val_fraction", 0.6, "sft.prepare.val_fraction: expected a number from 0 to 0.5, found 0.6"),
    ("sft.prepare.val_fraction", 0, "sft.train.eval_every: nothing to validate on, as prepare.val_fraction is 0"),
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
