"""dev/bench/planted_web.py: what the truth says is so."""

import json
from collections import Counter

import planted_text as texts
import pytest
from planted_pii import luhn_digit
from planted_web import ADULT, REPEATED, SHARES, Web
from seeds import seed_of


@pytest.fixture(scope="module")
def web():
    return Web(seed_of("planted web"), 200)


def of_kind(web, *kinds):
    return [page for page in web.pages if page.kind in kinds]


def test_a_seed_gives_the_same_web(web):
    again = Web(seed_of("planted web"), 200)
    assert [(page.html, page.truth()) for page in again.pages] == [(page.html, page.truth()) for page in web.pages]
    assert {page.kind for page in web.pages} == set(SHARES)


def test_similarities(web):
    by_url = {page.url: page for page in web.pages if page.kind != "old"}
    for page in of_kind(web, "near"):
        assert texts.jaccard(page.text, by_url[page.facts["near"]].text) == pytest.approx(page.facts["jaccard"], abs=1e-4)
    assert all(page.text == by_url[page.facts["same_as"]].text for page in of_kind(web, "exact"))
    others = [texts.shingles(page.text) for page in of_kind(web, "article", "blocks", "crowd")]
    assert max(len(a & b) / len(a | b) for n, a in enumerate(others) for b in others[:n]) < 0.3


def test_newest_versions(web):
    dates = {page.url: page.date for page in web.pages if page.kind != "old"}
    assert all(page.date < dates[page.url] for page in of_kind(web, "old"))
    assert len(dates) == len(web.pages) - len(of_kind(web, "old"))


def test_repeated_lines(web):
    counts = Counter(line for page in web.pages for line in page.text.split("\n"))
    assert {line: counts[line] for line in web.lines} == web.lines and set(web.lines.values()) == set(REPEATED)


def test_questions(web):
    told = set().union(*(texts.shingles(page.text, 8) for page in of_kind(web, "retold")))
    for page in of_kind(web, "leaked"):
        for question in page.facts["questions"]:
            asked = texts.shingles(question, 8)
            assert len(asked & texts.shingles(page.text, 8)) >= 0.4 * len(asked) and not asked & told


def test_personal_data(web):
    found = [(fact["kind"], fact["text"]) for page in web.pages for fact in page.facts.get("pii", [])]
    for text in (text.translate({32: None, 45: None}) for kind, text in found if kind == "payment"):
        assert luhn_digit(text[:-1]) == int(text[-1])
    for text in (text.replace(" ", "") for kind, text in found if kind == "iban"):
        assert int("".join(str(int(c, 36)) for c in text[4:] + text[:4])) % 97 == 1
    assert luhn_digit("7992739871") == 3 and found  # a known example
    assert all(text in page.text for page in web.pages for text in page.facts.get("decoys", []))


def test_domains(web):
    listed = {page.site.domain for page in of_kind(web, "adult")}
    assert all(any(domain == name or domain.endswith(f".{name}") for name in ADULT) for domain in listed)
    assert any(name in page.site.domain for name in ADULT for page in of_kind(web, "article"))


def test_pages_hold_content_and_boilerplate(web):
    from html.parser import HTMLParser

    for page in of_kind(web, "article"):
        shown, parser = [], HTMLParser()
        parser.handle_data = shown.append
        parser.feed(page.html.decode("latin-1" if b"iso-8859-1" in page.html else "utf-8"))
        assert all(line in shown for line in page.text.split("\n") + page.boilerplate)


def test_files(web, tmp_path):
    from fastwarc.warc import ArchiveIterator

    web.write_truth(tmp_path)
    web.write_warc(tmp_path / "web.warc.gz")
    with open(tmp_path / "web.warc.gz", "rb") as file:
        read = [(record.headers["WARC-Target-URI"], record.reader.read()) for record in ArchiveIterator(file)]
    assert read == [(page.url, page.html) for page in web.pages]
    web.write_html(tmp_path / "html")
    index = [json.loads(line) for line in (tmp_path / "html.jsonl").read_text().splitlines()]
    assert [(row["url"], (tmp_path / "html" / row["file"]).read_bytes()) for row in index] == read
    truth = [json.loads(line) for line in (tmp_path / "truth.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["url"] for row in truth] == [url for url, _ in read]
