"""scripts/scaling.py plan: parameters and FLOPs as PyTorch counts them, the rules of size and settings, and bad input."""

import json
import math
import random
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

import llmc
import trainrun
from llmdata.errors import InputError
from llmdata.section import Section
from llmscale import planning, settings, sizes, tuning
from llmscale.counting import COUNTS, EXACT, SIX_ND, Cost, count_parts, flops_per_token
from llmscale.points import points_of_table
from llmscale.speed import memory_of

pytestmark = pytest.mark.skipif(not trainrun.ON_CPU, reason="of the cpu target")

SCALING = llmc.ROOT / "scripts" / "scaling.py"
PRECISION = "fp32" if "fp32" in llmc.build_folders() else "bf16"
T = 32


def random_config(tied):
    head_dim, keys = 16, random.choice([1, 2, 3])
    heads = keys * random.choice([1, 2, 4])
    return {
        "model_type": "llama", "vocab_size": random.randrange(50, 500), "hidden_size": 8 * heads * random.randrange(1, 4),
        "intermediate_size": 16 * random.randrange(1, 20), "num_hidden_layers": random.randrange(1, 4),
        "num_attention_heads": heads, "num_key_value_heads": keys, "head_dim": head_dim, "tie_word_embeddings": tied,
        "max_position_embeddings": 64,
    }  # fmt: skip


# ---- counting


@pytest.mark.parametrize("tied", [True, False])
def test_parameters_are_those_of_transformers(tied):
    config = random_config(tied)
    model = LlamaForCausalLM(LlamaConfig(**config))
    found = {name: tensor.numel() for name, tensor in model.named_parameters()}  # a tied head is named once
    blocks = sum(n for name, n in found.items() if ".layers." in name and "norm" not in name)
    table, parts = found["model.embed_tokens.weight"], count_parts(config)
    assert {name: parts.count(name) for name in COUNTS} == {
        "matrices": blocks, "matrices+head": blocks + table, "matrices+embeddings": blocks + table, "all": sum(found.values()),
    }  # fmt: skip


@pytest.mark.parametrize("tied", [True, False])
def test_flops_are_those_of_pytorch(tied):
    """Its counter sees a product of all T x T scores; ours has the half that a causal mask leaves."""
    config = random_config(tied)
    model = LlamaForCausalLM(LlamaConfig(**config, attn_implementation="eager"))
    with FlopCounterMode(display=False) as counter:
        model(torch.randint(0, 50, (1, T)), use_cache=False).logits.sum().backward()
    parts = count_parts(config)
    assert counter.get_total_flops() == T * (flops_per_token(parts, T, EXACT, "all") + 6 * T * parts.attention)


def test_six_nd_counts_what_it_is_told():
    parts = count_parts(random_config(False))
    for name in COUNTS:
        assert flops_per_token(parts, T, SIX_ND, name) == 6 * parts.count(name)


def test_cost_and_size_are_inverse():
    parameters = np.sort(np.random.default_rng(1).uniform(1e4, 1e8, 12))
    cost = Cost(parameters, 6 * parameters + 1e4 * parameters**0.3)
    for n in [*parameters, 3e3, 1e9, 5e5]:
        flops = float(cost.log_flops(math.log(n)))
        assert float(cost.log_size(math.log(1e18), math.log(1e18) - flops)) == pytest.approx(math.log(n), abs=1e-9)
    assert cost.log_flops(np.log(parameters)) == pytest.approx(np.log(6 * parameters + 1e4 * parameters**0.3))


def test_cost_of_sizes_of_which_a_larger_one_is_cheaper():
    cost = Cost([1e6, 1.01e6, 2e6], [7e6, 6.5e6, 12e6])
    assert np.exp(cost.log_flops(np.log([1e6, 2e6]))) == pytest.approx([7e6, 12e6])
    assert float(cost.log_size(math.log(12e6), 0.0)) == pytest.approx(math.log(2e6))


# ---- rules


