"""Instructions whose obedience a program can check: IFEval's rows, judged by lm-eval's copy of IFEval's checks."""

import functools
from importlib import resources
from statistics import mean
from typing import Iterator

from llmdata import records
from llmdata.errors import InputError

from .client import Answer, Request
from .task import TEXT, Item, Kind, Score, sampling, sampling_schema, text_field

MEASURES = {"prompts, strict": "prompt_level_strict_acc", "prompts, loose": "prompt_level_loose_acc",
            "instructions, strict": "inst_level_strict_acc", "instructions, loose": "inst_level_loose_acc"}  # fmt: skip


@functools.cache
def _lm_eval():
    """lm-eval's modules (registry, utils). Its checks need nltk's sentences, which it would fetch from the network."""
    try:
        import nltk

        nltk.data.path.append(str(resources.files("llama_index") / "core/_static/nltk_cache"))
        nltk.data.find("tokenizers/punkt_tab")
        from lm_eval.tasks.ifeval import instructions_registry, utils
    except (ModuleNotFoundError, LookupError) as error:
        name = getattr(error, "name", None) or "nltk's punkt_tab"
        raise InputError(f"{name}: not installed: scripts/setup.sh eval") from None
    return instructions_registry.INSTRUCTION_DICT, utils


class Instructions(Kind):
    """Score: whether all instructions of a prompt are followed to the letter. Beside it the loose measure, which forgives
    asterisks and a first or last line too many, and both as shares of the instructions."""

    name = "instructions"
    metric = "prompts, strict"
    REQUIRED = ("file",)
    SCHEMA = {"file": TEXT, "chat": {"type": "boolean", "default": True}, "system": TEXT, **sampling_schema(1280)}

    def __init__(self, settings, folder):
        super().__init__(settings, folder)
        self.chats = settings["chat"]
        self.known, self.checks = _lm_eval()

    def items(self) -> Iterator[Item]:
        for where, row, _ in records.read_objects(self.path(self.settings["file"])):
            prompt = text_field(where, row, "prompt")
            names, arguments = row.get("instruction_id_list"), row.get("kwargs")
            if not names:
                yield Item(where, None, {}, "no instructions in the row")
                continue
            facts = {"key": 0, "prompt": prompt, "instruction_id_list": names, "kwargs": arguments}
            self._check(where, facts)
            yield Item(where, self._request(prompt), facts, own=prompt)

    def _check(self, where: str, facts: dict) -> None:
        """Errors: InputError of a row that the checks cannot judge."""
        names, arguments = facts["instruction_id_list"], facts["kwargs"]
        both = isinstance(names, list) and isinstance(arguments, list) and len(names) == len(arguments)
        if not both or not all(isinstance(each, dict) for each in arguments):
            raise InputError(f'{where}: expected "instruction_id_list" and "kwargs", an object for each instruction')
        unknown = [name for name in names if name not in self.known]
        if unknown:
            raise InputError(f'{where}: "instruction_id_list": {unknown[0]} is none of IFEval\'s {len(self.known)}: '
                             f"{', '.join(self.known)}")  # fmt: skip
        try:
            self._judge(facts, "an answer")
        except Exception as error:  # noqa: BLE001 - of any kind: the checks trust their arguments
            raise InputError(f'{where}: "kwargs": {type(error).__name__}: {error}') from None

    def _request(self, prompt: str) -> Request:
        chosen = sampling(self.settings)
        if not self.chats:
            return Request(prompt=prompt, **chosen)
        system = [{"role": "system", "content": self.settings["system"]}] if "system" in self.settings else []
        return Request(messages=(*system, {"role": "user", "content": prompt}), **chosen)

    def _judge(self, facts: dict, text: str) -> dict:
        return self.checks.process_results(facts, [text])

    def judge(self, item: Item, answers: list[Answer]) -> Score:
        found = [self._judge(item.row, answer.text) for answer in answers]
        parts = {name: mean(mean(_list(each[measure])) for each in found) for name, measure in MEASURES.items()}
        return Score(float(parts.pop(self.metric)), parts=parts | {"count": len(item.row["instruction_id_list"])})

    def total(self, scores):
        """Instructions are counted one by one, whichever prompt they stand in."""
        score, half, measures = super().total(scores)
        counts = [score.parts["count"] for score in scores]
        for name in MEASURES:
            if name.startswith("instructions"):
                measures[name] = sum(s.parts[name] * count for s, count in zip(scores, counts)) / sum(counts)
        del measures["count"]
        return score, half, measures


def _list(value) -> list[bool]:
    return value if isinstance(value, list) else [value]
