"""The settings of a herd: what is refused before anything runs, what a change makes anew, and the presets for GPUs."""

import json
import shutil
import subprocess

import pytest

from checkout import ROOT
from herds import Herd, changed
from llmdata.errors import InputError
from llmherd import needs
from llmherd.checks import check_all
from llmherd.needs import Needs, check_free
from llmherd.settings import read_herd
from llmherd.stages import Plan


@pytest.fixture(scope="module")
def herd(tmp_path_factory):
    return Herd(tmp_path_factory.mktemp("herd"))


@pytest.fixture
def there(herd, monkeypatch):
    monkeypatch.chdir(herd.folder)
    return herd


def read(herd, settings=None, **more):
    return read_herd(herd.folder / herd.write(settings), **more)


def keys(herd, settings=None, **more):
    found = {}
    for stage in Plan(read(herd, settings, **more)).stages:
        found[stage.name] = json.dumps(stage.key({name: str(hash(key)) for name, key in found.items()}), sort_keys=True)
    return found


REFUSED = [
    ("sauces", {}, '"sauces" is not known'),
    ("models.large", {"layers": 2}, 'models.large: expected {"layers", "hidden_size"}, or {"config"}'),
    ("models.large.config", "x.json", "models.large: expected"),
    ("sources.pages.files", ["nowhere/*.html"], "sources.pages.files: nowhere/*.html: no such file or folder"),
    ("sources.pages.val_fraction", 0.7, "sources.pages: val_fraction: found 0.7, expected maximum 0.5"),
    ("sources.notes.documents", None, 'sources.notes: expected {"packages", "files"}'),
    ("sources.pages.packages", [], "packages"),
    ("curate", None, 'sources.pages.curate: is true, and there is no "curate"'),
    ("tokenizer.folder", "nowhere", "tokenizer: expected"),
    ("tokenizer", {"folder": "nowhere"}, "tokenizer.folder: nowhere: no such file"),
    ("recipe.sources", {}, "recipe.sources: the herd sets this member itself"),
    ("scaling.output", "x", "scaling.output: the herd sets this member itself"),
    ("scaling.stage", "middle", 'scaling.stage: expected a stage of the recipe, one of ramp, main, long, annealing, found "middle"'),
    ("recipe.stages.0.sequence", 3, "sequence"),
    ("train.seed", 3, "train.seed: the herd sets this option itself"),
    ("train.save_ever", 3, "train.save_ever: no such option of train_llama3"),
    ("train.threads", True, "train.threads: expected a value, found true"),
    ("tasks.sums.files", [], 'tasks.sums: expected {"files": [...]'),
    ("evaluation.options", {"models": "x"}, "evaluation.options.models: the herd sets this option itself"),
]  # fmt: skip


@pytest.mark.parametrize("place, value, message", REFUSED, ids=[place for place, *_ in REFUSED])
def test_impossible_members_are_refused(there, place, value, message):
    with pytest.raises(InputError) as refused:
        Plan(read(there, changed(there.settings, place, value)))
    assert message in str(refused.value) and "herd.json" in str(refused.value)


# What only a program's own reader knows.
BY_PROGRAMS = [
    ("recipe.stages.1.mixture", [{"source": "news", "weight": 1}], "recipe: ", "news"),
    ("curate.steps.extrakt", {}, "curate: ", '"extrakt" is not known'),
    ("scaling.budgets", [1e8, 2e8], "scaling: ", "expected at least 100"),
    ("post_training.sft.train", {"lr_rate": 1}, "post_training: ", "sft.train.lr_rate: no such option of the program"),
    ("evaluation.tasks.0.kind", "chioces", "evaluation: ", "chioces"),
]


@pytest.mark.parametrize("place, value, section, message", BY_PROGRAMS, ids=[place for place, *_ in BY_PROGRAMS])
def test_all_stages_are_checked_by_their_programs(there, place, value, section, message):
    with pytest.raises(InputError) as refused:
        check_all(read(there, changed(there.settings, place, value)))
    said = str(refused.value)
    assert f"herd.json: {section}" in said and message in said and "/tmp/herd." not in said


