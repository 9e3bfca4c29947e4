"""Reward models: a Llama with a head of one number in place of lm_head. What is read is what transformers'
LlamaForSequenceClassification means, what is written gives its scores, and neither kind is taken for the other."""

import ctypes
import json
import os
import shutil
import subprocess
from ctypes import byref

import pytest
import safetensors.torch
import torch

import compare
import model as models
import trainrun
from checkpoints import Failure, call, write
from model import TINY, Config, Model
from trainrun import VOCAB, Workplace

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import transformers  # noqa: E402

T = 24
TIED = dict(tie_word_embeddings=True)
END = 7


def reward(**changes):
    return TINY | dict(num_labels=1, eos_token_id=END, pad_token_id=3) | changes


def read_config(lib, folder):
    config = Config()
    call(lib, "llama_config_read", byref(config), ctypes.c_char_p(os.fsencode(folder / "config.json")))
    return config


def make_theirs(folder, kind=transformers.LlamaForSequenceClassification, **changes):
    """A random model as transformers saves it."""
    fields = {k: v for k, v in TINY.items() if k not in ("rope_theta", "rope_scaling")} | changes
    if kind is transformers.LlamaForSequenceClassification:
        fields = dict(num_labels=1, pad_token_id=3) | fields
    theirs = kind(transformers.LlamaConfig(**fields))
    with torch.no_grad():
        for p in theirs.parameters():
            p.copy_(1 + 0.2 * torch.randn_like(p) if p.ndim == 1 else torch.randn_like(p) / p.shape[-1] ** 0.5)
    theirs.save_pretrained(folder)
    return theirs


def edit(folder, change, name="config.json"):
    if name == "config.json":
        fields = json.loads((folder / name).read_text())
        change(fields)
        (folder / name).write_text(json.dumps(fields))
        return
    tensors = safetensors.torch.load_file(folder / name)
    change(tensors)
    safetensors.torch.save_file(tensors, folder / name, metadata={"format": "pt"})


def read_weights(lib, folder, model, seed=None):
    path = ctypes.c_char_p(os.fsencode(folder))
    if seed is None:
        call(lib, "checkpoint_read_weights", path, model.handle)
    else:
        call(lib, "checkpoint_read_language_model", path, model.handle, ctypes.c_uint64(seed))


def refused(lib, folder, model, *words, seed=None):
    with pytest.raises(Failure) as failure:
        read_weights(lib, folder, model, seed)
    assert failure.value.code == 2
    for word in words:
        assert word in failure.value.message, failure.value.message


def random_weights(model):
    return {name: 1 + 0.2 * torch.randn(model.shape(i)) if len(model.shape(i)) == 1
            else torch.randn(model.shape(i)) / model.shape(i)[-1] ** 0.5 for i, name in enumerate(model.names)}  # fmt: skip


def our_scores(lib, model, fields, texts):
    """hidden . w after each text's last token: a language model of the same body, whose head's first row is the score's."""
    weights = model.weights()
    score = weights.pop("score.weight")
    body = Model(lib, fields | dict(num_labels=0, tie_word_embeddings=False), 1, T, training=False)
    head = torch.zeros(fields["vocab_size"], fields["hidden_size"], dtype=lib.floatX)
    head[0] = score[0]
    body.set_weights(weights | {"lm_head.weight": head})
    return torch.stack([body.logits(tokens)[0] for tokens in texts])


# ---- config.json


@pytest.mark.checked
@pytest.mark.parametrize("change", [{}, {"num_labels": 1}, {"num_labels": 1, "id2label": None}, {"id2label": {"0": "good"}}])
def test_one_label(lib, tmp_path, change):
    make_theirs(tmp_path)
    edit(tmp_path, lambda fields: fields.update(change))
    config = read_config(lib, tmp_path)
    assert (config.num_labels, config.pad_token_id) == (1, 3)


