"""scripts/plan.py: memory is what train_llama3 prints, bytes on the links are those computed by hand, limits are stated."""

import json
import re
import subprocess
import sys

import pytest

import llmc
import ranks
import trainrun

PLAN = llmc.ROOT / "scripts" / "plan.py"
from llmplan import library, predict, traffic  # noqa: E402

T, VOCAB = 32, trainrun.VOCAB
MODEL = dict(hidden_size=256, intermediate_size=512, num_hidden_layers=3, num_attention_heads=8, num_key_value_heads=4,
             head_dim=32)  # fmt: skip
MIB = 1 << 20


def plan(*arguments, code=0):
    done = subprocess.run([sys.executable, PLAN, *map(str, arguments)], capture_output=True, text=True, timeout=600)
    assert done.returncode == code, done.stderr
    return done


def is_narrow(out):
    """For a terminal of 100 columns; the first line has the file's path."""
    return all(len(line) <= 100 for line in out.splitlines()[1:])


def as_json(config, gpus, *more):
    return json.loads(plan("--config", config, "--gpus", gpus, "--json", *more).stdout)


# ---- memory


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    work = trainrun.Workplace(tmp_path_factory.mktemp("plan"))
    work.write_config(**MODEL)
    return work


def printed(work, world, precision="bf16", **options):
    """{category: MiB} as the program's table has it, rounded to 0.1; "host memory" last, if there is any."""
    arguments = work.arguments(steps=1, batch_size=1, seq_len=T, save="off", eval_every=0, overwrite=True, **options)
    done = ranks.run([trainrun.program(precision), *arguments], ranks=world, timeout=600)
    assert done.returncode == 0, done.stderr
    table = done.stdout.split("memory\n", 1)[1]
    rows = {name: float(size) for name, size in re.findall(r"^  (\S.*?) +([\d.]+) MiB", table, re.M)}
    assert list(rows)[len(rows) - 1 - ("host memory" in rows)] == "total", table
    return rows


def planned(work, world, zero, group, recompute, precision="bf16", *more):
    found = as_json(work.folder / "config.json", world, "--seq-len", T, "--tokens-per-step", world * T, "--rows", 1,
                    "--precision", precision, "--gpus-per-node", group or world, *more)  # fmt: skip
    wanted = (0, 1) if zero == 0 or world == 1 else (zero, group or world)
    choices = [c for c in found["runs"][0]["choices"] if (c["zero"], c["group"]) == wanted and c["recompute"] == recompute]
    assert len(choices) == 1
    return {**choices[0]["memory"], "host memory": choices[0]["host_bytes"]}


def compare_memory(work, world, zero, group, recompute, precision="bf16", **modes):
    more = [word for name, value in modes.items() for word in ("--" + name.replace("_", "-"), value)]
    expected = planned(work, world, zero, group, recompute, precision, *more)
    table = printed(work, world, precision, zero=zero, shard_group=group, recompute=recompute, **modes)
    assert table.pop("total") == pytest.approx(sum(size for name, size in table.items() if name != "host memory"), abs=0.5)
    table.pop("matrix library", None)  # of the cpu target; the GPU's stands in the plan
    sizes = {name: size / MIB for name, size in expected.items() if size and name not in ("matrix library", "reserve")}
    assert table == {name: pytest.approx(size, abs=0.0501) for name, size in sizes.items()}


CASES = [(1, 1, 0), (2, 0, 0), (2, 1, 0), (2, 2, 0), (3, 1, 0), (3, 2, 0), (4, 0, 0), (4, 1, 0), (4, 2, 0), (4, 1, 2), (4, 2, 2)]


MODES = [(*case, recompute) for case in CASES for recompute in ("none", "block")]


@pytest.mark.parametrize("world, zero, group, recompute", [*MODES, (1, 1, 0, "cheap")])
def test_memory_is_what_the_program_prints(place, world, zero, group, recompute):
    if not trainrun.ON_CPU:
        pytest.skip("ranks share no GPU here")
    compare_memory(place, world, zero, group, recompute)


def test_memory_in_fp32(place):
    if not trainrun.ON_CPU:
        pytest.skip("ranks share no GPU here")
    compare_memory(place, 2, 1, 0, "none", "fp32")


