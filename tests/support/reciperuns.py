"""A very small run of a recipe (llmc/recipe/recipe.h): sources of random tokens, in which every window is told by its content, and
stages of every kind."""

import json
import random
from ctypes import POINTER, byref, c_bool, c_int64, c_void_p, cast

import numpy as np

import cstructs
from badsteps import Stepper
from evaluation import file_bytes
from hostlib import Batch
from trainrun import BOS, EOS, VOCAB, Workplace, read_log

RunShape = cstructs.read("model/run_shape.h")["RunShape"]
SOURCES = {"web": [1500, 1100], "code": [700]}  # tokens of the shards: both are read more than once
STEPS_OF = dict(short=6, wide=5, long=4, checked=6, anneal=5)
ENDS = dict(short=6, wide=11, long=15, checked=17, anneal=22)  # "checked" ends at its first check


def tokens_of(rng, count):
    """Documents of random tokens; none is as long as two windows."""
    tokens = rng.integers(0, 256, count)
    tokens[0] = BOS
    for at in np.cumsum(rng.integers(8, 60, count)):
        if 0 < at < count:
            tokens[at - 1 : at + 1] = EOS, BOS
    return tokens


def stages(at_least=0.0):
    return [
        {"name": "short", "steps": 6, "seq_len": 16, "tokens_per_step": 128, "batch_size": 4,
         "mixture": [{"source": "web", "weight": 1}], "evaluate": {"every": 3}},
        {"name": "wide", "tokens": 1280, "tokens_per_step": 256,
         "mixture": [{"source": "web", "weight": 0.8, "weight_at_end": 0.2}, {"source": "code", "weight": 0.2, "weight_at_end": 0.8}]},
        {"name": "long", "steps": 4, "seq_len": 64, "batch_size": 2, "document_mask": False, "rope_theta": 50000,
         "rope_scaling": {"rope_type": "llama3", "factor": 4, "low_freq_factor": 1, "high_freq_factor": 4,
                          "original_max_position_embeddings": 16}},
        {"name": "checked", "steps": 6, "batch_size": 1, "document_mask": True, "evaluate": {"every": 4, "tasks": ["oth*"], "tasks_every": 8},
         "ends_when": {"every": 2, "all": [{"task": "quiz", "metric": "acc", "at_least": at_least}]}},
        {"name": "anneal", "steps": 5, "evaluate": {"every": 2}, "average": {"last_steps": 4, "every": 2},
         "learning_rate": [{"shape": "linear", "from": 1e-3, "to": 0}]},
    ]  # fmt: skip


RATES = [{"shape": "linear", "from": 0, "to": 3e-3, "tokens": 512}, {"shape": "cosine", "from": 3e-3, "to": 3e-4, "tokens": 4096}]


class RecipeWork(Workplace):
    """`recipe` is the file's content; write_recipe() writes it anew."""

    def __init__(self, folder, **more):
        super().__init__(folder)
        self.seed = random.getrandbits(32)
        print("seed of the sources", self.seed)
        self.rng = np.random.default_rng(self.seed)
        self.tokens = {}
        for name, counts in SOURCES.items():
            self.tokens[name] = [tokens_of(self.rng, count) for count in counts]
            for i, tokens in enumerate(self.tokens[name]):
                self.write(f"{name}_{i}.bin", tokens)
            self.write(f"val_{name}.bin", tokens_of(self.rng, 600))
        self.write_evaluation("quiz")
        self.write_evaluation("other")
        self.recipe = {"name": "test", "sources": {n: self.source(n) for n in SOURCES}, "learning_rate": RATES, "stages": stages()}
        self.recipe.update(more)
        self.write_recipe()

    def source(self, name, **more):
        return {"train": str(self.data / f"{name}_*.bin"), "val": str(self.data / f"val_{name}.bin"), **more}

    def write_recipe(self, **changes):
        self.recipe.update(changes)
        self.path = self.folder / "recipe.json"
        self.path.write_text(json.dumps(self.recipe, indent=1))

    def write_evaluation(self, name):
        def ending():
            return self.rng.integers(0, 256, 3).tolist(), 3, 3

        items = [(self.rng.integers(0, 256, 4).tolist(), [ending(), ending()], i % 2) for i in range(5)]
        (self.data / f"{name}.eval").write_bytes(file_bytes(items, vocab=VOCAB - 2, sha=self.sha))

    def arguments(self, **changes):
        given = dict.fromkeys("train_data steps batch_size seq_len warmup_steps lr".split())
        given.update(recipe=self.path, eval_tasks=self.data / "*.eval", eval_batches=2, seed=7)
        return super().arguments(**{**given, **changes})

    def run(self, *more, precision="fp32", **changes):
        return super().run(*more, precision=precision, **changes)

    def checkpoint(self, step, output=None):
        return (output or self.output) / f"checkpoints/step_{step:08d}"

    def state(self, step, output=None):
        return json.loads((self.checkpoint(step, output) / "trainer/state.json").read_text())


class RecipeStepper(Stepper):
    """Taken step by step. step() returns its rows: T tokens and the last target, -1 where that is ignored."""

    def __init__(self, lib, work, done=0, **changes):
        super().__init__(lib, work, **changes)
        self.done = done

    def rows(self):
        shape = cast(self.lib.llama3_shape(self.model.handle), POINTER(RunShape)).contents
        B, T, found = shape.B, shape.T, []
        for i in range(shape.micro_batches):
            batch = cast(self.lib.llama3_batch(self.model.handle, i), POINTER(Batch)).contents
            tokens, targets = (np.ctypeslib.as_array(array, (B * T,)).reshape(B, T) for array in (batch.tokens, batch.targets))
            found += [np.append(row, last) for row, last in zip(tokens, targets[:, -1])]
        return found

    def follow(self):
        self.check(self.lib.stages_follow(self.trainer, byref(self.error)))

    def train(self):
        self.check(self.lib.c.read_batches(self.trainer, byref(self.error)))
        rows = self.rows()
        self.check(self.lib.c.train_step(self.trainer, byref(self.error)))
        self.check(self.lib.observe_step(self.trainer, byref(self.error)))
        self.done += 1
        return rows

    def step(self):
        self.follow()
        return self.train()

    def rest(self):
        """The rows of each step to the run's end."""
        self.lib.c.run_done.argtypes = [c_void_p, c_int64]  # a Trainer begins with its Run
        self.lib.c.run_done.restype = c_bool
        found = []
        while not self.lib.c.run_done(self.trainer, self.done):
            found.append(self.step())
        self.close()
        return found


CLOCK = ("tokens_per_second", "comm_seconds", "exposed_seconds")


def lines(work, kind, output=None):
    """The log's lines that have such a member, without what depends on the clock."""
    return [{k: v for k, v in line.items() if k not in CLOCK} for line in read_log((output or work.output) / "log.jsonl") if kind in line]


def weights(folder):
    """What a run ends with, bit for bit: the model, master weights and moments, averaged weights."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted((folder / "checkpoint/").rglob("*.safetensors"))}
