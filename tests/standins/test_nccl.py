"""The stand-in for NCCL: it refuses what NCCL refuses, in the same words, and tells what NCCL would let pass or hang on."""

import ctypes
import glob
import json
import re
import sys

import pytest

import llmc
import oncpu
import ranks

SUCCESS, INTERNAL, ARGUMENT, USAGE, REMOTE = 0, 3, 4, 5, 6


def run(case, count, argument=None, code=0, mode="eager"):
    """What each rank returned, and stderr."""
    oncpu.need()
    command = [sys.executable, llmc.ROOT / "tests/support/nccl_ranks.py", case, count, *([argument] if argument else [])]
    done = oncpu.run(command, code, LLMC_HOST_STREAMS=mode, LLMC_STANDIN_TELL="0")
    return json.loads(done.stdout), done.stderr


def test_codes_and_words_are_nccls_own():
    """Beside the library itself, as far as it goes without a GPU."""
    oncpu.need()
    found = glob.glob(str(llmc.ROOT / ".venv/lib/python3*/site-packages/nvidia/nccl/lib/libnccl.so.2"))
    if not found:
        pytest.skip("no package nvidia-nccl in .venv")
    own, real = said = ctypes.CDLL(str(oncpu.ON_CPU / "libllmc.so")), ctypes.CDLL(found[0])
    number = ctypes.c_int()
    for library in said:
        library.ncclGetErrorString.restype = library.ncclGetLastError.restype = ctypes.c_char_p

    def say(library):
        nothing = ctypes.byref(number)
        calls = [
            lambda: library.ncclGetUniqueId(None),
            lambda: library.ncclCommCount(None, nothing),
            lambda: library.ncclCommUserRank(None, nothing),
            lambda: library.ncclCommGetAsyncError(None, nothing),
            lambda: library.ncclAllReduce(None, None, ctypes.c_size_t(1), 7, 0, None, None),
            lambda: library.ncclReduceScatter(None, None, ctypes.c_size_t(1), 7, 0, None, None),
            lambda: library.ncclAllGather(None, None, ctypes.c_size_t(1), 7, None, None),
            lambda: library.ncclBroadcast(None, None, ctypes.c_size_t(1), 7, 0, None, None),
            lambda: library.ncclSend(None, ctypes.c_size_t(1), 7, 0, None, None),
            lambda: library.ncclRecv(None, ctypes.c_size_t(1), 7, 0, None, None),
            lambda: library.ncclCommFinalize(None),
            lambda: library.ncclCommDestroy(None),
            lambda: library.ncclCommAbort(None),
        ]
        return [(code, library.ncclGetLastError(None) if code else b"") for code in (call() for call in calls)]

    assert [own.ncclGetErrorString(i) for i in range(8)] == [real.ncclGetErrorString(i) for i in range(8)]
    assert say(own) == say(real)


REFUSED = {
    "good": (SUCCESS, ""), "no elements": (SUCCESS, ""), "send is null": (ARGUMENT, "sendbuff"), "receive is null": (ARGUMENT, "recvbuff"),
    "pageable": (ARGUMENT, "is not a valid pointer"), "too long": (ARGUMENT, "36 bytes is not a valid pointer"),
    "type": (ARGUMENT, "AllReduce : invalid type 99"), "operation": (ARGUMENT, "ReduceScatter : invalid reduction operation 5"),
    "max": (USAGE, "the stand-in adds up float32 and int64"), "bf16 sum": (USAGE, "the stand-in adds up"),
    "root": (ARGUMENT, "Broadcast : invalid root 1"), "overlap": (USAGE, "sendbuff and recvbuff overlap"),
    "exchange": (SUCCESS, ""), "exchange in place": (USAGE, "sendbuff and recvbuff overlap"),
    "exchange too long": (ARGUMENT, "36 bytes is not a valid pointer"), "peer": (ARGUMENT, "Send : invalid root 1"),
    "sent only": (USAGE, "GroupEnd : the stand-in knows groups that are an all-to-all"), "other counts": (USAGE, "all-to-all"),
    "sent twice": (USAGE, "all-to-all"), "empty group": (SUCCESS, ""), "no group": (USAGE, "Send : the stand-in sends and receives in groups alone"),
    "group end": (USAGE, "no group was started"),
    "config": (ARGUMENT, "not initialized via NCCL_CONFIG_INITIALIZER"), "rank": (ARGUMENT, "Invalid rank requested : 1/1"),
    "no id": (ARGUMENT, "unique id"), "color": (ARGUMENT, "color -7"), "finalize": (SUCCESS, ""),
    "call after finalize": (USAGE, "finalized"), "finalize again": (ARGUMENT, "finalized already"), "destroy": (SUCCESS, ""),
    "destroyed": (ARGUMENT, "corrupted comm object"),
}  # fmt: skip