def test_less_memory_for_the_optimizer(place):
    compare_memory(place, 1, 1, 0, "none", moments="bf16", master_weights="none")


@pytest.mark.parametrize("world, zero, modes", [(1, 1, {}), (2, 0, {}), (3, 2, {"moments": "bf16", "master_weights": "none"})])
def test_optimizer_state_in_host_memory(place, world, zero, modes):
    if world > 1 and not trainrun.ON_CPU:
        pytest.skip("ranks share no GPU here")
    compare_memory(place, world, zero, 0, "none", optimizer_state="host", **modes)


def test_memory_of_gradients_in_bf16(place):
    compare_memory(place, 2, 1, 0, "none", grad_reduce="bf16")


# ---- a recipe's stages

STAGES = [
    dict(name="short", tokens=1000, seq_len=16, batch_size=2, tokens_per_step=64,
         mixture=[dict(source="all", weight=1)], learning_rate=[dict(shape="constant", **{"from": 1e-3})]),
    dict(name="long", steps=7, seq_len=128, batch_size=1, learning_rate=[dict(shape="constant", **{"from": 1e-3})], tokens_per_step=512),
    dict(name="wide", steps=3, batch_size=4, learning_rate=[dict(shape="constant", **{"from": 1e-3})]),
]  # fmt: skip


def write_recipe(work, stages):
    path = work.folder / "recipe.json"
    path.write_text(json.dumps(dict(name="test", sources=dict(all=dict(train=str(work.data / "train_*.bin"))), stages=stages)))
    return path


def plan_stages(work, stages, *more):
    arguments = "--config", work.folder / "config.json", "--recipe", write_recipe(work, stages)
    return json.loads(plan(*arguments, "--gpus", 1, "--json", *more).stdout)


def test_stages_are_planned_each_by_itself(place):
    found = plan_stages(place, STAGES)
    assert [(s["seq_len"], s["rows"], s["micro_batches"], s["steps"]) for s in found["stages"]] == [(16, 2, 2, 16), (128, 1, 4, 7), (128, 4, 1, 3)]
    for stage in found["stages"]:
        alone = as_json(place.folder / "config.json", 1, "--seq-len", stage["seq_len"], "--rows", stage["rows"],
                        "--tokens-per-step", stage["seq_len"] * stage["rows"] * stage["micro_batches"])  # fmt: skip
        best = alone["runs"][0]["choices"][alone["runs"][0]["best"]["index"]]
        assert stage["memory"] == best["memory"] and stage["predicted_step_seconds"] == best["predicted_seconds"]["step"]
        assert stage["fits"] and stage["options"] == f"--zero 0 --recompute {best['recompute']}" and stage["host_bytes"] == 0


