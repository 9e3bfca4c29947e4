"""A checkout in a folder whose name has a space, brackets and an accent: the Makefile and the scripts work there."""

import json
import os
import shutil
import subprocess
import sys

import pytest

import llmc
from trainrun import ON_CPU, Workplace

ROOT = llmc.ROOT
PYTHON = sys.executable
PRECISION = next(iter(llmc.build_folders()))
TARGET = "cpu" if ON_CPU else "cuda"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy with what was built, but for objects."""
    folder = tmp_path_factory.mktemp("odd") / "my [copy] é"
    for name in ("scripts", "llmc", "configs", "data/llmdata"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in [ROOT / "Makefile", *ROOT.glob("*.mk"), *ROOT.glob("*.cu"), *ROOT.glob("data/*.py")]:
        shutil.copy(path, folder / path.relative_to(ROOT))
    for built in llmc.build_folders().values():
        shutil.copytree(built, folder / "build" / built.name, ignore=shutil.ignore_patterns("obj", "tests", "report*"))
    return folder


@pytest.fixture(scope="module")
def work(checkout):
    return Workplace(checkout)


def run(checkout, *command, code=0, **environment):
    done = subprocess.run([*map(str, command)], cwd=checkout, capture_output=True, text=True, env={**os.environ, **environment})
    assert done.returncode == code, (done.returncode, done.stdout[-2000:], done.stderr)
    return done.stdout


def train(**changes):
    """Paths as a user would type them in the checkout's root."""
    options = {"config": "config.json", "train-data": "data/train_*.bin", "output": "run", "steps": 2, "batch-size": 4,
               "seq-len": 32, **({"threads": 1} if ON_CPU else {}), **changes}  # fmt: skip
    program = f"build/{llmc.build_folders()[PRECISION].name}/train_llama3"
    return [program, *(text for name, value in options.items() for text in (f"--{name}", value))]


@pytest.mark.skipif(not ON_CPU, reason="of the cpu target")
def test_make(checkout):
    """Objects, and a library from a folder of such a name, which is found again at run time."""
    deps = checkout / "deps [1], é"
    library = deps / "usr/lib" / f"{os.uname().machine}-linux-gnu"
    library.mkdir(parents=True)
    (deps / "usr/include/cjson").mkdir(parents=True)
    (deps / "usr/include/cjson/cJSON.h").write_text('#include_next <cjson/cJSON.h>\n#define FROM_DEPS 1\n')
    (checkout / "llmc/base/version.c").write_text("#include <cjson/cJSON.h>\nint from_deps = FROM_DEPS;\nint main(void) { return 0; }\n")
    target = "build/odd/obj/llmc/base/version.o"
    run(checkout, "make", "-s", "TARGET=cpu", "BUILD=build/odd", f"DEPS={deps.name}", target)
    assert run(checkout, "make", "TARGET=cpu", "BUILD=build/odd", f"DEPS={deps.name}", target).count("\n") <= 1, "made once"
    flags = run(checkout, "make", "-s", "-f", "Makefile", "--eval", "show:;@printf '%s\\n' $(LIBDIRS)", "TARGET=cpu", f"DEPS={deps.name}", "show")
    assert flags.splitlines() == [f"-L{library.relative_to(checkout)}", *"-Xlinker --disable-new-dtags -Xlinker -rpath -Xlinker".split(),
                                  str(library)]  # fmt: skip


def test_training_and_what_reads_it(checkout, work):
    run(checkout, "scripts/supervise.sh", "--log", "restarts [1].log", "--", *train(**{"save-every": 1, "resume": "auto"}))
    assert (checkout / "run/checkpoint/config.json").exists()
    run(checkout, PYTHON, "scripts/plot.py", "run", "--output", "loss [1].png")
    run(checkout, PYTHON, "scripts/generate.py", "--model", "run", "--prompt", "a", "--max-tokens", 2, "--target", TARGET,
        "--precision", PRECISION)  # fmt: skip
    run(checkout, PYTHON, "scripts/plan.py", "--config", "run", "--gpus", 1, "--seq-len", 32, "--precision", PRECISION)
    (checkout / "round [1].json").write_text(json.dumps({"model": "run/checkpoint", "output": "round [1]", "target": TARGET,
                                                        "precision": PRECISION, "sft": {"data": ["config.json"]}}))  # fmt: skip
    assert "prepare_chat.py" in run(checkout, PYTHON, "scripts/post_train.py", "--round", "round [1].json", "--dry-run")


BUG = "#include <stdlib.h>\nint main(int c, char **v) { (void)v; volatile char *m = malloc(c); return m[c]; }\n"
STAND_IN = """#!/bin/sh
case "$LLMC_BUILD" in *checked) "$BUG" ;; esac
echo "1 passed"
"""


def test_reports_of_sanitizers(checkout, tmp_path):
    """scripts/test.sh shows what a sanitizer found, which it writes into a file of the checkout. (Builds and pytest are stood in for.)"""
    (tmp_path / "bug.c").write_text(BUG)
    subprocess.run(["gcc", "-g", "-fsanitize=address", tmp_path / "bug.c", "-o", tmp_path / "bug"], check=True)
    for name, text in (("make", "#!/bin/sh\n"), ("venv/bin/python", STAND_IN)):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    (checkout / "scripts/setup.sh").write_text("#!/bin/sh\n")
    for name in ("checked", "race"):
        (checkout / f"build/cpu-fp32-{name}").mkdir(exist_ok=True)
    said = run(checkout, "scripts/test.sh", "-k", "none", code=1, VENV=str(tmp_path / "venv"), BUG=str(tmp_path / "bug"),
               PATH=f"{tmp_path}:{os.environ['PATH']}")  # fmt: skip
    assert "heap-buffer-overflow" in said and "bug.c:2" in said
