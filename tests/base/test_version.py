"""--version of every program."""

import os
import pathlib
import subprocess
import sys

import pytest

import llmc

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPTS = sorted(path for path in [*ROOT.glob("data/*.py"), *ROOT.glob("scripts/*.py")] if "ArgumentParser" in path.read_text())
PROGRAMS = sorted(path.stem for path in ROOT.glob("*.c"))


def said(*command):
    done = subprocess.run([*map(str, command), "--version"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def version():
    return subprocess.run([ROOT / "scripts/version.sh"], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs(name):
    """The version that was built, whose commit may be an older one, with target and precision; no date."""
    for precision, folder in llmc.build_folders().items():
        built = (folder / "version").read_text()
        assert said(folder / name) == f"{name} {built}"
        assert built.startswith("0.") and built.endswith(f", {folder.name.split('-')[0]}, {precision}\n")


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts(path, version):
    assert said(sys.executable, path) == f"{path.name} {version}\n"


def test_supervise(version):
    assert said(ROOT / "scripts/supervise.sh") == f"supervise.sh {version}\n"


def test_one_of_several_ranks_speaks():
    build = llmc.build_folders().popitem()[1]
    for rank, lines in (("0", 1), ("1", 0)):
        started = {"RANK": rank, "WORLD_SIZE": "2", "LOCAL_RANK": rank, "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
        environment = os.environ | started
        for option in ("--version", "--help"):
            done = subprocess.run([build / "train_llama3", option], capture_output=True, text=True, env=environment)
            assert done.returncode == 0 and (done.stdout.count("\n") >= lines if lines else not done.stdout)


def test_a_script_called_by_a_link(tmp_path, version):
    (tmp_path / "link").symlink_to(ROOT / "scripts/version.sh")
    done = subprocess.run([tmp_path / "link"], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{version}\n", "")


@pytest.mark.parametrize("name", ["quickstart", "finetune_demo", "evaluate_demo"])
def test_scripts_without_arguments_refuse_them(name):
    done = subprocess.run([ROOT / f"scripts/{name}.sh", "--steps"], capture_output=True, text=True, timeout=600)
    assert done.returncode == 2 and not done.stdout and f"{name}: argument '--steps', expected none" in done.stderr


def test_no_git(tmp_path):
    """A copy without .git, within somebody else's repository: no commit of theirs."""
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    for name in ("scripts/version.sh", "llmc/base/version.h"):
        (tmp_path / "copy" / name).parent.mkdir(parents=True)
        (tmp_path / "copy" / name).write_bytes((ROOT / name).read_bytes())
    done = subprocess.run(["bash", tmp_path / "copy/scripts/version.sh"], capture_output=True, text=True)
    assert done.returncode == 0 and "commit" not in done.stdout and done.stdout.startswith("0.")
