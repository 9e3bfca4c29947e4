"""Published models in, ours out: any spelling of a Hugging Face Llama gives transformers' logits, what cannot be honoured
is refused, and what the model brought beside its weights is in the new checkpoint."""

import json
import shutil

import pytest
import safetensors.torch
import torch

import compare
from hfmodels import (
    SCALING, edit_config, edit_weights, make_model, mixed_dtypes, old_extras, old_spelling, open_ours, refused_weights, repeated_head,
)  # fmt: skip
from trainrun import EOS, VOCAB, Workplace

import transformers  # offline, as hfmodels has seen to

T = 24


def oldest_spelling(fields):
    """What the first Llama's configuration had."""
    old_spelling(fields)
    kept = ("architectures bos_token_id eos_token_id hidden_act hidden_size intermediate_size initializer_range"
            " model_type num_attention_heads num_hidden_layers pad_token_id rms_norm_eps torch_dtype vocab_size")  # fmt: skip
    for name in [name for name in fields if name not in kept.split()]:
        del fields[name]


def nulls(fields):
    for name in ("head_dim", "rope_scaling", "pretraining_tp", "attention_dropout", "bos_token_id"):
        fields[name] = None


LLAMA3 = {"rope_parameters": {**SCALING, "rope_theta": 5e5}}
VARIANTS = {
    "fp32": ({}, None, None),
    "bf16 in several files": ({"dtype": torch.bfloat16, "shard": "30KB"}, None, None),
    "fp16": ({"dtype": torch.float16}, None, None),
    "every dtype, in one file": ({}, None, mixed_dtypes),
    "tied": ({"tie_word_embeddings": True}, None, None),
    "tied, the head repeated": ({"tie_word_embeddings": True}, None, repeated_head),
    "tied, several files": ({"tie_word_embeddings": True, "shard": "40KB"}, None, None),
    "rotary frequencies stored": ({}, None, old_extras),
    "head_dim given": ({"head_dim": 32}, None, None),
    "llama3 scaling": (LLAMA3, None, None),
    "llama3 scaling, old spelling": (LLAMA3, old_spelling, None),
    "old spelling": ({"rope_parameters": {"rope_type": "default", "rope_theta": 777.0}}, old_spelling, None),
    "oldest spelling": ({"num_key_value_heads": 4, "max_position_embeddings": 2048}, oldest_spelling, old_extras),
    "one head of keys": ({"num_key_value_heads": 1, "rms_norm_eps": 1e-3}, None, None),
    "nulls": ({"num_key_value_heads": 4}, nulls, None),
    "pretraining_tp": ({"pretraining_tp": 2}, None, None),
    "several ends": ({"eos_token_id": [5, 6, 7]}, None, None),
}


def make_variant(folder, name):
    fields, change_config, change_weights = VARIANTS[name]
    make_model(folder, **fields)
    if change_config:
        edit_config(folder, change_config)
    if change_weights:
        edit_weights(folder, change_weights)
    return folder


def their_logits(folder, tokens, dtype):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    with torch.no_grad():
        return model(tokens[None]).logits[0]


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_are_transformers(lib, tmp_path, variant):
    make_variant(tmp_path, variant)
    model, (code, message) = open_ours(lib, tmp_path)
    assert code == 0, message
    tokens = torch.randint(VOCAB, (T,))
    ours = torch.stack([model.logits(tokens[: n + 1]) for n in range(T)])
    reference = their_logits(tmp_path, tokens, torch.float64)
    in_bf16 = their_logits(tmp_path, tokens, torch.bfloat16) if lib.precision == "bf16" else None
    compare.check("logits", ours, reference, in_bf16)


def test_nan_and_infinity_are_named_and_counted(lib, tmp_path):
    name = "model.layers.1.mlp.up_proj.weight"
    for dtype, values in ((torch.float32, [float("nan")]), (torch.bfloat16, 3 * [float("-inf")]), (torch.float16, 2 * [float("inf")])):
        make_model(tmp_path, dtype=dtype)

        def spoil(tensors):
            tensors[name].view(-1)[7 : 7 + len(values)] = torch.tensor(values, dtype=dtype)

        edit_weights(tmp_path, spoil)
        refused_weights(lib, tmp_path, name, f"{len(values)} of 7168 values are not finite")


