"""log.jsonl stays a file of whole lines whatever the disk does; the progress line fits every width; the output folder."""

import ctypes
import fcntl
import json
import math
import os
import pty
import re
import resource
import signal
import struct
import subprocess
import sys
import termios
import time
from ctypes import byref, c_bool, c_char_p, c_double, c_int, c_int64, c_size_t, c_void_p

import pytest
from checkout import ROOT

from hostlib import BUILD, INPUT, Error, library
from rundir import Opened

NAN = math.nan


class Log(ctypes.Structure):
    """llmc/run/log.h"""

    _fields_ = [("fd", c_int), ("bytes", c_int64), ("lost_lines", c_int64)]


class Preference(ctypes.Structure):
    """llmc/run/log.h: LogPreference"""

    _fields_ = [(name, c_double) for name in "accuracy reward_chosen reward_rejected nll".split()]


class Step(ctypes.Structure):
    """llmc/run/log.h: LogStep"""

    _fields_ = [("loss", c_double), ("lr", c_double), ("grad_norm", c_double), ("tokens", c_int64),
                ("tokens_per_second", c_double), ("preference", ctypes.POINTER(Preference)), ("ranks", c_void_p),
                ("stage", c_char_p), ("sources", c_void_p), ("num_sources", c_int)]  # fmt: skip


class State(ctypes.Structure):
    """llmc/run/progress.h: ProgressState"""

    _fields_ = [("step", c_int64), ("steps", c_int64)] + [
        (name, c_double)
        for name in "loss val_loss accuracy lr grad_norm tokens_per_second share_of_peak seconds_left".split()
    ] + [("what", c_char_p)]


class Progress(ctypes.Structure):
    """llmc/run/progress.h"""

    _fields_ = [("out", c_void_p), ("terminal", c_bool), ("every", c_int64), ("drawn", c_int), ("last_drawn", c_double)]


library.log_step.argtypes = [c_void_p, c_int64, c_void_p]
library.log_evaluation.argtypes = [c_void_p, c_int64, c_double, c_void_p, c_int, c_void_p]
library.log_sample.argtypes = library.log_stop.argtypes = [c_void_p, c_int64, c_char_p]
library.progress_format.argtypes = [c_char_p, c_size_t, c_void_p, c_int]
library.progress_format.restype = c_size_t
library.progress_span.argtypes = library.progress_count.argtypes = [c_char_p, c_size_t, c_double]
library.progress_begin.argtypes = [c_void_p, c_void_p, c_int64]

libc = ctypes.CDLL(None)
libc.fdopen.restype = c_void_p
libc.fclose.argtypes = [c_void_p]


# ---- log


def opened_log(path):
    log, err = Log(), Error()
    assert library.log_open(byref(log), os.fsencode(path), byref(err)) == 0, err.message
    return log


