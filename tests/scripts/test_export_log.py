"""scripts/export_log.py: what TensorBoard, trackio and Weights & Biases read back is what the log says, however it grew."""

import json
import math
import os
import random
import signal
import subprocess
import sys

import pytest
from checkout import script
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray
from waiting import wait_until
from wandb.proto.wandb_internal_pb2 import Record

from llmexport.log_file import LogFile
from llmexport.records import record_of

EXPORT = script("export_log")
SETTINGS = {"lr": 0.001, "overwrite": False, "config": "c.json"}


def lines(first, last):
    """A log's text of steps with all kinds of lines; the losses are exact in 32 bits."""
    found = []
    for step in range(first, last + 1):
        loss = random.randrange(1 << 20) / (1 << 16)
        found.append({"step": step, "loss": loss, "lr": 0.5, "grad_norm": None, "tokens": 100 * step})
        if step % 4 == 0:
            found.append({"step": step, "val_loss": 2.5, "val_losses": {"web": 2.25, "code": 2.75}})
            found.append({"step": step, "task": "quiz", "items": 8, "acc": step / 64})
            found.append({"step": step, "sample": f"*step* {step}\n<b>é"})
            found.append({"step": step, "checkpoint": f"step_{step}", "wait_seconds": 0.125, "bytes": 4096})
    return "".join(json.dumps(line) + "\n" for line in found)


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "runs/mine"
    folder.mkdir(parents=True)
    (folder / "trainer_options.json").write_text(json.dumps(SETTINGS | {"recipe": None}))
    (folder / "log.jsonl").write_text(lines(1, 8))
    return folder


def command(*arguments):
    return [sys.executable, str(EXPORT), *map(str, arguments)]


def export(*arguments, code=0):
    done = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=600)
    assert done.returncode == code, done.stderr
    return done.stderr if code else done.stdout


# ---- what the tools read: {name: [(step, value), ...]} in the order of writing


def tensorboard_of(folder):
    """By what TensorBoard's server reads with."""
    events, found = EventAccumulator(str(folder), tensor_size_guidance={"scalars": 0, "text": 0}).Reload(), {}
    for tag in events.Tags()["tensors"]:
        if tag.startswith("_hparams_"):
            found["hparams"] = events.SummaryMetadata(tag).plugin_data.content
            continue
        for event in events.Tensors(tag):
            value = make_ndarray(event.tensor_proto).item()
            found.setdefault(tag, []).append((event.step, value.decode() if isinstance(value, bytes) else value))
    return found


def trackio_of(folder):
    """In a process of its own, as trackio asks for its folder once."""
    text = ("import json, sys, trackio; from trackio.sqlite_storage import SQLiteStorage as s; "
            "(run,) = trackio.Api().runs('llama3'); json.dump([s.get_logs('llama3', run.name), run.config], sys.stdout)")  # fmt: skip
    environment = os.environ | {"TRACKIO_DIR": str(folder.parent)}
    done = subprocess.run([sys.executable, "-c", text], env=environment, capture_output=True, text=True, check=True)
    logs, config = json.loads(done.stdout)
    found = {"settings": config}
    for log in logs:
        for name in log.keys() - {"step", "timestamp"}:
            value = log[name]
            found.setdefault(name, []).append((log["step"], value["_value"] if isinstance(value, dict) else float(value)))
    return found


def wandb_records(path):
    """The records of a file in LevelDB's log format behind seven bytes: blocks of 32 KiB, over which a record may go on."""
    data, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        room = 32768 - at % 32768
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        if room < 7 or kind == 0:
            at += room
            continue
        whole += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(whole)
            whole = b""


