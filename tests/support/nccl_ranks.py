"""Ranks that call the stand-in for NCCL itself: python nccl_ranks.py CASE RANKS [ARGUMENT], a function below. Forks the ranks and
prints a line of JSON with what each one's function returned; null for one that ended otherwise.

The build is build/cuda-on-cpu, with its variables (LLMC_HOST_STREAMS and so on).
"""

import ctypes
import json
import mmap
import os
import pathlib
import signal
import sys
import threading
from ctypes import byref, c_int, c_size_t, c_void_p

from waiting import wait_until

BUILD = pathlib.Path(__file__).resolve().parents[2] / "build" / os.environ.get("LLMC_ON_CPU_BUILD", "cuda-on-cpu")
SUM, MAX = 0, 2
UINT8, INT64, FLOAT, BFLOAT16 = 1, 4, 7, 9
WIDTH = {UINT8: 1, INT64: 8, FLOAT: 4, BFLOAT16: 2}
DEFAULT_KIND = 4


class UniqueId(ctypes.Structure):
    _fields_ = [("internal", ctypes.c_char * 128)]


class Nccl:
    """The functions, each of which returns its code; and memory."""

    def __init__(self):
        self.c = ctypes.CDLL(str(BUILD / "libllmc.so"))
        self.c.ncclGetLastError.restype = ctypes.c_char_p
        self.stream = c_void_p()
        assert self.c.cudaStreamCreateWithFlags(byref(self.stream), 1) == 0

    def text(self):
        return self.c.ncclGetLastError(None).decode()

    def device(self, values, kind=ctypes.c_float):
        address, array = c_void_p(), (kind * len(values))(*values)
        assert self.c.cudaMalloc(byref(address), c_size_t(ctypes.sizeof(array))) == 0
        assert self.c.cudaMemcpy(address, array, c_size_t(ctypes.sizeof(array)), DEFAULT_KIND) == 0
        assert self.c.cudaDeviceSynchronize() == 0
        return address

    def get(self, address, count, kind=ctypes.c_float):
        self.c.cudaStreamSynchronize(self.stream)
        array = (kind * count)()
        assert self.c.cudaMemcpy(array, address, c_size_t(ctypes.sizeof(array)), DEFAULT_KIND) == 0
        return list(array)

    def join(self, id, size, rank, config=None):
        comm = c_void_p()
        return self.c.ncclCommInitRankConfig(byref(comm), size, id, rank, config), comm

    def all_reduce(self, comm, send, receive, count, type=FLOAT, op=SUM):
        return self.c.ncclAllReduce(send, receive, c_size_t(count), type, op, comm, self.stream)

    def reduce_scatter(self, comm, send, receive, count, type=FLOAT, op=SUM):
        return self.c.ncclReduceScatter(send, receive, c_size_t(count), type, op, comm, self.stream)

    def all_gather(self, comm, send, receive, count, type=FLOAT):
        return self.c.ncclAllGather(send, receive, c_size_t(count), type, comm, self.stream)

    def broadcast(self, comm, send, receive, count, type=FLOAT, root=0):
        return self.c.ncclBroadcast(send, receive, c_size_t(count), type, root, comm, self.stream)


    def group(self, comm, transfers, type=FLOAT):
        """The first code that is not 0. transfers: (sends, memory, count, peer)"""
        codes = [self.c.ncclGroupStart()]
        for sends, memory, count, peer in transfers:
            codes.append((self.c.ncclSend if sends else self.c.ncclRecv)(memory, c_size_t(count), type, peer, comm, self.stream))
        codes.append(self.c.ncclGroupEnd())
        return next((code for code in codes if code), 0)

    def all_to_all(self, comm, size, send, receive, count, type=FLOAT):
        blocks = [(sends, memory, r) for r in range(size) for sends, memory in ((True, send), (False, receive))]
        return self.group(comm, [(sends, address(memory, r * count * WIDTH[type]), count, r) for sends, memory, r in blocks], type)


class Rank:
    """One of the forked processes. meet(name) waits for all that do the same."""

    def __init__(self, rank, size, shared):
        self.rank, self.size, self.shared, self.nccl = rank, size, shared, Nccl()
        self.nccl.c.cudaSetDevice(rank)

    def id(self):
        """That of rank 0, which lies in the shared page."""
        id = UniqueId()
        if self.rank == 0:
            assert self.nccl.c.ncclGetUniqueId(byref(id)) == 0
            self.shared[:128] = bytes(id)
            self.shared[128] = 1
        wait_until(lambda: self.shared[128], "the id")
        return UniqueId.from_buffer_copy(self.shared[:128])

    def mark(self, place):
        self.shared[256 + place] = 1

    def wait_for(self, place):
        wait_until(lambda: self.shared[256 + place], f"mark {place}")

    def opened(self):
        code, comm = self.nccl.join(self.id(), self.size, self.rank)
        assert code == 0, self.nccl.text()
        return self.nccl, comm


