"""config.json: what is read is what transformers reads, what we cannot do is refused by its name."""

import json
import pathlib
from ctypes import byref

import pytest

from hostlib import INPUT, REPOSITORY, LlamaConfig, call, expect_refusal, fresh_random, path_bytes

pytestmark = pytest.mark.checked

REMOVE = object()
OLD = {  # in the style of transformers 4
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128008, 128009],
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "intermediate_size": 8192,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "num_attention_heads": 32,
    "num_hidden_layers": 16,
    "num_key_value_heads": 8,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
    "rope_scaling": {
        "factor": 32.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "torch_dtype": "bfloat16",
    "transformers_version": "4.45.0.dev0",
    "use_cache": True,
    "vocab_size": 128256,
}
NEW = {
    **{k: v for k, v in OLD.items() if k not in ("rope_scaling", "rope_theta", "torch_dtype")},
    "dtype": "bfloat16",
    "rope_parameters": {**OLD["rope_scaling"], "rope_theta": 500000.0},
}


def changed(base, change):
    """base with the dotted names of change set or removed."""
    result = json.loads(json.dumps(base))
    for name, value in change.items():
        *folders, last = name.split(".")
        place = result
        for folder in folders:
            place = place[folder]
        if value is REMOVE:
            place.pop(last, None)
        else:
            place[last] = value
    return result


