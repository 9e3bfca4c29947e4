"""Runs data/curate.py as a user does, and makes input for it."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import orjson
import zstandard

from checkout import load_script, script

WITH_PLANTED_STEPS = Path(__file__).with_name("planted_steps.py")


def record(number, body, url=None, lie=0, content_type="text/html; charset=utf-8", headers=b""):
    """A WARC record of a page. `lie` is added to its Content-Length."""
    http = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\n%s\r\n" % (content_type.encode(), headers) + body
    head = (f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:uuid:{number:08d}>\r\nWARC-Date: 2024-01-01T00:00:00Z\r\n"
            f"WARC-Target-URI: {url or f'http://site.example/{number}'}\r\nContent-Type: application/http; msgtype=response\r\n"
            f"Content-Length: {len(http) + lie}\r\n\r\n")  # fmt: skip
    return head.encode() + http + b"\r\n\r\n"


def page(text, title="A page"):
    return f"<html><head><title>{title}</title></head><body><main><p>{text}</p></main></body></html>".encode()


def write_warc(path, records, packed=True):
    path.write_bytes(b"".join(gzip.compress(one) if packed else one for one in records))


def settings(folder, paths, steps, **executor):
    """Path of a file of settings; the output is folder/out."""
    executor = {"tasks": 3, "workers": 2, **executor}
    value = {"input": [{"paths": [str(path) for path in paths]}], "output": {"folder": str(folder / "out")}, "steps": steps,
             "executor": executor}  # fmt: skip
    path = folder / "settings.json"
    path.write_text(json.dumps(value))
    return path


def command(*arguments, program=None):
    return [sys.executable, str(program or script("curate")), *map(str, arguments)]


def run(*arguments, program=None):
    return subprocess.run(command(*arguments, program=program), capture_output=True, text=True, timeout=600)


def curate(*arguments, program=None):
    """The statistics of a run that must succeed."""
    done = run(*arguments, program=program)
    assert done.returncode == 0, done.stderr + done.stdout
    config = json.loads(Path(arguments[arguments.index("--config") + 1]).read_text())
    output = arguments[arguments.index("--output") + 1] if "--output" in arguments else config["output"]["folder"]
    return json.loads((Path(output) / "statistics.json").read_text())


def refused(monkeypatch, capsys, *arguments):
    """The message of a run that must end with code 2 and one line. It runs in this process, as it ends before it starts others."""
    monkeypatch.setattr(sys, "argv", ["curate.py", *map(str, arguments)])
    code, error = load_script("curate").main(), capsys.readouterr().err
    assert code == 2 and error.count("\n") == 1 and error.startswith("curate: "), (code, error)
    return error


def rows(output, source="."):
    """All documents in a run's output in JSONL, or those of one source."""
    found = []
    for path in sorted(Path(output, "documents", source).rglob("*.jsonl.zst")):
        found += map(orjson.loads, zstandard.ZstdDecompressor().stream_reader(path.read_bytes()).read().splitlines())
    return found


def documents(output):
    """{id: row}, as `rows`."""
    return {row["id"]: row for row in rows(output)}


def files(output):
    """{name: bytes} of a run's documents."""
    folder = Path(output, "documents")
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
