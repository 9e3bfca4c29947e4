"""A herd of the smallest size: its settings, pages for it, and scripts/herd.py on them."""

import copy
import json
import random
import subprocess
import sys

import llmc
import trainrun
from checkout import ROOT, script
from seeds import seed_of

SETTINGS = json.loads((ROOT / "tests/scripts/llmherd/smallest.json").read_text())
WORDS = "the of and to in is that for it as with was on are by this be at from or an have not which you one we all can has".split()
PRECISION = "fp32" if "fp32" in llmc.build_folders() else "bf16"


def changed(value, place, new):
    """A copy of the settings with another value at "a.b.c"; None: without that member."""
    value = copy.deepcopy(value)
    *way, last = place.split(".")
    inner = value
    for name in way:
        inner = inner[int(name) if isinstance(inner, list) else name]
    if new is None:
        del inner[last]
    else:
        inner[int(last) if isinstance(inner, list) else last] = new
    return value


class Herd:
    """A folder with pages/ and herd.json; the herd's output is out/ unless the settings are changed."""

    def __init__(self, folder):
        self.folder, draw = folder, random.Random(seed_of("herd's pages"))
        (folder / "pages").mkdir()
        for number in range(60):
            texts = (" ".join(draw.choices(WORDS, k=draw.randint(30, 60))).capitalize() for _ in range(5))
            body = "".join(f"<p>{text}.</p>" for text in texts)
            page = f"<html><head><title>Page {number}</title></head><body><main>{body}</main></body></html>"
            (folder / "pages" / f"{number}.html").write_text(page)
        target = "cpu" if trainrun.ON_CPU else "cuda"
        self.settings = SETTINGS | {"precision": PRECISION, "target": target}

    def write(self, settings=None, name="herd.json"):
        (self.folder / name).write_text(json.dumps(settings or self.settings))
        return name

    def command(self, *options, settings=None):
        return [sys.executable, str(script("herd")), self.write(settings), *map(str, options)]

    def start(self, *options):
        """A process in the test's folder, whose standard error is said.txt."""
        with open(self.folder / "said.txt", "w") as said:
            trainrun.STARTED.append(subprocess.Popen(self.command(*options), cwd=self.folder, stdout=said, stderr=said))
        return trainrun.STARTED[-1]

    def run(self, *options, settings=None, code=0):
        """code: the expected one; None: any."""
        command = self.command(*options, settings=settings)
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=600)
        print(done.stdout, done.stderr)
        assert code is None or done.returncode == code, done.stderr[-2000:]
        return done
