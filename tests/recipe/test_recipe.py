"""Recipes: what is read, what a stage takes from the one before, lengths, and messages by path and line."""

import ctypes
import json
import random

import pytest
import recipes
from hostlib import Failure, expect_refusal, library
from recipes import BASE, SCALING, changed, opened, write

LINEAR, COSINE, CONSTANT = range(3)


def test_what_is_read(tmp_path):
    recipe = opened(tmp_path, ranks=2, positions=64)
    web, code = recipe.sources[:2]
    assert (recipe.name, recipe.num_sources, recipe.num_stages) == (b"base", 2, 3)
    assert (web.name, web.train, web.val, web.max_epochs) == (b"web", b"web/*.bin", b"val/*.bin", 1.5)
    assert (code.name, code.val, code.max_epochs) == (b"code", None, 0)
    first, long, anneal = recipe.stages[:3]
    # 4000 tokens are 15.6 steps of 256
    assert (first.name, first.steps, first.tokens, first.first_step, first.first_token) == (b"first", 16, 4096, 0, 0)
    assert (long.steps, long.tokens, long.first_step, long.first_token) == (12, 6144, 16, 4096)
    assert (anneal.steps, anneal.first_step, anneal.first_token) == (6, 28, 10240)
    assert (recipe.total_steps, recipe.total_tokens) == (34, 13312)
    assert [stage.grad_accum for stage in (first, long, anneal)] == [1, 1, 1]
    assert [stage.document_mask for stage in (first, long, anneal)] == [False] * 3
    assert (first.eval_every, first.num_tasks, first.tasks[0], first.tasks_every) == (5, 1, b"needle_*", 10)
    assert (long.check_every, long.num_conditions) == (4, 1)
    condition = long.conditions[0]
    assert (condition.task, condition.metric, condition.at_least) == (b"needle_128", b"exact_match", 0.5)
    assert (anneal.average_last_steps, anneal.average_every, anneal.num_conditions) == (4, 2, 0)
    assert library.recipe_longest_row(recipe.pointer) == 128 and library.recipe_block(recipe.pointer) == 128


def test_what_a_stage_takes_over(tmp_path):
    recipe = opened(tmp_path)  # which keeps the memory
    first, long, anneal = recipe.stages[:3]
    for name in ("seq_len", "batch_size", "tokens_per_step", "rope_theta", "rope_factor", "has_rope_scaling"):
        assert getattr(anneal, name) == getattr(long, name) != 0, name
    assert (long.rope_theta, long.rope_factor, long.rope_original_max_position) == (10000, 8, 128)
    assert not first.has_rope_scaling
    # the weights with which the stage before ended, in a mixture that no longer changes
    assert [(w.source, w.weight, w.weight_at_end) for w in first.mixture[:2]] == [(0, 3, 1), (1, 1, 1)]
    assert [(w.source, w.weight, w.weight_at_end) for w in long.mixture[:2]] == [(0, 1, 1), (1, 1, 1)]
    assert [(w.source, w.weight) for w in anneal.mixture[: anneal.num_weights]] == [(1, 1)]
    assert long.eval_every == 5 and long.tasks[0] == b"needle_*"  # whole members
    assert (first.rate.count, long.rate.count, anneal.rate.count) == (0, 0, 1)


def test_what_a_stage_does_not_take_over(tmp_path):
    """A learning rate of its own and conditions that end it: those that follow have the run's, and none."""
    more = [*BASE["stages"], {"name": "more", "steps": 3}]
    conditions = BASE["stages"][1]["ends_when"]
    recipe = opened(tmp_path, {**BASE, "stages": [more[0], more[1], {**more[2], "ends_when": conditions}, more[3]]})
    anneal, last = recipe.stages[2:4]
    assert (anneal.rate.count, last.rate.count) == (1, 0)
    assert (anneal.num_conditions, last.num_conditions, last.check_every) == (1, 0, 0)
    assert (last.tokens, last.steps, last.average_last_steps) == (0, 3, 4)


def test_null_switches_off(tmp_path):
    recipe = changed((("stages", 2, "rope_scaling"), None), (("stages", 2, "evaluate"), None),
                     (("stages", 2, "average"), None))  # fmt: skip
    recipe = opened(tmp_path, recipe)
    anneal = recipe.stages[2]
    assert anneal.has_rope_scaling and (anneal.rope_type, anneal.rope_factor) == (0, 0)
    assert (anneal.eval_every, anneal.num_tasks, anneal.tasks_every) == (0, 0, 0)
    assert (anneal.average_last_steps, anneal.average_every) == (0, 0)