def wandb_of(folder):
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    found = {}
    for record in wandb_records(path):
        if record.HasField("run") and record.run.config.update:
            found["settings"] = {item.key: json.loads(item.value_json) for item in record.run.config.update}
        row = {"/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for name, value in row.items():
            if name.endswith("/path"):
                text = (path.parent / "files" / value).read_text()
                found.setdefault(name.removesuffix("/path"), []).append((row["step"], text))
            elif isinstance(value, (int, float)) or value == "NaN":
                found.setdefault(name, []).append((row["step"], float(value)))
    return found


READERS = {"tensorboard": tensorboard_of, "trackio": trackio_of, "wandb": wandb_of}


def check(found, log):
    """The numbers and texts of a whole log, each once and in order."""
    entries = [json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")]
    losses = [(entry["step"], entry["loss"]) for entry in entries if "loss" in entry]
    validations = [entry for entry in entries if "val_loss" in entry]
    assert found["train/loss"] == losses
    assert [step for step, value in found["train/grad_norm"] if math.isnan(value)] == [step for step, _ in losses]
    assert found["val/loss"] == [(entry["step"], 2.5) for entry in validations]
    assert found["val/losses/code"] == [(entry["step"], 2.75) for entry in validations]
    assert found["tasks/quiz/acc"] == [(entry["step"], entry["step"] / 64) for entry in validations]
    assert found["checkpoint/wait_seconds"] == [(entry["step"], 0.125) for entry in validations]
    assert [step for step, _ in found["sample"]] == [entry["step"] for entry in validations]
    assert all(f"step* {step}" in text for step, text in found["sample"])


@pytest.mark.parametrize("tool", READERS)
def test_a_log_that_grows(run, tool):
    """Half a line waits; run again, nothing is written twice; what a resumed run takes back is gone."""
    log, folder = run / "log.jsonl", run.parent / tool / "mine"
    with open(log, "a") as file:
        file.write('not JSON\n{"step": 9, "lo')
    assert "unreadable" in export(run, "--to", tool)
    found = READERS[tool](folder)
    check(found, log)
    if tool == "tensorboard":
        assert b"c.json" in found["hparams"] and "c.json" in found["settings"][0][1]
    else:
        assert SETTINGS.items() <= found["settings"].items()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert "0 lines written, up to step 8" in export(run, "--to", tool)
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    kept = lines(1, 8)
    log.write_text(kept + lines(9, 10))
    if tool == "tensorboard":  # the others take seconds to begin
        export(log, "--to", tool)
    with open(log, "a") as file:
        file.write('{"step": 10, "stopped": "signal"}\n' + lines(11, 12))
    export(run, "--to", tool)
    found = READERS[tool](folder)
    check(found, log)
    ((step, text),) = found["events"]
    assert step == 10 and "stopped signal" in text
    replacement = run / "new"
    replacement.write_text(kept + '{"step": 8, "resumed": "x"}\n' + lines(9, 9))
    replacement.rename(log)
    export(run, "--to", tool)
    check(READERS[tool](folder), log)


@pytest.mark.parametrize("tool", ["tensorboard", "trackio"])
def test_after_a_kill(run, tool):
    """What was written behind the last noted position is not written a second time, and what was written is not kept twice."""
    log, folder = run / "log.jsonl", run.parent / tool / "mine"
    export(run, "--to", tool)
    with open(log, "a") as file:
        file.write(lines(9, 10))
    export(run, "--to", tool)
    journal = folder / "exported.jsonl"
    rows = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(rows[:-1]))  # the kill came before the position was noted
    export(run, "--to", tool)
    check(READERS[tool](folder), log)
    assert len(list(folder.glob("events.*"))) == (tool == "tensorboard")


def test_follow(run, tmp_path):
    """A run goes on, then is rolled back: TensorBoard drops the points that no longer count. A signal ends it."""
    log = run / "log.jsonl"
    following, pipe = command(run, "--to", "tensorboard", "--follow"), subprocess.PIPE
    process = subprocess.Popen(following, stdout=pipe, stderr=pipe, text=True)
    try:
        found = lambda: tensorboard_of(run.parent / "tensorboard/mine").get("train/loss", [])  # noqa: E731
        wait_until(lambda: (run.parent / "tensorboard/mine").is_dir() and len(found()) == 8, "the points", process=process)
        with open(log, "a") as file:
            file.write(lines(9, 20) + '{"step": 20, "rolled_back_to": 9}\n')
        wait_until(lambda: len(found()) == 20, "the points", process=process)
        again = lines(10, 12)
        with open(log, "a") as file:
            file.write(again)
        wait_until(lambda: len(found()) == 12, "the points", process=process)
        expected = [json.loads(line)["loss"] for line in again.splitlines() if '"loss"' in line]
        assert [value for _, value in found()[9:]] == expected
    finally:
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=600)
    assert process.returncode == 130 and said == "export_log: stopped; the same command goes on\n"


def test_many_runs(tmp_path):
    for name in ("a/run", "b/run", "b/other"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "log.jsonl").write_text(lines(1, 4))
    output = tmp_path / "out"
    export(*(tmp_path / name for name in ("a/run", "b/run", "b/other")), "--to", "tensorboard", "--output", output)
    for name in ("a/run", "b/run", "b/other"):
        check(tensorboard_of(output / name), tmp_path / name / "log.jsonl")


