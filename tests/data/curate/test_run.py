"""Runs of data/curate.py: formats of input and output, settings, and runs that are killed and go on."""

import copy
import gzip
import json
import random
import signal
import subprocess

import pyarrow.parquet
import pytest
import zstandard
from planted_web import Web

import curating
import tokenizerkinds
from curating import command, curate, documents, files, refused, rows, run
from seeds import how_often, seed_of
from waiting import wait_until

STEPS = {name: {} for name in ("extract", "language", "url_dedup", "minhash", "line_dedup", "divergence", "pii")}


@pytest.fixture(scope="module")
def web():
    return Web(seed_of("curate"), 60)


@pytest.fixture(scope="module")
def pages(web, tmp_path_factory):
    """A folder of three archives, and how many pages they have."""
    folder = tmp_path_factory.mktemp("pages")
    web = Web(seed_of("curate"), 120)
    for part in range(3):
        piece = copy.copy(web)
        piece.pages = web.pages[part::3]
        piece.write_warc(folder / f"{part}.warc.gz")
    return folder, len(web.pages)


@pytest.fixture(scope="module")
def whole(pages, tmp_path_factory):
    """(statistics, output) of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    return curate("--config", curating.settings(folder, [pages[0]], STEPS)), folder / "out"


def test_every_step_counts_what_the_one_before_left(pages, whole):
    statistics, output = whole
    assert statistics["order"] == [name for name in statistics["steps"]] and set(statistics["order"]) == set(STEPS)
    left = statistics["input"]["total"]["out"]
    assert left[0] == pages[1]
    for name in statistics["order"]:
        step = statistics["steps"][name]
        assert step["total"]["in"] == left, name
        left = step["total"]["out"]
        assert step["total"]["in"][0] - left[0] == sum(step["reasons"].values())
        assert sum(sizes[3] for sizes in step["by"]["language"].values()) == left[0]
    found = rows(output)
    assert left == [len(found), sum(row["token_count"] for row in found), sum(len(row["text"].encode()) for row in found)]
    assert 0 < len(found) < pages[1]
    of_minhash = sum(used["seconds"] for name, used in statistics["passes"].items() if "-minhash-" in name)
    assert statistics["steps"]["minhash"]["seconds"] > of_minhash > 0  # its own passes, signatures and decisions
    work = statistics["input"]["seconds"] + sum(step["seconds"] for step in statistics["steps"].values())
    assert work < sum(used["seconds"] for used in statistics["passes"].values())
    assert (output / "report.html").read_text().count("<h2>") > 3


def test_the_counts_do_not_depend_on_the_number_of_tasks(pages, whole, tmp_path):
    statistics = curate("--config", curating.settings(tmp_path, [pages[0]], STEPS, tasks=1, workers=1))
    assert documents(tmp_path / "out") == documents(whole[1])
    for name in STEPS:
        for member in ("total", "by", "reasons", "dropped", "kept", "changes"):
            assert statistics["steps"][name][member] == whole[0]["steps"][name][member], (name, member)


# Patterns of files below work/; the run is killed as soon as one is there.
POINTS = ("passes/00-documents/marks/*", "passes/00-documents/counts/*", "documents/00/*", "steps/minhash/*/*",
          "passes/01-documents/counts/*", "passes/02-documents/logs/completions/*", "passes/*line_dedup*/logs/completions/*", "passes/*divergence*/marks/*",
          "passes/03-documents/marks/*")  # fmt: skip


def test_a_killed_run_goes_on_with_the_same_bytes(pages, whole, tmp_path):
    config = curating.settings(tmp_path, [pages[0]], STEPS)
    for point in sorted(random.sample(range(len(POINTS)), how_often(2, len(POINTS)))):
        killed = subprocess.Popen(command("--config", config), stdout=subprocess.DEVNULL)
        wait_until(lambda: killed.poll() is not None or any((tmp_path / "out/work").glob(POINTS[point])), POINTS[point], 600)
        killed.send_signal(random.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)))
        assert killed.wait(600) != 0 or (tmp_path / "out/statistics.json").exists(), POINTS[point]
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/work").glob("passes/*/logs/completions/*")}
    statistics = curate("--config", config)
    assert files(tmp_path / "out") == files(whole[1])
    assert {path: path.stat().st_mtime_ns for path in before} == before  # tasks that were done were not done again
    assert statistics["steps"]["pii"]["total"] == whole[0]["steps"]["pii"]["total"]
    assert not list((tmp_path / "out").rglob("*.partial"))


def test_a_finished_run_has_nothing_to_do(whole, pages):
    times = {path: path.stat().st_mtime_ns for path in (whole[1] / "documents").rglob("*")}
    done = run("--config", whole[1].parent / "settings.json")
    assert done.returncode == 0 and "00-documents" not in done.stdout
    assert {path: path.stat().st_mtime_ns for path in (whole[1] / "documents").rglob("*")} == times


def test_other_settings_are_refused_by_name(whole, pages, tmp_path, monkeypatch, capsys):
    config = curating.settings(tmp_path, [pages[0]], {**STEPS, "minhash": {"jaccard": 0.9}})
    assert "steps.minhash.jaccard was 0.75 and is 0.9" in refused(monkeypatch, capsys, "--config", config, "--output", whole[1])
    config = curating.settings(tmp_path, [pages[0]], STEPS, tasks=4)
    assert "executor.tasks was 3 and is 4" in refused(monkeypatch, capsys, "--config", config, "--output", whole[1])
    assert "limit was null and is 5" in refused(monkeypatch, capsys, "--config", whole[1].parent / "settings.json", "--limit", 5)


def test_workers_may_change_and_overwrite_begins_anew(pages, tmp_path):
    config = curating.settings(tmp_path, [pages[0]], {"extract": {}})
    curate("--config", config, "--limit", 8)
    assert len(rows(tmp_path / "out")) == 8
    assert run("--config", config, "--limit", 8, "--workers", 1).returncode == 0
    curate("--config", config, "--overwrite")
    assert len(rows(tmp_path / "out")) == pages[1]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"steps": {"minhahs": {}}}, 'steps: "minhahs" is not known, expected one of sample'),
        ({"steps": {"minhash": {"jaccard": 2}}}, "steps.minhash.jaccard: found 2, expected maximum 1"),
        ({"executor": {"taks": 1}}, 'executor: "taks" is not known'),
        ({"input": [{"paths": ["/nowhere/x*"]}]}, "input.0.paths: /nowhere/x*: no such file or folder"),
        ({"output": {}}, 'output: "folder" is missing'),
        ({"steps": {"url_filter": {"lists": {"adult": "nowhere"}}}}, "steps.url_filter.lists.adult: found no file nowhere"),
        ({"output": {"folder": "FOLDER", "shards": {"tokenizer": "nowhere"}}}, "nowhere"),
        ({"input": [{"paths": ["x"], "source": "../up"}]}, 'input.0.source: found "../up", expected pattern'),
    ],
)
def test_wrong_settings_are_refused_by_place(tmp_path, monkeypatch, capsys, change, message):
    path = tmp_path / "settings.json"
    (tmp_path / "page.html").write_bytes(curating.page("Words."))
    value = {"input": [{"paths": [str(tmp_path)]}], "output": {"folder": "FOLDER"}, **change}
    path.write_text(json.dumps(value).replace("FOLDER", str(tmp_path / "out")))
    assert message in refused(monkeypatch, capsys, "--config", path)
    assert not (tmp_path / "out/settings.json").exists()  # the run may begin with settings that are mended


def test_options_that_are_missing_are_asked_for(monkeypatch, capsys):
    assert "expected --config FILE, or --input PATH... and --output DIR" in refused(monkeypatch, capsys, "--input", "x")


def test_a_dry_run_writes_nothing(pages, tmp_path):
    done = run("--input", pages[0], "--output", tmp_path / "out", "--languages", "en,de", "--dry-run")
    assert done.returncode == 0, done.stderr
    for part in ("input: 3 files (warc)", '"languages": ["en", "de"]', "pass 00-documents: read -> url_filter"):
        assert part in done.stdout
    assert not (tmp_path / "out").exists()


def in_format(web, folder, name):
    """Path of the web's texts or pages in a format, and their number."""
    web.write_jsonl(folder / "rows.jsonl")
    lines = (folder / "rows.jsonl").read_bytes()
    texts = [json.loads(line) for line in lines.splitlines()]
    if name == "parquet":
        import pyarrow

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(texts), folder / "rows.parquet")
    elif name == "wet":
        head = "WARC/1.0\r\nWARC-Type: conversion\r\nWARC-Target-URI: {}\r\nWARC-Record-ID: <{}>\r\nContent-Length: {}\r\n\r\n{}\r\n\r\n"
        records = [head.format(row["url"], row["id"], len(row["text"].encode()), row["text"]).encode() for row in texts]
        (folder / "rows.wet.gz").write_bytes(b"".join(map(gzip.compress, records)))
    packed = {"jsonl": lambda data: data, "jsonl.gz": gzip.compress, "jsonl.zst": zstandard.ZstdCompressor().compress}
    if name in packed:
        (folder / f"rows.{name}").write_bytes(packed[name](lines))
    names = {"parquet": "rows.parquet", "wet": "rows.wet.gz"}
    return folder / names.get(name, f"rows.{name}"), {row["id"]: row["text"] for row in texts}


