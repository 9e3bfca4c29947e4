"""curate/report.py: the numbers of a run on one page, and text of pages that cannot do harm there."""

import re

import pytest
from curate import report
from curate.counts import EXAMPLES, EXCERPT, Counts, measure
from curate.step import Verdict
from datatrove.data import Document
from htmlpages import HOSTILE, Structure


def document(number, text="Plain words.", **metadata):
    return Document(text=text, id=f"id{number}", metadata=metadata)


def counted(documents, verdicts):
    counts = Counts()
    for item, verdict in zip(documents, verdicts):
        counts.add(item, measure(item), verdict, 0)
    return counts


def page_of(**steps):
    return report.html("runs/web", {"seed": 1}, steps, 60)


def text_of(page):
    without = re.sub(r"<style>.*?</style>|</?bdi>|</?b>", "", page, flags=re.S)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", without))


@pytest.fixture(scope="module")
def two_steps():
    pages = [document(n, f"{n} words of a page.", domain=f"site{n % 3}.org") for n in range(60)]
    first = counted(pages, [Verdict(n % 4 > 0, n / 60, 0.5, "few words" if n % 4 == 0 else "words") for n in range(60)])
    left = [page for n, page in enumerate(pages) if n % 4]
    for n, page in enumerate(left):
        page.metadata["language"] = "de" if n % 5 == 0 else "en"
    second = counted(left, [Verdict(n % 9 > 0, "de" if n % 9 == 0 else "en", None, "language") for n in range(45)])
    first.seconds, second.seconds = 30, 6
    second.counters.update({"topic/sport": 30, "topic/music": 10, "items/10": 1, "items/9": 2, "lines": 7})
    return {"words": first, "language": second}


def test_numbers(two_steps):
    page = page_of(**two_steps)
    text = text_of(page)
    assert "read 60 " in text and "words 45 75 % " in text and "language 40 88.9 % " in text
    assert "en 36 32 88.9 % 192 language 4" in text and "de 9 8 88.9 %" in text
    assert "site1.org 20 10 50 %" in text and "site0.org 20 15 75 %" in text  # from the first step to the last
    assert "words 15 of 60 dropped, 25 %" in text and "few words 15 25 %" in text
    assert "sport 30 75 % music 10 25 %" in text and "9 2 66.7 % 10 1 33.3 %" in text and "lines 7" in text
    assert "words 30 s 2 language 6 s 8" in text.replace("By language", "")
    assert '"seed": 1' in text.replace("&quot;", '"')


def test_clusters(two_steps):
    members = [{"id": f"id{n}", "url": f"http://{n}.org", "jaccard": n / 8, "excerpt": HOSTILE} for n in range(8)]
    found = {"sizes": {"2": 6, "8": 2}, "largest": [{"size": 8, "members": members}, {"size": 2, "members": []}]}
    page = report.html("runs/web", {}, two_steps, 60, found)
    text = text_of(page)
    assert not Structure(page).wrong
    assert "8 documents http://0.org" in text and "similarity, value 0.875 http://7.org" in text and "2 documents" not in text


def test_examples(two_steps):
    page = page_of(**two_steps).replace("<bdi>", "").replace("</bdi>", "")
    dropped, kept = (re.findall(rf'class="{side}">(.*?)(?=<div class="(?:kept|dropped)|</details>)', page, re.S)[0] for side in ("dropped", "kept"))
    assert len(re.findall("few words, value .*?, threshold 0.5", dropped)) == 15  # all there are
    assert kept.count("class=\"example\"") == EXAMPLES and "value 0.5167, threshold 0.5" in kept and "value 0.9" not in kept


def test_hostile_text():
    page = document(1, HOSTILE * 30, url="javascript:" + HOSTILE, domain=HOSTILE, language=HOSTILE)
    counts = counted([page, page], [Verdict(False, HOSTILE, HOSTILE, HOSTILE), Verdict(True, HOSTILE, HOSTILE, HOSTILE)])
    counts.add_fault(HOSTILE, HOSTILE, HOSTILE)
    counts.counters[f"{HOSTILE}/{HOSTILE}"] += 1
    written = report.html(HOSTILE, {HOSTILE: HOSTILE}, {HOSTILE: counts}, 1)
    written.encode("utf-8")
    found = Structure(written)
    assert not found.wrong and not {"script", "img", "a", "link", "iframe"} & set(found.seen)
    assert not [name for name, _ in found.attributes if name.startswith("on") or name in ("href", "src")]
    assert not re.search("[\x00\u202e\ud800]", written) and len(written) < 60 * EXCERPT


def test_needs_nothing_else(two_steps):
    page = page_of(**two_steps)
    assert not Structure(page).wrong and not re.search(r"url\(|@import|https?://|src=|href=", page)
    assert "prefers-color-scheme: dark" in page and 'name="viewport"' in page


def test_a_run_without_steps_or_documents(tmp_path):
    report.write(tmp_path / "report.html", "x", {}, {}, 0)
    assert "No step ran" in (tmp_path / "report.html").read_text()
    assert "read 0" in text_of(page_of(empty=Counts()))