def lines(path):
    text = path.read_bytes()
    assert text == b"" or text.endswith(b"\n")
    return [json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON")) for line in text.splitlines()]


def test_log_lines(tmp_path):
    path = tmp_path / "log.jsonl"
    log = opened_log(path)
    library.log_step(byref(log), 1, byref(Step(7.625, 3e-4, 1.5, 2048, 12345.678)))
    assert len(lines(path)) == 1  # it is there before the file is closed
    library.log_step(byref(log), 2, byref(Step(NAN, 3e-4, math.inf, 4096, 1.0)))
    library.log_evaluation(byref(log), 2, 6.5, None, 0, None)
    library.log_sample(byref(log), 2, 'say "hi"\n\u00e9'.encode())
    library.log_stop(byref(log), 2, b"loss is nan")
    library.log_close(byref(log))
    assert lines(path) == [
        {"step": 1, "loss": 7.625, "lr": 3e-4, "grad_norm": 1.5, "tokens": 2048, "tokens_per_second": 12345.68},
        {"step": 2, "loss": None, "lr": 3e-4, "grad_norm": None, "tokens": 4096, "tokens_per_second": 1},
        {"step": 2, "val_loss": 6.5},
        {"step": 2, "sample": 'say "hi"\n\u00e9'},
        {"step": 2, "stopped": "loss is nan"},
    ]


def test_log_lines_of_comparisons(tmp_path):
    path = tmp_path / "log.jsonl"
    log = opened_log(path)
    library.log_step(byref(log), 1, byref(Step(0.5, 1e-5, 1.5, 2048, 1.0, ctypes.pointer(Preference(0.75, 1.5, -0.25, 2.5)))))
    library.log_evaluation(byref(log), 1, 0.25, None, 0, byref(Preference(0.5, 3.0, 1.0, NAN)))  # a reward model has no nll
    library.log_close(byref(log))
    step, evaluation = lines(path)
    assert step == {"step": 1, "loss": 0.5, "lr": 1e-5, "grad_norm": 1.5, "tokens": 2048, "tokens_per_second": 1,
                    "accuracy": 0.75, "margin": 1.75, "reward_chosen": 1.5, "reward_rejected": -0.25, "nll": 2.5}
    assert evaluation == {"step": 1, "val_loss": 0.25, "val_accuracy": 0.5, "val_margin": 2, "val_reward_chosen": 3,
                          "val_reward_rejected": 1}


def test_log_on_a_full_disk(tmp_path):
    """The file may grow to 300 bytes, then fails, then may grow again."""
    path = tmp_path / "log.jsonl"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    log = opened_log(path)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))
        for step in range(1, 11):
            library.log_step(byref(log), step, byref(Step(1.0, 1.0, 1.0, step, 1.0)))
        kept = len(lines(path))
        assert 0 < kept < 10 and log.lost_lines == 10 - kept
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        library.log_step(byref(log), 11, byref(Step(1.0, 1.0, 1.0, 11, 1.0)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
        library.log_close(byref(log))
    assert [line["step"] for line in lines(path)] == [*range(1, kept + 1), 11]


# ---- the line

FULL = State(120, 1000, 3.2142, 3.4011, 0.7153, 2.9e-4, 0.8412, 12345.6, 0.431, 192.0)


def formatted(state, columns, capacity=256):
    text = ctypes.create_string_buffer(b"x" * (capacity + 8), capacity + 8)
    length = library.progress_format(text, capacity, byref(state), columns)
    assert text.raw[capacity:] == b"x" * 8 or capacity > 256  # nothing behind capacity
    assert len(text.value) == length
    return text.value.decode()


def test_progress_line():
    assert formatted(FULL, 200) == (
        "step 120/1000 | loss 3.2142 | right 71.5% | val 3.4011 | lr 2.90e-04 | norm 0.841 | 12.3k tok/s | 43.1% of peak | 3m12s left"
    )
    assert formatted(State(1, 9, 3.2, NAN, NAN, 1e-3, NAN, NAN, NAN, NAN), 200) == "step 1/9 | loss 3.2000 | lr 1.00e-03"


def test_progress_line_fits():
    """Every width: it fits, parts are whole, and no part goes before a less important one."""
    order = ["of peak", "norm", "lr", "left", "tok/s", "val", "right", "loss", "step"]
    for columns in range(0, 145):
        line = formatted(FULL, columns)
        assert len(line) <= columns
        if columns >= len("step 120/1000"):
            shown = [any(name in part for part in line.split(" | ")) for name in order]
            assert shown == sorted(shown), line
    for capacity in range(1, 130):
        assert len(formatted(FULL, 200, capacity)) < capacity


@pytest.mark.parametrize(
    "seconds, text",
    [(0, "0s"), (59.4, "59s"), (59.6, "1m00s"), (187, "3m07s"), (7500, "2h05m"), (273600, "3d04h"), (-1, "0s")],
)
def test_span(seconds, text):
    out = ctypes.create_string_buffer(32)
    library.progress_span(out, 32, seconds)
    assert out.value.decode() == text


@pytest.mark.parametrize(
    "count, text",
    [(0, "0"), (950, "950"), (999.6, "1.00k"), (2048, "2.05k"), (12345, "12.3k"), (99960, "100k"), (1.2e6, "1.20M"), (8e9, "8.00G")],
)
def test_count(count, text):
    out = ctypes.create_string_buffer(32)
    library.progress_count(out, 32, count)
    assert out.value.decode() == text


# ---- on a terminal


class Terminal:
    def __init__(self, columns):
        self.master, slave = pty.openpty()
        self.resize(columns)
        os.set_blocking(self.master, False)
        self.file = c_void_p(libc.fdopen(slave, b"w"))
        self.progress = Progress()
        library.progress_begin(byref(self.progress), self.file, 10)

    def resize(self, columns):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", 20, columns, 0, 0))

    def read(self):
        try:
            return os.read(self.master, 1 << 16).decode()
        except BlockingIOError:
            return ""

    def show(self, step):
        state = State(step, 1000, *list(getattr(FULL, name) for name, _ in State._fields_[2:]))
        library.progress_show(byref(self.progress), byref(state))
        return self.read()

    def close(self):
        libc.fclose(self.file)
        os.close(self.master)


def test_redraw_in_place():
    terminal = Terminal(80)
    try:
        first = terminal.show(1)
        assert first.startswith("step 1/1000") and len(first) < 80 and "\n" not in first
        terminal.progress.last_drawn += 3600
        assert terminal.show(2) == ""  # too soon after the first, however long this took
        terminal.progress.last_drawn -= 3600
        time.sleep(0.06)
        second = terminal.show(3)
        assert second.startswith("\r\x1b[J" + "step 3/1000") and "\n" not in second
        library.progress_print(byref(terminal.progress), b"step %d: hello", 3)
        assert terminal.read() == "\r\x1b[Jstep 3: hello\r\n"
        time.sleep(0.06)
        assert terminal.show(4).startswith("step 4")
        # narrower: the old line is folded into several rows, which are all cleared, and the new one fits
        terminal.resize(30)
        time.sleep(0.06)
        narrow = terminal.show(5)
        assert re.fullmatch(r"\x1b\[2A\r\x1b\[Jstep 5/1000 \| loss 3.2142", narrow), repr(narrow)
        terminal.resize(5)
        time.sleep(0.06)
        assert terminal.show(6).endswith("step")
        library.progress_show(byref(terminal.progress), byref(FULL))
        assert terminal.show(1000).endswith("step")  # the last step is drawn however soon
        library.progress_end(byref(terminal.progress))
        assert terminal.read().endswith("\n")
    finally:
        terminal.close()


def test_lines_are_broken_between_words():
    """At every width; where there is none, and where the output is no terminal, they are whole."""
    said = "step 2: checkpoint of 51.6MB written in 0.29 s, training waited 0.00 s in runs/größte/checkpoint"
    as_is = "what stands behind the first line is somebody else's text"
    for columns in [*range(5, len(said) + 3), 0]:
        terminal = Terminal(columns)
        try:
            library.progress_print(byref(terminal.progress), b"%s", f"{said}\n{as_is}".encode())
            text = ""
            while not text.endswith(f"{as_is}\r\n"):
                text += terminal.read()
        finally:
            terminal.close()
        first, *more = text.removesuffix(f"\r\n{as_is}\r\n").split("\r\n")
        assert " ".join([first, *(row.removeprefix("  ") for row in more)]) == said
        assert bool(more) == (0 < columns < len(said)) and all(row.startswith("  ") for row in more)
        assert all(len(row) <= columns or columns == 0 or " " not in row.strip() for row in [first, *more])


def test_terminal_without_a_width():
    """As mpirun makes one, whose output may go to a file."""
    terminal = Terminal(0)
    try:
        assert terminal.show(1).startswith("step 1/1000")
        time.sleep(0.06)
        assert "\x1b" not in terminal.show(10)
    finally:
        terminal.close()


def test_plain_lines(tmp_path):
    """No terminal: the first step, each tenth, the last; no control characters."""
    path = tmp_path / "out.txt"
    file = c_void_p(libc.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT), b"w"))
    progress = Progress()
    library.progress_begin(byref(progress), file, 10)
    for step in range(1, 26):
        state = State(step, 25, *[NAN] * 8)
        library.progress_show(byref(progress), byref(state))
    libc.fclose(file)
    assert path.read_text() == "".join(f"step {s}/25\n" for s in (1, 10, 20, 25))