def test_a_source_that_faded_out_is_not_taken_over(tmp_path):
    recipe = changed((("stages", 0, "mixture", 0, "weight_at_end"), 0))
    recipe = opened(tmp_path, recipe)
    long = recipe.stages[1]
    assert [(w.source, w.weight) for w in long.mixture[: long.num_weights]] == [(1, 1)]


def test_shares(tmp_path):
    recipe = opened(tmp_path)
    assert recipe.shares(0) == [[0.75, 0.25], [0.5, 0.5]]
    assert recipe.shares(2) == [[0, 1], [0, 1]]


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 8])
def test_steps_must_divide(tmp_path, ranks):
    """Micro-batches of 128 and 256 tokens: steps of 256 and 512 tokens divide among 1 and 2 ranks, and no more."""
    if ranks <= 2:
        assert opened(tmp_path, ranks=ranks).stages[0].grad_accum == 2 // ranks
        return
    path = write(tmp_path, BASE)
    line = path.read_text().split('"tokens_per_step"')[0].count("\n") + 1
    recipe = recipes.Opened(path)
    expect_refusal(2, [f"recipe.json:{line}: stages[0].tokens_per_step: expected a multiple of {128 * ranks}: batch_size 4",
                       "seq_len 32", f"{ranks} ranks", "found 256"], "recipe_settle", recipe.pointer, ranks, 0)  # fmt: skip


def test_all_stages_must_divide(tmp_path):
    """Also one that takes its tokens_per_step from another: the message then has its own line."""
    recipe = opened(tmp_path, changed((("stages", 2, "batch_size"), 3)))
    expect_refusal(2, ["stages[2].tokens_per_step: expected a multiple of 384", "found 512"], "recipe_settle", recipe.pointer, 1, 0)


def test_rows_longer_than_the_model_allows(tmp_path):
    recipe = opened(tmp_path, changed((("stages", 1, "rope_scaling"),)))
    expect_refusal(2, ["stages[1].seq_len: expected at most 64, the model's max_position_embeddings", "found 128"],
                   "recipe_settle", recipe.pointer, 1, 64)  # fmt: skip
    recipe.settle(positions=128)
    recipe.settle(positions=0)  # not known
    opened(tmp_path, positions=64)  # scaled
    not_scaled = opened(tmp_path, changed((("stages", 1, "rope_scaling"), None)))
    expect_refusal(2, ["stages[1].seq_len"], "recipe_settle", not_scaled.pointer, 1, 64)


def test_average_longer_than_its_stage(tmp_path):
    recipe = opened(tmp_path, changed((("stages", 2, "average"), {"last_steps": 7})))
    expect_refusal(2, ["stages[2].average", "at most the stage's 6 steps", "found 7"], "recipe_settle", recipe.pointer, 1, 0)


def test_lengths_with_too_large_a_common_multiple(tmp_path):
    lengths = [1009, 1013, 1019]
    stages = [{**BASE["stages"][0], "name": f"s{n}", "seq_len": n, "tokens_per_step": 4 * n, "steps": 1} for n in lengths]
    for stage in stages:
        del stage["tokens"]
    assert library.recipe_block(opened(tmp_path, {**BASE, "stages": stages[:2]}, ranks=1).pointer) == 1009 * 1013
    recipe = opened(tmp_path, {**BASE, "stages": [*stages, {**stages[0], "name": "x", "seq_len": 1021, "tokens_per_step": 4084}]})
    expect_refusal(2, ["stages[3].seq_len", "least common multiple", "found 1021"], "recipe_settle", recipe.pointer, 1, 0)


