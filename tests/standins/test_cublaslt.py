"""The stand-in for cuBLASLt: it computes what its descriptors say, and refuses, with the status and for the reason that the
documentation of cublasLtMatmul() gives, what does not fit together. A stand-in that took everything would prove nothing."""

import ctypes
import sys

import pytest
import torch

import compare
import oncpu
import llmc

SUCCESS, NOT_INITIALIZED, INVALID_VALUE, EXECUTION_FAILED, NOT_SUPPORTED = 0, 1, 7, 13, 15
R_32F, R_16F, R_16BF = 0, 2, 14
COMPUTE_32F, COMPUTE_32F_FAST_TF32 = 68, 77
NONE, TRANSPOSE = 0, 1
TYPES = {torch.float32: R_32F, torch.bfloat16: R_16BF}
# attributes: (number, ctypes type)
LAYOUT = {"type": (0, ctypes.c_uint32), "order": (1, ctypes.c_int32), "rows": (2, ctypes.c_uint64), "columns": (3, ctypes.c_uint64),
          "ld": (4, ctypes.c_int64), "batch": (5, ctypes.c_int32)}  # fmt: skip
OPERATION = {"compute": (0, ctypes.c_int32), "scale": (1, ctypes.c_int32), "pointer_mode": (2, ctypes.c_int32), "a": (3, ctypes.c_int32),
             "b": (4, ctypes.c_int32), "c": (5, ctypes.c_int32), "epilogue": (7, ctypes.c_uint32)}  # fmt: skip
PREFERENCE = {"workspace": (1, ctypes.c_uint64), "reductions": (3, ctypes.c_uint32), "alignment_a": (5, ctypes.c_uint32),
              "alignment_b": (6, ctypes.c_uint32), "alignment_c": (7, ctypes.c_uint32), "alignment_d": (8, ctypes.c_uint32)}  # fmt: skip
WORKSPACE = 1 << 20


class Result(ctypes.Structure):
    """cublasLtMatmulHeuristicResult_t"""

    _fields_ = [("algo", ctypes.c_uint64 * 8), ("workspace", ctypes.c_size_t), ("state", ctypes.c_int), ("waves", ctypes.c_float),
                ("reserved", ctypes.c_int * 4)]  # fmt: skip


@pytest.fixture(scope="module")
def lib():
    oncpu.need()
    return llmc.Library("bf16", oncpu.ON_CPU)


