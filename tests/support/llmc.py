"""ctypes binding of libllmc: every function that a header under llmc/ declares can be called, with device buffers.

    lib = llmc.load("bf16")
    out = lib.empty((N, C))                       # floatX, poisoned
    lib.rmsnorm_forward(out, rstd, x, w, N, C, 1e-5)  # the stream is added, the device is waited for
    out.get()                                     # torch tensor on the host

There is no list of functions to keep: prototypes are read from the headers. Arguments: for a pointer a Buffer, a
contiguous torch tensor or numpy array (HOST memory), a ctypes object, or None; for a number a number.

Environment: LLMC_TARGET=cpu|cuda picks build/TARGET and build/TARGET-fp32; LLMC_BUILD=FOLDER[:FOLDER] names the build
folders instead (one whose name has "fp32" in it is the fp32 build).
"""

import ctypes
import os
import pathlib
import re

import cstructs
import numpy
import torch

ROOT = pathlib.Path(__file__).resolve().parents[2]
GUARD = 256  # bytes before and behind each buffer, checked when it is read
POISON = 0xFF  # NaN as bf16 and as float, -1 as int

VALUE_TYPES = {
    "int": ctypes.c_int,
    "int32_t": ctypes.c_int32,
    "int64_t": ctypes.c_int64,
    "uint32_t": ctypes.c_uint32,
    "uint64_t": ctypes.c_uint64,
    "unsigned": ctypes.c_uint,
    "size_t": ctypes.c_size_t,
    "float": ctypes.c_float,
    "double": ctypes.c_double,
    "bool": ctypes.c_bool,
    "CudnnBackward": ctypes.c_int,
    "EvalDecode": ctypes.c_void_p,
    "EvalStop": ctypes.c_void_p,
    "MatmulOut": ctypes.c_int,
    "TrainingArray": ctypes.c_int,
    "WriterJob": ctypes.c_int,
    "TransportChoice": ctypes.c_int,
    "TraceLane": ctypes.c_int,
    "TokenOccurs": ctypes.c_void_p,
    "StoreReport": ctypes.c_void_p,
    "cudaStream_t": ctypes.c_void_p,
}
PROTOTYPE = re.compile(r"^(?:extern )?([a-zA-Z_][\w ]*?[ *]+)(\w+)\(([^()]*)\)\s*;", re.M)
COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.S)


def has_avx512():
    return "avx512f" in pathlib.Path("/proc/cpuinfo").read_text()


def build_folders():
    """{precision: folder} of the builds under test."""
    named = os.environ.get("LLMC_BUILD")
    if named:
        folders = [pathlib.Path(p) for p in named.split(":")]
        return {"fp32" if "fp32" in p.name else "bf16": ROOT / p for p in folders}
    target = os.environ.get("LLMC_TARGET", "cpu")
    return {"bf16": ROOT / "build" / target, "fp32": ROOT / "build" / f"{target}-fp32"}


def c_type(declaration):
    """ctypes type of `const floatX *x`, `int N`, `float`..."""
    if "*" in declaration or "[" in declaration:
        return ctypes.c_void_p
    words = [w for w in declaration.split() if w not in ("const", "unsigned", "struct", "enum", "static", "inline")]
    return VALUE_TYPES[words[0] if words else "unsigned"]


def read_prototypes():
    """{function: (return declaration, [parameter declarations])} of all headers."""
    found = {}
    for header in [*sorted((ROOT / "llmc").glob("*/*.h")), ROOT / "dev/reference/oracle.h"]:
        if header.parent.name == "cpu":
            continue
        for result, name, parameters in PROTOTYPE.findall(COMMENT.sub("", header.read_text())):
            declared = [p.strip() for p in parameters.split(",")]
            found[name] = (result.strip(), [] if declared in (["void"], [""]) else declared)
    return found


class AdamWStep(ctypes.Structure):
    """llmc/kernels/adamw_step.h"""

    _fields_ = [
        (name, ctypes.c_double if name.startswith("beta") else ctypes.c_float)
        for name in "learning_rate beta1 beta2 eps weight_decay bias_correction1 bias_correction2 max_grad_norm".split()
    ] + [("rounding_step", ctypes.c_uint32), ("rounding_seed", ctypes.c_uint64)]


class RopeScaling(ctypes.Structure):
    """llmc/kernels/rope.h"""

    _fields_ = [
        ("factor", ctypes.c_double),
        ("low_freq_factor", ctypes.c_double),
        ("high_freq_factor", ctypes.c_double),
        ("original_max_position", ctypes.c_int),
    ]


class AttentionShape(ctypes.Structure):
    """llmc/kernels/attention_shape.h"""

    _fields_ = [(name, ctypes.c_int) for name in "B T NH NKV HD".split()]


