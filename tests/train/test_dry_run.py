"""train_llama3 --recipe FILE --dry-run: the tables against computations of their own; with and without data and a model."""

import ctypes
import json
import re
import subprocess

import numpy as np
import pytest
import recipes
from hostlib import library
from recipes import BASE, changed
from trainrun import BOS, CONFIG, EOS, Workplace, documents, program, read_log, snapshot

SOURCES = {"web": {"train": "data/web_*.bin", "val": "data/val_*.bin"}, "code": {"train": "data/code_*.bin", "max_epochs": 3}}


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    made = Workplace(tmp_path_factory.mktemp("dry"))
    rng = np.random.default_rng(5)
    made.write("web_000.bin", documents(rng, 9000))
    made.write("web_001.bin", documents(rng, 7000))
    made.write("code_000.bin", documents(rng, 5001))
    return made


def dry_run(work, recipe, *more, model=True, code=0):
    path = recipes.write(work.folder, recipe)
    before = snapshot(work.folder)
    command = [program(), "--recipe", path, "--dry-run", *(["--config", "config.json"] if model else []), *more]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=work.folder)
    print(result.stdout, result.stderr)
    assert result.returncode == code, result.stderr
    assert snapshot(work.folder) == before  # nothing is made
    assert max(map(len, result.stdout.splitlines()), default=0) <= 100
    assert not re.search(r" $", result.stdout, re.M)
    return result.stdout if code == 0 else result.stderr


def table(text, first):
    """{name: the rest of its line} of the table whose heading begins with that word."""
    part = text[text.index(f"\n{first} ") + 1 :].split("\n\n")[0].replace("\n" + 20 * " ", " ")
    return {line[:20].strip(): line[20:].split() for line in part.splitlines()[1:]}


def test_stages(work):
    text = dry_run(work, {**BASE, "sources": SOURCES})
    stages = table(text, "stage")
    assert stages["first"][:7] == ["4.10k", "16", "256", "32", "2", "x", "4"]
    assert stages["long"][:7] == ["6.14k", "12", "512", "128", "2", "x", "2"]
    assert stages["anneal"][:4] == ["3.07k", "6", "512", "128"]
    assert stages["all"] == ["13.3k", "34"]
    # a line over 10 steps to 1e-3, then a cosine over the run's other 24; annealing from 5e-4 to 0 in 6 steps
    assert stages["first"][7:] == ["0.0001", "->", "0.001", "->", f"{cosine(6 / 24):.3g}"]
    assert stages["long"][7:] == [f"{cosine(7 / 24):.3g}", "->", f"{cosine(18 / 24):.3g}"]
    assert stages["anneal"][7:] == [f"{5e-4 * 5 / 6:.3g}", "->", "0"]
    mixture = table(text, "mixture")
    assert " ".join(mixture["first"]) == "web 75 -> 50, code 25 -> 50"
    assert " ".join(mixture["long"]) == "web 50, code 50" and " ".join(mixture["anneal"]) == "code 100"
    besides = table(text, "besides")
    assert "RoPE theta 10000, attention across documents, validation every 5 steps, needle_* every 10" in " ".join(besides["first"])
    assert "RoPE scaled 8 times from 128, ends when needle_128 exact_match >= 0.5, asked every 4" in " ".join(besides["long"])
    assert " ".join(besides["anneal"]) == "mean of the weights over every 2 of the last 4 steps"


def cosine(progress):
    return 1e-5 + (1e-3 - 1e-5) * 0.5 * (1 + np.cos(np.pi * progress))


def plan(work, **shape):
    text = ctypes.create_string_buffer(4096)
    error = ctypes.create_string_buffer(2048)
    path = work.folder / "long.json"
    path.write_text(json.dumps({**CONFIG, "max_position_embeddings": 128}))
    shape = {"training": True, "average": True, **shape}
    assert library.llama3_plan_text(text, ctypes.c_size_t(4096), str(path).encode(), json.dumps(shape).encode(), error) == 0, error.raw
    path.unlink()
    return json.loads(text.value)


