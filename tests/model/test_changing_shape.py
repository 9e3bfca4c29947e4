"""A model that changes the shape of its micro-batches, or its RoPE, between steps: bit for bit what a model made for them gives."""

import ctypes
import json
import math
import sys

import pytest
import torch

import changing
import cstructs
import llmc
import model as models
import oncpu
from changing import FIELDS, PAIRS, SHAPES
from llmc import PreferenceLoss
from model import Model, c_config, random_batch
from preference import DPO
from seeds import SEED

MemoryPlan = cstructs.read("model/memory.h")["MemoryPlan"]
SCALING = dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)
CASES = {
    "plain": dict(documents=False),
    "documents": {},
    "cheap": dict(recompute="cheap"),
    "recomputed": dict(recompute="block"),
    "inputs on the host": dict(recompute="block", activations="host", fields=FIELDS | dict(num_hidden_layers=5)),
    "graph": dict(graph=True),
    "adapters": dict(lora=(8, 16, None)),
    "rounded": dict(moments="bf16", master_weights="none", optimizer_state="host"),
    "dpo": dict(preference=PreferenceLoss(DPO, 0.1, 0.0, 0.2, 0), shapes=PAIRS),
}


def assert_same(found, expected, what):
    for name, values in expected.items():
        assert torch.equal(found[name], values), (what, name)


@pytest.mark.checked
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_bits_of_a_model_made_for_the_shape(lib, case):
    shapes = case.get("shapes", SHAPES)
    model = changing.make(lib, case, shapes[0], shapes)
    lib.llama3_init_weights(model.handle, 3)
    for number, shape in enumerate(shapes, start=1):
        batches = changing.draw(case, shape)
        made = changing.make(lib, case, shape)
        changing.copy_state(lib, model, made)
        model.set_rows(*shape)
        found, expected = (changing.step(lib, m, number, batches) for m in (model, made))
        assert all(map(math.isfinite, found["loss and norm"])) and found["loss and norm"][1] > 0
        assert_same(found, expected, shape)


def test_losses_without_training(lib):
    shapes = [(1, 40, 1), (4, 100, 1), (2, 9, 1)]
    model = Model(lib, FIELDS, *shapes[0], training=False, rows=shapes)
    lib.llama3_init_weights(model.handle, 3)
    for shape in (*shapes, shapes[0]):
        made, batch = Model(lib, FIELDS, *shape, training=False), random_batch(FIELDS["vocab_size"], *shape[:2])
        made.set_weights(model.weights())
        model.set_rows(*shape)
        assert model.loss(batch) == made.loss(batch) and math.isfinite(made.loss(batch)), shape


def test_a_text_may_be_as_long_as_the_longest_row(lib):
    """Whatever shape the running steps have: positions beyond it are rotated too."""
    text, short = torch.randint(FIELDS["vocab_size"], (150,)), (1, 8, 1)
    model, made = Model(lib, FIELDS, *short, rows=[(1, 150, 1)]), Model(lib, FIELDS, 1, 150)
    for m in (model, made):
        lib.llama3_init_weights(m.handle, 3)
    assert torch.equal(model.logits(text), made.logits(text))
    assert lib.llama3_max_tokens(model.handle) == lib.llama3_max_positions(model.handle) == 150


# ---- memory


def plan(lib, shape, rows=(), fields=FIELDS):
    memory, err = MemoryPlan(), models.Error()
    rows = (models.RowShape * len(rows))(*rows)
    run = models.RunShape(B=shape[0], T=shape[1], micro_batches=shape[2], training=True, rows=rows, num_rows=len(rows))
    code = lib.llama3_plan_memory(ctypes.byref(memory), ctypes.byref(c_config(fields)), ctypes.byref(run), ctypes.byref(err))
    return [arena.bytes for arena in memory.arenas] if code == 0 else (code, err.message.decode())


def test_memory_is_planned_for_the_most_of_each(lib):
    """No arena is larger than the largest shape's; a shape that another one contains takes nothing more."""
    assert plan(lib, (1, 32, 1), [(4, 64, 2)]) == plan(lib, (4, 64, 2))
    assert plan(lib, (4, 64, 2), [(1, 32, 1)]) == plan(lib, (4, 64, 2))
    both, long, wide = (plan(lib, *shapes) for shapes in (((1, 256, 1), [(8, 40, 1)]), ((1, 256, 1),), ((8, 40, 1),)))
    assert all(b >= max(l, w) for b, l, w in zip(both, long, wide)) and sum(both) < sum(long) + sum(wide)


