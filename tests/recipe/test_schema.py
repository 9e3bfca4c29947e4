"""recipes/recipe.schema.json and llmc's reader: both accept the recipes that are shipped, and what the schema refuses, llmc does."""

import copy
import json
import random

import jsonschema
import pytest
import recipes
from hostlib import Failure
from recipes import BASE, RECIPES, Opened, write

SCHEMA = json.loads((RECIPES / "recipe.schema.json").read_text())
SHIPPED = sorted(path for path in RECIPES.glob("*.json") if path.name != "recipe.schema.json")
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
VALUES = [None, True, 0, 1, -1, 0.5, 7, 1e-3, 1e12, 1e15, 1e16, 1e31, 2**20, 2**20 + 1, "", "x", "linear", "cosine", "constant", "llama3",
          [], {}, [1], ["x"], {"x": 1}, [{}], {"source": "web", "weight": 1}, {"shape": "constant", "from": 0}]  # fmt: skip
# what llmc asks beyond the schema: names that fit together, sums, lengths of a list's pieces
BEYOND = ("expected one of ", "expected another name", "expected each source once", "as in the first piece", "tokens or steps: expected it",
          "expected less than high_freq_factor", "expected a weight > 0", "expected a weight_at_end > 0")  # fmt: skip


def test_the_schema_is_one():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped(path):
    recipe = json.loads(path.read_text())
    assert list(VALIDATOR.iter_errors(recipe)) == []
    opened = Opened(path).settle()
    assert opened.num_stages == len(recipe["stages"]) and opened.name.decode() == recipe["name"]


PIECE = ("learning_rate", 0)
WEIGHT = ("stages", 0, "mixture", 1)


@pytest.mark.parametrize(
    "path, value",
    [
        (PIECE, {"shape": "constant", "from": 1, "to": 1, "steps": 5}),
        (PIECE, {"shape": "linear", "from": 1, "steps": 5}),
        (PIECE, {"shape": "linear", "to": 1, "steps": 5}),
        (PIECE, {"shape": "linear", "from": 0, "to": 1, "steps": 5, "tokens": 5}),
        (WEIGHT, {"source": "code", "weight": 0}),
        (WEIGHT, {"source": "code", "weight": 0, "weight_at_end": 0}),
        (("stages", 1, "evaluate"), {"tasks": ["x"]}),
        (("stages", 1, "evaluate"), {"tasks_every": 5}),
        (("stages", 1, "tokens"), 100),
        (("stages", 1, "ends_when", "all", 0, "at_least"), -1e31),
        (("stages", 1, "rope_scaling"), {"rope_type": "llama3"}),
        (("sources", ""), {"train": "x"}),
    ],
)  # fmt: skip
def test_both_refuse(tmp_path, path, value):
    recipe = recipes.changed((path, value))
    assert not VALIDATOR.is_valid(recipe)
    with pytest.raises(Failure):
        Opened(write(tmp_path, recipe))


@pytest.mark.parametrize(
    "path, value",
    [
        (PIECE, {"shape": "constant", "from": 1, "steps": 5}),
        (WEIGHT, {"source": "code", "weight": 0, "weight_at_end": 0.1}),
        (("stages", 1, "evaluate"), None),
        (("stages", 1, "evaluate"), {}),
        (("stages", 1, "ends_when", "all", 0, "at_least"), -1e30),
        (("stages", 1, "seq_len"), 2**20),
        (("notes",), []),
    ],
)
def test_both_accept(tmp_path, path, value):
    recipe = recipes.changed((path, value))
    assert VALIDATOR.is_valid(recipe)
    Opened(write(tmp_path, recipe))


def mutated(recipe):
    """One to three random changes of it."""
    recipe = copy.deepcopy(recipe)
    for _ in range(random.choice([1, 1, 1, 2, 3])):
        *path, last = random.choice(list(recipes.paths(recipe)))
        at = recipe
        for step in path:
            at = at[step]
        match random.randrange(5):
            case 0:
                del at[last]
            case 1 | 2:
                at[last] = copy.deepcopy(random.choice(VALUES))
            case 3 if isinstance(at, list):
                at.insert(random.randrange(len(at) + 1), copy.deepcopy(at[last]))
            case 3 | 4 if isinstance(at, dict):
                at[random.choice(["x", "steps", "tokens", "to", "weight_at_end", "every"])] = copy.deepcopy(random.choice(VALUES))
        if not recipe:
            break
    return recipe


def test_mutations(tmp_path):
    bases = [BASE, *(json.loads(path.read_text()) for path in SHIPPED)]
    refused = accepted = 0
    while refused < 300:
        recipe = mutated(random.choice(bases))
        right = VALIDATOR.is_valid(recipe)
        path = write(tmp_path, recipe)
        try:
            Opened(path)
        except Failure as failure:
            assert failure.code == 2, failure.message
            assert not right or any(words in failure.message for words in BEYOND), failure.message
        else:
            assert right, next(VALIDATOR.iter_errors(recipe)).message
        refused += not right
        accepted += right
    assert accepted > 10
