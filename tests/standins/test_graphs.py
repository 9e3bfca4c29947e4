"""Micro-batches of two models in one process, launched as graphs on streams that run beside one another: the products of both share
cuBLASLt's workspace, which a graph that is launched again must not take from the other model."""

import sys

import pytest

import llmc
import oncpu
from seeds import SEED

STEPS = """
import hashlib, sys
import torch
import llmc
from model import TINY, Model
lib = llmc.load("bf16")
torch.manual_seed(5)
models = [Model(lib, TINY, 2, 32, graph=sys.argv[1] == "graph") for _ in range(2)]
for seed, model in enumerate(models):
    lib.llama3_init_weights(model.handle, seed)
    tokens = torch.randint(0, TINY["vocab_size"], (2, 32))
    model.fill(0, tokens, tokens)
for _ in range(6):
    for model in models:
        lib.llama3_begin_step(model.handle, 64)
        lib.llama3_gradients(model.handle, 0)  # and nothing waits
print([model.result()[0] for model in models])
print([hashlib.sha256(b"".join(g.numpy().tobytes() for g in m.gradients().values())).hexdigest() for m in models])
"""


def steps(how, streams):
    path = ":".join(str(llmc.ROOT / folder) for folder in ("tests", "tests/support"))
    return oncpu.run([sys.executable, "-c", STEPS, how], PYTHONPATH=path, LLMC_BUILD=f"build/{oncpu.ON_CPU.name}", LLMC_HOST_STREAMS=streams)


@pytest.fixture(scope="module")
def expected():
    oncpu.need()
    return steps("plain", "eager").stdout


@pytest.mark.parametrize("streams", ["lazy", *(f"random:{SEED + i}" for i in range(3))])
def test_two_models_share_a_workspace(expected, streams):
    done = steps("graph", streams)
    assert done.stdout == expected and "nan" not in done.stdout and "workspace" not in done.stderr