REFUSED = [
    ({"num_labels": 2}, "num_labels"),
    ({"num_labels": 2, "id2label": None}, "num_labels"),
    ({"num_labels": "1"}, "num_labels"),
    ({"id2label": None}, "num_labels"),  # which transformers takes for two
    ({"id2label": {"0": "a", "1": "b"}}, "id2label"),
    ({"id2label": {}}, "id2label"),
    ({"id2label": ["a"]}, "id2label"),
    ({"architectures": ["LlamaForTokenClassification"]}, "architectures"),
    ({"architectures": ["LlamaForSequenceClassification", "LlamaForCausalLM"]}, "architectures"),
]


@pytest.mark.checked
@pytest.mark.parametrize("change, field", REFUSED)
def test_other_labels_are_refused_by_name(lib, tmp_path, change, field):
    make_theirs(tmp_path)
    edit(tmp_path, lambda fields: fields.update(change))
    with pytest.raises(Failure) as failure:
        read_config(lib, tmp_path)
    assert failure.value.code == 2 and field in failure.value.message


@pytest.mark.checked
def test_labels_of_a_language_model_mean_nothing(lib, tmp_path):
    make_theirs(tmp_path, transformers.LlamaForCausalLM)
    edit(tmp_path, lambda fields: fields.update(id2label={"0": "a", "1": "b"}, num_labels=2, pad_token_id=-1))
    config = read_config(lib, tmp_path)
    assert (config.num_labels, config.pad_token_id) == (0, -1)


@pytest.mark.checked
@pytest.mark.parametrize("pad, ends, written", [(-1, [5], None), (9, [5], 9), (5, [5], None), (6, [5, 6, 0], None)])
def test_padding_ends_no_text(lib, tmp_path, pad, ends, written):
    fields = TINY | dict(num_labels=1, pad_token_id=pad)
    config = models.c_config(fields)
    for end in ends:
        call(lib, "llama_config_add_end", byref(config), end, ctypes.c_char_p(b"here"))
    path = ctypes.c_char_p(os.fsencode(tmp_path / "config.json"))
    call(lib, "llama_config_write", byref(config), path)
    theirs = transformers.AutoConfig.from_pretrained(tmp_path)
    assert (theirs.pad_token_id, theirs.num_labels, theirs.architectures) == (written, 1, ["LlamaForSequenceClassification"])
    back = read_config(lib, tmp_path)
    assert (back.num_labels, back.pad_token_id, back.eos_token_id) == (1, -1 if written is None else written, config.eos_token_id)


# ---- weights


@pytest.mark.checked
@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("tied", [False, True])
def test_table(lib, shards, tied):
    parallel = models.Parallel(shards=shards)
    model = Model(lib, reward(tie_word_embeddings=tied), 1, 8, parallel=parallel)
    table = ctypes.cast(lib.llama3_parameters(model.handle), ctypes.POINTER(models.ParameterTable)).contents
    at = model.names.index("score.weight")
    assert "lm_head.weight" not in model.names and model.shape(at) == (1, TINY["hidden_size"])
    bucket = table.buckets[table.head_bucket]
    assert table.head_bucket == TINY["num_hidden_layers"] + 1 and bucket.label == b"score" and bucket.decay
    assert table.head == model.tensors[at].offset == bucket.begin and bucket.end - bucket.begin == 128 * shards


@pytest.mark.parametrize("fields", [{}, TIED], ids=["plain", "tied"])
def test_written_scores_are_transformers(lib, tmp_path, fields):
    fields = reward(**fields)
    model = Model(lib, fields, 1, T)
    model.fields = fields
    model.set_weights(random_weights(model))
    write(model, tmp_path, 5)
    folder = tmp_path / "step_00000005"
    texts = torch.randint(8, TINY["vocab_size"], (32, T))
    texts[:, -1] = END  # the last token of an answer ends it
    scores = our_scores(lib, model, fields, texts)

    def theirs(dtype):
        opened, info = transformers.AutoModelForSequenceClassification.from_pretrained(folder, dtype=dtype, output_loading_info=True)
        assert type(opened) is transformers.LlamaForSequenceClassification
        assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
        padded = torch.nn.functional.pad(texts, (0, 5), value=opened.config.pad_token_id)
        with torch.no_grad():
            return opened(padded).logits[:, 0]

    bf16 = theirs(torch.bfloat16) if lib.precision == "bf16" else None
    compare.check("scores", scores, theirs(torch.float64), bf16, 6e-2)


