"""Sentences planted in long texts, which prepare_eval.py --needle-lengths makes: found at this length and depth?"""

import hashlib
from typing import Iterator

from llmdata import eval_set, tokenizer

from .asking import Asking, Model
from .client import Refused
from .likelihood import Likelihood, Likely, Scored
from .task import TEXT, Item, Score


class Needle(Scored):
    """Score: whether greedy decoding writes the value, token by token; that by depth, and whether the value is the likeliest of
    those planted, beside it."""

    name = "needle"
    metric = "exact match"
    REQUIRED = ("file",)
    SCHEMA = {"file": TEXT}

    def __init__(self, settings, folder):
        super().__init__(settings, folder)
        self.found, self.made_with = eval_set.read(self.path(settings["file"]), eval_set.NEEDLES)

    def items(self) -> Iterator[Item]:
        for number, item in enumerate(self.found):
            asked = Likelihood(tuple(map(int, item.context)), tuple(tuple(ending.tokens) for ending in item.endings))
            yield Item(f"{self.settings['file']}, item {number}", asked, {"label": item.label, "depth": item.depth})

    def unfit(self, model: Model) -> str:
        path = tokenizer.find(model.folder)
        same = path.suffix == ".json" and hashlib.sha256(path.read_bytes()).digest() == self.made_with
        return "" if same else f"its tokenizer is not that of {self.settings['file']}"

    def ask_all(self, asking: Asking, items: list[Item]) -> Iterator[tuple[int, list[Likely] | Refused]]:
        """A needle must not be cut off: what is too long for the model is not asked."""
        fit, context = [], asking.served.context
        for number, item in enumerate(items):
            tokens = len(item.request.context) + max(map(len, item.request.endings))
            if tokens < context:
                fit.append(number)
            else:
                yield number, Refused(f"{tokens} tokens, expected less than the context of {context}")
        for number, answers in super().ask_all(asking, [items[number] for number in fit]):
            yield fit[number], answers

    def likelihoods(self, asked, pairs):
        return asked._loglikelihood_tokens([(None, list(context), list(ending)) for context, ending in pairs])

    def judge(self, item: Item, answers: list[Likely]) -> Score:
        right = answers[item.row["label"]]
        best = max(answer.loglikelihood for answer in answers)
        depth = f"depth {100 * item.row['depth'] / eval_set.WHOLE_DEPTH:>5g} %"  # in order of depth where sorted
        return Score(float(right.greedy), parts={"acc": float(right.loglikelihood == best), depth: float(right.greedy)})
