"""Runs programs that nobody has read, as those that a model writes, in bubblewrap.

Such a program has namespaces of its own: no network, no other process, and of the file system the system's own programs and
libraries (read-only) and an empty scratch folder in memory, which is gone with it. It begins without an environment, without
privileges, and as the user nobody where this program runs as root. Address space, processes, and processor time are limited
in the kernel; memory of all processes together, wall time and output are watched from outside, where it is killed as a whole.

What it can still do: read which kernel and which Debian packages the machine has, compute until its limit, and, if it was
written against this very runner, claim to have passed its own tests.
"""

import os
import secrets
import selectors
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from llmdata.errors import InputError

NOBODY = 65534
LOOK_SECONDS = 0.02  # between two looks at memory and processes
# Runs the program that stands behind it on stdin; only one that comes to its end has the token printed.
RUNNER = """import sys
t, p = sys.argv.pop(), sys.stdin.read()
exec(compile(p, 'program', 'exec'), {'__name__': '__main__'})
print(t)"""


@dataclass(frozen=True)
class Limits:
    """What one program may use."""

    seconds: float = 10  # of wall time
    cpu_seconds: int = 5  # of processor time, each of its processes
    memory_bytes: int = 512 << 20  # address space of each process, and memory of all together with the scratch folder
    processes: int = 16  # and threads, at once, the first one included
    scratch_bytes: int = 16 << 20
    output_bytes: int = 1 << 16  # stdout and stderr together


@dataclass(frozen=True)
class Outcome:
    """`reason`: "passed", "failed" (it said why in `output`), or the limit at which it was ended: "time", "processor time",
    "memory", "processes", "scratch space", "output"."""

    reason: str
    output: str

    @property
    def passed(self) -> bool:
        return self.reason == "passed"


def find_python() -> str:
    """Debian's own interpreter: that of a virtual environment lies in folders that the sandbox does not show."""
    python = shutil.which("python3", path="/usr/bin:/bin")
    if not python:
        raise InputError("no python3 in /usr/bin, which programs in the sandbox are run with: apt-get install python3")
    return python


def find_bubblewrap() -> str:
    program = shutil.which("bwrap")
    if not program:
        raise InputError("no bwrap on PATH, without which no program of a model is run: apt-get install bubblewrap")
    return program


def check() -> None:
    """Errors: InputError where this machine has no sandbox: bubblewrap missing, or namespaces forbidden."""
    outcome = run("", Limits(seconds=60))
    if not outcome.passed:
        said = outcome.output.strip() or outcome.reason
        raise InputError(f"the sandbox does not work here ({said}): bubblewrap needs user namespaces")


def run(program: str, limits: Limits = Limits()) -> Outcome:
    """Runs the source text of a Python program to its end or to the first limit. Safe to call from several threads."""
    token = secrets.token_hex(16)
    process = subprocess.Popen(_command(limits, token), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               env={}, cwd="/", start_new_session=True)  # fmt: skip
    try:
        watch = _Watch(process, limits)
        watch.follow(program.encode("utf-8", "surrogatepass"))
    finally:
        process.kill()  # with it, everything in its namespaces
        process.wait()
        process.stdout.close()
        if not process.stdin.closed:
            process.stdin.close()
    return _judge(watch, process.returncode, token)


def _command(limits: Limits, token: str) -> list[str]:
    drop = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--"] if os.geteuid() == 0 else []
    system = [word for path in ("/lib", "/lib64", "/bin") for word in _same(Path(path))]
    # one process more than are allowed, so that too many are seen, and the namespace's first one
    kernel = [f"--as={limits.memory_bytes}", f"--nproc={limits.processes + 2}",
              f"--cpu={limits.cpu_seconds}:{limits.cpu_seconds + 1}", "--core=0", "--nofile=64"]  # fmt: skip
    return [
        *drop, find_bubblewrap(), "--unshare-all", "--unshare-user", "--disable-userns", "--new-session", "--die-with-parent",
        "--clearenv", "--cap-drop", "ALL", "--ro-bind", "/usr", "/usr", *system, "--proc", "/proc", "--dev", "/dev",
        "--remount-ro", "/dev", "--size", str(limits.scratch_bytes), "--tmpfs", "/tmp", "--remount-ro", "/", "--chdir", "/tmp",
        "--", "/usr/bin/prlimit", *kernel, "--", find_python(), "-I", "-X", "utf8", "-c", RUNNER, token,
    ]  # fmt: skip


