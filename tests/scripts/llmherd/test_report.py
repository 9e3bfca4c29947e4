"""The report of a herd: its numbers and verdicts, at any moment of a run, and as a page that needs no other file."""

import argparse
import json

import browser
import pytest
from herdfolder import NAMES, SIZES, Herd, law
from htmlpages import HOSTILE, Structure
from matplotlib.figure import Figure
from suites import gsm8k, only, write

import trainrun
from llmeval import report as evaluation
from llmeval.run import Result
from llmeval.task import Score
from llmherd.output import Output
from llmherd.report import PARTS, Report
from llmscale.results import forecast
from llmscale.resample import SEED

LOSSES = {"small": [4.0, 3.5, 3.4, 3.3], "medium": [3.9, 3.2, 3.1, 3.0], "large": [3.8, 3.1, 3.0, 2.9]}
FOUND = [0.0, 0.1, 0.9, 1.0]


@pytest.fixture
def herd(tmp_path):
    made = Herd(tmp_path / "herd")
    made.data()
    made.baseline(docs=3.6, sums=2.5)
    for name, losses in LOSSES.items():
        made.train(name, losses, FOUND, 2.85)
    return made


@pytest.fixture
def undrawn(monkeypatch):
    """For tests of what stands beside the pictures, which take most of the time."""
    monkeypatch.setattr(Figure, "savefig", lambda figure, file, **how: file.write("<svg/>"))


def written(herd):
    Report(herd.folder, herd.stages).write()
    return json.loads((herd.folder / "report.json").read_text()), (herd.folder / "report.html").read_text()


def holds(numbers, words):
    (one,) = (goal for goal in numbers["goals"] if words in goal["goal"])
    return one["holds"]


def whole(page):
    """Closed elements, no script, nothing from elsewhere."""
    structure = Structure(page)
    sources = [value for name, value in structure.attributes if name == "src"]
    return not structure.wrong and "script" not in structure.seen and all(value.startswith("data:") for value in sources)


def test_nothing_is_made_yet(tmp_path):
    herd = Herd(tmp_path)
    numbers, page = written(herd)
    assert all(numbers[part.name] is None for part in PARTS) and all(goal["holds"] is None for goal in numbers["goals"])
    assert page.count("Not yet; this makes it:") == len(PARTS) and page.count(">scripts/x.py --file &#x27;a b&#x27;") == len(PARTS)
    assert f"0 of {len(NAMES)} stages are done" in page and whole(page)


def test_what_a_herd_has_not_is_not_waited_for(tmp_path):
    herd = Herd(tmp_path)
    herd.stages = [stage for stage in herd.stages if stage.name != "baseline"]
    page = written(herd)[1]
    assert page.count("No part of this herd") == 1 and page.count("Not yet; this makes it:") == len(PARTS) - 1


def test_folder_without_settings(tmp_path):
    herd = Herd(tmp_path)
    (tmp_path / "settings.json").unlink()
    (tmp_path / "files/recipe.json").write_text('{"stages": [')
    assert whole(written(herd)[1])


def test_numbers(herd):
    numbers, page = written(herd)
    assert numbers["curation"]["left"] == {"read": [8, 80, 800], "language": [5, 50, 500]}
    assert numbers["sources"]["docs"]["train_tokens"] == 9000 and numbers["sources"]["docs"]["read"]["tokens"] == (20 * 128 + 40 * 256) // 2
    assert numbers["herd"]["large"]["main"]["accuracy"] == {"sums": 0.1}
    assert [numbers["herd"]["small"][stage]["loss"] for stage in ("short", "main", "long", "annealing")] == LOSSES["small"]
    assert numbers["herd"]["large"]["annealing"]["averaged"] == 2.85
    assert numbers["needles"]["large"] == {stage: {"32": share, "64": share} for stage, share in zip(("short", "main", "long", "annealing"), FOUND)}
    assert numbers["annealing"]["large"]["before"] == {"docs": 3.5, "sums": 2.5} and numbers["annealing"]["large"]["loss"] == [3.0, 2.9]
    assert "docs 75 %, sums 25 %" in page and "3.4000" not in page and whole(page)


