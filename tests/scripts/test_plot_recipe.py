"""scripts/plot.py --recipe: a recipe's timeline, by the library that trains it."""

import subprocess
import sys

import pytest
import recipes
from checkout import script
from pictures import has_colour
from recipes import BASE, RECIPES

PLOT = script("plot")
from llmplot.style import COLOURS  # noqa: E402
from llmplot.timeline import Scale, binary, read_timeline, thin, three_digits  # noqa: E402


def plot(*arguments, folder=None):
    return subprocess.run([sys.executable, PLOT, *map(str, arguments)], capture_output=True, text=True, timeout=600, cwd=folder)


def test_timeline(tmp_path):
    timeline = read_timeline(recipes.write(tmp_path, BASE))
    assert timeline["name"] == "base" and timeline["sources"] == ["web", "code"]
    first, long, anneal = timeline["stages"]
    assert (first["name"], first["steps"], first["tokens"], first["seq_len"], first["batch_size"]) == ("first", 16, 4096, 32, 4)
    assert (anneal["first_step"], anneal["first_token"], anneal["tokens_per_step"]) == (28, 10240, 512)
    assert [stage["may_end_early"] for stage in timeline["stages"]] == [False, True, False]
    assert first["shares"] == [[0.75, 0.25], [0.5, 0.5]] and anneal["shares"] == [[0, 1], [0, 1]]
    # every update of so short stages, the peak among them
    assert [step for step, _ in first["rates"]] == list(range(16)) and first["rates"][9] == [9, 1e-3]
    assert anneal["rates"][-1] == [5, 0] and anneal["rates"][0][1] == pytest.approx(5e-4 * 5 / 6)


def test_where_the_rate_bends(tmp_path):
    """In a long stage the update of the peak is among the points, though few of the others are."""
    recipe = {**BASE, "stages": [{**BASE["stages"][0], "tokens": 256 * 10_007}]}
    (stage,) = read_timeline(recipes.write(tmp_path, recipe))["stages"]
    steps = [step for step, _ in stage["rates"]]
    assert [9, 1e-3] in stage["rates"] and len(steps) < 70 and steps == sorted(set(steps)) and (steps[0], steps[-1]) == (0, 10_006)


def test_widths():
    stages = lambda *tokens: [{"tokens": n, "first_token": sum(tokens[:i])} for i, n in enumerate(tokens)]  # noqa: E731
    same = Scale(stages(100, 300))
    assert same.exact and same.ends == [0, 0.25, 1] and same.at(1, 0.5) == 0.625 and same.tokens == [0, 100, 400]
    paper = Scale(stages(252e6, 2.87e12, 12.7e12, 40e6))
    widths = [end - start for start, end in zip(paper.ends, paper.ends[1:])]
    assert not paper.exact and min(widths) > 0.05 and widths[2] == max(widths) and paper.ends[-1] == pytest.approx(1)


def test_labels():
    assert [binary(value) for value in (2**22, 98304, 3 << 19, 1500, 256)] == ["4Mi", "96Ki", "1.5Mi", "1500", "256"]
    assert three_digits(255_852_544) == "256M" and three_digits(0) == "0" and three_digits(16.3981e12) == "16.4T"
    assert thin([1, 1.5, 2, 3, 4, 100], 1.6) == [100, 4, 2, 1]


def write(tmp_path, recipe):
    return recipes.write(tmp_path, recipe)


@pytest.mark.parametrize("path", [None, *sorted(RECIPES.glob("[!r]*.json"))], ids=lambda path: path.stem if path else "base")
def test_picture(tmp_path, path):
    result = plot("--recipe", path or write(tmp_path, BASE), "--output", tmp_path / "out.png")
    assert result.returncode == 0 and result.stdout == f"{tmp_path / 'out.png'}\n", result.stderr
    assert has_colour(tmp_path / "out.png", COLOURS[0]) and has_colour(tmp_path / "out.png", COLOURS[1])


def test_where_it_is_written(tmp_path):
    write(tmp_path, BASE)
    result = plot("--recipe", "recipe.json", folder=tmp_path)
    assert result.returncode == 0 and (tmp_path / "recipe.png").is_file(), result.stderr


@pytest.mark.parametrize("arguments", [[], ["runs/a", "--recipe", "recipe.json"]])
def test_runs_or_a_recipe(arguments):
    result = plot(*arguments)
    assert result.returncode == 2 and "expected runs, or --recipe FILE, and not both" in result.stderr


def test_bad_recipe(tmp_path):
    path = write(tmp_path, recipes.changed((("stages", 0, "seq_len"), -1)))
    result = plot("--recipe", path, "--output", tmp_path / "x.png")
    assert result.returncode == 2 and result.stderr.count("\n") == 1 and "stages[0].seq_len: expected" in result.stderr
    assert f"{path}:" in result.stderr and not (tmp_path / "x.png").exists()
