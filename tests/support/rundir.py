"""A run's folder (llmc/run/run_dir.h), opened through ctypes."""

import os
from ctypes import Structure, byref, c_bool, c_char, c_char_p, c_int

from hostlib import Error, library


class Lock(Structure):
    """llmc/run/lock.h"""

    _fields_ = [("fd", c_int), ("path", c_char * 4096)]


class RunDir(Structure):
    """llmc/run/run_dir.h"""

    _fields_ = [("folder", c_char_p), ("made", c_bool), ("lock", Lock)]


class Opened:
    """with Opened(folder) as (code, message)"""

    def __init__(self, folder):
        self.folder = os.fsencode(folder)

    def __enter__(self):
        self.dir, err = RunDir(), Error()
        return library.run_dir_open(byref(self.dir), self.folder, byref(err)), err.message.decode()

    def __exit__(self, *_):
        library.run_dir_close(byref(self.dir))