class Lt:
    """A product of column-major matrices: op(a)[m,k] · op(b)[k,n] into d[m,n], of which a test changes one thing."""

    def __init__(self, lib, m=24, n=40, k=48, into=torch.bfloat16, **ld):
        self.lib, self.c, self.m, self.n, self.k = lib, lib.c, m, n, k
        self.matrices, self.layouts, self.memory = {}, {}, {}
        self.handle, self.operation = self.make("Create"), self.make("MatmulDescCreate", COMPUTE_32F, R_32F)
        for name, rows, columns, dtype in (("a", m, k, torch.bfloat16), ("b", k, n, torch.bfloat16), ("c", m, n, into), ("d", m, n, into)):
            self.matrix(name, rows, columns, dtype, ld.get(name, rows))
        self.workspace, self.algorithm = lib.empty(WORKSPACE, torch.uint8), None
        self.preference = self.make("MatmulPreferenceCreate")
        self.prefer(workspace=WORKSPACE, reductions=2)

    def make(self, name, *arguments):
        made = ctypes.c_void_p()
        assert getattr(self.c, "cublasLt" + name)(ctypes.byref(made), *arguments) == SUCCESS
        return made

    def matrix(self, name, rows, columns, dtype, ld):
        """Random, in memory of `ld` elements a column; what lies between columns is NaN."""
        values = torch.randn(rows, columns).to(dtype)
        stored = torch.full((columns, ld), float("nan"), dtype=dtype)
        stored[:, :rows] = values.T
        self.matrices[name], self.memory[name] = values, self.lib.device(stored)
        self.layouts[name] = self.make("MatrixLayoutCreate", TYPES[dtype], ctypes.c_uint64(rows), ctypes.c_uint64(columns), ctypes.c_int64(ld))

    def set(self, function, descriptor, attributes, values):
        for name, value in values.items():
            number, kind = attributes[name]
            value = kind(value)
            assert getattr(self.c, function)(descriptor, number, ctypes.byref(value), ctypes.c_size_t(ctypes.sizeof(value))) == SUCCESS, name

    def operate(self, **values):
        self.set("cublasLtMatmulDescSetAttribute", self.operation, OPERATION, values)

    def prefer(self, **values):
        self.set("cublasLtMatmulPreferenceSetAttribute", self.preference, PREFERENCE, values)

    def lay(self, name, **values):
        self.set("cublasLtMatrixLayoutSetAttribute", self.layouts[name], LAYOUT, values)

    def choose(self):
        """The heuristic's status; keeps its algorithm."""
        self.algorithm, found = Result(), ctypes.c_int(-1)
        layouts = [self.layouts[name] for name in "abcd"]
        status = self.c.cublasLtMatmulAlgoGetHeuristic(self.handle, self.operation, *layouts, self.preference, 1,
                                                       ctypes.byref(self.algorithm), ctypes.byref(found))  # fmt: skip
        assert found.value == (status == SUCCESS)
        return status

    def address(self, name, offset=0):
        return ctypes.c_void_p(self.memory[name].address + offset)

    def multiply(self, alpha=1.0, beta=0.0, c=None, workspace_bytes=WORKSPACE, workspace=None, algorithm=True, **addresses):
        """cublasLtMatmul's status. c: which memory is C (default: in place)."""
        at = {name: addresses.get(name, self.address(name)) for name in "abd"}
        in_place = c is None
        return self.c.cublasLtMatmul(
            self.handle, self.operation, ctypes.byref(ctypes.c_float(alpha)), at["a"], self.layouts["a"], at["b"], self.layouts["b"],
            ctypes.byref(ctypes.c_float(beta)), at["d"] if in_place else c, self.layouts["d" if in_place else "c"], at["d"],
            self.layouts["d"], ctypes.byref(self.algorithm.algo) if algorithm else None,
            workspace or ctypes.c_void_p(self.workspace.address), ctypes.c_size_t(workspace_bytes), None)  # fmt: skip

    def result(self):
        """d as a matrix; between its columns nothing may have been written."""
        stored = self.memory["d"].get()
        assert stored[:, self.m :].isnan().all()
        return stored[:, : self.m].T

    def expect(self, *statuses, **changes):
        assert (self.choose(), self.multiply(**changes)) == statuses


def transposed(lt, name, rows, columns, **more):
    """Stores the matrix `name` transposed."""
    lt.matrix(name, columns, rows, torch.bfloat16, more.get("ld", columns))
    lt.operate(**{name: TRANSPOSE})
    return lt.matrices[name].T


@pytest.mark.parametrize("a_is, b_is", [(False, False), (False, True), (True, False), (True, True)])
@pytest.mark.parametrize("into", [torch.bfloat16, torch.float32], ids=["bf16", "fp32"])
@pytest.mark.parametrize("pad", [0, 8])
def test_product(lib, a_is, b_is, into, pad):
    """Every transposition, with columns that lie apart and that do not; D is NaN before and not read."""
    lt = Lt(lib, into=into, a=24 + pad, b=48 + pad, c=24 + pad, d=24 + pad)
    a = transposed(lt, "a", lt.m, lt.k, ld=lt.k + pad) if a_is else lt.matrices["a"]
    b = transposed(lt, "b", lt.k, lt.n, ld=lt.n + pad) if b_is else lt.matrices["b"]
    lt.memory["d"].poison()
    lt.expect(SUCCESS, SUCCESS)
    compare.check("product", lt.result(), a.double() @ b.double(), (a @ b) if into == torch.bfloat16 else None)


@pytest.mark.parametrize("alpha, beta", [(1.0, 1.0), (0.0, 1.0), (0.5, -2.0), (2.0, 0.0)])
@pytest.mark.parametrize("in_place", [True, False])
def test_scalars(lib, alpha, beta, in_place):
    """alpha · A · B + beta · C, in place and from another matrix with another leading dimension."""
    lt = Lt(lib, into=torch.float32, c=32)
    lt.choose()
    if in_place:
        lt.layouts["c"], c, before = lt.layouts["d"], None, lt.matrices["d"]
        lt.choose()
    else:
        c, before = lt.address("c"), lt.matrices["c"]
    assert lt.multiply(alpha, beta, c=c) == SUCCESS
    product = lt.matrices["a"].double() @ lt.matrices["b"].double()
    compare.check("product", lt.result(), alpha * product + beta * before.double())


