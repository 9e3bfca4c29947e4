"""A vocabulary so large that the logits of a micro-batch don't exist at once: loss and gradients are those of smaller
micro-batches, whose logits do."""

import ctypes

import hostlib
import pytest
import torch
from compare import relative_error
from llmc import PreferenceLoss
from model import TINY, Model, random_batch

VOCAB = 1_050_000  # 128 rows of fp32 logits take more than the 512 MiB that llama3.c allows itself
FIELDS = TINY | dict(vocab_size=VOCAB, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=1,
                     num_key_value_heads=1, tie_word_embeddings=True)  # fmt: skip
B, T = 2, 100  # chunks of 128 and 72 rows; of one row of the batch: all at once
ANSWER = 30
LOSSES = {"tokens": None, "dpo": PreferenceLoss(0, 0.1, 0.0, 0.2, 0)}


def write(array, values):
    ctypes.cast(array, ctypes.POINTER(ctypes.c_int32 * len(values))).contents[:] = values


def compare_rows(batch, rows):
    """Each row of the batch becomes a prompt with two answers of ANSWER tokens, the second of which does not see the first."""
    raw = ctypes.cast(batch, ctypes.POINTER(hostlib.Batch)).contents
    first, second = T - 2 * ANSWER, T - ANSWER
    spans = [(row * T + begin, row * T + begin + ANSWER - 1) for row in range(rows) for begin in (first, second)]
    write(raw.answers, [position for span in spans for position in span])
    write(raw.groups, [number for row in range(rows) for number in (2 * row, 2)])
    write(raw.excluded, [end for _ in range(rows) for t in range(T) for end in (first, second if t >= second else first)])
    raw.num_answers, raw.num_groups = 2 * rows, rows


def run(lib, kind, rows, batches, state, reference):
    """Loss and gradients of these micro-batches of so many rows."""
    model = Model(lib, FIELDS, rows, T, len(batches), preference=LOSSES[kind])
    model.set_weights(state)
    for i, batch in enumerate(batches):
        model.fill(i, *batch)
        if kind == "dpo":
            compare_rows(lib.llama3_batch(model.handle, i), rows)
            to = (ctypes.c_float * (2 * rows)).from_address(lib.llama3_ref_logprobs(model.handle, i))
            to[:] = reference[2 * rows * i : 2 * rows * (i + 1)]
    lib.llama3_begin_step(model.handle, B if kind == "dpo" else sum(int((b[1] >= 0).sum()) for b in batches))
    for i in range(len(batches)):
        model.forward_backward(i)
    return model.result()[0], model.gradients()


@pytest.mark.parametrize("lib", ["fp32"], indirect=True)  # bf16 would hide what is lost
@pytest.mark.parametrize("kind", LOSSES)
def test_chunks(lib, kind):
    probe = Model(lib, FIELDS, 1, 1)
    state = {name: torch.randn(probe.shape(i)) * 0.1 + (probe.tensors[i].dims == 1) for i, name in enumerate(probe.names)}
    del probe
    tokens, targets, _ = random_batch(VOCAB, B, T, documents=False)
    whole = [(tokens, targets, torch.zeros_like(tokens))]
    parts = [tuple(values[row : row + 1] for values in whole[0]) for row in range(B)]
    reference = (-14.0 * ANSWER + torch.randn(2 * B)).tolist()
    loss, gradients = run(lib, kind, B, whole, state, reference)
    expected_loss, expected = run(lib, kind, 1, parts, state, reference)
    assert loss == pytest.approx(expected_loss, rel=1e-5) and loss > 0.1
    for name, gradient in expected.items():
        assert relative_error(gradients[name], gradient) < 1e-5, name
        assert gradient.abs().max() > 0, name
