"""What the CPU target offers to kernels, each feature against what CUDA defines: tests/cpu/features.cu uses it and
prints what came out."""

import numpy
import pytest

import programs

SEEDS = (0, 1, 77)
LANES = 32


@pytest.fixture(scope="module", params=[(kind, seed) for kind in programs.BUILDS for seed in SEEDS], ids=str)
def out(request):
    """{name: numbers} that the program printed, on each build and thread order."""
    kind, seed = request.param
    done = programs.run(programs.build("cpu/features", kind), seed=seed)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    return {name: numpy.array(numbers, dtype=numpy.float64) for name, *numbers in lines}


def unpack(packed):
    """The twelve numbers of indices_kernel."""
    digits = []
    for _ in range(12):
        digits.append(packed % 16)
        packed = packed // 16
    return numpy.stack(digits[::-1], axis=-1)


@pytest.mark.parametrize("name", ["indices", "indices_pointwise"])
def test_indices(out, name):
    grid, block = (3, 2, 4), (8, 4, 2)
    expected = [
        (bx, by, bz, *grid, tx, ty, tz, *block)
        for bz in range(grid[2])
        for by in range(grid[1])
        for bx in range(grid[0])
        for tz in range(block[2])
        for ty in range(block[1])
        for tx in range(block[0])
    ]
    numpy.testing.assert_array_equal(unpack(out[name]), expected)


def test_shared_memory(out):
    numpy.testing.assert_array_equal(out["shared_static"], numpy.arange(192)[::-1])
    numpy.testing.assert_array_equal(out["shared_dynamic"], 1000 + numpy.arange(192)[::-1])


def test_shared_memory_is_poisoned(out):
    """The same poison everywhere, although the block before wrote to the same memory."""
    values = set(out["shared_poison"].astype(numpy.uint64).tolist())
    assert len(values) == 1 and values <= {0xFFFFFFFF, 0x7F7F7F7F, 0xFEFEFEFE}, values


def test_barriers(out):
    t = numpy.arange(256)
    numpy.testing.assert_array_equal(out["rotate"].reshape(4, 256), numpy.tile((t + 50) % 256, (4, 1)))
    warp, lane = t // LANES, t % LANES
    numpy.testing.assert_array_equal(out["rotate_warp"], warp * LANES + (lane + 5 + warp) % LANES)


def test_shuffles(out):
    t = numpy.arange(64)
    warp, lane = t // LANES * LANES, t % LANES
    sources = [
        numpy.full(64, 5),
        (t * 7 + 3) % LANES,
        lane // 8 * 8 + (t + 1) % 8,
        lane ^ 1,
        lane ^ 16,
        numpy.where(lane + 3 < LANES, lane + 3, lane),
        numpy.where(lane >= 3, lane - 3, lane),
    ]
    expected = numpy.stack([100 + warp + source for source in sources])
    numpy.testing.assert_array_equal(out["shuffles"].reshape(expected.shape), expected)
    numpy.testing.assert_array_equal(out["shuffle_double"], 0.5 + warp + (lane ^ 31))


def tree_sum(values):
    """Sum along the last axis in the order of a butterfly of shuffles, in the type of the values."""
    while values.shape[-1] > 1:
        half = values.shape[-1] // 2
        values = values[..., :half] + values[..., half:]
    return values[..., 0]


def over_groups(values, width, reduce):
    return numpy.repeat(reduce(values.reshape(-1, width)), width)


def last_max(values):
    return values.max(axis=-1)


@pytest.mark.parametrize("suffix, dtype", [("", numpy.float32), ("_int", numpy.int32)])
def test_reductions(out, suffix, dtype):
    """Bit for bit, in a fixed order of additions: over warps and quads, of two values in one call."""
    x = out["reduce_in" + suffix].astype(dtype)
    ways = [(32, tree_sum), (32, last_max), (4, tree_sum), (4, last_max)]
    expected = numpy.stack([over_groups(v, *way) for way in ways for v in (x, -x)])
    numpy.testing.assert_array_equal(out["reduce" + suffix].reshape(8, -1), expected)