def test_a_log_that_repeats_steps_says_the_same(herd, undrawn):
    """As after a kill: the steps since the last checkpoint come twice."""
    before = written(herd)[0] | {"times": None}
    path = herd.folder / "herd/large/log.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:40] + lines[25:]))
    assert written(herd)[0] | {"times": None} == before


def test_goals_hold(herd, undrawn):
    numbers, page = written(herd)
    assert holds(numbers, "below the n-gram") and holds(numbers, "larger a model") and holds(numbers, "Needles")
    assert holds(numbers, "chooses clearly more") and "sums 0.0% to 100.0%" in page


def test_goals_fail(herd, undrawn):
    herd.baseline(docs=3.6, sums=2.4)  # the large model's is 2.4
    herd.train("large", [3.8, 3.2, 3.0, 2.9], [0.0, 0.6, 0.9, 1.0])  # main: as the medium one's; needles are found before
    numbers, page = written(herd)
    assert [holds(numbers, words) for words in ("below the n-gram", "larger a model", "Needles")] == [False, False, False]
    assert "not at the end of main" in page
    herd.train("large", LOSSES["large"], [0.5, 0.5, 0.5, 0.55])
    assert holds(written(herd)[0], "chooses clearly more") is False


def test_a_recipe_of_one_stage(herd, undrawn):
    recipe = json.loads((herd.folder / "files/recipe.json").read_text())
    herd.write("files/recipe.json", recipe | {"stages": recipe["stages"][:1]})
    for name, losses in LOSSES.items():
        herd.train(name, losses[:1], FOUND[:1])
    assert holds(written(herd)[0], "chooses clearly more") is None


def test_goals_wait_for_the_end(herd, undrawn):
    herd.train("large", LOSSES["large"][:3], FOUND[:3])
    numbers, page = written(herd)
    assert [holds(numbers, words) for words in ("below the n-gram", "larger a model")] == [None, None] and holds(numbers, "Needles")
    assert list(numbers["herd"]["large"]) == ["short", "main", "long"] and list(numbers["annealing"]) == ["small", "medium"]


def test_forecast_beside_the_result(herd, tmp_path):
    herd.sweep(trainrun.Workplace(tmp_path))
    herd.write("scaling/fit.json", {"seed": SEED, "parametric": {}})
    numbers, page = written(herd)
    assert numbers["scaling"]["trials"] == [] and "No run tests a forecast" in page and "Best number of tokens" in page
    assert holds(numbers, "interval of the forecast") is None
    forecast(argparse.Namespace(file=herd.folder / "files/scaling.json", output=herd.folder / "scaling", seed=SEED, json=True, task=None,
                                chance=0.0, budget=[2.4e11]))  # fmt: skip
    run = Output(herd.folder).largest()
    expected = law(run.parts.count("matrices+head"), run.ends["main"].tokens)
    for above, inside in ((0.0, True), (0.3, False)):
        equally_weighted = expected + above + 0.25  # of the sources; by their held-out tokens it is 0.25 less
        herd.train("large", [3.8, equally_weighted, 3.0, 2.9], FOUND)
        numbers, page = written(herd)
        (trial,) = numbers["scaling"]["trials"]
        assert trial["name"] == "large" and trial["loss"] == pytest.approx(expected + above) and trial["inside"] == inside
        assert holds(numbers, "interval of the forecast") == inside and "Loss over FLOPs" in page and whole(page)


def results(folder, right):
    """What evaluate.py writes: right[model] of 200 questions are answered, by a size as a text to go on with, else drawn in a chat."""
    name = write(folder / "q.jsonl", gsm8k(200))
    found = []
    for chat in (False, True):
        task = only(folder, kind="generate", file=name, chat=chat, **({"temperature": 1, "samples": 3} if chat else {}))
        task.name = "in a chat" if chat else "as a text"
        found += [Result(task, model, {item.key: Score(float(n < count) if chat == (model not in SIZES) else None)
                                       for n, item in enumerate(task.items)}) for model, count in right.items()]  # fmt: skip
    return evaluation.collect(list(right), [found[0].task, found[-1].task], found)


@pytest.mark.parametrize("after, better", [(150, True), (55, False)])
def test_benchmarks(herd, undrawn, tmp_path, after, better):
    herd.write("evaluation/results.json", results(tmp_path, {"small": 2, "large": 180, "sft": 50, "dpo": after}))
    numbers, page = written(herd)
    assert numbers["benchmarks"]["in a chat"]["dpo"]["score"] == after / 200 and holds(numbers, "draws more right answers") == better
    assert numbers["safety"] is None and f"25.0% to {after / 2:.1f}%" in page and whole(page)


