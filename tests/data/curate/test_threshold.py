"""curate.py --sample: what a step keeps of a sample, for many values of a threshold."""

import json
from random import Random

import planted_text as texts
import pytest
from curate import threshold
from curate.counts import hash_of
from curate.settings import check_settings
from curate.threshold import Threshold
from curating import refused, run
from datatrove.data import Document
from llmdata.errors import InputError
from seeds import seed_of


def settings(**steps):
    return check_settings({"input": [{"paths": ["-"]}], "output": {"folder": "-"}, "steps": steps}, "the test")


def documents(*pages):
    return [Document(text=text, id=f"id{number}", metadata={"language": "en"}) for number, text in enumerate(pages)]


def test_a_step_that_judges_one_by_one():
    pages = documents(*(f"{number} words" for number in range(200)))
    values = [hash_of(f"1 {page.id}") / 2**48 for page in pages]
    points = Threshold(settings(sample={"share": 0.3}), "sample").points(pages)
    assert [point.value for point in points] == [n / 20 for n in range(21)]
    assert all(point.kept == {place for place, value in enumerate(values) if value < point.value} for point in points)
    assert all(point.tokens == 2 * len(point.kept) for point in points)


def test_a_step_that_must_see_all_documents():
    random = Random(seed_of("threshold"))
    first, second = texts.article(random), texts.article(random)
    near = [texts.nearly(random, first, 0.97), texts.nearly(random, second, 0.8)]
    pages = documents(*("\n".join(page) for page in (first, second, *near)))
    points = Threshold(settings(minhash={}), "minhash.jaccard", [0.7, 0.9, 1]).points(pages)
    assert [point.kept for point in points] == [{0, 1}, {0, 1}, {0, 1, 3}, {0, 1, 2, 3}]  # at 0.75 too, the present value


def test_what_is_refused():
    given = settings(gopher_quality={}, url_dedup={}, pii={}, minhash={})
    for name, values, said in (
        ("language", None, "no step of this run, expected one of gopher_quality, url_dedup"),
        ("gopher_quality", None, "expected one threshold, of gopher_quality.min_words, gopher_quality.max_words"),
        ("gopher_quality.most", None, "expected one threshold"),
        ("url_dedup", None, "this one has no threshold"),
        ("pii.most", None, "is not set, and has no usual range; give --values"),
        ("minhash.jaccard", [0.2], "steps.minhash.jaccard: found 0.2"),
    ):
        with pytest.raises(InputError, match=said):
            Threshold(given, name, values)


def test_page():
    pages = documents("<script>one</script>", "two words", "three of them")
    chosen = Threshold(settings(sample={"share": 0.5}), "sample.share")
    points = [threshold.Point(0.25, {0}, 5), threshold.Point(0.5, {0, 1}, 7), threshold.Point(1.0, {0, 1, 2}, 10)]
    page = threshold.html(chosen, pages, points)
    assert "<b>0.5</b> now" in page and "0.25 to 0.5 <span class=faint>1 documents" in page and "<script>" not in page
    assert page.index("kept at 0.5 alone") < page.index("two words") < page.index("kept at 1 alone") < page.index("three of them")
    assert 'points="48.0,164.0 240.0,88.0 624.0,12.0"' in page  # the shares of documents: a third, two thirds, all


def test_program(tmp_path, monkeypatch, capsys):
    """The steps before run as in a run; of what they leave, the step is shown. What they wrote is removed."""
    rows = [{"text": f"{'again and ' * number}once. " + texts.sentence(Random(number)), "url": f"http://a.org/{number // 2}"} for number in range(12)]
    (tmp_path / "pages.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = {"input": [{"paths": [str(tmp_path / "pages.jsonl")]}], "output": {"folder": str(tmp_path / "out")},
             "steps": {"url_dedup": {}, "gopher_quality": {"min_words": 20}, "pii": {}}}  # fmt: skip
    (tmp_path / "settings.json").write_text(json.dumps(given))
    done = run("--config", tmp_path / "settings.json", "--sample", "gopher_quality.min_words", "--values", "1,400")
    assert done.returncode == 0, done.stderr
    assert "gopher_quality.min_words 400: 0.00% of the documents kept" in done.stdout
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["threshold_gopher_quality.min_words.html"]
    assert ">6 documents that" in (tmp_path / "out" / "threshold_gopher_quality.min_words.html").read_text()
    assert "--documents" in refused(monkeypatch, capsys, "--config", tmp_path / "settings.json", "--sample", "pii.most", "--documents", 0)
