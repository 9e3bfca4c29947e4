"""One rank of test_comm.py: python comm_rank.py CASES SEED [TRANSPORT], under mpirun; CASES are separated by commas. Prints
a line of JSON with what each case returned.

Needs neither torch nor a model. LLMC_BUILD names the build.
"""

import ctypes
import json
import os
import pathlib
import resource
import signal
import sys
import threading
import time
import zlib
from ctypes import POINTER, byref, c_char, c_char_p, c_double, c_int64, c_size_t, c_uint16, c_uint64, c_void_p

import numpy as np

import cstructs
import hostlib
from waiting import wait_until

c = hostlib.library
PIECE = 1 << 20  # floats of all ranks together that travel at a time (llmc/comm/mpi_collectives.c)
HALF = np.float32 if "fp32" in hostlib.BUILD else np.uint16  # floatX, moved but never added up
DEFAULT_KIND = 4  # of cudaMemcpy: the addresses tell the direction

Bf16Wire = cstructs.read("comm/comm.h")["Bf16Wire"]

for name in ("comm_op_create", "world_comm"):
    getattr(c, name).restype = c_void_p
c.world_transport.restype = c_char_p


class Status(ctypes.Structure):
    _fields_ = [("begun", c_uint64), ("ended", c_uint64), ("label", c_char * 64)]


class Device:
    """A device copy of an array."""

    def __init__(self, values):
        self.values, self.address = np.ascontiguousarray(values), c_void_p()
        assert c.cudaMalloc(byref(self.address), c_size_t(max(1, self.values.nbytes))) == 0
        self.set(self.values)

    def set(self, values):
        self.copy(self.address.value, np.ascontiguousarray(values).ctypes.data)

    def copy(self, to, source):
        assert c.cudaMemcpy(c_void_p(to), c_void_p(source), c_size_t(self.values.nbytes), DEFAULT_KIND) == 0

    def at(self, element):
        return c_void_p(self.address.value + element * self.values.itemsize)

    def get(self):
        out = np.empty_like(self.values)
        self.copy(out.ctypes.data, self.address.value)
        return out

    def __del__(self):
        c.cudaFree(self.address)


class Op:
    def __init__(self, label=b"test"):
        self.op = c_void_p(c.comm_op_create(label))

    def wait(self):
        c.comm_op_wait(self.op, None)

    def __del__(self):
        c.comm_op_destroy(self.op)


class World:
    def __init__(self, transport=0):
        self.world, error = c_void_p(), hostlib.Error()
        code = c.world_open(byref(self.world), transport, byref(error))
        if code:
            if error.message:
                print("comm_rank:", error.message.decode(), file=sys.stderr, flush=True)
            c.world_close(self.world)
            sys.exit(code)
        self.rank, self.size = c.world_rank(self.world), c.world_size(self.world)
        self.comm = c_void_p(c.world_comm(self.world))

    def split(self, color):
        comm, error = c_void_p(), hostlib.Error()
        assert c.world_split(byref(comm), self.world, color, byref(error)) == 0, error.message
        return comm

    def status(self):
        status = Status()
        c.world_status(self.world, byref(status))
        return status

    def wire(self, capacity):
        """Terms of sums travel as bf16."""
        self.staging = [Device(np.full(capacity, 0xFFFF, np.uint16)) for _ in range(2)]
        return byref(Bf16Wire(*(ctypes.cast(device.address, POINTER(c_uint16)) for device in self.staging), capacity))

    def times(self):
        busy, exposed = c_double(), c_double()
        c.world_times(self.world, byref(busy), byref(exposed))
        return busy.value, exposed.value

    def drawn(self, seed, *shape):
        """Every rank's floats, the same on all ranks: [size, ...]. Of sizes that make sums depend on the order."""
        rng = np.random.default_rng(seed)
        return (rng.standard_normal((self.size, *shape)) * 10.0 ** rng.integers(-3, 4, (self.size, *shape))).astype(np.float32)


def added(rows):
    """((x0 + x1) + x2) + ... in floats: the order that the collectives promise, so results must be equal to the bit."""
    total = rows[0].copy()
    for row in rows[1:]:
        total += row
    return total


def rounded(x):
    """To the nearest bf16, which has 8 bits and the exponents of a float; of two to the even one."""
    x = x.astype(np.float64)
    with np.errstate(invalid="ignore"):
        last_bit = np.ldexp(1.0, np.maximum(np.frexp(x)[1], -125) - 8)
        nearest = np.rint(x / last_bit) * last_bit
    return np.where(np.abs(nearest) >= 2.0**128, np.copysign(np.inf, x), nearest).astype(np.float32)


def equal(got, expected):
    assert got.tobytes() == expected.tobytes(), (got, expected)