def test_a_weight_that_bf16_cannot_hold(lib, tmp_path):
    make_model(tmp_path)
    largest = torch.finfo(torch.float32).max  # rounds to infinity in bf16
    edit_weights(tmp_path, lambda tensors: tensors["model.norm.weight"].fill_(largest))
    if lib.precision == "bf16":
        refused_weights(lib, tmp_path, "model.norm.weight", "64 of 64 values are not finite")
    else:
        assert open_ours(lib, tmp_path)[1][0] == 0


def test_tensors_missing_extra_and_of_another_shape(lib, tmp_path):
    def with_weights(change, *words):
        make_model(tmp_path)
        edit_weights(tmp_path, change)
        refused_weights(lib, tmp_path, *words)

    q, k = (f"model.layers.0.self_attn.{x}_proj.weight" for x in "qk")
    with_weights(lambda t: (t.pop(q), t.pop(k)), "2 of the model's 21 tensors are missing", q)
    with_weights(lambda t: t.pop("lm_head.weight"), "missing", "lm_head.weight")
    with_weights(lambda t: t.update({"model.layers.0.self_attn.q_proj.bias": torch.ones(64)}), "1 tensor", "q_proj.bias")
    with_weights(lambda t: t.update({k: torch.ones(16, 128)}), k, "32 x 64", "16, 128".replace(", ", " x "))
    with_weights(lambda t: t.update({"model.norm.weight": torch.ones(1, 64)}), "model.norm.weight", "dimensions")


def test_tied_model_whose_head_differs(lib, tmp_path):
    """The configuration says that head and embedding are one; a file in which they are two is of another model."""
    make_model(tmp_path, tie_word_embeddings=True)
    edit_weights(tmp_path, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"] + 1}))
    refused_weights(lib, tmp_path, "lm_head.weight", "model.embed_tokens.weight", "tie_word_embeddings")


# ---- through the program


@pytest.fixture
def work(tmp_path):
    return Workplace(tmp_path)


def published(work, same_tokenizer=True, **fields):
    """A model with all the files that published ones have."""
    folder = work.folder / "published"
    make_model(folder, **{"bos_token_id": 256, "eos_token_id": [EOS, 258, 259], **fields})
    if same_tokenizer:
        shutil.copy(work.data / "tokenizer.json", folder)
    else:
        (folder / "tokenizer.json").write_text((work.data / "tokenizer.json").read_text() + "\n")
    fields = json.loads((work.data / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**fields, "model_max_length": 77}))
    (folder / "special_tokens_map.json").write_text(json.dumps({"bos_token": "<|begin_of_text|>"}))
    (folder / "chat_template.jinja").write_text("{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}")
    (folder / "added_tokens.json").write_text("{}")
    (folder / "tokenizer.model").write_bytes(b"\x00\xff binary")
    generation = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "bos_token_id": 256, "eos_token_id": [258, 4]}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_one_step_and_out_again(work, precision):
    folder = published(work, tie_word_embeddings=True, shard="40KB", **LLAMA3)
    work.run(precision=precision, config=None, init_from=folder, steps=1, lr="0", weight_decay="0")
    out = work.output / "checkpoint"
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    back = transformers.AutoModelForCausalLM.from_pretrained(out)
    assert back.dtype == dtype and back.config.tie_word_embeddings
    weights = back.state_dict()
    assert weights.keys() == theirs.state_dict().keys()
    for name, value in theirs.state_dict().items():
        assert torch.equal(weights[name], value), name
    tokens = torch.randint(VOCAB, (T,))
    with torch.no_grad():
        assert torch.equal(back(tokens[None]).logits, theirs(tokens[None]).logits)
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    assert tokenizer.decode(tokenizer("ten suns").input_ids, skip_special_tokens=True) == "ten suns"


