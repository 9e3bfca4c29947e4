"""Suites of evaluation tasks, judged without a server, and scripts/evaluate.py on them."""

import json
import random
import subprocess
import sys

from checkout import script
from llmeval.client import Answer
from llmeval.suite import read_suite
from serving import ON_CPU, PRECISION


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path.name


def suite(folder, *tasks):
    path = folder / "suite.json"
    path.write_text(json.dumps({"tasks": list(tasks)}))
    return path


def only(folder, **settings):
    (task,) = read_suite(suite(folder, {"name": "t", **settings}))
    return task


def judged(task, *texts, item=0):
    return task.kind.judge(task.items[item], [Answer(text, "stop") for text in texts])


def gsm8k(n):
    return [{"question": f"What is {a} + {b}?", "answer": f"{a} and {b} make {a + b}.\n#### {a + b:,}"}
            for a, b in ((random.randrange(2000), random.randrange(2000)) for _ in range(n))]  # fmt: skip


def evaluate(place, output, *options, models=("parrot", "random", "base"), suite="suite.json", wait=True):
    names = [f"{name}={place / name}" for name in models]
    command = [sys.executable, script("evaluate"), "--models", *names, "--suite", place / suite, "--output", output,
               "--at-once", 4, "--context", 256, "--precision", PRECISION, "--target", "cpu" if ON_CPU else "cuda",
               *options]  # fmt: skip
    process = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if not wait:
        return process
    out, err = process.communicate(timeout=600)
    return process.returncode, out, err
