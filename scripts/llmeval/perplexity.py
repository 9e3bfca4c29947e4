"""How well a model predicts documents: lm-eval's perplexities."""

import math
from typing import Iterator

from llmdata.eval_rows import count_words, read_rows

from .likelihood import Likelihood, Likely, Scored, instances
from .statistics import interval
from .task import TEXT, Item, Score, text_field


class Perplexity(Scored):
    """Score: bits for each byte of UTF-8, of all documents together; the perplexities of a byte and of a word beside it. A
    difference between models is that of the bits of the documents, each counted alike."""

    name = "perplexity"
    metric = "bits per byte (less is better)"
    unit = ""
    REQUIRED = ("file",)
    SCHEMA = {"file": TEXT, "text_field": {**TEXT, "default": "text"}}

    def items(self) -> Iterator[Item]:
        for row in read_rows(self.path(self.settings["file"])):
            text = text_field(row.where, row.fields, self.settings["text_field"])
            if not text:
                yield Item(row.where, None, {}, "the text is empty")
                continue
            yield Item(row.where, Likelihood("", (text,)), {"words": count_words(text), "bytes": len(text.encode())}, own=text)

    def likelihoods(self, asked, pairs):
        texts = instances("loglikelihood_rolling", [(text,) for _, text in pairs])
        found = asked.loglikelihood_rolling(texts, disable_tqdm=True)
        return [(value, False) for value in found]

    def judge(self, item: Item, answers: list[Likely]) -> Score:
        (answer,), size = answers, item.row["bytes"]
        return Score(-answer.loglikelihood / size / math.log(2), parts={"loglikelihood": answer.loglikelihood, **item.row})

    def total(self, scores):
        nats, size, words = (sum(score.parts[name] for score in scores) for name in ("loglikelihood", "bytes", "words"))
        half = interval([score.value for score in scores], [score.parts["bytes"] for score in scores])
        measures = {"byte perplexity": math.exp(-nats / size), "word perplexity": _exp(-nats / words)}
        return -nats / size / math.log(2), half, measures


def _exp(value: float) -> float:
    return math.exp(value) if value < 709 else math.inf
