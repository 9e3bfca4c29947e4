"""A loader (llmc/loader/loader.h), opened through ctypes."""

from contextlib import contextmanager
from ctypes import byref, c_void_p

from hostlib import call, library, path_bytes


@contextmanager
def opened(folder, spec, vocab, sha=None, pattern="train_*.bin"):
    loader = c_void_p()
    call("loader_open", byref(loader), path_bytes(folder / pattern), byref(spec), vocab, sha)
    try:
        yield loader
    finally:
        library.loader_close(loader)