def test_memory_and_flops(work):
    text = dry_run(work, {**BASE, "sources": SOURCES}, "--peak-tflops", "0.001")
    needs = table(text, "needs")
    V, C, F, L = (CONFIG[name] for name in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"))
    heads, groups, width = (CONFIG[name] for name in ("num_attention_heads", "num_key_value_heads", "head_dim"))
    weights = L * (2 * C * heads * width + 2 * C * groups * width + 3 * C * F) + V * C
    flops = {}
    for name, tokens, B, T in (("first", 4096, 4, 32), ("long", 6144, 2, 128)):
        flops[name] = tokens * (6 * weights + L * 6 * T * heads * width)
        memory = plan(work, B=B, T=T, micro_batches=2)
        total = sum(bytes for kind, bytes in memory.items() if kind not in ("reserve", "host memory"))
        assert float(needs[name][0]) == pytest.approx(flops[name], rel=0.01)
        assert needs[name][2:] == [f"{total / 2**30:.2f}", f"{memory['activations'] / 2**30:.2f}"]
    whole = text[text.index("one plan for all stages") :]
    most = max(plan(work, B=B, T=T, micro_batches=2)["activations"] for B, T in ((4, 32), (2, 128)))
    assert f"activations      {most / 2**20:9.1f} MiB" in whole
    assert needs["long"][1] == f"{round(flops['long'] / 4e8)}s"  # 40 % of 1e9 FLOP/s
    assert "not known" not in text and "assumes 40 % of --peak-tflops 0.001" in text


def test_without_a_model(work):
    text = dry_run(work, {**BASE, "sources": SOURCES}, model=False)
    assert "not known without --config" in text and "\nneeds" not in text and "anneal" in text


def test_data(work):
    sources = table(dry_run(work, {**BASE, "sources": SOURCES}), "source")
    # shares go from 3/4 to 1/2 in 4096 tokens, are 1/2 in 6144 and none in 3072
    assert sources["web"][:2] == ["2", "16.0k"] and sources["code"][:2] == ["1", "5.00k"]
    web = 4096 * 5 / 8 + 3072
    assert counted(sources["web"][2]) == pytest.approx(web, abs=128) and counted(sources["code"][2]) == pytest.approx(13312 - web, abs=128)
    assert float(sources["web"][3]) == pytest.approx(web / 16000, abs=0.02)
    assert float(sources["code"][3]) == pytest.approx((13312 - web) / 5000, abs=0.07)
    assert sources["code"][4:] == ["at", "most", "3"]


def counted(text):
    return float(text.rstrip("kM")) * {"k": 1e3, "M": 1e6}.get(text[-1], 1)


def test_a_source_that_is_used_up(work):
    text = dry_run(work, {**BASE, "sources": {**SOURCES, "web": {"train": "data/web_*.bin", "max_epochs": 0.3}}})
    found = re.search(r"source web is used up in step (\d+), in stage (\w+); the others share its weight", text)
    assert found and found[2] == "long" and 17 <= int(found[1]) <= 28
    assert float(table(text, "source")["web"][3]) == pytest.approx(0.3, abs=0.01)


def test_all_sources_used_up(work):
    sources = {name: {**source, "max_epochs": 0.2} for name, source in SOURCES.items()}
    error = dry_run(work, {**BASE, "sources": sources}, code=2)
    assert "used up" in error and error.count("\n") == 1


def test_sources_without_files(work):
    text = dry_run(work, {**BASE, "sources": {**SOURCES, "web": {"train": "none/*.bin", "val": "none/val.bin"}}})
    sources = table(text, "source")
    assert sources["web"][0] == "none" and counted(sources["web"][1]) == pytest.approx(4096 * 5 / 8 + 3072, rel=0.01)
    assert "no files yet: none/*.bin" in text and "no validation files of source web yet: none/val.bin" in text
    assert sources["code"][:2] == ["1", "5.00k"]  # which is there and is checked


@pytest.mark.parametrize("missing", [False, True])
def test_bad_data(work, missing):
    bad = work.data / "code_001.bin"
    bad.write_bytes(b"L3SHARD\0" + bytes(100))
    sources = {**SOURCES, "web": {"train": "none/*.bin"}} if missing else SOURCES
    try:
        assert "code_001.bin" in dry_run(work, {**BASE, "sources": sources}, code=2)
    finally:
        bad.unlink()


def test_ids_beyond_the_vocabulary(work):
    big = work.data / "code_001.bin"
    work.write("code_001.bin", np.array([BOS, 1, 2, EOS] * 100), vocab=50_000)
    try:
        assert "code_001.bin" in dry_run(work, {**BASE, "sources": SOURCES}, code=2)
    finally:
        big.unlink()


def test_ranks(work):
    recipe = {**BASE, "sources": SOURCES}
    text = dry_run(work, recipe, "--ranks", "2")
    assert "on 2 ranks" in text and table(text, "stage")["first"][4:7] == ["1", "x", "4"]
    error = dry_run(work, recipe, "--ranks", "4", code=2)
    assert "recipe.json:" in error and "stages[0].tokens_per_step: expected a multiple of 512" in error and "4 ranks" in error
    assert "--shard-group 3: expected a divisor" in dry_run(work, recipe, "--ranks", "2", "--shard-group", "3", code=2)


def test_optimizer_state_by_ranks(work):
    recipe = {**BASE, "sources": SOURCES}
    one, two = (optimizer_state(dry_run(work, recipe, "--ranks", ranks)) for ranks in "12")
    assert two == pytest.approx(one / 2, rel=0.1)


def optimizer_state(text):
    return float(re.search(r"optimizer state\s+([\d.]+) MiB", text)[1])


def test_bad_recipe(work):
    error = dry_run(work, changed((("stages", 1, "mixture"), [{"source": "web", "weight": -1}])), code=2)
    assert re.search(r"recipe\.json:\d+: stages\[1\]\.mixture\[0\]\.weight: expected .*, found -1\n$", error)


def test_rows_longer_than_the_model(work):
    recipe = changed((("stages", 1, "rope_scaling"),), (("stages", 1, "seq_len"), 256), (("stages", 1, "batch_size"), 1))
    assert "stages[1].seq_len: expected at most 128, the model's max_position_embeddings" in dry_run(work, recipe, code=2)


@pytest.mark.parametrize("name", ["llama3_405b", "llama3_8b"])
def test_published_recipes(name):
    root = recipes.RECIPES.parent
    command = [program(), "--recipe", f"recipes/{name}.json", "--config", f"configs/{name}.json", "--dry-run", "--ranks", "32"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=root)
    assert result.returncode == 0 and max(map(len, result.stdout.splitlines())) <= 100
    stages = table(result.stdout, "stage")
    if name == "llama3_405b":  # section 3.4.1: 252M tokens at 4M, up to 2.87T at 8M, 15.6T in all; 8e-5 after 8,000 steps
        assert stages["4M at 4K"][:4] == ["256M", "61", "4.19M", "4096"]
        assert stages["8M at 8K"][:4] == ["2.87T", "342k", "8.39M", "8192"] and "8e-05" in stages["8M at 8K"]
        assert stages["16M at 8K"][:4] == ["12.7T", "759k", "16.8M", "8192"]
    assert stages["annealing"][-1] == "0"


def test_as_the_run_does(work, tmp_path):
    """What is printed before is what the run then does: memory, steps, learning rates, tokens of each source."""
    recipe = {**changed((("stages", 0, "evaluate"),), (("stages", 1, "ends_when"),)), "sources": SOURCES}
    text = dry_run(work, recipe, "--seed", "7")
    command = [program(), "--recipe", "recipe.json", "--config", "config.json", "--output", tmp_path / "run", "--seed", "7"]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=600, cwd=work.folder)
    assert result.returncode == 0, result.stderr
    kinds = r"^  (parameters|gradients|optimizer state|averaged weights|activations|workspace) +([\d.]+) MiB"
    assert re.findall(kinds, text, re.M) == re.findall(kinds, result.stdout, re.M) != []
    steps = [line for line in read_log(tmp_path / "run/log.jsonl") if "loss" in line]
    stages, sources = table(text, "stage"), table(text, "source")
    for name in ("first", "long", "anneal"):
        inside = [line for line in steps if line["stage"] == name]
        assert len(inside) == int(stages[name][1])
        assert [f"{inside[0]['lr']:.3g}", f"{inside[-1]['lr']:.3g}"] == [stages[name][7], stages[name][-1]]
    for name, (_, _, taken, epochs, *_) in sources.items():
        assert counted(taken) == pytest.approx(steps[-1]["sources"][name]["tokens"], rel=0.005)
        assert float(epochs) == pytest.approx(steps[-1]["sources"][name]["epochs"], abs=0.005)
