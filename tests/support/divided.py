"""A model whose training is divided among ranks (rank_model.py), against the same training by one."""

import math
import subprocess
import sys
from types import SimpleNamespace

import torch

import llmc
import ranks
from checkout import ROOT
from model import TINY, Model, random_batch
from packed import T, draw_packed, fields_of
from preference import REWARD
from rank_model import save
from waiting import wait_until

WORKER = ROOT / "tests/support" / "rank_model.py"
STEPS, MICRO_BATCHES = 3, 12  # a step's micro-batches: 12 / N of each of N ranks
# Relative L2 distance of weights after 3 steps. AdamW's first steps have the size of the rate whatever the gradient's, so
# an element whose gradient is nearly nothing may go the other way when a sum is taken in another order.
FP32_LIMIT, BF16_LIMIT = 1e-4, 2e-2


def update(step):
    return dict(learning_rate=1e-3, beta1=0.9, beta2=0.95, eps=1e-6, weight_decay=0.1, bias_correction1=1 - 0.9**step,
                bias_correction2=1 - 0.95**step, max_grad_norm=1.0)  # fmt: skip


def job(lib, fields=TINY, zero=1, shards=1, overlap=True, recompute="none"):
    batches = [[random_batch(fields["vocab_size"], 2, 9) for _ in range(MICRO_BATCHES)] for _ in range(STEPS)]
    return dict(precision=lib.precision, fields=fields, B=2, T=9, zero=zero, shards=shards, overlap=overlap, recompute=recompute, poison=None,
                steps=batches, updates=[update(i + 1) for i in range(STEPS)])  # fmt: skip


def comparisons_job(lib, spec, **changes):
    """The same of pairs of answers, with log-probabilities of a reference model that is not far from the first weights."""
    V = TINY["vocab_size"]

    def draw():
        packed = draw_packed(V, 2)
        trained = torch.cat([(packed.targets >= 0).reshape(-1).long(), torch.zeros(1)]).cumsum(0)
        first, last = packed.answers.T
        counts = trained[last] - trained[first] + (packed.targets.reshape(-1)[first] >= 0)
        reference = torch.randn(len(counts)) * 2 - counts * math.log(V)
        names = ("tokens", "targets", "doc_start", "excluded", "answers", "groups")
        return SimpleNamespace(**{name: getattr(packed, name) for name in names}), None if spec.kind == REWARD else reference

    steps = [[draw() for _ in range(MICRO_BATCHES)] for _ in range(STEPS)]
    return job(lib, fields_of(spec)) | dict(T=T, preference=spec, steps=steps) | changes


class Ranks:
    """Of one world, that do jobs one after another: starting them takes longer than most jobs."""

    def __init__(self, precision, count, folder):
        self.folder, self.count, self.done, self.said = folder, count, 0, folder / "ranks.log"
        with self.said.open("w") as said:
            self.process = ranks.start([sys.executable, WORKER, folder, precision], ranks=count,
                                       stdin=subprocess.PIPE, stdout=said, stderr=subprocess.STDOUT)  # fmt: skip

    def do(self, jobs):
        save(jobs, self.folder / f"{self.done}.pt")
        results = [self.folder / f"{rank}_{self.done}.pt" for rank in range(self.count)]
        self.done += 1
        wait_until(lambda: self.process.poll() is not None or all(path.exists() for path in results), f"results in {self.folder}", seconds=600)
        assert self.process.poll() is None, (self.process.returncode, self.said.read_text())
        return list(zip(*(torch.load(path, weights_only=False) for path in results)))


WORLDS = {}  # by precision and number of ranks; they end with this process


def by_ranks(jobs, count, folder):
    """What each rank has at the end of each job: [job][rank]. The jobs have one precision."""
    key = jobs[0]["precision"], count
    if key not in WORLDS:
        WORLDS[key] = Ranks(*key, folder)
    try:
        return WORLDS[key].do(jobs)
    except BaseException:
        ranks.kill(WORLDS.pop(key).process)
        raise


def by_one(lib, what):
    model = Model(lib, what["fields"], what["B"], what["T"], MICRO_BATCHES, what["recompute"], only=what.get("only"),
                  lora=what.get("lora"), preference=what.get("preference"))  # fmt: skip
    lib.llama3_init_weights(model.handle, 7)
    curve, compared = [], []
    for batches, values in zip(what["steps"], what["updates"]):
        model.accumulate(batches)
        model.update(llmc.AdamWStep(**values))
        curve.append(model.result())
        compared.append(model.step_sums())
    return curve, compared, model


def training_arrays(lib, model):
    found = {}
    for i in (i for i, t in enumerate(model.tensors) if t.trained):
        for array in range(3):
            values = torch.empty(model.shape(i), dtype=torch.float32).reshape(-1)
            lib.llama3_get_training_piece(model.handle, array, i, 0, values.numel(), values)
            found[array, i] = values
    return found


def distance(a, b):
    return ((a.double() - b.double()).norm() / b.double().norm().clamp_min(1e-30)).item()


def check_against_one(lib, what, results, shards):
    curve, compared, model = by_one(lib, what)
    limit = FP32_LIMIT if lib.precision == "fp32" else BF16_LIMIT
    for result in results:
        # before the first update values are the same: only the order in which they are summed is another one
        assert ((result["compared"][0] - compared[0]).abs() <= 1e-5 * (compared[0].abs() + MICRO_BATCHES)).all()
        for (loss, norm), (expected_loss, expected_norm) in zip(result["curve"], curve):
            assert abs(loss - expected_loss) <= (1e-5 if lib.precision == "fp32" else 2e-3) * expected_loss
            assert abs(norm - expected_norm) <= (1e-4 if lib.precision == "fp32" else 2e-2) * expected_norm
        for name, values in model.weights().items():
            assert distance(result["weights"][name], values) <= limit, name
    whole = training_arrays(lib, model)
    for first_rank in range(0, len(results), shards):  # each group of shards holds everything once
        for key, expected in whole.items():
            pieces = sorted((r["arrays"][key] for r in results[first_rank : first_rank + shards] if key in r["arrays"]), key=lambda p: p[0])
            values = torch.cat([values for _, values in pieces])
            assert [first for first, _ in pieces] == [sum(v.numel() for _, v in pieces[:i]) for i in range(len(pieces))]
            assert values.numel() == expected.numel()
            assert distance(values, expected) <= (10 * limit if key[0] else limit), key


def same(a, b):
    assert a["curve"] == b["curve"] and torch.equal(a["sums"], b["sums"])
    assert all(torch.equal(a["weights"][name], b["weights"][name]) for name in a["weights"])
