"""The oracle, a model in plain C (dev/reference) against transformers' LlamaForCausalLM and torch.optim.AdamW in float64, so that
what test_llama3 compares with is itself compared with something."""

import ctypes

import pytest
import torch

from llmc import AdamWStep, load_oracle
from model import TINY, Batch, Error, Model, c_config, random_batch, reference_loss, transformers_model

# transformers computes norms and rotations in float32, whatever the model's type is: that is all the difference.
LIMIT = 5e-6

SHAPES = {
    "grouped": dict(),
    "tied": dict(tie_word_embeddings=True),
    "nine_heads_over_three": dict(num_attention_heads=9, num_key_value_heads=3, hidden_size=144),
    "llama31_rope": dict(rope_scaling=dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                           original_max_position_embeddings=64)),
    "head_dim_48": dict(num_key_value_heads=1, head_dim=48),
}


class OracleModel(ctypes.Structure):
    """dev/reference/oracle.h"""

    _fields_ = [("config", ctypes.c_void_p), ("table", ctypes.c_void_p), ("params", ctypes.c_void_p)]


class Oracle:
    """Flat arrays in the layout of the parameter table, which is borrowed from a model of the library."""

    def __init__(self, lib, fields, B, T, state):
        self.lib, self.B, self.T = lib, B, T
        self.oracle = load_oracle(lib.precision)
        self.model = Model(lib, fields, B, T)
        self.config = c_config(fields)
        last = max(self.model.tensors, key=lambda t: t.offset)
        self.params, self.grads, self.m, self.v = torch.zeros(4, last.offset + 2 * last.rows * last.cols + 4096).double()
        for i, name in enumerate(self.model.names):
            self.view(self.params, i)[:] = state[name]
        table = lib.llama3_parameters(self.model.handle)
        self.table = table if isinstance(table, int) else ctypes.cast(table, ctypes.c_void_p).value
        self.as_c = OracleModel(ctypes.addressof(self.config), self.table, self.params.data_ptr())

    def view(self, flat, index):
        shape = self.model.shape(index)
        offset = self.model.tensors[index].offset
        return flat[offset : offset + torch.Size(shape).numel()].view(shape)

    def named(self, flat):
        return {name: self.view(flat, i) for i, name in enumerate(self.model.names)}

    def loss(self, batch):
        arrays = [a.reshape(-1).to(torch.int32).contiguous() for a in batch]
        pointers = [ctypes.cast(a.data_ptr(), ctypes.POINTER(ctypes.c_int32)) for a in (*arrays, arrays[0])]
        targets = int((batch[1] >= 0).sum())
        loss, error = ctypes.c_double(), Error()
        self.grads.zero_()
        code = self.oracle.oracle_forward_backward(ctypes.byref(self.as_c), ctypes.byref(Batch(*pointers, num_targets=targets)),
                                                   self.B, self.T, targets, ctypes.byref(loss), self.grads,
                                                   ctypes.byref(error))
        assert code == 0, error.message
        return loss.value

    def step(self, step):
        self.oracle.oracle_adamw(self.table, self.params, self.m, self.v, self.grads, ctypes.byref(step))


def error(value, expected):
    return ((value - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("documents", [False, True], ids=["plain", "documents"])
@pytest.mark.parametrize("shape", SHAPES)
def test_loss_and_gradients(lib, shape, documents):
    fields = TINY | SHAPES[shape]
    B, T = 2, 29
    batch = random_batch(fields["vocab_size"], B, T, documents)
    theirs = transformers_model(fields)
    ours = Oracle(lib, fields, B, T, theirs.state_dict())
    expected = reference_loss(theirs, *batch)
    expected.backward()
    assert abs(ours.loss(batch) - expected.item()) <= LIMIT * expected.item()
    grads = ours.named(ours.grads)
    for name, p in theirs.named_parameters():
        assert error(grads[name], p.grad) <= LIMIT, name


@pytest.mark.parametrize("clip", [0.5, 0.0])
def test_adamw(lib, clip):
    fields, B, T = TINY, 2, 17
    theirs = transformers_model(fields)
    ours = Oracle(lib, fields, B, T, theirs.state_dict())
    step = AdamWStep(3e-3, 0.9, 0.95, 1e-8, 0.1, 0, 0, clip)
    groups = [dict(params=[p for p in theirs.parameters() if p.ndim == 2], weight_decay=step.weight_decay),
              dict(params=[p for p in theirs.parameters() if p.ndim == 1], weight_decay=0.0)]
    optimizer = torch.optim.AdamW(groups, lr=step.learning_rate, betas=(step.beta1, step.beta2), eps=step.eps)
    batch = random_batch(fields["vocab_size"], B, T)
    for t in range(1, 6):
        optimizer.zero_grad()
        reference_loss(theirs, *batch).backward()
        ours.loss(batch)
        # the same gradients on both sides, so that only the update is compared
        for name, grad in ours.named(ours.grads).items():
            dict(theirs.named_parameters())[name].grad.copy_(grad)
        if clip:
            torch.nn.utils.clip_grad_norm_(theirs.parameters(), clip)
        optimizer.step()
        step.bias_correction1, step.bias_correction2 = 1 - step.beta1**t, 1 - step.beta2**t
        ours.step(step)
    mine = ours.named(ours.params)
    for name, p in theirs.named_parameters():
        assert error(mine[name], p.detach()) <= LIMIT, name
