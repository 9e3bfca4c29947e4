"""average_llama3: the average of models equals torch's, what does not belong together is refused by name, and the output
appears whole or not at all."""

import hashlib
import json
import os
import re
import shutil
import subprocess

import pytest
import safetensors.torch
import torch

import checkpoints
from hfmodels import SCALING, edit_config, edit_weights, load, make_model, mixed_dtypes, models, old_spelling, same_bits, slow_model
from modeltools import AVERAGE
from trainrun import write_tokenizer
from waiting import wait_until

import transformers  # offline, as hfmodels has seen to

MARK = AVERAGE.mark
average, refused, run = AVERAGE.make, AVERAGE.refused, AVERAGE.run


@pytest.fixture
def two(tmp_path):
    return models(tmp_path, 2)


# ---- what it computes


@pytest.mark.checked
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_two_equal_torch(tmp_path, dtype):
    """Two values' fp32 mean is one rounding of the exact mean, in torch and here."""
    a, b = models(tmp_path, 2, dtype)
    x, y = load(a), load(b)
    exact = {name: (x[name].float() + y[name].float()) / 2 for name in x}
    same_bits(average(tmp_path / "same", a, b), {name: v.to(dtype) for name, v in exact.items()})
    same_bits(average(tmp_path / "wide", a, b, "--dtype", "fp32"), exact)
    same_bits(average(tmp_path / "narrow", a, b, "--dtype=bf16"), {name: v.bfloat16() for name, v in exact.items()})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("count", [1, 3, 7])
def test_equal_models(tmp_path, dtype, count):
    """They give themselves, bit for bit, with zeros of both signs, subnormal and extreme values too."""
    (a,) = models(tmp_path, 1, dtype)
    info = torch.finfo(dtype)
    odd = torch.tensor([0.0, -0.0, info.max, info.min, info.tiny, info.smallest_normal / 8, -info.smallest_normal / 8])
    edit_weights(a, lambda t: t["model.embed_tokens.weight"].view(-1)[:7].copy_(odd.to(dtype)))
    weights = [str(w) for w in (torch.rand(count) + 0.1).tolist()]
    assert (load(a)["model.embed_tokens.weight"].view(-1)[1]).signbit()
    for more in ([], ["--weights", ",".join(weights)]):
        same_bits(average(tmp_path / "out", *[a] * count, more=[*more, "--overwrite"]), load(a))


def test_every_half_and_rounding(tmp_path):
    """fp16 to fp32 and back: all finite values; and means that lie anywhere between two of them."""
    (a, b) = models(tmp_path, 2, torch.float16)
    every = torch.arange(-32768, 32768, dtype=torch.int32).to(torch.int16).view(torch.float16)
    every = every[torch.isfinite(every)]
    more = every[torch.randperm(len(every))]
    name = "lm_head.weight"
    edit_weights(a, lambda t: t.update({name: every.clone()}))
    edit_weights(b, lambda t: t.update({name: more.clone()}))
    exact = (every.float() + more.float()) / 2
    same_bits({name: average(tmp_path / "same", a, b)[name]}, {name: exact.half()})
    same_bits({name: average(tmp_path / "wide", a, b, "--dtype", "fp32")[name]}, {name: exact})


def test_weights_and_types(tmp_path):
    """Of several types, in several files: against float64, rounded to fp32 and then to the first's type."""
    first, second, third = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    make_model(first, dtype=torch.bfloat16, shard="30KB")
    make_model(second, dtype=torch.float32)
    edit_weights(second, mixed_dtypes)
    make_model(third, dtype=torch.float16, shard="50KB")
    given = (torch.rand(3, dtype=torch.float64) + 0.1).tolist()
    found = average(tmp_path / "out", first, second, third, "--weights", ",".join(map(repr, given)))
    x, y, z = load(first), load(second), load(third)
    expected = {}
    for name in x:
        w = [weight / (given[0] + given[1] + given[2]) for weight in given]
        total = w[0] * x[name].double() + w[1] * y[name].double() + w[2] * z[name].double()
        expected[name] = total.float().bfloat16()
    same_bits(found, expected)
    assert sorted(p.name for p in (tmp_path / "out").glob("*.safetensors")) == sorted(p.name for p in first.glob("*.safetensors"))
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(v.numel() * 2 for v in found.values())


