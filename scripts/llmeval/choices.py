"""Multiple choice: the rows that prepare_eval.py takes, scored as lm-eval does."""

from statistics import mean
from typing import Iterator

from llmdata.errors import InputError
from llmdata.eval_rows import (ENDING_DELIMITER, FIELDS, Row, RowOptions, kind_of, prompts_of, question_of,
                               read_rows)  # fmt: skip

from .likelihood import Likelihood, Likely, Scored, instances
from .task import TEXT, Item, Score

ROWS = [name for name in FIELDS if name != "document"]
SUBJECT = "subject: "


class Choices(Scored):
    """Score: whether the right ending is the likeliest (acc); by its characters (acc_norm) and bytes (acc_bytes) beside it.
    Where rows have a subject, as MMLU's, also that of each subject and their mean."""

    name = "choices"
    metric = "acc"
    REQUIRED = ("file",)
    SCHEMA = {
        "file": TEXT,
        "rows": {"enum": ROWS},
        "few_shot": {"type": "integer", "minimum": 0, "default": 0},
        "few_shot_file": TEXT,
        "few_shot_seed": {"type": "integer"},
        "description": {"type": "string", "default": ""},
        "context_field": TEXT,
        "endings_field": TEXT,
        "label_field": TEXT,
    }

    def items(self) -> Iterator[Item]:
        path = self.path(self.settings["file"])
        rows = list(read_rows(path))
        if not rows:
            raise InputError(f"{path}: no rows")
        given = {name: self.settings.get(name) for name in ("context_field", "endings_field", "label_field", "few_shot_seed")}
        options = RowOptions(self.settings.get("rows") or kind_of(rows[0]), few_shot=self.settings["few_shot"],
                             description=self.settings["description"], **given)  # fmt: skip
        if options.kind == "document":
            raise InputError(f'{path}: rows of texts: their kind is "perplexity"')
        answered = [row for row in rows if _has_label(row, options)]
        questions = [question_of(row, options) for row in answered]
        shots = self.path(self.settings["few_shot_file"]) if "few_shot_file" in self.settings else None
        for row, question, prompt in zip(answered, questions, prompts_of(questions, shots, options)):
            endings = tuple(ENDING_DELIMITER + ending for ending in question.endings)
            facts = {"label": question.label, "subject": str(row.fields.get("subject", ""))}
            yield Item(row.where, Likelihood(prompt, endings), facts, own=question.prompt + endings[question.label])
        for row in rows:
            if not _has_label(row, options):
                yield Item(row.where, None, {}, "no right answer in the row")

    def likelihoods(self, asked, pairs):
        return asked.loglikelihood(instances("loglikelihood", pairs), disable_tqdm=True)

    def judge(self, item: Item, answers: list[Likely]) -> Score:
        label, endings = item.row["label"], [ending.removeprefix(ENDING_DELIMITER) for ending in item.request.endings]
        right = {name: float(_likeliest(answers, [measure(ending) for ending in endings]) == label) for name, measure in
                 (("acc", lambda _: 1), ("acc_norm", len), ("acc_bytes", lambda ending: len(ending.encode())))}  # fmt: skip
        value = right.pop("acc")
        return Score(value, parts=right | ({SUBJECT + item.row["subject"]: value} if item.row["subject"] else {}))

    def total(self, scores):
        score, half, measures = super().total(scores)
        subjects = [value for name, value in measures.items() if name.startswith(SUBJECT)]
        return score, half, ({"mean of subjects": mean(subjects)} if subjects else {}) | measures


def _has_label(row: Row, options: RowOptions) -> bool:
    """HellaSwag's and ARC's files of tests, for example, keep their answers secret."""
    names = [options.label_field] if options.label_field else FIELDS[options.kind]["label"]
    return any(row.fields.get(name) not in (None, "") for name in names)


def _likeliest(answers: list[Likely], sizes: list[int]) -> int:
    """The first of the best ones."""
    values = [answer.loglikelihood / size for answer, size in zip(answers, sizes)]
    return values.index(max(values))
