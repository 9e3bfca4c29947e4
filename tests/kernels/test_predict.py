"""The prediction of a step's time (dev/bench/predict.py): bytes and FLOPs by hand, more time for more work, a device that it does
not know, and that what it says of the attention kernels' tiles is what their launchers ask for."""

import json
import subprocess
import sys

import pytest

import launches
import llmc
import llmplan.predict
import long_rows
import machine_code
import predict

TINY = predict.Model(C=256, F=512, L=2, NH=4, NKV=2, HD=64, V=1000, tied=False, tokens=2048, ranks=1)


@pytest.fixture(scope="module")
def record():
    return machine_code.read_record()[1]


def test_counts_by_hand():
    # qkv 256 x (4 + 2 + 2) 64, output 256 x 256, gate and up 2 x 512 x 256, down 256 x 512
    assert predict.layer_weights(TINY) == 131072 + 65536 + 262144 + 131072
    assert predict.weights(TINY) == 2 * 589824 + 1024 * 256  # 1000 rows padded to 1024
    assert predict.parameters(TINY) == 1441792 + 5 * 256 + 1024 * 256
    # 6 a weight (norms too, as the trainer counts them), 6 T for each of 4 x 64 columns of queries in 2 layers
    assert predict.model_flops(TINY, 100) == 6 * (2 * 589824 + 1000 * 256 + 5 * 256) + 6 * 2 * 256 * 100
    assert predict.elementwise_bytes(TINY) == {
        "norms forward": 2 * 2 * (4 * 256 * 2) + 4 * 256 * 2,
        "norms backward": 2 * 2 * (4 * 256 * 2) + 3 * 256 * 2,
        "RoPE": 2 * 2 * (2 * (4 + 2) * 64 * 2),
        "SwiGLU": 2 * (3 + 5) * 512 * 2,
        "attention's D": 2 * (2 * 256 * 2 + 4 * 4),
        "embedding": 2 * 256 * 2 + 256 * 2 + 8 * 256,
        "classifier's softmax": 3 * 1024 * 2,
    }


def test_the_trainers_flops():
    """8B has 8.03e9 parameters, of which the embedding is in no product; FLOPs are those that plan.py counts, as the trainer does."""
    m, config = predict.models()["8B"], json.loads((llmc.ROOT / "configs/llama3.1_8b.json").read_text())
    assert predict.parameters(m) == 8030261248
    assert predict.model_flops(m, 0) == 6 * (8030261248 - 128256 * 4096)
    assert predict.model_flops(m, 4096) == llmplan.predict.ModelCosts(config, 4096).flops


def test_attention_by_hand(record):
    d = predict.device_named("a100")
    # warps of 16 queries, tiles of 64 keys: four warps see one tile, four see two, and those of the last 20 tokens three
    assert predict.trips(148, 16, 64) == 4 * 1 + 4 * 2 + 2 * 3
    loop = predict.Loop("", 2, 16, 4, 1, 4, 0)
    trip = dict(slots=700, matrix=128, mufu=34, shared=1200, global_=0, copies=16, copy_loop=0)
    assert predict.columns(loop, trip, 128) == 64
    assert predict.trip_parts(d, loop, trip, 128) == {"issue": 700, "matrix": 128 * 8, "mufu": 34 * 8, "shared": 1200, "cache": 0}
    # 128 bytes of each of 32 lanes, of the 4.5 TB/s that 432 schedulers at 1.41 GHz share
    cache = predict.trip_parts(d, loop, trip | dict(global_=128), 128)["cache"]
    assert cache == pytest.approx(4096 * 432 * 1.41e9 / 4.5e12, rel=1e-3)
    # an inner loop of 218 instructions for 8 copies a thread, of 16 that two tiles of 64 x 128 bf16 need
    looped = predict.trip_parts(d, loop, trip | dict(copies=8, copy_loop=218), 128)
    assert (looped["issue"], looped["shared"]) == (700 + 218, 1200 + 8 * 16)
    assert predict.trip_cycles({"issue": 700, "matrix": 1024, "mufu": 272, "shared": 1200}, 2) == 1200 + (700 + 1024 + 272) / 2
    # 225 registers: 7,424 for a warp, 2 blocks of 4 by registers; 80 KB: 2 by A100's shared memory, 1 by the RTX 4090's
    assert predict.shared_bytes(loop, trip, 128) == (64 + 4 * 64) * 128 * 2
    assert predict.warps_resident(d, 4, 225, 81920) == 2
    assert predict.warps_resident(predict.device_named("rtx4090"), 4, 225, 81920) == 1
    assert predict.warps_resident(d, 8, 225, 81920) == 2 and predict.warps_resident(d, 8, 255, 40000) == 2


def test_shared_memory_is_the_launchers(record):
    """On the CPU target, whose launches of a GPU's blocks are recorded."""
    if "bf16" not in llmc.build_folders():
        pytest.skip("tiles of bf16")
    lib = llmc.load("bf16")
    if not lib.on_cpu:
        pytest.skip("only the CPU target records launches")
    largest = launches.record(lib)
    for HD in (64, 128):
        for loop in (predict.FORWARD[HD], *predict.BACKWARD[HD]):
            trip = record[loop.kernel, "sm_80"]["trip"]
            expected = (32 * loop.warps, predict.shared_bytes(loop, trip, HD))
            assert largest[loop.kernel] == expected, loop.kernel


