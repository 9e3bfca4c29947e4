"""scripts/find_nvidia.sh finds a library where CUDA, DEPS or pip has put it; what it prints compiles, links and runs."""

import os
import shutil
import subprocess
import sys

import pytest

from llmc import ROOT

PACKAGES = ".venv/lib/python3.11/site-packages/nvidia/odd"


@pytest.fixture
def checkout(tmp_path):
    (tmp_path / "a [b] c/scripts").mkdir(parents=True)
    shutil.copy(ROOT / "scripts/find_nvidia.sh", tmp_path / "a [b] c/scripts")
    return tmp_path / "a [b] c"


def install(prefix, value, name="libodd.so.2", lib="lib"):
    """A library whose odd_value() gives `value`, as it lies in pip's packages: without a name that has no version."""
    (prefix / "include").mkdir(parents=True)
    (prefix / lib).mkdir(parents=True)
    (prefix / "include/odd.h").write_text(f"#define ODD {value}\nint odd_value(void);\n")
    source = prefix / "odd.c"
    source.write_text(f"int odd_value(void) {{ return {value}; }}\n")
    subprocess.run(["gcc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", prefix / lib / name, source], check=True)


def find(checkout, *words, code=0, **environment):
    clean = {k: v for k, v in os.environ.items() if k not in ("CUDA_HOME", "DEPS", "PYTHON")}
    command = [checkout / "scripts/find_nvidia.sh", *words]
    done = subprocess.run(command, capture_output=True, text=True, env={**clean, **{k: str(v) for k, v in environment.items()}})
    assert done.returncode == code, (done.stdout, done.stderr)
    return done.stdout.strip()


def value_of_program(folder, **environment):
    """What a program that is built with the options prints: the header's value and the library's."""
    compiling = find(folder, "compile", "odd.h", "odd", **environment)
    linking = find(folder, "link", "odd.h", "odd", **environment)
    source = '#include <odd.h>\n#include <stdio.h>\nint main(void) { printf("%d %d", ODD, odd_value()); }\n'
    (folder / "main.c").write_text(source)
    subprocess.run(f"gcc {compiling} -o main main.c {linking}", shell=True, cwd=folder, check=True)
    return subprocess.run([folder / "main"], capture_output=True, text=True, check=True).stdout


def test_places(checkout):
    """In turn; a place that has the header alone is passed over, so that header and library belong together."""
    assert find(checkout, "link", "odd.h", "odd", code=1) == ""
    site = checkout / "site-packages"
    install(site / "nvidia/odd", 1)
    python = dict(PYTHON=sys.executable, PYTHONPATH=site)
    assert value_of_program(checkout, **python) == "1 1"
    install(checkout / PACKAGES, 2)
    assert value_of_program(checkout, **python) == "2 2"
    install(checkout / "cuda", 3, "libodd.so", "lib64")
    assert value_of_program(checkout, **python, CUDA_HOME=checkout / "cuda") == "3 3"
    install(checkout / "deps/usr", 4, lib=f"lib/{os.uname().machine}-linux-gnu")
    assert value_of_program(checkout, DEPS=checkout / "deps", CUDA_HOME=checkout / "cuda") == "4 4"
    (checkout / "cuda/lib64/libodd.so").unlink()
    assert value_of_program(checkout, CUDA_HOME=checkout / "cuda") == "2 2"
    assert "cuda" in find(checkout, "compile", "odd.h", CUDA_HOME=checkout / "cuda"), "the header alone"


def test_usage(checkout):
    for words in ([], ["link", "odd.h"], ["show", "odd.h"]):
        find(checkout, *words, code=2)


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_warnings(target, tmp_path):
    """A warning stops our own tests, not the build of somebody whose compiler warns of more."""
    make = ["make", "-n", f"TARGET={target}", f"BUILD={tmp_path}", "CUDA_HOME=/usr"]
    as_user, as_test = (subprocess.run([*make, *more], cwd=ROOT, capture_output=True, text=True).stdout
                        for more in ([], ["WERROR=1"]))  # fmt: skip
    compiling = [line for line in as_test.splitlines() if " -c " in line]
    assert compiling and all("-Werror" in line for line in compiling)
    assert "-Werror" not in as_user
    assert "WERROR=1" in (ROOT / "scripts/test.sh").read_text()
