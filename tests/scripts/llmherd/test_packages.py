"""Texts out of Debian packages: a package of the tests' own, which a stand-in of apt-get brings."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from checkout import ROOT

FETCH = ROOT / "scripts/demo/package_files.py"
APT = """#!/bin/sh
[ "$1 $2" = "download small" ] && exec cp {package} .
echo "E: Unable to locate package $2" >&2
exit 100
"""

pytestmark = pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="needs dpkg-deb")


@pytest.fixture
def fetch(tmp_path):
    """Runs the program with PACKAGE... and patterns; the package `small` has a page, a program and two files that are no text."""
    root, files = tmp_path / "small", {"doc/a.html": b"<p>page</p>", "lib/b.py": "x = 'é'\n".encode(), "lib/empty.py": b"\n",
                                       "lib/c.py": b"\xff\xfe", "lib/d.so": b"x"}  # fmt: skip
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    (root / "DEBIAN").mkdir()
    (root / "DEBIAN/control").write_text("Package: small\nVersion: 1\nArchitecture: all\nMaintainer: t <t@t>\nDescription: t\n")
    subprocess.run(["dpkg-deb", "--build", root, tmp_path / "small_1_all.deb"], check=True, capture_output=True)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/apt-get").write_text(APT.format(package=tmp_path / "small_1_all.deb"))
    (tmp_path / "bin/apt-get").chmod(0o755)
    paths = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}

    def run(*packages, files=("*.html", "*.py")):
        command = [sys.executable, FETCH, *packages, "--files", *files, "--output", tmp_path / "out"]
        done = subprocess.run(command, capture_output=True, text=True, env=paths)
        return done.returncode, done.stderr, tmp_path / "out"

    return run


def test_pages_stay_files_and_other_texts_become_rows(fetch):
    code, error, out = fetch("small")
    assert code == 0, error
    rows = [json.loads(line) for line in (out / "documents.jsonl").read_text().splitlines()]
    assert rows == [{"text": "x = 'é'\n", "id": "small/lib/b.py"}]
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()) == [
        "documents.jsonl", "packages.json", "small/doc/a.html"]  # fmt: skip
    assert json.loads((out / "packages.json").read_text()) == {
        "small": {"file": "small_1_all.deb", "pages": 1, "documents": 1, "not UTF-8": 1}}  # fmt: skip


def test_bad_packages_are_one_line(fetch):
    assert fetch("small", "smaller")[:2] == (2, 'package_files: smaller: apt-get download says "E: Unable to locate package '
                                             'smaller"; apt-get update may help\n')  # fmt: skip
    assert fetch("small", files=["*.c"])[:2] == (2, "package_files: small: no file of *.c in it\n")
