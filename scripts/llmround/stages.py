"""The stages of a round. Each is a folder and the commands that fill it."""

from dataclasses import dataclass
from pathlib import Path

from llmdata.text_file import read_object
from llmstage.stage import Stage as AnyStage
from llmstage.stage import Step

from .settings import OF_POLICY, Options, Programs, Round, Source, Training, as_arguments

TITLES = {"reward_model": "reward model", "sft": "SFT", "dpo": "DPO"}
TASKS = {"reward_model": "reward", "sft": "sft", "dpo": "dpo"}
KINDS = {"reward_model": "comparisons", "sft": "conversations", "dpo": "comparisons"}
# Checkpoints, so that a stage that was killed loses little; and the trainer's default row length, which also holds for preparing
# and validating. A round may set other values.
TRAIN_DEFAULTS: Options = {"save-every": 100, "seq-len": 256}
VALIDATION_DEFAULTS: Options = {"eval-every": 50}
HELD_OUT_DEFAULTS: Options = {"temperature": 0, "max-tokens": 256}
BASE, HELD_OUT, ANSWER = "base", "held_out.jsonl", "answer held-out prompts"  # stage, file, step


@dataclass
class Stage(AnyStage):
    model: Path | None = None  # the model that it makes
    init_from: Path | None = None


def longest_row(train: Options) -> Options:
    """Lets prepare_chat.py leave out rows that the trainer would refuse: a round must not fail at a long answer that was sampled
    hours before."""
    return {"max-tokens": train["seq-len"]}


def is_reward_model(folder: Path) -> bool:
    return read_object(folder / "config.json").get("architectures") == ["LlamaForSequenceClassification"]