# ---- what is refused: by the heuristic, and so by the product


REFUSED = {
    "inner sizes differ": (INVALID_VALUE, lambda lt: lt.lay("b", rows=lt.k - 8)),
    "rows of d": (INVALID_VALUE, lambda lt: lt.lay("d", rows=lt.m - 8)),
    "c is no d": (INVALID_VALUE, lambda lt: lt.lay("c", columns=lt.n - 8)),
    "transposed by mistake": (INVALID_VALUE, lambda lt: lt.operate(a=TRANSPOSE)),
    "leading dimension below the rows": (INVALID_VALUE, lambda lt: lt.lay("a", ld=lt.m - 8)),
    "no columns": (INVALID_VALUE, lambda lt: lt.lay("a", columns=0)),
    "more rows than an int": (INVALID_VALUE, lambda lt: lt.lay("a", rows=1 << 31, ld=1 << 31)),
    "a is fp32": (NOT_SUPPORTED, lambda lt: lt.lay("a", type=R_32F)),
    "c and d of two types": (NOT_SUPPORTED, lambda lt: lt.lay("d", type=R_32F)),
    "bf16 into fp16": (NOT_SUPPORTED, lambda lt: (lt.lay("c", type=R_16F), lt.lay("d", type=R_16F))),
    "row-major": (NOT_SUPPORTED, lambda lt: lt.lay("a", order=1, ld=lt.m)),
    "batches": (NOT_SUPPORTED, lambda lt: lt.lay("a", batch=2)),
    "c transposed": (NOT_SUPPORTED, lambda lt: lt.operate(c=TRANSPOSE)),
    "conjugated": (NOT_SUPPORTED, lambda lt: lt.operate(b=3)),
    "TF32": (NOT_SUPPORTED, lambda lt: lt.operate(compute=COMPUTE_32F_FAST_TF32)),
    "scalars in bf16": (NOT_SUPPORTED, lambda lt: lt.operate(scale=R_16BF)),
    "an epilogue": (NOT_SUPPORTED, lambda lt: lt.operate(epilogue=2)),
    "scalars on the device": (NOT_SUPPORTED, lambda lt: lt.operate(pointer_mode=1)),
    "a destroyed layout": (INVALID_VALUE, lambda lt: lt.c.cublasLtMatrixLayoutDestroy(lt.layouts["a"])),
    "a layout as operation": (INVALID_VALUE, lambda lt: setattr(lt, "operation", lt.layouts["a"])),
    "a destroyed handle": (NOT_INITIALIZED, lambda lt: lt.c.cublasLtDestroy(lt.handle)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_problems(lib, name):
    status, change = REFUSED[name]
    lt = Lt(lib)
    lt.choose()
    change(lt)
    assert lt.multiply(c=lt.address("c")) == status
    assert lt.choose() == status


def test_refused_preferences(lib):
    lt = Lt(lib)
    lt.c.cublasLtMatmulPreferenceDestroy(lt.preference)
    assert lt.choose() == INVALID_VALUE
    assert lt.c.cublasLtMatmulPreferenceDestroy(lt.preference) == INVALID_VALUE


def test_refused_attributes(lib):
    """A value of another width, NULL, and an attribute that the stand-in does not know."""
    lt, wide = Lt(lib), ctypes.c_uint64(1)
    assert lt.c.cublasLtMatmulDescSetAttribute(lt.operation, 3, ctypes.byref(wide), ctypes.c_size_t(8)) == INVALID_VALUE
    assert lt.c.cublasLtMatmulDescSetAttribute(lt.operation, 3, None, ctypes.c_size_t(4)) == INVALID_VALUE
    assert lt.c.cublasLtMatmulDescSetAttribute(None, 3, ctypes.byref(wide), ctypes.c_size_t(4)) == INVALID_VALUE
    assert lt.c.cublasLtMatmulDescSetAttribute(lt.operation, 21, ctypes.byref(wide), ctypes.c_size_t(8)) == NOT_SUPPORTED


# ---- what is refused when it is to run


def host(count=4096):
    """Memory that no GPU sees, kept for good."""
    return ctypes.cast(ctypes.create_string_buffer(count), ctypes.c_void_p)


CALLS = {
    "host memory": (EXECUTION_FAILED, lambda lt: dict(a=host())),
    "a result on the host": (EXECUTION_FAILED, lambda lt: dict(d=host())),
    "past the end": (EXECUTION_FAILED, lambda lt: dict(b=lt.address("b", lt.memory["b"].total - 64))),
    "half an element": (EXECUTION_FAILED, lambda lt: dict(a=lt.address("a", 1))),
    "NULL": (INVALID_VALUE, lambda lt: dict(b=ctypes.c_void_p())),
    "less aligned than promised": (INVALID_VALUE, lambda lt: dict(b=lt.address("b", -16))),
    "d over a": (INVALID_VALUE, lambda lt: dict(d=lt.address("a"))),
    "c beside d": (INVALID_VALUE, lambda lt: dict(beta=1.0, c=lt.address("d", 256))),
    "small workspace": (INVALID_VALUE, lambda lt: dict(workspace_bytes=lt.algorithm.workspace - 1)),
    "workspace at 16": (INVALID_VALUE, lambda lt: dict(workspace=ctypes.c_void_p(lt.workspace.address + 16), workspace_bytes=WORKSPACE - 16)),
    "workspace longer than its memory": (EXECUTION_FAILED, lambda lt: dict(workspace_bytes=WORKSPACE + 4096)),
    "workspace on the host": (EXECUTION_FAILED, lambda lt: dict(workspace=ctypes.c_void_p(256))),
    "alpha as NULL": (INVALID_VALUE, lambda lt: None),
}


@pytest.mark.parametrize("name", CALLS)
def test_refused_calls(lib, name):
    status, changes = CALLS[name]
    lt = Lt(lib)
    assert lt.choose() == SUCCESS and lt.algorithm.workspace > 0
    if name == "c beside d":
        lt.memory["d"] = lib.empty((2 * lt.n, lt.m))
    if name == "alpha as NULL":
        assert lt.c.cublasLtMatmul(lt.handle, lt.operation, None, *[None] * 13) == status
        return
    given = changes(lt)
    assert lt.multiply(**given) == status
    del given


def test_several_proposals(lib):
    """As many as are wanted and there are; each is taken, and gives the same product. A kept one is checked against its problem."""
    lt = Lt(lib)
    results, found = (Result * 8)(), ctypes.c_int(-1)
    layouts = [lt.layouts[name] for name in "abcd"]

    def propose(wanted):
        return lt.c.cublasLtMatmulAlgoGetHeuristic(lt.handle, lt.operation, *layouts, lt.preference, wanted, results, ctypes.byref(found))

    assert propose(2) == SUCCESS and found.value == 2
    assert propose(8) == SUCCESS and found.value == 4
    assert len({bytes(result.algo) for result in results[:4]}) == 4
    products = []
    for result in results[:4]:
        lt.algorithm = result
        assert lt.multiply(workspace_bytes=result.workspace) == SUCCESS
        products.append(lt.result())
    assert all(torch.equal(product, products[0]) for product in products)

    def check(algorithm, result, handle=lt.handle):
        return lt.c.cublasLtMatmulAlgoCheck(handle, lt.operation, *layouts, algorithm, result)

    algorithm, result = ctypes.byref(results[1].algo), Result()
    assert check(algorithm, ctypes.byref(result)) == SUCCESS and result.workspace == results[1].workspace > 0
    assert check(None, ctypes.byref(result)) == check(algorithm, None) == INVALID_VALUE
    assert check(ctypes.byref((ctypes.c_uint64 * 8)()), ctypes.byref(result)) == INVALID_VALUE
    assert check(algorithm, ctypes.byref(result), handle=lt.preference) == NOT_INITIALIZED
    lt.operate(b=TRANSPOSE)
    lt.lay("b", rows=lt.n, columns=lt.k, ld=lt.n)
    assert check(algorithm, ctypes.byref(result)) == INVALID_VALUE, "of another problem"


def test_refused_algorithms(lib):
    """None of the heuristic's, one of another problem, and none at all, for which 256 bytes of alignment are taken for granted."""
    lt = Lt(lib)
    lt.algorithm = Result()
    assert lt.multiply() == INVALID_VALUE
    assert lt.choose() == SUCCESS
    kept = lt.algorithm
    lt.operate(a=TRANSPOSE)
    transposed(lt, "a", lt.m, lt.k)
    assert lt.multiply() == INVALID_VALUE
    assert lt.choose() == SUCCESS and lt.multiply() == SUCCESS
    assert bytes(kept.algo) != bytes(lt.algorithm.algo)
    assert lt.multiply(algorithm=False) == SUCCESS
    assert lt.multiply(algorithm=False, b=lt.address("b", -16)) == INVALID_VALUE


def test_in_place_means_one_layout(lib):
    lt = Lt(lib, c=32)
    assert lt.choose() == SUCCESS
    assert lt.multiply(beta=1.0, c=lt.address("d")) == INVALID_VALUE


def test_strict(lib, monkeypatch):
    """What the documentation leaves open is taken, and refused on request."""
    open_questions = [dict(m=23), dict(n=1, k=1), dict(m=4), dict(a=25)]
    for sizes in open_questions:
        Lt(lib, **sizes).expect(SUCCESS, SUCCESS)
    monkeypatch.setenv("LLMC_STANDIN_STRICT", "1")
    for sizes in open_questions:
        assert Lt(lib, **sizes).choose() == NOT_SUPPORTED, sizes
    Lt(lib).expect(SUCCESS, SUCCESS)


def test_why(lib, monkeypatch, capfd):
    """A line on stderr says why, if it is wanted."""
    lt = Lt(lib)
    lt.lay("a", ld=8)
    lt.choose()
    assert capfd.readouterr().err == ""
    monkeypatch.setenv("LLMC_STANDIN_TELL", "1")
    lt.choose()
    assert capfd.readouterr().err == "llmc: cuBLASLt refuses: A: leading dimension 8 of 24 rows\n"


# a and b of ones, copied on a stream that the default stream does not wait for
ON_STREAMS = """
import ctypes
lib, size, m, n, k = ctypes.CDLL({library!r}), ctypes.c_size_t, 24, 40, 48
def memory(call, count):
    address = ctypes.c_void_p()
    assert getattr(lib, call)(ctypes.byref(address), size(4 * count)) == 0
    return address
def new_stream():
    stream = ctypes.c_void_p()
    assert lib.cudaStreamCreateWithFlags(ctypes.byref(stream), 1) == 0
    return stream
a, b, d, e, ones, out = (memory(*words) for words in (
    ("cudaMalloc", m * k), ("cudaMalloc", n * k), ("cudaMalloc", m * n), ("cudaMalloc", m * n), ("cudaMallocHost", n * k), ("cudaMallocHost", m * n)))
ctypes.memmove(ones, b"\\x80\\x3f" * (n * k), 2 * n * k)
stream, other = new_stream(), new_stream()
for to, count in ((a, m * k), (b, n * k)):
    lib.cudaMemcpyAsync(to, ones, size(2 * count), 1, stream)
"""
# their product on it, and what d holds then
PRODUCT = """
lib.matmul(d, 1, a, b, m, n, k, False, True, False, stream)
lib.cudaMemcpyAsync(out, d, size(4 * m * n), 2, stream)
lib.cudaStreamSynchronize(stream)
print(set((ctypes.c_float * (m * n)).from_address(out.value)))
"""
# products on two streams, which have one workspace
TWO_STREAMS = """
lib.cudaStreamSynchronize(stream)
for _ in range(50):
    lib.matmul(d, 1, a, b, m, n, k, False, True, False, stream)
    lib.matmul(e, 1, a, b, m, n, k, False, True, False, other)
lib.cudaDeviceSynchronize()
"""


def run_on_streams(text, streams):
    oncpu.need()
    text = ON_STREAMS.format(library=str(oncpu.ON_CPU / "libllmc.so")) + text
    return oncpu.run([sys.executable, "-c", text], LLMC_HOST_STREAMS=streams)


@pytest.mark.parametrize("streams", ["eager", "lazy", "random:5"])
def test_products_wait_for_their_stream(streams):
    assert run_on_streams(PRODUCT, streams).stdout == "{48.0}\n"


@pytest.mark.parametrize("streams", ["eager", "lazy", "random:5", "random:6"])
def test_products_of_two_streams_take_turns(streams):
    """The stand-in says when a product's workspace was written before it had ended."""
    assert run_on_streams(TWO_STREAMS, streams).stderr == ""
