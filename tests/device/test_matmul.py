"""Matrix products against float64: every transposition, destination and accumulation the three uses of a linear layer
need, and odd shapes."""

import pytest
import torch

import llmc
from compare import FP32_LIMIT, check, relative_error

FLOATX, FP32 = 0, 1  # MatmulOut

# m, n, k: the benchmark model's, one row, less than a tile, just over a tile in each dimension, no multiples of anything
SHAPES = [(2048, 512, 256), (512, 256, 2048), (1, 16, 48), (17, 33, 1), (257, 130, 272), (64, 528, 513), (300, 1040, 80)]
# few rows, as in generation: one row, each number the cpu target takes at once, more than that; k and n with and without rest
SHAPES += [(1, 1000, 768), (2, 49, 33), (3, 71, 130), (5, 3, 31), (7, 128, 64), (8, 301, 1056), (9, 50, 200), (12, 100, 257)]
# few rows of a transposed a and an odd k, as adapters' gradients: where oneDNN's own product ends in an illegal instruction
SHAPES += [(8, 112, 63), (24, 112, 63)]
KINDS = [(FLOATX, False), (FP32, False), (FP32, True)]
TRANSPOSES = [(False, True), (False, False), (True, False), (True, True)]


def ways():
    """(precision, way): the cpu target's bf16 build has one for CPUs with bf16 instructions (1), one for the others (0).
    oneDNN computes the first with any AVX-512; on less it crashes."""
    for precision, folder in llmc.build_folders().items():
        two = precision == "bf16" and not folder.name.startswith("cuda")
        yield from [(precision, 0), (precision, 1)] if two else [(precision, None)]


@pytest.fixture(params=list(ways()), ids=lambda way: f"{way[0]}-{['widened', 'native'][way[1]]}" if way[1] is not None else way[0])
def way(request):
    precision, native = request.param
    if native and not llmc.has_avx512():
        pytest.skip("this processor has no AVX-512, without which oneDNN has no products in bf16")
    lib = llmc.load(precision)
    if native is not None:
        lib.c.matmul_use_bf16(native)
    yield lib
    if native is not None:
        lib.c.matmul_use_bf16(-1)


def run(lib, shape, transposes, kind, a, b, d):
    (m, n, k), (transpose_a, transpose_b), (out, accumulate) = shape, transposes, kind
    buffer = lib.empty((m, n), torch.float32 if out == FP32 else lib.floatX)
    if accumulate:
        buffer.set(d)
    stored_a, stored_b = lib.x(a.T if transpose_a else a), lib.x(b.T if transpose_b else b)
    lib.matmul(buffer, out, stored_a, stored_b, m, n, k, transpose_a, transpose_b, accumulate)
    return buffer.get()


def check_product(lib, shape, transposes, kind):
    (m, n, k), (out, accumulate) = shape, kind
    a, b, d = torch.randn(m, k).to(lib.floatX), torch.randn(k, n).to(lib.floatX), torch.randn(m, n)
    reference = a.double() @ b.double() + (d.double() if accumulate else 0)
    ours = run(lib, shape, transposes, kind, a, b, d)
    # an fp32 destination keeps the whole sum, in the bf16 build too
    rounds = out == FLOATX and lib.floatX == torch.bfloat16
    check("product", ours, reference, (a @ b) if rounds else None)


