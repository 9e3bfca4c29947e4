"""Small random models as transformers saves them, edits of their files, and what libllmc reads of them."""

import ctypes
import json
import os

import safetensors.torch
import torch

from model import Config, Error, Model
from trainrun import VOCAB

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import transformers  # noqa: E402

SCALING = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
           "original_max_position_embeddings": 16}  # fmt: skip


def make_model(folder, dtype=torch.float32, shard="1GB", **changes):
    """A random model as transformers saves it; weights large enough that every part shows in the logits."""
    fields = dict(vocab_size=VOCAB, hidden_size=64, intermediate_size=112, num_hidden_layers=2, num_attention_heads=4,
                  num_key_value_heads=2, max_position_embeddings=256)  # fmt: skip
    config = transformers.LlamaConfig(**{**fields, **changes})
    model = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(1 + 0.2 * torch.randn_like(p) if p.ndim == 1 else torch.randn_like(p) / p.shape[-1] ** 0.5)
    model.to(dtype).save_pretrained(folder, max_shard_size=shard)


def edit_config(folder, change):
    path = folder / "config.json"
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields))


def old_spelling(fields):
    """transformers 4's: theta on top, the scaling apart, its type under both names."""
    rope = fields.pop("rope_parameters")
    fields["rope_theta"] = rope.pop("rope_theta")
    fields["rope_scaling"] = None if rope["rope_type"] == "default" else {**rope, "type": rope["rope_type"]}
    fields["torch_dtype"] = fields.pop("dtype", "float32")


def edit_weights(folder, change):
    path = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    change(tensors)
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})


def mixed_dtypes(tensors):
    kinds = [torch.float32, torch.bfloat16, torch.float16]
    for i, name in enumerate(sorted(tensors)):
        tensors[name] = tensors[name].to(kinds[i % 3])


def old_extras(tensors):
    for layer in range(2):
        tensors[f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = torch.ones(8)


def repeated_head(tensors):
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()


def load(folder):
    """All tensors; where the index says they lie."""
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        (path,) = folder.glob("*.safetensors")
        return safetensors.torch.load_file(path)
    tensors = {}
    places = json.loads(index.read_text())["weight_map"]
    for file in sorted(set(places.values())):
        found = safetensors.torch.load_file(folder / file)
        assert set(found) == {name for name, place in places.items() if place == file}
        tensors |= found
    assert set(tensors) == set(places)
    return tensors


def same_bits(a, b):
    """-0 is not 0."""
    kind = {2: torch.int16, 4: torch.int32}
    assert set(a) == set(b)
    for name in a:
        assert a[name].dtype == b[name].dtype and a[name].shape == b[name].shape, name
        assert torch.equal(a[name].view(kind[a[name].element_size()]), b[name].view(kind[b[name].element_size()])), name


def models(folder, count, dtype=torch.bfloat16, **more):
    made = [folder / f"model{i}" for i in range(count)]
    for path in made:
        make_model(path, dtype=dtype, **more)
    return made


def slow_model(folder, count=2):
    """Large enough that a signal comes in time."""
    make_model(folder, dtype=torch.float32, tie_word_embeddings=True)
    rows = (96 << 20) // 64
    edit_config(folder, lambda fields: fields.update(vocab_size=rows))
    edit_weights(folder, lambda t: t.update({"model.embed_tokens.weight": torch.zeros(rows, 64)}))
    return [folder] * count


def open_ours(lib, folder, T=24):
    """The model of that folder, as --init-from reads it."""
    config, error = Config(), Error()
    path = os.fsencode(folder / "config.json")
    assert lib.llama_config_read(ctypes.byref(config), ctypes.c_char_p(path), ctypes.byref(error)) == 0, error.message
    model = Model(lib, config, 1, T)
    return model, read_weights(lib, folder, model)


def read_weights(lib, folder, model):
    error = Error()
    code = lib.checkpoint_read_weights(ctypes.c_char_p(os.fsencode(folder)), model.handle, ctypes.byref(error))
    return code, error.message.decode()


def refused_weights(lib, folder, *words):
    model, (code, message) = open_ours(lib, folder)
    assert code == 2, message
    for word in words:
        assert str(word) in message, f"{word!r} not in {message}"
