"""merge_lora: the merged model is what PEFT merges, what cannot be merged is refused by name, and the output appears whole or
not at all. Adapters are saved by PEFT itself."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import time

import pytest
import safetensors.torch
import torch

import checkpoints
import compare
from adapters import PREFIX, SAME_LOGITS, add, edit_adapter, edit_fields, logits, make_adapter, open_base, random_tokens
from hfmodels import edit_config, edit_weights, load, make_model, mixed_dtypes, same_bits, slow_model
from modeltools import MERGE
from trainrun import write_tokenizer

import peft
import transformers  # offline, as hfmodels has seen to

MARK = MERGE.mark
merge, refused, run = MERGE.make, MERGE.refused, MERGE.run
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def their_merge(base, adapter, task="CAUSAL_LM"):
    """In fp32 throughout: fp16 and bf16 are held exactly."""
    return peft.PeftModel.from_pretrained(open_base(base, task, torch.float32), adapter).merge_and_unload()


def check_close(found, theirs, dtypes):
    """fp32 sums of r products in two orders differ by a few 2^-24 of the sum of magnitudes; narrower types then by the step
    to a neighbour where the sum lies on a border: one unit in the last place (2^-7 of bf16, 2^-10 of fp16)."""
    theirs = {name: value.detach() for name, value in theirs.items()}
    for name, value in found.items():
        assert value.dtype == dtypes[name], name
        exact, step = theirs[name].float(), {torch.float32: 1e-6, torch.bfloat16: 2**-7, torch.float16: 2**-10}[value.dtype]
        assert value.shape == exact.shape
        error = (value.float() - exact.to(value.dtype).float()).abs()
        assert (error <= step * exact.abs() + 1e-6 * exact.abs().max()).all(), (name, error.max())
        if value.dtype != torch.float32:  # the step is rare: both round the same sum
            assert (error > 0).float().mean() < 0.01, name


@pytest.fixture
def base(tmp_path):
    make_model(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def adapter(base, tmp_path):
    return make_adapter(tmp_path / "adapter", base)


# ---- what it computes

SHAPES = {
    "grouped": {},
    "wide heads": {"head_dim": 32, "hidden_size": 72, "num_attention_heads": 3, "num_key_value_heads": 1},
    "wider than a piece of columns": {"hidden_size": 1032, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 16, "num_hidden_layers": 1},
    "more than a piece": {"intermediate_size": 4104, "num_hidden_layers": 1},
    "tied": {"tie_word_embeddings": True},
}  # fmt: skip
KINDS = {
    "fp32": {"dtype": torch.float32},
    "bf16": {"dtype": torch.bfloat16},
    "fp16": {"dtype": torch.float16},
    "bf16 in several files": {"dtype": torch.bfloat16, "shard": "60KB"},
}


@pytest.mark.checked
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_weights_are_peft_s(tmp_path, shape, kind):
    base, out = tmp_path / "base", tmp_path / "out"
    make_model(base, **SHAPES[shape], **KINDS[kind])
    adapter = make_adapter(tmp_path / "adapter", base, r=random.randint(1, 20), use_rslora=random.random() < 0.5,
                           target_modules=random.sample(ALL, random.randint(1, 7)))  # fmt: skip
    before, theirs = load(base), their_merge(base, adapter)
    found = merge(out, adapter)  # the base is the one that the adapter names
    assert set(found) == set(before)
    check_close(found, theirs.state_dict(), {name: value.dtype for name, value in before.items()})
    targets = json.loads((adapter / "adapter_config.json").read_text())["target_modules"]
    for name in found:  # what has no adapter is the base's, bit for bit
        changed = name.split(".")[-2] in targets
        assert torch.equal(found[name], before[name]) != changed, name
    assert checkpoints.files(out) == sorted([MARK, *checkpoints.files(base)])
    assert (out / "config.json").read_bytes() == (base / "config.json").read_bytes()
    index = "model.safetensors.index.json"
    if (base / index).exists():
        ours, old = (json.loads((folder / index).read_text()) for folder in (out, base))
        assert ours["weight_map"] == old["weight_map"] and ours["metadata"]["total_size"] == old["metadata"]["total_size"]


def test_logits_are_peft_s(base, adapter, tmp_path):
    merge(tmp_path / "out", adapter, "--base", base)
    model, said = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(said[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    tokens = random_tokens()
    theirs = logits(their_merge(base, adapter), tokens)
    assert compare.relative_error(logits(model, tokens), theirs) < SAME_LOGITS
    assert compare.relative_error(logits(open_base(base), tokens), theirs) > 0.01


def test_types(base, tmp_path):
    """Of several types in the base, and of both factors; fp32 and bf16 on demand."""
    edit_weights(base, mixed_dtypes)
    adapter = make_adapter(tmp_path / "adapter", base, target_modules="all-linear")
    edit_adapter(adapter, mixed_dtypes)
    before, theirs = load(base), their_merge(base, adapter).state_dict()
    check_close(merge(tmp_path / "same", adapter), theirs, {name: value.dtype for name, value in before.items()})
    for option, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        found = merge(tmp_path / option, adapter, "--dtype", option)
        check_close(found, theirs, dict.fromkeys(theirs, dtype))
        fields = json.loads((tmp_path / option / "config.json").read_text())
        assert fields["dtype"] == fields["torch_dtype"] == str(dtype).split(".")[1]
        opened = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / option, dtype="auto")
        assert opened.dtype == dtype


def test_whole_modules(base, tmp_path):
    """modules_to_save replaces; so do embeddings that PEFT saves unasked."""
    adapter = make_adapter(tmp_path / "adapter", base, modules_to_save=["lm_head", "embed_tokens", "layers.1.mlp.up_proj"])
    theirs, before = their_merge(base, adapter).state_dict(), load(base)
    found = merge(tmp_path / "out", adapter)
    check_close(found, theirs, dict.fromkeys(theirs, torch.float32))
    for name in ("lm_head.weight", "model.embed_tokens.weight", "model.layers.1.mlp.up_proj.weight"):
        assert torch.equal(found[name], theirs[name]) and not torch.equal(found[name], before[name])


def test_some_layers(base, tmp_path):
    adapter = make_adapter(tmp_path / "adapter", base, layers_to_transform=[1])
    theirs = their_merge(base, adapter).state_dict()
    check_close(merge(tmp_path / "out", adapter), theirs, dict.fromkeys(theirs, torch.float32))


def test_all_linear_spelt_out(base, tmp_path):
    adapter = make_adapter(tmp_path / "adapter", base, target_modules="all-linear")
    expected = merge(tmp_path / "a", adapter)
    edit_fields(adapter, target_modules="all-linear")
    same_bits(merge(tmp_path / "b", adapter), expected)


@pytest.mark.checked
def test_two_runs_give_the_same(base, adapter, tmp_path):
    same_bits(merge(tmp_path / "a", adapter), merge(tmp_path / "b", adapter))


# ---- reward models


@pytest.mark.checked
@pytest.mark.parametrize("shard", ["1GB", "60KB"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("tied", [False, True])
def test_language_model_becomes_a_reward_model(tmp_path, dtype, tied, shard):
    base, out = tmp_path / "base", tmp_path / "out"
    make_model(base, dtype=dtype, shard=shard, tie_word_embeddings=tied, eos_token_id=0, pad_token_id=0)
    edit_config(base, lambda fields: fields.update(pad_token_id=7))
    adapter = make_adapter(tmp_path / "adapter", base, "SEQ_CLS")
    assert json.loads((adapter / "adapter_config.json").read_text())["modules_to_save"] == ["classifier", "score"]
    score = safetensors.torch.load_file(adapter / "adapter_model.safetensors")[PREFIX + "score.weight"]
    theirs = their_merge(base, adapter, "SEQ_CLS")
    found = merge(out, adapter)
    check_close(found, theirs.state_dict(), dict.fromkeys(found, dtype) | {"score.weight": score.dtype})
    assert set(found) == set(theirs.state_dict()) and torch.equal(found["score.weight"], score)
    fields = json.loads((out / "config.json").read_text())
    assert fields["architectures"] == ["LlamaForSequenceClassification"] and fields["pad_token_id"] == 7
    assert fields["dtype"] == str(dtype).split(".")[1] and "torch_dtype" not in fields
    model, said = transformers.AutoModelForSequenceClassification.from_pretrained(out, dtype=torch.float32, output_loading_info=True)
    assert not any(said[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")) and model.config.num_labels == 1
    tokens = 8 + torch.randint(0, 200, (3, 11))
    with torch.no_grad():
        ours, expected = model(tokens).logits, theirs.to(dtype).float()(tokens).logits  # rounded once, as ours
    assert ours.shape == (3, 1)
    assert (ours - expected).abs().max() < (1e-4 if dtype == torch.float32 else 0.05) * found["score.weight"].float().norm()


def test_reward_model_goes_on(base, tmp_path):
    """A base that is one already."""
    reward = merge(tmp_path / "reward", make_adapter(tmp_path / "first", base, "SEQ_CLS"))
    adapter = make_adapter(tmp_path / "second", tmp_path / "reward", "SEQ_CLS")
    theirs = their_merge(tmp_path / "reward", adapter, "SEQ_CLS").state_dict()
    found = merge(tmp_path / "out", adapter)
    check_close(found, theirs, dict.fromkeys(theirs, torch.float32))
    assert not torch.equal(found["score.weight"], reward["score.weight"])
    edit_fields(adapter, task_type="CAUSAL_LM")
    refused("task_type", '"CAUSAL_LM"', '"SEQ_CLS"', output=tmp_path / "no", adapter=adapter)


def test_reward_models_that_are_refused(base, tmp_path):
    adapter = make_adapter(tmp_path / "adapter", base, "SEQ_CLS")
    out = tmp_path / "out"
    kept = safetensors.torch.load_file(adapter / "adapter_model.safetensors")
    edit_adapter(adapter, lambda t: t.update({PREFIX + "score.weight": torch.randn(2, 64)}))
    refused("score.weight", "[2, 64]", "[1, 64]", output=out, adapter=adapter)
    edit_adapter(adapter, lambda t: t.pop(PREFIX + "score.weight"))
    refused(PREFIX + "score.weight", "missing", "SEQ_CLS", output=out, adapter=adapter)
    safetensors.torch.save_file(kept, adapter / "adapter_model.safetensors")
    edit_fields(adapter, task_type="CAUSAL_LM")
    refused(PREFIX + "score.weight", "has no", '"score.weight"', base, output=out, adapter=adapter)


# ---- files beside the weights


def test_a_changed_head_that_the_base_has_not(base, tmp_path):
    """A language model has no score that an adapter could change."""
    adapter = make_adapter(tmp_path / "hostile", base, "SEQ_CLS", r=4)
    edit_fields(adapter, target_modules=["score"], modules_to_save=None)

    def change(tensors):
        tensors.clear()
        tensors["base_model.model.score.lora_A.weight"] = torch.randn(4, 64)
        tensors["base_model.model.score.lora_B.weight"] = torch.randn(1, 4)

    edit_adapter(adapter, change)
    refused("base_model.model.score.weight", "is missing", output=tmp_path / "out", adapter=adapter)


def test_files_travel(base, adapter, tmp_path):
    names = ["tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "generation_config.json"]
    out = tmp_path / "out"
    said = lambda: {name: (out / name).read_text() for name in names if (out / name).exists()}  # noqa: E731
    for name in names:
        (base / name).write_text("base")
    merge(out, adapter)
    assert said() == dict.fromkeys(names, "base")
    (adapter / "chat_template.jinja").write_text("adapter")
    merge(out, adapter, "--overwrite")
    assert said() == dict.fromkeys(names, "base") | {"chat_template.jinja": "adapter"}
    (adapter / "chat_template.jinja").unlink()
    for name in ("tokenizer.model", "tokenizer_config.json", "generation_config.json"):
        (adapter / name).write_text("adapter")
    merge(out, adapter, "--overwrite")  # special tokens and template of another tokenizer stay out
    assert said() == dict.fromkeys(["tokenizer.model", "tokenizer_config.json", "generation_config.json"], "adapter")


def test_what_it_says(base, adapter, tmp_path):
    done = run(tmp_path / "out", adapter)
    lines = done.stdout.splitlines()
    fields = json.loads((adapter / "adapter_config.json").read_text())
    scale = fields["lora_alpha"] / 4
    assert lines[0] == f"adapter {adapter}: 4 matrices of rank 4, scale {scale:.6g}, 0 whole tensors"
    assert lines[1] == f"base    {base}" and lines[2].endswith("rounded to the base's types") and len(lines) == 4
    assert lines[3].startswith(f"written to {tmp_path / 'out'}: ")
    said = json.loads((tmp_path / "out" / MARK).read_text())
    assert said["base"] == str(base) and said["adapter"] == str(adapter) and said["r"] == 4 and said["dtype"] == "same"
    assert said["scale"] == pytest.approx(scale)


# ---- what is refused


@pytest.mark.checked
@pytest.mark.parametrize(
    "field, value",
    [
        ("use_dora", True), ("fan_in_fan_out", True), ("bias", "all"), ("bias", "lora_only"), ("rank_pattern", {"q_proj": 0}),
        ("rank_pattern", {"q_proj": 4.5}), ("rank_pattern", {"(q": 4}), ("rank_pattern", ["q_proj"]), ("alpha_pattern", {"q_proj": "8"}), ("layer_replication", [[0, 2]]), ("trainable_token_indices", [1]), ("peft_type", "IA3"),
        ("peft_type", None), ("lora_bias", True), ("use_qalora", True), ("target_parameters", ["x"]), ("arrow_config", {"x": 1}),
        ("alora_invocation_tokens", [1]), ("something_new", 0), ("init_lora_weights", "pissa"), ("init_lora_weights", "olora"),
        ("init_lora_weights", "loftq"), ("task_type", "TOKEN_CLS"), ("r", 0), ("r", "4"), ("r", 4.5), ("lora_alpha", "8"), ("lora_alpha", None),
        ("use_rslora", 1), ("target_modules", "(.*q_proj"), ("target_modules", None), ("target_modules", ""),
        ("exclude_modules", "q{,2}"), ("exclude_modules", [1]), ("layers_to_transform", -1), ("layers_to_transform", "1"), ("layers_to_transform", [0, 0.5]),
        ("layers_pattern", ["["]), ("target_modules", []), ("target_modules", [1]),
        ("modules_to_save", "score"), ("base_model_name_or_path", 3),
    ],
)  # fmt: skip
def test_fields_that_are_refused(base, adapter, tmp_path, field, value):
    edit_fields(adapter, **{field: value})
    found = json.dumps(value, separators=(",", ":"))
    refused("adapter_config.json", f"{field} is {found}, expected", output=tmp_path / "out", adapter=adapter, more=["--base", base])


def remove(name):
    return lambda tensors: tensors.pop(PREFIX + name)


def rename(old, new):
    return lambda tensors: tensors.update({new: tensors.pop(PREFIX + old)})


Q = "model.layers.0.self_attn.q_proj"


@pytest.mark.checked
@pytest.mark.parametrize(
    "change, words",
    [
        (remove(Q + ".lora_B.weight"), [Q + ".lora_B.weight", "missing", "there is lora_A.weight"]),
        (remove(Q + ".lora_A.weight"), [Q + ".lora_A.weight", "missing", "there is lora_B.weight"]),
        (add(Q + ".lora_A.weight", 4, 63), [Q + ".lora_A.weight", "[4, 63]", "[4, 64]"]),
        (add(Q + ".lora_B.weight", 60, 4), [Q + ".lora_B.weight", "[60, 4]", "[64, 4]"]),
        (add(Q + ".lora_A.weight", 5, 64), [Q + ".lora_A.weight", "[5, 64]", "[4, 64]", "r is 4"]),
        (add(Q + ".lora_A.weight", 256), [Q + ".lora_A.weight", "[256]", "[4, 64]"]),
        (add("model.layers.7.self_attn.q_proj.lora_A.weight", 4, 64), ["layers.7", "has no", "base"]),
        (add("model.layers.0.mlp.up_proj.lora_A.weight", 4, 64), ["up_proj", "target_modules"]),
        (add("model.norm.weight", 64), ["model.norm.weight", "modules_to_save"]),
        (add(Q + ".lora_magnitude_vector", 64), ["lora_magnitude_vector", "lora_A.weight, lora_B.weight and whole weights alone"]),
        (add(Q + ".lora_B.bias", 64), ["lora_B.bias"]),
        (add(Q + ".bias", 64), ["q_proj.bias"]),
        (add("model.embed_tokens.lora_embedding_A", 4, 260), ["lora_embedding_A", "target_modules"]),
        (add("model.embed_tokens.weight", 264, 64), ["embed_tokens", "[264, 64]", "[260, 64]"]),
        (rename(Q + ".lora_A.weight", "x.lora_A.weight"), ["x.lora_A.weight", PREFIX]),
        (rename(Q + ".lora_A.weight", f"_orig_mod.{PREFIX}{Q}.lora_A.weight"), ["_orig_mod.", PREFIX, "torch.compile's prefix"]),
        (rename(Q + ".lora_A.weight", f"{PREFIX}_orig_mod.{Q}.lora_A.weight"), ["_orig_mod.", "has no", "torch.compile's prefix"]),
        (lambda t: [t.pop(n) for n in list(t) if "layers.1" in n], ["layers.1", "missing", "target_modules"]),
        (lambda t: t.clear(), ["no tensors"]),
    ],
)
def test_tensors_that_are_refused(base, adapter, tmp_path, change, words):
    edit_adapter(adapter, change)
    refused("adapter", *words, output=tmp_path / "out", adapter=adapter)


def test_names_without_tensors(base, adapter, tmp_path):
    out = tmp_path / "out"
    edit_fields(adapter, target_modules=["q_proj", "v_proj"], modules_to_save=["norm"])
    refused("layernorm.weight", "modules_to_save names it", output=out, adapter=adapter)
    edit_fields(adapter, target_modules=["q_proj", "v_proj", "W_pack"], modules_to_save=["classifier"])  # no Llama has them
    merge(out, adapter)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["base", "A", "B"])
def test_values_that_are_not_finite(base, adapter, tmp_path, value, where):
    def spoil(tensors):
        name = Q + ".weight" if where == "base" else f"{PREFIX}{Q}.lora_{where}.weight"
        flat = tensors[name].view(-1)
        flat[torch.randperm(len(flat))[:3]] = value

    (edit_weights if where == "base" else edit_adapter)(base if where == "base" else adapter, spoil)
    refused("q_proj", f"3 of {4096 if where == 'base' else 256}", output=tmp_path / "out", adapter=adapter)


def test_sums_that_are_too_large(tmp_path):
    make_model(tmp_path / "base", dtype=torch.float16)
    adapter = make_adapter(tmp_path / "adapter", tmp_path / "base")
    edit_adapter(adapter, lambda t: t[f"{PREFIX}{Q}.lora_B.weight"][5].fill_(1e7))
    refused(Q, "of 4096 merged values", "largest F16", output=tmp_path / "out", adapter=adapter)
    merge(tmp_path / "out", adapter, "--dtype", "fp32")


def test_another_base(base, adapter, tmp_path):
    out = tmp_path / "out"
    make_model(tmp_path / "other", hidden_size=72, head_dim=16)
    refused("adapter", "q_proj", "expected [4, 72]", "other", output=out, adapter=adapter, more=["--base", tmp_path / "other"])
    make_model(tmp_path / "deeper", num_hidden_layers=3)
    refused("layers.2", "missing", output=out, adapter=adapter, more=["--base", tmp_path / "deeper"])
    make_model(tmp_path / "shallow", num_hidden_layers=1)
    refused("layers.1", "has no", "shallow", output=out, adapter=adapter, more=["--base", tmp_path / "shallow"])
    edit_config(base, lambda fields: fields.update(attention_bias=True))
    refused("base/config.json", "attention_bias", output=out, adapter=adapter)


def test_a_tokenizer_that_is_too_large(base, adapter, tmp_path):
    write_tokenizer(adapter)
    merge(tmp_path / "fits", adapter)
    make_model(tmp_path / "small", vocab_size=250)
    refused("adapter/tokenizer.json", "vocab_size (250)", output=tmp_path / "out", adapter=adapter, more=["--base", tmp_path / "small"])


def test_folders_that_are_missing(base, adapter, tmp_path):
    out = tmp_path / "out"
    refused("nowhere: no such folder", output=out, adapter=tmp_path / "nowhere")
    refused("nowhere: no such folder", output=out, adapter=adapter, more=["--base", tmp_path / "nowhere"])
    refused("missing", output=tmp_path / "missing/out", adapter=adapter)
    edit_fields(adapter, base_model_name_or_path="meta-llama/Llama-3.1-8B")
    refused("base_model_name_or_path", '"meta-llama/Llama-3.1-8B"', "--base DIR", output=out, adapter=adapter)
    edit_fields(adapter, base_model_name_or_path=None)
    refused("base_model_name_or_path is absent", "--base DIR", output=out, adapter=adapter)
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    refused("adapter_model.bin", "pickle", output=out, adapter=adapter, more=["--base", base])
    (adapter / "adapter_model.bin").unlink()
    refused("adapter_model.safetensors", "No such file", output=out, adapter=adapter, more=["--base", base])
    (adapter / "adapter_config.json").write_text("{")
    refused("adapter_config.json", output=out, adapter=adapter, more=["--base", base])


# ---- options


def test_options(base, adapter, tmp_path):
    out = tmp_path / "out"
    refused("--dtype", "same|fp32|bf16", "'fp16'", output=out, adapter=adapter, more=["--dtype", "fp16"])
    refused("--base", "empty", output=out, adapter=adapter, more=["--base="])
    refused("--adapter", "empty", output=out, adapter="")
    refused("'more'", "options alone", output=out, adapter=adapter, more=["more"])
    for arguments, word in ((["--output", out], "--adapter DIR is missing"), (["--adapter", adapter], "--output DIR is missing")):
        done = subprocess.run([MERGE.path, *arguments], capture_output=True, text=True)
        assert done.returncode == 2 and word in done.stderr
    done = subprocess.run([MERGE.path, "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""
    listed = set(re.findall(r"^ +(?:-\S, )?--([a-z]+)(?:=(\S+))?", done.stdout, re.M))
    assert listed == {("adapter", "DIR"), ("base", "DIR"), ("output", "DIR"), ("dtype", "same|fp32|bf16"), ("overwrite", ""), ("help", ""), ("usage", ""), ("version", "")}


# ---- the output


def test_output_that_exists(base, adapter, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    merge(out, adapter)  # an empty folder is as good as none
    refused(out, "exists", "--overwrite", output=out, adapter=adapter)
    merge(out, adapter, "--overwrite", "--dtype", "bf16")
    assert load(out)["model.norm.weight"].dtype == torch.bfloat16
    (out / MARK).rename(out / "average.json")
    refused(out, MARK, "merge_lora made", "only that is overwritten", output=out, adapter=adapter, more=["--overwrite"])
    refused("output is input", output=base, adapter=adapter, more=["--overwrite"])
    refused("output is input", output=adapter, adapter=adapter, more=["--overwrite"])


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 1), (signal.SIGKILL, -9)])
def test_killed_at_any_moment(tmp_path, number, code):
    """Nothing has the output's name, or all of it; the next run cleans up."""
    (base, _), out = slow_model(tmp_path / "base"), tmp_path / "out"
    adapter = make_adapter(tmp_path / "adapter", base)
    for delay in [random.uniform(0, 0.5) for _ in range(4)]:
        process = subprocess.Popen([MERGE.path, "--output", out, "--adapter", adapter], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while process.poll() is None and not (tmp_path / "out.merge.tmp").exists():
            time.sleep(0.001)
        time.sleep(delay)
        process.send_signal(number)
        said = process.communicate()[1]
        assert process.returncode in (code, 0), said
        if process.returncode == 0 or (number == signal.SIGKILL and out.exists()):  # killed after it was renamed
            assert (out / MARK).exists() and len(load(out)["model.embed_tokens.weight"]) > 1 << 20
            shutil.rmtree(out)
        else:
            assert not out.exists()
            assert number == signal.SIGKILL or ("given up" in said and not (tmp_path / "out.merge.tmp").exists())
    make_model(tmp_path / "small")
    merge(out, adapter, "--base", tmp_path / "small")


@pytest.mark.parametrize("what", ["EIO", "kill"])
def test_every_call_goes_wrong(base, adapter, tmp_path, shim, what):
    """A disk that fails and a machine that stops, at each call: the old output, or the new one; then the new one."""
    work, new = tmp_path / "work", merge(tmp_path / "expected", adapter)
    old = merge(tmp_path / "old", make_adapter(tmp_path / "other", base))
    for at in range(1, 100):
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        shutil.copytree(tmp_path / "old", work / "out")
        environment = os.environ | {"LD_PRELOAD": str(shim), "FAULTY_PATH": str(work), "FAULTY_AT": str(at), "FAULTY_DO": what}
        command = [MERGE.path, "--output", work / "out", "--adapter", adapter, "--overwrite"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if "faulty: " not in done.stderr:
            break
        assert done.returncode in ((-9,) if what == "kill" else (0, 1)), done.stderr
        found = load(work / "out")
        made = torch.equal(found[Q + ".weight"], new[Q + ".weight"])
        assert done.returncode != 1 or not made  # an error leaves what was there
        same_bits(found, new if made else old)
        same_bits(merge(work / "out", adapter, "--overwrite"), new)
    assert done.returncode == 0 and 15 < at < 99


def test_peak_of_memory(tmp_path):
    """Matrices of 128 MiB with an adapter, one of as much without: less than a tenth of one of them."""
    base = tmp_path / "base"
    make_model(base, hidden_size=1024, intermediate_size=32768, num_hidden_layers=1)
    adapter = make_adapter(tmp_path / "adapter", base, target_modules=["up_proj", "down_proj"])
    command = [checkpoints.compile_program("merge_memory", tmp_path), tmp_path / "out", adapter]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    grown, read = map(int, done.stdout.split())
    print(f"{read / 2**20:.1f} MiB read, peak grew by {grown / 2**20:.1f} MiB")
    assert read > 3 << 27 and grown < 12 << 20  # pieces and the writer's buffer: 10 MiB; the matrices of one tensor: 0.5 MiB
    for path in ("base", "out"):
        shutil.rmtree(tmp_path / path)
