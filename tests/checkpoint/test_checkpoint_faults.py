"""A disk that fails and a process that is killed at every call that writes a checkpoint: a whole one is always there.

tests/checkpoint/faulty_io.c stands between tests/checkpoint/write_store.c and the C library.
"""

import os
import pathlib
import re
import resource
import shutil
import signal
import subprocess
import tempfile

import pytest

import checkpoints
import llmc

MOST_CALLS = 140  # of one write; it takes about 60, of two parts 80, with a mean 110


class Bench:
    """A program that writes checkpoints, and stores that it has written."""

    def __init__(self, folder):
        self.folder = folder
        self.lib = llmc.load("bf16")
        self.shim = checkpoints.compile_shim(folder)
        self.program = checkpoints.compile_program("write_store", folder)
        self.tokenizer = folder / "tokenizer"
        self.tokenizer.mkdir()
        (self.tokenizer / "tokenizer.json").write_text('{"model": "a stand-in"}')
        (self.tokenizer / "tokenizer.model").write_bytes(bytes(range(256)))
        self.first = folder / "first"  # with step 1, copied for each fault
        self.first.mkdir()
        assert self.write(self.first / "store", 1, seed=1).returncode == 0

    def write(self, store, step, seed, keep_last=0, limit_file_size=None, whole_step=0, keep_every=0, **faulty):
        env, parts, averaged = dict(os.environ, OMP_NUM_THREADS="1"), faulty.pop("PARTS", 1), faulty.pop("AVERAGED", 0)
        env.update({f"FAULTY_{name}": str(value) for name, value in faulty.items()})
        if faulty:
            env.update(LD_PRELOAD=str(self.shim), FAULTY_PATH=str(store))

        def limit():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit_file_size, limit_file_size))

        command = [self.program, store, step, seed, keep_last, self.tokenizer, parts, averaged, whole_step, keep_every]
        # without a preexec_fn this process, with PyTorch in it, is not copied
        return subprocess.run([*map(str, command)], env=env, capture_output=True, text=True, timeout=600,
                              preexec_fn=limit if limit_file_size else None)  # fmt: skip

    def fresh(self):
        """A store with step 1."""
        work = self.folder / "work"
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(self.first, work, symlinks=True)
        return work / "store"


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """In memory where there is such a file system: hundreds of checkpoints are written."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) and shutil.disk_usage("/dev/shm").free > 2**28 else None
    with tempfile.TemporaryDirectory(dir=memory or tmp_path_factory.mktemp("faults")) as folder:
        yield Bench(pathlib.Path(folder))


def weights(folder):
    return b"".join(path.read_bytes() for path in sorted(folder.glob("model*.safetensors")))


def check_store(bench, store, steps):
    """Those checkpoints, all whole, nothing else; latest is one of them."""
    assert sorted(os.listdir(store)) == sorted(["latest", *(f"step_{s:08d}" for s in steps)])
    assert checkpoints.newest_whole(bench.lib, store) == (str(store / f"step_{max(steps):08d}"), [])
    for step in steps:
        checkpoints.verify(bench.lib, store / f"step_{step:08d}")
    assert os.readlink(store / "latest") in [f"step_{s:08d}" for s in steps]


CASES = {  # step that is written over a store with step 1, and what the file system can
    "new": (2, {}),
    "again": (1, {}),
    "no_exchange": (1, {"NO_EXCHANGE": 1}),
    "parts": (2, {"PARTS": 2}),
    "averaged": (2, {"PARTS": 2, "AVERAGED": 1}),
}


@pytest.mark.parametrize("case, error", [("new", "EIO"), ("new", "ENOSPC"), ("again", "EIO"), ("no_exchange", "EIO"), ("parts", "EIO"), ("averaged", "EIO")])
def test_every_call_fails_once(bench, case, error):
    """Rows 17 and 24: code 1, path and reason; the older checkpoint is whole, nothing is left over."""
    step, faulty = CASES[case]
    fired, closed = set(), set()
    for at in range(1, MOST_CALLS):
        store = bench.fresh()
        old = weights(store / "latest")
        done = bench.write(store, step, seed=2, keep_last=1, AT=at, DO=error, **faulty)
        called = re.search(r"^faulty: (\w+)", done.stderr, re.M)
        if not called:
            break
        fired.add(called[1])
        assert done.returncode in (0, 1), done.stderr
        if done.returncode == 0:  # what only tidies up may fail, and the close of what was read for the mean
            # (a file is written before it is read: the first close of each is the one that counts)
            file = re.search(r"^faulty: close .*/step_\d+\.tmp/(\S+)", done.stderr, re.M)
            read = case == "averaged" and file and file[1] in closed
            assert called[1] in ("unlink", "remove", "rename") or read, done.stderr
            bench.lib.store_clean(os.fsencode(store))
            steps = checkpoints.steps(bench.lib, store)
            assert step in steps
        else:
            closed |= set(re.findall(r"^faulty: close .*/step_\d+\.tmp/(\S+)", done.stderr, re.M))
            lines = [line for line in done.stderr.splitlines() if line.startswith("write_store: ")]
            assert len(lines) == 1 and str(store.parent) in lines[0] and os.strerror(5 if error == "EIO" else 28) in lines[0]
            steps = checkpoints.steps(bench.lib, store)
            assert 1 in steps
            if step != 1:
                assert weights(store / "step_00000001") == old
        check_store(bench, store, steps)
    assert done.returncode == 0 and weights(store / "latest") != old
    check_store(bench, store, [step])
    assert fired >= {"open", "write", "fsync", "close", "mkdir", "rename", "symlink"}
    print(case, error, "calls:", at - 1)


@pytest.mark.parametrize("case", CASES)
def test_killed_at_every_call(bench, case):
    """Row 18: the newest whole checkpoint is found; leftovers are cleaned."""
    step, faulty = CASES[case]
    found_new = found_old = 0
    for at in range(1, MOST_CALLS):
        store = bench.fresh()
        old = weights(store / "latest")
        done = bench.write(store, step, seed=2, keep_last=1, AT=at, DO="kill", **faulty)
        if "faulty: " not in done.stderr:
            break
        assert done.returncode == -signal.SIGKILL
        if case != "no_exchange":  # there the old one may have been caught under its other name, which store_clean ends
            path, passed_over = checkpoints.newest_whole(bench.lib, store)
            assert path and passed_over == []
        bench.lib.store_clean(os.fsencode(store))
        check_store(bench, store, checkpoints.steps(bench.lib, store))
        found = weights(store / f"step_{max(checkpoints.steps(bench.lib, store)):08d}")
        found_new, found_old = found_new + (found != old), found_old + (found == old)
    assert done.returncode == 0
    check_store(bench, store, [step])
    assert found_old > 20 and found_new > 2
    print(case, "calls:", at - 1)


def test_write_after_a_kill(bench):
    """What a killed write left is cleaned away by the next one."""
    store = bench.fresh()
    assert bench.write(store, 2, seed=2, AT=20, DO="kill").returncode == -signal.SIGKILL
    assert (store / "step_00000002.tmp").exists()
    assert bench.write(store, 3, seed=3).returncode == 0
    check_store(bench, store, [1, 3])


def test_disk_that_is_full_and_stays_full(bench):
    store = bench.fresh()
    done = bench.write(store, 2, seed=2, keep_last=1, AT=5, DO="ENOSPC", ONWARD=1, CALLS="write")
    assert done.returncode == 1 and "No space left" in done.stderr
    check_store(bench, store, [1])


def test_short_write(bench):
    """Files may have 1 MB: the write that crosses it is cut short, the next one fails."""
    store = bench.fresh()
    done = bench.write(store, 2, seed=2, keep_last=1, limit_file_size=1_000_000)
    assert done.returncode == 1 and "step_00000002.tmp/model.safetensors: write: File too large" in done.stderr
    check_store(bench, store, [1])


def test_free_space_is_looked_at_before(bench):
    """Row 24: nothing is written; needed and free are named."""
    store = bench.fresh()
    done = bench.write(store, 2, seed=2, keep_last=1, FREE=7 << 20)
    assert done.returncode == 1
    said = re.search(r"store: no space for a checkpoint: ([\d.]+) MiB needed, ([\d.]+) MiB free", done.stderr)
    size = sum(p.stat().st_size for p in (store / "step_00000001").rglob("*") if p.is_file()) / 2**20
    assert float(said[2]) == 7.0 and size < float(said[1]) < size + 5  # a few MiB to spare
    check_store(bench, store, [1])


def du(folder):
    return sum(p.stat().st_blocks * 512 for p in folder.rglob("*") if p.is_file() and not p.is_symlink())


@pytest.fixture(scope="module")
def three(bench):
    """A store with steps 1 to 3."""
    store = bench.fresh()
    for step in (2, 3):
        assert bench.write(store, step, seed=step).returncode == 0
    kept = bench.folder / "three"
    store.rename(kept)
    return kept


def filled(bench, three):
    """The same to work on, and the bytes that one of them takes."""
    store = bench.fresh()
    shutil.rmtree(store)
    shutil.copytree(three, store, symlinks=True)
    return store, du(store / "step_00000003")


SPARE = 4 << 20


@pytest.mark.parametrize(
    "room, keep_last, keep_every, whole, stay, dropped",
    [
        (1.1, 3, 0, 3, [2, 3, 4], 0),  # enough for one more: the oldest goes afterwards
        (0.1, 3, 0, 3, [2, 3, 4], 1),
        (-0.9, 3, 0, 3, [3, 4], 2),  # room for two: fewer than keep_last, never fewer than one
        (0.1, 3, 2, 3, [2, 3, 4], 1),
        (-0.9, 3, 2, 3, None, 0),  # 2 is kept for good
        (0.1, 0, 0, 3, None, 0),  # all are kept for good
        (0.1, 1, 0, 3, [4], 1),
        (-1.9, 3, 0, 2, None, 0),  # 1 alone is not enough: nothing is given up for nothing
        (0.1, 3, 0, 1, None, 0),  # of 2 and 3 nobody knows whether they are whole: 1 stays
        (0.1, 3, 0, 2, [2, 3, 4], 1),
        (0.1, 3, 0, 0, None, 0),
        (0.1, 3, 0, 9, None, 0),  # no such checkpoint
    ],
)  # fmt: skip
def test_the_oldest_make_room(bench, three, room, keep_last, keep_every, whole, stay, dropped):
    """Steps 1 to 3 are there and the disk has room for so many more; step 4 is written."""
    store, size = filled(bench, three)
    done = bench.write(store, 4, seed=4, keep_last=keep_last, keep_every=keep_every, whole_step=whole,
                       DISK=int(du(store) + room * size + SPARE))  # fmt: skip
    assert done.returncode == (stay is None), done.stderr
    if stay is None:
        assert "MiB needed" in done.stderr and "4.0 MiB are to spare" in done.stderr
        assert ("are to be kept" in done.stderr) == (keep_last == 0)
        assert ("in older checkpoints that may go" in done.stderr) == (room < 0)
    assert done.stdout == f"{dropped} dropped\n"
    check_store(bench, store, stay or [1, 2, 3])


@pytest.mark.parametrize("error, parts", [("kill", 1), ("ENOSPC", 1), ("ENOSPC", 2)])
def test_room_that_is_gone_again(bench, three, error, parts):
    """Whatever fails after the oldest were given up: the newest is there, whole, and a next write succeeds."""
    for at in range(1, MOST_CALLS, 19):
        work, size = filled(bench, three)
        faults = {"AT": at, "DO": error, "DISK": int(du(work) - 0.9 * size + SPARE), "PARTS": parts}
        done = bench.write(work, 4, seed=4, keep_last=3, whole_step=3, **faults)
        assert checkpoints.newest_whole(bench.lib, work)[0] in [str(work / "step_00000003"), str(work / "step_00000004")]
        if done.returncode == 0 and "faulty" not in done.stderr:
            break
        assert bench.write(work, 5, seed=5, keep_last=1, whole_step=3).returncode == 0
        check_store(bench, work, [5])
    else:
        pytest.fail(f"more than {MOST_CALLS} calls")


@pytest.fixture
def small_disk(tmp_path):
    """A tmpfs of 24 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"cannot mount a tmpfs here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("check_sees", [True, False])
def test_full_disk(bench, small_disk, check_sees):
    """One checkpoint fits, a second does not: whether that is seen before or met while writing."""
    store = small_disk / "store"
    assert bench.write(store, 1, seed=1).returncode == 0
    done = bench.write(store, 2, seed=2, keep_last=1, FREE=(10 if check_sees else 100) << 20)
    assert done.returncode == 1 and ("MiB needed" if check_sees else "No space left on device") in done.stderr
    check_store(bench, store, [1])
