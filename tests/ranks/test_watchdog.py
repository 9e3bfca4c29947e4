"""The watchdog alone: processes that say what rank they are, without MPI and without training."""

import ctypes
import os
import random
import signal
import subprocess
import sys
import time

import pytest

import hostlib
from watchdog import HOST, RankStatus, read_status, write_status
from watchdog_rank import WatchdogSpec
from checkout import ROOT
from waiting import wait_until

LIBRARY = os.path.join(hostlib.BUILD, "libllmc.so")
RANK = ROOT / "tests/support" / "watchdog_rank.py"
TIMEOUT = 1.0  # so scripts/test.sh runs nothing beside these tests


PERIODS = 20  # looks of each rank at the others in a timeout
AT_ONCE = 20  # seconds, where the timeout is longer: far more than a busy machine takes


class Rank:
    def __init__(self, folder, rank, size, timeout, run):
        arguments = [LIBRARY, folder, rank, size, timeout, run]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.process = subprocess.Popen([sys.executable, "-S", RANK, *map(str, arguments)], text=True, **pipes)
        self.pid, self.path = self.process.pid, folder / ".ranks" / f"rank_{rank:05d}"

    def answer(self):
        return self.process.stdout.readline().strip()

    def say(self, *lines):
        for line in lines:
            self.tell(line)
            assert self.answer().startswith("done"), self.process.communicate()

    def tell(self, line):
        """Without waiting for the answer."""
        assert self.lives(), self.process.communicate()
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def lives(self):
        return self.process.poll() is None

    def looks(self):
        """How often it has written its status and then looked at the others."""
        assert self.lives(), self.process.communicate()
        return read_status(self.path).count


def wait_for_looks(*ranks, times=2):
    """Each of them looks at the others so many times more: from 2 on, at least once as a whole."""
    ends = [rank.looks() + times for rank in ranks]
    wait_until(lambda: all(rank.looks() >= end for rank, end in zip(ranks, ends)), f"{times} looks")


class Ranks:
    def __init__(self, folder):
        self.folder, self.ranks, self.started, self.began = folder, [], [], 0

    def start(self, size, timeout=TIMEOUT, run=None, only=None):
        """All watchdogs start together, when the last process is ready."""
        run = run or random.getrandbits(63) + 1
        self.ranks = [Rank(self.folder, rank, size, timeout, run) for rank in (range(size) if only is None else only)]
        self.started += self.ranks
        for rank in self.ranks:
            assert rank.answer() == "ready"
        self.began = time.monotonic()
        for rank in self.ranks:
            rank.tell("start")
        for rank in self.ranks:
            assert rank.answer() == "0"
        return self.ranks

    def end(self, ranks=None, since=None):
        """(Exit codes, what was printed on stderr by all, seconds from now or then) once those ranks have ended."""
        began = since or time.monotonic()
        ranks = self.ranks if ranks is None else ranks
        for rank in ranks:
            wait_until(lambda rank=rank: not rank.lives(), f"the end of {rank.path.name}")
        took = time.monotonic() - began
        return [r.process.returncode for r in ranks], "".join(r.process.stderr.read() for r in ranks), took

    def close(self):
        for rank in self.started:
            if rank.lives():
                rank.process.kill()
            rank.process.communicate()


@pytest.fixture
def ranks(tmp_path):
    ranks = Ranks(tmp_path)
    yield ranks
    ranks.close()


def one_line(err, *words):
    assert err.count("\n") == 1 and err.startswith("train_llama3: "), err
    for word in words:
        assert word in err, f"{word!r} not in {err}"


def test_a_killed_rank_is_named_at_once(ranks, tmp_path):
    a, b, c = ranks.start(3, timeout=30)
    for rank in (a, b, c):
        rank.say("phase training", "step 17", "comm 812 811 layer 2 gradients")
    b.say("comm 790 790 layer 4 parameters")
    wait_for_looks(a, b, c)
    os.kill(b.pid, signal.SIGKILL)
    codes, err, took = ranks.end([a, c])
    assert codes == [1, 1] and took < AT_ONCE, took  # from its process: no timeout passes
    one_line(err, f"rank 1 ({HOST}/{b.pid}) is gone", "last step 17", "last seen after #790 layer 4 parameters")
    one_line(err, "ranks 0,2 wait in #812 layer 2 gradients")


