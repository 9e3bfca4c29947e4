"""Classifiers that data/train_quality.py trained: quality, code and reasoning, and the topics of the mixture."""

from pathlib import Path

from datatrove.data import Document

from llmdata.errors import InputError

from .classifier import Classifier, check_settings
from .counts import hash_of, measure
from .step import Context, Filter, Verdict

_MODEL = {"type": "string", "minLength": 1, "description": "file NAME.bin that train_quality.py wrote"}


class _Classified(Filter):
    def __init__(self, settings: dict, context: Context):
        super().__init__(settings, context)
        self.path = Path(settings["model"])
        self.labels = check_settings(self.path)["labels"]  # a bad model is refused before a run begins

    def start(self, rank: int) -> None:
        self.classifier = Classifier(self.path)

    def finish(self) -> None:
        del self.classifier

    def check_label(self, label: str) -> None:
        if label not in self.labels:
            raise InputError(f"steps.{self.name}: label {label} is none of the model's, expected one of {', '.join(self.labels)}")


class Quality(_Classified):
    """Drops documents that look less like the good examples than like the crowd. Notes the score under its name."""

    name = "quality"
    SCHEMA = {"properties": {
        "model": _MODEL,
        "label": {"type": "string", "default": "good", "description": "label whose probability is the score"},
        "least": {"type": ["number", "null"], "minimum": 0, "maximum": 1, "default": 0.5,
                  "description": "documents with a lower score are dropped; null: only note the score"},
    }, "required": ["model"]}  # fmt: skip

    def __init__(self, settings: dict, context: Context):
        super().__init__(settings, context)
        self.check_label(settings["label"])

    def judge(self, document: Document) -> Verdict:
        score = self.classifier.scores(document.text).get(self.settings["label"], 0.0)
        document.metadata[self.name] = round(score, 4)
        self.counts.counters[f"score/{min(9, int(10 * score)) / 10:.1f}"] += 1
        least = self.settings["least"]
        return Verdict(least is None or score >= least, score, least, "unlike the good examples")


class Reasoning(Quality):
    """The same for code and reasoning. By default nothing is dropped: the score serves to choose a source's share."""

    name = "reasoning"
    SCHEMA = {**Quality.SCHEMA, "properties": {**Quality.SCHEMA["properties"],
                                               "least": {**Quality.SCHEMA["properties"]["least"], "default": None}}}  # fmt: skip


class Topic(_Classified):
    """Notes the most probable topic, and keeps a share of those that a mixture would have too much of."""

    name = "topic"
    SCHEMA = {"properties": {
        "model": _MODEL,
        "keep": {"type": "object", "additionalProperties": {"type": "number", "minimum": 0, "maximum": 1}, "default": {},
                 "description": "share of the documents of a topic that stays, drawn at random; of all others, all"},
    }, "required": ["model"]}  # fmt: skip

    def __init__(self, settings: dict, context: Context):
        super().__init__(settings, context)
        for label in settings["keep"]:
            self.check_label(label)

    def judge(self, document: Document) -> Verdict:
        scores = self.classifier.scores(document.text)
        topic = document.metadata[self.name] = max(scores, key=scores.__getitem__, default="")
        share = self.settings["keep"].get(topic, 1.0)
        draw = hash_of(f"{self.context.seed} topic {document.id}") / 2**48
        if keep := draw < share:
            self.counts.counters[f"topic/{topic}"] += 1
            self.counts.counters[f"topic tokens/{topic}"] += measure(document)[1]
        return Verdict(keep, draw, share, f"too much of {topic}")
