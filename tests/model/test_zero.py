"""What an update changes, shard by shard in one process: each element that a shard owns as one rank would change it, and
nothing else; and weight decay on matrices alone."""

import ctypes

import pytest
import torch

import llmc
from model import TINY, Model, Parallel, part, random_batch
from rank_model import own_arrays
from model import table_of

B, T = 2, 8
REWARD = TINY | dict(num_labels=1, eos_token_id=1)
STEP = dict(beta1=0.9, beta2=0.95, eps=1e-6, bias_correction1=0.1, bias_correction2=0.05, max_grad_norm=0.0)
# the whole model; parts of which trained ranges begin and end within a bucket, and so within a shard's piece of it; adapters
PARTS = {
    "all": {},
    "one product": dict(only="*.down_proj.*"),
    "two apart": dict(only="*.k_proj.*,*.up_proj.*"),
    "one norm": dict(only="model.layers.1.input_layernorm.weight,model.norm.weight"),
    "one layer": dict(only="model.layers.1.*"),
    "adapters": dict(lora=(8, 16, None)),
}


def updated(lib, fields, batch, parallel, learning_rate, targets, **what):
    """(model, its weights and what its shard owns before)"""
    model = Model(lib, fields, B, T, parallel=parallel, **what)
    model.shard = parallel.shard if parallel else 0
    lib.llama3_init_weights(model.handle, 7)
    before = model.weights(), own_arrays(lib, model, model.shard)
    model.accumulate([batch], targets)
    model.update(llmc.AdamWStep(learning_rate=learning_rate, weight_decay=0.1, **STEP))
    assert model.applied()
    return model, before


# moments and weights in bf16, whose stochastic rounding must not depend on the division
ROUNDED = {f"{name}, rounded": what | dict(moments="bf16", master_weights="none") for name, what in PARTS.items()}


@pytest.mark.parametrize("shards", [2, 3, 7])
@pytest.mark.parametrize("what", [*PARTS.values(), *ROUNDED.values()], ids=[*PARTS, *ROUNDED])
def test_a_shard_updates_what_it_owns(lib, what, shards):
    batch = random_batch(TINY["vocab_size"], B, T)
    update = (1e-2, int((batch[1] >= 0).sum()))
    whole, (before, _) = updated(lib, TINY, batch, None, *update, **what)
    arrays, weights = own_arrays(lib, whole, 0), whole.weights()
    assert any(not torch.equal(weights[name], before[name]) for name in before)
    seen = dict.fromkeys(arrays, 0)
    for shard in range(shards):
        model, _ = updated(lib, TINY, batch, Parallel(zero=1, shards=shards, shard=shard, replicas=1), *update, **what)
        wanted = {name: values.clone() for name, values in before.items()}
        for (array, tensor), (first, values) in own_arrays(lib, model, shard).items():
            place, name = slice(first, first + len(values)), model.names[tensor]
            assert torch.equal(values, arrays[array, tensor][1][place]), (shard, array, name)
            wanted[name].view(-1)[place] = weights[name].view(-1)[place]
            seen[array, tensor] += len(values)
        for name, values in model.weights().items():
            assert torch.equal(values, wanted[name]), (shard, name)
    assert seen == {key: len(values) for key, (_, values) in arrays.items()}


@pytest.mark.checked
@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("fields", [TINY, TINY | dict(tie_word_embeddings=True), REWARD], ids=["plain", "tied", "reward"])
def test_matrices_decay_and_norms_do_not(lib, fields, shards):
    for what in PARTS.values():
        table = table_of(lib, fields, shards, part(**what))
        for t in table.tensors[: table.count]:
            assert t.decay == (t.dims == 2), t.name
        for b, bucket in enumerate(table.buckets[: table.num_buckets]):
            assert bucket.decay == (b != table.norm_bucket), bucket.label
        assert table.num_decayed == table.buckets[table.norm_bucket].begin
        lib.parameter_table_free(ctypes.byref(table))


@pytest.mark.parametrize("what", PARTS.values(), ids=PARTS)
def test_without_gradients_decay_is_left(lib, what):
    """No target, no gradient: what is trained and a matrix is multiplied by 1 - learning rate * decay, and nothing else changes."""
    tokens, targets, starts = random_batch(TINY["vocab_size"], B, T)
    model, (weights, arrays) = updated(lib, TINY, (tokens, torch.full_like(targets, -1), starts), None, 2.5, 1, **what)
    masters = {tensor: values for (array, tensor), (_, values) in own_arrays(lib, model, 0).items() if array == 0}
    assert masters.keys() == {i for i, tensor in enumerate(model.tensors) if tensor.trained}
    after = model.weights()
    for i, (tensor, name) in enumerate(zip(model.tensors, model.names)):
        wanted = weights[name]
        if tensor.trained and tensor.dims == 2:
            assert torch.equal(masters[i], arrays[0, i][1] * 0.75), name
            wanted = masters[i].view(wanted.shape).to(lib.floatX)
        assert torch.equal(after[name], wanted), name