FORMATS = ["jsonl", "jsonl.gz", "jsonl.zst", "parquet", "wet"]


@pytest.fixture(scope="module")
def through(web, tmp_path_factory):
    """{format: (texts that a run with no steps was given in it, what came out)}"""
    folder, given, inputs = tmp_path_factory.mktemp("through"), {}, []
    for name in FORMATS:
        (folder / name).mkdir()
        path, given[name] = in_format(web, folder / name, name)
        inputs.append({"paths": [str(path)], "source": name})
    config = curating.settings(folder, [], {})
    config.write_text(json.dumps({**json.loads(config.read_text()), "input": inputs}))
    curate("--config", config)
    found = {name: {row["id"].strip("<>"): row["text"] for row in rows(folder / "out", name)} for name in FORMATS}
    return {name: (given[name], found[name]) for name in FORMATS}


@pytest.mark.parametrize("name", FORMATS)
def test_texts_come_through_as_they_are(through, name):
    given, found = through[name]
    assert found == given and len(given) > 50


def test_folders_of_html_are_read(web, tmp_path):
    web.write_html(tmp_path / "html")
    curate("--config", curating.settings(tmp_path, [tmp_path / "html/*.html"], {"extract": {}}))
    found = documents(tmp_path / "out")
    assert len(found) == len(web.pages) and all(row["url"].startswith("file:///") and row["text"] for row in found.values())


