"""Adapters (--lora-rank) against PEFT: logits and every adapter's gradient, files that peft opens, runs that are resumed, and
the merged model."""

import ctypes
import os
import shutil
import warnings

import pytest
import safetensors.torch
import torch

import compare
import llmc
import model as models
import divided
from finetuning import LORA, Finetuning
from model import TINY, Model, random_batch, reference_loss, transformers_model
from hfmodels import make_model
from modeltools import MERGE
from modelchecks import MODEL_LIMIT
from trainrun import ON_CPU, VOCAB, Workplace, read_log

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import peft  # noqa: E402
import transformers  # noqa: E402

ALL = "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"
FIELDS = TINY | dict(num_hidden_layers=2)
CHOICES = {
    "all": (8, 8.0, None),
    "rank 24": (24, 5.0, "down_proj,v_proj,q_proj"),
    "k alone": (8, 8.0, "k_proj"),
    "up and o": (16, 3.5, "o_proj,up_proj"),
}
PREFIX = "base_model.model."
# "Small in itself": PyTorch's bf16 gradients of adapters, which pass two more rounded products, are off by up to 10 %.
LORA_LIMIT = 0.2


def with_peft(base, lora, kind="CAUSAL_LM"):
    """PEFT's model on that base, with random adapters that are bf16 numbers."""
    rank, alpha, targets = lora
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=(targets or ALL).split(","), task_type=kind, lora_dropout=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(base, config, autocast_adapter_dtype=False)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_" in name:
                # smaller than weights: ones as large saturate attention, and then nothing has a gradient worth comparing
                values = torch.randn_like(p) / p.shape[-1] ** 0.5 * (0.5 if "lora_B" in name else 1)
                p.copy_(values.to(torch.bfloat16).to(p.dtype))
    return model


def adapters_of(model):
    """By the names of a file."""
    return {n.replace(".default", ""): p for n, p in model.named_parameters() if "lora_" in n}


def weights_of(model):
    """By the names of our table."""
    base = {n.removeprefix(PREFIX).replace(".base_layer", ""): p for n, p in model.named_parameters() if "lora_" not in n}
    return {n: p.detach() for n, p in (base | adapters_of(model)).items()}


def copy_of(weights, lora, dtype):
    """A second PEFT model with these weights."""
    model = with_peft(transformers_model(FIELDS, dtype), lora).to(dtype)
    with torch.no_grad():
        for name, p in weights_of(model).items():
            p.copy_(weights[name])
    return model


# ---- the table


@pytest.mark.checked
@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("lora", CHOICES.values(), ids=CHOICES)
def test_table(lib, lora, shards):
    """The base frozen behind, adapters with PEFT's names and shapes in their layer's bucket."""
    model = Model(lib, FIELDS, 1, 8, parallel=models.Parallel(shards=shards), lora=lora)
    theirs = with_peft(transformers_model(FIELDS), lora)
    expected = {n: tuple(p.shape) for n, p in adapters_of(theirs).items()}
    trained = {n: model.shape(i) for i, n in enumerate(model.names) if model.tensors[i].trained}
    assert trained == expected and set(model.names) == set(weights_of(theirs))
    table = ctypes.cast(lib.llama3_parameters(model.handle), ctypes.POINTER(models.ParameterTable)).contents
    for name, t in zip(model.names, model.tensors):
        assert t.offset % 128 == 0 and (t.end <= table.num_trained_elements) == (t.trained or t.dims == 1), name
        if t.trained:
            layer = int(name.split("layers.")[1].split(".")[0])
            bucket = table.buckets[1 + layer]
            assert bucket.begin <= t.offset < t.end <= bucket.end and t.decay
    assert table.num_trained == sum(p.numel() for p in adapters_of(theirs).values())


@pytest.mark.checked
@pytest.mark.parametrize("lora, word", [((12, 1, None), "--lora-rank 12"), ((1032, 1, None), "1032"), ((-8, 1, None), "-8"),
                                        ((8, 1, "q_proj,qproj"), "'qproj'"), ((8, 1, "q_proj,"), "''")])  # fmt: skip