def test_own_directory_reads_whole(lib, tmp_path):
    theirs = make_theirs(tmp_path)
    model = Model(lib, read_config(lib, tmp_path), 1, T)
    read_weights(lib, tmp_path, model)
    expected = theirs.state_dict()
    for name, values in model.weights().items():
        assert torch.equal(values, expected[name].to(lib.floatX)), name
    edit(tmp_path, lambda tensors: tensors.pop("score.weight"), "model.safetensors")
    refused(lib, tmp_path, model, "score.weight", "missing")


@pytest.mark.parametrize("tied", [False, True])
def test_begins_as_a_language_model(lib, tmp_path, tied):
    """The body is read, the head drawn: by the seed, normal, with initializer_range as its deviation."""
    wide = dict(hidden_size=256, initializer_range=0.05)
    theirs = make_theirs(tmp_path, transformers.LlamaForCausalLM, tie_word_embeddings=tied, **wide)
    config = read_config(lib, tmp_path)
    config.num_labels = 1
    model = Model(lib, config, 1, T)
    drawn = []
    for seed in (11, 12, 11):
        read_weights(lib, tmp_path, model, seed)
        drawn.append(model.weights()["score.weight"])
    assert torch.equal(drawn[0], drawn[2]) and not torch.equal(drawn[0], drawn[1])
    heads = torch.cat(drawn[:2]).double()
    assert abs(heads.mean()) < 0.05 * 4 / 512**0.5  # four standard errors
    assert abs(heads.std() - 0.05) < 0.05 * 4 / 1024**0.5
    expected = theirs.state_dict()
    master = torch.empty(1, 256)
    for i, name in enumerate(model.names):
        if name != "score.weight":
            assert torch.equal(model.weights()[name], expected[name].to(lib.floatX)), name
        lib.llama3_get_training_piece(model.handle, 0, i, 0, 256, master)
        assert torch.equal(master.reshape(-1), model.weights()[name].float().reshape(-1)[:256])
    refused(lib, tmp_path, model, "score.weight", "missing")  # read as a reward model's own directory


def test_neither_is_taken_for_the_other(lib, tmp_path):
    make_theirs(tmp_path)
    config = read_config(lib, tmp_path)
    refused(lib, tmp_path, Model(lib, config, 1, T), "score.weight", "has not", seed=1)  # no language model
    config.num_labels = 0
    refused(lib, tmp_path, Model(lib, config, 1, T), "lm_head.weight", "missing")


def test_programs_that_need_a_language_model_refuse_it(lib, tmp_path):
    work = Workplace(tmp_path)
    folder = tmp_path / "reward"
    make_theirs(folder, vocab_size=VOCAB)
    shutil.copy(work.data / "tokenizer.json", folder)
    work.refused(folder / "config.json", "reward model", config=None, init_from=folder)
    work.refused(folder / "config.json", "reward model", config=folder / "config.json")
    with pytest.raises(Failure) as failure:
        call(lib, "generator_open", byref(ctypes.c_void_p()), ctypes.c_char_p(os.fsencode(folder)), 1, 16, 0)
    assert failure.value.code == 2 and "reward model" in failure.value.message


def test_evaluation_refuses_it(tmp_path):
    work = Workplace(tmp_path)
    folder = tmp_path / "reward"
    make_theirs(folder, vocab_size=VOCAB)
    shutil.copy(work.data / "tokenizer.json", folder)
    command = [trainrun.program(), "--eval-only", "--init-from", folder, "--val-data", work.data / "val_*.bin"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 2 and "reward model" in done.stderr