# ---- output folder


def test_run_dir_is_made(tmp_path):
    """It has the lock while it is held, and goes again if nothing came of the run."""
    with Opened(tmp_path / "a" / "b") as result:
        assert result == (0, "")
        assert [p.name for p in (tmp_path / "a" / "b").iterdir()] == ["lock"]
    assert not (tmp_path / "a" / "b").exists()
    (tmp_path / "old").mkdir()
    with Opened(tmp_path / "old") as result:
        assert result == (0, "")
    assert list((tmp_path / "old").iterdir()) == []


def refuse_run(folder, may_be_begun):
    err = Error()
    return library.run_dir_refuse_run(os.fsencode(folder), c_bool(may_be_begun), byref(err)), err.message.decode()


@pytest.mark.parametrize("sign", ["log.jsonl", "trainer_options.json", "checkpoint", "model.safetensors"])
def test_run_dir_with_a_run(tmp_path, sign):
    assert refuse_run(tmp_path, False) == (0, "")
    (tmp_path / sign).write_text("precious")
    code, message = refuse_run(tmp_path, False)
    assert code == INPUT and all(words in message for words in (sign, "--overwrite", "--resume auto", str(tmp_path)))
    begun = refuse_run(tmp_path, True)[0]  # without a checkpoint there is nothing to go on from, and nothing to lose
    assert begun == (INPUT if sign in ("checkpoint", "model.safetensors") else 0)
    assert (tmp_path / sign).read_text() == "precious" and len(list(tmp_path.iterdir())) == 1