def test_the_whole_run_is_what_the_program_plans(place):
    if not trainrun.ON_CPU:
        pytest.skip("a GPU's plan has its reserve")
    recipe = write_recipe(place, STAGES)
    for gib in (80, 0.0001):
        run = plan_stages(place, STAGES, "--reserve-gib", 80 - gib)["run"]
        assert (run is None) == (gib != 80)
    run = plan_stages(place, STAGES)["run"]
    command = [trainrun.program(), "--recipe", recipe, "--dry-run", "--config", place.folder / "config.json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    printed = dict(re.findall(r"^  (\S.*?) +([\d.]+) MiB", done.stdout.split("one plan for all stages")[1], re.M))
    sizes = {name: f"{size / MIB:.1f}" for name, size in run["memory"].items() if size and name not in ("matrix library", "reserve")}
    assert {name: printed[name] for name in sizes} == sizes


def test_stages_for_which_options_are_needed(place):
    """A GPU too small for the longest rows with all their activations, and one too small for them at all."""
    work, long = place, [STAGES[0], STAGES[1] | dict(seq_len=16384, tokens_per_step=16384)]
    config = work.folder / "long.json"
    config.write_text(json.dumps(json.loads((work.folder / "config.json").read_text()) | dict(max_position_embeddings=16384)))
    alone = as_json(config, 1, "--seq-len", 16384, "--rows", 1, "--tokens-per-step", 16384)
    sizes = {c["recompute"]: c["bytes"] for c in alone["runs"][0]["choices"]}
    assert sizes["none"] > sizes["cheap"] > sizes["block"]
    for size, fits in ((sizes["block"], True), (0.8 * sizes["block"], False)):
        found = plan_stages(work, long, "--reserve-gib", 80 - (size + 1000) / 2**30)
        assert [stage["fits"] for stage in found["stages"]] == [True, fits]
        assert found["stages"][1]["bytes"] <= sizes["block"] and "--recompute block" in found["stages"][1]["options"]
        assert "--recompute block" in found["run"]["options"] if fits else found["run"] is None
    out = plan("--config", work.folder / "config.json", "--recipe", write_recipe(work, long), "--gpus", 1).stdout
    assert is_narrow(out) and "short" in out and "16384" in out


@pytest.mark.parametrize("stages, words", [
    ([STAGES[0] | dict(batch_size=-1)], ["stages[0].batch_size", "-1"]), ([STAGES[0] | dict(tokens_per_step=50)], ["stages[0]", "50"]),
])  # fmt: skip
def test_recipes_that_are_refused(place, stages, words):
    """As train_llama3 refuses them."""
    done = plan("--config", place.folder / "config.json", "--recipe", write_recipe(place, stages), "--gpus", 1, code=2)
    assert done.stderr.count("\n") == 1 and all(word in done.stderr for word in words), done.stderr


def test_a_recipe_is_for_one_number_of_gpus(place):
    done = plan("--config", place.folder / "config.json", "--recipe", write_recipe(place, STAGES), "--gpus", "1,2", code=2)
    assert "--gpus 1,2: expected one number" in done.stderr


# What options make fit: (model, GiB of the GPU, rows, tokens of a row, the options, each of which is needed)
FITS = [
    ("8B", 80, 1, 4096, dict(recompute="block", moments="bf16", master_weights="none")),
    ("8B", 80, 1, 4096, dict(optimizer_state="host")),
    ("1B, 128k vocabulary", 24, 8, 4096, dict(recompute="block", moments="bf16")),
    ("1B, 128k vocabulary", 24, 8, 4096, dict(recompute="block", optimizer_state="host")),
    ("1B, 128k vocabulary", 80, 1, 131072, dict(recompute="block")),
    ("8B", 80, 1, 131072, dict(recompute="block", activations="host", optimizer_state="host")),
]
CONFIGS = {"8B": "llama3.1_8b", "1B, 128k vocabulary": "llama3.2_1b"}
PLAIN = dict(recompute="none", moments="fp32", master_weights="fp32", optimizer_state="device", activations="device")


def needed(model, rows, length, **options):
    """GiB of one GPU, and of its host's page-locked memory."""
    modes = PLAIN | options
    shape = (rows, length, modes.pop("recompute"), 0, 1, 1)
    planner = library.Planner(llmc.ROOT / "configs" / f"{CONFIGS[model]}.json", "bf16", modes)
    return sum(planner.memory(*shape).values()) / 2**30, planner.host_bytes(*shape) / 2**30


@pytest.mark.parametrize("model, gpu, rows, length, options", FITS, ids=str)
def test_what_fits(model, gpu, rows, length, options):
    """With plan.py's allowance for the context, and as docs/memory.md says."""
    budget = gpu - 1.5
    device, host = needed(model, rows, length, **options)
    assert device <= budget
    for option in options:
        assert needed(model, rows, length, **options | {option: PLAIN[option]})[0] > budget, option
    words = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in options.items())
    on_host = f"{host:.1f}" if host else ""
    row = f"| {model} | {rows} x {length:,} | `{words}` | {device:.1f} | {on_host} | one GPU of {gpu} GB |"
    assert row.replace("|  |", "| |") in (llmc.ROOT / "docs" / "memory.md").read_text(), row


def test_rows_of_131072_tokens_leave_room():
    """Of 80 * 10^9 bytes, if a GPU has no more, 1.5 GiB and more are left for CUDA's context."""
    for model, options in (("1B, 128k vocabulary", dict(recompute="block")), ("8B", dict(recompute="block", activations="host", optimizer_state="host"))):
        assert needed(model, 1, 131072, **options)[0] < 80e9 / 2**30 - 1.5


def test_inputs_of_blocks_in_host_memory(place):
    compare_memory(place, 1, 1, 0, "block", activations="host")
    compare_memory(place, 1, 1, 0, "none", activations="host", optimizer_state="host", moments="bf16")