def test_safety(herd, undrawn):
    def task(name, measure, rates):
        return {"name": name, "kind": "safety", "metric": measure, "unit": "%", "items": 50, "settings": {"measure": measure}, "models": {
            model: {"score": rate, "interval": 0.1, "items": 50, "unit": "%", "parts": {}} for model, rate in rates.items()}}  # fmt: skip

    tasks = [task("attacks", "violations", {"sft": 0.5, "dpo": 0.1}), task("borderline", "refusals", {"sft": 0.02, "dpo": None})]
    herd.write("evaluation/results.json", {"models": ["sft", "dpo"], "tasks": tasks, "judges": []})
    assert "down and left is better" not in written(herd)[1]
    settings = json.loads((herd.folder / "settings.json").read_text())
    herd.write("settings.json", settings | {"safety": {"violations": "attacks", "false_refusals": "borderline"}})
    numbers, page = written(herd)
    assert numbers["safety"]["trade_off"] == {"sft": [2, 50]}  # false refusals, violations
    assert numbers["safety"]["tasks"]["attacks"]["dpo"]["score"] == 0.1 and numbers["benchmarks"] is None
    assert "down and left is better" in page and whole(page)


def test_what_it_took(herd, undrawn):
    for name in NAMES[:-1]:
        herd.note(name)
    herd.note(NAMES[-1], steps={}, fault=f"evaluate.py ended with code 1\n{HOSTILE}")
    numbers, page = written(herd)
    times = numbers["times"]
    assert times["all"] == {"seconds": 720, "processor_seconds": 1080, "memory_bytes": 1 << 30, "disk_bytes": 6 << 30}
    assert times["energy"] == {"unit": "core", "hours": 0.3, "watts": 10, "kwh": pytest.approx(0.003)} and "estimated and not measured" in page
    assert times["tokens_per_second"] == {name: 1030.5 for name in SIZES}
    assert "11 of 12 stages are done" in page and "evaluation failed" in page and "ended with code 1" in page and whole(page)


def test_half_a_file_keeps_nothing_else_from_being_shown(herd, undrawn):
    herd.write("evaluation/results.json", {"models": ["a"], "tasks": [{"name": "x"}]})
    numbers, page = written(herd)
    assert page.count("Cannot be shown") == 2 and numbers["herd"] and whole(page)


def test_one_report_is_written_after_every_stage(tmp_path, undrawn):
    herd = Herd(tmp_path)
    report = Report(tmp_path, herd.stages)
    seen = []
    for name, made in (("small", "herd_small"), ("medium", "herd_medium"), ("large", "herd_large"), ("large", "herd_large")):
        herd.train(name, LOSSES[name] if len(seen) < 3 else [9.0] * 4, FOUND)
        herd.note(made, seconds=len(seen))
        report.write()
        seen.append(json.loads((tmp_path / "report.json").read_text())["herd"])
    assert [list(herd) for herd in seen] == [["small"], ["small", "medium"], list(SIZES), list(SIZES)]
    assert seen[2]["large"]["annealing"]["loss"] == 2.9 and seen[3]["large"]["annealing"]["loss"] == 9


@browser.is_there
def test_fits_a_screen(herd, tmp_path):
    herd.write("evaluation/results.json", results(tmp_path, {"small": 2, "large": 50, "dpo": 90}))
    herd.note("herd_large", fault="w" * 300)
    written(herd)
    browser.check_page(herd.folder / "report.html")


def test_hostile_names(herd, undrawn):
    language = HOSTILE.replace("\ud800", "")  # it stands in report.json too
    herd.write("settings.json", json.loads((herd.folder / "settings.json").read_text()) | {"name": HOSTILE})
    herd.write("curated/statistics.json", {"order": ["language"], "steps": {"language": {
        "total": {"in": [1, 1, 1], "out": [1, 1, 1]}, "by": {"language": {language: [1] * 6}}}}})  # fmt: skip
    page = written(herd)[1]
    assert whole(page) and "\u202e" not in page
