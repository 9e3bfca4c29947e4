"""Training a part of a model (--train-only): its gradients and updates are PyTorch's with requires_grad off for the rest, the
rest keeps its bits, memory falls with what is trained, and checkpoints and resumed runs are as those of a whole one."""

import ctypes
import fnmatch
import json

import pytest
import safetensors.torch
import torch

import compare
import llmc
import model as models
import divided
from model import TINY, Model, random_batch, reference_loss, transformers_model
from modelchecks import MODEL_LIMIT
from trainrun import ON_CPU, Workplace

FIELDS = TINY | dict(num_hidden_layers=3)
Q, K, UP = (f"model.layers.1.{name}.weight" for name in ("self_attn.q_proj", "self_attn.k_proj", "mlp.up_proj"))
CHOICES = {  # patterns: the depth down to which the backward pass goes (parameters.h)
    "model.layers.2.*": 4,
    "model.layers.[12].mlp.*,lm_head.weight": 3,
    f"{K},{UP}": 2,
    "lm_head.weight": 7,
    "model.norm.weight": 6,
    "*norm*": 0,
    "model.embed_tokens.weight": -1,
    "*.o_proj.weight,model.layers.1.input_layernorm.weight": 0,
    "*": -1,
}


def trained(names, patterns):
    return {n for n in names if any(fnmatch.fnmatchcase(n, p) for p in patterns.split(","))}


def table_of(model):
    return ctypes.cast(model.lib.llama3_parameters(model.handle), ctypes.POINTER(models.ParameterTable)).contents


# ---- the table


@pytest.mark.checked
@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("only", CHOICES)
def test_layout(lib, only, shards):
    """Whole units and norms in front, the rest behind; ranges hold the trained tensors and nothing of others."""
    model = Model(lib, FIELDS, 1, 8, parallel=models.Parallel(shards=shards), only=only)
    table = table_of(model)
    chosen = trained(model.names, only)
    assert {n for n, t in zip(model.names, model.tensors) if t.trained} == chosen and table.lowest == CHOICES[only]
    assert table.num_trained == sum(t.rows * t.cols for t in model.tensors if t.trained)
    assert table.num_trained_elements == shards * table.num_shard_elements <= table.num_elements
    units = {t.unit for t in model.tensors if t.trained}
    taken = set()
    for name, t in zip(model.names, model.tensors):
        in_front = t.unit in units or t.dims == 1
        assert (t.end <= table.num_trained_elements) == in_front, name
        assert (t.offset >= table.num_trained_elements) == (not in_front), name
        bucket = table.buckets[t.bucket]
        assert not in_front or bucket.begin <= t.offset < t.end <= bucket.end
        own = set(range(t.offset, t.end, 16))
        assert not own & taken and t.end - t.offset >= t.padded_rows * t.cols
        taken |= own
    covered = set()
    for r in (table.ranges[i] for i in range(table.num_ranges)):
        assert table.buckets[r.bucket].begin <= r.begin < r.end <= table.buckets[r.bucket].end and r.begin % 128 == r.end % 128 == 0
        covered |= set(range(r.begin, r.end, 16))
    for t in model.tensors:
        own = set(range(t.offset, t.end, 16))
        assert own <= covered if t.trained else not own & covered
    assert {t.unit for n, t in zip(model.names, model.tensors) if n in (Q, K)} == {model.tensors[model.names.index(Q)].unit}


@pytest.mark.checked
def test_a_pattern_that_matches_nothing(lib):
    for only, bad in (("model.layers.7.*", "model.layers.7.*"), ("lm_head.weight,lm_haed.*", "lm_haed.*"), ("lm_head.weight,", "''")):
        error = models.Error()
        shape = models.RunShape(B=1, T=8, micro_batches=1, training=True, part=models.TrainedPart(only.encode()))
        handle = ctypes.c_void_p()
        config = models.c_config(FIELDS)
        assert lib.llama3_create(ctypes.byref(handle), ctypes.byref(config), ctypes.byref(shape), ctypes.byref(error)) == 2
        assert bad in error.message.decode() and "--train-only" in error.message.decode() and not handle


# ---- the step


