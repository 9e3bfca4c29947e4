"""The whole model against transformers' LlamaForCausalLM in float64 with the same weights: loss, every parameter's
gradient, 20 steps of AdamW; and what must not change the result."""

import pytest
import torch

import compare
from modelchecks import LLAMA31, MODEL_LIMIT, check_loss, run_reference
from llmc import AdamWStep
from model import TINY, Model, Parallel, random_batch, reference_loss, transformers_model
from rank_model import own_arrays


SHAPES = {
    "grouped": dict(),
    "tied": dict(tie_word_embeddings=True),
    "nine_heads_over_three": dict(num_attention_heads=9, num_key_value_heads=3, hidden_size=144),
    "llama31_rope": dict(rope_scaling=LLAMA31, rope_theta=500000.0),
    "one_kv_head_dim_48": dict(num_key_value_heads=1, head_dim=48),
    "head_dim_128": dict(num_attention_heads=2, num_key_value_heads=2, head_dim=128, num_hidden_layers=1),
    "vocabulary_50257": dict(vocab_size=50257, num_hidden_layers=1, hidden_size=32, num_attention_heads=2),
}


@pytest.mark.parametrize("documents", [False, True], ids=["plain", "documents"])
@pytest.mark.parametrize("shape", SHAPES)
def test_loss_and_every_gradient(lib, shape, documents):
    fields = TINY | SHAPES[shape]
    B, T = 3, 37
    batch = random_batch(fields["vocab_size"], B, T, documents)
    state = transformers_model(fields).state_dict()
    expected_losses, expected = run_reference(fields, state, batch, torch.float64)
    their_losses, theirs = None, {}
    if lib.precision == "bf16":
        their_losses, theirs = run_reference(fields, state, batch, torch.bfloat16)
    model = Model(lib, fields, B, T)
    model.set_weights(state)
    model.accumulate([batch])
    loss, _ = model.result()
    check_loss(loss, batch, expected_losses, their_losses)
    ours = model.gradients()
    assert set(ours) == set(expected)
    for name in ours:
        compare.check(name, ours[name], expected[name], theirs.get(name), MODEL_LIMIT)
    # The path without gradients runs the same kernels, so it gives the same bits.
    assert model.loss(batch) == loss


# In place of Adam's 1e-8: it divides a gradient that is next to nothing by its own size, so that rounding errors become whole
# updates, and two right programs go apart after some steps.
EPS = 1e-5


def small_run(lib, fields, batches, micro_batches, steps, recompute="none", state=None):
    """Losses and final weights of `steps` steps; batches: one list of micro-batches a step."""
    model = Model(lib, fields, batches[0][0][0].shape[0], batches[0][0][0].shape[1], micro_batches, recompute)
    if state is None:
        model.lib.llama3_init_weights(model.handle, 7)
    else:
        model.set_weights(state)
    losses = []
    for t in range(1, steps + 1):
        model.accumulate(batches[t - 1])
        model.update(AdamWStep(3e-3, 0.9, 0.95, EPS, 0.1, 1 - 0.9**t, 1 - 0.95**t, 1.0))
        losses.append(model.result())
    return losses, model.weights()


def test_twenty_steps_against_pytorch_adamw(lib):
    fields, steps = TINY, 20
    batches = [[random_batch(fields["vocab_size"], 4, 24)] for _ in range(steps)]
    state = transformers_model(fields).state_dict()
    reference = transformers_model(fields)
    reference.load_state_dict(state)
    groups = [dict(params=[p for p in reference.parameters() if p.ndim == 2], weight_decay=0.1),
              dict(params=[p for p in reference.parameters() if p.ndim == 1], weight_decay=0.0)]
    optimizer = torch.optim.AdamW(groups, lr=3e-3, betas=(0.9, 0.95), eps=EPS)
    expected = []
    for (batch,) in batches:
        optimizer.zero_grad()
        loss = reference_loss(reference, *batch)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(reference.parameters(), 1.0)
        optimizer.step()
        expected.append((loss.item(), norm.item()))
    ours, _ = small_run(lib, fields, batches, 1, steps, state=state)
    # Losses are about 6. fp32: differences of 1e-6 were seen. bf16: each forward pass rounds to 8 bits, which moves a mean
    # over about 77 targets by some thousandths.
    limit = 2e-5 if lib.precision == "fp32" else 5e-2
    for t in range(steps):
        assert abs(ours[t][0] - expected[t][0]) <= limit, f"step {t}: loss {ours[t][0]}, expected {expected[t][0]}"
        assert abs(ours[t][1] / expected[t][1] - 1) <= limit, f"step {t}: norm {ours[t][1]}, expected {expected[t][1]}"
    assert len(set(l for l, _ in ours)) == steps