def address(memory, bytes):
    return c_void_p(memory.value + bytes)


# ---- cases


def arguments(r, _):
    """[what, code, text] of calls that are refused, on one rank."""
    n, comm = r.opened()
    c, count = n.c, 8
    a, b, big = n.device([1] * 8), n.device([2] * 8), n.device([3] * 20)
    pageable, other = ctypes.create_string_buffer(64), c_void_p()
    found = []

    def note(what, code):
        found.append([what, code, n.text() if code else ""])

    note("good", n.all_reduce(comm, a, b, count))
    note("no elements", n.all_reduce(comm, None, None, 0))
    note("send is null", n.all_reduce(comm, None, b, count))
    note("receive is null", n.all_gather(comm, a, None, count))
    note("pageable", n.broadcast(comm, pageable, b, count))
    note("too long", n.all_reduce(comm, a, b, count + 1))
    note("type", n.all_reduce(comm, a, b, count, 99))
    note("operation", n.reduce_scatter(comm, a, b, count, op=5))
    note("max", n.all_reduce(comm, a, b, count, op=MAX))
    note("bf16 sum", n.all_reduce(comm, a, b, count, BFLOAT16))
    note("root", n.broadcast(comm, a, b, count, root=1))
    note("overlap", n.all_reduce(comm, big, address(big, 4), count))
    note("exchange", n.all_to_all(comm, 1, a, b, count))
    note("exchange in place", n.all_to_all(comm, 1, a, a, count))
    note("exchange too long", n.all_to_all(comm, 1, a, b, count + 1))
    note("peer", n.group(comm, [(True, a, count, 1)]))
    note("sent only", n.group(comm, [(True, a, count, 0)]))
    note("other counts", n.group(comm, [(True, a, count, 0), (False, b, count - 1, 0)]))
    note("sent twice", n.group(comm, [(True, a, count, 0)] * 2))
    note("empty group", n.group(comm, []))
    note("no group", c.ncclSend(a, c_size_t(count), FLOAT, 0, comm, n.stream))
    note("group end", c.ncclGroupEnd())
    note("config", n.join(r.id(), 1, 0, ctypes.create_string_buffer(512))[0])
    note("rank", n.join(r.id(), 1, 1)[0])
    note("no id", n.join(UniqueId(), 1, 0)[0])
    note("color", c.ncclCommSplit(comm, -7, 0, byref(other), None))
    note("finalize", c.ncclCommFinalize(comm))
    note("call after finalize", n.all_reduce(comm, a, b, count))
    note("finalize again", c.ncclCommFinalize(comm))
    note("destroy", c.ncclCommDestroy(comm))
    note("destroyed", n.all_reduce(comm, a, b, count))
    return found


def joins(r, how):
    """What joining returns: all on one GPU; a rank there twice; one of another number of ranks."""
    id, size, rank = r.id(), r.size, r.rank
    if how == "gpu":
        r.nccl.c.cudaSetDevice(0)
    if how == "twice" and rank == size - 1:
        r.wait_for(0)
        rank = 0
    if how == "count" and rank == size - 1:
        size += 1
    if how == "twice" and rank == 0:
        r.mark(0)
    code, _ = r.nccl.join(id, size, rank)
    return [code, r.nccl.text()]


def killed_while_joining(r, _):
    """The last rank dies when it has joined, and rank 1 never comes."""
    if r.rank == 2:
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGKILL)).start()
    code, _ = r.nccl.join(r.id(), 3, r.rank) if r.rank != 1 else (None, None)
    return [code, r.nccl.text()]


def differ(r, how):
    """The last rank calls something else; the line on stderr says what."""
    n, comm = r.opened()
    a, b, last = n.device([1] * 64), n.device([2] * 64), r.rank == r.size - 1
    for i in range(3):
        assert n.all_reduce(comm, a, a, 8) == 0
    if how == "count":
        n.all_reduce(comm, a, b, 9 if last else 8)
    elif how == "kind":
        (n.all_gather if last else n.broadcast)(comm, a, b, 4)
    elif how == "type":
        n.broadcast(comm, a, b, 4, INT64 if last else FLOAT)
    elif how == "root":
        n.broadcast(comm, a, b, 4, root=1 if last else 0)
    elif how == "order":
        calls = [lambda: n.all_reduce(comm, a, b, 8), lambda: n.reduce_scatter(comm, a, b, 4)]
        for call in calls[::-1] if last else calls:
            call()
    elif how == "exchange":
        n.all_to_all(comm, 2, a, b, 16 if last else 8)
    elif how == "number" and last:
        n.all_reduce(comm, a, b, 8)
    if how == "number":
        n.broadcast(comm, a, b, 8)
    n.c.cudaStreamSynchronize(n.stream)


