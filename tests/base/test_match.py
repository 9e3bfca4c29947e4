"""Which files an option names: what is there by that name, else what matches it as a pattern."""

import os
import pathlib
from ctypes import POINTER, Structure, byref, c_char_p, c_size_t

import pytest

from hostlib import INPUT, call, expect_refusal, fresh_random, library, path_bytes

pytestmark = pytest.mark.checked

SIGNS = list("ab1 []*?{}~\\é'\"-!^$\n")


class FileList(Structure):
    _fields_ = [("paths", POINTER(c_char_p)), ("count", c_size_t)]


def match(pattern):
    found = FileList()
    call("file_match", byref(found), path_bytes(pattern), b"shard")
    paths = [os.fsdecode(found.paths[i]) for i in range(found.count)]
    library.file_list_free(byref(found))
    return paths


def random_name(rng):
    return "".join(rng.choice(SIGNS, rng.integers(1, 9))) + "x"  # neither . nor ..


def sorted_paths(paths):
    return sorted(map(str, paths), key=os.fsencode)


def test_names_that_are_there(tmp_path):
    """Folders and files of any name are found by it, and the files of such a folder by a pattern behind it."""
    rng = fresh_random()
    folders = [tmp_path / random_name(rng) / random_name(rng) for _ in range(20)]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        for _ in range(6):
            (folder / random_name(rng)).write_text("")
    for folder in folders:
        files = [path for path in folder.iterdir() if path.is_file()]
        assert match(f"{folder}/*") == sorted_paths(folder.iterdir())
        for path in files:
            assert match(path) == [str(path)]


def test_patterns(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("run 1/data [v2]/train_0.bin", "run 1/data [v2]/train_1.bin", "run 2/data [v2]/train_0.bin", "a/x.bin", "b/x.bin",
                 "[ab]/y.bin", "c/train[0].bin", "c/train0.bin"):  # fmt: skip
        pathlib.Path(name).parent.mkdir(parents=True, exist_ok=True)
        pathlib.Path(name).write_text("")
    assert match("run 1/data [v2]/train_*.bin") == ["run 1/data [v2]/train_0.bin", "run 1/data [v2]/train_1.bin"]
    assert match("run ?/data [v2]/train_[01].bin") == [f"run {i}/data [v2]/train_{j}.bin" for i, j in ((1, 0), (1, 1), (2, 0))]
    assert match("run 1/data \\[v2\\]/*_0.bin") == ["run 1/data [v2]/train_0.bin"]
    assert match("[ab]/*.bin") == ["[ab]/y.bin"], "what is there by that name comes before what the pattern means"
    assert match("[a-b]/*.bin") == ["a/x.bin", "b/x.bin"]
    assert match("c/train[0].bin") == ["c/train[0].bin"]
    assert match("c/train[0-9].bin") == ["c/train0.bin"]
    assert match("./a//x.bin") == ["./a//x.bin"] and match(f"{tmp_path}/a/*") == [f"{tmp_path}/a/x.bin"]


@pytest.mark.parametrize("pattern, words", [
    ("none_*.bin", ["none_*.bin: no file matches, expected at least one shard"]),
    ("data [v3]/train_*.bin", ["there is no folder data [v3]", "[ab] is one character"]),
    ("data [v2]/train[0].bin", ["[ab] is one character"]),
    ("data [v2]/none/*.bin", ["there is no folder none"]),
    ("~/data/*.bin", ["there is no folder ~", "$HOME"]),
])  # fmt: skip
def test_none_found(tmp_path, monkeypatch, pattern, words):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("data [v2]").mkdir()
    expect_refusal(INPUT, words, "file_match", byref(FileList()), path_bytes(pattern), b"shard")