def test_training_goes_on_from_it(work):
    folder = published(work)
    work.run(config=None, init_from=folder, steps=20)
    losses = [line["loss"] for line in work.log() if "loss" in line]
    assert losses[-1] < losses[0] - 0.2
    before = safetensors.torch.load_file(folder / "model.safetensors")
    after = safetensors.torch.load_file(work.output / "checkpoint" / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(not torch.equal(before[n].to(torch.bfloat16), after[n]) for n in before if before[n].ndim == 2)


SIDE_FILES = ["special_tokens_map.json", "chat_template.jinja", "added_tokens.json", "tokenizer.model"]


def test_what_it_brings_travels(work):
    folder = published(work)
    work.run(config=None, init_from=folder, steps=1)
    out = work.output / "checkpoint"
    for name in [*SIDE_FILES, "tokenizer.json", "tokenizer_config.json"]:
        assert (out / name).read_bytes() == (folder / name).read_bytes(), name
    assert transformers.AutoConfig.from_pretrained(out).eos_token_id == [EOS, 258, 259]
    generation = transformers.GenerationConfig.from_pretrained(out)
    assert (generation.temperature, generation.top_p, generation.do_sample) == (0.6, 0.9, True)
    assert generation.eos_token_id == [EOS, 258, 259, 4] and generation.bos_token_id == 256
    chat = transformers.AutoTokenizer.from_pretrained(out)
    assert "hello" in chat.apply_chat_template([{"role": "user", "content": "hello"}], tokenize=False)
    # and through a resumed run
    work.run(config=None, init_from=folder, steps=2, resume="auto")
    for name in SIDE_FILES:
        assert (out / name).read_bytes() == (folder / name).read_bytes(), name
    assert transformers.AutoConfig.from_pretrained(out).eos_token_id == [EOS, 258, 259]


def test_byte_order_marks_are_passed_over_and_do_not_travel(work):
    """Editors on Windows put them there; transformers opens no such file."""
    folder, mark = published(work), b"\xef\xbb\xbf"
    names = ["config.json", "generation_config.json", "tokenizer_config.json", *SIDE_FILES[:3]]
    plain = {name: (folder / name).read_bytes() for name in names}
    for name in names:
        (folder / name).write_bytes(mark + plain[name])
    work.run(config=None, init_from=folder, steps=1)
    out = work.output / "checkpoint"
    for name in names[2:]:
        assert (out / name).read_bytes() == plain[name], name
    assert transformers.AutoConfig.from_pretrained(out).eos_token_id == [EOS, 258, 259]
    assert transformers.GenerationConfig.from_pretrained(out).temperature == 0.6
    (work.data / "tokenizer.json").write_bytes(mark + (work.data / "tokenizer.json").read_bytes())
    work.refused("tokenizer.json: begins with a byte order mark", "tail -c +4", config=None, init_from=folder, steps=1, overwrite=True)


def test_the_data_s_end_token_is_added_to_the_model_s(work):
    folder = published(work, eos_token_id=[258, 259])
    work.run(config=None, init_from=folder, steps=1)
    assert transformers.AutoConfig.from_pretrained(work.output / "checkpoint").eos_token_id == [258, 259, EOS]


def test_another_tokenizer_s_ids_and_files_do_not_travel(work):
    folder = published(work, same_tokenizer=False)
    work.run(config=None, init_from=folder, steps=1)
    out = work.output / "checkpoint"
    assert not any((out / name).exists() for name in SIDE_FILES)
    assert (out / "tokenizer.json").read_bytes() == (work.data / "tokenizer.json").read_bytes()
    assert transformers.AutoConfig.from_pretrained(out).eos_token_id == EOS
    assert transformers.GenerationConfig.from_pretrained(out).eos_token_id == EOS


def test_files_of_an_earlier_run_do_not_travel(work):
    work.run(config=None, init_from=published(work), steps=1)
    work.run(steps=1, overwrite=True)
    assert not any((work.output / "checkpoint" / name).exists() for name in SIDE_FILES)
    assert transformers.AutoConfig.from_pretrained(work.output / "checkpoint").eos_token_id == EOS


REFUSED = [
    ({"attention_bias": True}, "attention_bias"),
    ({"mlp_bias": True}, "mlp_bias"),
    ({"hidden_act": "gelu"}, "hidden_act"),
    ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "rope_scaling.type"),
    ({"rope_scaling": {"rope_type": "linear", "factor": 4.0}}, "rope_scaling.rope_type"),
    ({"model_type": "mistral"}, "model_type"),
    ({"architectures": ["LlamaForSequenceClassification"]}, "architectures"),
    ({"quantization_config": {"quant_method": "awq"}}, "quantization_config"),
]


@pytest.mark.parametrize("change, field", REFUSED, ids=[field for _, field in REFUSED])
def test_what_cannot_be_honoured_is_refused_by_name(work, change, field):
    folder = published(work)
    edit_config(folder, lambda fields: fields.update(change))
    work.refused(folder / "config.json", field, config=None, init_from=folder)


def test_broken_folders_are_refused(work):
    folder = published(work)
    (folder / "generation_config.json").write_text("{")
    work.refused("generation_config.json", config=None, init_from=folder)
    (folder / "generation_config.json").unlink()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    _, err = work.run(code=2, config=None, init_from=folder)
    assert "pytorch_model.bin" in err and "convert to safetensors" in err and err.count("\n") == 1
    work.refused("nowhere", config=None, init_from=work.folder / "nowhere")
