"""The lines of a log that grows. A run that is resumed replaces its log by one without the lines that it writes again."""

import hashlib
import os
from pathlib import Path
from typing import Iterator

CHUNK = 1 << 20  # bytes that are read at once


class LogFile:
    """`taken` is how many bytes have been read, all of them whole lines, and `sum` their SHA-256.

    `goes_on` says whether the file begins with the `size` bytes that were read before, whose SHA-256 is given; if it does not,
    reading begins at its start.
    """

    def __init__(self, path: Path, size: int, sha256: str):
        self.path, self.file = path, open(path, "rb")
        self.goes_on = self._pass_over(size, sha256)

    def _pass_over(self, size: int, sha256: str) -> bool:
        self.rewind()
        self.file.seek(0)
        while self.taken < size and (data := self.file.read(min(CHUNK, size - self.taken))):
            self._take(data)
        if self.taken == size and self.sum.hexdigest() == sha256:
            return True
        self.rewind()
        return False

    def _take(self, data: bytes) -> None:
        self.taken += len(data)
        self.sum.update(data)

    def reopen(self) -> bool:
        """Opens the file anew if it has been replaced or cut. Returns whether it still begins with what was read."""
        now, old = os.stat(self.path), os.fstat(self.file.fileno())  # as it is open, no other file has its number
        if (now.st_dev, now.st_ino) == (old.st_dev, old.st_ino) and now.st_size >= self.taken:
            return True
        self.file.close()
        self.file = open(self.path, "rb")
        return self._pass_over(self.taken, self.sum.hexdigest())

    def rewind(self) -> None:
        self.taken, self.sum = 0, hashlib.sha256()

    def has_more(self) -> bool:
        """Whether a whole line stands behind those that were read."""
        self.file.seek(self.taken)
        return self.file.readline().endswith(b"\n")

    def lines(self) -> Iterator[bytes]:
        """The lines behind those that were read. One whose end is not written yet is left for the next call."""
        self.file.seek(self.taken)
        while line := self.file.readline():
            if not line.endswith(b"\n"):
                return
            self._take(line)
            yield line

    def close(self) -> None:
        self.file.close()
