"""Checks all stages before the first one runs: the programs' own readers read the files that they will read, in a temporary
folder where small stand-ins lie in the place of what earlier stages will have made."""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from llmdata import shards
from llmdata.errors import InputError
from llmtext.generator import ROOT

from .files import is_inside
from .settings import Settings
from .stages import Plan

_TOKENS = 1 << 30  # that a stand-in of a source claims to have; its file has no bytes on the disk


class Checks:
    def __init__(self, settings: Settings, folder: Path):
        # where the machine has no such GPU, another build knows the same options
        self.settings = dataclasses.replace(settings, target=built_target(settings), value={**settings.value, "launch": []})
        self.folder, self.plan = folder, Plan(self.settings, folder)
        self.files = self.plan.files

    def run(self) -> None:
        settings = self.settings
        for stage in self.plan.stages:
            for name in stage.files:
                self._write(name)
        for size in settings.models:
            self._ask("recipe", [str(self.plan.trainer), "--recipe", str(self.files.path("recipe")), "--config",
                                 str(self.files.path(size)), "--dry-run"])  # fmt: skip
        self._stand_in()
        if settings.curate is not None:
            self._python("curate", "data/curate.py", "--config", self.files.path("curate"), "--dry-run")
        if settings.baseline is not None:
            self._python("baseline", "scripts/demo/ngram_baseline.py", "--help")
        if settings.scaling is not None:
            self._python("scaling", "scripts/scaling.py", "plan", self.files.path("scaling"))
        if settings.post_training is not None:
            self._python("post_training", "scripts/post_train.py", "--round", self.files.path("round"), "--dry-run")
        if settings.evaluation is not None:
            self._suite()

    def _write(self, name: str) -> None:
        path = self.files.path(name)
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(self.files.value(name)))

    def _python(self, section: str, program: str, *arguments) -> None:
        self._ask(section, [sys.executable, str(ROOT / program), *map(str, arguments)])

    def _ask(self, section: str, command: list[str]) -> None:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            said = (done.stderr.strip() or f"{command[0]} ended with code {done.returncode}").splitlines()[-1]
            self._refuse(section, said.partition(": ")[2] or said)

    def _refuse(self, section: str, said: str) -> None:
        for name in ("curate", "scaling", "recipe", "round", "suite"):
            said = said.replace(f"{self.files.path(name)}: ", "").replace(f"{self.files.path(name)}:", "line ")
        self.settings.fail(section, said.replace(str(self.folder), str(self.settings.output)))

    def _suite(self) -> None:
        from llmeval.suite import check_suite  # here, since its packages are others' too

        try:
            tasks = check_suite(self.files.suite(), str(self.files.path("suite")))
        except InputError as error:
            self._refuse("evaluation", str(error))
        for task in tasks:
            if "file" in task and os.path.isabs(task["file"]) and not os.path.exists(task["file"]):
                self.settings.fail(f"evaluation ({task['name']})", f"{task['file']}: no such file")

    # ---- stand-ins

    def _stand_in(self) -> None:
        settings, files = self.settings, self.files
        for name in settings.sources:
            self._put(f"raw/{name}/page.html", "<p>text</p>")
            for split in ("train", "val"):
                self._shard(self.folder / "shards" / name / f"{split}_000.bin")
        model = files.base(settings.largest)
        self._put(model / "config.json", json.dumps(files.value(settings.largest)))
        for folder in (model, self.folder / "tokenizer"):
            self._put(folder / "tokenizer.json", "{}")
        for text in _texts(settings.post_training):
            if is_inside(text):
                self._put(text, "{}\n")

    def _put(self, name: str | Path, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def _shard(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        vocabulary = self.settings.vocab_size
        path.write_bytes(shards.header(vocabulary, _TOKENS, 0, 1, bytes(32)))
        os.truncate(path, shards.HEADER_BYTES + _TOKENS * shards.token_bits(vocabulary) // 8)


def _texts(value) -> list[str]:
    if isinstance(value, (dict, list)):
        return [text for member in (value.values() if isinstance(value, dict) else value) for text in _texts(member)]
    return [value] if isinstance(value, str) else []


def built_target(settings: Settings) -> str:
    return settings.target if Plan.trainer_of(settings.target, settings.precision).is_file() else "cpu"


def check_all(settings: Settings) -> None:
    """Errors: InputError, which names the settings' file and the section."""
    with tempfile.TemporaryDirectory(prefix="herd.") as folder:
        Checks(settings, Path(folder)).run()