@pytest.mark.parametrize("size", [2, 20])
def test_a_stopped_rank_is_named_after_the_timeout(ranks, size):
    """In a world of 20 only some watch it; all end."""
    timeout = TIMEOUT if size == 2 else 3 * TIMEOUT  # so many on few cores
    started = ranks.start(size, timeout)
    stopped = started[-1]
    stopped.say("step 3", "comm 5 4 layer 0 gradients")
    wait_for_looks(stopped)
    os.kill(stopped.pid, signal.SIGSTOP)
    codes, err, took = ranks.end(started[:-1])
    assert codes == [1] * (size - 1) and took > 0.7 * timeout
    one_line(err, f"rank {size - 1} ({HOST}/{stopped.pid}) is stopped (SIGSTOP?)", "last step 3", "last seen in #5 layer 0 gradients")


def test_a_silent_rank_of_another_machine(ranks):
    """Its process cannot be seen from here, so only its silence tells: rank 1's file is written by nobody any more."""
    a, b = ranks.start(2)
    b.say("step 4", "stop")  # its file is there, as of one that ended in order
    wait_for_looks(a)
    status = read_status(b.path)
    status.state, status.count = 0, status.count + 1
    status.place = b"0" * 32
    began = time.monotonic()
    write_status(b.path, status)
    codes, err, took = ranks.end([a], began)
    assert codes == [1] and took > 0.7 * TIMEOUT
    one_line(err, f"rank 1 ({HOST}/{b.pid}) has given no sign of life for 1 s", "last step 4")


def test_a_rank_that_never_wrote(ranks):
    ranks.start(2, only=[0])
    codes, err, took = ranks.end(since=ranks.began)
    assert codes == [1] and took > 0.7 * TIMEOUT
    one_line(err, "rank 1 has written no status for 1 s", "--output on all machines the same folder?")


@pytest.mark.checked
def test_a_hung_rank_is_named_though_others_wait_behind_it(ranks):
    """Rank 3 waits for rank 2 in an earlier collective than ranks 0 and 1 do: the one to blame is rank 2."""
    started = ranks.start(4)  # whose phase is none of training yet: while they are told all this, nobody is accused
    started[2].say("step 9")
    for rank in started[:2]:
        rank.say("comm 812 811 layer 2 gradients")
    started[3].say("comm 791 790 layer 5 parameters")
    began = time.monotonic()
    started[2].say("comm 790 790 layer 4 parameters", "phase training")
    codes, err, took = ranks.end(since=began)
    assert codes == [1] * 4 and 0.5 * TIMEOUT < took
    one_line(err, f"rank 2 ({HOST}/{started[2].pid}) hangs", "last step 9; training, last seen after #790 layer 4 parameters;")
    one_line(err, "; ranks 0,1 wait in #812 layer 2 gradients, rank 3 waits in #791 layer 5 parameters\n")


def test_other_phases_may_take_longer(ranks):
    a, b = ranks.start(2)
    b.say("phase sampling", "comm 7 7 agreement")
    a.say("phase training", "comm 8 7 agreement")
    wait_for_looks(a, b, times=2 * PERIODS)
    b.say("phase training")
    codes, err, _ = ranks.end()
    assert codes == [1, 1]
    one_line(err, "rank 1", "hangs")


