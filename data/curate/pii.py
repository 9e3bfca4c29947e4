"""Replaces personal data by placeholders, and drops documents that have too many of them (directories, leaked lists)."""

from datatrove.data import Document

from . import personal
from .step import Filter, Verdict


class PersonalData(Filter):
    name = "pii"
    SCHEMA = {"properties": {
        "most": {"type": "integer", "minimum": 1, "description": "a document with more finds is dropped; absent: none is"},
        "kinds": {"type": "array", "items": {"enum": list(personal.KINDS)}, "minItems": 1, "default": list(personal.KINDS),
                  "description": "what is looked for"},
        "regions": {"type": "array", "items": {"type": "string", "pattern": "^[A-Z]{2}$"}, "minItems": 1,
                    "description": "countries whose national telephone numbers are known; absent: those of the document's language"},
    }}  # fmt: skip

    def change(self, document: Document) -> int:
        regions = tuple(self.settings.get("regions", ()))
        finds = personal.find(document.text, self.settings["kinds"], document.metadata.get("language"), regions)
        self.found = len(finds)
        for found in finds:
            self.counts.counters[f"kind/{found.kind}"] += 1
        if finds:
            document.text = personal.replace(document.text, finds)
        return self.found

    def judge(self, document: Document) -> Verdict:
        most = self.settings.get("most")
        return Verdict(most is None or self.found <= most, self.found, most, "too much personal data")
