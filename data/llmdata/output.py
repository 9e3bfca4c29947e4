"""Writes a data set to its folder: all of its files appear there, or none. Single files too."""

import contextlib
import fcntl
import json
import os
import shutil
import signal
from pathlib import Path
from typing import BinaryIO, Iterator

from .errors import InputError

ENDING = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


@contextlib.contextmanager
def partial_folder(output: Path, own_files: tuple[str, ...], overwrite: bool) -> Iterator[Path]:
    """A temporary folder inside `output`, locked against other runs. It is removed afterwards, whatever happens.

    So is `output` if it is new and nothing was moved into it. `own_files`: patterns of the files that such a run leaves,
    with meta.json last.
    """
    partial, new = output / ".partial", not output.exists()
    with locked(output):
        present = [path.name for pattern in own_files for path in output.glob(pattern)]
        if present and not overwrite:
            raise InputError(f"{output}: already holds {present[0]}; give another folder, or --overwrite")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir()
        except OSError as error:
            raise InputError(f"{output}: not a folder that can be written to ({error.strerror})") from None
        try:
            yield partial
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            if new:
                with contextlib.suppress(OSError):  # it is not empty
                    output.rmdir()


@contextlib.contextmanager
def locked(output: Path) -> Iterator[None]:
    """Makes the folder if there is none, and keeps other runs out of it."""
    lock = _open_lock(output)
    try:
        yield
    finally:
        os.close(lock)


def _open_lock(output: Path) -> int:
    lock = -1
    try:
        output.mkdir(parents=True, exist_ok=True)
        lock = os.open(output, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return lock
    except BlockingIOError:
        os.close(lock)
        raise InputError(f"{output}: another run is writing to this folder") from None
    except OSError as error:
        raise InputError(f"{output}: not a folder that can be written to ({error.strerror})") from None


@contextlib.contextmanager
def _signals_wait() -> Iterator[None]:
    """Delays signals that end the program until after the block. Blocking them would not help: another thread would take them."""
    came: list[int] = []
    before = {number: signal.signal(number, lambda number, _: came.append(number)) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in came:
            signal.raise_signal(number)


def sync(path: Path) -> None:
    """Makes sure that a file's bytes, or a folder's entries, are on the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def close_synced(file: BinaryIO) -> None:
    """Closes a file when its bytes are on the disk."""
    file.flush()
    os.fsync(file.fileno())
    file.close()


def move_into_place(partial: Path, output: Path, own_files: tuple[str, ...]) -> None:
    """Replaces the files of an earlier run. meta.json comes last: where it exists the set is whole, even after a power cut."""
    names = sorted(path.name for path in partial.iterdir() if path.name != "meta.json")
    for name in [*names, "meta.json"]:
        sync(partial / name)
    with _signals_wait():
        for pattern in reversed(own_files):
            for path in output.glob(pattern):
                path.unlink()
        for name in names:
            os.replace(partial / name, output / name)
        sync(output)
        os.replace(partial / "meta.json", output / "meta.json")
        sync(output)


def write_text(path: Path, text: str) -> None:
    """The whole file, or what was there before."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def write_json(path: Path, value) -> None:
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")