def test_attention_s_scratch_is_that_of_the_shape_with_most_tiles(lib):
    """Rows of one token take a tile each, and the MLP, whose memory it shares, is small."""
    fields = FIELDS | dict(intermediate_size=16)
    assert plan(lib, (1, 64, 1), [(64, 1, 1)], fields) >= plan(lib, (64, 1, 1), fields=fields) > plan(lib, (1, 64, 1), fields=fields)


@pytest.mark.parametrize("rows, words", [((0, 8, 1), "0 rows of 8"), ((1, 8, 0), "0 micro-batches"), ((1, 257, 1), "257 is longer"),
                                         ((1 << 22, 128, 1), "4194304 x 128")])  # fmt: skip
def test_every_shape_is_checked(lib, rows, words):
    for first, others in ((rows, []), ((1, 8, 1), [(2, 8, 1), rows])):
        code, message = plan(lib, first, others)
        assert code == 2 and words in message, message


# ---- RoPE


@pytest.mark.parametrize("changes", [(5e5, None), (5e5, SCALING), (1e4, SCALING), (1e4, None)])
def test_rope_of_a_model_made_with_it(lib, changes):
    theta, scaling = changes
    made = Model(lib, FIELDS | dict(rope_theta=theta, rope_scaling=scaling), 2, 100)
    model = Model(lib, FIELDS | dict(rope_theta=77.0, rope_scaling=SCALING | dict(factor=2.0)), 2, 100)
    for m in (model, made):
        lib.llama3_init_weights(m.handle, 3)
    batches = changing.draw({}, (2, 100, 1))
    before = changing.step(lib, model, 1, batches)
    lib.llama3_init_weights(model.handle, 3)
    model.set_rope(theta, scaling)
    found, expected = (changing.step(lib, m, 1, batches) for m in (model, made))
    assert_same(found, expected, changes)
    assert not torch.equal(before["loss and norm"], found["loss and norm"])


@pytest.mark.parametrize("scaling", [None, SCALING])
def test_the_configuration_says_so(lib, tmp_path, scaling):
    """As it is written into checkpoints, byte for byte."""
    made = Model(lib, FIELDS | dict(rope_theta=5e5, rope_scaling=scaling), 1, 8)
    model = Model(lib, FIELDS | dict(rope_scaling=None if scaling else SCALING), 1, 8)
    model.set_rope(5e5, scaling)
    texts = []
    for i, m in enumerate((model, made)):
        path, err = tmp_path / f"config{i}.json", models.Error()
        assert lib.llama_config_write(ctypes.c_void_p(lib.llama3_config(m.handle)), str(path).encode(), ctypes.byref(err)) == 0
        texts.append(path.read_text())
    found = json.loads(texts[0])
    assert texts[0] == texts[1] and found["rope_theta"] == 5e5 and (found["rope_scaling"] is None) == (scaling is None)


# ---- the cuda target's host code


def transcript(build, graph, streams):
    path = ":".join(str(llmc.ROOT / folder) for folder in ("tests", "tests/support"))
    done = oncpu.run([sys.executable, llmc.ROOT / "tests/support/changing.py", SEED, graph], PYTHONPATH=path,
                     LLMC_BUILD=f"build/{build.name}", LLMC_HOST_STREAMS=streams)  # fmt: skip
    return done.stdout


def test_late_streams_and_graphs():
    """Here a copy or a kernel that the host has not waited for runs late, and graphs keep what they were captured with."""
    oncpu.need()
    expected = transcript(oncpu.ON_CPU, "plain", "eager")
    assert "nan" not in expected and len(set(expected.splitlines())) == 2 * len(SHAPES)
    for graph, streams in (("graph", "eager"), ("graph", "lazy"), ("graph", f"random:{SEED}"), ("plain", f"random:{SEED}")):
        assert transcript(oncpu.ON_CPU, graph, streams) == expected, (graph, streams)