def test_block_reductions(out):
    x = out["reduce_in"].astype(numpy.float32)
    warps = tree_sum(x.reshape(3, 3, LANES))
    block_sums = (warps[:, 0] + warps[:, 1]) + warps[:, 2]
    expected = [
        over_groups(x, LANES, tree_sum),
        over_groups(x, LANES, last_max),
        numpy.repeat(block_sums, 96),
        over_groups(x, 96, last_max),
    ]
    numpy.testing.assert_array_equal(out["reduce_scalar"].reshape(4, -1), expected)


def test_integer_atomics(out):
    i = numpy.arange(16 * 64)
    assert out["atomic_total"] == i.sum()
    assert out["atomic_wide"] == len(i) * 2.0**33
    assert out["atomic_max"] == (i * 7919 % 1000).max()
    assert out["atomic_tickets"][0] == len(i) and (out["atomic_tickets"][1:] == 1).all()


def test_device_memory(out):
    assert (out["malloc_poison"] == 0xFF).all() and out["malloc_align"] == 0
    assert (out["memory_copied"] == [7] * 15 + [0xFF]).all()
    assert (out["memory_info"] == 1).all()


def test_out_of_memory_is_an_error(out):
    """The call says so, cudaGetLastError says so once more and forgets it."""
    assert (out["too_much"] == [1, 1, 1]).all()


def test_streams_are_in_order_and_at_once(out):
    assert out["stream_log"][0] == 3 * 32
    assert (out["stream_log"][1 : 1 + 3 * 32] == numpy.repeat([11, 12, 13], 32)).all()
    assert out["event_time"] == 1


# ---- what a launch must not be


@pytest.fixture(scope="module")
def launcher():
    return programs.build("cpu/launches", "plain")


@pytest.mark.parametrize(
    "case, words",
    [
        (0, "block of 48x1x1 threads"),
        (1, "block of 2048x1x1 threads"),
        (2, "block of 0x1x1 threads"),
        (3, "grid of 1x65536x1 blocks"),
        (4, "grid of 1x1x65536 blocks"),
        (5, "grid of 0x1x1 blocks"),
        (6, "102400 bytes of shared memory"),
        (8, "block of 1x1x96 threads"),
    ],
)
def test_launch_refused(launcher, case, words):
    done = programs.run(launcher, case, "launch")
    assert done.returncode == 1, done.stdout
    assert done.stderr.startswith("llmc: kernel nothing_kernel: ") and words in done.stderr, done.stderr


@pytest.mark.parametrize("case", [3, 4, 5])
def test_pointwise_launch_refused(launcher, case):
    done = programs.run(launcher, case, "pointwise")
    assert done.returncode == 1 and "llmc: kernel nothing_kernel: grid of" in done.stderr, done.stderr


def test_barrier_in_a_pointwise_launch(launcher):
    done = programs.run(launcher, 7, "pointwise")
    assert done.returncode == 1 and "launch_pointwise meets a barrier" in done.stderr, done.stderr


@pytest.mark.parametrize(
    "type_, compiles", [("int", True), ("unsigned long long", True), ("float", False), ("double", False)]
)
@pytest.mark.parametrize("function", ["atomicAdd", "atomicMax"])
def test_atomics_are_for_integers(function, type_, compiles):
    use = f"{type_} use({type_} *x)"
    done = programs.compile_only(
        f'#include "device/launch.h"\n{use};\n{use} {{ return {function}(x, ({type_})1); }}\n'
    )
    assert (done.returncode == 0) == compiles, done.stderr
    if not compiles:
        assert f"{function} is for integers" in done.stderr


@pytest.mark.parametrize("kind", programs.BUILDS)
def test_loops_over_threads(kind):
    done = programs.run(programs.build("cpu/parallel", kind))
    assert (done.returncode, done.stdout) == (0, "0 0 0\n"), done.stderr  # loops that missed a piece or ran one twice