def test_refused(lib, lora, word):
    error, handle = models.Error(), ctypes.c_void_p()
    config, shape = models.c_config(FIELDS), models.RunShape(B=1, T=8, micro_batches=1, training=True, part=models.part(lora=lora))
    assert lib.llama3_create(ctypes.byref(handle), ctypes.byref(config), ctypes.byref(shape), ctypes.byref(error)) == 2
    assert word in error.message.decode()


@pytest.mark.checked
def test_initial_adapters(lib):
    """B is 0, A uniform as PEFT draws it; each of its own, by the seed."""
    model = Model(lib, FIELDS | dict(hidden_size=128), 1, 8, lora=(64, 16, None))
    drawn = []
    for seed in (3, 4, 3):
        lib.llama3_init_adapters(model.handle, seed)
        drawn.append({n: w.float() for n, w in model.weights().items() if "lora_" in n})
    assert all(torch.equal(drawn[0][n], drawn[2][n]) for n in drawn[0])
    values = [w for n, w in drawn[0].items() if "lora_A" in n]
    for name, w in drawn[0].items():
        if "lora_B" in name:
            assert not w.any()
            continue
        bound, count = w.shape[1] ** -0.5, w.numel()
        # a rounding of bf16 beyond the bound; moments of a uniform distribution within five standard errors
        assert w.abs().max() <= bound * (1 + 2**-8) and w.abs().max() > 0.99 * bound
        assert abs(w.mean()) < 5 * bound / (3 * count) ** 0.5
        assert abs(w.square().mean() / (bound**2 / 3) - 1) < 5 * (0.8 / count) ** 0.5 + 2**-8
        assert not torch.equal(w, drawn[1][name])
        assert sum(a.shape == w.shape and torch.equal(a, w) for a in values) == 1


# ---- the step


@pytest.mark.parametrize("recompute", ["none", "cheap", "block"])
@pytest.mark.parametrize("lora", CHOICES.values(), ids=CHOICES)
def test_every_gradient(lib, lora, recompute):
    batch = random_batch(FIELDS["vocab_size"], 3, 21)
    weights = weights_of(with_peft(transformers_model(FIELDS), lora))
    ours = Model(lib, FIELDS, 3, 21, recompute=recompute, lora=lora)
    ours.set_weights(weights)
    ours.accumulate([batch])

    def reference(dtype):
        model = copy_of(weights, lora, dtype)
        loss = reference_loss(model, *batch)
        loss.backward()
        return loss.item(), {n: p.grad for n, p in adapters_of(model).items()}

    expected_loss, expected = reference(torch.float64)
    theirs = reference(torch.bfloat16)[1] if lib.precision == "bf16" else {}
    found = ours.gradients()
    assert set(found) == set(expected)
    for name in found:
        compare.check(name, found[name], expected[name], theirs.get(name), LORA_LIMIT)
    ours.update(llmc.AdamWStep(1e-3, 0.9, 0.95, 1e-8, 0.1, 0.1, 0.05, 0.0))
    loss, norm = ours.result()
    assert loss == pytest.approx(expected_loss, rel=1e-5 if lib.precision == "fp32" else 1e-2)
    assert norm == pytest.approx(sum(g.double().square().sum().item() for g in found.values()) ** 0.5, rel=1e-5)
    after = ours.weights()
    for name, before in weights.items():
        assert torch.equal(after[name], before.to(lib.floatX)) == ("lora_" not in name), name


@pytest.mark.parametrize("lora", CHOICES.values(), ids=CHOICES)
def test_logits(lib, lora):
    weights = weights_of(with_peft(transformers_model(FIELDS), lora))
    tokens = torch.randint(FIELDS["vocab_size"], (24,))
    ours = Model(lib, FIELDS, 1, 32, training=False, lora=lora)
    ours.set_weights(weights)
    found = torch.stack([ours.logits(tokens[:n]) for n in range(1, len(tokens) + 1)])
    with torch.no_grad():
        expected = copy_of(weights, lora, torch.float64)(tokens[None]).logits[0]
        theirs = copy_of(weights, lora, torch.bfloat16)(tokens[None]).logits[0] if lib.precision == "bf16" else None
        without = transformers_model(FIELDS)
        without.load_state_dict({n: w for n, w in weights.items() if "lora_" not in n})
        assert compare.relative_error(without(tokens[None]).logits[0], expected) > 0.02  # adapters count
    compare.check("logits", found, expected, theirs, MODEL_LIMIT)


