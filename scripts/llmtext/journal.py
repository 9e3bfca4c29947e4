"""Notes finished work, one line per item, so that work that was killed continues where it stopped.

The first line holds the settings with which the others were made. An incomplete last line is dropped.
"""

import fcntl
import json
import os
from pathlib import Path

from llmdata.errors import InputError


class Journal:
    """`rows` are the lines that the file already had after its header.

    A header that differs from the file's is refused. Only the fields `loose` may differ; `changed` says how they do.
    """

    def __init__(self, path: Path, header: dict, loose: tuple[str, ...] = ()):
        self.path, self.changed, self.rows = path, [], []
        try:
            self.file = open(path, "a+b")
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}") from None
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.file.close()
            raise InputError(f"{path}: another program is writing it") from None
        try:
            self._begin(header, loose)
        except InputError:
            self.file.close()
            raise

    def _begin(self, header: dict, loose: tuple[str, ...]) -> None:
        lines = self._whole_lines()
        self.header = json.loads(json.dumps(header))  # as it will be read back
        if lines:
            self._compare(lines[0], loose)
            self.rows = lines[1:]
        else:
            self.append(self.header)

    def _whole_lines(self) -> list[dict]:
        self.file.seek(0)
        data = self.file.read()
        end = data.rfind(b"\n") + 1
        if end < len(data):
            self.file.truncate(end)
        return [self._parse(number, line) for number, line in enumerate(data[:end].splitlines(), 1)]

    def _parse(self, number: int, line: bytes) -> dict:
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise InputError(f"{self.path}: line {number}: expected a JSON object; remove the file to begin anew")
        return row

    def _compare(self, found: dict, loose: tuple[str, ...]) -> None:
        different = {name: f"{name} {_short(found.get(name))}, now {_short(self.header.get(name))}"
                     for name in {**found, **self.header} if found.get(name) != self.header.get(name)}  # fmt: skip
        refused = [text for name, text in different.items() if name not in loose]
        if refused:
            raise InputError(f"{self.path} was begun with {'; '.join(refused)}: "
                             "give another --output, or remove it to begin anew")  # fmt: skip
        self.changed = list(different.values())

    def append(self, row: dict) -> None:
        self.file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        self.file.flush()

    def close(self) -> None:
        os.fsync(self.file.fileno())
        self.file.close()


def _short(value) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 48 else text[:40] + "..."