def shape(**changes):
    fields = {"vocab_size": 300, "head_dim": 16, "width_per_layer": 40, "ffn_multiple": 16, "query_group": 2} | changes
    return sizes.read_shape(Section("plan", "model", fields), 100, T)


@pytest.mark.parametrize("layers", [1, 2, 3, 5, 8])
def test_size_rule(layers):
    config = sizes.config_of(sizes.read_size(Section("plan", "", {}), "sizes", layers, shape()), shape())
    width = config["hidden_size"]
    assert width % 16 == 0 and 0 <= width - 40 * layers < 16 and config["num_attention_heads"] * 16 == width
    assert config["num_attention_heads"] % config["num_key_value_heads"] == 0
    assert config["num_key_value_heads"] <= max(1, config["num_attention_heads"] / 2)
    assert config["intermediate_size"] % 16 == 0 and 0 <= config["intermediate_size"] - width * 8 / 3 < 16


@pytest.mark.parametrize("fields, expected", [({}, 0.02), ({"initializer_range": 0.06}, 0.06)])
def test_first_weights(fields, expected):
    assert sizes.config_of(sizes.Size(1, 32), shape(**fields))["initializer_range"] == expected


def test_settings_by_size():
    """At the rule's reference of 108M, eight times as large, and very small."""
    rule = tuning.Rule()
    at = tuning.tune(rule, 108e6, 1e12)
    assert (at.batch_tokens, at.lr, at.warmup_tokens, at.beta2) == (327680, 0.00235, 108e6, 0.99)
    large = tuning.tune(rule, 8 * 108e6, 1e12)
    assert large.batch_tokens == pytest.approx(4 * 327680) and large.lr == pytest.approx(0.00235 / 2) and large.beta2 == 0.95
    small = tuning.tune(rule, 1e3, 5e3)
    assert small.lr == rule.lr_most and small.warmup_tokens == 500


# ---- the plan


