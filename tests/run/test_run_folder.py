"""A run's folder may be given wherever its checkpoint is meant, whatever signs its name has, and a copy of the checkpoint that is
a link to nowhere is called so."""

import json
import subprocess
import sys

import pytest

import llmc
from trainrun import ON_CPU, TARGET, Workplace, program
from checkout import script

PRECISION = "bf16" if "bf16" in llmc.build_folders() else "fp32"
FOLDER = "my [runs] é*?\\ ~{a}"


class Runs:
    """run: a language model; lora: adapters of it; link: what cp -r makes of run/checkpoint."""

    def __init__(self, folder):
        (folder / FOLDER).mkdir()
        self.work = Workplace(folder / FOLDER)
        self.folder, self.run = self.work.folder, self.work.output
        self.out(*self.train(steps=2, save_every=1))
        self.out(*self.train(init_from=self.run, config=None, lora_rank=8, output=self.folder / "lora", steps=1))
        subprocess.run(["cp", "-r", self.run / "checkpoint", self.folder / "link"], check=True)
        (self.folder / "a.txt").write_text("Once there was a llama.\n" * 20)
        (self.folder / "chats.jsonl").write_text(json.dumps({"messages": [
            {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}) + "\n")  # fmt: skip
        (self.folder / "prompts.jsonl").write_text('{"prompt": "Hi"}\n')
        (self.folder / "items.jsonl").write_text('{"text": "Once."}\n')

    def train(self, **changes):
        return [program(PRECISION), *self.work.arguments(**changes)]

    def say(self, *command):
        return subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=600, cwd=self.folder)

    def out(self, *command):
        done = self.say(*command)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def commands(self, model, lora, output):
        """Each program's command with this model and these adapters, which writes `output`."""
        build = ["--target", TARGET, "--precision", PRECISION, "--threads", 1]
        python = lambda name: [sys.executable, script(name)]  # noqa: E731
        programs = program(PRECISION).parent
        new = self.folder / output
        return {
            "init-from": self.train(config=None, init_from=model, output=new, steps=1),
            "resume": self.train(config=None, resume=model, output=new, steps=3),
            "eval-only": [program(PRECISION), "--eval-only", "--init-from", model, "--val-data", self.work.data / "val_*.bin",
                          "--seq-len", 32, *(["--threads", 1] if ON_CPU else [])],
            "average": [programs / "average_llama3", "--output", new, model, model],
            "merge adapter": [programs / "merge_lora", "--adapter", lora, "--output", new],
            "merge base": [programs / "merge_lora", "--adapter", self.folder / "lora/checkpoint", "--base", model, "--output", new],
            "generate": [*python("generate"), "--model", model, "--prompt", "a", "--max-tokens", 2, *build],
            "rejection": [*python("rejection_sample"), "--model", model, "--prompts", "prompts.jsonl", "--output", new,
                          "--samples", 1, "--max-tokens", 2, "--date", "2026-01-01", *build],
            "chat": [*python("prepare_chat"), "chats.jsonl", "--tokenizer", model, "--output", new],
            "data": [*python("prepare_data"), "a.txt", "--tokenizer", model, "--output", new, "--workers", 1, "--val-fraction", 0],
            "eval": [*python("prepare_eval"), "items.jsonl", "--tokenizer", model, "--output", new],
        }  # fmt: skip


NAMES = ("init-from", "resume", "eval-only", "average", "merge adapter", "merge base", "generate", "rejection", "chat", "data", "eval")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return Runs(tmp_path_factory.mktemp("runs"))


@pytest.mark.parametrize("name", NAMES)
def test_a_run_stands_for_its_checkpoint(runs, name):
    if name in ("chat", "rejection"):  # the tokenizer of single bytes has no tokens for a chat: found, and refused
        for form in ("", "/checkpoint"):
            done = runs.say(*runs.commands(f"{runs.run}{form}", None, name)[name])
            assert done.returncode == 2 and f"{runs.run}/checkpoint" in done.stderr, done.stderr
        return
    runs.out(*runs.commands(runs.run, runs.folder / "lora", f"{name} 1")[name])


@pytest.mark.parametrize("name", NAMES)
def test_a_link_to_nowhere(runs, name):
    done = runs.say(*runs.commands(runs.folder / "link", runs.folder / "link", f"{name} 2")[name])
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "link: a link to checkpoints/latest, which is not there" in done.stderr and "cp -rL" in done.stderr
    assert not (runs.folder / f"{name} 2").exists() or name == "resume"


def test_plan_takes_a_folder(runs):
    plan = [sys.executable, script("plan"), "--gpus", 1, "--seq-len", 32, "--precision", PRECISION, "--config"]
    found = [runs.out(*plan, path).split(":", 1)[1] for path in (runs.run, runs.run / "checkpoint/config.json")]
    assert found[0] == found[1]


def test_copies(runs):
    """What the program's last line says."""
    said = runs.out(*runs.train(steps=1, output=runs.folder / "short")).splitlines()[-1]
    assert said == f"checkpoint in {runs.folder}/short/checkpoint, a link: cp -rL copies it"
    subprocess.run(["cp", "-rL", runs.folder / "short/checkpoint", runs.folder / "copy"], check=True)
    runs.out(*runs.commands(runs.folder / "copy", None, "from a copy")["init-from"])


def test_a_folder_stands_for_the_file_in_it(runs):
    """--config and --tokenizer are files."""
    changes = {"config": runs.run, "tokenizer": runs.run, "steps": 1, "output": runs.folder / "of folders"}
    runs.out(*runs.train(**changes))
    done = runs.say(*runs.train(**changes | {"tokenizer": runs.folder, "output": runs.folder / "refused"}))
    message = f"train_llama3: {runs.folder}: a folder without tokenizer.json, expected that file\n"
    assert (done.returncode, done.stderr) == (2, message)


@pytest.mark.parametrize("name", ["init-from", "eval-only", "average", "merge base"])
def test_what_is_no_folder(runs, name):
    for given, said in (("run/checkpoint/config.json", "a file, expected the folder that holds it: run/checkpoint\n"),
                        ("meta-llama/Llama-3.2-1B",
                         "no such folder, expected one on this machine (no model is downloaded)\n")):  # fmt: skip
        given = given.replace("run/", f"{runs.run.name}/")
        done = runs.say(*runs.commands(given, runs.folder / "lora", f"{name} 3")[name])
        said = said.replace("run/", f"{runs.run.name}/")
        assert done.returncode == 2 and done.stderr.endswith(f": {given}: {said}"), done.stderr
