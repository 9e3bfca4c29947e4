"""Launchers refuse pointers that their kernels' vector accesses would not survive on a GPU."""

import faulthandler
import os
import resource
import signal

import pytest
import torch

import llmc

NUMBERS = dict(
    N=4, C=64, F=64, V=100, VP=128, n=8, T=64, row=0, width=96, first=32, cols=64, length=64, capacity=4, eps=1e-5, scale=1.0,
    decay=False, accumulate=False, bf16_moments=True, sequence=1, samples=2, rows=1, stride=8)  # fmt: skip
# the pointers that must be aligned, by name; of a cache, its two
LAUNCHERS = {
    "adamw_update": "params master m v grads",
    "adamw_rounded_update": "params master m v grads",
    "add_gradients": "to from",
    "add_rmsnorm_forward": "residual_out out residual branch_out weight",
    "attention_backward": "dqkv scratch dout out qkv",
    "attention_decode": "out scratch qkv keys values",
    "attention_forward": "out qkv",
    "average_update": "mean x",
    "bf16_round_rows": "to from",
    "bf16_sum_rows": "out in",
    "bf16_sum_rows_rounded": "out in",
    "checksum": "words",
    "cross_entropy_backward": "logits",
    "cross_entropy_forward": "logits",
    "embedding_backward": "dweight dout",
    "embedding_forward": "out weight",
    "kv_cache_append": "qkv table keys values",
    "kv_cache_store": "qkv keys values",
    "lora_add": "y x",
    "lora_take": "x y",
    "reward_backward": "dx x w",
    "reward_scores": "x w",
    "rmsnorm_backward": "dx dweight scratch dout dresidual x weight",
    "rmsnorm_forward": "out x weight",
    "rope_backward": "dqkv table",
    "rope_forward": "qkv table",
    "sum_losses": "losses",
    "sum_squares": "scratch grads",
    "swiglu_backward": "dgate_up dout gate_up",
    "swiglu_forward": "out gate_up",
}
CASES = [(launcher, pointer) for launcher, pointers in LAUNCHERS.items() for pointer in pointers.split()]


def arguments(lib, launcher, pointer):
    """Addresses that are never used, that of `pointer` moved by one element."""

    def address(name):
        shift = 4 if launcher == "checksum" else 2 if lib.floatX == torch.bfloat16 else 4
        return (1 << 30) + (shift if name == pointer else 0)

    given = []
    for declaration in llmc.PROTOTYPES[launcher][1]:
        name = declaration.split()[-1].lstrip("*")
        if declaration.startswith("AttentionMask"):
            mask = llmc.AttentionMask.__new__(llmc.AttentionMask)
            mask.doc_start = address(name)
            given.append(mask)
        elif declaration.startswith("AttentionShape"):
            given.append(llmc.AttentionShape(1, 64, 2, 1, 32))
        elif declaration.startswith("KvCache"):
            cache = llmc.KvCache.__new__(llmc.KvCache)
            cache.keys, cache.values, cache.table = address("keys"), address("values"), address("table")
            cache.shape = llmc.AttentionShape(1, 64, 2, 1, 32)
            given.append(cache)
        elif declaration.startswith("NewTokens"):
            tokens = llmc.NewTokens.__new__(llmc.NewTokens)
            tokens.rows, tokens.positions, tokens.n = address("rows"), address("positions"), 1
            given.append(tokens)
        else:
            given.append(address(name) if "*" in declaration else None if "stream" in name else NUMBERS[name])
    return given


def signal_of(call):
    """What ends a child process that makes the call; its words are thrown away."""
    child = os.fork()
    if child == 0:
        faulthandler.disable()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        call()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("launcher, pointer", CASES, ids=lambda x: x)
def test_misaligned_pointer(launcher, pointer):
    lib = llmc.load(next(iter(llmc.build_folders())))  # one precision, as each case is a process
    getattr(lib, launcher)  # sets the prototype
    call = getattr(lib.c, launcher)
    assert signal_of(lambda: call(*arguments(lib, launcher, pointer))) == -signal.SIGABRT


def test_every_launcher_is_listed():
    """Except those whose kernels take one element at a time, or which say themselves what they do with any address."""
    plain = "answer_logprobs answer_weights cudnn_attention_backward cudnn_attention_forward matmul norm_of_squares preference_loss " \
        "sum_in_order sum_losses update_gate weights_init_constant weights_init_normal weights_init_uniform weights_narrow weights_widen"
    streamed = {name for name, (_, parameters) in llmc.PROTOTYPES.items() if parameters and parameters[-1].startswith("cudaStream_t")}
    text = "".join(p.read_text() for p in (llmc.ROOT / "llmc/kernels").glob("*.h"))
    assert {name for name in streamed if f"void {name}(" in text} | {"matmul"} == set(LAUNCHERS) | set(plain.split())