class Place:
    def __init__(self, folder):
        self.work = trainrun.Workplace(folder)
        self.path, self.output = folder / "plan.json", folder / "out"
        self.fields = {
            "output": str(self.output), "precision": PRECISION, "target": "cpu", "seq_len": T, "rows": 4, "val_rows": 8,
            "data": {"train": str(self.work.data / "train_*.bin"), "val": str(self.work.data / "val_*.bin")},
            "model": {"head_dim": 16, "width_per_layer": 16, "ffn_multiple": 16}, "tuning": {"batch": 400, "batch_exponent": 0.01},
            "sizes": [1, 2, 3, 4], "budgets": [1e11, {"flops": 3e11, "forecast": True, "sizes": [3]}], "flops_per_second": 1e10,
        }  # fmt: skip

    def write(self, **changes):
        self.path.write_text(json.dumps({k: v for k, v in (self.fields | changes).items() if v is not None}))
        return self.path

    def runs(self, **changes):
        read = settings.read_settings(self.write(**changes))
        return read, planning.plan_runs(read)


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def call(*words, code=0):
    done = subprocess.run([sys.executable, SCALING, *map(str, words)], capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    return done


@pytest.mark.parametrize("flops, count", [(EXACT, "matrices+head"), (SIX_ND, "all"), (SIX_ND, "matrices")])
def test_runs_spend_their_budgets(place, flops, count):
    read, runs = place.runs(flops=flops, count=count)
    assert [run.name for run in runs] == ["1e11_1x16", "1e11_2x32", "1e11_3x48", "1e11_4x64", "3e11_3x48"]
    for run in runs:
        each = flops_per_token(run.parts, T, flops, count)
        assert run.tokens * each == pytest.approx(run.budget.flops, rel=0.5 / run.steps) and run.steps >= 100
        assert (
            run.batch_tokens == pytest.approx(run.tuned.batch_tokens, rel=0.25)
            and run.batch_tokens == run.rows * run.accumulation * T
        )
        assert read.val_rows % run.rows == 0  # so that all runs are validated on the same rows
        assert run.counts(T)["exact"] == pytest.approx(run.tokens * flops_per_token(run.parts, T, EXACT, count))


def test_table(place):
    place.write()
    out = call("plan", place.path).stdout
    assert re.search(r"^ +2x32 +2/1 +96 ", out, re.M)
    assert len(re.findall(r"^ +[13]e11_\dx\d+ ", out, re.M)) == 5 and out.count(" forecast\n") == 2
    assert "5 runs: 70 s one after another, assumed by flops_per_second; 30 s of it test a forecast" in out
    assert "pass over the 20k training tokens more than 4 times" in re.sub(r"\s+", " ", out)
    place.write(flops_per_second=None)
    assert "their time is not known" in call("plan", place.path).stdout


def test_measured_time(place):
    place.write(train={"save_every": 50, "keep_every": 100, "threads": 1})
    out = call("plan", place.path, "--measure").stdout
    assert "one after another, as measured" in out
    read = json.loads((place.output / "speed.json").read_text())
    assert len(read) == 4 and min(read.values()) > 0
    before = (place.output / "speed.json").read_text()
    call("plan", place.path, "--measure")
    assert (place.output / "speed.json").read_text() == before  # what is measured stays


def test_memory_is_the_library_s_plan(place):
    read, runs = place.runs()
    config = place.output / "3.json"
    config.parent.mkdir()
    config.write_text(json.dumps(runs[2].config))
    n = runs[2].parts.count("all")
    assert memory_of(read, runs[2], config) > 16 * n  # fp32 gradients, moments and weights at least
    assert memory_of(read, runs[2], config) < 16 * n + 64e6


# ---- bad input

BAD = [
    (
        {"sizes": [1, 2, 3, {"layers": 4, "hidden_size": 70}]},
        "budgets[0].sizes[3].hidden_size: expected a multiple of head_dim 16, as 64, found 70",
    ),
    ({"sizes": [1, 2, 3]}, "budgets[0].sizes: expected at least 4 for a parabola, found 3"),
    ({"sizes": [1, 2, 3, 3]}, "budgets[0].sizes: a size is given twice"),
    (
        {"budgets": [1e9]},
        "train size 1x16 for 54 steps of 384 tokens, expected at least 100: drop the size there, or lower tuning.batch",
    ),
    ({"sizes": [1, 2, 3, 1.5]}, "budgets[0].sizes[3]: expected a number of layers, or "),
    ({"sizes": [0, 1, 2, 3]}, "budgets[0].sizes[0].layers: expected a whole number from 1 to 1000, found 0"),
    ({"budgets": [math.nan]}, "budgets[0].flops: expected a number from 1 to 1e+30, found NaN"),
    ({"budgets": [{"flops": 1e11, "forecast": True}]}, "budgets: is empty"),
    ({"launch": ["/nowhere/mpirun"]}, 'launch: expected a program, found "/nowhere/mpirun"'),
    ({"train": {"save-every": 1, "save_every": 2}}, "train.save_every: is given twice"),
    ({"budgets": []}, "budgets: is empty"),
    ({"budgets": [1e11, 1.0001e11]}, "budgets: two are the same in three digits"),
    ({"budgets": ["1e11"]}, "budgets[0].flops: expected a number"),
    ({"output": None}, "output: is missing"),
    ({"outptu": "x"}, "outptu: is not known"),
    ({"model": {"head_dim": 24}}, "model.head_dim: expected a multiple of 16, found 24"),
    ({"model": {"vocab_size": 100}}, "model.vocab_size: expected at least the data's 258, found 100"),
    ({"model": {"depth": 3}}, "model.depth: is not known"),
    ({"rows": 6}, "rows: expected a power of two, found 6"),
    ({"val_rows": 2}, "val_rows: expected at least rows, 4, found 2"),
    ({"val_rows": 16}, "val_rows: expected at most the 10 rows of 32 tokens"),
    ({"train": {"lr": 0.1}}, "train.lr: the plan sets this option itself"),
    ({"train": {"nonsense": 1}}, "train.nonsense: no such option of train_llama3"),
    ({"train": {"grad_clip": True}}, "train.grad_clip: expected a value, found true"),
    ({"tuning": {"lr": 0}}, "tuning.lr: expected a number from 1e-09 to 10, found 0"),
    ({"count": "some"}, "count: expected one of matrices, matrices+head, matrices+embeddings, all"),
    ({"flops": "7ND"}, "flops: expected one of exact, 6ND"),
    ({"seeds": [1, 1]}, "seeds: expected whole numbers, each once"),
    ({"launch": "mpirun"}, "launch: expected a list of texts"),
    ({"slurm": {"nodes": 2}}, "slurm.nodes: is not known"),
    ({"data": {"train": "/nowhere/*.bin", "val": "x"}}, "data.train: /nowhere/*.bin: no such file"),
]


@pytest.mark.parametrize("changes, text", BAD, ids=[text[:40] for _, text in BAD])
def test_bad_plan(place, changes, text):
    with pytest.raises(InputError) as refused:
        place.runs(**changes)
    assert f"{place.path}: " in str(refused.value) and text in str(refused.value)


def test_other_tokenizers_are_refused(place):
    place.work.write("val_001.bin", trainrun.documents(np.random.default_rng(1), 400), sha=b"1" * 32)
    with pytest.raises(InputError, match="data.val: .*shards of 2 tokenizers"):
        place.runs()
    (place.work.data / "val_000.bin").unlink()
    with pytest.raises(InputError, match="data.val: made with another tokenizer"):
        place.runs()


def test_validation_on_training_data_is_refused(place):
    train = str(place.work.data / "train_*.bin")
    with pytest.raises(InputError, match="data.val: expected texts that no run is trained on, found .*train_000.bin in train too"):
        place.runs(data={"train": train, "val": train})


def test_bad_plan_on_the_command_line(place):
    place.path.write_text("{")
    done = call("plan", place.path, code=2)
    assert done.stderr.startswith("scaling: ") and done.stderr.count("\n") == 1
    for words in (
        [],
        ["fit"],
        ["forecast", place.path],
        ["forecast", place.path, "--budget", "x"],
        ["forecast", place.path, "--budget", "-1"],
    ):
        call(*words, code=2)


# ---- tables of runs

ROWS = "flops,tokens,loss\n" + "".join(f"1e18,{t:g},{3 + abs(t - 2e9) / 1e10:g}\n" for t in (1e9, 2e9, 3e9, 4e9))


@pytest.mark.parametrize("text, reason", [
    (ROWS.replace("3.1", "nan"), "row 1: loss: expected a number above 0, found 'nan'"),
    (ROWS.replace("2e+09", "-2"), "row 2: tokens: expected a number above 0"),
    (ROWS.replace("flops", "flopps"), "row 1: expected parameters or flops"),
    (ROWS + "1e18,,3\n", "row 5: tokens: expected a number"),
    ("status,flops,tokens,loss\nfine,1,1,1\n", "row 1: status: expected done, diverged or cut, found fine"),
    ("flops,tokens,loss\n", "t.csv: no finished run"),
    ("", "t.csv: no finished run"),
    ("flops,tokens,parameters,loss\n" + "".join(f"1e18,{k}e9,{k}e8,3\n" for k in range(1, 6)), "t.csv: flops: expected FLOPs"),
])  # fmt: skip
def test_bad_table(tmp_path, text, reason):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(InputError, match=re.escape(reason)):
        points_of_table(tmp_path / "t.csv")


def test_table_of_other_columns(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"parameters": 1e8, "tokens": 2e9, "loss": 3}\n{"status": "diverged", "name": "bad"}\n')
    points = points_of_table(tmp_path / "t.jsonl")
    assert points.flops.tolist() == [6 * 1e8 * 2e9] and points.left_out == [("bad", "diverged", "")]
