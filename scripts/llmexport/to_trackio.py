"""trackio's database in a folder, of one project."""

import contextlib
import os
import sys
from pathlib import Path

from .records import Record, code_block

PROJECT = "llama3"


class Trackio:
    goes_on = True

    def __init__(self, folder: Path, name: str, settings: dict):
        os.environ["TRACKIO_DIR"] = str(folder.parent)
        for variable in ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "TRACKIO_WEBHOOK_URL"):  # nothing is sent anywhere
            os.environ.pop(variable, None)
        import trackio  # which asks for its folder once

        self.trackio, self.name, self.settings, self.records = trackio, name, settings, []

    def begin(self) -> None:
        with contextlib.suppress(ValueError):  # no such project yet
            for run in self.trackio.Api().runs(PROJECT):
                if run.name == self.name:
                    run.delete()

    def write(self, record: Record, back: bool) -> None:
        self.records.append(record)

    def flush(self) -> None:
        trackio = self.trackio
        with contextlib.redirect_stdout(sys.stderr):
            run = trackio.init(PROJECT, self.name, config=self.settings, resume="allow", embed=False, auto_log_gpu=False,
                               auto_log_cpu=False)  # fmt: skip
            for record in self.records:
                texts = {name: trackio.Markdown(code_block(text)) for name, text in record.texts.items()}
                run.log({**record.numbers, **texts}, step=record.step)
            trackio.finish()
        self.records.clear()

    def close(self) -> None:
        pass
