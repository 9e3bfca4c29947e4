"""One rank of a training run whose weights are spoilt on the way: started by test_ranks_faults.py under mpirun.

trainer_rank.py SPOIL RANK STEP ARGUMENTS...   SPOIL: nan (before the step; as before behind it) or flip (a bit, behind the step)
"""

import ctypes
import os
import sys
from ctypes import byref, c_char_p, c_int, c_int64, c_size_t, c_void_p

from hostlib import BUILD, Error

TENSOR, ELEMENTS = 1, 64  # behind the embedding in the table; a row of it
library = ctypes.CDLL(os.path.join(BUILD, "libtrain_llama3.so"))
library.train_model.restype = c_void_p
for function in (library.train_model, library.train_close):
    function.argtypes = [c_void_p]
for function in (library.train_load, library.train_begin, library.observe_step, library.read_batches, library.train_step, library.finish_run):
    function.argtypes = [c_void_p, c_void_p]
library.run_done.argtypes = [c_void_p, c_int64]  # a Trainer begins with its Run
library.run_done.restype = ctypes.c_bool
library.llama3_get_parameter_piece.argtypes = [c_void_p, c_int, c_size_t, c_size_t, c_void_p]
library.llama3_set_parameter_piece.argtypes = [c_void_p, c_int, c_size_t, c_size_t, c_char_p]


class Team(ctypes.Structure):
    """llmc/ranks/team.h"""

    _fields_ = [("world", c_void_p), ("comm", c_void_p), ("rank", c_int), ("size", c_int), ("scratch", c_void_p)]


class Stopped(Exception):
    pass


error, team, trainer = Error(), Team(), c_void_p()


def check(code):
    if code:
        raise Stopped(code)


def spoil_weights(change):
    """change(bytes) alters the first weights of the first layer's matrices on this rank; returns what they were. They are
    rank 0's to update, and nothing but the copy that is computed with changes."""
    model = library.train_model(trainer)
    values = ctypes.create_string_buffer(4 * ELEMENTS)  # room for either precision
    library.llama3_get_parameter_piece(model, TENSOR, 0, ELEMENTS, values)
    before = values.raw
    after = bytearray(before)
    change(after)
    library.llama3_set_parameter_piece(model, TENSOR, 0, ELEMENTS, bytes(after))
    return before


def make_nan(data):
    data[:] = b"\xff" * len(data)


def flip(data):
    data[10] ^= 1


def make(value):
    return lambda data: data.__setitem__(slice(None), value)


def train(spoil, rank, step):
    for number in range(1, 10_000):
        if library.run_done(trainer, number - 1):
            return
        here = rank == team.rank and number == step
        good = spoil_weights(make_nan) if here and spoil == "nan" else None
        check(library.read_batches(trainer, byref(error)))
        check(library.train_step(trainer, byref(error)))
        if good:
            spoil_weights(make(good))
        if here and spoil == "flip":
            spoil_weights(flip)
        check(library.observe_step(trainer, byref(error)))


def main(spoil, rank, step, *arguments):
    argv = (c_char_p * (len(arguments) + 1))(b"train_llama3", *map(str.encode, arguments))
    options, code = ctypes.create_string_buffer(4096), 0
    try:
        check(library.options_parse(options, len(argv), argv, byref(error)))
        check(library.team_open(byref(team), 0, byref(error)))
        check(library.agree_on_options(byref(team), options, byref(error)))
        check(library.train_setup(byref(trainer), options, byref(team), byref(error)))
        check(library.train_load(trainer, byref(error)))
        check(library.train_begin(trainer, byref(error)))
        train(spoil, int(rank), int(step))
        check(library.finish_run(trainer, byref(error)))
    except Stopped as stopped:
        code = stopped.args[0]
        if team.rank == 0:
            print("train_llama3:", error.message.decode(), file=sys.stderr)
    library.train_close(trainer)
    library.team_close(byref(team))
    return code


if __name__ == "__main__":
    code = main(*sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)
