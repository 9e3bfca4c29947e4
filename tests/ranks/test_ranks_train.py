"""Many ranks train as one does: the same losses up to the order of sums, and for each number of ranks the same bits again."""

import itertools
import json

import numpy as np
import pytest

from trainrun import MANY_RANKS, T, TRANSPORT, Workplace, documents

pytestmark = pytest.mark.skipif(not MANY_RANKS, reason="ranks that outnumber the GPUs: the cpu target's tests")

ROWS, STEPS = 12, 20
COMMON = {"steps": STEPS, "save": "off", "checksum_every": 1, "eval_every": 8, "eval_batches": 1000}
# number of ranks, options: each way to divide 12 rows, optimizer state, gradients
DIVISIONS = [
    (2, {}),
    (3, {}),
    (4, {}),
    (2, {"zero": 0}),
    (3, {"zero": 0}),
    (2, {"zero": 2}),
    (3, {"zero": 2, "batch_size": 2, "grad_accum": 2}),
    (4, {"zero": 2, "batch_size": 1, "grad_accum": 3}),
    (4, {"shard_group": 2}),
    (4, {"shard_group": 2, "zero": 2, "batch_size": 1, "tokens_per_step": ROWS * T}),
    (2, {"batch_size": 2, "grad_accum": 3, "recompute": "block"}),
    (3, {"overlap": "off"}),
]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    work = Workplace(tmp_path_factory.mktemp("ranks"))
    work.write("val_000.bin", documents(np.random.default_rng(2), 4 * ROWS * T + 1))  # whole micro-batches in each division
    return work


count = itertools.count()