def read(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    config = LlamaConfig()
    call("llama_config_read", byref(config), path_bytes(path))
    return config


def as_dict(config):
    fields = {name: getattr(config, name) for name, _ in config._fields_}
    return {**fields, "more_eos_token_ids": list(config.more_eos_token_ids)}


@pytest.mark.parametrize(
    "content", [OLD, NEW, {**OLD, "rope_parameters": NEW["rope_parameters"]}], ids=["old", "new", "both"]
)
def test_both_spellings(tmp_path, content):
    config = as_dict(read(tmp_path / "config.json", content))
    eps = config.pop("rms_norm_eps")
    assert abs(eps - 1e-5) < 1e-12
    assert config == dict(
        vocab_size=128256,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=64,
        max_position_embeddings=131072,
        rope_theta=500000.0,
        initializer_range=0.02,
        tie_word_embeddings=True,
        rope_type=1,
        rope_factor=32.0,
        rope_low_freq_factor=1.0,
        rope_high_freq_factor=4.0,
        rope_original_max_position=8192,
        bos_token_id=128000,
        eos_token_id=128001,
        num_more_eos_tokens=2,
        more_eos_token_ids=[128008, 128009] + 13 * [0],
        pad_token_id=-1,
        num_labels=0,
    )


def end_tokens(config):
    ids = [config.eos_token_id, *config.more_eos_token_ids[: config.num_more_eos_tokens]]
    return [i for i in ids if i >= 0]


def as_transformers(config):
    """What our configuration says, in transformers' words."""
    llama3 = {
        "factor": config.rope_factor,
        "low_freq_factor": config.rope_low_freq_factor,
        "high_freq_factor": config.rope_high_freq_factor,
        "original_max_position_embeddings": config.rope_original_max_position,
    }
    same = (
        "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads"
        " head_dim max_position_embeddings initializer_range tie_word_embeddings"
    )
    return {
        **{name: getattr(config, name) for name in same.split()},
        "rms_norm_eps": pytest.approx(config.rms_norm_eps, rel=1e-7),  # fp32 here, fp64 there
        "rope": {
            "rope_type": "llama3" if config.rope_type else "default",
            "rope_theta": config.rope_theta,
            **(llama3 if config.rope_type else {}),
        },
        "bos_token_id": None if config.bos_token_id < 0 else config.bos_token_id,
        "eos_token_id": end_tokens(config),
    }


def transformers_reads(folder, fields):
    """What transformers makes of the config.json in the folder, as far as `fields` goes."""
    import transformers

    theirs = transformers.AutoConfig.from_pretrained(folder)
    assert type(theirs) is transformers.LlamaConfig and theirs.hidden_act == "silu"
    assert not (theirs.attention_bias or theirs.mlp_bias or theirs.attention_dropout)
    eos = theirs.eos_token_id
    special = {
        "rope": {name: theirs.rope_parameters[name] for name in fields["rope"]},
        "eos_token_id": eos if isinstance(eos, list) else [] if eos is None else [eos],
    }
    return {name: special[name] if name in special else getattr(theirs, name) for name in fields}


MAY_BE_ABSENT = (
    "head_dim num_key_value_heads rope_scaling rope_theta initializer_range tie_word_embeddings bos_token_id"
    " eos_token_id attention_bias mlp_bias hidden_act architectures attention_dropout rms_norm_eps pretraining_tp"
    " max_position_embeddings use_cache torch_dtype transformers_version"
).split()
MAY_BE_NULL = (
    "head_dim num_key_value_heads rope_scaling bos_token_id eos_token_id architectures attention_dropout"
    " pretraining_tp pad_token_id quantization_config"
).split()
LLAMA3 = OLD["rope_scaling"]
SPELLINGS = [
    *({name: REMOVE} for name in MAY_BE_ABSENT),
    {name: REMOVE for name in MAY_BE_ABSENT},
    *({name: None} for name in MAY_BE_NULL),
    {name: None for name in MAY_BE_NULL},
    {"rope_scaling": {**{k: v for k, v in LLAMA3.items() if k != "rope_type"}, "type": "llama3"}},
    {"rope_scaling": {**LLAMA3, "type": "llama3"}},
    {"rope_scaling": {"type": "default"}},
    {"rope_scaling": {}},
    {"rope_theta": 10000},
    {"rope_scaling": REMOVE, "rope_parameters": None},
    {"rope_scaling": REMOVE, "rope_theta": REMOVE, "rope_parameters": {"rope_theta": 123.5}},
    {"rope_scaling": REMOVE, "rope_parameters": {"rope_type": "default"}},
    {"rope_scaling": REMOVE, "rope_theta": REMOVE, "rope_parameters": {"rope_type": "default"}},
    {"rope_theta": REMOVE, "rope_scaling": REMOVE, "rope_parameters": {**LLAMA3, "rope_theta": 777.0}},
    {"rope_scaling": REMOVE, "rope_parameters": LLAMA3},
    {"rope_scaling": REMOVE, "rope_parameters": {**LLAMA3, "partial_rotary_factor": 1.0}},
    {"original_max_position_embeddings": 8192},
    {"pretraining_tp": 2},
    {"layer_types": 16 * ["full_attention"]},
    {"eos_token_id": 5},
    {"eos_token_id": [5]},
    {"eos_token_id": list(range(100, 116))},
    {"pad_token_id": 0, "torch_dtype": REMOVE, "dtype": "float16"},
]


@pytest.mark.parametrize("change", SPELLINGS, ids=range(len(SPELLINGS)))
def test_means_what_transformers_means(tmp_path, change):
    config = read(tmp_path / "config.json", changed(OLD, change))
    expected = as_transformers(config)
    assert transformers_reads(tmp_path, expected) == expected
    call("llama_config_write", byref(config), path_bytes(tmp_path / "config.json"))
    assert transformers_reads(tmp_path, expected) == expected  # what we write says the same


def test_a_byte_order_mark_is_passed_over(tmp_path):
    assert as_dict(read(tmp_path / "config.json", "\ufeff" + json.dumps(NEW, indent=1).replace("\n", "\r\n"))) == as_dict(
        read(tmp_path / "config.json", NEW)
    )


def test_end_tokens_that_the_vocabulary_lacks(tmp_path):
    small = {"vocab_size": 2, "bos_token_id": REMOVE, "eos_token_id": REMOVE}
    config = read(tmp_path / "config.json", changed(OLD, small))
    assert (config.bos_token_id, end_tokens(config)) == (1, [])


REFUSED = [
    ({"model_type": "mistral"}, ["model_type", "mistral", "llama"]),
    ({"model_type": REMOVE}, ["model_type", "missing"]),
    ({"architectures": ["MistralForCausalLM"]}, ["architectures", "MistralForCausalLM"]),
    ({"architectures": []}, ["architectures"]),
    ({"attention_bias": True}, ["attention_bias", "true", "false"]),
    ({"attention_bias": 0}, ["attention_bias"]),
    ({"mlp_bias": True}, ["mlp_bias"]),
    ({"hidden_act": "gelu"}, ["hidden_act", "gelu", "silu"]),
    ({"attention_dropout": 0.1}, ["attention_dropout", "0.1"]),
    ({"quantization_config": {"quant_method": "fp8"}}, ["quantization_config", "fp8"]),
    ({"partial_rotary_factor": 0.5}, ["partial_rotary_factor"]),
    ({"rope_scaling.rope_type": "yarn"}, ["rope_scaling.rope_type", "yarn", "llama3"]),
    ({"rope_scaling.rope_type": REMOVE}, ["rope_scaling.rope_type", "missing"]),
    ({"rope_scaling": {"type": "linear", "factor": 2.0}}, ["rope_scaling.type", "linear"]),
    ({"rope_scaling": "llama3"}, ["rope_scaling", "object"]),
    ({"rope_scaling.factor": REMOVE}, ["rope_scaling.factor", "missing"]),
    ({"rope_scaling.low_freq_factor": REMOVE}, ["rope_scaling.low_freq_factor", "missing"]),
    ({"rope_scaling.high_freq_factor": REMOVE}, ["rope_scaling.high_freq_factor", "missing"]),
    (
        {"rope_scaling.original_max_position_embeddings": REMOVE},
        ["rope_scaling.original_max_position", "missing"],
    ),
    ({"rope_scaling.factor": "8"}, ["rope_scaling.factor", "number"]),
    ({"rope_scaling.factor": 0.5}, ["factor", "0.5"]),
    ({"rope_scaling.low_freq_factor": 4}, ["low_freq_factor", "high_freq_factor"]),
    ({"rope_scaling.original_max_position_embeddings": 0}, ["original_max_position"]),
    ({"rope_scaling": {"factor": 8.0}}, ["rope_scaling.rope_type", "missing"]),
    ({"rope_scaling": {"rope_type": "default", "factor": 8.0}}, ["rope_scaling.factor", "absent"]),
    ({"rope_scaling.type": "linear"}, ["rope_scaling.type", "linear"]),
    ({"rope_scaling.type": "default"}, ["rope_scaling.type", "same"]),
    ({"rope_scaling.attention_factor": 2.0}, ["rope_scaling.attention_factor", "absent"]),
    ({"rope_scaling.partial_rotary_factor": 0.5}, ["rope_scaling.partial_rotary_factor", "0.5"]),
    ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, ["rope_scaling.rope_type", "dynamic"]),
    ({"rope_scaling": {"rope_type": "longrope", "long_factor": [1]}}, ["rope_type", "longrope"]),
    ({"rope_scaling": {"full_attention": {"rope_type": "default"}}}, ["rope_scaling.rope_type", "missing"]),
    ({"original_max_position_embeddings": 4096}, ["original_max_position_embeddings", "4096", "same"]),
    ({"rope_theta": None, "rope_scaling.rope_theta": "1e4"}, ["rope_scaling.rope_theta", "number"]),
    ({"sliding_window": 4096}, ["sliding_window", "4096"]),
    ({"layer_types": ["full_attention", "sliding_attention"]}, ["layer_types", "sliding_attention"]),
    ({"rms_norm_eps": None}, ["rms_norm_eps", "null"]),
    ({"max_position_embeddings": None}, ["max_position_embeddings", "null"]),
    ({"initializer_range": None}, ["initializer_range", "null"]),
    ({"hidden_size": None}, ["hidden_size", "null"]),
    ({"rope_theta": -1.0}, ["rope_theta", "-1"]),
    ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}}, ["rope_parameters", "factor"]),
    ({"rope_parameters": {**NEW["rope_parameters"], "rope_theta": 1e4}}, ["rope_theta", "same"]),
    ({"rope_parameters": {**NEW["rope_parameters"], "factor": 8.0}}, ["rope_parameters", "rope_scaling"]),
    ({"num_attention_heads": 30}, ["num_attention_heads", "30", "8"]),
    (
        {"num_attention_heads": 24, "num_key_value_heads": 8, "head_dim": REMOVE},
        ["hidden_size", "num_attention_heads"],
    ),
    ({"head_dim": 72}, ["head_dim", "72", "16"]),
    ({"head_dim": 272}, ["head_dim", "272", "256"]),
    ({"head_dim": 0}, ["head_dim", "0"]),
    ({"hidden_size": 2047}, ["hidden_size", "2047"]),
    ({"hidden_size": 32784}, ["hidden_size", "32784", "to 32768"]),
    ({"intermediate_size": 8190}, ["intermediate_size", "8190"]),
    ({"vocab_size": 0}, ["vocab_size", "0"]),
    ({"vocab_size": -5}, ["vocab_size", "-5"]),
    ({"vocab_size": 2**31 - 1}, ["vocab_size", 2**31 - 1]),
    ({"num_hidden_layers": 2**40}, ["num_hidden_layers", "integer"]),
    ({"num_hidden_layers": 10**6}, ["num_hidden_layers", 10**6]),
    ({"num_hidden_layers": 1.5}, ["num_hidden_layers", "1.5", "integer"]),
    ({"num_hidden_layers": "16"}, ["num_hidden_layers", "integer"]),
    ({"num_hidden_layers": [16]}, ["num_hidden_layers", "[16]"]),
    ({"num_hidden_layers": True}, ["num_hidden_layers", "true"]),
    ({"num_key_value_heads": 0}, ["num_key_value_heads", "0"]),
    ({"rms_norm_eps": 0}, ["rms_norm_eps"]),
    ({"rms_norm_eps": "1e-5"}, ["rms_norm_eps"]),
    ({"initializer_range": -0.1}, ["initializer_range"]),
    ({"tie_word_embeddings": "yes"}, ["tie_word_embeddings", "yes"]),
    ({"bos_token_id": 128256}, ["bos_token_id", "vocab_size"]),
    ({"eos_token_id": -1}, ["eos_token_id"]),
    ({"eos_token_id": []}, ["eos_token_id"]),
    ({"eos_token_id": [5, "6"]}, ["eos_token_id", "list"]),
    ({"eos_token_id": [5, 128256]}, ["eos_token_id", "128256"]),
    ({"eos_token_id": list(range(17))}, ["eos_token_id", "16"]),
    ({"bos_token_id": [1, 2]}, ["bos_token_id", "[1,2]"]),
] + [
    ({name: REMOVE}, [name, "missing"])
    for name in (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
    )
]