def test_accumulation_one_by_eight_equals_eight_by_one(lib):
    fields = TINY
    rows = [random_batch(fields["vocab_size"], 1, 24) for _ in range(8)]
    whole = tuple(torch.cat(parts) for parts in zip(*rows))
    state = transformers_model(fields).state_dict()
    found = []
    for micro_batches in ([whole], rows):
        model = Model(lib, fields, micro_batches[0][0].shape[0], 24, len(micro_batches))
        model.set_weights(state)
        model.accumulate(micro_batches)
        found.append((model.result()[0], model.gradients()))
    (loss_a, a), (loss_b, b) = found
    # On the CPU activations and their gradients are the same bits in both, row by row, bf16 or not, and only fp32 sums over
    # the rows have another order. cuBLASLt chooses an algorithm by the number of rows, so there all may be rounded otherwise.
    loss_limit, limit = (1e-6, 2e-6) if lib.on_cpu else (1e-5, 1e-5) if lib.precision == "fp32" else (1e-2, MODEL_LIMIT)
    assert abs(loss_a - loss_b) <= loss_limit * abs(loss_a)
    for name in a:
        assert compare.relative_error(b[name], a[name]) <= limit, name


def test_same_seed_same_bits(lib):
    fields = TINY
    batches = [[random_batch(fields["vocab_size"], 2, 24)] for _ in range(3)]

    def run():
        losses, weights = small_run(lib, fields, batches, 1, 3)
        return (torch.tensor(losses), *weights.values())

    lib.forms(run)


@pytest.mark.parametrize("recompute", ["cheap", "block"])
def test_recomputation_changes_no_bit(lib, recompute):
    fields = TINY | dict(num_hidden_layers=3)
    batches = [[random_batch(fields["vocab_size"], 2, 24)] for _ in range(2)]
    losses_a, weights_a = small_run(lib, fields, batches, 1, 2)
    losses_b, weights_b = small_run(lib, fields, batches, 1, 2, recompute=recompute)
    assert losses_a == losses_b
    assert all(torch.equal(weights_a[n], weights_b[n]) for n in weights_a)


MODES = {"moments": dict(moments="bf16"), "weights": dict(master_weights="none"), "both": dict(moments="bf16", master_weights="none")}


@pytest.mark.parametrize("modes", MODES.values(), ids=MODES)
def test_less_memory_learns_as_well(lib, modes):
    """Over and over the same batches: nearly the loss of the plain run, which has lost most of what it began with. The second
    half's mean, as single losses are luck. The same again has the same bits."""
    batches = [[random_batch(TINY["vocab_size"], 2, 24)] for _ in range(4)] * 15

    def run(**modes):
        model = Model(lib, TINY, 2, 24, **modes)
        lib.llama3_init_weights(model.handle, 3)
        found = []
        for t, micro in enumerate(batches, 1):
            model.accumulate(micro)
            model.update(AdamWStep(3e-3, 0.9, 0.95, EPS, 0.1, 1 - 0.9**t, 1 - 0.95**t, 1.0, t, 42))
            found.append(model.result()[0])
        return torch.tensor(found)

    plain, other = run(), run(**modes)
    lost = plain[0] - plain[-4:].mean()
    nothing_rounded = lib.precision == "fp32" and "moments" not in modes
    assert lost > 0.5 * plain[0] and torch.equal(plain, other) == nothing_rounded
    assert (other[30:] - plain[30:]).mean().abs() < 0.02 * lost
    assert torch.equal(run(**modes), other)