PIECE = ("learning_rate", 0)
MIX = ("stages", 0, "mixture")
BAD = [  # path, its new value, what the message says of it
    (("stages", 0, "mixture", 0, "weight"), -1, "expected > 0, found -1"),
    (("stages", 0, "mixture", 1, "weight"), 0, "expected > 0, or 0 beside a weight_at_end > 0, found 0"),
    ((*MIX, 0, "weight"), "much", 'found "much"'),
    ((*MIX, 0, "source"), "wed", 'expected one of web, code, found "wed"'),
    ((*MIX, 1, "source"), "web", 'expected each source once, found "web"'),
    (MIX, [], "expected a list of 1 to 64, found []"),
    (MIX, [{"source": "web", "weight": 1, "weight_at_end": 0}], "expected a weight_at_end > 0"),
    (("stages", 0, "tokens"), 0, "expected a whole number from 1 to 1000000000000000, found 0"),
    (("stages", 0, "tokens"), 1.5, "found 1.5"),
    (("stages", 0, "steps"), 5, "expected none, as tokens says the length, found 5"),
    (("stages", 0, "seq_len"), 2**21, "1048576, found 2097152"),
    (("stages", 0, "batch_size"), -4, "found -4"),
    (("stages", 0, "document_mask"), "on", 'expected true or false, found "on"'),
    (("stages", 0, "rope_theta"), 0, "found 0"),
    (("stages", 1, "name"), "first", 'expected another name than the stages before it have, found "first"'),
    (("stages", 1, "name"), "", 'expected a text, found ""'),
    (("stages", 1, "rope_scaling", "rope_type"), "yarn", 'expected "llama3", or null in place of the object, found "yarn"'),
    (("stages", 1, "rope_scaling", "low_freq_factor"), 4, "expected less than high_freq_factor, found 4"),
    (("stages", 1, "ends_when", "every"), 0, "found 0"),
    (("stages", 1, "ends_when", "all"), [], "found []"),
    (("stages", 1, "ends_when", "all", 0, "at_least"), None, "found null"),
    (("stages", 2, "average", "last_steps"), "4", 'found "4"'),
    (("stages", 2, "average", "every"), 0, "found 0"),
    (("stages",), {}, "expected a list of 1 to 256, found {}"),
    (("sources",), {}, "expected an object with 1 to 64 named sources, found {}"),
    (("sources", "web"), "web/*.bin", "expected an object"),
    (("sources", "web", "max_epochs"), 0, "expected > 0, found 0"),
    (("sources", "web", "train"), 3, "expected a text, found 3"),
    ((*PIECE, "shape"), "exponential", 'expected linear, cosine or constant, found "exponential"'),
    ((*PIECE, "from"), -1e-3, "found -0.001"),
    ((*PIECE, "tokens"), 1000, None),  # beside steps: the message names the other one
    (("learning_rate",), [], "expected a list of 1 to 64, found []"),
    (("notes",), "text", "expected a list of texts"),
    (("notes", 0), 1, "expected a text, found 1"),
    (("name",), 7, "expected a text, found 7"),
]


@pytest.mark.parametrize("path, value, words", BAD, ids=lambda x: recipes.text_of(x) if isinstance(x, tuple) else None)
def test_bad_value(tmp_path, path, value, words):
    recipe = changed((path, value))
    if words is None:
        path, words = (*path[:-1], "steps"), "expected none, as tokens says the length, found 10"
    marked = recipes.scattered(recipe, path)
    before, after = marked.split("MARK")
    target = write(tmp_path, before + after)
    line = before.count("\n") + 1
    expect_refusal(2, [f"{target}:{line}: {recipes.text_of(path)}: ", words], "recipe_open", ctypes.byref(ctypes.c_void_p()), str(target).encode())