def steps(record, **changes):
    m = TINY._replace(**{k: v for k, v in changes.items() if k in TINY._fields})
    return predict.predict("tiny", m, changes.get("T", 1024), changes.get("device", "h100"), record,
                           accumulate=changes.get("accumulate", 1), step=predict.STEP | changes.get("step", {}))  # fmt: skip


MORE = {"C": 512, "F": 1024, "L": 3, "NH": 8, "V": 2000, "T": 2048, "tokens": 4096, "accumulate": 2}


@pytest.mark.parametrize("device", predict.DEVICES)
@pytest.mark.parametrize("what", MORE)
def test_more_work_takes_longer(record, device, what):
    assert steps(record, device=device, **{what: MORE[what]})["ms"] > steps(record, device=device)["ms"]


def test_a_slower_device_takes_longer(record):
    times = [steps(record, device=device)["ms"] for device in ("h200", "h100", "a100", "rtx4090")]
    assert times == sorted(times)


def test_a_step_that_does_less_is_faster(record):
    for change in ({"zeroes_gradients": False}, {"waits_for_loss": False}, {"norm_reads_gradients": False}):
        was = {"zeroes_gradients": True, "waits_for_loss": True, "norm_reads_gradients": True}
        assert steps(record, step=was | change)["ms"] < steps(record, step=was)["ms"], change


def test_parts_add_up(record):
    row = steps(record, accumulate=3)
    assert sum(row["parts"].values()) == pytest.approx(row["ms"])
    assert row["tokens_per_second"] == pytest.approx(3 * 2048 / row["ms"] * 1e3)
    flops = 3 * 2048 * predict.model_flops(TINY, 1024)
    assert row["share"] == pytest.approx(flops / (row["ms"] / 1e3) / 989e12)
    once = steps(record, accumulate=1)["parts"]
    for part in ("products", "attention forward", "attention backward", "elementwise"):
        assert row["parts"][part] == pytest.approx(3 * once[part])
    assert [row["parts"][part] for part in ("zeroing", "norm", "AdamW")] == [once[part] for part in ("zeroing", "norm", "AdamW")]


def test_peaks_are_the_multiprocessors():
    """The clock that a data sheet's peak asks for is one that it names, in GHz."""
    for name, boost in (("h100", 1.83), ("h200", 1.83), ("a100", 1.41), ("rtx4090", 2.52)):
        assert predict.clock(predict.device_named(name)) == pytest.approx(1e9 * boost, rel=0.01)


def run(*arguments):
    return subprocess.run([sys.executable, predict.__file__, *arguments], capture_output=True, text=True)


def test_unknown_device():
    done = run("--devices", "h100,tpu")
    assert done.returncode == 1 and done.stderr == "predict: no device 'tpu': expected one of h100, h200, a100, rtx4090\n"


def test_before_and_after(tmp_path, record):
    """Against a step of twice the time; what only one of the files has is left out."""
    now = steps(record) | {"model": "8B", "T": 4096}
    old = now | {"ms": 2 * now["ms"], "share": now["share"] / 2, "parts": {k: 2 * v for k, v in now["parts"].items()}}
    other = now | {"model": "1B"}
    (line,) = predict.compare_table([old], [now, other])[2:]
    times = f"{2 * now['ms']:.0f} → {now['ms']:.0f} | {now['share'] / 2:.1%} → {now['share']:.1%}"
    assert line == f"| 8B | 4096 | h100 | {times} | 2.00 |  |"
    file = tmp_path / "old.json"
    file.write_text(json.dumps({"commit": "0123456", "rows": [other | {"ms": 1e6}]}))
    done = run("--models", "1B,8B", "--lengths", "4096", "--devices", "h100", "--compare", str(file))
    assert done.returncode == 0 and "Predicted, not measured: 0123456" in done.stdout
    assert "1000000 → " in done.stdout and "| 8B |" not in done.stdout


def test_records_are_marked_as_predictions():
    files = sorted(predict.RESULTS.glob("*.json"))
    assert files
    for file in files:
        found = json.loads(file.read_text())
        assert found["prediction"] is True and found["measured"] is False and found["commit"] == file.stem
        assert "not measured" in file.with_suffix(".md").read_text()


def test_long_rows(tmp_path, capsys, monkeypatch):
    """dev/bench/long_rows.py on this device, and what it says of GPUs: attention's share of a step grows with the length."""
    monkeypatch.setattr(sys, "argv", ["long_rows.py", "--longest", "2048", "--groups", "1", "--json", str(tmp_path / "out.json")])
    long_rows.main()
    out, found = capsys.readouterr().out, json.loads((tmp_path / "out.json").read_text())
    rows = found["measured"]["rows"]
    assert [(row["model"], row["T"]) for row in rows] == [("1B", 1024), ("1B", 2048), ("8B", 1024), ("8B", 2048)]
    assert all(row[f"attention_{way}"]["ms"] > 0 for row in rows for way in ("forward", "backward"))
    assert rows[1]["memory_bytes"] == pytest.approx(2 * rows[0]["memory_bytes"], rel=0.05)
    predicted = found["predicted"]
    assert predicted["prediction"] and not predicted["measured"] and "not measured" in out
    shares = [row["attention_ms"] / row["step_ms"] for row in predicted["rows"] if (row["model"], row["device"]) == ("8B", "h100")]
    assert 0 < shares[0] < shares[1] < 1
