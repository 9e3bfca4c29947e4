"""A loader (llmc/loader/loader.h), opened through ctypes."""

from contextlib import contextmanager
from ctypes import byref, c_void_p

import numpy as np

from hostlib import call, library, path_bytes


@contextmanager
def opened(folder, spec, vocab, sha=None, pattern="train_*.bin"):
    loader = c_void_p()
    call("loader_open", byref(loader), path_bytes(folder / pattern), byref(spec), vocab, sha)
    try:
        yield loader
    finally:
        library.loader_close(loader)


def reference(windows, document_mask, bos):
    """tokens, targets, doc_start, order of a batch of windows of T + 1 tokens, by definition."""
    tokens, targets = windows[:, :-1], windows[:, 1:].copy()
    doc_start = np.zeros_like(tokens)
    if document_mask:
        targets[targets == bos] = -1
        begins = np.where(tokens == bos, np.arange(tokens.shape[1]), 0)
        doc_start = np.maximum.accumulate(begins, axis=1)
    return dict(
        tokens=tokens,
        targets=targets,
        doc_start=doc_start,
        order=np.argsort(tokens.ravel(), kind="stable").reshape(tokens.shape),
    )
