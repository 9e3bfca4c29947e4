"""A run of Weights & Biases in offline mode: `wandb sync` sends it, when the user wants."""

import hashlib
import html
import shutil
from pathlib import Path

import wandb

from .records import Record

PROJECT = "llama3"
QUIET = wandb.Settings(console="off", silent=True, disable_git=True, disable_code=True, disable_job_creation=True,
                       x_disable_stats=True, x_disable_meta=True, x_disable_machine_info=True)  # fmt: skip


class Wandb:
    goes_on = False  # an offline run ends with its process

    def __init__(self, folder: Path, name: str, settings: dict):
        self.folder, self.name, self.settings, self.run = folder, name, settings, None

    def begin(self) -> None:
        self.close()
        shutil.rmtree(self.folder / "wandb", ignore_errors=True)
        # of the folder, so that a run that is written anew replaces what was synced of it
        identity = hashlib.sha256(str(self.folder.resolve()).encode()).hexdigest()[:16]
        self.run = wandb.init(project=PROJECT, id=identity, name=self.name, dir=str(self.folder), mode="offline",
                              config=self.settings, settings=QUIET, reinit="create_new")  # fmt: skip
        self.run.define_metric("*", step_metric="step")

    def write(self, record: Record, back: bool) -> None:
        texts = {name: wandb.Html(f"<pre>{html.escape(text)}</pre>", inject=False) for name, text in record.texts.items()}
        self.run.log({"step": record.step, **record.numbers, **texts})

    def flush(self) -> None:
        pass

    def close(self) -> None:
        if self.run is not None:
            self.run.finish()
        self.run = None