class Plan:
    """`stages` are in the order in which they run."""

    def __init__(self, round_: Round, programs: Programs):
        self.round, self.programs, self.stages = round_, programs, []
        self.policy, self.policy_stage = round_.model, None  # the round's newest model so far
        self.reward, self.reward_stage = None, None
        if round_.reward_model is not None:
            self._add_reward_model(round_.reward_model)
        if round_.held_out:
            self._add(self._held_out_of_base())
        if round_.prompts:
            self._add_rejection_sampling()
        for name, training in (("sft", round_.sft), ("dpo", round_.dpo)):
            if training is not None:
                self._add_training(name, training)
        if round_.average:
            self._add_average()

    def folder(self, name: str) -> Path:
        return self.round.output / name

    def find(self, name: str) -> Stage:
        return next(stage for stage in self.stages if stage.name == name)

    def _add(self, stage: Stage) -> None:
        stage.build = [self.round.target, self.round.precision]
        self.stages.append(stage)

    # ---- training

    def _add_reward_model(self, training: Training | Path) -> None:
        if isinstance(training, Path):
            self.reward = training
            return
        stage = self._training("reward_model", training, training.init_from or self.round.model, None)
        self.reward, self.reward_stage = stage.model, stage.name
        self._add(stage)

    def _add_training(self, name: str, training: Training) -> None:
        start, after = (training.init_from, None) if training.init_from else (self.policy, self.policy_stage)
        stage = self._training(name, training, start, after)
        self._result(stage)

    def _result(self, stage: Stage) -> None:
        self.policy, self.policy_stage = stage.model, stage.name
        if self.round.held_out:
            step, after = self._held_out(stage.folder, stage.model)
            stage.steps.append(step)
            stage.inputs += [path for path in self._held_out_inputs() if path not in stage.inputs]
            stage.after += [name for name in after if name not in stage.after]
        self._add(stage)

    def _training(self, name: str, training: Training, start: Path, after: str | None) -> Stage:
        folder, sampled = self.folder(name), self._sampled(name, training)
        sources = training.sources + sampled
        data, run = folder / "data", folder / "run"
        validates = training.prepare.get("val-fraction", 0.05) > 0
        options = {**TRAIN_DEFAULTS, **(VALIDATION_DEFAULTS if validates else {}), **training.train}
        steps = [self._prepare(KINDS[name], sources, start, data, {**longest_row(options), **training.prepare})]
        common = ["--task", TASKS[name], "--init-from", str(start)]
        validation = ["--val-data", str(data / "val_*.bin")] if validates else []
        # there is nothing to validate before DPO (the model is its own reference) or before a reward head is trained
        if validation and (name == "sft" or (name == "reward_model" and is_reward_model(start))):
            steps.append(self._validate(common + validation, folder, options))
        arguments = [*common, "--train-data", str(data / "train_*.bin"), *validation, "--output", str(run), "--resume", "auto",
                     *as_arguments(options)]  # fmt: skip
        program = [*self.round.launch, *self.programs.commands["train"]]
        steps.append(Step("train", program, arguments, run / "checkpoint" / "config.json", trains=True))
        inputs = [source.path for source in training.sources] + ([] if after else [start])
        before = ([after] if after else []) + (["rejection_sampling"] if sampled else [])
        return Stage(name, TITLES[name], folder, steps, inputs, before, run / "checkpoint", start)

    def _sampled(self, name: str, training: Training) -> list[Source]:
        file = {"sft": "best.jsonl", "dpo": "pairs.jsonl"}.get(name)
        return [Source(self.folder("rejection_sampling") / file, training.sampled)] if training.sampled and file else []

    def _prepare(self, kind: str, sources: list[Source], model: Path, data: Path, options: Options) -> Step:
        arguments = [text for source in sources for text in ("--source", str(source.path), repr(source.weight))]
        arguments += ["--kind", kind, "--tokenizer", str(model), "--output", str(data), "--overwrite", *as_arguments(options)]
        return Step("prepare", self.programs.commands["prepare"], arguments, data / "meta.json")

    def _validate(self, arguments: list[str], folder: Path, train: Options) -> Step:
        shape = {name: train[name] for name in ("batch-size", "seq-len", "eval-batches", "threads", "skip-long") if name in train}
        arguments = ["--eval-only", *arguments, *as_arguments(shape)]
        return Step("validate", self.programs.commands["train"], arguments, folder / "before.txt", output=folder / "before.txt")

    # ---- answers

    def _sample(self, name: str, model: Path, prompts: list[Path], output: Path, options: Options) -> Step:
        reward = ["--reward-model", str(self.reward)] if self.reward else []
        arguments = ["--model", str(model), *reward, "--prompts", *map(str, prompts), "--output", str(output),
                     "--target", self.round.target, "--precision", self.round.precision, *as_arguments(options)]  # fmt: skip
        return Step(name, self.programs.commands["sample"], arguments, output)

    def _add_rejection_sampling(self) -> None:
        folder = self.folder("rejection_sampling")
        pairs = {"pairs": str(folder / "pairs.jsonl")}
        step = self._sample("sample", self.policy, self.round.prompts, folder / "best.jsonl", {**pairs, **self.round.sample})
        inputs = [*self.round.prompts, self.policy] + ([] if self.reward_stage else [self.reward])
        self._add(Stage("rejection_sampling", "rejection sampling", folder, [step], inputs,
                        [self.reward_stage] if self.reward_stage else []))  # fmt: skip

    def _held_out(self, folder: Path, model: Path) -> tuple[Step, list[str]]:
        options = {**HELD_OUT_DEFAULTS, **self.round.held_out_options, "samples": 1, "keep-all": True, "keep-cut": True}
        step = self._sample(ANSWER, model, self.round.held_out, folder / HELD_OUT, options)
        return step, [self.reward_stage] if self.reward_stage else []

    def _held_out_inputs(self) -> list[Path]:
        return [*self.round.held_out] + ([self.reward] if self.reward and not self.reward_stage else [])

    def _held_out_of_base(self) -> Stage:
        step, after = self._held_out(self.folder(BASE), self.round.model)
        return Stage(BASE, "held-out prompts before", self.folder(BASE), [step],
                     [self.round.model, *self._held_out_inputs()], after, self.round.model)  # fmt: skip

    # ---- averaging

    def _add_average(self) -> None:
        round_, folder = self.round, self.folder("average")
        models, inputs, after = [], [], []
        for name in round_.average:
            stage = next((s for s in self.stages if s.name == name and name in OF_POLICY), None)
            models.append(stage.model if stage else round_.model if name == "model" else Path(name))
            (after if stage else inputs).append(name if stage else models[-1])
        weights = ["--weights", ",".join(map(repr, round_.average_weights))] if round_.average_weights else []
        arguments = [*map(str, models), "--output", str(folder / "model"), "--overwrite", *weights,
                     *as_arguments(round_.average_options)]  # fmt: skip
        steps = [Step("average", self.programs.commands["average"], arguments, folder / "model" / "config.json")]
        self._result(Stage("average", "averaging", folder, steps, inputs, after, folder / "model"))