@pytest.mark.parametrize(
    "path, words",
    [
        (("name",), ["name: expected it, found nothing"]),
        (("sources",), ["sources: expected it"]),
        (("sources", "code", "train"), ["sources.code.train: expected it"]),
        (("stages",), ["stages: expected it"]),
        (("learning_rate",), ["stages[0].learning_rate: expected it"]),
        (("learning_rate", 0, "from"), ["learning_rate[0].from: expected it"]),
        (("learning_rate", 0, "steps"), ["learning_rate[0].tokens or steps: expected it"]),
        (("learning_rate", 1, "to"), ["learning_rate[1].to: expected it"]),
        (("stages", 0, "tokens"), ["stages[0].tokens or steps: expected it"]),
        (("stages", 1, "steps"), ["stages[1].tokens or steps: expected it"]),
        (("stages", 0, "name"), ["stages[0].name: expected it"]),
        (("stages", 0, "seq_len"), ["stages[0].seq_len: expected it"]),
        (("stages", 0, "batch_size"), ["stages[0].batch_size: expected it"]),
        (("stages", 0, "tokens_per_step"), ["stages[0].tokens_per_step: expected it"]),
        (("stages", 0, "mixture"), ["stages[0].mixture: expected it"]),
        (("stages", 0, "mixture", 0, "weight"), ["stages[0].mixture[0].weight: expected it"]),
        (("stages", 0, "evaluate", "tasks"), ["stages[0].evaluate.tasks: expected it"]),
        (("stages", 0, "evaluate", "tasks_every"), ["stages[0].evaluate.tasks_every: expected it"]),
        (("stages", 1, "rope_scaling", "factor"), ["stages[1].rope_scaling.factor: expected it"]),
        (("stages", 2, "average", "last_steps"), ["stages[2].average.last_steps: expected it"]),
        (("stages", 1, "ends_when", "every"), ["stages[1].ends_when.every: expected it"]),
        (("stages", 1, "ends_when", "all", 0, "metric"), ["stages[1].ends_when.all[0].metric: expected it"]),
    ],
)  # fmt: skip
def test_missing(tmp_path, path, words):
    with pytest.raises(Failure) as failure:
        opened(tmp_path, changed((path,)))
    assert failure.value.code == 2 and all(word in failure.value.message for word in words), failure.value.message


def test_an_unknown_member_anywhere(tmp_path):
    """In every object of the recipe, but for the sources, whose names are free."""
    objects = [()] + [path for path in recipes.paths(BASE) if path != ("sources",) and isinstance(_at(path), dict)]
    assert len(objects) > 12
    for path in objects:
        recipe = changed(((*path, "wieght"), 1))
        before, after = recipes.scattered(recipe, (*path, "wieght")).split("MARK")
        target = write(tmp_path, before + after)
        expect_refusal(2, [f"{target}:{before.count(chr(10)) + 1}: {recipes.text_of((*path, 'wieght'))}: expected one of", '"wieght"'],
                       "recipe_open", ctypes.byref(ctypes.c_void_p()), str(target).encode())  # fmt: skip


def _at(path):
    value = BASE
    for step in path:
        value = value[step]
    return value


def test_a_value_of_another_kind_anywhere(tmp_path):
    """Wherever an object stands that nothing expects, path and line are those of the value, however the text is laid out."""
    for path in recipes.paths(BASE):
        recipe = changed((path, {"[": "x\n{\"y\":,", "]": [[], {}, ["},"]]}))
        before, after = recipes.scattered(recipe, path).split("MARK")
        target = write(tmp_path, before + after)
        with pytest.raises(Failure) as failure:
            recipes.Opened(target)
        where, text = failure.value.message.removeprefix(f"{target}:").split(": ", 1)
        assert text.startswith(recipes.text_of(path)), failure.value.message
        if text.startswith(recipes.text_of(path) + ": "):
            assert int(where) == before.count("\n") + 1, failure.value.message


def test_lines_of_any_json(tmp_path):
    """json_place against a writer that notes where it writes each value, with strings that look like structure."""
    library.json_place.restype = ctypes.c_int
    library.cJSON_Parse.restype = ctypes.c_void_p
    library.cJSON_Parse.argtypes = [ctypes.c_char_p]
    library.cJSON_Delete.argtypes = [ctypes.c_void_p]
    for name in ("cJSON_GetObjectItemCaseSensitive", "cJSON_GetArrayItem"):
        getattr(library, name).restype = ctypes.c_void_p
    texts = ["", "a", "{", "]", "[,", ":", '"', "\\", '\\"', "\n", "x:y,z", "é\u2028"]

    def value(depth):
        kind = random.randrange(6 if depth else 4)
        if kind < 4:
            return [random.choice(texts), random.random(), None, True][kind]
        size = random.randrange(4)
        return [value(depth - 1) for _ in range(size)] if kind == 4 else {random.choice(texts) + str(i): value(depth - 1) for i in range(size)}

    looked_at = 0
    while looked_at < 300:
        root = {"root": value(4), "more": value(3)}
        for path in recipes.paths(root):
            before, after = recipes.scattered(root, path).split("MARK")
            text = (before + after).encode()
            tree = node = library.cJSON_Parse(text)
            assert tree
            for step in path:
                if isinstance(step, int):
                    node = library.cJSON_GetArrayItem(ctypes.c_void_p(node), step)
                else:
                    node = library.cJSON_GetObjectItemCaseSensitive(ctypes.c_void_p(node), step.encode())
            where = ctypes.create_string_buffer(b"\xff" * 511, 512)
            line = library.json_place(ctypes.c_void_p(tree), ctypes.c_void_p(node), text, where, 512)
            library.cJSON_Delete(tree)
            assert line == before.count("\n") + 1, (text, path)
            assert where.value.decode() == recipes.text_of(path), (text, path)
            looked_at += 1


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "not JSON"),
        ("[]", "expected a JSON object"),
        ('{"name": "x"', "not JSON"),
        ('{"name":\n "x",\n\n "stages" []}', "not JSON at byte 26, in line 4"),
        ('{"name": "x", "name": "y"}', ":1: name: expected it once"),
        ("{" * 100, "nested deeper"),
        (json.dumps(BASE).replace('"code": {', '"web": {'), "sources.web: expected it once"),
        (json.dumps(BASE) + "x", "not JSON"),
    ],
)
def test_bad_text(tmp_path, text, words):
    with pytest.raises(Failure) as failure:
        opened(tmp_path, text)
    assert failure.value.code == 2 and words in failure.value.message, failure.value.message