@pytest.mark.parametrize(
    "change, words", REFUSED, ids=[",".join(words[:1] + [str(i)]) for i, (_, words) in enumerate(REFUSED)]
)
def test_refused_by_name(tmp_path, change, words):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(changed(OLD, change)))
    config = LlamaConfig(vocab_size=77)
    expect_refusal(INPUT, [path, *words], "llama_config_read", byref(config), path_bytes(path))
    assert config.vocab_size == 77 and config.hidden_size == 0  # untouched


@pytest.mark.parametrize(
    "text, word",
    [
        ("", "JSON"),
        ("{", "JSON"),
        ("[]", "object"),
        ("{} {}", "JSON"),
        ('{"a": "\xff"}', "UTF-8"),
        ('{"a\\u0000b": 1}', "u0000"),
        ('{"a": ' + "[" * 100 + "]" * 100 + "}", "nested"),
        ('{"a": ' + "[" * 10000 + "]" * 10000 + "}", "nested"),
        (json.dumps(OLD)[:-1].replace("500000.0", "1e400") + "}", "rope_theta"),
        (json.dumps(OLD)[:-1].replace("128256", "1e400") + "}", "vocab_size"),
        (json.dumps(OLD)[:-1] + ', "vocab_size": 5}', "vocab_size"),
        ('{"a": NaN}', "JSON"),
    ],
)
def test_malformed(tmp_path, text, word):
    path = tmp_path / "config.json"
    path.write_bytes(text.encode("latin-1"))
    expect_refusal(INPUT, [path, word], "llama_config_read", byref(LlamaConfig()), path_bytes(path))