@pytest.mark.parametrize("kind", KINDS, ids=["floatX", "fp32", "accumulate"])
@pytest.mark.parametrize("transposes", TRANSPOSES, ids=["x.wT", "dy.w", "dyT.x", "both"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_product(way, shape, transposes, kind):
    check_product(way, shape, transposes, kind)


@pytest.mark.checked
@pytest.mark.parametrize("transposes", TRANSPOSES, ids=["x.wT", "dy.w", "dyT.x", "both"])
@pytest.mark.parametrize("shape", [(5, 16, 48), (1, 4, 31), (10, 7, 65), (33, 70, 130)], ids=str)
def test_small(way, shape, transposes):
    for kind in KINDS:
        check_product(way, shape, transposes, kind)


def test_alignments(way):
    """Operands and results that begin anywhere, one shape after the other, so that nothing is taken over from an aligned call."""
    m, n, k = 24, 40, 48

    def place(values, offset):
        """values behind `offset` elements; (address of the first, everything)"""
        memory = way.empty(values.numel() + offset, values.dtype)
        memory.set(torch.cat([torch.zeros(offset, dtype=values.dtype), values.reshape(-1)]))
        return memory.address + offset * values.element_size(), memory

    for of_a, of_b, of_d in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (2, 4, 8), (8, 2, 4), (0, 0, 0)]:
        a, b = torch.randn(m, k).to(way.floatX), torch.randn(n, k).to(way.floatX)
        (at_a, _a), (at_b, _b), (at_d, d) = place(a, of_a), place(b, of_b), place(torch.zeros(m * n), of_d)
        way.matmul(at_d, FP32, at_a, at_b, m, n, k, False, True, False)
        check("product", d.get()[of_d:].reshape(m, n), a.double() @ b.double().T)


def test_prepared(way):
    """Preparing twice is as good as once, and products after it are right."""
    assert way.matmul_prepare() == way.matmul_prepare()
    check_product(way, (48, 32, 16), (False, True), (FLOATX, False))


def test_same_bits_again(way):
    """The same inputs give the same bits, whatever ran before."""
    a, b, d = torch.randn(384, 2000).to(way.floatX), torch.randn(2000, 256).to(way.floatX), torch.randn(384, 256)
    arguments = ((384, 256, 2000), (True, False), (FP32, True), a, b, d)
    first = run(way, *arguments)
    check_product(way, (100, 60, 20), (True, True), (FLOATX, False))
    assert torch.equal(first, run(way, *arguments))


@pytest.mark.parametrize("transposes", TRANSPOSES, ids=["x.wT", "dy.w", "dyT.x", "both"])
def test_same_bits_for_any_number_of_threads(way, transposes):
    """Sizes that leave any rows over, one row or column behind the last tile, and tiles of all sizes up to the largest."""
    if not way.on_cpu or llmc.has_avx512():
        pytest.skip("cuBLASLt has no threads, and oneDNN's products for AVX-512 may depend on the size of tiles")
    before = way.c.host_threads()
    for m, n, k in [(1030, 1100, 400), (265, 577, 300), *torch.randint(16, 400, (6, 3)).tolist()]:
        a, b, d = torch.randn(m, k).to(way.floatX), torch.randn(k, n).to(way.floatX), torch.randn(m, n)
        try:
            found = []
            for threads in (1, 2, 3, 40):
                way.c.host_set_threads(threads)
                found.append(run(way, (m, n, k), transposes, (FP32, True), a, b, d))
        finally:
            way.c.host_set_threads(before)
        assert all(torch.equal(found[0], other) for other in found[1:]), (m, n, k)


def test_not_finite(way):
    """An infinity or NaN in an input reaches the rows it belongs to, and no others."""
    a, b = torch.randn(70, 64).to(way.floatX), torch.randn(64, 48).abs().to(way.floatX)
    a[3, 5], a[40, 0] = float("inf"), float("nan")
    out = run(way, (70, 48, 64), (False, False), (FLOATX, False), a, b, None)
    assert bool(torch.isinf(out[3]).all()) and bool(torch.isnan(out[40]).all())
    rest = [i for i in range(70) if i not in (3, 40)]
    assert bool(torch.isfinite(out[rest]).all())


def test_accumulation_is_fp32(way):
    """Terms too small for bf16 next to the sum are kept: 256 additions of 1/1024 to 1."""
    a, b = torch.full((16, 16), 1 / 32).to(way.floatX), torch.full((16, 16), 1 / 512).to(way.floatX)
    buffer = way.device(torch.ones(16, 16))
    stored_a, stored_b = way.x(a), way.x(b)
    for _ in range(256):
        way.matmul(buffer, FP32, stored_a, stored_b, 16, 16, 16, False, False, True)
    assert relative_error(buffer.get(), torch.full((16, 16), 1.25)) <= FP32_LIMIT


def test_a_row_does_not_feel_its_neighbours(way):
    """On the cpu target a row has the same bits alone and among a few others, so that texts don't depend on the batch."""
    if not way.on_cpu:
        pytest.skip("cuBLASLt chooses by shape")
    a, b = torch.randn(12, 800).to(way.floatX), torch.randn(800, 3001).to(way.floatX)
    rest = ((False, True), (FLOATX, False))
    whole = run(way, (12, 3001, 800), *rest, a, b, None)
    for rows in ([0], [11], [3, 4], list(range(8))):
        assert torch.equal(run(way, (len(rows), 3001, 800), *rest, a[rows], b, None), whole[rows])


@pytest.mark.checked
@pytest.mark.parametrize("shape", [(3, 40), (26, 33)], ids=str)
def test_small_same_rows(way, shape):
    check_same_rows(way, shape)


@pytest.mark.parametrize("shape", [(25, 1601), (301, 800), (48, 2304)], ids=str)
def test_same_rows(way, shape):
    check_same_rows(way, shape)


def check_same_rows(way, shape):
    """Prompts' products: right, and a row has the same bits alone, among a few, and among more than are computed at once."""
    (n, k), most = shape, 150
    a, b = torch.randn(most, k).to(way.floatX), torch.randn(n, k).to(way.floatX)
    stored_b = way.x(b)

    def rows(chosen, out):
        x = torch.zeros(most, k, dtype=way.floatX)
        x[: len(chosen)] = a[chosen]
        d = way.empty((most, n), torch.float32 if out == FP32 else way.floatX)
        way.matmul_same_rows(d, out, way.x(x), stored_b, len(chosen), most, n, k)
        return d.get()[: len(chosen)]

    for out in (FLOATX, FP32):
        whole = rows(list(range(most)), out)
        rounds = out == FLOATX and way.floatX == torch.bfloat16
        check("product", whole, a.double() @ b.double().T, (a @ b.T) if rounds else None)
        for count in (1, 2, 5, 7, 8, 9, 15, 16, 17, 64, 77):
            chosen = torch.randperm(most)[:count].tolist()
            assert torch.equal(rows(chosen, out), whole[chosen]), count
