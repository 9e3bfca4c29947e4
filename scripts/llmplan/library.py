"""Functions of libllmc that write text, and the memory of a training run as it plans it (llmc/model/llama3_create.h:
llama3_plan_text)."""

import ctypes
import json
import os
from pathlib import Path

from llmdata.errors import Fault, InputError

ROOT = Path(__file__).resolve().parents[2]
CUBLASLT_WORKSPACE = 64 << 20  # llmc/device/matmul_cublaslt.cu: WORKSPACE_BYTES


class _Error(ctypes.Structure):
    _fields_ = [("code", ctypes.c_int), ("message", ctypes.c_char * 1024)]


def library_path(precision: str | None) -> Path:
    """None: of any precision."""
    paths = {ROOT / "build" / f"{target}{'-fp32' if kind == 'fp32' else ''}" / "libllmc.so": kind
             for kind in ([precision] if precision else ["bf16", "fp32"]) for target in ("cpu", "cuda")}  # fmt: skip
    for path in paths:
        if path.exists():
            return path
    path, kind = next(iter(paths.items()))
    raise InputError(f"{path} is missing: run make TARGET=cpu PRECISION={kind}")


def find_function(name: str, precision: str | None = None):
    path = library_path(precision)
    try:
        return getattr(ctypes.CDLL(str(path)), name)
    except (OSError, AttributeError) as error:  # a library of another machine, or older than this script
        raise InputError(f"{path} cannot be used, run make: {error}") from None


def call_text(function, capacity: int, *arguments) -> str:
    """The text that such a function writes: its first parameters are a buffer and its size, its last one is an Error."""
    text, error = ctypes.create_string_buffer(capacity), _Error()
    code = function(text, ctypes.c_size_t(capacity), *arguments, ctypes.byref(error))
    if code:
        raise (InputError if code == 2 else Fault)(error.message.decode(errors="replace"))
    return text.value.decode()


HOST = "host memory"


class Planner:
    """memory(...) returns the bytes of one rank on its GPU by category, as the cuda target takes them. host_bytes(...): those of
    page-locked host memory."""

    def __init__(self, config: Path, precision: str, modes: dict[str, str]):
        self.config, self.modes = config, modes
        self.plan_text = find_function("llama3_plan_text", precision)

    def memory(self, *shape, **more) -> dict[str, int]:
        # the GPU's matrix library keeps one workspace; how much the CPU's keeps, no plan can know
        found = {**self.plan(*shape, **more), "matrix library": CUBLASLT_WORKSPACE}
        del found[HOST]
        return found

    def host_bytes(self, *shape, **more) -> int:
        return self.plan(*shape, **more)[HOST]

    def plan(self, batch: int, length: int, recompute: str, zero: int, shards: int, replicas: int, **more) -> dict[str, int]:
        """more: other members of the shape, also in place of the modes."""
        shape = dict(B=batch, T=length, micro_batches=1, training=True, recompute=recompute, zero=zero, shards=shards,
                     replicas=replicas) | self.modes | more  # fmt: skip
        return json.loads(call_text(self.plan_text, 4096, os.fsencode(self.config), json.dumps(shape).encode()))