def test_missing_file_and_folder(tmp_path):
    expect_refusal(
        INPUT,
        [tmp_path / "no.json"],
        "llama_config_read",
        byref(LlamaConfig()),
        path_bytes(tmp_path / "no.json"),
    )
    expect_refusal(INPUT, [tmp_path], "llama_config_read", byref(LlamaConfig()), path_bytes(tmp_path))


def random_config(rng):
    head_dim, kv_heads = int(rng.integers(1, 17)) * 16, int(rng.integers(1, 4))
    heads = kv_heads * int(rng.integers(1, 4))
    llama3 = bool(rng.integers(2))
    config = LlamaConfig(
        vocab_size=int(rng.integers(100, 1000)),
        hidden_size=heads * 16,
        intermediate_size=int(rng.integers(1, 50)) * 8,
        num_hidden_layers=int(rng.integers(1, 5)),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        max_position_embeddings=int(rng.integers(64, 4096)),
        rms_norm_eps=float(rng.uniform(1e-6, 1e-4)),
        rope_theta=float(rng.uniform(1e4, 1e6)),
        initializer_range=float(rng.uniform(0.01, 0.1)),
        tie_word_embeddings=bool(rng.integers(2)),
        rope_type=int(llama3),
        bos_token_id=int(rng.integers(-1, 50)),
        eos_token_id=int(rng.integers(-1, 50)),
    )
    if config.eos_token_id >= 0:
        config.num_more_eos_tokens = int(rng.integers(0, 16))
        for i in range(config.num_more_eos_tokens):
            config.more_eos_token_ids[i] = 50 + i
    if llama3:
        config.rope_factor, config.rope_low_freq_factor = (
            float(rng.uniform(2, 32)),
            float(rng.uniform(0.5, 2)),
        )
        config.rope_high_freq_factor, config.rope_original_max_position = float(rng.uniform(3, 5)), 32
    return config


