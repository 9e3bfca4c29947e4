"""Rules of the source that need no run: launches, the seam between the targets, what linters say."""

import functools
import hashlib
import pathlib
import re
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDERS = [ROOT / name for name in ("llmc", "dev", "tests")]
CODE = [p for folder in FOLDERS for p in sorted(folder.rglob("*")) if p.suffix in (".c", ".h", ".cu", ".cpp")]
PROGRAMS = sorted(ROOT.glob("*.cu"))  # C11, whatever their ending says
CODE += PROGRAMS
# what NCCL carries needs CUDA's headers; the build of the cuda target warns of it
HOST_C = PROGRAMS + sorted(p for p in [*ROOT.glob("llmc/*/*.c"), *ROOT.glob("dev/reference/*.c")] if not p.name.startswith("nccl_"))
COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/|\"(?:\\.|[^\"\\\n])*\"", re.S)
TARGET_CONDITION = re.compile(r"^[ \t]*#[ \t]*(?:el)?if.*\b(?:LLMC_TARGET_\w+|__CUDACC__|__CUDA_ARCH__)\b", re.M)
PTX = re.compile(r"\b(?:__)?asm(?:__)?\b")
# several elements accessed as one without access_as, which checks their alignment on the CPU target
WIDE_CAST = re.compile(r"\(\s*(?:const\s+)?(?:Pack<[^()]*>|Chunk|u?int[24]|float[24])\s*\*\s*\)")
# a size in bytes that stands alone where a function that takes a count of elements expects one
SIZE_AS_COUNT = re.compile(r"\b(?:nccl\w+|MPI_\w+|comm_(?!host_gather|host_broadcast)\w+)\([^;]*?,\s*sizeof\s*\(?\s*\w+\s*\)?\s*[,)]")


def offences(pattern, paths):
    """PATH:LINE of each match outside comments and strings."""
    found = []
    for path in paths:
        text = COMMENT.sub(lambda m: "\n" * m.group(0).count("\n"), path.read_text())
        found += [f"{path.relative_to(ROOT)}:{text.count(chr(10), 0, m.start()) + 1}" for m in pattern.finditer(text)]
    return found


def is_seam(path):
    return path.parent in (ROOT / "llmc/device", ROOT / "llmc/device/ptx", ROOT / "llmc/cpu")


def test_kernels_are_launched_through_the_helper():
    assert offences(re.compile("<<<"), CODE) == []


def test_targets_differ_in_the_seam_only():
    assert offences(TARGET_CONDITION, [p for p in CODE if not is_seam(p)]) == []


def test_ptx_stands_in_its_folder():
    """What is the CPU's alone may have its instructions."""
    assert offences(PTX, [p for p in CODE if p.parent != ROOT / "llmc/device/ptx" and not p.stem.endswith("_cpu")]) == []


def test_wide_accesses_are_checked():
    assert offences(WIDE_CAST, [*ROOT.glob("llmc/kernels/*"), *ROOT.glob("llmc/device/*.h")]) == []


def test_counts_are_not_sizes():
    assert offences(SIZE_AS_COUNT, CODE) == []


@pytest.mark.parametrize(
    "pattern, bad, good",
    [
        (re.compile("<<<"), "kernel<<<1, 32>>>(x);", "launch(kernel, 1, 32, 0, stream, x); // not <<<>>>"),
        (TARGET_CONDITION, "#ifdef LLMC_TARGET_CPU\n", "#ifdef LLMC_PRECISION_fp32\n"),
        (PTX, "asm volatile(\"membar.gl;\");", "cp_async_commit(); // no asm"),
        (WIDE_CAST, "x = *(const uint4 *)from;", "x = access_as<uint4>(from);"),
        (WIDE_CAST, "*(Pack<floatX, CHUNK> *)to = x;", "access_as<Pack<floatX, CHUNK>>(to) = x;"),
        (SIZE_AS_COUNT, "ncclAllReduce(x, x, sizeof(float), t, op);", "ncclAllReduce(x, x, n, t, op);"),
        (SIZE_AS_COUNT, "MPI_Bcast(x, sizeof(float), t, 0, comm);", "MPI_Bcast(x, n, t, 0, comm);"),
    ],
)
def test_rules_can_fail(tmp_path, pattern, bad, good):
    for text, count in ((bad, 1), (good, 0)):
        code = COMMENT.sub("", text)
        assert len(pattern.findall(code)) == count, text


def tool(name):
    """Path of a linter; where it is not installed the test says so."""
    return shutil.which(name) or pytest.skip(f"{name} is not installed")


def test_shell_scripts():
    scripts = [*ROOT.glob("scripts/*.sh"), ROOT / ".ci/run"]
    done = subprocess.run([tool("shellcheck"), *scripts], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def clang_tidy(path):
    flags = ["-xc", "-std=c11", "-D_GNU_SOURCE", "-DLLMC_PRECISION_bf16", "-DLLMC_TARGET_CPU", "-Illmc", "-Illmc/cpu"]
    if path.name.startswith("mpi_"):
        mpi = subprocess.run([tool("mpicc"), "--showme:compile"], capture_output=True, text=True)
        flags += ["-DLLMC_WITH_MPI", *mpi.stdout.split()]
    command = [tool("clang-tidy"), "--quiet", str(path.relative_to(ROOT)), "--", *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@functools.cache
def digest_of_headers():
    """Of all that a judgement rests on beside the file itself: every header, the settings, the tool."""
    digest = hashlib.sha256(subprocess.run([tool("clang-tidy"), "--version"], capture_output=True).stdout)
    for path in [ROOT / ".clang-tidy", pathlib.Path(__file__), *(p for p in CODE if p.suffix == ".h")]:
        digest.update(path.read_bytes())
    return digest


@pytest.mark.parametrize("path", HOST_C, ids=lambda path: str(path.relative_to(ROOT)))
def test_clang_tidy(path):
    """What passed is remembered in build/, as a file takes seconds."""
    digest = digest_of_headers().copy()
    digest.update(path.read_bytes())
    mark = ROOT / "build/tidy" / f"{path.relative_to(ROOT)}.passed"
    if not mark.exists() or mark.read_text() != digest.hexdigest():
        done = clang_tidy(path)
        assert done.returncode == 0, done.stdout
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.write_text(digest.hexdigest())
