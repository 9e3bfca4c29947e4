"""Which GPUs the cuda build runs on: machine code for the architectures in ARCHS, by default those of the visible GPUs, and PTX
that newer GPUs compile."""

import os
import pathlib
import re
import shutil
import subprocess

import pytest

import sass

ROOT = pathlib.Path(__file__).resolve().parents[2]
OBJECT = "build/cuda/obj/llmc/kernels/rope.cu.o"
pytestmark = pytest.mark.skipif(not shutil.which("nvcc"), reason="no nvcc on PATH")


def make(folder, *words, smi="", nvcc=""):
    """What `make -n` says; smi and nvcc: shell commands in place of these programs."""
    for name, text in (("nvidia-smi", smi or "exit 9"), ("nvcc", nvcc)):
        if text:
            path = folder / "bin" / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"#!/bin/sh\n{text}\n")
            path.chmod(0o755)
    environment = {k: v for k, v in os.environ.items() if k not in ("ARCHS", "MAKEFLAGS", "CUDA_HOME")}
    environment["PATH"] = f"{folder}/bin:{environment['PATH']}"
    settings = ["TARGET=cuda", f"BUILD={folder}", *([f"CUDA_HOME={folder}"] if nvcc else [])]
    command = ["make", "-n", "V=1", *settings, *words, OBJECT.replace("build/cuda", str(folder))]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def generated(done):
    assert done.returncode == 0, done.stderr
    return re.findall(r"-gencode=arch=(\w+),code=(\w+)", done.stdout)


def both(*archs, ptx):
    return [(f"compute_{a}", f"sm_{a}") for a in archs] + [(f"compute_{ptx}", f"compute_{ptx}")]


@pytest.mark.parametrize(
    "smi, words, expected",
    [
        ("", [], both("80", "89", "90a", ptx="89")),  # no driver
        ("echo NVIDIA-SMI has failed; exit 9", [], both("80", "89", "90a", ptx="89")),
        ("echo 8.6", [], both("86", ptx="86")),
        ("echo 9.0; echo 9.0", [], both("90a", ptx="90")),
        ("echo 12.0; echo 8.0", [], both("80", "120", ptx="120")),
        ("echo 9.0", ["ARCHS=80 90a"], both("80", "90a", ptx="80")),
        ("", ["ARCHS=90a"], both("90a", ptx="90")),
        ("", ["ARCHS=100f"], both("100f", ptx="100")),
    ],
)
def test_default_and_chosen(tmp_path, smi, words, expected):
    known = "echo compute_80; echo compute_86; echo compute_89; echo compute_90; echo compute_100; echo compute_120"
    assert generated(make(tmp_path, *words, smi=smi, nvcc=known)) == expected


@pytest.mark.parametrize("smi, words, unknown", [("", ["ARCHS=80 42 90a"], "42"), ("echo 7.5", [], "75"), ("echo 12.0", [], "120")])
def test_unknown_to_nvcc(tmp_path, smi, words, unknown):
    done = make(tmp_path, *words, smi=smi, nvcc="echo compute_75; echo compute_80; echo compute_90")
    assert done.returncode == 2
    assert f"knows 80 90, but not {unknown}. A GPU that is newer than all of these runs what ARCHS=90 makes" in done.stderr


def test_another_choice_rebuilds(tmp_path):
    known = "echo compute_80; echo compute_90"
    assert "echo '80' >" in make(tmp_path, "ARCHS=80", nvcc=known).stdout
    (tmp_path / "archs").write_text("80\n")
    assert subprocess.run(["make", "-s", "TARGET=cuda", f"BUILD={tmp_path}", "ARCHS=90", f"{tmp_path}/archs"], cwd=ROOT).returncode == 0
    assert (tmp_path / "archs").read_text() == "90\n"


@pytest.mark.skipif(not (ROOT / OBJECT).exists(), reason="no build/cuda: make TARGET=cuda")
def test_what_an_object_holds():
    if not sass.find_cuobjdump():
        pytest.skip("no cuobjdump, which the CUDA toolkit and PyPI's triton have")
    archs = (ROOT / "build/cuda/archs").read_text().split()
    plain = [arch for arch in archs if arch.isdigit()]
    code = re.findall(r"\.(sm_\w+)\.cubin", sass.cuobjdump("--list-elf", ROOT / OBJECT))
    ptx = re.findall(r"\.(sm_\w+)\.ptx", sass.cuobjdump("--list-ptx", ROOT / OBJECT))
    assert sorted(code) == sorted(f"sm_{arch}" for arch in archs)
    assert ptx == [f"sm_{plain[-1] if plain else archs[-1].rstrip('af')}"]
