"""merge_lora makes of every kind of plain LoRA that PEFT saves what PEFT computes with it: which modules its configuration
selects, whole weights, embedding and head, ranks of their own, a base whose embedding and head are one."""

import json

import pytest
import torch

import compare
import peft
import transformers
from adapters import PREFIX, SAME_LOGITS, add, edit_adapter, edit_fields, logits, open_base, random_tokens, randomise
from hfmodels import make_model
from modeltools import MERGE

merge, refused, run = MERGE.make, MERGE.refused, MERGE.run
LAYERS = 3
TIED = {"untied": False, "tied": True}


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    made = {}
    for name, tied in TIED.items():
        made[name] = tmp_path_factory.mktemp(name)
        make_model(made[name], num_hidden_layers=LAYERS, tie_word_embeddings=tied)
    return made


def make(folder, base, embeddings="auto", **fields):
    """With whole weights that differ from the base's, too."""
    usual = dict(r=4, lora_alpha=12, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    model = peft.get_peft_model(open_base(base), peft.LoraConfig(**usual | fields))
    randomise(model)
    model.save_pretrained(folder, save_embedding_layers=embeddings)
    return folder


def check(base, adapter, out, *more):
    """PEFT's logits with the adapter beside the model, as merging by PEFT does not keep tied matrices apart."""
    tokens = random_tokens()
    theirs = logits(peft.PeftModel.from_pretrained(open_base(base), adapter), tokens)
    found = merge(out, adapter, "--base", base, *more)
    model, said = transformers.AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not any(said[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert compare.relative_error(logits(model, tokens), theirs) < SAME_LOGITS
    assert compare.relative_error(logits(open_base(base), tokens), theirs) > 0.01
    return found


KINDS = {
    "norms by their ending": dict(modules_to_save=["norm"]),
    "a whole block": dict(modules_to_save=["mlp"], target_modules=["q_proj", "up_proj"]),
    "a whole layer": dict(modules_to_save=["layers.1"], target_modules=["q_proj"]),
    "a whole matrix of one layer": dict(modules_to_save=["1.mlp.up_proj"], target_modules=["up_proj", "k_proj"]),
    "endings that nothing has": dict(modules_to_save=["classifier"], target_modules=["q_proj", "W_pack", "c_attn"]),
    "a regular expression": dict(target_modules=
        r"(?:.*?(?:self_attn|mlp).*?(?:q_proj|up_proj).*?)|(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn)\.(?:o_proj))"),
    "one that looks ahead": dict(target_modules=r"^(?!.*\.1\.).*\.(q|k)_proj$"),
    "all-linear": dict(target_modules="all-linear"),
    "all-linear but some": dict(target_modules="all-linear", exclude_modules=["k_proj", "model.layers.2.mlp.up_proj"]),
    "excluded by a pattern": dict(target_modules=["q_proj", "v_proj", "up_proj"], exclude_modules=r".*\.mlp\..*|.*\.1\..*"),
    "one layer": dict(layers_to_transform=1),
    "some layers": dict(layers_to_transform=[0, 2], layers_pattern="layers"),
    "layers of several patterns": dict(layers_to_transform=[2], layers_pattern=["h", "layers"]),
    "a module spelt out beside layers": dict(layers_to_transform=[1], target_modules=["q_proj", "model.layers.2.mlp.up_proj"]),
    "ranks": dict(rank_pattern={"q_proj": 2, r"layers\.1\.mlp\..*": 7}, target_modules=["q_proj", "v_proj", "up_proj"]),
    "ranks, alphas and roots": dict(rank_pattern={"v_proj": 9}, use_rslora=True,
        alpha_pattern={r"model.layers.\d.self_attn.v_proj": 5, "v_proj": 50}),
    "the head": dict(target_modules=["q_proj", "lm_head"]),
    "the embedding": dict(target_modules=["q_proj", "embed_tokens"], use_rslora=True),
    "both": dict(target_modules=["embed_tokens", "lm_head"], rank_pattern={"embed_tokens": 6}),
    "the head by a pattern": dict(target_modules=r"lm_head|.*\.q_proj"),
    "the whole embedding": dict(modules_to_save=["embed_tokens"]),
    "the whole head": dict(modules_to_save=["lm_head"]),
    "both whole": dict(modules_to_save=["embed_tokens", "lm_head"]),
    "a whole head, LoRA of the embedding": dict(modules_to_save=["lm_head"], target_modules=["embed_tokens", "v_proj"]),
    "a whole embedding, LoRA of the head": dict(modules_to_save=["embed_tokens"], target_modules=["lm_head"]),
    "a tie kept, whole": dict(modules_to_save=["embed_tokens"], ensure_weight_tying=True),
    "a tie kept, LoRA": dict(target_modules=["embed_tokens", "q_proj"], ensure_weight_tying=True),
    "a tie kept, LoRA of the head": dict(target_modules=["lm_head", "q_proj"], ensure_weight_tying=True),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_peft_s(bases, tmp_path, seeded, kind):
    check(bases["untied"], make(tmp_path / "adapter", bases["untied"], **KINDS[kind]), tmp_path / "out")


@pytest.mark.checked
@pytest.mark.parametrize("kind", [kind for kind, fields in KINDS.items() if "embed" in str(fields) or "head" in str(fields)])
def test_tied_models(bases, tmp_path, seeded, kind):
    """Two matrices come out where the adapter makes two of one."""
    keeps = "ensure_weight_tying" in KINDS[kind]
    found = check(bases["tied"], make(tmp_path / "adapter", bases["tied"], **KINDS[kind]), tmp_path / "out")
    fields = json.loads((tmp_path / "out/config.json").read_text())
    assert fields["tie_word_embeddings"] == keeps and ("lm_head.weight" in found) != keeps


@pytest.mark.parametrize("tied", TIED)
def test_embeddings_saved_unasked(bases, tmp_path, seeded, tied):
    """As they are after training that changed the vocabulary. A tied model stays one."""
    base, adapter = bases[tied], make(tmp_path / "adapter", bases[tied])
    new = torch.randn(260, 64)
    edit_adapter(adapter, lambda t: t.update({PREFIX + "model.embed_tokens.weight": new, PREFIX + "lm_head.weight": new.clone()}))
    found = check(base, adapter, tmp_path / "out")
    assert torch.equal(found["model.embed_tokens.weight"], new) and ("lm_head.weight" in found) == (tied == "untied")


@pytest.mark.parametrize("saved", [["embed_tokens"], ["lm_head", "embed_tokens"]])
@pytest.mark.parametrize("tied", TIED)
def test_embeddings_saved_twice(bases, tmp_path, seeded, tied, saved):
    """Asked for and trained: PEFT saves the weight, the same as its wrapper has it, and the base's."""
    base, adapter = bases[tied], make(tmp_path / "adapter", bases[tied], True, modules_to_save=saved)
    wrapped = [PREFIX + f"model.embed_tokens.{name}.weight" for name in ("modules_to_save", "original_module")]
    edit_adapter(adapter, lambda tensors: [tensors[name].shape for name in wrapped])  # they are there
    check(base, adapter, tmp_path / "out")
    edit_fields(adapter, modules_to_save=None)
    refused("modules_to_save.weight", "expected those of target_modules", output=tmp_path / "no", adapter=adapter,
            more=["--base", base])  # fmt: skip


LEFT_OUT = {
    "layers_to_transform": dict(layers_to_transform=[1], layers_pattern="layers"),
    "layers_to_transform, of another pattern": dict(layers_to_transform=[0, 1, 2], layers_pattern=["h"],
        target_modules=["q_proj", "v_proj", "model.layers.0.self_attn.v_proj"]),
    "exclude_modules": dict(exclude_modules=r".*\.[02]\..*"),
    "exclude_modules, a list": dict(exclude_modules=["v_proj"]),
}  # fmt: skip


@pytest.mark.checked
@pytest.mark.parametrize("kind", LEFT_OUT)
def test_tensors_that_the_configuration_leaves_out(bases, tmp_path, seeded, kind):
    """PEFT does not load them."""
    base, adapter = bases["untied"], make(tmp_path / "adapter", bases["untied"])
    edit_fields(adapter, **LEFT_OUT[kind])
    check(base, adapter, tmp_path / "out")
    said = run(tmp_path / "again", adapter, "--base", base).stdout
    assert f"tensors are left out, as PEFT does: {kind.split(',')[0]}" in said


def test_what_contradicts_itself(bases, tmp_path, seeded):
    base, out = bases["untied"], tmp_path / "out"
    adapter = make(tmp_path / "adapter", base)
    no = lambda *words: refused(*words, output=out, adapter=adapter, more=["--base", base])  # noqa: E731
    edit_fields(adapter, target_modules=r".*\.q_proj")
    no("v_proj", "target_modules")
    edit_fields(adapter, target_modules=r".*\.(q|k|v)_proj")
    no("k_proj", "missing", "target_modules names it")
    edit_fields(adapter, target_modules=r".*\.[qv]_proj", layers_to_transform=[0])
    no("layers_to_transform is [0]", "regular expression")
    edit_fields(adapter, layers_to_transform=None, rank_pattern={"layers.2.self_attn.v_proj": 5})
    no("layers.2.self_attn.v_proj", "[4, 64]", "[5, 64]", "r is 5")
    edit_fields(adapter, rank_pattern=None, modules_to_save=["self_attn.q_proj"])
    no("q_proj", "modules_to_save")
    edit_fields(adapter, modules_to_save=None)
    edit_adapter(adapter, add("model.layers.0.mlp.up_proj.base_layer.weight", 112, 64))
    no("up_proj.base_layer", "target_modules")


def test_a_head_alone_that_is_to_be_tied(bases, tmp_path, seeded):
    """Of another base, as PEFT would have saved the embedding's beside it."""
    adapter = make(tmp_path / "adapter", bases["untied"], target_modules=["q_proj", "lm_head"], ensure_weight_tying=True)
    refused("lm_head", "ensure_weight_tying", output=tmp_path / "out", adapter=adapter, more=["--base", bases["tied"]])


@pytest.mark.checked
def test_pairs_of_the_wrong_kind(bases, tmp_path, seeded):
    base, out = bases["untied"], tmp_path / "out"
    adapter = make(tmp_path / "adapter", base, target_modules=["embed_tokens"])
    no = lambda *words: refused(*words, output=out, adapter=adapter, more=["--base", base])  # noqa: E731
    edit_adapter(adapter, add("model.embed_tokens.lora_embedding_A", 4, 259))
    no("lora_embedding_A", "[4, 259]", "[4, 260]")
    edit_adapter(adapter, lambda t: t.pop(PREFIX + "model.embed_tokens.lora_embedding_A"))
    no("embed_tokens.lora_embedding_A", "missing", "lora_embedding_B")
    edit_adapter(adapter, lambda t: [t.pop(name) for name in list(t) if "lora" in name])
    no("embed_tokens.lora_embedding_A", "missing", "target_modules names it")
    edit_adapter(adapter, add("model.embed_tokens.lora_A.weight", 4, 64))
    no("embed_tokens.lora_A.weight", "lora_embedding_A and lora_embedding_B")


def test_what_it_says(bases, tmp_path, seeded):
    adapter = make(tmp_path / "adapter", bases["tied"], target_modules=["q_proj", "lm_head"], rank_pattern={"lm_head": 6})
    lines = run(tmp_path / "out", adapter, "--base", bases["tied"]).stdout.splitlines()
    assert lines[0] == f"adapter {adapter}: 4 matrices of rank 4 to 6, scale 2 to 3, 2 whole tensors"
    assert lines[1].endswith("embedding and head are two matrices in the output: tie_word_embeddings becomes false")
    said = json.loads((tmp_path / "out/merge.json").read_text())
    assert said["r"] == [4, 6] and said["scale"] == [2, 3]