def test_html_that_no_step_extracts_is_told(tmp_path):
    (tmp_path / "page.html").write_bytes(curating.page("Some words."))
    (tmp_path / "rows.jsonl").write_text('{"text": "A text."}\n{"text": " \\n", "id": "blank"}\n')
    done = run("--config", curating.settings(tmp_path, [tmp_path / "page.html", tmp_path / "rows.jsonl"], {}, tasks=1))
    assert done.returncode == 0 and "without the step extract, 1 of 2 documents read are HTML" in done.stderr
    assert "not read, empty text: 1, as blank" in done.stdout and len(rows(tmp_path / "out")) == 2


def test_sources_get_their_own_shards(web, tmp_path):
    web.write_jsonl(tmp_path / "a.jsonl")
    web.write_jsonl(tmp_path / "b.jsonl")
    (tmp_path / "tokenizer").mkdir()
    tokenizerkinds.write(tmp_path / "tokenizer", "llama 3")
    value = {"input": [{"paths": [str(tmp_path / f"{name}.jsonl")], "source": name} for name in "ab"], "steps": {},
             "output": {"folder": str(tmp_path / "out"), "format": "parquet",
                        "shards": {"tokenizer": str(tmp_path / "tokenizer"), "val_fraction": 0.1}}}  # fmt: skip
    (tmp_path / "settings.json").write_text(json.dumps(value))
    curate("--config", tmp_path / "settings.json")
    for name in "ab":
        found = pyarrow.parquet.read_table(tmp_path / "out/documents" / name).to_pylist()
        meta = json.loads((tmp_path / "out/tokens" / name / "meta.json").read_text())
        assert len(found) == len(web.pages) == meta["train_documents"] + meta["val_documents"]
        assert {row["source"] for row in found} == {name}