def test_arguments_that_are_refused():
    (found,), _ = run("arguments", 1)
    assert [what for what, _, _ in found] == list(REFUSED)
    for what, code, text in found:
        assert code == REFUSED[what][0] and REFUSED[what][1] in text, (what, code, text)


@pytest.mark.parametrize("how, count, expected", [
    ("gpu", 3, [[USAGE, "Duplicate GPU detected : rank 0 and rank 1 both on CUDA device 0000:01:00.0"]] * 3),
])  # fmt: skip
def test_ranks_on_one_gpu(how, count, expected):
    assert run("joins", count, how)[0] == expected


@pytest.mark.parametrize("how, words", [("twice", "rank 0 of 3 ranks has already checked in"), ("count", "mismatch in rank count from procs")])
def test_ranks_that_do_not_fit(how, words):
    """One is refused; the others hear that it has ended, or wait for a rank that never comes."""
    oncpu.need()
    script = llmc.ROOT / "tests/support/nccl_ranks.py"
    process = ranks.start([sys.executable, script, "joins", 3, how], environment={"LLMC_STANDIN_TELL": "1"}, launcher=lambda _: [])
    try:
        for line in process.stderr:
            if words in line:
                return
        raise AssertionError(process.communicate())
    finally:
        ranks.kill(process)


def test_a_rank_killed_while_they_join():
    found, _ = run("killed_while_joining", 3)
    assert found[0][0] == REMOTE and "the process of a rank has ended" in found[0][1] and found[2] is None


@pytest.mark.parametrize("how, first, last", [
    ("count", "AllReduce of 8 float32", "AllReduce of 9 float32"),
    ("kind", "Broadcast of 4 float32", "AllGather of 4 float32"),
    ("type", "Broadcast of 4 float32", "Broadcast of 4 int64"),
    ("root", "Broadcast of 4 float32, op 0, root 0", "Broadcast of 4 float32, op 0, root 1"),
    ("order", "AllReduce of 8 float32", "ReduceScatter of 4 float32"),
    ("number", "Broadcast of 8 float32", "AllReduce of 8 float32"),
    ("exchange", "AlltoAll of 8 float32", "AlltoAll of 16 float32"),
])  # fmt: skip
def test_calls_that_differ_between_ranks(how, first, last):
    found, err = run("differ", 2, how, code=1)
    assert found == [None, None]
    assert re.search(rf"call 4: ranks differ\. Rank 0: call 4, {first}.*; rank 1: call 4, {last}", err), err


@pytest.mark.parametrize("count", [1, 200_000])
def test_each_to_each(count):
    found, _ = run("exchanged", 3, str(count), mode="lazy")
    assert found == [[[[100.0 * sender + rank], count] for sender in range(3)] for rank in range(3)]


def test_a_result_is_not_there_early():
    """With streams that wait for each other where they must: NaN, what was there before, or the sum."""
    seen = set()
    for seed in range(20):
        found, _ = run("under_way", 2, "read", mode=f"random:{seed}")
        assert all(result == 2 for _, result in found)
        seen |= {value for value, _ in found}
    assert seen <= {"5.0", "nan", "2.0"} and "nan" in seen, seen


@pytest.mark.parametrize("what", ["send", "receive"])
def test_memory_that_is_written_meanwhile(what):
    for seed in range(30):
        found, err = run("under_way", 2, what, code=None, mode=f"random:{seed}")
        if f"{what.replace('receive', 'recv')}buff was written while the collective was under way" in err:
            return
    raise AssertionError("never noticed")


@pytest.mark.parametrize("mode", ["eager", "lazy"])
def test_abort_ends_the_waiting(mode):
    (found, _), _ = run("aborted", 2, mode=mode)
    assert found[:2] == ["nan", ARGUMENT] and "aborted" in found[2]


def test_a_rank_that_died():
    found, _ = run("lost", 3)
    assert found[1] is None
    for state, text, call, finalize, abort in (found[0], found[2]):
        assert (state, call, finalize, abort) == (REMOTE, REMOTE, REMOTE, SUCCESS) and text == "socket closed by rank 1: its process has ended"


def test_split():
    assert run("split", 5)[0] == [[0], [0, 2, 1, 4.0], [0, 2, 1, 6.0], [0, 2, 0, 4.0], [0, 2, 0, 6.0]]


def test_no_split_while_a_collective_is_under_way():
    for code, text, value in run("split_under_way", 2, mode="lazy")[0]:
        assert code == USAGE and "may deadlock" in text and value == 2