def test_run_dir_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with Opened(path) as (code, message):
            assert code == INPUT and str(path) in message and "folder" in message


def test_run_dir_read_only(tmp_path):
    """As a user without root's rights, where a mode alone forbids writing."""
    os.chmod(tmp_path, 0o555)
    script = f"""
import os, sys
sys.path.append({str(ROOT / "tests/support")!r})
from rundir import Opened
if os.geteuid() == 0: os.setgid(65534), os.setuid(65534)
with Opened({str(tmp_path)!r}) as (code, message): print(code, message)
"""
    environment = {**os.environ, "LLMC_BUILD": BUILD}
    for parent in tmp_path.parents:  # pytest's folders are closed to others
        if parent.name.startswith(("pytest-", "popen-")):
            os.chmod(parent, 0o755)
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    os.chmod(tmp_path, 0o755)
    assert out.stdout.startswith(f"{INPUT} ") and str(tmp_path) in out.stdout and "trial write" in out.stdout, out


# ---- the log of a run that goes on


def test_log_goes_on(tmp_path):
    """What lies behind the checkpoint's step is removed, what was cut or is no line of ours too; the rest stays byte for byte."""
    path = tmp_path / "log.jsonl"
    kept = ['{"step":1,"loss":7.5}', '{"step":2,"sample":"a \\n b"}', '{"step":2,"val_loss":6.5}', '{"step":1,"checkpoint":"step_00000001"}']
    gone = ['{"step":3,"loss":7.25}', "[1]", "{}", "no JSON"]
    path.write_text("\n".join([kept[0], gone[0], kept[1], gone[1], kept[2], gone[2], kept[3], gone[3]]) + '\n{"step":1,"lo')
    log, err = Log(), Error()
    assert library.log_resume(byref(log), os.fsencode(path), c_int64(2), c_int(0), byref(err)) == 0, err.message
    library.log_resumed(byref(log), c_int64(2), b"step_00000002")
    library.log_checkpoint(byref(log), c_int64(4), b"step_00000004", c_double(0.25), c_double(1.5), c_int64(123456789012))
    library.log_checkpoint_failed(byref(log), c_int64(6), b"no space")
    library.log_passed_over(byref(log), c_int64(6), b"step_00000006", b"broken")
    library.log_close(byref(log))
    assert path.read_text().splitlines()[:4] == kept
    assert lines(path)[4:] == [
        {"step": 2, "resumed": "step_00000002"},
        {"step": 4, "checkpoint": "step_00000004", "wait_seconds": 0.25, "write_seconds": 1.5, "bytes": 123456789012},
        {"step": 6, "checkpoint_failed": "no space"},
        {"step": 6, "passed_over": "step_00000006", "reason": "broken"},
    ]
    assert [p.name for p in tmp_path.iterdir()] == ["log.jsonl"]


@pytest.mark.parametrize("kinds, gone", [(0, []), (1, ["v", "a"]), (2, ["t"]), (5, ["v", "a", "s"]), (7, ["v", "a", "t", "s"])])
def test_what_is_made_again_leaves_the_log(tmp_path, kinds, gone):
    """Evaluations, tasks and samples of the step itself; those of the steps before stay."""
    path = tmp_path / "log.jsonl"
    members = {"l": '"loss":7', "v": '"val_loss":6', "a": '"val_loss_averaged":6', "t": '"task":"x"', "s": '"sample":"val_loss"'}
    whole = [f'{{"step":{step},{member}}}' for step in (1, 2) for member in members.values()]
    path.write_text("\n".join(whole) + "\n")
    log, err = Log(), Error()
    assert library.log_resume(byref(log), os.fsencode(path), c_int64(2), c_int(kinds), byref(err)) == 0, err.message
    library.log_close(byref(log))
    assert path.read_text().splitlines() == [line for line in whole if line not in [f'{{"step":2,{members[name]}}}' for name in gone]]


def test_log_goes_on_without_a_file(tmp_path):
    log, err = Log(), Error()
    assert library.log_resume(byref(log), os.fsencode(tmp_path / "log.jsonl"), c_int64(2), c_int(0), byref(err)) == 0
    library.log_close(byref(log))
    assert lines(tmp_path / "log.jsonl") == []
