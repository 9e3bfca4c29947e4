"""The inputs of blocks in host memory (ActivationsPlace): the same bits, and what memory it saves."""

import ctypes
import json

import pytest
import torch

import changing
from model import TINY, Error, Model, c_config, random_batch

LAYERS = 6
DEEP = TINY | dict(num_hidden_layers=LAYERS)
CASES = {
    "block": dict(recompute="block"),
    "cheap": dict(recompute="cheap"),
    "none": {},
    "adapters": dict(recompute="block", lora=(8, 16, "q_proj,down_proj")),
    "from an FFN on": dict(recompute="block", only="model.layers.2.mlp.*,model.layers.4.*"),
    "the last three": dict(only="model.layers.[3-5].*"),
    "the last one": dict(recompute="block", only="model.layers.5.*"),  # all is on the device
    "head": dict(recompute="block", only="lm_head.weight"),
}


def run(lib, place, case, batches):
    model = Model(lib, DEEP, 2, 40, 2, activations=place, **case)
    lib.llama3_init_weights(model.handle, 3)
    known = []
    for number, step in enumerate(batches, start=1):
        known.append(changing.step(lib, model, number, step))
        known.append({"validation": torch.tensor(model.loss(step[0]))})  # whose inputs no backward pass reads
    return known


@pytest.mark.checked
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_same_bits(lib, case):
    batches = [[random_batch(DEEP["vocab_size"], 2, 40) for _ in range(count)] for count in (2, 1, 2)]
    device, host = (run(lib, place, case, batches) for place in ("device", "host"))
    assert len(device) == len(host) == 6
    for found, expected in zip(host, device):
        assert found.keys() == expected.keys() and all(torch.equal(found[name], values) for name, values in expected.items())


def plan(lib, path, **shape):
    text, err = ctypes.create_string_buffer(4096), Error()
    given = json.dumps(dict(B=2, T=64, micro_batches=1, training=True, recompute="block") | shape)
    assert lib.llama3_plan_text(text, 4096, str(path).encode(), given.encode(), ctypes.byref(err)) == 0, err.message
    return json.loads(text.value)


@pytest.mark.parametrize("shape, saved", [({}, LAYERS - 2), (dict(only="model.layers.[2-5].*"), 2), (dict(only="model.layers.5.*"), -1),
                                          (dict(training=False), 0)])  # fmt: skip
def test_memory(lib, tmp_path, shape, saved):
    """Two inputs stay on the device."""
    path, err = tmp_path / "config.json", Error()
    assert lib.llama_config_write(ctypes.byref(c_config(DEEP)), str(path).encode(), ctypes.byref(err)) == 0
    device, host = (plan(lib, path, **shape, activations=place) for place in ("device", "host"))
    one = 2 * 64 * DEEP["hidden_size"] * (4 if lib.floatX == torch.float32 else 2)
    assert device["activations"] - host["activations"] == saved * one
    assert host["host memory"] == max(saved, 0) * one and device["host memory"] == 0
    assert {name: size for name, size in device.items() if host[name] != size}.keys() <= {"activations", "host memory"}
