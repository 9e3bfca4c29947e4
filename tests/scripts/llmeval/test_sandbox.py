"""Hostile programs in the sandbox: each ends within its limit, which is named, and reaches nothing outside."""

import os
import pathlib
import shutil
import socket
import tempfile
import threading
import time

import psutil
import pytest

from llmeval import sandbox
from llmeval.sandbox import Limits

pytestmark = pytest.mark.skipif(not shutil.which("bwrap"), reason="no bubblewrap on this machine")

ENDLESS = Limits(seconds=4, cpu_seconds=3)  # for programs that only a limit ends
ENOUGH = Limits(seconds=600, cpu_seconds=60)  # for those that end by themselves, even on a busy machine

# program, limits, reason, a word of the output
HOSTILE = {
    "loop": ("while True: pass", Limits(seconds=600, cpu_seconds=1), "processor time", ""),
    "sleep": ("import time; time.sleep(1000)", ENDLESS, "time", ""),
    "deaf": ("import signal, time\nfor n in (1, 2, 15, 24): signal.signal(n, signal.SIG_IGN)\nwhile True: time.sleep(1)",
             ENDLESS, "time", ""),
    "fork bomb": ("import os\nwhile True: os.fork()", ENOUGH, "processes", ""),
    "stubborn fork bomb": ("import os, time\nwhile True:\n  try: os.fork()\n  except OSError: time.sleep(0.01)",
                           ENOUGH, "processes", ""),
    "threads": ("import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(1000,)).start()",
                Limits(seconds=600, memory_bytes=8 << 30), "processes", ""),
    "memory": ("x = bytearray(10**10)", ENOUGH, "memory", "MemoryError"),
    "memory of many": ("import os, time\nos.fork(); os.fork()\nx = b'x' * (200 << 20)\ntime.sleep(1000)", ENOUGH, "memory", ""),
    "disk": ("open('/tmp/x', 'wb').write(bytes(10**8))", ENOUGH, "scratch space", "No space left"),
    "disk of the devices": ("open('/dev/shm/x', 'wb').write(b'x')", ENOUGH, "failed", "Read-only"),
    "disk of the root": ("open('/x', 'wb').write(b'x')", ENOUGH, "failed", "Read-only"),
    "system's files": ("import os; os.unlink(os.__file__)", ENOUGH, "failed", "Read-only"),
    "endless output": ("while True: print('x' * 1000)", ENOUGH, "output", "xxx"),
    "network": ("import socket; socket.create_connection(('192.0.2.1', 53))", ENOUGH, "failed", "unreachable"),
    "symlink out": ("import os; os.symlink('/etc/passwd', '/tmp/a'); open('/tmp/a').read()", ENOUGH, "failed", "No such file"),
    "other roots": ("print(open('/proc/1/root/etc/passwd').read())", ENOUGH, "failed", "No such file"),
    "more rights": ("import os; os.setuid(0)", ENOUGH, "failed", "Error"),
    "namespaces": ("import subprocess; subprocess.run(['unshare', '-U', 'true'], check=True)", ENOUGH, "failed", "exit status"),
    "mount": ("import subprocess; subprocess.run(['mount', '-t', 'tmpfs', 'x', '/tmp'], check=True)",
              ENOUGH, "failed", "exit status"),
    # stops its own namespace
    "debugger": ("import ctypes; assert ctypes.CDLL(None).ptrace(16, 1, 0, 0) == 0", ENDLESS, "time", ""),
    "early end": ("import os; os._exit(0)", ENOUGH, "failed", "code 0 before its end"),
    "polite early end": ("raise SystemExit(0)", ENOUGH, "failed", "code 0 before its end"),
    "suicide": ("import os; os.kill(os.getpid(), 9)", ENOUGH, "failed", "code 137"),
}  # fmt: skip


@pytest.mark.parametrize("program, limits, reason, word", HOSTILE.values(), ids=HOSTILE)
def test_hostile(program, limits, reason, word):
    before = time.monotonic()
    outcome = sandbox.run(program, limits)
    assert outcome.reason == reason, outcome.output
    assert word in outcome.output and not outcome.passed
    assert len(outcome.output) <= limits.output_bytes
    assert time.monotonic() - before < 590  # it was ended, not waited for


def sees(program):
    """What a harmless program prints."""
    outcome = sandbox.run(program, ENOUGH)
    assert outcome.passed, outcome
    return outcome.output


def test_sees_nothing_of_the_machine(monkeypatch):
    monkeypatch.setenv("LLMC_SECRET", "found")
    assert sees("import os; print('LLMC_SECRET' in os.environ, os.listdir('/tmp'))") == "False []\n"
    assert set(sees("import os; print(*os.listdir('/'))").split()) <= {"usr", "lib", "lib64", "bin", "dev", "proc", "tmp"}
    processes = sees("import os; print(*[p for p in os.listdir('/proc') if p.isdigit()])").split()
    assert len(processes) <= 3 and str(os.getpid()) not in processes
    assert sees("import os; print(os.getuid() == 0)") == "False\n"


def test_no_signal_reaches_outside():
    tries = "for pid in (1, os.getppid(), -1):\n  try: os.kill(pid, signal.SIGTERM if pid > 0 else 0)\n  except OSError: pass"
    sees(f"import os, signal\n{tries}")


def test_no_network_of_this_machine():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        outcome = sandbox.run(f"import socket; socket.create_connection(('127.0.0.1', {port}))", ENOUGH)
    assert "refused" in outcome.output or "unreachable" in outcome.output, outcome


def test_nothing_outlives_it():
    leaves = "if os.fork() == 0:\n  os.setsid()\n  if os.fork() == 0: time.sleep(987654)\nopen('/tmp/left', 'w').close()"
    sees(f"import os, time\n{leaves}")
    assert sees("import os; print(os.listdir('/tmp'))") == "[]\n"
    mine = psutil.Process().children(recursive=True)
    assert not [p for p in mine if sandbox.RUNNER in p.cmdline()]


def test_says_what_failed():
    outcome = sandbox.run("assert add(1, 2) == 3, 'wrong sum'", ENOUGH)
    assert outcome.reason == "failed" and outcome.output.splitlines()[-1].startswith("NameError")


def test_long_programs_and_odd_texts():
    assert sees("# " + "x" * 1_000_000 + "\nprint('\u00fc', end='')\nimport sys; print(repr(sys.stdin.read()))") == "\u00fc''\n"
    for text in ("\x00", "print('\ud800')", "def"):
        assert sandbox.run(text, ENOUGH).reason == "failed"


def test_many_at_once():
    seen = {}
    threads = [threading.Thread(target=lambda n=n: seen.update({n: sees(f"print({n}, end='')")})) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(600)
    assert seen == {n: str(n) for n in range(16)}


def test_a_machine_without_a_sandbox(tmp_path, monkeypatch):
    with monkeypatch.context() as bare:
        bare.setenv("PATH", str(tmp_path))
        with pytest.raises(sandbox.InputError, match="apt-get install bubblewrap"):
            sandbox.find_bubblewrap()
    with tempfile.TemporaryDirectory() as folder:  # not pytest's, which the user nobody cannot enter
        os.chmod(folder, 0o755)
        forbidden = pathlib.Path(folder, "bwrap")
        forbidden.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
        forbidden.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        with pytest.raises(sandbox.InputError, match="No permissions to create new namespace"):
            sandbox.check()