def _same(path: Path) -> list[str]:
    """Options for a folder that is a link into /usr, or still a folder of its own."""
    if path.is_symlink():
        return ["--symlink", os.readlink(path), str(path)]
    return ["--ro-bind", str(path), str(path)] if path.exists() else []


class _Watch:
    """A running sandbox: hands it its program, takes its output, and ends it at a limit, which `limit` then names."""

    def __init__(self, process: subprocess.Popen, limits: Limits):
        self.process, self.limits = process, limits
        self.limit, self.output = "", bytearray()

    def follow(self, program: bytes) -> None:
        pipes = selectors.DefaultSelector()
        os.set_blocking(self.process.stdin.fileno(), False)
        pipes.register(self.process.stdin, selectors.EVENT_WRITE)
        pipes.register(self.process.stdout, selectors.EVENT_READ)
        end, rest = time.monotonic() + self.limits.seconds, memoryview(program)
        while self.process.stdout in [key.fileobj for key in pipes.get_map().values()]:
            for key, _ in pipes.select(LOOK_SECONDS):
                if key.fileobj is self.process.stdin:
                    rest = self._hand_over(pipes, rest)
                else:
                    self._take(pipes)
            if not self.limit:
                self.limit = "time" if time.monotonic() > end else self._look()
            if self.limit:
                break
        pipes.close()
        if not self.limit:
            self.process.wait()

    def _hand_over(self, pipes, rest: memoryview) -> memoryview:
        try:
            rest = rest[os.write(self.process.stdin.fileno(), rest[: 1 << 16]) :] if rest else rest
        except BrokenPipeError:
            rest = rest[:0]
        if not rest:
            pipes.unregister(self.process.stdin)
            self.process.stdin.close()
        return rest

    def _take(self, pipes) -> None:
        piece = os.read(self.process.stdout.fileno(), 1 << 16)
        if not piece:
            pipes.unregister(self.process.stdout)
        self.output += piece
        if len(self.output) > self.limits.output_bytes:
            self.limit = "output"

    def _look(self) -> str:
        """The limit that all processes together have passed."""
        try:
            inside = psutil.Process(self.process.pid).children(recursive=True)[1:]  # without the namespace's first process
        except psutil.NoSuchProcess:
            return ""
        memory, threads = map(sum, zip((0, 0), *map(_used, inside)))
        if memory > self.limits.memory_bytes:
            return "memory"
        return "processes" if threads > self.limits.processes else ""


def _used(process: psutil.Process) -> tuple[int, int]:
    """Resident bytes, and threads."""
    try:
        return process.memory_info().rss, process.num_threads()
    except psutil.Error:
        return 0, 0


# What the last line of a traceback says of a limit in the kernel.
SAYS = {"MemoryError": "memory", "BlockingIOError: [Errno 11]": "processes",
        "RuntimeError: can't start new thread": "processes", "OSError: [Errno 28]": "scratch space"}  # fmt: skip


def _judge(watch: _Watch, code: int, token: str) -> Outcome:
    output = bytes(watch.output[: watch.limits.output_bytes]).decode("utf-8", "replace")
    if watch.limit:
        return Outcome(watch.limit, output)
    lines = output.splitlines()
    if code == 0 and lines and lines[-1].endswith(token):
        return Outcome("passed", output[: output.rindex(token)])
    if code == 128 + signal.SIGXCPU:
        return Outcome("processor time", output)
    last = lines[-1] if lines else f"ended with code {code} before its end"
    return Outcome(next((limit for said, limit in SAYS.items() if last.startswith(said)), "failed"), output or last)
