"""cuBLASLt's algorithms timed once and kept in a file (llmc/device/matmul_algorithms.h), on its stand-in, to whose events one of four
proposals is the fastest by hours (LLMC_STANDIN_FASTEST)."""

import ctypes
import json

import pytest

import llmc
import oncpu
import trainrun

TIMED = 6  # calls of each proposal: one that loads it, and five that are timed


@pytest.fixture(autouse=True)
def needed():
    oncpu.need()


@pytest.fixture(scope="module")
def program():
    return oncpu.build("standins/algorithms")


@pytest.fixture
def multiply(program):
    """What the program says with a file, and its stderr, if N is the fastest."""

    def run(file, fastest, times=True, **environment):
        given = [file, "times" if times else "reads"] if file else []
        done = oncpu.run([program, *given], LLMC_STANDIN_FASTEST=str(fastest), **environment)
        return done.stdout.strip(), done.stderr

    return run


def counts(timed, **used):
    """Of two shapes, which take 3 and 2 products; timed: 1 if all four proposals are."""
    return " ".join(["right", *(str(timed * 2 * TIMED + used.get(f"v{variant}", 0)) for variant in range(4))])


@pytest.mark.parametrize("streams", ["eager", "lazy", "random:3"])
def test_the_fastest_is_taken_and_kept(multiply, tmp_path, streams):
    """Timed once; another process takes it from the file, though another is the fastest by then. What was added to is as before."""
    file = tmp_path / "algorithms"
    assert multiply(file, 2, LLMC_HOST_STREAMS=streams)[0] == counts(1, v2=5)
    kept = file.read_text()
    assert kept.startswith("llmc matmul algorithms 1\n") and kept.count("\n") == 3 and " 8 48 32 " in kept and "H100" in kept
    assert multiply(file, 1, LLMC_HOST_STREAMS=streams)[0] == counts(0, v2=5)
    assert multiply(file, 1, times=False)[0] == counts(0, v2=5)
    assert file.read_text() == kept


def test_without_a_file_nothing_is_timed(multiply):
    assert multiply(None, 2)[0] == counts(0, v0=5)


def test_the_first_proposal_stays_where_it_is_as_fast(multiply, tmp_path):
    """All take an hour: 2 % of that are 72 s."""
    assert multiply(tmp_path / "algorithms", 7)[0] == counts(1, v0=5)


def test_another_gpu(multiply, tmp_path):
    """Has its own lines; the first one's stay."""
    file = tmp_path / "algorithms"
    multiply(file, 2)
    assert multiply(file, 1, LLMC_HOST_DEVICE="a100")[0] == counts(1, v1=5)
    assert file.read_text().count("H100") == file.read_text().count("A100") == 2
    assert multiply(file, 3)[0] == counts(0, v2=5)


def spoil(file, how):
    lines = file.read_text().splitlines(keepends=True)
    checksum, version, rest = lines[1].split(" ", 2)
    changed = {
        "a digit": [lines[0], lines[1].replace(" 8 48 32 ", " 8 48 33 "), lines[2]],
        "cut short": [lines[0], lines[1], lines[2][:-9]],
        "no format": ["{}\n", *lines[1:]],
        "empty": [],
        "a short line": [lines[0], "0123\n"],
        "a long line": [lines[0], lines[1][:-1] + 5000 * "x" + "\n"],
        "a zero byte": [lines[0], lines[1], "\0"],
    }[how]
    file.write_text("".join(changed))
    return {"a digit": 2, "cut short": 3, "a short line": 2, "a long line": 2}.get(how, 1)


@pytest.mark.parametrize("how", ["a digit", "cut short", "no format", "empty", "a short line", "a long line", "a zero byte"])
def test_a_damaged_file(multiply, tmp_path, how):
    """One line, and it is made anew; several ranks, which would have other bits than before, do not begin."""
    file = tmp_path / "algorithms"
    multiply(file, 2)
    line = spoil(file, how)
    said = f"{file}: line {line} is damaged, expected a file of algorithms"
    assert multiply(file, 1, times=False)[0] == f"2 {said}; remove it"
    found, stderr = multiply(file, 1)
    assert found == counts(1, v1=5)
    assert [text for text in stderr.splitlines() if "refuses" not in text] == [f"llmc: {said}: it is made anew"]
    assert multiply(file, 3)[0] == counts(0, v1=5)


