"""Runs with a single bad step: data whose last part holds one window unlike the others, and a run that is taken step by step, so
that its model can be spoilt in between."""

import ctypes

import numpy as np

import llmc
from model import Error, Model
from trainrun import T

WINDOWS, ROWS = 240, 2
STEPS = WINDOWS // ROWS  # one epoch
WINDOW = 20  # the one that differs; the run's seed brings it late, when the running mean is known


def data_with(window):
    """Windows of one repeated token, but for one window."""
    tokens = np.full(WINDOWS * T + 1, 7)
    at = WINDOW * T
    tokens[at + 1 : at + T] = np.broadcast_to(window, T)[1:]  # its first token is the target of the window before
    return tokens


def run(work, precision="bf16", **changes):
    options = dict(steps=STEPS, batch_size=ROWS, checksum_every=1, lr="1e-3") | changes
    out, err = work.run(precision=precision, **options)
    return out, work.log()


class Stepper:
    """A run that is taken step by step, so that its model can be spoilt in between."""

    def __init__(self, lib, work, **changes):
        lib = self.lib = llmc.load_loop(lib.precision)
        self.error = Error()
        arguments = [b"train_llama3", *(a.encode() for a in work.arguments(**changes))]
        argv = (ctypes.c_char_p * (len(arguments) + 1))(*arguments)
        self.keep, options = argv, ctypes.create_string_buffer(4096)
        self.check(lib.options_parse(options, len(arguments), argv, ctypes.byref(self.error)))
        self.trainer = ctypes.c_void_p()
        self.check(lib.train_setup(ctypes.byref(self.trainer), options, None, ctypes.byref(self.error)))
        self.check(lib.train_load(self.trainer, ctypes.byref(self.error)))
        self.check(lib.train_begin(self.trainer, ctypes.byref(self.error)))
        self.model = Model.__new__(Model)
        self.model.lib, self.model.handle = lib, lib.train_model(self.trainer)
        self.model.read_table()

    def check(self, code):
        assert code == 0, self.error.message.decode()

    def step(self):
        self.check(self.lib.stages_follow(self.trainer, ctypes.byref(self.error)))
        self.check(self.lib.c.read_batches(self.trainer, ctypes.byref(self.error)))
        self.check(self.lib.c.train_step(self.trainer, ctypes.byref(self.error)))
        self.check(self.lib.observe_step(self.trainer, ctypes.byref(self.error)))

    def close(self):
        self.model.handle = None  # the trainer's
        self.lib.train_close(self.trainer)


def spiky_options(work, rng):
    """Options of a run that starts from a model which knows the repeated token: all losses near 0 but for one."""
    work.write("train_000.bin", data_with(7))
    known = work.folder / "known"
    work.run(steps=STEPS, batch_size=ROWS, output=known)
    work.write("train_000.bin", data_with(rng.integers(0, 200, T)))
    return dict(config=None, init_from=known / "checkpoint", lr="1e-5")