class AttentionMask(ctypes.Structure):
    """llmc/kernels/attention_shape.h, of buffers, which it keeps. excluded: None for none."""

    _fields_ = [("doc_start", ctypes.c_void_p), ("excluded", ctypes.c_void_p)]

    def __init__(self, doc_start, excluded=None):
        self.buffers = doc_start, excluded
        super().__init__(doc_start.address, excluded and excluded.address)


class KvCache(ctypes.Structure):
    """llmc/kernels/kv_cache_layout.h, of buffers, which it keeps."""

    _fields_ = [("keys", ctypes.c_void_p), ("values", ctypes.c_void_p), ("table", ctypes.c_void_p), ("shape", AttentionShape)]

    def __init__(self, keys, values, table, shape):
        self.buffers = keys, values, table
        super().__init__(keys.address, values.address, table.address, shape)


class NewTokens(ctypes.Structure):
    """llmc/kernels/kv_cache_layout.h, of buffers, which it keeps."""

    _fields_ = [("rows", ctypes.c_void_p), ("positions", ctypes.c_void_p), ("n", ctypes.c_int)]

    def __init__(self, rows, positions):
        self.buffers = rows, positions
        super().__init__(rows.address, positions.address, rows.count)


PreferenceLoss = cstructs.read("kernels/preference.h")["PreferenceLoss"]


class Buffer:
    """Device memory with a shape and a torch dtype, poisoned, between guards."""

    def __init__(self, lib, shape, dtype):
        self.lib, self.shape, self.dtype = lib, tuple(shape), dtype
        self.count = int(numpy.prod(self.shape, dtype=numpy.int64))
        self.nbytes = self.count * torch.empty((), dtype=dtype).element_size()
        # in a checked build the allocation ends where the data end, so that AddressSanitizer sees what lies behind
        self.guard = 0 if lib.checked else GUARD
        padded = self.nbytes + (0 if lib.checked else -self.nbytes % GUARD)
        self.total = padded + 2 * self.guard
        base = ctypes.c_void_p()
        lib.check(lib.c.cudaMalloc(ctypes.byref(base), ctypes.c_size_t(self.total)), "cudaMalloc")
        self.base = base.value
        self.address = self.base + self.guard
        self.poison()

    def poison(self):
        self.lib.check(self.lib.c.cudaMemset(ctypes.c_void_p(self.base), POISON, ctypes.c_size_t(self.total)), "cudaMemset")

    def set(self, values):
        """Copies a tensor of the same dtype and number of elements in."""
        values = torch.as_tensor(values).to(self.dtype).contiguous().reshape(-1)
        assert values.numel() == self.count, (values.shape, self.shape)
        self.lib.copy(self.address, values.data_ptr(), self.nbytes)
        return self

    def get(self):
        """A tensor with the contents; fails if something was written around the buffer."""
        host = torch.empty(self.total, dtype=torch.uint8)
        self.lib.copy(host.data_ptr(), self.base, self.total)
        around = torch.cat([host[: self.guard], host[self.guard + self.nbytes :]])
        assert bool((around == POISON).all()), f"written outside a buffer of shape {self.shape}"
        inside = host[self.guard : self.guard + self.nbytes].clone()
        return inside.view(self.dtype).reshape(self.shape)

    def __del__(self):
        if getattr(self, "base", None):
            self.lib.c.cudaFree(ctypes.c_void_p(self.base))


def as_argument(kind, value):
    if kind is not ctypes.c_void_p or value is None:
        return value
    if isinstance(value, Buffer):
        return value.address
    if isinstance(value, torch.Tensor):
        assert value.is_contiguous()
        return value.data_ptr()
    if isinstance(value, numpy.ndarray):
        assert value.flags.c_contiguous
        return value.ctypes.data
    return ctypes.cast(value, ctypes.c_void_p) if not isinstance(value, int) else value


