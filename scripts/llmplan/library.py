"""The memory of a training run, as the library plans it (llmc/model/llama3_create.h: llama3_plan_text)."""

import ctypes
import json
import os
from pathlib import Path

from llmdata.errors import Fault, InputError

ROOT = Path(__file__).resolve().parents[2]
CUBLASLT_WORKSPACE = 64 << 20  # llmc/device/matmul_cublaslt.cu: WORKSPACE_BYTES


class _Error(ctypes.Structure):
    _fields_ = [("code", ctypes.c_int), ("message", ctypes.c_char * 1024)]


def library_path(precision: str) -> Path:
    suffix = "-fp32" if precision == "fp32" else ""
    paths = [ROOT / "build" / f"{target}{suffix}" / "libllmc.so" for target in ("cpu", "cuda")]
    for path in paths:
        if path.exists():
            return path
    raise InputError(f"{paths[0]} is missing: run make TARGET=cpu PRECISION={precision}")


HOST = "host memory"


class Planner:
    """memory(...) returns the bytes of one rank on its GPU by category, as the cuda target takes them. host_bytes(...): those of
    page-locked host memory."""

    def __init__(self, config: Path, precision: str, modes: dict[str, str]):
        path = library_path(precision)
        try:
            self.library, self.config, self.modes = ctypes.CDLL(str(path)), config, modes
            self.plan_text = self.library.llama3_plan_text
        except (OSError, AttributeError) as error:  # a library of another machine, or older than this script
            raise InputError(f"{path} cannot be used, run make: {error}") from None

    def memory(self, *shape) -> dict[str, int]:
        # the GPU's matrix library keeps one workspace; how much the CPU's keeps, no plan can know
        found = {**self.plan(*shape), "matrix library": CUBLASLT_WORKSPACE}
        del found[HOST]
        return found

    def host_bytes(self, *shape) -> int:
        return self.plan(*shape)[HOST]

    def plan(self, rows: int, length: int, recompute: str, zero: int, shards: int, replicas: int) -> dict[str, int]:
        shape = dict(B=rows, T=length, micro_batches=1, training=True, recompute=recompute,
                     zero=zero, shards=shards, replicas=replicas, **self.modes)  # fmt: skip
        text, error = ctypes.create_string_buffer(4096), _Error()
        path, capacity = os.fsencode(self.config), ctypes.c_size_t(len(text))
        code = self.plan_text(text, capacity, path, json.dumps(shape).encode(), ctypes.byref(error))
        if code:
            raise (InputError if code == 2 else Fault)(error.message.decode(errors="replace"))
        return json.loads(text.value)