def results(work, ranks, precision, **changes):
    """The log's numbers by step: {"loss": [...], "grad_norm": [...], "val_loss": [...], "weights_checksum": [...]}."""
    output = work.folder / f"run{next(count)}"
    options = {**COMMON, "val_data": work.data / "val_*.bin", "batch_size": ROWS // ranks, "output": output, **changes}
    if ranks == 1:
        work.run(precision=precision, **options)
    else:
        out, err = work.run_ranks(ranks, precision=precision, **options)
        assert err == "" and f"ranks     {ranks} over {TRANSPORT}" in out
    log = work.log(output)
    assert [line["step"] for line in log if "loss" in line] == list(range(1, STEPS + 1))
    assert [line["tokens"] for line in log if "loss" in line] == [ROWS * T * s for s in range(1, STEPS + 1)]
    if ranks > 1:
        for line in log:
            assert "loss" not in line or (line["ranks"] == ranks and 0 <= line["exposed_seconds"] and 0 < line["comm_seconds"])
    return {name: [line[name] for line in log if name in line] for name in ("loss", "grad_norm", "val_loss", "weights_checksum")}


def furthest(one, other, name):
    one, other = np.array(one[name], dtype=float), np.array(other[name], dtype=float)
    assert one.shape == other.shape and np.all(np.isfinite(one))
    return np.max(np.abs(one - other) / one)


@pytest.fixture(scope="module")
def alone(work):
    return results(work, 1, "fp32")


@pytest.mark.parametrize("ranks, changes", DIVISIONS)
def test_losses_of_one_rank(work, alone, ranks, changes):
    many = results(work, ranks, "fp32", **changes)
    assert furthest(alone, many, "loss") < 1e-5 and furthest(alone, many, "val_loss") < 1e-5
    assert furthest(alone, many, "grad_norm") < 1e-4  # of which a step's rounding is a larger share
    assert many["weights_checksum"][-1] != many["weights_checksum"][0]


@pytest.mark.parametrize("ranks, changes", [(3, {}), (4, {"shard_group": 2, "zero": 2}), (2, {"zero": 0}), (3, {"grad_reduce": "bf16"})])
def test_the_same_bits_again(work, ranks, changes):
    """Run again, without overlap, and with the optimizer's state in host memory."""
    many = results(work, ranks, "bf16", **changes)
    assert results(work, ranks, "bf16", **changes) == many
    assert results(work, ranks, "bf16", **changes, overlap="off") == many
    assert results(work, ranks, "bf16", **changes, optimizer_state="host") == many


def test_gradients_in_bf16_reach_others_alone(work, alone):
    """One rank sends nothing. Of more the loss stays near: within 20 times what was measured, at most 5e-5."""
    assert results(work, 1, "fp32", grad_reduce="bf16") == alone
    for ranks, zero in ((2, 0), (3, 1), (2, 2)):
        many = results(work, ranks, "fp32", grad_reduce="bf16", zero=zero)
        assert 0 < furthest(alone, many, "loss") < 1e-3, (ranks, zero)
        print(ranks, zero, furthest(alone, many, "loss"), furthest(alone, many, "grad_norm"))


def test_bf16_differs_no_more_than_by_the_order_of_sums(work):
    """One rank that adds its micro-batches in other divisions shows how far rounding alone leads; the ranks' curves stay
    within twice the largest such distance."""
    orders = [results(work, 1, "bf16", batch_size=ROWS // n, grad_accum=n) for n in (1, 2, 3, 4, 6)]
    spread = max(furthest(a, b, "loss") for a, b in itertools.combinations(orders, 2))
    assert 0 < spread < 1e-2
    for ranks, changes in ((2, {}), (3, {"zero": 0}), (4, {"zero": 2})):
        many = results(work, ranks, "bf16", **changes)
        distance = min(furthest(order, many, "loss") for order in orders)
        print(f"{ranks} ranks: {distance:.2e}, spread of one rank's orders {spread:.2e}")
        assert distance < 2 * spread


def test_memory_of_the_optimizer_is_divided(work):
    """What the run prints of its memory: optimizer state by 1/N, with zero 2 gradients too."""

    def memory(ranks, **changes):
        arguments = {"steps": 1, "save": "off", "output": work.folder / f"run{next(count)}", "batch_size": 1, **changes}
        out, _ = work.run_ranks(ranks, **arguments) if ranks > 1 else work.run(precision="fp32", **arguments)
        return {line[2:20].strip(): float(line[20:].split()[0]) for line in out.splitlines() if " MiB" in line}

    work.write_config(hidden_size=128, intermediate_size=512)
    try:
        one, two, four, two_gradients = memory(1), memory(2), memory(4), memory(2, zero=2)
    finally:
        work.write_config()
    shown = 0.051  # a tenth of a MiB
    for many, ranks in ((two, 2), (four, 4), (two_gradients, 2)):
        assert abs(many["optimizer state"] - one["optimizer state"] / ranks) < shown + 0.01 * one["optimizer state"]
        assert many["parameters"] == pytest.approx(one["parameters"], abs=2 * shown)
    assert two["gradients"] == pytest.approx(one["gradients"], abs=2 * shown)
    assert two_gradients["gradients"] == pytest.approx(one["gradients"] / 2, abs=2 * shown)


def test_timeline_of_all_ranks(work, tmp_path):
    """Computation and communication of the chosen steps; a file that cannot be written is a warning."""
    path = tmp_path / "timeline.json"
    options = {"steps": 6, "save": "off", "batch_size": 4, "output": tmp_path / "run"}
    out, err = work.run_ranks(3, **options, trace=path, trace_steps="3:4")
    assert err == "" and f"step 4: timeline in {path}" in out
    spans = [event for event in json.loads(path.read_text())["traceEvents"] if event["ph"] == "X"]
    for rank in range(3):
        names = {span["name"] for span in spans if span["pid"] == rank}
        assert {name for name in names if name.startswith("step ")} == {"step 3", "step 4"}
        assert {"layer 1 gradients", "layer 0 parameters", "backward, layer 1", "update"} <= names
    _, err = work.run_ranks(2, **options, trace="/nowhere/timeline.json", overwrite=True)
    assert err.startswith("train_llama3: no timeline: /nowhere/timeline.json") and err.count("\n") == 1
    assert [line["step"] for line in work.log(tmp_path / "run") if "loss" in line] == list(range(1, 7))
