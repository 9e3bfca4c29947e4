"""TensorBoard's event files, through its own package; it does not need TensorFlow."""

import json
import time
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from .records import Record, code_block


class TensorBoard:
    goes_on = True

    def __init__(self, folder: Path, name: str, settings: dict):
        self.folder, self.name, self.settings = folder, name, settings
        self.writer: EventFileWriter | None = None

    def begin(self) -> None:
        self.close()
        for path in self.folder.glob("events.out.tfevents.*"):
            path.unlink()
        self._forget(0)  # a TensorBoard that has read the old files
        if self.settings:
            self._add(0, hparams_pb(self.settings, trial_id=self.name))
            self._add(0, text_pb("settings", code_block(json.dumps(self.settings, indent=1, ensure_ascii=False))))

    def _event(self, step: int, **what) -> None:
        if self.writer is None:
            self.writer = EventFileWriter(str(self.folder))
        self.writer.add_event(Event(wall_time=time.time(), step=step, **what))

    def _add(self, step: int, summary: Summary) -> None:
        self._event(step, summary=summary)

    def _forget(self, step: int) -> None:
        """Of what stands before in these files, TensorBoard drops that step and those behind it."""
        self._event(step, session_log=SessionLog(status=SessionLog.START))

    def write(self, record: Record, back: bool) -> None:
        if back:
            self._forget(record.step)
        if record.numbers:
            values = (value for name, number in record.numbers.items() for value in scalar_pb(name, number).value)
            self._add(record.step, Summary(value=values))
        for name, text in record.texts.items():
            self._add(record.step, text_pb(name, code_block(text)))

    def flush(self) -> None:
        if self.writer is not None:
            self.writer.flush()

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
        self.writer = None
