"""A machine that loses its power after a rename finds what was renamed: every file and folder is synced before (tests/support/durable.py).

kill -9 cannot show this, as the page cache outlives a process; so the order of the calls itself is judged.
"""

import os
import random
import subprocess
import sys

import pytest

import checkpoints
import durable
import llmc
from adapters import make_adapter
from hfmodels import make_model, models
from modeltools import AVERAGE, MERGE
from checkout import script

ROOT = checkpoints.ROOT


@pytest.fixture
def recorded(shim, tmp_path):
    """run(command, output): runs it, judges its calls below `work` and returns how many files `output` has."""
    (tmp_path / "work").mkdir()

    def run(command, output, **more):
        record = tmp_path / "record"
        record.unlink(missing_ok=True)
        env = durable.environment(shim, record, tmp_path / "work") | more
        done = subprocess.run([*map(str, command)], env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return durable.judge(record, output)

    run.work = tmp_path / "work"
    return run


@pytest.fixture(scope="module")
def write_store(tmp_path_factory):
    return checkpoints.compile_program("write_store", tmp_path_factory.mktemp("program"))


@pytest.mark.parametrize("parts, averaged, files", [(1, 0, 6), (3, 0, 11), (2, 1, 13)])
def test_checkpoints(recorded, write_store, tmp_path, parts, averaged, files):
    """New, over an older one, over one of the same step, and there on a file system that cannot exchange names."""
    store, tokenizer = recorded.work / "store", tmp_path / "tokenizer"
    tokenizer.mkdir()
    (tokenizer / "tokenizer.json").write_text("{}")
    for step, more in [(1, {}), (2, {}), (2, {}), (2, {"FAULTY_NO_EXCHANGE": "1"})]:
        folder = store / f"step_{step:08d}"
        found = recorded([write_store, store, step, step, 1, tokenizer, parts, averaged], folder, **more)
        assert found >= files, sorted(checkpoints.files(folder))
        assert os.listdir(store / "latest") and not (store / "step_00000001").exists() or step == 1


def test_averages(recorded, tmp_path):
    inputs = models(tmp_path, 2)
    for more in ([], ["--overwrite"]):
        assert recorded([AVERAGE.path, "--output", recorded.work / "out", *inputs, *more], recorded.work / "out") >= 3


def test_merges(recorded, tmp_path):
    make_model(tmp_path / "base")
    adapter = make_adapter(tmp_path / "adapter", tmp_path / "base")
    for more in ([], ["--overwrite"]):
        command = [MERGE.path, "--adapter", adapter, "--output", recorded.work / "out", *more]
        assert recorded(command, recorded.work / "out") >= 3


def words(count):
    return " ".join("".join(random.choices("etaoinshr", k=random.randint(1, 7))) for _ in range(count))


def test_shards_rows_and_items(recorded, tmp_path):
    """Several shards, twice; rows and items with the tokenizer that they brought."""
    text, chats, items = (tmp_path / name for name in ("text.txt", "chats.jsonl", "items.jsonl"))
    text.write_text("\n\n".join(words(60) for _ in range(200)))
    chats.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n' * 40)
    items.write_text('{"text": "a b c"}\n' * 3)
    data, rows, evals = (recorded.work / name for name in ("data", "rows", "evals"))
    evals.mkdir()
    commands = {
        data: ["prepare_data", text, "--vocab-size", 400, "--shard-tokens", 4096, "--workers", 1, "--output", data],
        rows: ["prepare_chat", chats, "--tokenizer", data, "--output", rows, "--workers", 1],
        evals: ["prepare_eval", items, "--tokenizer", data, "--output", evals / "items.eval"],
    }
    for folder, (program, *arguments) in commands.items():
        assert recorded([sys.executable, script(program), *arguments], folder) >= (5, 4, 1)[list(commands).index(folder)]
        if folder != evals:
            recorded([sys.executable, script(program), *arguments, "--overwrite"], folder)


def test_small_files(recorded):
    """What is written by file_write_whole and file_copy (references, journals): a file under a temporary name, then its own."""
    library = llmc.build_folders()["bf16"] / "libllmc.so"
    calls = "l.file_write_whole(o + b'/a', b'text', 4, None) + l.file_copy(o + b'/a', o + b'/b', None)"
    code = f"import ctypes, sys; l = ctypes.CDLL({str(library)!r}); o = sys.argv[1].encode(); sys.exit({calls})"
    assert recorded([sys.executable, "-c", code, recorded.work], recorded.work) == 2


BROKEN = {
    "bytes": "open /w/a.tmp\nwrite /w/a.tmp\nrename /w/a.tmp\t/w/a\nfsync /w",
    "written after its sync": "open /w/a.tmp\nfsync /w/a.tmp\nwrite /w/a.tmp\nrename /w/a.tmp\t/w/a\nfsync /w",
    "names": "mkdir /w/d.tmp\nopen /w/d.tmp/a\nfsync /w/d.tmp/a\nrename /w/d.tmp\t/w/d\nfsync /w",
    "names below": "mkdir /w/d.tmp\nmkdir /w/d.tmp/e\nopen /w/d.tmp/e/a\nfsync /w/d.tmp/e/a\nfsync /w/d.tmp\nrename /w/d.tmp\t/w/d\nfsync /w",
    "the new name": "open /w/a.tmp\nfsync /w/a.tmp\nrename /w/a.tmp\t/w/a",
    "the old one": "open /w/a.tmp\nfsync /w/a.tmp\nrename /w/a.tmp\t/w/a\nremove /w/old\nfsync /w",
    "a seal": "open /w/.partial/a\nfsync /w/.partial/a\nopen /w/m\nfsync /w/m\nrename /w/.partial/a\t/w/a\nrename /w/m\t/w/meta.json\nfsync /w",
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_the_rules_can_fail(tmp_path, broken):
    (tmp_path / "record").write_text(broken + "\n")
    with pytest.raises(AssertionError):
        durable.judge(tmp_path / "record", tmp_path / "empty")