def test_order_of_the_sum(tmp_path):
    """In that of the command line: a difference that only one of the orders keeps. (2^80 and 1 have no sum in fp64.)"""
    made = models(tmp_path, 3, torch.float32)
    for path, value in zip(made, (2.0**80, -(2.0**80), 3.0)):
        edit_weights(path, lambda t, v=value: t.update({"model.norm.weight": torch.full((64,), v)}))
    a, b, c = made
    assert (average(tmp_path / "one", a, b, c)["model.norm.weight"] == 1).all()
    assert (average(tmp_path / "two", a, c, b)["model.norm.weight"] != 1).all()


def test_transformers_opens_it(two, tmp_path):
    torch.manual_seed(1)
    tokens = torch.randint(0, 200, (1, 16))
    found = average(tmp_path / "out", *two, "--dtype", "fp32")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.dtype == torch.float32 and model.lm_head.weight.equal(found["lm_head.weight"])
    assert torch.isfinite(model(tokens).logits).all()
    kept = json.loads((two[0] / "config.json").read_text())
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config.pop("dtype") == config.pop("torch_dtype") == "float32"
    assert config == {k: v for k, v in kept.items() if k not in ("dtype", "torch_dtype")}


def test_files_of_the_first(two, tmp_path):
    digest = write_tokenizer(two[0])
    (two[0] / "chat_template.jinja").write_text("{{ messages }}")
    (two[0] / "other.txt").write_text("not copied")
    shutil.copy(two[0] / "tokenizer.json", two[1])
    (two[1] / "added_tokens.json").write_text("{}")
    (two[1] / "chat_template.jinja").write_text("another")
    average(tmp_path / "out", *two)
    assert checkpoints.files(tmp_path / "out") == sorted([
        MARK, "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"
    ])  # fmt: skip
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (two[0] / name).read_bytes(), name
    assert hashlib.sha256((tmp_path / "out/tokenizer.json").read_bytes()).digest() == digest


def test_what_it_says(two, tmp_path):
    done = run(tmp_path / "out", *two, "--weights", "3,1")
    assert done.returncode == 0 and done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0] == "models, weights normalised to sum 1:"
    assert lines[1].split() == ["0.75", str(two[0])] and lines[2].split() == ["0.25", str(two[1])]
    assert re.fullmatch(r"\d+ tensors, \S+ values, summed in fp64 in this order, rounded to fp32 and then to the first's types", lines[3])
    assert lines[4].startswith(f"written to {tmp_path / 'out'}: ")
    said = json.loads((tmp_path / "out" / MARK).read_text())
    assert said["dtype"] == "same" and [c["weight"] for c in said["checkpoints"]] == [0.75, 0.25]
    assert [c["folder"] for c in said["checkpoints"]] == list(map(str, two))


def make_reward_model(folder):
    config = transformers.LlamaConfig(vocab_size=260, hidden_size=64, intermediate_size=112, num_hidden_layers=2, num_attention_heads=4,
                                      num_key_value_heads=2, num_labels=1, pad_token_id=0)  # fmt: skip
    transformers.LlamaForSequenceClassification(config).to(torch.float32).save_pretrained(folder)
    return folder


def test_reward_models(two, tmp_path):
    a, b = make_reward_model(tmp_path / "a"), make_reward_model(tmp_path / "b")
    found = average(tmp_path / "out", a, b)
    x, y = load(a), load(b)
    same_bits(found, {name: (x[name] + y[name]) / 2 for name in x})
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert model.score.weight.equal(found["score.weight"])
    refused("config.json", "num_labels is 0, expected 1", output=tmp_path / "no", arguments=[a, two[0]])