def test_begins_as_the_base(lib):
    """With B = 0 loss and logits have the bits of the base alone."""
    state = transformers_model(FIELDS).state_dict()
    batch = random_batch(FIELDS["vocab_size"], 2, 16)
    base, adapted = Model(lib, FIELDS, 2, 16), Model(lib, FIELDS, 2, 16, lora=(8, 16, None))
    for model in (base, adapted):
        model.set_weights(state)
    lib.llama3_init_adapters(adapted.handle, 1)
    assert base.loss(batch) == adapted.loss(batch)


def test_small_updates_are_not_lost(lib):
    """An adapter's effect far below a weight's last bf16 place still moves the logits: it is never merged into weights."""
    lora = (8, 1e-3, "q_proj,down_proj")
    weights = weights_of(with_peft(transformers_model(FIELDS), lora))
    batch = random_batch(FIELDS["vocab_size"], 2, 16)
    model = Model(lib, FIELDS, 2, 16, lora=lora)
    model.set_weights(weights)
    model.accumulate([batch])
    scales = [g.norm().item() for g in model.gradients().values()]
    assert min(scales) > 0
    before = model.weights()
    for t in range(1, 4):
        model.accumulate([batch])
        model.update(llmc.AdamWStep(1e-2, 0.9, 0.95, 1e-12, 0.0, 1 - 0.9**t, 1 - 0.95**t, 0.0))
    assert all(not torch.equal(w, before[n]) for n, w in model.weights().items() if "lora_" in n)


@pytest.mark.skipif(not ON_CPU, reason="ranks share no GPU here")
def test_ranks(lib, tmp_path):
    first = divided.job(lib, FIELDS) | dict(lora=(8, 16.0, "q_proj,v_proj,down_proj"))
    jobs = [first | dict(zero=zero, shards=shards) for zero, shards in ((0, 1), (1, 2), (2, 2))]
    for what, result in zip(jobs, divided.by_ranks(jobs, 2, tmp_path)):
        divided.check_against_one(lib, what, result, what["shards"])
        divided.same(result[1], result[0])


# ---- kernels


@pytest.mark.checked
@pytest.mark.parametrize("N, width, first, cols", [(1, 16, 0, 16), (7, 192, 64, 48), (5, 4096, 2048, 2048), (3, 4224, 64, 2064), (300, 64, 48, 16)])
def test_columns(lib, N, width, first, cols):
    y, x = torch.randn(N, width).to(lib.floatX), torch.randn(N, cols).to(lib.floatX)
    expected, room = y.double(), torch.zeros(N, width, dtype=torch.float64)
    expected[:, first : first + cols] += 0.37 * x.double()
    room[:, first : first + cols] = x.double().abs()
    found, out = y.clone(), torch.full((N, cols), float("nan"), dtype=lib.floatX)
    lib.lora_add(found, x, 0.37, N, width, first, cols)
    assert torch.equal(torch.cat([found[:, :first], found[:, first + cols :]], 1), torch.cat([y[:, :first], y[:, first + cols :]], 1))
    # one rounding to floatX, and fp32's of scale, product and sum
    rounding = 2.0**-8 if lib.precision == "bf16" else 2.0**-24
    assert ((found.double() - expected).abs() <= rounding * expected.abs() + 2.0**-23 * (room + expected.abs())).all()
    lib.lora_take(out, y, 0.37, N, width, first, cols)
    assert torch.equal(out, (0.37 * y[:, first : first + cols].float()).to(lib.floatX))


# ---- through the program

T = 24


@pytest.fixture
def work(tmp_path):
    return Workplace(tmp_path)


