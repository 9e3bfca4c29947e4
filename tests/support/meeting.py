"""The meeting of ranks over TCP (llmc/comm/rendezvous.h) through ctypes; python meeting.py [PORT RANK SIZE] is one rank,
without arguments that of the environment (llmc/comm/start.h)."""

import ctypes
import os
import sys
from ctypes import c_char, c_char_p, c_double, c_int

import hostlib


class Meeting(ctypes.Structure):
    _fields_ = [("address", c_char_p), ("port", c_int), ("rank", c_int), ("size", c_int), ("seconds", c_double)]


class Start(ctypes.Structure):
    _fields_ = [(name, c_int) for name in ("way", "rank", "size", "local_rank", "local_size")]
    _fields_ += [("address", c_char * 256), ("port", c_int)]


def gather(port, rank, size, mine, seconds=20, address=b"127.0.0.1"):
    """(code, message, list of all ranks' bytes)"""
    meeting, error = Meeting(address, port, rank, size, seconds), hostlib.Error()
    everything = ctypes.create_string_buffer(len(mine) * size)
    call = hostlib.library.rendezvous_gather
    call.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_void_p]
    code = call(ctypes.byref(meeting), everything, mine, len(mine), ctypes.byref(error))
    return code, error.message.decode(), [everything.raw[i * len(mine) :][: len(mine)] for i in range(size)]


def read_start(with_mpi=True):
    """(code, message, Start)"""
    start, error = Start(), hostlib.Error()
    code = hostlib.library.start_read(ctypes.byref(start), with_mpi, ctypes.byref(error))
    assert code == error.code
    return code, error.message.decode(), start


if __name__ == "__main__":
    if len(sys.argv) > 1:
        port, rank, size = map(int, sys.argv[1:])
        print(gather(port, rank, size, b"card %d" % rank))
    else:
        _, _, start = read_start()
        code, message, cards = gather(start.port, start.rank, start.size, b"card %d" % start.rank, address=start.address)
        line = f"{start.rank}: {code} {message} {cards} {start.local_rank} of {start.local_size}\n"
        os.write(1, line.encode())  # at once: ranks write to the same pipe