def exchanged(r, count):
    """Rank r sends 100 * r + p to rank p; as much as travels in several pieces. The values that came, and how many of each."""
    n, comm = r.opened()
    count = int(count)
    a, b = n.device([100 * r.rank + p for p in range(r.size) for _ in range(count)]), n.device([-1] * r.size * count)
    assert n.all_to_all(comm, r.size, a, b, count) == 0, n.text()
    got = n.get(b, r.size * count)
    return [[sorted(set(got[p * count : (p + 1) * count])), count] for p in range(r.size)]


def under_way(r, what):
    """Another stream reads the result, or writes what is sent or received, and waits for nothing. What it read."""
    n, comm = r.opened()
    a, b, seen, other = n.device([1] * 8), n.device([5] * 8), n.device([7] * 8), c_void_p()
    assert n.c.cudaStreamCreateWithFlags(byref(other), 1) == 0
    assert n.all_reduce(comm, a, b, 8) == 0
    if what == "read":
        n.c.cudaMemcpyAsync(seen, b, c_size_t(32), DEFAULT_KIND, other)
    else:
        n.c.cudaMemsetAsync(a if what == "send" else b, 0, c_size_t(32), other)
    n.c.cudaDeviceSynchronize()
    return [repr(n.get(seen, 1)[0]), n.get(b, 1)[0]]


def aborted(r, _):
    """Rank 1 never calls; rank 0's wait is ended by a thread. What the result is, and what later calls say."""
    n, comm = r.opened()
    if r.rank == 1:
        return r.wait_for(1)
    a, b = n.device([1] * 8), n.device([5] * 8)
    threading.Timer(0.3, lambda: n.c.ncclCommAbort(comm)).start()
    assert n.all_reduce(comm, a, b, 8) == 0
    result = repr(n.get(b, 1)[0])
    r.mark(1)
    return [result, n.all_reduce(comm, a, b, 8), n.text()]


def lost(r, _):
    """Rank 1 is killed."""
    n, comm = r.opened()
    if r.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    state = c_int()
    wait_until(lambda: n.c.ncclCommGetAsyncError(comm, byref(state)) != 0 or state.value, "the error")
    text, a = n.text(), n.device([1] * 8)
    return [state.value, text, n.all_reduce(comm, a, a, 8), n.c.ncclCommFinalize(comm), n.c.ncclCommAbort(comm)]


def split(r, _):
    """Groups of even and odd ranks in reverse order, of which rank 0 is in none: [code, size, rank, sum of ranks]."""
    n, comm = r.opened()
    group, size, rank = c_void_p(1), c_int(), c_int()
    code = n.c.ncclCommSplit(comm, r.rank % 2 if r.rank else -1, -r.rank, byref(group), None)
    if not group.value:
        return [code]
    a = n.device([r.rank])
    n.c.ncclCommCount(group, byref(size))
    n.c.ncclCommUserRank(group, byref(rank))
    assert n.all_reduce(group, a, a, 1) == 0
    return [code, size.value, rank.value, n.get(a, 1)[0]]


def split_under_way(r, _):
    n, comm = r.opened()
    a, group = n.device([1] * 8), c_void_p()
    assert n.all_reduce(comm, a, a, 8) == 0
    code = n.c.ncclCommSplit(comm, 0, 0, byref(group), None)
    return [code, n.text() if code else "", n.get(a, 1)[0]]


def main(case, size, argument=None):
    shared = mmap.mmap(-1, mmap.PAGESIZE)
    children = []
    for rank in range(int(size)):
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            result = globals()[case](Rank(rank, int(size), shared), argument)
            os.write(write, json.dumps(result).encode())
            os._exit(0)
        os.close(write)
        children.append((pid, read))
    results = [os.fdopen(read).read() for _, read in children]
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid, _ in children]
    print(json.dumps([json.loads(result) if result else None for result in results]))
    sys.exit(next((code for code in codes if code > 0), 0))


if __name__ == "__main__":
    main(*sys.argv[1:])
