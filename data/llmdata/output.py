"""The folder that a data set is written to: it receives all files of the set or none."""

import contextlib
import fcntl
import os
import shutil
import signal
from pathlib import Path
from typing import Iterator

from .errors import InputError

ENDING = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


@contextlib.contextmanager
def partial_folder(output: Path, own_files: tuple[str, ...], overwrite: bool) -> Iterator[Path]:
    """A folder inside `output` to write to. It is gone afterwards, whatever happens, and so is `output` where it is new and
    nothing was moved into it; two runs exclude each other.

    `own_files`: names (patterns) of what such a run leaves, meta.json last.
    """
    partial, new = output / ".partial", not output.exists()
    with _locked(output):
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
                with contextlib.suppress(OSError):  # it has files
                    output.rmdir()


@contextlib.contextmanager
def _locked(output: Path) -> Iterator[None]:
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
    """Signals that end a program do so behind the block. Blocking them would not do: another thread would take them."""
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
    """Brings a file's bytes, or a folder's names, to the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def move_into_place(partial: Path, output: Path, own_files: tuple[str, ...]) -> None:
    """Replaces what an earlier run left. meta.json comes last: where it stands, the set is whole, also after a power cut."""
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