# ---- adapters


def make_adapter(folder, **changes):
    folder.mkdir()
    fields = dict(peft_type="LORA", base_model_name_or_path="base", r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], lora_dropout=0.0,
                  bias="none", task_type="CAUSAL_LM", inference_mode=True)  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(fields | changes))
    prefix = "base_model.model.model.layers.0.self_attn"
    tensors = {f"{prefix}.{m}.lora_{x}.weight": torch.randn(s) for m in ("q_proj", "v_proj") for x, s in (("A", (4, 64)), ("B", (64, 4)))}
    safetensors.torch.save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return folder


def test_adapters(tmp_path):
    a = make_adapter(tmp_path / "a")
    b = make_adapter(tmp_path / "b", target_modules=["v_proj", "q_proj"], inference_mode=False, layers_to_transform=None)
    found = average(tmp_path / "out", a, b)
    x, y = load(a), load(b)
    same_bits(found, {name: (x[name] + y[name]) / 2 for name in x})
    assert checkpoints.files(tmp_path / "out") == ["adapter_config.json", "adapter_model.safetensors", MARK]
    assert (tmp_path / "out/adapter_config.json").read_bytes() == (a / "adapter_config.json").read_bytes()


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"lora_alpha": 16}, ["lora_alpha is 16, expected 8"]),
        ({"r": 8}, ["r is 8, expected 4"]),
        ({"target_modules": ["q_proj"]}, ["target_modules", '["q_proj"]']),
        ({"use_rslora": True}, ["use_rslora is true, expected absent"]),
        ({"base_model_name_or_path": "other"}, ["base_model_name_or_path", '"other"', '"base"']),
    ],
)
def test_other_adapters(tmp_path, changes, words):
    a, b = make_adapter(tmp_path / "a"), make_adapter(tmp_path / "b", **changes)
    refused("b/adapter_config.json", *words, output=tmp_path / "out", arguments=[a, b])


def test_adapter_and_model(two, tmp_path):
    a = make_adapter(tmp_path / "a")
    refused(a, "is an adapter", two[0], f"merge_lora --adapter {a}", output=tmp_path / "out", arguments=[two[0], a])
    refused(two[0], "is no adapter", a, output=tmp_path / "out", arguments=[a, two[0]])
    shutil.move(a / "adapter_model.safetensors", a / "adapter_model.bin")
    refused("adapter_model.bin", "pickle", output=tmp_path / "out", arguments=[a])


# ---- what does not belong together


def remove(name):
    return lambda tensors: tensors.pop(name)


@pytest.mark.parametrize(
    "change, words",
    [
        (remove("model.norm.weight"), ["model.norm.weight", "missing"]),
        (remove("lm_head.weight"), ["lm_head.weight", "missing"]),
        (lambda t: t.update({"model.zzz": torch.ones(3)}), ["model1: 1 tensor that the model has not", "model.zzz"]),
        (lambda t: t.update({"aaa": torch.ones(3)}), ["model1: 1 tensor that the model has not", "aaa"]),
        (lambda t: t.update({"model.norm.weight": torch.ones(8, 8)}), ["model.norm.weight", "[8, 8]", "[64]"]),
    ],
)
def test_tensors_that_differ(two, tmp_path, change, words):
    edit_weights(two[1], change)
    refused(*words, output=tmp_path / "out", arguments=two)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 777.0}}, ["rope_theta is 777", "expected 10000"]),
        ({"rope_parameters": {**SCALING, "rope_theta": 10000.0}}, ["rope_type is llama3", "expected default"]),
        ({"vocab_size": 264}, ["vocab_size is 264", "expected 260"]),
        ({"rms_norm_eps": 1e-3}, ["rms_norm_eps"]),
        ({"tie_word_embeddings": True}, ["tie_word_embeddings is true", "expected false"]),
        ({"num_hidden_layers": 3}, ["num_hidden_layers is 3", "expected 2"]),
    ],
)
def test_configurations_that_differ(tmp_path, changes, words):
    make_model(tmp_path / "a")
    make_model(tmp_path / "b", **changes)
    refused("b/config.json", *words, output=tmp_path / "out", arguments=[tmp_path / "a", tmp_path / "b"])


