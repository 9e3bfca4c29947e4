"""Ranks of train_llama3 that are killed, stopped or hang at random moments, under mpirun.

Each test goes on in one folder: every attempt resumes what the last one left, and the run goes on with the bits of one that
nobody disturbed. A run is never done by itself, however quick the machine and however late a moment is met.
"""

import ctypes
import os
import random
import re
import signal
import subprocess
import time

import pytest

import ranks
import trainrun
from checkout import SUPERVISE
from seeds import how_often
from waiting import wait_until
from watchdog import HOST, read_status

pytestmark = pytest.mark.skipif(not trainrun.MANY_RANKS, reason="one machine's GPUs are not taken by several ranks: runs on the cpu target")
RANKS, TIMEOUT = 3, 2
ENDLESS, CHECKSUM_EVERY = 100000, 25  # steps
KILLED = 128 + signal.SIGKILL
# mpirun's code is that of the first rank that it sees end. This is the killed one, unless mpirun is held up until others have
# noticed and ended by themselves; then the line that names the killed rank is printed already.
KILLED_AND_TOLD = {KILLED, 1}
SLACK = 60  # seconds more that all takes where other programs have the cores
OPTIONS = {"steps": ENDLESS, "schedule_steps": ENDLESS, "save_every": 5, "resume": "auto", "rank_timeout": TIMEOUT,
           "batch_size": 1, "checksum_every": CHECKSUM_EVERY}  # fmt: skip
LINE = re.compile(r"train_llama3: rank (\d) \((.*?)/(\d+)\) (.*?); last step (\d+); (\w+), last seen (in|after) #\d+ [^;]+; ranks? .*\n")


class Run:
    """mpirun with the program in the workplace's output folder."""

    def __init__(self, place, **options):
        self.place = place
        command = [trainrun.program(), *place.arguments(**{**OPTIONS, **options})]
        self.process = ranks.start(command, ranks=RANKS)
        trainrun.STARTED.append(self.process)
        self.pids, self.seen = {}, 0  # the last step that a rank has told

    def wait_for(self, what):
        wait_until(what, what.__name__, pause=0.002, process=self.process)

    def find_ranks(self):
        """{rank: pid} once all are there."""

        def found():
            for pid, name in ranks.members(self.process).items():
                if not name.startswith("train_llama3"):
                    continue
                try:
                    variables = open(f"/proc/{pid}/environ", "rb").read().split(b"\0")
                except OSError:
                    continue
                mine = [v.partition(b"=")[2] for v in variables if v.startswith(b"OMPI_COMM_WORLD_RANK=")]
                if mine:
                    self.pids[int(mine[0])] = pid
            return len(self.pids) == RANKS

        self.wait_for(found)

    def statuses(self):
        """What the ranks of this run say, of those that say something."""
        found = {}
        for rank, pid in self.pids.items():
            try:
                status = read_status(self.place.output / ".ranks" / f"rank_{rank:05d}")
            except (OSError, ValueError):
                continue
            if status.pid == pid:
                found[rank] = status
        return found

    def furthest(self):
        return max((status.step for status in self.statuses().values()), default=0)

    def is_watched(self):
        """All have written more than at the start: the watchdogs' threads are there."""
        found = self.statuses()
        return len(found) == RANKS and all(status.count >= 2 for status in found.values())

    def is_training(self):
        return self.is_watched() and all(status.phase == b"training" for status in self.statuses().values())

    def is_writing(self):
        """A checkpoint is being written."""
        return self.is_training() and any((self.place.output / "checkpoints").glob("*.tmp"))

    def reach(self, moment):
        """Waits for it, and a random while longer."""
        self.find_ranks()
        if moment == "loading":
            time.sleep(random.uniform(0, 0.8))
        elif moment == "steps":
            self.wait_for(self.is_training)
            time.sleep(random.uniform(0, 0.15))
        elif moment == "checkpoint":
            self.wait_for(self.is_writing)
            time.sleep(random.uniform(0, 0.02))
        self.seen = self.furthest()

    def end(self, victim, words, codes, within, silent=False):
        """All processes are gone within that many seconds, with one line that names the victim. silent: or with none, and
        perhaps mpirun is still there: where a rank dies while it connects to it, mpirun 4.1 may hang (PMIX ERROR: UNREACHABLE)
        after it has ended all ranks; scripts/supervise.sh kills it then."""
        began = time.monotonic()
        try:
            _, err = self.process.communicate(timeout=2 * SLACK)
        except subprocess.TimeoutExpired:
            left = ranks.members(self.process)
            ranks.kill(self.process)
            assert silent and set(left.values()) == {"mpirun"}, (left, self.process.communicate())
            return
        wait_until(lambda: not ranks.members(self.process), "the end of the ranks that mpirun has killed")
        took = time.monotonic() - began
        told = f"rank {victim} ({HOST}/{self.pids[victim]})"
        print(f"{took:.2f} s, code {self.process.returncode}, {told}: {err}", end="")
        assert took < within, took
        if silent and not err:
            assert self.process.returncode == KILLED
            return
        assert self.process.returncode in codes, self.process.returncode
        match = LINE.fullmatch(err)
        assert match and words in match[4], err
        assert (int(match[1]), match[2], int(match[3])) == (victim, HOST, self.pids[victim]), err
        assert self.seen <= int(match[5]) <= self.furthest(), (err, self.seen, self.furthest())


