"""Recipes for tests: small ones, random ones, and llmc's reader of them."""

import copy
import ctypes
import json
import pathlib
import random

import cstructs
from hostlib import call, library

RECIPES = pathlib.Path(__file__).resolve().parents[2] / "recipes"
Recipe, Stage = map(cstructs.read("recipe/recipe.h").get, ("Recipe", "Stage"))
library.recipe_rate.restype = ctypes.c_double
library.recipe_rate.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64]
library.recipe_close.restype = None
library.recipe_shares.restype = None
library.recipe_longest_row.restype = ctypes.c_int64

SCALING = {"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4,
           "original_max_position_embeddings": 128}  # fmt: skip
BASE = {
    "name": "base", "notes": ["of a test"],
    "sources": {"web": {"train": "web/*.bin", "val": "val/*.bin", "max_epochs": 1.5}, "code": {"train": "code/*.bin"}},
    "learning_rate": [{"shape": "linear", "from": 0, "to": 1e-3, "steps": 10}, {"shape": "cosine", "to": 1e-5}],
    "stages": [
        {"name": "first", "tokens": 4000, "seq_len": 32, "tokens_per_step": 256, "batch_size": 4,
         "mixture": [{"source": "web", "weight": 3, "weight_at_end": 1}, {"source": "code", "weight": 1}],
         "document_mask": False, "rope_theta": 10000, "evaluate": {"every": 5, "tasks": ["needle_*"], "tasks_every": 10}},
        {"name": "long", "steps": 12, "seq_len": 128, "tokens_per_step": 512, "batch_size": 2, "rope_scaling": SCALING,
         "ends_when": {"every": 4, "all": [{"task": "needle_128", "metric": "exact_match", "at_least": 0.5}]}},
        {"name": "anneal", "steps": 6, "learning_rate": [{"shape": "linear", "from": 5e-4, "to": 0}],
         "mixture": [{"source": "code", "weight": 1}], "average": {"last_steps": 4, "every": 2}},
    ],
}  # fmt: skip


class Opened:
    """A recipe that llmc has read, and its stages."""

    def __init__(self, path):
        self.pointer = ctypes.POINTER(Recipe)()
        call("recipe_open", ctypes.byref(self.pointer), str(path).encode())

    def __del__(self):
        library.recipe_close(self.pointer)

    def __getattr__(self, name):
        return getattr(self.pointer.contents, name)

    def settle(self, ranks=1, positions=0):
        call("recipe_settle", self.pointer, ranks, positions)
        return self

    def rate(self, stage, step_in_stage, step, tokens):
        return library.recipe_rate(self.pointer, stage, step_in_stage, step, tokens)

    def shares(self, stage):
        arrays = [(ctypes.c_double * self.num_sources)(*[-1] * self.num_sources) for _ in range(2)]
        library.recipe_shares(self.pointer, stage, *arrays)
        return [list(array) for array in arrays]


def write(folder, recipe, name="recipe.json"):
    path = folder / name
    path.write_text(recipe if isinstance(recipe, str) else json.dumps(recipe, indent=1))
    return path


def opened(folder, recipe=BASE, **settings):
    made = Opened(write(folder, recipe))
    return made.settle(**settings) if settings else made


def changed(*changes):
    """BASE with changes: (path, value); without a value the member goes."""
    recipe = copy.deepcopy(BASE)
    for path, *value in changes:
        at = recipe
        for step in path[:-1]:
            at = at[step]
        if value:
            at[path[-1]] = value[0]
        else:
            del at[path[-1]]
    return recipe


def text_of(path):
    """stages[2].mixture[0].weight of a tuple of steps."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).lstrip(".")


def paths(value, at=()):
    """All paths to values below one."""
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, below in steps:
        yield (*at, step)
        yield from paths(below, (*at, step))


def scattered(value, marked, at=()):
    """The value as JSON with white space at random; the value at the path `marked` has the mark MARK before it."""
    space = lambda: "".join(random.choice(["", " ", "\n", "\t\n"]) for _ in range(2))  # noqa: E731
    mark = "MARK" if at == marked else ""
    if isinstance(value, dict):
        members = (f"{space()}{json.dumps(k)}{space()}:{space()}{scattered(v, marked, (*at, k))}" for k, v in value.items())
        return f"{mark}{{{','.join(members)}{space()}}}{space()}"
    if isinstance(value, list):
        items = (space() + scattered(item, marked, (*at, i)) for i, item in enumerate(value))
        return f"{mark}[{','.join(items)}{space()}]{space()}"
    return mark + json.dumps(value) + space()
