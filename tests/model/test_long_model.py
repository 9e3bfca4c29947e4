"""A whole model over one long row, against the same tokens in shorter rows: its documents in rows of their own, and its beginning
in a model that is not longer. 4,096 tokens here; 32,768, and 131,072 in one layer, in scripts/soak.sh."""

import pytest
import torch

import changing
import trainrun
from compare import relative_error
from model import Model, random_batch
from seeds import how_often

SMALL = dict(vocab_size=97, hidden_size=32, intermediate_size=64, num_attention_heads=2, num_key_value_heads=1, head_dim=16,
             max_position_embeddings=131072, rms_norm_eps=1e-5, rope_theta=500000.0, initializer_range=0.3,
             tie_word_embeddings=False,
             rope_scaling=dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192))  # fmt: skip
LENGTHS = [(4096, 3), *how_often([], [(32768, 3), (131072, 1)])]  # tokens, layers
PIECES = 8
# Relative L2 distance of gradients. Rows of other lengths fall into other tiles of attention, and gradients of weights are
# summed in another order; in bf16 attention's outputs, and all that follows, are rounded otherwise.
LIMITS = {"fp32": 1e-5, "bf16": 2e-2}


def make(lib, layers, B, T, **options):
    if T > 32768 and lib.precision == "fp32":
        pytest.skip("in bf16 alone, as it takes many minutes")
    model = Model(lib, SMALL | dict(num_hidden_layers=layers), B, T, **options)
    lib.llama3_init_weights(model.handle, 3)
    return model


def assert_near(lib, ours, expected, what):
    """Losses and gradients of steps whose loss is divided by as many targets."""
    (loss, gradients), (expected_loss, expected_gradients) = ours, expected
    assert abs(loss - expected_loss) <= LIMITS[lib.precision] * expected_loss, what
    for name, gradient in expected_gradients.items():
        assert gradient.norm() > 0 and relative_error(gradients[name], gradient) <= LIMITS[lib.precision], (what, name)


def gradients(model, batch, num_targets):
    model.accumulate([batch], num_targets)
    return model.result()[0], model.gradients()


@pytest.mark.parametrize("T, layers", LENGTHS)
def test_documents_of_a_row(lib, T, layers):
    tokens, targets, _ = random_batch(SMALL["vocab_size"], PIECES, T // PIECES, documents=False)
    starts = torch.arange(PIECES)[:, None].expand(PIECES, T // PIECES) * (T // PIECES)
    row = tuple(values.reshape(1, T) for values in (tokens, targets, starts))
    whole = make(lib, layers, 1, T, recompute="block", activations="host")
    assert_near(lib, gradients(whole, row, T), gradients(make(lib, layers, PIECES, T // PIECES), (tokens, targets), T), T)


@pytest.mark.parametrize("T, layers", LENGTHS)
def test_the_beginning_of_a_row(lib, T, layers):
    """What comes later has no targets, so that nothing of it reaches a gradient; the first tokens do not see it."""
    tokens, targets, starts = random_batch(SMALL["vocab_size"], 1, T, documents=False)
    head = slice(0, T // PIECES)
    targets[:, T // PIECES :] = -1
    expected = gradients(make(lib, layers, 1, T // PIECES), (tokens[:, head], targets[:, head]), T)
    assert_near(lib, gradients(make(lib, layers, 1, T), (tokens, targets, starts), T), expected, T)


@pytest.mark.parametrize("T, layers", LENGTHS)
def test_a_step_has_the_same_bits_in_less_memory(lib, T, layers):
    batches = [random_batch(SMALL["vocab_size"], 1, T, documents=False)]
    plain = changing.step(lib, make(lib, layers, 1, T), 1, batches)
    less = dict(recompute="block", activations="host", optimizer_state="host")
    found = changing.step(lib, make(lib, layers, 1, T, **less), 1, batches)
    assert all(torch.equal(found[name], values) for name, values in plain.items())
    assert torch.isfinite(found["loss and norm"]).all() and found["loss and norm"][1] > 0


@pytest.mark.skipif(not how_often(False, True), reason="in scripts/soak.sh")
def test_the_program(tmp_path):
    """train_llama3 over rows of 32,768 tokens."""
    work, T = trainrun.Workplace(tmp_path), 32768
    work.write("train_000.bin", trainrun.documents(trainrun.np.random.default_rng(5), 4 * T + 1))
    work.write_config(max_position_embeddings=T, num_hidden_layers=3)
    logs = []
    for options in ({}, dict(recompute="block", activations="host", optimizer_state="host")):
        work.run(steps=3, batch_size=1, seq_len=T, document_mask="off", overwrite=True, save="off", eval_every=0, **options)
        logs.append([line["loss"] for line in work.log(work.output) if "loss" in line])
    assert logs[0] == logs[1] and len(logs[0]) == 3 and logs[0][2] < logs[0][0]