def checksums(place, steps):
    """{step: checksum of the weights} of the run in the place's output folder, which goes on undisturbed to that step."""
    done = ranks.run([trainrun.program(), *place.arguments(**{**OPTIONS, "steps": steps})], ranks=RANKS, timeout=240)
    said = [line for line in done.stderr.splitlines() if not line.startswith("[warn] Epoll")]  # of mpirun's own pipes, as it ends
    assert done.returncode == 0 and said == [], done.stderr
    assert not (place.output / ".ranks").exists()
    return {line["step"]: line["weights_checksum"] for line in place.log() if "weights_checksum" in line}


def check_bits(place):
    """The run goes on to the next step whose weights are told. All that it told are those of a run that nobody disturbed."""
    latest = place.output / "checkpoints" / "latest"
    saved = int(os.readlink(latest).removeprefix("step_")) if latest.is_symlink() else 0  # each attempt was ended before
    steps = (saved // CHECKSUM_EVERY + 2) * CHECKSUM_EVERY
    found = checksums(place, steps)
    place.output = place.folder / "undisturbed"
    expected = checksums(place, max(steps, last_step(place)))
    assert max(found) == steps and found == {step: expected[step] for step in found}


def last_step(place):
    """As far as the log has come."""
    path = place.output / "log.jsonl"
    return max(map(int, re.findall(r'"step":(\d+),', path.read_text() if path.exists() else "")), default=0)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return trainrun.Workplace(tmp_path_factory.mktemp("ranks"))


@pytest.fixture
def folder(place, request):
    place.output = place.folder / request.node.name
    return place


def test_ranks_killed(folder):
    """kill -9, at each of the moments."""
    for i in range(how_often(9, 60)):
        moment = ("steps", "loading", "checkpoint")[i % 3]
        run = Run(folder)
        run.reach(moment)
        victim = random.randrange(RANKS)
        watched = run.is_watched()
        os.kill(run.pids[victim], signal.SIGKILL)
        print(f"{moment}, step {run.seen}: ", end="")
        run.end(victim, "is gone", KILLED_AND_TOLD, within=TIMEOUT + SLACK, silent=not watched)
    check_bits(folder)


def test_a_rank_killed_while_mpirun_is_held_up(folder):
    """Others have noticed and ended before mpirun learns of any of it."""
    run = Run(folder)
    run.reach("steps")
    victim = RANKS - 1
    os.kill(run.process.pid, signal.SIGSTOP)
    os.kill(run.pids[victim], signal.SIGKILL)
    wait_until(lambda: not set(run.pids.values()) & set(ranks.members(run.process)), "the end of the ranks")
    os.kill(run.process.pid, signal.SIGCONT)
    run.end(victim, "is gone", KILLED_AND_TOLD, within=SLACK)


def test_ranks_killed_with_the_usual_timeout(folder):
    """mpirun sends SIGTERM a second after the death, and SIGKILL one more later: ranks that look at each other once a second have
    told by then."""
    for _ in range(3):
        run = Run(folder, rank_timeout=60)
        run.reach("steps")
        victim = random.randrange(RANKS)
        os.kill(run.pids[victim], signal.SIGKILL)
        run.end(victim, "is gone", KILLED_AND_TOLD, within=SLACK)


def test_ranks_stopped(folder):
    """SIGSTOP: a process that is still there, and says nothing."""
    for i in range(how_often(4, 20)):
        run = Run(folder)
        run.reach(("steps", "checkpoint")[i % 2])
        victim = random.randrange(RANKS)
        os.kill(run.pids[victim], signal.SIGSTOP)
        run.end(victim, "is stopped (SIGSTOP?)", {1}, within=2 * TIMEOUT + SLACK)
    check_bits(folder)


PTRACE_SEIZE, PTRACE_INTERRUPT, WALL = 0x4206, 0x4207, 0x40000000


def freeze_main_thread(pid):
    """The other threads go on, the watchdog's among them: so looks a rank whose main thread hangs."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    for request in (PTRACE_SEIZE, PTRACE_INTERRUPT):
        if libc.ptrace(request, pid, None, None) != 0:
            pytest.skip(f"ptrace is not allowed here: {os.strerror(ctypes.get_errno())}")
    os.waitpid(pid, WALL)


def test_ranks_hung(folder):
    """Alive, but its main thread does nothing, in a step or in a collective."""
    for _ in range(how_often(2, 20)):
        run = Run(folder)
        run.reach("steps")
        victim = random.randrange(RANKS)
        pid = run.pids[victim]
        freeze_main_thread(pid)
        began = time.monotonic()
        while os.waitpid(pid, WALL | os.WNOHANG)[0] == 0:  # what was traced is the tracer's to take note of first
            assert time.monotonic() - began < 3 * TIMEOUT + SLACK, ranks.kill(run.process)
            time.sleep(0.02)
        run.end(victim, "hangs: others have waited for it", {1}, within=TIMEOUT + SLACK)
    check_bits(folder)


def test_mpirun_itself_killed(folder):
    run = Run(folder)
    run.reach("steps")
    os.kill(run.process.pid, signal.SIGKILL)
    wait_until(lambda: not ranks.members(run.process), "the end of the ranks")
    run.process.communicate()


def test_supervised_with_fewer_ranks(folder):
    """A rank is killed, the run goes on with two, and a signal to the script ends it in order."""
    command = [*ranks.mpirun(RANKS), *map(str, [trainrun.program(), *folder.arguments(**OPTIONS, tokens_per_step=6 * trainrun.T)])]
    script = [SUPERVISE, "--pause", "1", "--ranks-after", "2", "--", *command]
    environment = ranks.alone(ranks.SETTINGS)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(list(map(str, script)), env=environment, start_new_session=True, **pipes)
    trainrun.STARTED.append(process)

    def reach(step):
        wait_until(lambda: last_step(folder) >= step, f"step {step}", process=process)

    try:
        reach(12)
        victims = [pid for pid, name in ranks.members(process).items() if name.startswith("train_llama3")]
        assert len(victims) == 3
        os.kill(random.choice(victims), signal.SIGKILL)
        reach(40)
        assert len([name for name in ranks.members(process).values() if name.startswith("train_llama3")]) == 2
        os.kill(process.pid, signal.SIGTERM)
        out, err = process.communicate(timeout=SLACK)
    finally:
        ranks.kill(process)
    assert process.returncode == 0, err
    assert err.count("\n") == 2 and "is gone" in err and re.search("restart 1 of 10 in 1 s, 2 ranks: ended with code (137|1);", err), err
    assert "SIGUSR1" in out, out[-500:]
    assert os.readlink(folder.output / "checkpoints" / "latest") == f"step_{last_step(folder):08d}"
