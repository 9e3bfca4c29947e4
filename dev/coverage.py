#!/usr/bin/env python3
"""Which lines of the cuda target's host code run without a GPU, by gcov.

    dev/coverage.py [--quick] [--report] [--lines] [--json FILE]

Builds TARGET=cuda-on-cpu COVERAGE=1 in both precisions, runs the tests on it, and prints a line for each file and two sums:

    cuda   what only the cuda target compiles: llmc/device/*.cu, llmc/comm/nccl_*.c, llmc/kernels/*_cudnn.cpp, and device.h and
           launch.h as it compiles them
    host   these, and all of llmc's C and both programs, as the cuda target compiles them

--quick runs the tests of the stand-ins, of collectives, of ranks and of cuDNN only, which is what `cuda` needs. --report runs nothing and counts what
the last call left. --lines prints the numbers of the lines of `cuda` that never ran. Exit code 1: a test failed.
"""

import argparse
import collections
import fnmatch
import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
BUILDS = [f"build/cuda-on-cpu{kind}-coverage" for kind in ("", "-fp32")]
HEADERS = ("llmc/device/device.h", "llmc/device/launch.h")
CUDA = ("llmc/device/*.cu", "llmc/comm/nccl_*.c", "llmc/kernels/*_cudnn.cpp")
QUICK = ["tests/standins", "tests/comm", "tests/ranks/test_ranks_train.py", "tests/ranks/test_ranks_faults.py", "tests/ranks/test_ranks_nccl.py",
         *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("tests/*/test_*cudnn*.py"))]  # fmt: skip
# kernels are the cpu target's, so its tests and those of kernels add nothing; scripts and data are Python
ALL = [f"tests/{name}" for name in ("standins comm ranks device model train kernels/test_attention_cudnn.py checkpoint eval generate "
                                    "loader options recipe run tools test_program.py").split()]  # fmt: skip


def in_group(path):
    """(whether only the cuda target compiles it, whether it is host code of that target at all)"""
    cuda = path in HEADERS or any(fnmatch.fnmatch(path, pattern) for pattern in CUDA)
    return cuda, cuda or fnmatch.fnmatch(path, "llmc/*.c") or path in ("train_llama3.cu", "test_llama3.cu")


def left(pattern):
    return sorted(path for build in BUILDS for path in (ROOT / build).rglob(pattern))


def run_tests(quick):
    environment = os.environ | {
        "CCACHE_DISABLE": "1",  # a cached object would count in another folder
        "LLMC_BUILD": ":".join(BUILDS), "LLMC_ON_CPU_BUILD": pathlib.Path(BUILDS[0]).name, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive",
    }  # fmt: skip
    for precision in ("bf16", "fp32"):
        command = ["make", "-s", f"-j{os.cpu_count()}", "TARGET=cuda-on-cpu", "COVERAGE=1", f"PRECISION={precision}"]
        subprocess.run(command, cwd=ROOT, env=environment, check=True)
    for path in left("*.gcda"):
        path.unlink()
    pytest = [sys.executable, "-m", "pytest", "-q", "-rs", "-n", str(os.cpu_count()), "--dist", "worksteal"]
    done = subprocess.run([*pytest, *(QUICK if quick else ALL)], cwd=ROOT, env=environment)
    # where streams are late, there is something to wait for
    late = subprocess.run([*pytest, "tests/ranks/test_ranks_train.py"], cwd=ROOT, env=environment | {"LLMC_HOST_STREAMS": "random:1"})
    return done.returncode or late.returncode


def count_lines():
    """{file: {line: how often it ran}} over all objects that have it."""
    counts = collections.defaultdict(collections.Counter)
    for notes in left("*.gcno"):
        done = subprocess.run(["gcov", "--json-format", "--stdout", notes], cwd=ROOT, capture_output=True, text=True, check=True)
        for text in done.stdout.splitlines():
            for file in json.loads(text)["files"]:
                for line in file["lines"]:
                    counts[os.path.normpath(file["file"])][line["line_number"]] += line["count"]
    return counts


def share(ran, lines):
    return f"{ran:6d} of {lines:6d} lines  {100 * ran / max(lines, 1):5.1f} %"


def report(counts, with_lines):
    """Prints it; {group: {"ran", "lines", "files"}}."""
    sums = {group: {"ran": 0, "lines": 0, "files": {}} for group in ("cuda", "host")}
    for path in sorted(path for path in counts if in_group(path)[1]):
        ran, lines = sum(count > 0 for count in counts[path].values()), len(counts[path])
        print(f"{share(ran, lines)}  {path}")
        for group, belongs in zip(sums, in_group(path)):
            if belongs:
                sums[group]["ran"] += ran
                sums[group]["lines"] += lines
                sums[group]["files"][path] = [ran, lines]
        if with_lines and in_group(path)[0] and ran < lines:
            print("      never:", *(number for number, count in sorted(counts[path].items()) if not count))
    for group, total in sums.items():
        print(f"{share(total['ran'], total['lines'])}  {group}")
    return sums


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("quick", "report", "lines"):
        parser.add_argument(f"--{name}", action="store_true")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE")
    arguments = parser.parse_args()
    code = 0 if arguments.report else run_tests(arguments.quick)
    sums = report(count_lines(), arguments.lines)
    if arguments.json:
        arguments.json.write_text(json.dumps(sums, indent=1) + "\n")
    return 1 if code else 0


if __name__ == "__main__":
    sys.exit(main())
