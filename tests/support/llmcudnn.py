"""Attention by cuDNN (llmc/kernels/attention_cudnn.h) in the build under test, or in build/cuda-on-cpu with its stand-in."""

import ctypes
import functools

import llmc
import pytest
from model import Error

ON_CPU = llmc.ROOT / "build/cuda-on-cpu"
NO_BACKWARD, SAME_BITS, ANY_ORDER = range(3)


@functools.cache
def cudnn_build():
    """(library, folder) of the build. Skips the test where there is none."""
    for folder in (llmc.build_folders()["bf16"], ON_CPU):
        if not (folder / "libllmc.so").exists():
            continue
        lib = llmc.Library("bf16", folder)
        if lib.cudnn_attention_check(ctypes.byref(Error())) == 0:
            return lib, folder
    pytest.skip(f"no build with cuDNN: make TARGET=cuda-on-cpu makes one in {ON_CPU} where scripts/find_nvidia.sh finds cuDNN and cudnn_frontend.h")


def plan(lib, shape, backward, refused=False):
    """The plan; or the message, if it is to be refused."""
    attention, error = ctypes.c_void_p(), Error()
    code = lib.cudnn_attention_create(ctypes.byref(attention), shape, backward, None, ctypes.byref(error))
    assert code == (2 if refused else 0), error.message.decode()
    return error.message.decode() if refused else attention