def counts(world):
    piece = PIECE // world.size
    return [1, 7, 4096, 5000, piece, 2 * piece + 13]


# ---- cases


def reduce_scatter(world, seed):
    op = Op()
    for i, count in enumerate(counts(world)):
        drawn = world.drawn(seed + i, world.size, count)
        expected = added(drawn[:, world.rank])
        for in_place in (False, True):
            data, out = Device(drawn[world.rank]), Device(np.full(count, np.nan, np.float32))
            to = data.at(world.rank * count) if in_place else out.address
            c.comm_reduce_scatter(world.comm, to, data.address, c_size_t(count), None, op.op, None)
            op.wait()
            equal(data.get()[world.rank] if in_place else out.get(), expected)
            if not in_place:
                equal(data.get(), drawn[world.rank])  # read only


def all_reduce(world, seed):
    op = Op()
    for i, count in enumerate([*counts(world), PIECE, 2 * PIECE + 5]):
        drawn = world.drawn(seed + i, count)
        data = Device(np.append(drawn[world.rank], np.float32(7)))  # the last is not to be touched
        c.comm_all_reduce(world.comm, data.address, c_size_t(count), None, op.op, None)
        op.wait()
        equal(data.get(), np.append(added(drawn), np.float32(7)))


# two ties, what is subnormal, what becomes infinite, and what is not finite: of NaN, one with all bits set
SPECIAL = np.array([1 + 2**-8, 1 + 3 * 2**-8, 1e-40, 3.4e38, np.inf, 0, -0.0, 0], np.float32)
SPECIAL.view(np.uint32)[5] = 0x7FFFFFFF


def check_rounded(got, sums, drawn, roundings):
    """Bits, and the error that is promised: 2^-8 of the terms' magnitudes, of their sum for one more rounding; and fp32 additions."""
    equal(np.nan_to_num(got, nan=7), np.nan_to_num(sums, nan=7))
    got, drawn = got[..., :-8], drawn[..., :-8].astype(np.float64)
    exact, magnitude = drawn.sum(axis=0), np.abs(drawn).sum(axis=0)
    additions = len(drawn) * 2.0**-24 * magnitude
    assert (np.abs(got - exact) <= 1.01 * additions + (2.0**-8 * magnitude + (roundings - 1) * 2.0**-8 * np.abs(exact)) * 1.004).all()


@np.errstate(invalid="ignore")
def in_bf16(world, seed):
    """Sums whose terms are rounded; one rank rounds nothing."""
    op, size, piece = Op(), world.size, PIECE // world.size // 8 * 8
    terms = rounded if size > 1 else lambda x: x
    cases = [(8, 8 * size), (24, 8 * size + 7), (5000, 1024), (piece, 1 << 18), (2 * piece + 16, (1 << 20) + 8)]
    for i, (count, capacity) in enumerate(cases):
        wire, drawn = world.wire(capacity), world.drawn(seed + i, size, count)
        drawn[:, :, -8:] = SPECIAL
        sums = added(terms(drawn))
        for in_place in (False, True):
            data, out = Device(drawn[world.rank]), Device(np.full(count, np.nan, np.float32))
            to = data.at(world.rank * count) if in_place else out.address
            c.comm_reduce_scatter(world.comm, to, data.address, c_size_t(count), wire, op.op, None)
            op.wait()
            got = data.get()[world.rank] if in_place else out.get()
            check_rounded(got, sums[world.rank], drawn[:, world.rank], 1)
            if not in_place:
                equal(data.get(), drawn[world.rank])
        data = Device(np.append(drawn[world.rank].reshape(-1), np.float32(7)))  # the last is not to be touched
        c.comm_all_reduce(world.comm, data.address, c_size_t(size * count), wire, op.op, None)
        op.wait()
        got = data.get()
        check_rounded(got[:-1].reshape(size, count), terms(sums), drawn, 2)
        equal(got[-1:], np.float32([7]))


def all_gather(world, seed):
    op = Op()
    for i, count in enumerate([*counts(world), 2 * PIECE + 5]):
        parts = np.random.default_rng(seed + i).integers(0, 2**16, (world.size, count)).astype(HALF)
        data = np.full_like(parts, 3)
        data[world.rank] = parts[world.rank]
        data = Device(data)
        c.comm_all_gather(world.comm, data.address, c_size_t(count), op.op, None)
        op.wait()
        equal(data.get(), parts)


def broadcast(world, seed):
    op = Op()
    for root in range(world.size):
        values = np.random.default_rng(seed + root).integers(0, 2**16, 2 * PIECE + 3).astype(HALF)
        data = Device(values if world.rank == root else np.zeros_like(values))
        c.comm_broadcast(world.comm, data.address, c_size_t(values.size), root, op.op, None)
        op.wait()
        equal(data.get(), values)