def test_configurations_that_mean_the_same(two, tmp_path):
    edit_config(two[1], old_spelling)
    edit_config(two[1], lambda fields: fields.update(initializer_range=0.5, max_position_embeddings=128, eos_token_id=[2, 3]))
    average(tmp_path / "out", *two)


def test_configurations_that_are_refused(two, tmp_path):
    edit_config(two[0], lambda fields: fields.update(attention_bias=True))
    refused("model0/config.json", "attention_bias", output=tmp_path / "out", arguments=two)
    (two[0] / "config.json").unlink()
    refused("model0/config.json", "No such file", output=tmp_path / "out", arguments=two)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model"])
def test_tokenizers_that_differ(tmp_path, name):
    a, b, c = models(tmp_path, 3)  # the first has none
    (b / name).write_text("one")
    (c / name).write_text("other")
    hashes = [hashlib.sha256(x).hexdigest() for x in (b"one", b"other")]
    refused(f"model2/{name}", *hashes, "model1", output=tmp_path / "out", arguments=[a, b, c])
    (c / name).write_text("one")
    average(tmp_path / "out", a, b, c)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_values_that_are_not_finite(tmp_path, value, dtype):
    a, b = models(tmp_path, 2, dtype)

    def spoil(tensors):
        tensors["model.norm.weight"][torch.randperm(64)[:3]] = value

    edit_weights(b, spoil)
    refused("model1/model.safetensors", "model.norm.weight", "3 of 64", output=tmp_path / "out", arguments=[a, b])
    refused("model.norm.weight", "3 of 64", output=tmp_path / "out", arguments=[a, b], more=["--weights", "1,0"])


def test_settings_nested_deeply(tmp_path):
    """They are compared in time that grows with their size, not with two to the power of the depth."""
    deep = {}
    for _ in range(50):
        deep = {"a": deep}
    a, b = (make_adapter(tmp_path / name, rank_pattern=deep) for name in "ab")
    average(tmp_path / "out", a, b)


def test_folders_of_similar_names_are_left_alone(two, tmp_path):
    """The user's own folder beside the output; and an input where the output is made."""
    beside = tmp_path / "out.old"
    shutil.copytree(two[0], beside)
    average(tmp_path / "out", beside, two[1])
    average(tmp_path / "out", beside, two[1], more=["--overwrite"])
    same_bits(load(beside), load(two[0]))
    for name in ("new.average.tmp", "new.average.old"):
        two[0].rename(tmp_path / name)
        done = run(tmp_path / "new", tmp_path / name, two[1])
        assert done.returncode == 2 and f"{name}: the output's temporary folder is " in done.stderr, done.stderr
        same_bits(load(tmp_path / name), load(beside))
        (tmp_path / name).rename(two[0])


def test_models_without_tensors(two, tmp_path):
    for folder in two:
        safetensors.torch.save_file({}, folder / "model.safetensors", metadata={"format": "pt"})
    refused("has no tensors, expected some", output=tmp_path / "out", arguments=two)