def test_waiting_that_goes_on_is_no_fault(ranks):
    """One rank is slow, but begins a collective now and then; another waits most of the time."""
    a, b = ranks.start(2)
    for i in range(15):
        b.say(f"comm {i + 1} {i + 1} gradients", "phase training")
        a.say(f"comm {i + 2} {i + 1} gradients", "phase training")
        wait_for_looks(a, times=PERIODS // 5)
    assert a.lives() and b.lives()


def test_nobody_behind(ranks):
    """All wait in the same collective: nobody is to blame, and it ends nevertheless, later."""
    started = ranks.start(3, timeout=0.4)
    for rank in started:
        rank.say("comm 8 7 gradients of the head")
    codes, err, took = ranks.end(since=ranks.began)
    assert codes == [1] * 3 and took > 3.5
    one_line(err, "no rank is behind", "; ranks 0-2 wait in #8 gradients of the head\n")


def test_an_error_of_the_transport(ranks):
    a, b = ranks.start(2)
    b.say("step 6", "error NCCL: unhandled system error")
    codes, err, _ = ranks.end()
    assert codes == [1, 1]
    one_line(err, "rank 1: NCCL: unhandled system error; last step 6")


def test_a_death_is_told_rather_than_the_error_that_it_makes(ranks):
    a, b, c = ranks.start(3, timeout=30)
    a.say(f"killing {b.pid} connection closed by remote peer")
    codes, err, _ = ranks.end([a, c])
    assert codes == [1, 1]
    one_line(err, f"rank 1 ({HOST}/{b.pid}) is gone")


def test_a_rank_that_ends_with_its_own_error_takes_the_others_with_it_in_silence(ranks):
    a, b, c = ranks.start(3, timeout=30)
    b.tell("exit 1")
    codes, err, took = ranks.end()
    assert codes == [1, 1, 1] and took < AT_ONCE
    assert err == "a reason of its own\n"


def test_a_rank_that_aborts_is_gone(ranks):
    a, b = ranks.start(2)
    b.tell("abort")
    codes, err, _ = ranks.end([a])
    assert codes == [1]
    one_line(err, "rank 1", "is gone")


def test_all_notice_at_once_and_one_prints(ranks):
    started = ranks.start(8)
    victim = started[random.randrange(8)]
    os.kill(victim.pid, signal.SIGKILL)
    codes, err, took = ranks.end([rank for rank in started if rank is not victim])
    assert codes == [1] * 7
    one_line(err, f"rank {started.index(victim)} (")


def test_a_rank_that_noticed_first_has_said_it(ranks, tmp_path):
    """Two notice at the same moment: the file that only one of them can make decides who prints."""
    a, b, c = ranks.start(3, run=0xABC)
    (tmp_path / ".ranks" / f"verdict_{0xABC:016x}").touch()
    os.kill(b.pid, signal.SIGKILL)
    codes, err, _ = ranks.end([a, c])
    assert codes == [1, 1] and err == ""


def test_sigterm_is_told_from_the_death_of_a_rank(ranks):
    """Under mpirun a rank's death brings SIGTERM to the others, and SIGKILL a second later. The timeout is long here, and so
    is the period (1 s), but the signal makes them look: where the machine is busy, at the latest in one of five tries."""
    for _ in range(5):
        a, b, c = ranks.start(3, timeout=60)
        os.kill(a.pid, signal.SIGTERM)  # a user's: nobody has died
        wait_for_looks(b, c)
        wait_for_looks(a, times=1)  # the next one is a second away
        os.kill(b.pid, signal.SIGKILL)
        os.kill(c.pid, signal.SIGTERM)
        codes, err, took = ranks.end([a])
        more_codes, more, _ = ranks.end([c])
        assert codes + more_codes == [1, 1]
        one_line(err + more, "rank 1", "is gone")
        if took < 0.7:
            return
    pytest.fail(f"{took:.2f} s: nobody looks before his time")


@pytest.mark.checked
def test_orderly_end_leaves_nothing(ranks, tmp_path):
    a, b, c = ranks.start(3)
    a.say("stop")
    b.say("stop")
    wait_for_looks(c, times=3 * PERIODS // 2)  # who has ended in order is not missed
    assert (tmp_path / ".ranks").is_dir()
    c.say("stop")
    assert not (tmp_path / ".ranks").exists()
    for rank in (a, b, c):
        rank.tell("exit 0")
    codes, err, _ = ranks.end()
    assert codes == [0, 0, 0] and err == "a reason of its own\n" * 3


def test_files_of_an_earlier_run_mean_nothing(ranks, tmp_path):
    """A run is killed whole and another begins in its folder, with fewer ranks: verdict, files, and pids of the dead."""
    first = ranks.start(3)
    os.kill(first[0].pid, signal.SIGKILL)
    ranks.end()
    assert len(list((tmp_path / ".ranks").glob("verdict_*"))) == 1
    a, b = ranks.start(2, run=11)
    wait_for_looks(a, b, times=PERIODS // 2)
    names = sorted(path.name for path in (tmp_path / ".ranks").glob("[!.]*"))  # the others are being written
    assert names == ["rank_00000", "rank_00001"]
    os.kill(a.pid, signal.SIGKILL)  # a verdict can be given again
    codes, err, _ = ranks.end([b])
    assert codes == [1]
    one_line(err, "rank 0")


def test_all_stopped_and_continued_accuse_nobody(ranks):
    """As a batch system suspends a job: seconds in which a rank did not look itself do not count."""
    timeout = 2 * TIMEOUT
    a, b = ranks.start(2, timeout)
    os.kill(b.pid, signal.SIGSTOP)
    wait_for_looks(a, times=3)  # it has seen the last that rank 1 wrote
    os.kill(a.pid, signal.SIGSTOP)
    time.sleep(1.5 * timeout)
    for rank in (a, b):
        os.kill(rank.pid, signal.SIGCONT)
        wait_for_looks(rank, times=3)  # rank 0 before rank 1 writes
    wait_for_looks(a, times=3)
    for rank in (a, b):
        rank.say("step 2")


def test_a_lost_folder_ends_nothing(ranks, tmp_path):
    """A disk that takes no status is no reason to end: who can't write doesn't judge what others write."""
    a, b = ranks.start(2)
    (tmp_path / ".ranks").rename(tmp_path / "away")
    time.sleep(1.5 * TIMEOUT)
    a.say("step 1")
    b.say("step 1")
    (tmp_path / "away").rename(tmp_path / ".ranks")
    os.kill(a.pid, signal.SIGKILL)
    codes, err, _ = ranks.end([b])
    one_line(err, "rank 0")


def test_one_rank_needs_none(tmp_path):
    lib = ctypes.CDLL(LIBRARY)
    threads = len(os.listdir("/proc/self/task"))
    spec = WatchdogSpec(os.fsencode(tmp_path), 0, 1, 60.0)
    assert lib.watchdog_start(ctypes.byref(spec), ctypes.byref(hostlib.Error())) == 0
    assert len(os.listdir("/proc/self/task")) == threads and list(tmp_path.iterdir()) == []
    lib.watchdog_stop()


def test_a_folder_that_cannot_be_written(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    rank = Rank(file, 0, 2, TIMEOUT, 1)
    assert rank.answer() == "ready"
    rank.tell("start")
    answer = rank.answer()
    rank.process.communicate()
    assert answer.startswith("2 ") and str(file) in answer, answer


# ---- processes


UNKNOWN, LIVES, STOPPED, GONE = range(4)


@pytest.mark.checked
def test_what_became_of_a_process(tmp_path):
    here = RankStatus()
    hostlib.library.rank_status_self(ctypes.byref(here))
    assert here.pid == os.getpid() and here.host.decode() == HOST[:63] and len(here.place) == 32

    def state(**changes):
        status = RankStatus.from_buffer_copy(here)
        for name, value in changes.items():
            setattr(status, name, value)
        return hostlib.library.rank_process(ctypes.byref(status), ctypes.byref(here))

    assert state() == LIVES
    assert state(started=here.started - 1) == GONE  # the pid belongs to another process by now
    assert state(started=0) == LIVES  # not known
    assert state(place=b"elsewhere") == UNKNOWN
    child = subprocess.Popen(["sleep", "60"])
    try:
        assert state(pid=child.pid, started=0) == LIVES
        os.kill(child.pid, signal.SIGSTOP)
        wait_until(lambda: state(pid=child.pid, started=0) == STOPPED, "the child to be seen as stopped")
        child.kill()
        wait_until(lambda: state(pid=child.pid, started=0) == GONE, "the child, a zombie still, to be seen as gone")
    finally:
        child.kill()
        child.wait()
    assert state(pid=child.pid, started=0) == GONE


@pytest.mark.checked
def test_half_written_files_do_not_count(tmp_path):
    status = RankStatus()
    hostlib.library.rank_status_self(ctypes.byref(status))
    status.run, status.rank, status.step = 5, 3, 12
    path = tmp_path / "rank_00003"
    write_status(path, status)
    found = RankStatus()

    def read(run=5, rank=3):
        return hostlib.library.rank_status_read(ctypes.byref(found), os.fsencode(tmp_path), ctypes.c_uint64(run), rank) & 1

    assert read() and found.step == 12
    assert not read(run=6) and not read(rank=2)
    whole = path.read_bytes()
    for damaged in (whole[:-1], b"", whole[:100] + bytes([whole[100] ^ 1]) + whole[101:]):
        path.write_bytes(damaged)
        assert not read()