def groups(world, seed):
    """Groups by color, in turn with the whole world; a group of one is NULL and does nothing but copy."""
    drawn = world.drawn(seed, 1000)
    for modulus in (1, 2, 3, 4):
        comm = world.split(world.rank % modulus)
        members = [r for r in range(world.size) if r % modulus == world.rank % modulus]
        assert c.comm_size(comm) == len(members) and c.comm_rank(comm) == members.index(world.rank)
        assert (comm.value is None) == (len(members) == 1)
        one, all_, first, second = Device(drawn[world.rank]), Device(drawn[world.rank]), Op(), Op()
        c.comm_all_reduce(comm, one.address, c_size_t(1000), None, first.op, None)
        c.comm_all_reduce(world.comm, all_.address, c_size_t(1000), None, second.op, None)
        first.wait()
        second.wait()
        equal(one.get(), added(drawn[members]))
        equal(all_.get(), added(drawn))


def order(world, seed):
    """Each collective works on the last one's result, without a wait between them."""
    part, rounds, op, before = 16, 10, Op(b"chain"), world.status().ended
    count = part * world.size
    data = Device(np.ones(count, np.float32))
    expected = np.ones((world.size, 1), np.float32)
    for _ in range(rounds):
        c.comm_all_reduce(world.comm, data.address, c_size_t(count), None, op.op, None)
        c.comm_reduce_scatter(world.comm, data.at(world.rank * part), data.address, c_size_t(part), None, op.op, None)
        halves = part * 4 // np.dtype(HALF).itemsize
        c.comm_all_gather(world.comm, data.address, c_size_t(halves), op.op, None)
        for _ in range(2):
            expected[:] = added(expected)
    op.wait()
    equal(data.get(), np.full(count, expected[0, 0]))
    status = world.status()
    if world.size > 1:
        assert status.begun == status.ended == before + 3 * rounds and status.label == b"chain"


def full_queue(world, seed):
    """More collectives than the queue holds, while one rank comes late."""
    parts = np.arange(world.size, dtype=HALF)
    op, buffers = Op(), [Device(np.where(parts == world.rank, parts + i, 0).astype(HALF)) for i in range(600)]
    if world.rank == 0:
        time.sleep(0.3)
    for buffer in buffers:
        c.comm_all_gather(world.comm, buffer.address, c_size_t(1), op.op, None)
    op.wait()
    for i, buffer in enumerate(buffers):
        equal(buffer.get(), (parts + i).astype(HALF))


def waits(world, seed):
    """Rank 0 comes late: the others' calls return at once, their waits do not, and no core is burnt meanwhile."""
    late, data, op = 2.0, Device(np.ones(1000, np.float32)), Op(b"layer 3 gradients")
    c.comm_barrier(world.comm)
    world.times()
    before = world.status().ended
    if world.rank == 0:
        time.sleep(late)
    cpu, began = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
    c.comm_all_reduce(world.comm, data.address, c_size_t(1000), None, op.op, None)
    called = time.monotonic() - began
    if world.rank > 0:
        time.sleep(0.2)
        status = world.status()
        assert (status.begun, status.ended, status.label) == (before + 1, before, b"layer 3 gradients")
        assert np.isin(data.get(), (1, world.size)).all()
    op.wait()
    waited, used = time.monotonic() - began, resource.getrusage(resource.RUSAGE_SELF)
    equal(data.get(), np.full(1000, world.size, np.float32))
    busy, exposed = world.times()
    seconds = used.ru_utime + used.ru_stime - cpu.ru_utime - cpu.ru_stime
    if world.rank > 0:
        # a second's grace for ranks that left the barrier later than rank 0
        assert called < late - 1 < waited, (called, waited)
        assert late - 1 < busy < waited and late - 1.2 < exposed < busy - 0.1, (busy, exposed)
        assert seconds < late / 3, seconds  # polling would take all of it
    op.wait()  # nothing to wait for any more
    assert world.times() < (1e-3, 1e-3)


def late(world, seed):
    """Rank 0 calls only when all others have called and waited on their stream: over NCCL neither holds up the host."""
    data, op, marks = Device(np.ones(1000, np.float32)), Op(), pathlib.Path(os.environ["COMM_RANK_FOLDER"])
    if world.rank == 0:
        wait_until(lambda: len(list(marks.iterdir())) == world.size - 1, "the others' calls")
    used = time.process_time()
    c.comm_all_reduce(world.comm, data.address, c_size_t(1000), None, op.op, None)
    op.wait()
    if world.rank > 0:
        (marks / str(world.rank)).touch()
    equal(data.get(), np.full(1000, world.size, np.float32))
    return time.process_time() - used


