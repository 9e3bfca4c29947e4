"""Keeps a random share of the documents."""

from datatrove.data import Document

from .counts import hash_of
from .step import Filter, Verdict


class Sample(Filter):
    """A document stays if the hash of its id and the seed says so, whatever task it is in."""

    name = "sample"
    SCHEMA = {"properties": {"share": {"type": "number", "minimum": 0, "maximum": 1, "description": "of the documents that stay"}},
              "required": ["share"]}  # fmt: skip

    def judge(self, document: Document) -> Verdict:
        value = hash_of(f"{self.context.seed} {document.id}") / 2**48
        return Verdict(value < self.settings["share"], value, self.settings["share"], "not in the sample")