def make_base(work, precision="fp32", **fields):
    """A model that transformers drew, whose every part shows in its logits."""
    folder = work.folder / "base"
    make_model(folder, torch.float32 if precision == "fp32" else torch.bfloat16, **fields)
    shutil.copy(work.data / "tokenizer.json", folder)
    return folder


def open_peft(folder, base=None, kind="AutoModelForCausalLM", dtype=torch.float32):
    base = getattr(transformers, kind).from_pretrained(base or peft.PeftConfig.from_pretrained(folder).base_model_name_or_path, dtype=dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # missing or unexpected adapters
        warnings.simplefilter("ignore", FutureWarning)
        return peft.PeftModel.from_pretrained(base, folder).eval()


def tensors(folder, name="adapter_model.safetensors"):
    return safetensors.torch.load_file(folder / name)


def logits(model, tokens):
    with torch.no_grad():
        return model(tokens).logits


def test_adapters_travel(work):
    """Trained, written in PEFT's format, opened by peft, merged, and read by train_llama3 again: one model."""
    with torch.random.fork_rng():
        torch.manual_seed(1)  # how far the loss falls hangs on the base
        base = make_base(work)
    out, _ = work.run(precision="fp32", config=None, init_from=base, steps=20, val_data=work.data / "val_*.bin", eval_every=20,
                      eval_batches=4, sample_every=20, **LORA)  # fmt: skip
    assert "trained   " in out
    losses = [line["loss"] for line in work.log() if "loss" in line]
    assert losses[-1] < losses[0] - 0.3
    folder = work.output / "checkpoint"
    files = {p.name for p in folder.iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "trainer"} <= files
    assert not any(name.startswith("model") or name == "config.json" for name in files)
    written = tensors(folder)
    model = open_peft(folder)
    assert set(written) == set(adapters_of(model)) and len(written) == 2 * 7 * 2
    for name, p in adapters_of(model).items():
        assert torch.equal(p, written[name]) and (p.any() or "lora_B" not in name)
    MERGE.make(work.folder / "merged", folder)
    merged = transformers.AutoModelForCausalLM.from_pretrained(work.folder / "merged", dtype=torch.float32)
    tokens = torch.randint(VOCAB, (2, T))
    with_adapters, whole = logits(model, tokens), logits(merged, tokens)
    assert compare.relative_error(whole, with_adapters) < compare.FP32_LIMIT
    assert compare.relative_error(logits(transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), tokens), whole) > 0.05
    # the program's own forward pass gives the merged model the loss that it gave base and adapters
    out, _ = work.run(precision="fp32", config=None, init_from=work.folder / "merged", steps=1, lr="0", val_data=work.data / "val_*.bin",
                      eval_every=1, eval_batches=4, output=work.folder / "again")  # fmt: skip
    again = [line["val_loss"] for line in read_log(work.folder / "again/log.jsonl") if "val_loss" in line][0]
    assert again == pytest.approx([line["val_loss"] for line in work.log() if "val_loss" in line][-1], rel=1e-5)


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_resume(work, precision):
    base = make_base(work, precision)
    common = dict(precision=precision, config=None, init_from=base, schedule_steps=8, **LORA)
    work.run(**common, steps=8, save_every=4, output=work.folder / "whole")
    work.run(**common, steps=4, output=work.folder / "half")
    common.pop("init_from")  # the checkpoint knows it
    work.run(**common, steps=8, output=work.folder / "half", resume="auto")
    whole, half = work.folder / "whole/checkpoint", work.folder / "half/checkpoint"
    for name in ("adapter_model.safetensors", "trainer/optimizer.safetensors", "adapter_config.json"):
        assert (whole / name).read_bytes() == (half / name).read_bytes(), name
    background = work.folder / "whole/checkpoints/step_00000004"
    assert set(tensors(background)) == set(tensors(whole)) and not torch.equal(*(tensors(f)[sorted(tensors(f))[0]] for f in (background, whole)))
    # another base, or a changed one, is refused
    common.update(output=work.folder / "half", resume="auto", steps=9)
    other = work.folder / "other"
    shutil.copytree(base, other)
    weights = safetensors.torch.load_file(other / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 5] += 1
    safetensors.torch.save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    work.refused(other, "fingerprint", **common | dict(init_from=other))
    work.refused("--lora-rank 16 (was 8)", **common | dict(lora_rank=16))
    work.refused("--lora-targets", **common, lora_targets="q_proj")
    work.refused("adapters", "--lora-rank 8", **common | dict(lora_rank=None, lora_alpha=None))
    shutil.rmtree(base)
    work.refused(base, "--init-from", **common)


