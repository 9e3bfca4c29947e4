"""Drops documents that have questions of evaluations: 8-gram overlap (arXiv 2407.21783, section 5.1.4) with files of prepare_eval.py.

A word is contaminated if it lies in a run of eight words that document and item have in common. What is measured is the larger of two
shares: of the document's words, and of one item's. So a short page that is mostly questions is found, and one question in a
long page. Numbers are words like others: the same question with other numbers is another question.

Runs that many items have (instructions, solved examples in front of each question) say nothing about an item and are left out.
"""

import hashlib
from pathlib import Path

import numpy as np
from datatrove.data import Document

from llmdata import eval_set, tokenizer
from llmdata.errors import InputError
from llmdata.overlap import WORDS, Index
from llmdata.words import hash_words

from .step import Context, Filter, Verdict

def read_items(paths: list[Path], folder: Path) -> list[tuple[str, np.ndarray]]:
    """(file and number, hashes of the words) of all items: the context with the right ending."""
    path = tokenizer.find(folder)
    decode = tokenizer.read(path).decode
    sha256 = hashlib.sha256(path.read_bytes()).digest()
    found = []
    for file in paths:
        items, made_with = eval_set.read(file)
        if path.suffix == ".json" and made_with != sha256:
            raise InputError(f"{file}: was made with another tokenizer than {path}, expected the same one: prepare it anew")
        for number, item in enumerate(items):
            text = decode([*item.context, *item.endings[item.label].tokens], skip_special_tokens=True)
            found.append((f"{file.name}, item {number}", hash_words(text)))
    return found


class Decontaminate(Filter):
    name = "decontaminate"
    SCHEMA = {"properties": {
        "items": {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1, "description": "files of prepare_eval.py"},
        "tokenizer": {"type": "string", "minLength": 1, "description": "tokenizer.json that the files were made with, or its folder"},
        "share": {"type": "number", "exclusiveMinimum": 0, "maximum": 1, "default": 0.5,
                  "description": "of the words of an item or of the document, from which on a document is dropped"},
    }, "required": ["items", "tokenizer"]}  # fmt: skip

    def __init__(self, settings: dict, context: Context):
        super().__init__(settings, context)
        self.paths, self.tokenizer = [Path(path) for path in settings["items"]], Path(settings["tokenizer"])
        for path in self.paths:
            eval_set.read(path)  # bad files are refused before a run begins
        tokenizer.find(self.tokenizer)

    def start(self, rank: int) -> None:
        self.index = Index(read_items(self.paths, self.tokenizer))
        if rank == 0 and self.index.short:
            self.counts.counters[f"items of fewer than {WORDS} words, which cannot be found"] = self.index.short

    def finish(self) -> None:
        del self.index

    def judge(self, document: Document) -> Verdict:
        share, what = self.index.overlap(hash_words(document.text))
        return Verdict(share < self.settings["share"], share, self.settings["share"], what)
