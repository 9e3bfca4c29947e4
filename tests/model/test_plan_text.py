"""llama3_plan_text: a shape as JSON; what it does not know is refused, and it knows all that memory depends on."""

import ctypes
import json

import model as models
import pytest
from model import TINY

SMALL = dict(B=2, T=32, micro_batches=1, training=True)
# members of RunShape, Parallel and TrainedPart on which memory does not depend
OTHERS = {"parallel", "part", "num_rows", "preference", "shard_comm", "replica_comm", "world", "overlap", "attention", "graph"}


@pytest.fixture
def plan(lib, tmp_path):
    path, config, error = tmp_path / "config.json", models.c_config(TINY), models.Error()
    assert lib.llama_config_write(ctypes.byref(config), ctypes.c_char_p(bytes(path)), ctypes.byref(error)) == 0

    def planned(shape):
        text, error = ctypes.create_string_buffer(1024), models.Error()
        given = shape if isinstance(shape, str) else json.dumps(shape)
        code = lib.llama3_plan_text(text, ctypes.c_size_t(1024), ctypes.c_char_p(bytes(path)), ctypes.c_char_p(given.encode()),
                                    ctypes.byref(error))  # fmt: skip
        return (code, error.message.decode()) if code else json.loads(text.value)

    return planned


def test_every_member_has_a_name(plan):
    names = [name for struct in (models.RunShape, models.Parallel, models.TrainedPart) for name, _ in struct._fields_]
    values = SMALL | dict(shards=1, replicas=1, lora_alpha=1.5, recompute="cheap", moments="bf16", master_weights="none",
                          optimizer_state="host", activations="host", grad_reduce="bf16", only="*", lora_targets="q_proj", rows=[[1, 8, 2]])  # fmt: skip
    flags = {"training", "comparisons", "average"}
    for name in set(names) - OTHERS:
        found = plan(SMALL | {name: values.get(name, False if name in flags else 0)})
        assert isinstance(found, dict), (name, found)


def staged(lib, shards, replicas):
    """Bytes in which terms of sums wait to travel, and as many for those that come: of the longest bucket."""
    table = models.table_of(lib, TINY, shards)
    longest = max(bucket.end - bucket.begin for bucket in table.buckets[: table.num_buckets])
    lib.parameter_table_free(ctypes.byref(table))
    return -(-2 * (longest + 8 * shards * replicas) // 256) * 256


def test_what_memory_depends_on(lib, plan):
    whole = plan(SMALL)
    assert plan(SMALL | dict(B=4))["activations"] > whole["activations"]
    assert plan(SMALL | dict(moments="bf16", master_weights="none"))["optimizer state"] == whole["optimizer state"] // 3
    on_host = plan(SMALL | dict(optimizer_state="host"))
    assert on_host["host memory"] == whole["optimizer state"] and whole["host memory"] == 0
    assert on_host["optimizer state"] == 3 * whole["optimizer state"]  # so small that each of three pieces could be all of it
    assert plan(SMALL | dict(zero=1, shards=2))["optimizer state"] < whole["optimizer state"]
    assert plan(SMALL | dict(zero=2, shards=2))["gradients"] < whole["gradients"]
    assert plan(SMALL | dict(grad_reduce="bf16")) == whole
    for zero, shards, replicas in ((0, 1, 2), (1, 2, 1), (2, 2, 1), (2, 2, 2)):
        fp32, bf16 = (plan(SMALL | dict(zero=zero, shards=shards, replicas=replicas, grad_reduce=kind)) for kind in ("fp32", "bf16"))
        more = {name: bf16[name] - fp32[name] for name in bf16 if bf16[name] != fp32[name]}
        assert more["communication"] == 2 * staged(lib, shards, replicas) and more.keys() == {"communication", "reserve"}
    assert plan(SMALL | dict(average=True))["averaged weights"] > 0 == whole["averaged weights"]
    assert plan(SMALL | dict(comparisons=True))["workspace"] > whole["workspace"]
    assert plan(SMALL | dict(lora_rank=8, lora_alpha=16.0))["gradients"] < whole["gradients"]
    assert plan(SMALL | dict(rows=[])) == plan(SMALL | dict(rows=[[1, 32, 1], [2, 16, 1]])) == whole
    assert plan(SMALL | dict(rows=[[1, 32, 1], [4, 32, 1]])) == plan(SMALL | dict(B=4))
    assert plan(SMALL | dict(training=False))["optimizer state"] == 0


@pytest.mark.parametrize("shape, words", [
    (SMALL | dict(num_rows=2), ["unknown", "'num_rows'"]), (SMALL | dict(rows=2), ["rows", "a list of [B, T, micro_batches]"]),
    (SMALL | dict(rows=[[1, 2]]), ["a list of"]), (SMALL | dict(rows=[[1, 2, 1], [1, "2", 1]]), ["a list of"]),
    (SMALL | dict(rows={"B": 1}), ["a list of"]), (SMALL | dict(rows=[[1, 0, 1]]), ["rows of 0 tokens"]),
    (SMALL | dict(B=-1), ["B", "whole number"]),
    (SMALL | dict(B="2"), ["B", "whole number"]),
    (SMALL | dict(recompute=1), ["recompute", "none|cheap|block"]), (SMALL | dict(recompute="all"), ["none|cheap|block"]),
    (SMALL | dict(training=1), ["training", "true or false"]), (SMALL | dict(lora_alpha="x"), ["lora_alpha", "a number"]),
    (SMALL | dict(only=3), ["only", "text"]), ('{"B": 2, "B": 3}', ["B"]), ("[1]", ["shape"]), ("{", ["shape"]),
    (SMALL | dict(T=0), ["rows of 0 tokens"]),
])  # fmt: skip
def test_refused(plan, shape, words):
    code, message = plan(shape)
    assert code == 2 and all(word in message for word in words), message