def test_refused_options(work):
    base = make_base(work)
    work.refused("--lora-rank 12", "multiple of 8", config=None, init_from=base, lora_rank=12)
    work.refused("--lora-targets", "'head'", config=None, init_from=base, lora_rank=8, lora_targets="q_proj,head")
    work.refused("--lora-rank", "--init-from", lora_rank=8)
    work.refused("--lora-alpha", "--lora-rank", config=None, init_from=base, lora_alpha=3)
    work.refused("--train-only", "--lora-rank", config=None, init_from=base, lora_rank=8, train_only="*")


@pytest.mark.skipif(not ON_CPU, reason="ranks share no GPU here")
@pytest.mark.parametrize("zero", [1, 2])
def test_ranks_write_and_resume(work, zero):
    base = make_base(work)
    common = dict(config=None, init_from=base, schedule_steps=6, batch_size=2, zero=zero, average_from=2, **LORA)
    work.run_ranks(2, **common, steps=6, save_every=3, output=work.folder / "whole")
    work.run_ranks(2, **common, steps=3, output=work.folder / "half")
    work.run_ranks(2, **common, steps=6, output=work.folder / "half", resume="auto")
    whole, half = work.folder / "whole/checkpoint", work.folder / "half/checkpoint"
    names = sorted(p.relative_to(whole) for p in whole.rglob("*.safetensors"))
    assert len(names) == 4  # adapters, the mean's, and two parts of the optimizer's state
    for name in names:
        assert (whole / name).read_bytes() == (half / name).read_bytes(), name
    open_peft(whole)
    open_peft(whole / "averaged")
    assert not torch.equal(tensors(whole)[sorted(tensors(whole))[0]], tensors(whole / "averaged")[sorted(tensors(whole))[0]])
    # one rank goes on from the parts
    work.run(precision="fp32", **common | dict(batch_size=4), steps=6, output=work.folder / "one",
             resume=work.folder / "whole/checkpoints/step_00000003")  # fmt: skip
    one = tensors(work.folder / "one/checkpoint")
    for name, values in tensors(whole).items():
        assert compare.relative_error(one[name], values) < 1e-2, name  # AdamW's steps of tiny gradients go either way


def test_reward_model(tmp_path):
    """Its head is trained too, and travels as one of PEFT's modules_to_save."""
    work = Finetuning(tmp_path)
    common = work.task("reward", precision="fp32", schedule_steps=6) | LORA
    common.pop("steps")
    work.run(**common, steps=6, output=tmp_path / "whole")
    work.run(**common, steps=3, output=tmp_path / "half")
    work.run(**common, steps=6, output=tmp_path / "half", resume="auto")
    folder = tmp_path / "whole/checkpoint"
    assert (folder / "adapter_model.safetensors").read_bytes() == (tmp_path / "half/checkpoint/adapter_model.safetensors").read_bytes()
    written = tensors(folder)
    assert PREFIX + "score.weight" in written
    base = transformers.AutoModelForSequenceClassification.from_pretrained(work.base, num_labels=1, dtype=torch.float32)
    model = peft.PeftModel.from_pretrained(base, folder).eval()
    assert torch.equal(model.base_model.model.score.modules_to_save["default"].weight, written[PREFIX + "score.weight"])
    MERGE.make(tmp_path / "merged", folder)
    merged, info = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and merged.config.num_labels == 1
    tokens = torch.randint(1, VOCAB, (5, T))
    model.config.pad_token_id = base.config.pad_token_id = merged.config.pad_token_id = 0
    assert compare.relative_error(logits(merged, tokens), logits(model, tokens)) < compare.FP32_LIMIT
