#!/usr/bin/env python3
"""Precision, recall and F1 of extraction on pages whose main content people marked, ours beside that of packaged extractors.

    pip install trafilatura readability-lxml justext lxml_html_clean
    dev/bench/extraction.py --articles DIR --readability DIR --planted 300 [--json FILE]

    --articles      a checkout of scrapinghub/article-extraction-benchmark: 181 articles, marked by hand
    --readability   a checkout of mozilla/readability: its test pages, with what Readability.js should find in its authors' view
    --planted       pages of planted_web.py (code, tables, mathematics, several languages; layouts that its author thought of)

Runs of four words are compared, as bags. Precision is the share of an extractor's runs that the marked text has, recall the
share of the marked runs that the extractor has; both are means over pages, and F1 is of the means, with its standard error over
drawn sets of pages. The marked texts have no texts of pictures, so ours is shown without them and with.
"""

import argparse
import gzip
import json
import re
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Callable, Iterator

import numpy as np
from machine import ROOT, describe

sys.path.insert(0, str(ROOT / "data"))
import justext  # noqa: E402
import readability  # noqa: E402
import trafilatura  # noqa: E402
from curate.extract import page_text  # noqa: E402
from lxml import html as lxml_html  # noqa: E402
from planted_web import Web  # noqa: E402
from resiliparse.extract.html2text import extract_plain_text  # noqa: E402
from resiliparse.parse.encoding import bytes_to_str, detect_encoding  # noqa: E402

WORDS, DRAWS = 4, 1000
Page = tuple[str, str]  # HTML, the marked text


def articles(folder: Path) -> Iterator[Page]:
    for name, truth in json.loads((folder / "ground-truth.json").read_text()).items():
        yield decode(gzip.decompress((folder / "html" / f"{name}.html.gz").read_bytes())), truth["articleBody"]


def readability_pages(folder: Path) -> Iterator[Page]:
    for expected in sorted((folder / "test" / "test-pages").glob("*/expected.html")):
        marked = " ".join(lxml_html.fromstring(expected.read_text()).itertext())
        yield decode(expected.with_name("source.html").read_bytes()), marked


def planted(count: str) -> Iterator[Page]:
    for page in Web(1, int(count)).pages:
        yield decode(page.html), page.text


def decode(page: bytes) -> str:
    return bytes_to_str(page, detect_encoding(page))


def of_readability(html: str) -> str:
    return " ".join(lxml_html.fromstring(readability.Document(html.replace("\0", "")).summary()).itertext())


def of_justext(html: str) -> str:
    paragraphs = justext.justext(html.encode(), justext.get_stoplist("English"), encoding="utf-8")
    return "\n".join(paragraph.text for paragraph in paragraphs if not paragraph.is_boilerplate)


EXTRACTORS: dict[str, Callable[[str], str | None]] = {
    "curate.py": partial(page_text, alt_texts=False),
    "curate.py, with texts of pictures": page_text,
    "resiliparse": partial(extract_plain_text, main_content=True, alt_texts=False, list_bullets=False),
    "trafilatura": partial(trafilatura.extract, include_comments=False),
    "trafilatura, for precision": partial(trafilatura.extract, include_comments=False, favor_precision=True),
    "readability-lxml": of_readability,
    "justext": of_justext,
}
SETS: dict[str, Callable[[str], Iterator[Page]]] = {
    "articles": lambda folder: articles(Path(folder)),
    "readability": lambda folder: readability_pages(Path(folder)),
    "planted": planted,
}


def runs_of_words(text: str) -> Counter:
    words = re.findall(r"\w+", text)
    return Counter(tuple(words[place : place + WORDS]) for place in range(max(1, len(words) - WORDS + 1)) if words)


def compare(marked: str, found: str) -> tuple[float, float]:
    """(precision, recall) of a page; NaN where there is nothing to divide by."""
    a, b = runs_of_words(marked), runs_of_words(found)
    both = (a & b).total()
    return both / b.total() if b else np.nan, both / a.total() if a else np.nan


def f1(scores: np.ndarray) -> float:
    precision, recall = np.nanmean(scores, axis=0)
    return 2 * precision * recall / (precision + recall)


def measure(extract: Callable[[str], str | None], pages: list[Page]) -> dict:
    begun = time.process_time()
    found = [extract(html) or "" for html, _ in pages]
    seconds = time.process_time() - begun
    scores = np.array([compare(marked, text) for (_, marked), text in zip(pages, found)])
    random = np.random.default_rng(1)
    drawn = [f1(scores[random.integers(0, len(pages), len(pages))]) for _ in range(DRAWS)]
    precision, recall = np.nanmean(scores, axis=0)
    return {"precision": precision, "recall": recall, "f1": f1(scores), "f1_error": float(np.std(drawn)),
            "milliseconds": 1000 * seconds / len(pages)}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--articles", metavar="DIR", help="pages of the article extraction benchmark")
    parser.add_argument("--readability", metavar="DIR", help="test pages of Readability.js")
    parser.add_argument("--planted", metavar="N", help="so many planted pages")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the tables there, too")
    options = parser.parse_args()
    result = {"machine": describe(), "sets": {}}
    for name, read in SETS.items():
        if getattr(options, name) is None:
            continue
        pages = list(read(getattr(options, name)))
        print(f"\n| {name}, {len(pages)} pages | precision | recall | F1 | ms of processor |\n| --- | --- | --- | --- | --- |")
        rows = result["sets"][name] = {"pages": len(pages)}
        for extractor, extract in EXTRACTORS.items():
            row = rows[extractor] = measure(extract, pages)
            print(f"| {extractor} | {row['precision']:.3f} | {row['recall']:.3f} | {row['f1']:.3f} ± {row['f1_error']:.3f} "
                  f"| {row['milliseconds']:.1f} |", flush=True)  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