@pytest.mark.parametrize("modes", [{}, *MODES.values()], ids=["plain", *MODES])
@pytest.mark.parametrize("shards", [1, 3])
def test_optimizer_state_on_the_host(lib, shards, modes):
    """The same bits: streamed in pieces (a bucket of 1,280,000 parameters is more than one), of a shard, after a step without an
    update, after weights that were set, and as the training arrays are read."""
    fields = TINY | dict(vocab_size=10_000, hidden_size=128)
    batches = [random_batch(fields["vocab_size"], 2, 8) for _ in range(3)]
    parallel = Parallel(zero=1, shards=shards, shard=shards - 1, replicas=1)

    def run(place):
        model = Model(lib, fields, 2, 8, parallel=parallel, optimizer_state=place, **modes)
        lib.llama3_init_weights(model.handle, 3)
        model.set_weights({"model.norm.weight": torch.full((128,), 1.25)})
        for t, batch in enumerate(batches, 1):
            model.accumulate([batch])
            limit = 0.0 if t == 2 else float("inf")  # the loss is above it
            model.update(AdamWStep(3e-3, 0.9, 0.95, EPS, 0.1, 1 - 0.9**t, 1 - 0.95**t, 1.0, t, 42), limit)
        return model.weights(), own_arrays(lib, model, shards - 1)

    (weights, arrays), (other_weights, other_arrays) = run("device"), run("host")
    assert all(torch.equal(weights[name], other_weights[name]) for name in weights)
    assert arrays.keys() == other_arrays.keys()
    assert all(torch.equal(values, other_arrays[key][1]) for key, (_, values) in arrays.items())


def test_non_finite_gradient_changes_nothing(lib):
    fields = TINY
    model = Model(lib, fields, 2, 16)
    lib.llama3_init_weights(model.handle, 3)
    bad = {n: w.clone() for n, w in model.weights().items()}
    bad["model.norm.weight"][3] = float("nan")
    model.set_weights(bad)
    model.accumulate([random_batch(fields["vocab_size"], 2, 16)])
    model.update(AdamWStep(1e-3, 0.9, 0.95, 1e-8, 0.1, 0.1, 0.05, 1.0))
    loss, norm = model.result()
    assert loss != loss and not torch.isfinite(torch.tensor(norm)) and not model.applied()
    after = model.weights()
    assert all(torch.equal(after[n].view(torch.uint8), bad[n].view(torch.uint8)) for n in bad)


def test_logits_of_the_last_position(lib):
    """Of rows of every length up to 24, judged together: a single position's error varies twofold by chance."""
    fields = TINY
    reference = transformers_model(fields)
    tokens = torch.randint(fields["vocab_size"], (24,))
    model = Model(lib, fields, 2, 32, training=False)
    model.set_weights(reference.state_dict())
    theirs = None
    with torch.no_grad():
        expected = reference(tokens[None]).logits[0]
        if lib.precision == "bf16":
            theirs = reference.to(torch.bfloat16)(tokens[None]).logits[0]
    ours = torch.stack([model.logits(tokens[:n]) for n in range(1, len(tokens) + 1)])
    compare.check("logits", ours, expected, theirs, MODEL_LIMIT)


@pytest.mark.parametrize("what", ["loss above the limit", "loss at the limit"])
def test_update_gated_by_the_loss(lib, what):
    model = Model(lib, TINY, 2, 16)
    lib.llama3_init_weights(model.handle, 3)
    before, checksum = model.weights(), model.checksum()
    batch = random_batch(TINY["vocab_size"], 2, 16)
    model.accumulate([batch])
    loss = model.loss(batch)
    model.accumulate([batch])
    limit = loss if what == "loss at the limit" else loss * (1 - 1e-6)
    model.update(AdamWStep(1e-3, 0.9, 0.95, 1e-8, 0.1, 0.1, 0.05, 1.0), limit)
    assert model.result()[0] == loss
    same = all(torch.equal(w, before[name]) for name, w in model.weights().items())
    assert model.applied() == (not same) == (what == "loss at the limit")
    assert (model.checksum() == checksum) == same


def test_initial_weights(lib):
    fields = TINY | dict(hidden_size=128, intermediate_size=256, num_hidden_layers=8)
    model = Model(lib, fields, 1, 16)
    lib.llama3_init_weights(model.handle, 11)
    first = model.weights()
    for name, w in first.items():
        w = w.float()
        if w.ndim == 1:
            assert bool((w == 1).all()), name
            continue
        std = 0.02 / (4.0 if name.endswith(("o_proj.weight", "down_proj.weight")) else 1.0)
        n = w.numel()
        assert abs(w.std().item() / std - 1) < 5 / (2 * n) ** 0.5 + 1e-3, name  # five standard errors, and bf16
        assert abs(w.mean().item()) < 5 * std / n**0.5, name
        assert w.abs().max().item() < 6 * std, name
    lib.llama3_init_weights(model.handle, 12)
    second = model.weights()
    q = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(first[q], second[q])
    assert not torch.equal(first[q], first["model.layers.1.self_attn.q_proj.weight"])
