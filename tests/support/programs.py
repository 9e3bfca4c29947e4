"""Small programs under tests/ that are built by the Makefile's own rules, with the flags of a build under test, and run.

    path = programs.build("cpu/planted/bounds", "checked")
    done = programs.run(path, "bug", seed=3)       # .returncode, .stdout, .stderr
"""

import fcntl
import os
import pathlib
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILDS = {
    "plain": ("build/cpu", []),
    "checked": ("build/cpu-fp32-checked", ["PRECISION=fp32", "SANITIZE=address,undefined"]),
    "race": ("build/cpu-fp32-race", ["PRECISION=fp32", "SANITIZE=thread"]),
}
ALL_BUILDS = {**BUILDS, "debug": ("build/cpu-debug", ["OPTIMIZE=-O0"])}


def make(*words):
    """One at a time: pytest-xdist's workers share the build folders."""
    with open(ROOT / "build" / "tests.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return subprocess.run(["make", "-s", f"-j{os.cpu_count()}", *words], cwd=ROOT, capture_output=True, text=True)


def build_all(names, kind):
    """Folder in which the programs `names` (without .cu) now lie."""
    folder, settings = ALL_BUILDS[kind]
    targets = [f"{folder}/tests/{name}" for name in names]
    done = make("TARGET=cpu", f"BUILD={folder}", *settings, *targets)
    assert done.returncode == 0, done.stderr
    return ROOT / folder / "tests"


def build(name, kind):
    return build_all([name], kind) / name


def compile_only(source, kind="plain"):
    """What the compiler says to a kernel's source text (completed process); nothing is kept."""
    folder, settings = ALL_BUILDS[kind]
    scratch = ROOT / folder / "tests" / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    path = scratch / f"kernel_{os.getpid()}.cu"
    path.write_text(source)
    target = f"{folder}/obj/{path.relative_to(ROOT)}.o"
    done = make("TARGET=cpu", f"BUILD={folder}", *settings, target)
    path.unlink()
    return done


def run(path, *arguments, seed=0, timeout=600):
    env = dict(os.environ, LLMC_HOST_SEED=str(seed), ASAN_OPTIONS="detect_leaks=0", UBSAN_OPTIONS="print_stacktrace=1", TSAN_OPTIONS="halt_on_error=1")
    env.pop("LD_PRELOAD", None)  # the program is linked with its own sanitizer
    return subprocess.run([path, *map(str, arguments)], capture_output=True, text=True, env=env, timeout=timeout)