def test_the_gpu_workspace_is_the_library_s():
    source = (llmc.ROOT / "llmc/device/matmul_cublaslt.cu").read_text()
    megabytes = re.search(r"WORKSPACE_BYTES = (\d+) << 20;", source)[1]
    assert library.CUBLASLT_WORKSPACE == int(megabytes) << 20


def test_the_reserve_is_part_of_the_plan():
    """256 MiB for kernels, and as much for each of the communicators: of the world, the shard group, the replicas."""
    choices = as_json(llmc.ROOT / "configs" / "llama3_8b.json", 16)["runs"][0]["choices"]
    found = {(c["zero"], c["group"]): c["memory"]["reserve"] / MIB for c in choices}
    assert found == {(0, 1): 3 * 256, (1, 8): 4 * 256, (1, 16): 3 * 256, (2, 8): 4 * 256, (2, 16): 3 * 256}
    assert all(c["bytes"] == sum(c["memory"].values()) for c in choices)
    assert as_json(llmc.ROOT / "configs" / "llama3_8b.json", 1)["runs"][0]["choices"][0]["memory"]["reserve"] == 256 * MIB


def test_memory_falls_with_the_ranks():
    """ZeRO-1 divides the optimizer's 12 bytes a parameter, ZeRO-2 the gradients' 4 besides."""
    config = llmc.ROOT / "configs" / "llama3_8b.json"
    found = {n: as_json(config, n)["runs"][0]["choices"] for n in (1, 4, 8)}
    whole = found[1][0]["memory"]
    for n in (4, 8):
        for zero in (1, 2):
            memory = next(c for c in found[n] if c["zero"] == zero)["memory"]
            assert memory["optimizer state"] == pytest.approx(whole["optimizer state"] / n, rel=1e-4)
            gradients = whole["gradients"] / (n if zero == 2 else 1)
            assert memory["gradients"] == pytest.approx(gradients, rel=1e-4)
            assert memory["parameters"] == pytest.approx(whole["parameters"], rel=1e-4)


# ---- bytes on the links: 1000 elements, gradients of 4 bytes, parameters of 2


def links(gpus, per_node, zero, group, micro=1, elements=1000, bf16=False):
    return traffic.total(traffic.collectives(traffic.Layout(gpus, per_node, zero, group), elements, 2, micro, bf16))


@pytest.mark.parametrize(
    "layout, micro, nvlink, network",
    [
        ((1, 8, 0, 1), 5, 0, 0),
        # one node of four: all-reduce 2 * 3/4 * 4000; reduce-scatter 3/4 * 4000 and all-gather 3/4 * 2000
        ((4, 8, 0, 1), 3, 6000, 0),
        ((4, 8, 1, 4), 3, 3000 + 1500, 0),
        ((4, 8, 2, 4), 3, 3 * 3000 + 1500, 0),
        # two nodes of four, one ring: 7/8 of everything, of which one send in four leaves the node
        ((8, 4, 0, 1), 1, 7000 * 3 / 4, 7000 / 4),
        ((8, 4, 1, 8), 1, (3500 + 1750) * 3 / 4, (3500 + 1750) / 4),
        ((8, 4, 2, 8), 2, (2 * 3500 + 1750) * 3 / 4, (2 * 3500 + 1750) / 4),
        # sharded in the node: as ((4, 8, 1, 4)) by NVLink; replicas all-reduce a quarter of 4000 over two nodes, 2 * 1/2 * 1000
        ((8, 4, 1, 4), 1, 4500, 1000),
        ((8, 4, 2, 4), 3, 3 * 3000 + 1500, 1000),
        # pairs in nodes of four: reduce-scatter 2000, all-gather 1000; four replicas, two to a node, 2 * 3/4 * 2000
        ((8, 4, 1, 2), 1, 2000 + 1000 + 3000 / 2, 3000 / 2),
        # a GPU a node: nothing by NVLink
        ((2, 1, 1, 2), 1, 0, 2000 + 1000),
    ],
)  # fmt: skip
def test_bytes_on_the_links(layout, micro, nvlink, network):
    assert links(*layout, micro=micro) == (pytest.approx(nvlink), pytest.approx(network))