def test_write_reads_back_and_opens_in_transformers(tmp_path):
    import transformers

    rng = fresh_random()
    for _ in range(8):
        config, back = random_config(rng), LlamaConfig()
        path = tmp_path / "config.json"
        call("llama_config_write", byref(config), path_bytes(path))
        call("llama_config_read", byref(back), path_bytes(path))
        assert as_dict(back) == as_dict(config)
        expected = as_transformers(config)
        assert transformers_reads(tmp_path, expected) == expected
        theirs = transformers.AutoConfig.from_pretrained(tmp_path)
        assert str(theirs.dtype).split(".")[-1] in ("bfloat16", "float32")


def test_shipped_configurations_read(tmp_path):
    paths = sorted((pathlib.Path(REPOSITORY) / "configs").glob("*.json"))
    assert len(paths) >= 5
    for path in paths:
        config, back = LlamaConfig(), LlamaConfig()
        call("llama_config_read", byref(config), path_bytes(path))
        call("llama_config_write", byref(config), path_bytes(tmp_path / "config.json"))
        call("llama_config_read", byref(back), path_bytes(tmp_path / "config.json"))
        assert as_dict(back) == as_dict(config)


def test_model_of_transformers_reads(tmp_path):
    import transformers

    theirs = transformers.LlamaConfig(
        vocab_size=300,
        hidden_size=96,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        architectures=["LlamaForCausalLM"],
        rope_parameters={"rope_type": "default", "rope_theta": 5e5},
    )
    theirs.save_pretrained(tmp_path)
    config = LlamaConfig()
    call("llama_config_read", byref(config), path_bytes(tmp_path / "config.json"))
    assert (config.head_dim, config.rope_theta, config.num_key_value_heads) == (16, 5e5, 2)


def test_write_refuses_nonsense_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "config.json"
    path.write_text("old")
    expect_refusal(INPUT, ["vocab_size"], "llama_config_write", byref(LlamaConfig()), path_bytes(path))
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["config.json"]