class Library:
    def __init__(self, precision, folder, name="libllmc.so"):
        path = folder / name
        assert path.exists(), f"{path} is missing: run make (PRECISION={precision})"
        self.precision = precision
        self.checked = "checked" in folder.name
        self.race = "race" in folder.name
        self.floatX = torch.float32 if precision == "fp32" else torch.bfloat16
        self.c = ctypes.CDLL(str(path))
        self.c.cudaGetErrorString.restype = ctypes.c_char_p
        self.on_cpu = hasattr(self.c, "host_set_seed")

    def __getattr__(self, name):
        """The function `name`, made on first use."""
        if name not in PROTOTYPES:
            raise AttributeError(f"no header under llmc/ declares {name}")
        result, parameters = PROTOTYPES[name]
        function = getattr(self.c, name)
        kinds = [c_type(p) for p in parameters]
        function.argtypes = kinds
        function.restype = None if result == "void" else ctypes.c_char_p if result == "const char *" else c_type(result)
        has_stream = bool(parameters) and parameters[-1].startswith("cudaStream_t")

        def call(*arguments):
            if has_stream and len(arguments) == len(kinds) - 1:
                arguments = (*arguments, None)
            assert len(arguments) == len(kinds), f"{name}: {len(arguments)} arguments, expected {', '.join(parameters)}"
            value = function(*(as_argument(k, a) for k, a in zip(kinds, arguments)))
            if has_stream:
                self.check(self.c.cudaDeviceSynchronize(), name)
            return value

        setattr(self, name, call)
        return call

    def check(self, error, what):
        assert error == 0, f"{what}: {self.c.cudaGetErrorString(error).decode()}"

    def copy(self, to, source, nbytes):
        default_kind = 4  # the addresses tell the direction
        self.check(
            self.c.cudaMemcpy(ctypes.c_void_p(to), ctypes.c_void_p(source), ctypes.c_size_t(nbytes), default_kind),
            "cudaMemcpy",
        )

    def empty(self, shape, dtype=None):
        """Poisoned device memory; floatX unless dtype says otherwise."""
        return Buffer(self, (shape,) if isinstance(shape, int) else shape, dtype or self.floatX)

    def zeros(self, shape, dtype=torch.float32):
        buffer = self.empty(shape, dtype)
        return buffer.set(torch.zeros(buffer.shape, dtype=dtype))

    def device(self, values, dtype=None):
        """A device copy of a tensor, list or array, as dtype (default: as it is; int64 becomes int32)."""
        values = torch.as_tensor(values)
        if values.dtype == torch.int64 and dtype is None:
            dtype = torch.int32
        return self.empty(values.shape, dtype or values.dtype).set(values)

    def x(self, values):
        """A device copy as floatX."""
        return self.device(values, self.floatX)

    def struct(self, value):
        """A device copy of a ctypes structure."""
        return self.device(numpy.frombuffer(bytes(value), dtype=numpy.uint8).copy())

    def set_seed(self, seed):
        """Order in which the CPU target runs threads and blocks; 0: the natural one. A GPU has its own."""
        if self.on_cpu:
            self.c.host_set_seed(ctypes.c_uint64(seed))

    def set_fast_math(self, seed):
        """Functions with errors as large as a GPU's may be (llmc/cpu/fast_math.h); 0: without. False where that can't be had."""
        return self.on_cpu and bool(self.c.host_set_fast_math(ctypes.c_uint64(seed)) & 1)

    def same_bits(self, run, seeds=(0, 1, 12345)):
        """run() → tensor or tuple of tensors, once for each thread order; all must have the same bits. The first's."""
        first = None
        if self.race:
            seeds = seeds[:1]  # ThreadSanitizer sees a race in any order
        try:
            for seed in seeds:
                self.set_seed(seed)
                result = run()
                tensors = result if isinstance(result, tuple) else (result,)
                as_bytes = [t.contiguous().view(torch.uint8) if t.ndim else t.reshape(1).view(torch.uint8) for t in tensors]
                if first is None:
                    first, first_bytes = result, as_bytes
                for i, (a, b) in enumerate(zip(first_bytes, as_bytes)):
                    assert torch.equal(a, b), f"output {i} depends on the order of threads (seed {seed})"
        finally:
            self.set_seed(0)
        return first


    def each_form(self):
        """for form in lib.each_form(): on the CPU first the form of kernels in which one thread does what a group of threads does on a
        GPU (llmc/device/wide_warps.h), then the GPU's."""
        try:
            for seed in (0, 12345) if self.on_cpu and not self.race else (0,):
                self.set_seed(seed)
                yield seed
        finally:
            self.set_seed(0)

    def forms(self, run):
        """The results of run() in each form, which add in different orders, so that a test checks both. Of each the bits must be the
        same again, those of the GPU's in another order of threads."""
        orders = [(0, 0), (1, 12345)] if self.on_cpu and not self.race else [(0, 1)]
        return [self.same_bits(run, seeds) for seeds in orders]


RowShape = cstructs.read("model/run_shape.h")["RowShape"]
VALUE_TYPES |= {kind.__name__: kind for kind in (AttentionShape, AttentionMask, KvCache, NewTokens, RowShape)}
PROTOTYPES = read_prototypes()
_loaded = {}


def load(precision="bf16"):
    if precision not in _loaded:
        _loaded[precision] = Library(precision, build_folders()[precision])
    return _loaded[precision]


def device_works():
    return all(library.c.cudaDeviceSynchronize() == 0 for library in _loaded.values())


def load_oracle(precision):
    """The oracle (dev/reference/oracle.h), which works in double precision whatever the build's is."""
    return Library(precision, build_folders()[precision], "liboracle.so")


def load_loop(precision):
    """The library together with train_llama3.cu's read_batches, train_step and finish_run."""
    return Library(precision, build_folders()[precision], "libtrain_llama3.so")