def test_no_file(tmp_path):
    expect_refusal(2, ["none.json"], "recipe_open", ctypes.byref(ctypes.c_void_p()), str(tmp_path / "none.json").encode())


# ---- what changed


def differences(tmp_path, was, now, other_ranks=False, capacity=1000):
    library.cJSON_Parse.restype = ctypes.c_void_p
    tree = ctypes.c_void_p(library.cJSON_Parse(json.dumps(was).encode()))
    recipe = opened(tmp_path, now)
    text = ctypes.create_string_buffer(b"\xff" * (capacity - 1), capacity)
    count = library.recipe_compare(tree, recipe.pointer, other_ranks, text, ctypes.c_size_t(capacity))
    library.cJSON_Delete(tree)
    return count, text.value.decode()


def test_no_difference(tmp_path):
    assert differences(tmp_path, BASE, BASE) == (0, "")
    passed_over = changed((("name",), "x"), (("notes",), []), (("stages", 0, "name"), "y"), (("stages", 0, "evaluate"), None),
                          (("sources", "web", "val"),), (("sources", "web", "train"), "moved/*.bin"))  # fmt: skip
    assert differences(tmp_path, BASE, passed_over) == (0, "")


def test_differences(tmp_path):
    now = changed((("stages", 1, "steps"), 20), (("stages", 0, "mixture", 0, "weight"), 2), (("stages", 2, "average"),),
                  (("sources", "web", "max_epochs"),), (("learning_rate", 0, "to"), 0.002))  # fmt: skip
    count, text = differences(tmp_path, BASE, now)
    assert count == 5
    assert set(text.split("; ")) == {
        "stages[1].steps: 12 -> 20", "stages[0].mixture[0].weight: 3 -> 2",
        'stages[2].average: {"last_steps":4,"every":2} -> nothing', "sources.web.max_epochs: 1.5 -> nothing",
        "learning_rate[0].to: 0.001 -> 0.002",
    }  # fmt: skip


def test_a_stage_more(tmp_path):
    now = changed((("stages",), [*BASE["stages"], {"name": "more", "steps": 1}]))
    assert differences(tmp_path, BASE, now) == (1, 'stages[3]: nothing -> {"name":"more","steps":1}')


def test_micro_batches_on_other_ranks(tmp_path):
    now = changed((("stages", 0, "batch_size"), 8))
    assert differences(tmp_path, BASE, now) == (1, "stages[0].batch_size: 4 -> 8")
    assert differences(tmp_path, BASE, now, other_ranks=True) == (0, "")


def test_long_differences_are_cut(tmp_path):
    now = changed(*[(("stages", i, "document_mask"), "yes" == "no") for i in (1, 2)], (("stages", 0, "rope_theta"), 7))
    whole = differences(tmp_path, BASE, now)
    for capacity in range(1, 120, 7):
        count, text = differences(tmp_path, BASE, now, capacity=capacity)
        assert count == 3 and text == whole[1][: capacity - 1]