def watched(world, seed):
    """Another thread asks all the time, as the watchdog's does: while groups are made and collectives are queued."""
    ended, error = threading.Event(), hostlib.Error()

    def ask():
        while not ended.wait(0.001):
            status = world.status()
            assert status.ended <= status.begun and c.world_check(world.world, byref(error)) == 0, error.message

    thread = threading.Thread(target=ask)
    thread.start()
    for case in (groups, order, full_queue):
        case(world, seed)
    ended.set()
    thread.join()


def lost(world, seed):
    """Rank 1 dies in a collective. The others learn of it from NCCL, and can close the world: what is under way is broken off."""
    group, data, error = world.split(0), Device(np.ones(1000, np.float32)), hostlib.Error()
    marks = pathlib.Path(os.environ["COMM_RANK_FOLDER"])
    if world.rank == 1:
        wait_until(lambda: len(list(marks.iterdir())) == world.size - 1, "the others' calls")
        os.kill(os.getpid(), signal.SIGKILL)
    op = c_void_p(c.comm_op_create(b"lost"))  # never destroyed, nor is the memory freed before: both wait for the collective
    world.kept = data
    c.comm_all_reduce(group, data.address, c_size_t(1000), None, op, None)
    (marks / str(world.rank)).touch()
    wait_until(lambda: c.world_check(world.world, byref(error)), "the transport's error")
    return error.message.decode()


def hidden(world, seed):
    """A collective that is over before it is waited for costs nothing."""
    data, op = Device(np.ones(100_000, np.float32)), Op()
    c.comm_barrier(world.comm)
    world.times()
    before = world.status().ended
    c.comm_all_reduce(world.comm, data.address, c_size_t(100_000), None, op.op, None)
    wait_until(lambda: world.status().ended == before + 1, "the end of the collective")
    op.wait()
    busy, exposed = world.times()
    assert 0 < busy and exposed < busy / 2, (busy, exposed)


def host(world, seed):
    rank, size = world.rank, world.size
    world.times()
    values = (c_int64 * 3)(rank + 1, -rank, 2**60)
    c.comm_host_sum(world.comm, values, 3)
    assert list(values) == [size * (size + 1) // 2, -size * (size - 1) // 2, size * 2**60]
    mine = bytes([rank] * 11)
    everything = ctypes.create_string_buffer(11 * size)
    c.comm_host_gather(world.comm, everything, mine, c_size_t(11))
    assert everything.raw == b"".join(bytes([r] * 11) for r in range(size))
    for root in range(size):
        data = ctypes.create_string_buffer(b"from %d" % rank, 16)
        c.comm_host_broadcast(world.comm, data, c_size_t(16), root)
        assert data.value == b"from %d" % root
    c.comm_barrier(world.comm)
    if rank == size - 1:
        time.sleep(0.3)
    came = c_double(time.monotonic())
    c.comm_barrier(world.comm)
    went, last = time.monotonic(), (c_double * size)()
    c.comm_host_gather(world.comm, last, byref(came), c_size_t(8))
    assert went >= max(last)  # nobody leaves before all have come
    busy, exposed = world.times()
    assert busy == exposed == 0  # host collectives are no communication of the step


def bits(world, seed):
    """A fingerprint of sums, by all-reduce and by reduce-scatter and all-gather (in fp32), which must be the same."""
    count, op = 100_000 * world.size, Op()
    drawn = world.drawn(seed, count)[world.rank]
    data = Device(drawn)
    c.comm_all_reduce(world.comm, data.address, c_size_t(count), None, op.op, None)
    op.wait()
    if HALF is np.float32:
        other, part = Device(drawn), count // world.size
        c.comm_reduce_scatter(world.comm, other.at(world.rank * part), other.address, c_size_t(part), None, op.op, None)
        c.comm_all_gather(world.comm, other.address, c_size_t(part), op.op, None)
        op.wait()
        equal(other.get(), data.get())
    return zlib.crc32(data.get().tobytes())


def ranks_of_machine(world, seed):
    name = c.world_transport(world.world).decode()
    return [world.rank, world.size, c.world_local_rank(world.world), c.world_local_size(world.world), name]


CASES = [reduce_scatter, all_reduce, in_bf16, all_gather, broadcast, groups, order, full_queue, waits, late, watched, lost, hidden, host, bits,
         ranks_of_machine]  # fmt: skip

if __name__ == "__main__":
    chosen = [next(f for f in CASES if f.__name__ == name) for name in sys.argv[1].split(",")]
    world = World(["auto", "nccl", "mpi"].index(sys.argv[3]) if len(sys.argv) > 3 else 0)
    results = {case.__name__: case(world, int(sys.argv[2])) for case in chosen}
    c.world_close(world.world)
    os.write(1, (json.dumps(results) + "\n").encode())  # one write, as ranks share the pipe