def test_averages_that_are_too_large(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    make_model(a, dtype=torch.float16)
    make_model(b, dtype=torch.float32)
    edit_weights(b, lambda t: t["model.norm.weight"][5:7].fill_(1e6))
    refused("model.norm.weight", "2 of 64", "largest F16", output=tmp_path / "out", arguments=[a, b])
    average(tmp_path / "out", a, b, "--dtype", "bf16")


def test_pickles(two, tmp_path):
    (two[1] / "model.safetensors").unlink()
    (two[1] / "pytorch_model.bin").write_bytes(b"\x80\x02}.")
    refused("pytorch_model.bin", "pickle", output=tmp_path / "out", arguments=two)


def test_truncated(two, tmp_path):
    path = two[1] / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    refused("model1/model.safetensors", output=tmp_path / "out", arguments=two)


# ---- options


@pytest.mark.parametrize(
    "more, words",
    [
        (["--weights", "1"], ["--weights", "expected 2 numbers", "found 1"]),
        (["--weights", "1,2,3"], ["--weights", "expected 2 numbers", "found 3"]),
        (["--weights", "1,-1"], ["weight 2 is -1", "not below 0"]),
        (["--weights", "nan,1"], ["weight 1 is nan"]),
        (["--weights", "1,inf"], ["weight 2 is inf"]),
        (["--weights", "1e999,1"], ["weight 1 is inf"]),
        (["--weights", "0,0"], ["sum", "0"]),
        (["--weights", "1e308,1e308"], ["sum", "inf"]),
        (["--weights", "1,"], ["--weights", "'1,'"]),
        (["--weights", "1x,1"], ["--weights", "'1x,1'"]),
        (["--weights", ""], ["--weights"]),
        (["--dtype", "fp16"], ["--dtype", "same|fp32|bf16", "'fp16'"]),
    ],
)
def test_bad_options(two, tmp_path, more, words):
    refused(*words, output=tmp_path / "out", arguments=two, more=more)


def test_required(two, tmp_path):
    refused("CHECKPOINT is missing", output=tmp_path / "out", arguments=[])
    done = subprocess.run([AVERAGE.path, *two], capture_output=True, text=True)
    assert done.returncode == 2 and "--output DIR is missing" in done.stderr
    refused("--output", "empty", output=tmp_path / "out", arguments=[*two, "--output="])
    done = run(tmp_path / "out", *two, "--nonsense")
    assert done.returncode == 2 and "--nonsense" in done.stderr and not (tmp_path / "out").exists()


def test_help():
    done = subprocess.run([AVERAGE.path, "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""
    listed = set(re.findall(r"^ +(?:-\S, )?--([a-z]+)(?:=(\S+))?", done.stdout, re.M))
    assert listed == {("output", "DIR"), ("weights", "LIST"), ("dtype", "same|fp32|bf16"), ("overwrite", ""), ("help", ""), ("usage", ""), ("version", "")}
    text = " ".join(done.stdout.split())
    assert "Usage: average_llama3 [OPTION...] CHECKPOINT..." in text and text.endswith("Exit codes: 0 done, 2 bad usage or input, 1 anything else.")
    assert "(default: same)" in text and "in fp64, in the order of the command line" in text


# ---- the output


def test_output_that_exists(two, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    average(out, *two)  # an empty folder is as good as none
    refused(out, "exists", "--overwrite", output=out, arguments=two)
    average(out, two[0], more=["--overwrite"])
    same_bits(load(out), load(two[0]))
    (out / MARK).unlink()
    refused(out, MARK, "only that is overwritten", output=out, arguments=two, more=["--overwrite"])
    file = tmp_path / "file"
    file.write_text("precious")
    done = run(file, *two, more=["--overwrite"])
    assert done.returncode == 2 and "no folder" in done.stderr and file.read_text() == "precious"
    done = run(tmp_path / "missing/out", *two)
    assert done.returncode == 2 and "missing" in done.stderr


def test_output_among_the_inputs(two, tmp_path):
    average(tmp_path / "out", *two)
    (tmp_path / "link").symlink_to("out")
    shutil.copytree(two[1], tmp_path / "out/inner")
    for output, inputs in ((two[0], two), (tmp_path / "out", [two[0], tmp_path / "link"]), (tmp_path / "link", [tmp_path / "out"]),
                           (tmp_path / "out/", [tmp_path / "out/inner"])):  # fmt: skip
        refused("output", "checkpoint", inputs[-1] if output != two[0] else two[0], output=output, arguments=inputs, more=["--overwrite"])


def test_left_by_a_killed_one(two, tmp_path):
    made = tmp_path / "out.average.tmp"
    (made / "folder").mkdir(parents=True)
    (made / "model.safetensors").write_text("half")
    average(tmp_path / "out", *two)
    made.symlink_to(two[0])
    done = run(tmp_path / "out", *two, more=["--overwrite"])
    assert done.returncode == 2 and str(made) in done.stderr and load(two[0])


@pytest.mark.parametrize("number, code", [(15, 1), (9, -9)])
def test_killed(tmp_path, number, code):
    """SIGTERM leaves nothing; after SIGKILL the next run cleans up; two at a time do not meet."""
    inputs = slow_model(tmp_path / "a", 8)
    out = tmp_path / "out"
    process = subprocess.Popen([AVERAGE.path, "--output", out, *inputs], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_until((tmp_path / "out.average.tmp/model.safetensors").exists, "the output begun", process=process)
    other = run(out, *inputs)
    assert other.returncode == 2 and "another average_llama3" in other.stderr
    process.send_signal(number)
    said = process.communicate()[1]
    assert process.returncode == code and not out.exists()
    if number == 15:
        assert "given up" in said and not (tmp_path / "out.average.tmp").exists()
    small = models(tmp_path, 1)
    average(out, *small)


@pytest.mark.parametrize("what, there", [("EIO", True), ("kill", True), ("kill", False)])
def test_every_call_goes_wrong(two, tmp_path, shim, what, there):
    """A disk that fails and a machine that stops, at each call: the output is whole, the old or the new, or not there. The
    same command then gives the new one; a failure leaves nothing behind."""
    work = tmp_path / "work"
    old, new = load(two[1]), average(tmp_path / "expected", *two)
    for at in range(1, 100):
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        if there:
            average(work / "out", two[1])
        environment = os.environ | {"LD_PRELOAD": str(shim), "FAULTY_PATH": str(work), "FAULTY_AT": str(at), "FAULTY_DO": what}
        command = [AVERAGE.path, "--output", work / "out", "--overwrite", *two]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if "faulty: " not in done.stderr:
            break
        assert done.returncode in ((-9,) if what == "kill" else (0, 1)), done.stderr
        if (work / "out").exists() or there:
            found = load(work / "out")
            assert done.returncode != 0 or found.keys() == new.keys()
            same_bits(found, new if torch.equal(found["lm_head.weight"], new["lm_head.weight"]) else old)
        else:
            assert done.returncode
        if what == "EIO":
            assert done.returncode == 0 or f"{work}" in done.stderr
            assert done.returncode == 0 or "remove" in done.stderr or not (work / "out.average.tmp").exists(), done.stderr
        done = run(work / "out", *two, more=["--overwrite"])
        assert done.returncode == 0, (at, done.stderr)
        same_bits(load(work / "out"), new)
    assert done.returncode == 0 and 20 < at < 99


# ---- memory

# The pieces (2^18 elements: 1 MiB as read, 1 as fp32, 2 as fp64), the writer's buffer of 8 MiB, headers, libc's own.
MOST = 16 << 20


def test_peak_of_memory(tmp_path):
    """Tensors of 64 M elements, of three models in three types: less than a tenth of one of them."""
    size = 64 << 20
    kinds = [torch.bfloat16, torch.float32, torch.float16]
    made = [tmp_path / f"m{i}" for i in range(3)]
    for path, kind in zip(made, kinds):
        make_model(path)
        edit_weights(path, lambda t, kind=kind: t.update({"lm_head.weight": torch.randn(size).to(kind)}))
    done = subprocess.run([checkpoints.compile_program("average_memory", tmp_path), tmp_path / "out", *made], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    grown, read = map(int, done.stdout.split())
    print(f"{read / 2**20:.1f} MiB read, peak grew by {grown / 2**20:.1f} MiB")
    assert read > 8 * size and grown < MOST
    for path in [*made, tmp_path / "out"]:
        shutil.rmtree(path)