def test_a_package_that_apt_does_not_know(there):
    source = {"packages": ["no-such-package-llmc"], "files": ["*.html"]}
    with pytest.raises(InputError) as refused:
        needs.needs_of(Plan(read(there, changed(there.settings, "sources.pages", source | {"curate": True}))))
    assert "packages: no-such-package-llmc: apt-cache says" in str(refused.value)


CHANGES = [
    ("evaluation.tasks.0.few_shot", 1, {"evaluation"}),
    ("post_training.sft.train.lr", 1e-4, {"post_training", "evaluation"}),
    ("models.small.layers", 3, {"herd_small", "evaluation"}),
    ("recipe.stages.3.steps", 9, {"herd_small", "herd_large", "post_training", "evaluation"}),
    ("scaling.budgets", [2e10, 4e10], {"scaling"}),
    ("flops_per_second", 3e10, set()),
    ("curate.executor.workers", 1, set()),
    ("sources.notes.documents", 601, {"raw_notes", "tokenizer", "shards", "items", "scaling", "herd_small", "herd_large",
                                      "post_training", "evaluation", "baseline"}),
]  # fmt: skip


@pytest.mark.parametrize("place, value, renewed", CHANGES, ids=[place for place, *_ in CHANGES])
def test_a_change_renews_what_depends_on_it_and_nothing_else(there, place, value, renewed):
    before, after = keys(there), keys(there, changed(there.settings, place, value))
    assert {name for name in before if before[name] != after[name]} == renewed & set(before)


def test_other_pages_renew_all_that_is_made_of_them(there):
    before, page = keys(there), there.folder / "pages" / "7.html"
    text = page.read_text()
    page.write_text(text.replace("the", "thy"))
    after = keys(there)
    page.write_text(text)
    assert [name for name in before if before[name] == after[name]] == ["raw_arithmetic", "raw_notes"]


def test_too_little_disk_or_memory_is_told_with_the_number(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 3 << 30}))
    monkeypatch.setattr(needs, "free_memory", lambda: 2 << 30)
    assert "free: 2.0 GiB and 3.0 GiB" in check_free("curation", Needs(90, 1 << 30, 3 << 30), tmp_path)
    with pytest.raises(InputError, match="curation: needs 4.0 GiB of disk in .*, and 3.0 GiB are free"):
        check_free("curation", Needs(90, 1 << 30, 4 << 30), tmp_path)
    with pytest.raises(InputError, match="needs 2.5 GiB of memory, and 2.0 GiB are free"):
        check_free("curation", Needs(90, 5 << 29, 1), tmp_path)


OWN = {"web/a.html": "<p>text</p>", "code/a.jsonl": '{"text": "x"}', "math/a.jsonl": '{"text": "x"}', "chat/pairs.jsonl": "{}",
       "chat/prompts.jsonl": "{}", "chat/chats.jsonl": "{}", "questions/choices.jsonl": "{}"}  # fmt: skip


@pytest.mark.parametrize("preset, gpus", [("node", 8), ("cluster", 128)])
def test_the_presets_for_gpus_are_planned_anywhere(herd, tmp_path, preset, gpus):
    """On texts of the user's, which lie where the preset's notes say."""
    for name, text in OWN.items():
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_text(text)
    there = object.__new__(Herd)
    there.folder, there.settings = tmp_path, json.loads((ROOT / "herds" / f"{preset}.json").read_text())
    out = there.run("--dry-run").stdout
    assert not (tmp_path / "runs").exists()
    lines = [line for line in out.splitlines() if line.startswith("# [")]
    largest = next(line for line in lines if list(there.settings["models"])[-1] in line)
    assert " h, " in largest and "GiB of each GPU" in largest and "planned with --zero" in largest
    commands = [line for line in out.splitlines() if not line.startswith("#")]
    launcher = "sbatch --wait " if "slurm" in there.settings else f"mpirun -np {gpus} "
    assert sum(line.startswith(launcher) for line in commands) == len(there.settings["models"])


def test_herd_sh_knows_the_presets(tmp_path):
    done = subprocess.run([ROOT / "scripts/herd.sh", "desktop"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("herd: 'desktop': expected a file of settings or one of: herds/")
    assert all(f"herds/{name}.json" in done.stderr for name in ("laptop", "node", "cluster"))