def reference(state, only, batch, dtype):
    """transformers' model with requires_grad for the trained alone, after a backward pass."""
    model = transformers_model(FIELDS, dtype)
    model.load_state_dict(state)
    chosen = trained(dict(model.named_parameters()), only)
    for name, p in model.named_parameters():
        p.requires_grad_(name in chosen)
    loss = reference_loss(model, *batch)
    loss.backward()
    return loss.item(), {n: p.grad for n, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("recompute", ["none", "cheap", "block"])
@pytest.mark.parametrize("only", CHOICES)
def test_gradients_and_norm(lib, only, recompute):
    batch = random_batch(FIELDS["vocab_size"], 3, 21)
    state = transformers_model(FIELDS).state_dict()
    model = Model(lib, FIELDS, 3, 21, recompute=recompute, only=only)
    model.set_weights(state)
    model.accumulate([batch])
    expected_loss, expected = reference(state, only, batch, torch.float64)
    theirs = reference(state, only, batch, torch.bfloat16)[1] if lib.precision == "bf16" else {}
    ours = model.gradients()
    assert set(ours) == set(expected)
    for name in ours:
        compare.check(name, ours[name], expected[name], theirs.get(name), MODEL_LIMIT)
    model.update(llmc.AdamWStep(1e-3, 0.9, 0.95, 1e-8, 0.1, 0.1, 0.05, 0.0))
    loss, norm = model.result()
    square = sum(g.double().square().sum().item() for g in ours.values())
    assert norm == pytest.approx(square**0.5, rel=1e-5)
    assert loss == pytest.approx(expected_loss, rel=1e-5 if lib.precision == "fp32" else 1e-2)


def steps(model, batches, clip=0.0):
    curve = []
    for t, batch in enumerate(batches, 1):
        model.accumulate(batch)
        model.update(llmc.AdamWStep(3e-3, 0.9, 0.95, 1e-8, 0.1, 1 - 0.9**t, 1 - 0.95**t, clip))
        curve.append(model.result())
    return curve


@pytest.mark.parametrize("only", CHOICES)
def test_updates_are_those_of_the_whole_model(lib, only):
    """Without clipping a first step moves the trained tensors exactly as if everything were trained, and nothing else."""
    batches = [[random_batch(FIELDS["vocab_size"], 2, 16) for _ in range(2)]]
    state = transformers_model(FIELDS).state_dict()
    found = {}
    for choice in (only, None):
        model = Model(lib, FIELDS, 2, 16, micro_batches=2, only=choice)
        model.set_weights(state)
        steps(model, batches)
        found[choice] = model.weights()
    for name, before in state.items():
        expected = found[None][name] if name in trained(state, only) else before.to(lib.floatX)
        assert torch.equal(found[only][name], expected), name
        assert not torch.equal(found[None][name], before.to(lib.floatX)), name


def test_training_everything_by_name_changes_no_bit(lib):
    batches = [[random_batch(FIELDS["vocab_size"], 2, 16)] for _ in range(3)]
    found = []
    for only in (None, "*"):
        model = Model(lib, FIELDS, 2, 16, only=only)
        lib.llama3_init_weights(model.handle, 5)
        found.append((steps(model, batches, 1.0), model.checksum()))
    assert found[0] == found[1]


# ---- memory


def planned(lib, folder, only):
    path = folder / "config.json"
    config = models.c_config(FIELDS)
    error, text = models.Error(), ctypes.create_string_buffer(1024)
    assert lib.llama_config_write(ctypes.byref(config), ctypes.c_char_p(bytes(path)), ctypes.byref(error)) == 0
    shape = dict(B=2, T=64, micro_batches=1, training=True) | (dict(only=only) if only else {})
    text_of_shape = ctypes.c_char_p(json.dumps(shape).encode())
    assert lib.llama3_plan_text(text, ctypes.c_size_t(1024), ctypes.c_char_p(bytes(path)), text_of_shape, ctypes.byref(error)) == 0
    return json.loads(text.value)


def test_memory_falls(lib, tmp_path):
    whole = planned(lib, tmp_path, None)
    one = planned(lib, tmp_path, "model.layers.2.*")
    model = Model(lib, FIELDS, 1, 8, only="model.layers.2.*")
    layer = sum(t.rows * t.cols for n, t in zip(model.names, model.tensors) if ".2." in n and t.dims == 2)
    norms = 7 * 128  # each padded
    room = 4 * (128 + 256)
    assert one["parameters"] == whole["parameters"]
    assert 4 * (layer + norms) <= one["gradients"] <= 4 * (layer + norms) + room
    assert one["optimizer state"] == pytest.approx(3 * one["gradients"], abs=room)
    # two blocks share what each of three has: the one that is trained keeps its own
    assert one["activations"] < 0.75 * whole["activations"]
    assert planned(lib, tmp_path, "*") == whole


# ---- ranks


@pytest.mark.skipif(not ON_CPU, reason="ranks share no GPU here")
@pytest.mark.parametrize("only", ["model.layers.[12].mlp.*,lm_head.weight", f"{K},{UP},*norm*", "model.embed_tokens.weight"])
def test_ranks(lib, tmp_path, only):
    """Divided in every way: like one rank, the same on all, and what is frozen keeps its bits."""
    first = divided.job(lib, FIELDS) | dict(only=only)
    jobs = [first | dict(zero=zero, shards=shards) for zero, shards in ((0, 1), (1, 2), (2, 2))]
    for what, result in zip(jobs, divided.by_ranks(jobs, 2, tmp_path)):
        divided.check_against_one(lib, what, result, what["shards"])
        divided.same(result[1], result[0])
        start = Model(lib, FIELDS, 2, 9)
        lib.llama3_init_weights(start.handle, 7)
        chosen = trained(start.names, only)
        for name, values in start.weights().items():
            assert torch.equal(result[0]["weights"][name], values) == (name not in chosen), name


# ---- through the program

ONLY = "model.layers.1.*,model.norm.weight"


@pytest.fixture
def work(tmp_path):
    return Workplace(tmp_path)


def tensors(folder, name="model.safetensors"):
    return safetensors.torch.load_file(folder / name)


def test_run_checkpoint_and_resume(work):
    work.run(steps=2, lr="0", output=work.folder / "start")
    start = work.folder / "start/checkpoint"
    common = dict(config=None, init_from=start, train_only=ONLY, schedule_steps=8, checksum_every=1)
    out, _ = work.run(**common, steps=8, save_every=4, output=work.folder / "whole")
    assert "trained   " in out
    work.run(**common, steps=4, output=work.folder / "half")
    work.run(**common, steps=8, output=work.folder / "half", resume="auto")
    whole, half = work.folder / "whole/checkpoint", work.folder / "half/checkpoint"
    before, after = tensors(start), tensors(whole)
    assert before.keys() == after.keys()
    for name in before:
        assert torch.equal(before[name], after[name]) == (name not in trained(before, ONLY)), name
    for name in ("model.safetensors", "trainer/optimizer.safetensors"):
        assert (whole / name).read_bytes() == (half / name).read_bytes(), name
    expected = {f"{array}.{n}" for array in ("master", "moment1", "moment2") for n in trained(before, ONLY)}
    assert set(tensors(whole, "trainer/optimizer.safetensors")) == expected
    # written in the background from a snapshot, frozen tensors too
    background = tensors(work.folder / "whole/checkpoints/step_00000004")
    assert all(torch.equal(background[n], before[n]) == (n not in trained(before, ONLY)) for n in before)


@pytest.mark.parametrize("ranks_of", [1, 2] if ON_CPU else [1])
def test_mean_over_steps(work, ranks_of):
    """The mean of what is trained; the rest as it was, also while the mean is in use for an evaluation."""
    common = dict(train_only=ONLY, steps=4, average_from=2, save_every=2, val_data=work.data / "val_*.bin", eval_every=2, seed=5)
    if ranks_of == 1:
        work.run(precision="fp32", **common)
    else:
        work.run_ranks(2, **common | dict(batch_size=2))
    checkpoint = work.output / "checkpoint"
    mean = tensors(checkpoint / "averaged")
    last = {}
    for path in checkpoint.glob("model*.safetensors"):
        last |= safetensors.torch.load_file(path)
    assert mean.keys() == last.keys()
    for name in mean:
        assert torch.equal(mean[name], last[name]) == (name not in trained(mean, ONLY)), name


def test_other_patterns_on_resume(work):
    work.run(steps=2, train_only=ONLY)
    long = ",".join(10 * ["model.layers.1.*"])
    work.refused("--train-only", "lm_head.weight", steps=4, train_only="lm_head.weight", resume="auto")
    work.refused("--train-only", steps=4, resume="auto")
    work.refused("trains it no more", steps=4, train_only="lm_head.weight", resume="auto", more=["--accept-changes"])
    work.run(steps=2, train_only=long, output=work.folder / "long")
    work.refused("--train-only", steps=4, train_only=long + ",lm_head.weight", resume="auto", output=work.folder / "long")


def test_refused_pattern(work):
    work.refused("--train-only", "model.layers.9.*", train_only="model.layers.9.*")


@pytest.mark.skipif(not ON_CPU, reason="ranks share no GPU here")
@pytest.mark.parametrize("zero", [1, 2])
def test_ranks_resume(work, zero):
    common = dict(train_only=ONLY, schedule_steps=6, batch_size=2, zero=zero)
    work.run_ranks(2, **common, steps=6, save_every=3, output=work.folder / "whole")
    work.run_ranks(2, **common, steps=3, output=work.folder / "half")
    work.run_ranks(2, **common, steps=6, output=work.folder / "half", resume="auto")
    whole, half = work.folder / "whole/checkpoint", work.folder / "half/checkpoint"
    names = sorted(p.relative_to(whole) for p in whole.rglob("*.safetensors"))
    assert len(names) == 4
    for name in names:
        assert (whole / name).read_bytes() == (half / name).read_bytes(), name
    # by one rank, from parts
    work.run(precision="fp32", **common | dict(batch_size=4), steps=6, output=work.folder / "one", resume=work.folder / "whole/checkpoints/step_00000003")
    one = tensors(work.folder / "one/checkpoint")
    for name, values in one.items():
        part = next(t for p in whole.glob("model-*.safetensors") if name in (t := safetensors.torch.load_file(p)))
        assert compare.relative_error(values, part[name]) < 1e-4, name


def test_tied_head(work):
    """The message says which matrix it is, and that one can be trained."""
    config = work.folder / "tied.json"
    config.write_text(json.dumps({**json.loads((work.folder / "config.json").read_text()), "tie_word_embeddings": True}))
    work.refused("'lm_head.*' matches none", "tied to the embedding", "model.embed_tokens.weight",
                 train_only="model.norm.weight,lm_head.*", config=config)  # fmt: skip
    work.run(train_only="model.embed_tokens.weight", config=config, output=work.folder / "tied", steps=1)


def test_reward_models_head(lib):
    with pytest.raises(AssertionError, match="'lm_head.weight' matches none: a reward model has score.weight"):
        Model(lib, FIELDS | dict(num_labels=1), 1, 8, only="lm_head.weight")
