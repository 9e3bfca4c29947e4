"""What other programs leave: folders without a model of ours are named as what they are, with what helps, by every program that
opens one; tensors that no Llama has are dropped or refused by one rule."""

import json
import shutil
import subprocess
import sys

import pytest
import torch

import llmc
from adapters import make_adapter
from hfmodels import edit_weights, make_model, old_extras, open_ours, refused_weights, repeated_head
from modeltools import AVERAGE, MERGE
from trainrun import TARGET, Workplace, program
from checkout import script

PRECISION = "bf16" if "bf16" in llmc.build_folders() else "fp32"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model, an adapter of it, and what training wants."""
    folder = tmp_path_factory.mktemp("place")
    make_model(folder / "base")
    make_adapter(folder / "adapter", folder / "base")
    return Workplace(folder)


# ---- folders


def commands(place, model, output):
    python = lambda name: [sys.executable, script(name)]  # noqa: E731
    build = ["--target", TARGET, "--precision", PRECISION]
    prompts = place.folder / "prompts.jsonl"
    prompts.write_text('{"prompt": "Hi"}\n')
    return {
        "init-from": [program(PRECISION), *place.arguments(config=None, init_from=model, output=output, steps=1)],
        "eval-only": [program(PRECISION), "--eval-only", "--init-from", model, "--val-data", place.data / "val_*.bin", "--seq-len", 32],
        "generate": [*python("generate"), "--model", model, "--prompt", "Hi", *build],
        "rejection": [*python("rejection_sample"), "--model", model, "--reward-model", model, "--prompts", prompts, "--output", output, *build],
        "average": [AVERAGE.path, "--output", output, place.folder / "base", model],
        "merge": [MERGE.path, "--adapter", place.folder / "adapter", "--base", model, "--output", output],
    }


def pickles(folder):
    (folder / "weights.pth").write_bytes(b"PK")
    (folder / "training_args.bin").write_bytes(b"PK")


def index_alone(folder):
    files = {"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(files))


def pointer(folder):
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")


FOLDERS = {
    "adapter": (lambda folder: None, False, ["is an adapter", "merge_lora --adapter"]),
    "adapter beside a configuration": (lambda folder: None, True, ["is an adapter", "merge_lora --adapter"]),
    "gguf": (lambda folder: (folder / "model-q4.gguf").write_bytes(b"GGUF"), False, ["model-q4.gguf", "is GGUF", "safetensors"]),
    "gguf beside a configuration": (lambda folder: (folder / "model-q4.gguf").write_bytes(b"GGUF"), True, ["model-q4.gguf", "is GGUF"]),
    "pickles": (pickles, True, ["weights.pth", "is a pickle", "save_pretrained"]),
    "index": (index_alone, True, ["model.safetensors.index.json", "model-00001-of-00002.safetensors, which is not there"]),
    "pointer": (pointer, True, ["model.safetensors", "Git LFS", "git lfs pull"]),
}  # fmt: skip


@pytest.mark.parametrize("kind", FOLDERS)
def test_folders(place, tmp_path, kind):
    change, configured, words = FOLDERS[kind]
    folder = tmp_path / "given"
    if "adapter" in kind:
        shutil.copytree(place.folder / "adapter", folder)
    else:
        folder.mkdir()
        shutil.copy(place.data / "tokenizer.json", folder)
    if configured:
        shutil.copy(place.folder / "base/config.json", folder)
    change(folder)
    for name, command in commands(place, folder, tmp_path / "out").items():
        if "adapter" not in kind and name == "rejection":  # as generate
            continue
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=600)
        assert done.returncode == 2, (name, done.stderr)
        said = done.stderr.splitlines()
        assert len(said) == 1 and str(folder) in said[0], (name, said)
        assert all(word in said[0] for word in words), (name, said)
        assert not (tmp_path / "out").exists()


def test_shards_of_a_data_set_are_no_pickles(place, tmp_path):
    for name in ("train_000.bin", "val_000.bin"):
        (tmp_path / name).write_bytes(b"L3SHARD\0")
    for name, command in commands(place, tmp_path, tmp_path / "out").items():
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=600)
        assert done.returncode == 2 and str(tmp_path) in done.stderr and "pickle" not in done.stderr, (name, done.stderr)


def test_where_the_adapter_is(place, tmp_path):
    (tmp_path / "outer/b").parent.mkdir()
    for name in ("b", "a"):
        shutil.copytree(place.folder / "adapter", tmp_path / "outer" / name)
    MERGE.refused("outer: has no adapter_config.json", "folder a is", output=tmp_path / "out", adapter=tmp_path / "outer")
    MERGE.refused("base: is a model, expected an adapter", output=tmp_path / "out", adapter=place.folder / "base")


# ---- tensors


def other_head(tensors):
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + 1


def wider(tensors, name):
    """The same values in another type."""
    tensors[name.replace("model.embed_tokens", "lm_head")] = tensors[name].bfloat16()
    tensors[name] = tensors[name].bfloat16().float()


def prefixed(prefix):
    def change(tensors):
        for name in list(tensors):
            tensors[prefix + name] = tensors.pop(name)

    return change


def renamed(part, other):
    def change(tensors):
        for name in [name for name in tensors if part in name]:
            tensors[name.replace(part, other)] = tensors.pop(name)

    return change


@pytest.fixture
def ready(place, tmp_path):
    """A copy of the base, a tied model, and an output."""
    shutil.copytree(place.folder / "base", tmp_path / "base")
    make_model(tmp_path / "tied", tie_word_embeddings=True)
    return tmp_path / "base", tmp_path / "tied", tmp_path / "out"


@pytest.mark.checked
def test_what_is_dropped(lib, place, ready):
    base, tied, out = ready
    edit_weights(base, old_extras)
    edit_weights(tied, lambda tensors: (old_extras(tensors), repeated_head(tensors), wider(tensors, "model.embed_tokens.weight")))
    for model, expected in ((base, 21), (tied, 20)):
        assert open_ours(lib, model)[1][0] == 0
        assert len(MERGE.make(out, place.folder / "adapter", "--base", model, "--overwrite")) == expected
        said = MERGE.run(out, place.folder / "adapter", "--base", model, "--overwrite").stdout
        assert f"left out of {model}: 2 rotary_emb.inv_freq" in said and ("lm_head.weight" in said) == (model == tied)
        shutil.rmtree(out)
        assert len(AVERAGE.make(out, model, model)) == expected
        shutil.rmtree(out)
    (place.folder / "clean").exists() or make_model(place.folder / "clean", tie_word_embeddings=True)
    assert len(AVERAGE.make(out, tied, place.folder / "clean")) == 20  # one of them has none of it


REFUSED = {
    "another head": (other_head, ["lm_head.weight differs", "tie_word_embeddings is true"]),
    "another tower": (lambda t: t.update({"vision_tower.patch.weight": torch.ones(3)}), ["1 tensor that the model has not", "vision_tower.patch"]),
    "a layer too many": (lambda t: t.update({"model.layers.2.mlp.up_proj.weight": torch.ones(112, 64)}), ["1 tensor", "model.layers.2.mlp"]),
    "a bias": (lambda t: t.update({"model.layers.1.self_attn.q_proj.bias": torch.ones(64)}), ["1 tensor", "q_proj.bias"]),
    "a name like ours": (lambda t: t.update({"model.layers.01.mlp.up_proj.weight": torch.ones(112, 64)}), ["1 tensor", "model.layers.01"]),
    "compiled": (prefixed("_orig_mod."), ["torch.compile's prefix", "_orig_mod"]),
    "DDP": (prefixed("module."), ["DataParallel and DDP", "model.module"]),
    "FSDP": (prefixed("_fsdp_wrapped_module."), ["FSDP's prefix"]),
    "PEFT": (prefixed("base_model.model."), ["PEFT's prefix", "merge_and_unload()"]),
    "wrapped": (prefixed("model."), ["prefix of a module around the model"]),
    "a tensor too few": (lambda t: t.pop("model.norm.weight"), ["1 of the model's 20 tensors are missing", "model.norm.weight"]),
    "a head alone": (renamed("model.embed_tokens", "lm_head"), ["1 of the model's 20 tensors are missing", "model.embed_tokens.weight"]),
    "LoRA not merged": (renamed("q_proj.", "q_proj.base_layer."), ["2 of the model's 20", "merge_and_unload()"]),
    "activation checkpointing": (renamed("layers.1.", "layers.1._checkpoint_wrapped_module."), ["9 of the model's 20", "save the model within"]),
    "Meta's names": (renamed("model.layers.0.self_attn.", "layers.0.attention."), ["4 of the model's 20", "Meta's names"]),
    "compiled and DDP": (prefixed("module._orig_mod."), ["DataParallel and DDP"]),
}  # fmt: skip


@pytest.mark.checked
@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused(lib, place, ready, kind):
    """At the first touch, by all in the same words."""
    change, words = REFUSED[kind]
    _, model, out = ready
    edit_weights(model, change)
    refused_weights(lib, model, *words)
    AVERAGE.refused(*words, output=out, arguments=[model, model])
    MERGE.refused(*words, output=out, adapter=place.folder / "adapter", more=["--base", model])
