"""fastText classifiers of documents, and what their files hold: NAME.bin is fastText's own, NAME.json says how texts become features."""

import json
import re
from pathlib import Path

from llmdata.errors import InputError
from llmdata.text_file import read_json
from llmdata.words import words


LONGEST = 20_000  # characters of a document that are looked at
_LABEL = "__label__"
_CODE = re.compile(r"\n[ \t]*|[^\W\d_]+|\d|[^\w\s]|_")


def _code_tokens(text: str) -> list[str]:
    """Words as they are written, digits as 0, every mark by itself, and the beginning of each line with its depth."""
    return [f"\u23ce{len(token) - 1}" if token[0] == "\n" else "0" if token.isdigit() else token for token in _CODE.findall(text)]


FEATURES = {"words": words, "code": _code_tokens}


def to_features(text: str, kind: str) -> str:
    """What fastText sees of a text: one line of tokens, separated by spaces."""
    return " ".join(token for token in FEATURES[kind](text[:LONGEST]) if not token.startswith(_LABEL))


class Classifier:
    def __init__(self, path: Path):
        from fasttext.FastText import _FastText

        self.settings = check_settings(path)
        self.model = _FastText(str(path))

    def scores(self, text: str) -> dict[str, float]:
        """The probability of each label."""
        labels, scores = self.model.predict(to_features(text, self.settings["features"]), k=-1)
        return {from_label(label): min(1.0, float(score)) for label, score in zip(labels, scores)}


def to_label(name: str) -> str:
    """As fastText writes it: without white space, which would end it."""
    return _LABEL + name.replace(" ", "\u00a0")


def from_label(label: str) -> str:
    return label.removeprefix(_LABEL).replace("\u00a0", " ")


def check_settings(path: Path) -> dict:
    """The settings beside a model; a model without them is refused."""
    beside = path.with_suffix(".json")
    for needed in (path, beside):
        if not needed.is_file():
            raise InputError(f"{needed}: no such file, expected a model of train_quality.py, which writes NAME.bin and NAME.json")
    settings = read_json(beside)
    if not isinstance(settings, dict) or settings.get("features") not in FEATURES or not isinstance(settings.get("labels"), dict):
        raise InputError(f'{beside}: expected "features" ({" or ".join(FEATURES)}) and "labels", as train_quality.py writes them')
    return settings


def write_settings(path: Path, settings: dict) -> None:
    path.with_suffix(".json").write_text(json.dumps(settings, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