def test_an_algorithm_that_the_library_refuses(multiply, tmp_path):
    """Rightly written, but of another problem, as after a change of what asks for it: timed anew, in the same line."""
    file = tmp_path / "algorithms"
    multiply(file, 2)
    first, one, other = file.read_text().splitlines()
    words, others = one.split(" "), other.split(" ")
    words[6] = others[6]
    rest = " ".join(words[1:]) + "\n"
    lib = llmc.Library("bf16", oncpu.ON_CPU)
    file.write_text(f"{first}\n{digest(lib, rest)} {rest}{other}\n")
    found, _ = multiply(file, 1)
    assert found == f"right {TIMED} {TIMED + 3} {TIMED + 2} {TIMED}"
    assert file.read_text().count("\n") == 3


def digest(lib, text):
    """hash_bytes() of base/hash.h."""
    class Digest(ctypes.Structure):
        _fields_ = [("text", ctypes.c_char * 33)]

    lib.c.hash_bytes.restype = Digest
    data = text.encode()
    return lib.c.hash_bytes(data, ctypes.c_size_t(len(data))).text.decode()


def test_no_file_for_many_ranks(multiply, tmp_path):
    file = tmp_path / "algorithms"
    assert multiply(file, 2, times=False)[0] == f"2 {file}: no such file of algorithms, expected one that a single rank has made"
    assert multiply(tmp_path, 2)[0].startswith(f"2 {tmp_path}: ")
    multiply(file, 2)
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:2]))
    found, stderr = multiply(file, 1, times=False)
    assert found == "right 2 0 3 0" and stderr.count("not in the file of algorithms, cuBLASLt's first is used") == 1


def test_a_file_that_cannot_be_written(multiply, tmp_path):
    """Said once; the products go on."""
    found, stderr = multiply(tmp_path / "missing/algorithms", 2)
    assert found == f"right {TIMED + 2} {TIMED} {TIMED + 3} {TIMED}"  # the second shape is not timed any more
    assert stderr.count("timed again in the next run") == 1


def test_a_run(tmp_path):
    """The program's option: the file is there afterwards; a second run times nothing, and has the bits of the first. One with another
    file that is resumed says so."""
    work, file = trainrun.Workplace(tmp_path), tmp_path / "algorithms"

    def train(name, *more, code=0, fastest=1):
        arguments = work.arguments(steps=2, eval_every=0, output=tmp_path / name, threads=None)
        done = oncpu.run([oncpu.ON_CPU / "train_llama3", *arguments, *more], code=code, LLMC_STANDIN_FASTEST=str(fastest))
        log = tmp_path / name / "log.jsonl"
        rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        return done, [row["loss"] for row in rows if "loss" in row]

    _, plain = train("plain")
    _, first = train("first", "--matmul-algorithms", file)
    kept = file.read_bytes()
    assert kept.count(b"\n") > 10
    _, second = train("second", "--matmul-algorithms", file, fastest=3)
    assert first == second == plain and file.read_bytes() == kept
    done, _ = train("first", "--resume", "auto", "--steps", "3", code=2)
    assert "matmul-algorithms" in done.stderr


def test_the_cpu_target_has_none(tmp_path):
    work = trainrun.Workplace(tmp_path)
    arguments = work.arguments(steps=1, eval_every=0, output=tmp_path / "run", threads=None)
    done = oncpu.run([oncpu.CPU / "train_llama3", *arguments, "--matmul-algorithms", tmp_path / "algorithms"], code=2)
    assert "--matmul-algorithms: cuBLASLt's algorithms are for the cuda target" in done.stderr