def test_bad_usage(run, tmp_path):
    assert "no such file, expected a run's log.jsonl" in export(tmp_path / "none", "--to", "tensorboard", code=2)
    assert "the same run twice" in export(run, run / "log.jsonl", "--to", "tensorboard", code=2)
    assert "invalid choice" in export(run, "--to", "paper", code=2)
    export(run, "--to", "tensorboard", "--output", tmp_path / "out")
    other = run.rename(run.parent / "moved") / "log.jsonl"
    (tmp_path / "elsewhere/mine").mkdir(parents=True)
    other.rename(tmp_path / "elsewhere/mine/log.jsonl")
    said = export(tmp_path / "elsewhere/mine", "--to", "tensorboard", "--output", tmp_path / "out", code=2)
    assert "exported.jsonl was begun with log" in said and said.count("\n") == 1


@pytest.mark.parametrize("tool", READERS)
def test_a_missing_tool(run, tool):
    """Where it is not installed, one line says how to get it."""
    text = (f"import sys; sys.modules['{tool}'] = None; sys.argv = {command(run, '--to', tool)[1:]!r}; "
            f"sys.path.insert(0, {str(EXPORT.parent)!r}); import export_log; sys.exit(export_log.main())")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=600)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert f"the Python package {tool} is missing" in done.stderr and "requirements-export.txt" in done.stderr


@pytest.mark.parametrize("line", [b"", b"[1]", b"3", b'"step"', b'{"loss": 1}', b'{"step": null, "loss": 1}', b'{"step": 1, "loss": [1]}',
                                  b'{"step": 1e999}', b'{"step": 1, "task": "x", "cells": [{}]}', b'{"step": 1, "loss": "\xff"}', b"[" * 100_000,
                                  b'{"step": 1, "sample": 3}'])  # fmt: skip
def test_lines_that_are_none(line):
    assert record_of(line) is None


def test_names():
    cells = [{"depth": 0, "items": 2, "acc": 0.5}, {"depth": 12.5, "items": 2, "acc": 1}]
    needle = record_of(json.dumps({"step": 3, "task": "needle", "acc": 0.75, "length": 64, "cells": cells}).encode())
    assert (needle.step, needle.numbers["tasks/needle/depth_12.5/acc"], needle.numbers["tasks/needle/length"]) == (3, 1, 64)
    stage = record_of(b'{"step": 1, "loss": 2, "stage": "main", "sources": {"web": {"tokens": 7, "epochs": 0.5}}}')
    assert stage.numbers == {"train/loss": 2, "train/sources/web/tokens": 7, "train/sources/web/epochs": 0.5}
    pairs = record_of(b'{"step": 1, "val_loss": 2, "val_accuracy": 0.5}')
    assert pairs.numbers == {"val/loss": 2, "val/accuracy": 0.5}
    averaged = record_of(b'{"step": 4, "val_loss_averaged": 2, "averaged_steps": 3}')
    assert averaged.numbers == {"val/loss_averaged": 2, "val/averaged_steps": 3}
    assert record_of(b'{"step": 4, "sample": "\\ud800"}').texts == {"sample": "?"}
    assert record_of(b'{"step": 4, "weights_checksum": "07"}').texts == {"weights_checksum": "07"}
    assert record_of(b'{"step": 4, "spike": 9, "limit": 8}').texts == {"events": "spike 9, limit 8"}


def test_a_log_that_is_written_while_it_is_read(tmp_path):
    """Pieces of a few bytes, at times a replacement with the same beginning or another: what is read is what stands there."""
    path, text = tmp_path / "log", b""
    path.write_bytes(b"")
    log, read = LogFile(path, 0, ""), []
    for _ in range(200):
        event = random.random()
        if event < 0.1:
            text = text[: random.randrange(len(text) + 1)] if event < 0.05 else text
            (tmp_path / "new").write_bytes(text)
            os.replace(tmp_path / "new", path)
        else:
            text += bytes(random.choices(b"ab\n", k=random.randrange(6)))
            path.write_bytes(text)
        if not log.reopen():
            read = []
        read += log.lines()
        assert b"".join(read) == text[: text.rfind(b"\n") + 1]
        assert log.taken == len(b"".join(read)) and not log.has_more()
    again = LogFile(path, log.taken, log.sum.hexdigest())
    assert again.goes_on and not list(again.lines())