@pytest.mark.parametrize(
    "layout, micro, nvlink, network",
    [
        # one node of four: each sends 3/4 of 2000; of sums a ring brings 3/4 of 2000, of parameters as much
        ((4, 8, 0, 1), 3, 1500 + 1500, 0),
        ((4, 8, 2, 4), 3, 3 * 1500 + 1500, 0),
        # two nodes of four: 3/8 go to the others of the node, 4/8 leave it, more than a ring's (1/4 of 7/8 of 4000 = 875)
        ((8, 4, 1, 8), 1, 750 + 1750 * 3 / 4, 1000 + 1750 / 4),
        ((8, 4, 0, 1), 1, 750 + 1750 * 3 / 4, 1000 + 1750 / 4),
        # a replica a node: half of fp32's, 1/2 of a quarter of 2000, twice
        ((8, 4, 1, 4), 1, 1500 + 1500, 500),
    ],
)
def test_bytes_in_bf16(layout, micro, nvlink, network):
    assert links(*layout, micro=micro, bf16=True) == (pytest.approx(nvlink), pytest.approx(network))


@pytest.mark.parametrize("gpus, per_node, group", [(8, 4, 8), (8, 4, 4), (8, 4, 2), (16, 4, 8), (6, 8, 3), (16, 8, 1)])
def test_sends_that_leave_a_node(gpus, per_node, group):
    """The share that a walk round each ring finds: neighbours on other nodes."""
    for size, stride in ((group, 1), (gpus // group, group)):
        starts = [r for r in range(gpus) if (r // stride) % size == 0]
        rings = [[start + k * stride for k in range(size)] for start in starts]
        edges = [(ring[k], ring[(k + 1) % size]) for ring in rings for k in range(size)]
        leaving = sum(a // per_node != b // per_node for a, b in edges) / len(edges)
        nvlink, network = traffic.ring(size, stride, per_node).bytes(1.0)
        assert nvlink + network == pytest.approx((size - 1) / size)
        assert network == pytest.approx(leaving * (size - 1) / size)


# ---- time


def test_flops_are_the_trainer_s():
    fields = json.loads((llmc.ROOT / "configs" / "llama3_8b.json").read_text())
    costs = predict.ModelCosts(fields, 8192)
    weights = 8_030_261_248 - 128256 * 4096  # published, without the embedding
    assert costs.flops == 6 * weights + 6 * 32 * 4096 * 8192
    tied = json.loads((llmc.ROOT / "configs" / "llama3.2_1b.json").read_text())
    assert predict.ModelCosts(tied, 8192).flops == 6 * 1_235_814_400 + 6 * 16 * 2048 * 8192


def test_time_adds_up_and_follows_the_assumptions():
    config = llmc.ROOT / "configs" / "llama3_8b.json"

    def first(zero, *more):
        choices = as_json(config, 64, *more)["runs"][0]["choices"]
        return next(c for c in choices if c["zero"] == zero and c["group"] == (1 if zero == 0 else 64))

    free, plain = first(1), first(1, "--overlap", 0)
    time = plain["predicted_seconds"]
    assert time["step"] == pytest.approx(sum(time[n] for n in "compute update reduce replicas gather".split()))
    # 64 GPUs in nodes of 8: one send in eight leaves, at 0.8 * 50 GB/s; 63 hops of 5 us for each of 35 buckets
    elements = plain["memory"]["parameters"] / 2
    ring = 63 / 64 * elements * max(7 / 8 / 450e9, 1 / 8 / 50e9) / 0.8
    assert time["reduce"] == pytest.approx(4 * ring + 63 * 35 * 5e-6)
    assert time["gather"] == pytest.approx(2 * ring + 63 * 35 * 5e-6)
    assert free["predicted_seconds"]["exposed"] < 0.2 * time["exposed"]
    costs = predict.ModelCosts(json.loads(config.read_text()), 8192)
    assert time["compute"] == pytest.approx((1 << 24) / 64 * costs.flops / (0.5 * 989e12))
    assert time["of_peak"] == pytest.approx(0.5 * time["compute"] / time["step"])
    accumulated = first(2, "--overlap", 0)
    assert accumulated["predicted_seconds"]["reduce"] == pytest.approx(32 * time["reduce"])
    assert accumulated["micro_batches"] == 32


# ---- what it says


def test_limits_of_data_parallelism():
    out = plan("--config", llmc.ROOT / "configs" / "llama3_405b.json", "--gpus", 1024, "--gpu", "h100").stdout
    assert "Nothing fits on 1024 GPUs." in out and "Data parallelism alone cannot train this model" in out
    assert "ZeRO-3, tensor or pipeline" in " ".join(out.split()) and "Published for the 405B: 38 to 43 %" in out
    assert "at most one row for each of 2048 GPUs" in out
    assert is_narrow(out)
    out = plan("--config", llmc.ROOT / "configs" / "llama3_8b.json", "--gpus", 64).stdout
    assert "Best that fits: --zero" in out and "cannot train" not in out and "prediction" in out
    assert is_narrow(out)


@pytest.mark.parametrize("zero", [1, 2])
def test_the_floor_is_approached(zero):
    """What is said of ever more GPUs is just below what so many take (512, in one group)."""
    config = llmc.ROOT / "configs" / "llama3_8b.json"
    found = as_json(config, 512, "--rows", 1)
    floor = found["least_bytes"][f"zero{zero}"]
    least = min(c["bytes"] for c in found["runs"][0]["choices"] if c["zero"] == zero)
    assert floor < least < 1.03 * floor


def test_the_best_fits_and_is_fastest():
    found = as_json(llmc.ROOT / "configs" / "llama3_8b.json", "2,8,64")
    assert found["runs"][0]["best"] is None
    for run in found["runs"][1:]:
        fitting = [c for c in run["choices"] if c["fits"]]
        assert all(c["fits"] == (c["bytes"] <= found["budget_bytes"]) for c in run["choices"])
        chosen = run["choices"][run["best"]["index"]]
        fastest = min(c["predicted_seconds"]["step"] for c in fitting)
        assert chosen["fits"] and chosen["predicted_seconds"]["step"] <= fastest + 1e-4


def test_a_row_for_each_number_of_gpus():
    out = plan("--config", llmc.ROOT / "configs" / "llama3_8b.json", "--gpus", "1,8,64,4096").stdout
    rows = {line[:6].strip(): line for line in out.splitlines()}
    assert rows["1"].endswith("no") and rows["8"].endswith("yes") and rows["64"].endswith("yes")
    assert "the one that takes least" in out
    assert "GPUs with a row of 8192 tokens" in rows["4096"] and "data parallelism ends at 2048 GPUs" in " ".join(out.split())
    assert is_narrow(out)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--gpus", "0"], "expected whole numbers"),
        (["--gpus", "eight"], "expected whole numbers"),
        (["--gpus", "12"], "a multiple of it"),
        (["--gpus", "7"], "no multiple of 7 GPUs"),
        (["--gpus", "8", "--seq-len", "100000"], "max_position_embeddings"),
        (["--gpus", "8", "--config", "/nowhere/config.json"], "/nowhere/config.json"),
        (["--gpus", "8", "--gpu", "tpu"], "invalid choice"),
        (["--gpus", "8", "--efficiency", "0"], "expected a number"),
    ],
)  # fmt: skip
def test_bad_usage(arguments, words):
    done = plan("--config", llmc.ROOT / "configs" / "llama3_8b.json", *arguments, code=2)
    assert words in done.stderr and "Traceback" not in done.stderr and done.stdout == ""


def test_a_missing_library_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(library, "ROOT", tmp_path)
    with pytest.raises(library.InputError, match="run make TARGET=cpu PRECISION=fp32"):
        library.library_path("fp32")
    only = tmp_path / "build" / "cuda-fp32" / "libllmc.so"  # as where a user has built nothing else
    only.parent.mkdir(parents=True)
    only.write_text("")
    assert library.library_path(None) == only


@pytest.mark.parametrize("name", ["libc.so.6", "no library"])
def test_an_unusable_library_is_said(monkeypatch, tmp_path, name):
    (tmp_path / "no library").write_text("text")
    monkeypatch.setattr(library, "library_path", lambda precision: tmp_path / name if " " in name else name)
    with pytest.raises(library.InputError, match="cannot be used, run make"):
        library.Planner(tmp_path / "config.json", "bf16", {})
