"""The n-gram baseline of a herd: its losses are those of modified Kneser-Ney smoothing as it is defined, token by token."""

import json
import math
import random
import subprocess
import sys
from collections import Counter, defaultdict

import numpy as np
import pytest
from checkout import ROOT
from seeds import seed_of

from llmdata.shards import ShardWriter

BEGIN, END, VOCABULARY = 30, 31, 32
PROGRAM = ROOT / "scripts" / "demo" / "ngram_baseline.py"


class KneserNey:
    """Modified Kneser-Ney (Chen and Goodman), interpolated; the lowest order with a uniform distribution, as KenLM has it."""

    def __init__(self, order, documents):
        self.order = order
        padded = [[BEGIN, *document, END] for document in documents]
        raw = [Counter(tuple(line[i : i + n]) for line in padded for i in range(len(line) - n + 1)) for n in range(1, order + 1)]
        self.counts = [*map(self.continued, raw, raw[1:]), raw[-1]]
        del self.counts[0][(BEGIN,)]
        self.types = len(self.counts[0]) + 1  # and one for all that is unknown
        self.discounts = [self.discounts_of(counts) for counts in self.counts]
        self.followed = [defaultdict(list) for _ in range(order)]
        for counts, followed in zip(self.counts, self.followed):
            for gram, count in counts.items():
                followed[gram[:-1]].append(count)

    @staticmethod
    def continued(counts, longer):
        """In how many contexts a sequence stands; what begins a document has only one, and keeps its count."""
        before = Counter(gram[1:] for gram in longer)
        return {gram: count if gram[0] == BEGIN else before[gram] for gram, count in counts.items()}

    @staticmethod
    def discounts_of(counts):
        n = [sum(count == k for count in counts.values()) for k in range(5)]
        if all(n[1:4]):
            y = n[1] / (n[1] + 2 * n[2])
            found = [k - (k + 1) * y * n[k + 1] / n[k] for k in (1, 2, 3)]
            if all(0 <= d <= k for k, d in enumerate(found, 1)):
                return [0, *found]
        return [0, 0.5, 1, 1.5]

    def probability(self, gram):
        if not gram:
            return 1 / self.types
        counts, followed, discounts = (of[len(gram) - 1] for of in (self.counts, self.followed, self.discounts))
        if gram[:-1] not in followed:
            return self.probability(gram[1:])
        total, count = sum(followed[gram[:-1]]), counts.get(gram, 0)
        kept = sum(discounts[min(c, 3)] for c in followed[gram[:-1]]) / total
        return (count - discounts[min(count, 3)]) / total + kept * self.probability(gram[1:])

    def nats(self, document):
        line = [BEGIN, *document, END]
        return -sum(math.log(self.probability(tuple(line[max(0, i + 1 - self.order) : i + 1]))) for i in range(1, len(line)))


def write(folder, split, documents):
    folder.mkdir(parents=True, exist_ok=True)
    writer = ShardWriter(folder, split, VOCABULARY, BEGIN, END, bytes(32), 1 << 20)
    for document in documents:
        writer.write(np.array([BEGIN, *document, END]))
    writer.finish()


def measure(shards, order, output):
    command = [sys.executable, PROGRAM, "--shards", shards, "--order", str(order), "--output", output]
    return subprocess.run(command, capture_output=True, text=True)


def draw(rng, count):
    """Documents with habits: which token is likely depends on the one before."""
    documents = []
    for _ in range(count):
        document = [rng.randrange(12)]
        while len(document) < rng.randrange(1, 14):
            document.append((document[-1] * 5 + rng.choice((1, 1, 1, 2, 3, 7))) % 20)
        documents.append(document)
    return documents


@pytest.mark.parametrize("order", [2, 3, 5])
@pytest.mark.parametrize("few", [True, False])  # nothing stands three times, so that discounts cannot be estimated
def test_losses_are_those_of_the_definition(tmp_path, order, few):
    rng = random.Random(seed_of(f"kneser-ney {order} {few}"))
    train = {"texts": [[1, 2, 3, 4], [1, 2, 5]], "sums": [[6, 7]]} if few else {"texts": draw(rng, 400), "sums": draw(rng, 400)}
    val = {"texts": [*draw(rng, 20), [25, 0, 1]], "sums": draw(rng, 10)}  # 25 stands in no text
    for name in train:
        write(tmp_path / "shards" / name, "train", train[name])
        write(tmp_path / "shards" / name, "val", val[name])
    done = measure(tmp_path / "shards", order, tmp_path / "made" / "ngram.json")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "made" / "ngram.json").read_text())
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["ngram.json"]
    assert found["order"] == order and found["tokens"] == sum(len(d) + 2 for documents in train.values() for d in documents)
    model = KneserNey(order, train["sums"] + train["texts"])
    for name, documents in val.items():
        tokens = sum(len(document) + 2 for document in documents)
        assert found["sources"][name]["tokens"] == tokens
        assert found["sources"][name]["unseen"] == sum((token,) not in model.counts[0] for document in documents for token in document)
        assert found["sources"][name]["loss"] == pytest.approx(sum(map(model.nats, documents)) / tokens, rel=1e-5)


def test_bad_input_is_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    for shards, order, said in (("missing", 5, "no such folder"), ("empty", 5, "expected a folder for each source"), ("empty", 7, "--order 7")):
        done = measure(tmp_path / shards, order, tmp_path / "ngram.json")
        assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "ngram.json").exists()
