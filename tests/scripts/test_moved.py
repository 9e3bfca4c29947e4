"""The old names of the data programs in scripts/: they say the new name in one line and run the program there."""

import subprocess
import sys

import pytest
from checkout import ROOT

NAMES = ["get_corpus", "prepare_chat", "prepare_data", "prepare_eval"]


def run(name, *arguments):
    command = [sys.executable, str(ROOT / f"{name}.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def notice(name):
    return f"scripts/{name}.py has moved: it is data/{name}.py now\n"


def test_all_old_names_are_here():
    links = {path.stem: path.resolve() for path in (ROOT / "scripts").glob("*.py") if path.is_symlink()}
    assert links == dict.fromkeys(NAMES, ROOT / "scripts/moved.py")


@pytest.mark.parametrize("name", NAMES)
def test_an_old_name_runs_the_new_program(name):
    old, new = run(f"scripts/{name}", "--help"), run(f"data/{name}", "--help")
    assert (old.returncode, old.stdout) == (new.returncode, new.stdout) and new.stdout.startswith(f"usage: {name}.py")
    assert old.stderr == notice(name)


def test_arguments_and_exit_code_are_passed_on(tmp_path):
    missing = tmp_path / "no such file.txt"
    done = run("scripts/prepare_data", missing, "--vocab-size", 300, "--output", tmp_path / "set")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == notice("prepare_data") + f"prepare_data: {missing}: no such file or folder\n"
    (tmp_path / "a.txt").write_text("To be, or not to be.\n\n" * 400)
    done = run("scripts/prepare_data", tmp_path / "a.txt", "--vocab-size", 264, "--output", tmp_path / "set", "--workers", 1,
               "--val-fraction", 0)  # fmt: skip
    assert done.returncode == 0 and done.stderr == notice("prepare_data"), done.stderr
    assert (tmp_path / "set" / "meta.json").is_file()
