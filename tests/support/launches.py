"""The largest block and the most shared memory with which each kernel is launched: the CPU target records them while every
launcher is called with the shapes that ask for the most. Tensors are zeros and small; no result is looked at.

    largest = launches.record(llmc.load("bf16"))       # {kernel: (threads, bytes of dynamic shared memory)}
"""

import ctypes

import torch

import llmc

BYTES = 1 << 21  # of any tensor
HEADS = (1, 2, 3, 4, 8)  # query heads of a key/value head, by which decoding picks its kernel
FIXED = """
    embedding_forward embedding_backward swiglu_forward swiglu_backward lora_add lora_take adamw_update average_update
    bf16_round_rows bf16_sum_rows bf16_sum_rows_rounded checksum sum_squares norm_of_squares add_gradients sum_in_order sum_losses update_gate answer_logprobs preference_loss answer_weights
    reward_scores reward_backward weights_init_normal weights_init_uniform weights_init_constant weights_widen weights_narrow
""".split()  # their blocks do not depend on the shape


class Caller:
    def __init__(self, lib):
        self.lib = lib
        self.buffers = []

    def zeros(self):
        self.buffers.append(self.lib.zeros(BYTES, torch.uint8))
        return self.buffers[-1]

    def __call__(self, function, **values):
        """Parameters that have no value here: zeros behind a pointer, 1 for a number."""
        arguments = []
        for declared in llmc.PROTOTYPES[function][1][:-1]:  # the last is the stream
            name = declared.split()[-1].lstrip("*")
            arguments.append(values.get(name, self.zeros() if "*" in declared else 1))
        getattr(self.lib, function)(*arguments)
        self.buffers.clear()

    def mask(self, excludes=False):
        return llmc.AttentionMask(self.zeros(), self.zeros() if excludes else None)


def call_all(lib):
    call = Caller(lib)
    for function in FIXED:
        call(function, N=2, C=64, F=64, n=8, stride=8, cols=16, width=16, first=0)
    for rounded in (dict(), dict(master=None), dict(master=None, bf16_moments=False)):
        call("adamw_rounded_update", first=0, **rounded)
    # rows of a warp, and of the largest block of each kind
    for C in (256, 512, 1024, 4096, 8192, 16384, 32768):
        for function in ("rmsnorm_forward", "add_rmsnorm_forward", "rmsnorm_backward"):
            call(function, C=C)
    call("rmsnorm_backward", N=1200, C=16)  # more groups of rows than are added in one go
    for V in (4096, 128256):
        for function in ("cross_entropy_forward", "cross_entropy_backward"):
            call(function, V=V, VP=V)
    for out in (0, 1):  # in floatX and in fp32
        call("matmul_plain", out=out)
    for HD in (32, 64, 128, 256):
        for excludes in (False, True):
            for function in ("attention_forward", "attention_backward"):
                call(function, mask=call.mask(excludes), shape=llmc.AttentionShape(1, 16, 1, 1, HD))
    for function in ("rope_forward", "rope_backward"):
        call(function, mask=call.mask(), shape=llmc.AttentionShape(1, 16, 1, 1, 64))
    for heads in HEADS:
        cache = llmc.KvCache(call.zeros(), call.zeros(), lib.zeros(1, torch.int32), llmc.AttentionShape(1, 64, heads, 1, 256))
        row = llmc.NewTokens(lib.zeros(1, torch.int32), lib.zeros(1, torch.int32))
        call("kv_cache_store", cache=cache, row=0)
        call("kv_cache_append", cache=cache, tokens=row)
        call("attention_decode", cache=cache, tokens=row)


def record(lib):
    """Under a seed: then blocks have a GPU's size."""
    lib.c.host_launches_end.restype = ctypes.c_char_p
    lib.c.host_launches_begin()
    lib.set_seed(1)
    try:
        call_all(lib)
    finally:
        lib.set_seed(0)
    lines = [line.split("\t") for line in lib.c.host_launches_end().decode().splitlines()]
    return {kernel: (int(threads), int(shared)) for threads, shared, kernel in lines}
