"""The status that each rank writes for the watchdogs of the others (llmc/ranks/rank_status.h)."""

import ctypes
import os
import socket

import hostlib

HOST = socket.gethostname()


class RankStatus(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("run", "count")]
    _fields_ += [(name, ctypes.c_int64) for name in ("step", "pid")]
    _fields_ += [(name, ctypes.c_uint64) for name in ("started", "begun", "ended")]
    _fields_ += [("label", ctypes.c_char * 64), ("host", ctypes.c_char * 64), ("place", ctypes.c_char * 33), ("phase", ctypes.c_char * 31)]
    _fields_ += [("rank", ctypes.c_int32), ("state", ctypes.c_int32), ("check", ctypes.c_char * 33)]


def read_status(path):
    return RankStatus.from_buffer_copy(path.read_bytes())


def write_status(path, status):
    """With a check that holds, as the library writes it."""
    error = hostlib.Error()
    code = hostlib.library.rank_status_write(ctypes.byref(status), os.fsencode(path.parent), ctypes.byref(error))
    assert code == 0, error.message
