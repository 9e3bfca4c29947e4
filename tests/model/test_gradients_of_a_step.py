"""A step's gradients are its own: nothing of an earlier step is left in them, though nobody sets them to zero in between."""

import math

import pytest
import torch

import llmc
from llmc import PreferenceLoss
from model import TINY, Model, Parallel, random_batch
from packed import T as PACK_T
from packed import draw_packed
from preference import DPO, REWARD
from rank_model import own_arrays

B, T = 2, 8
ODD = TINY | dict(hidden_size=48, intermediate_size=80, num_attention_heads=3, num_key_value_heads=1)  # norms have padding
CASES = {
    "plain": {},
    "odd": dict(fields=ODD),
    "tied": dict(fields=TINY | dict(tie_word_embeddings=True)),
    "recomputed": dict(recompute="block"),
    "cheap": dict(recompute="cheap"),
    "two products": dict(only="model.layers.0.self_attn.k_proj.*,model.layers.1.mlp.up_proj.*"),
    "a norm": dict(only="model.layers.1.input_layernorm.weight,model.norm.weight"),
    "head": dict(only="lm_head.weight"),
    "adapters": dict(lora=(8, 16, "q_proj,down_proj")),
    "dpo": dict(preference=PreferenceLoss(DPO, 0.1, 0.0, 0.2, 0)),
    "reward": dict(preference=PreferenceLoss(REWARD, 1.0, 0.0, 0.0, 0), fields=ODD | dict(num_labels=1, eos_token_id=1)),
}
# zero, shards, the shard of this rank. Without other ranks a shard's sum over them is what the first of them would add.
DIVISIONS = {"one rank": None, "zero 1": (1, 3, 1), "zero 2": (2, 3, 0), "zero 2, whole buckets": (2, 2, 0)}
NO_CHANGE = dict(learning_rate=0.0, beta1=0.5, beta2=0.5, eps=1e-6, weight_decay=0.0, bias_correction1=0.5,
                 bias_correction2=0.5, max_grad_norm=0.0)  # fmt: skip


def draw_comparisons(V, spec):
    packed = draw_packed(V, B)
    return packed, None if spec.kind == REWARD else -5.0 * torch.rand(len(packed.answers))


def draw(case, count):
    """A step's micro-batches."""
    fields = case.get("fields", TINY)
    if case.get("preference"):
        return [draw_comparisons(fields["vocab_size"], case["preference"]) for _ in range(count)]
    return [random_batch(fields["vocab_size"], B, T) for _ in range(count)]


def make(lib, case, division):
    parallel = division and Parallel(zero=division[0], shards=division[1], shard=division[2], replicas=1)
    fields = case.get("fields", TINY)
    if case.get("preference"):
        fields = fields | dict(max_position_embeddings=PACK_T)
    return Model(lib, fields, B, PACK_T if case.get("preference") else T, 2, parallel=parallel,
                 **{k: v for k, v in case.items() if k != "fields"})  # fmt: skip


def result_of(lib, model, division, batches):
    """Loss and gradient norm of the step with these micro-batches, and the moments, which begin at 0, on this shard."""
    model.accumulate(batches, 7)
    model.update(llmc.AdamWStep(**NO_CHANGE))
    arrays = own_arrays(lib, model, division[2] if division else 0)
    return model.result(), {key: values for key, (_, values) in arrays.items()}


@pytest.mark.parametrize("division", DIVISIONS.values(), ids=DIVISIONS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_nothing_of_the_step_before(lib, case, division):
    """After a step that was begun and never updated the weights; with as many micro-batches as planned, fewer, and none."""
    for count in (2, 1, 0):
        earlier, batches = draw(case, 2), draw(case, count)
        results = []
        for first in ([], earlier):
            model = make(lib, case, division)
            lib.llama3_init_weights(model.handle, 7)
            if first:
                model.accumulate(first, 7)
            results.append(result_of(lib, model, division, batches))
        (alone, arrays), (after, others) = results
        assert alone == after and all(map(math.isfinite, alone)), count
        assert division or (alone[1] > 0) == (count > 0)
        for key, values in arrays.items():
            assert torch.equal(values, others[key]), (count, model.names[key[1]])
