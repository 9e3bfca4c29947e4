"""Judges the calls that tests/checkpoint/faulty_io.c records: whether a file that gets its final name is on the disk by then.

A file's bytes are on the disk after fsync of the file, its name after fsync of the folder. The rules:
- what is renamed has no unsynced byte, and, where it is a folder, no unsynced name in it or below it;
- a name that says that all is there (`latest`, meta.json) is given when all names before it are on the disk;
- nothing that stood there is removed while the name of what replaces it is not on the disk;
- in the end nothing is unsynced, and every file was synced under a temporary name or in a temporary folder.
"""

import os
from pathlib import Path

SEALS = ("latest", "meta.json")
TEMPORARY = (".tmp", ".old", ".partial")


def below(path, folder):
    return path == folder or path.startswith(folder + "/")


def is_temporary(path):
    return any(part.endswith(TEMPORARY) for part in path.split("/"))


class Disk:
    def __init__(self):
        self.bytes = set()  # files with unsynced bytes
        self.names = set()  # folders with unsynced names
        self.given = set()  # final names that are not on the disk yet
        self.synced = set()  # files whose bytes are on the disk

    def call(self, call, path, to=None):
        getattr(self, call)(*(p.rstrip("/") for p in (path, to) if p))

    def open(self, path):
        self.bytes.add(path)
        self.names.add(os.path.dirname(path))

    def write(self, path):
        assert path in self.bytes or path in self.synced, f"{path}: written, but nobody saw it made"
        self.bytes.add(path)
        self.synced.discard(path)

    def mkdir(self, path):
        self.names.add(os.path.dirname(path))

    symlink = mkdir

    def fsync(self, path):
        if path in self.bytes:
            self.bytes.remove(path)
            self.synced.add(path)
        self.names.discard(path)
        self.given = {name for name in self.given if os.path.dirname(name) != path}

    def remove(self, path):
        assert not self.given, f"{path} is removed while {self.given} are not on the disk"
        self.names.add(os.path.dirname(path))
        for paths in (self.bytes, self.names, self.synced):
            paths.difference_update([p for p in paths if below(p, path)])

    def rename(self, path, to):
        self._check(path)
        if os.path.basename(to) in SEALS:
            assert not self.given, f"{to} is named while {self.given} are not on the disk"
        self._move(path, to)
        self.names |= {os.path.dirname(path), os.path.dirname(to)}
        if not is_temporary(to):
            self.given.add(to)

    def exchange(self, path, to):
        self._check(path)
        self._move(path, path + " aside")
        self._move(to, path)
        self._move(path + " aside", to)
        self.names |= {os.path.dirname(path), os.path.dirname(to)}
        self.given.add(to)

    def _check(self, path):
        assert not (wrong := [p for p in self.bytes if below(p, path)]), f"renamed with unsynced bytes: {wrong}"
        assert not (wrong := [p for p in self.names if below(p, path)]), f"renamed with unsynced names: {wrong}"

    def _move(self, path, to):
        for paths in (self.bytes, self.names, self.synced):
            moved = {p for p in paths if below(p, path)}
            paths -= moved
            paths |= {to + p[len(path) :] for p in moved}


def environment(shim, record, folder):
    """For a program whose calls below `folder` are to be recorded."""
    return os.environ | {"LD_PRELOAD": str(shim), "FAULTY_RECORD": str(record), "FAULTY_PATH": str(folder)}


def judge(record, output):
    """Raises where a rule is broken; output: the folder whose files must all have been synced. Returns their number."""
    disk = Disk()
    for line in Path(record).read_text().splitlines():
        call, paths = line.split(" ", 1)
        disk.call(call, *paths.split("\t"))
    assert not disk.bytes, f"never synced: {disk.bytes}"
    assert not disk.given, f"names that may be lost: {disk.given}"
    files = {str(path) for path in Path(output).rglob("*") if path.is_file() and not path.is_symlink()}
    assert files <= disk.synced, f"never synced: {files - disk.synced}"
    return len(files)
