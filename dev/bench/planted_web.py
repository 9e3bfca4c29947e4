#!/usr/bin/env python3
"""Writes a web of pages with planted facts, and the truth beside it, to count what steps of curation find.

    dev/bench/planted_web.py build/planted --pages 2000 --format warc

What is written: web.warc.gz, or html/ with html.jsonl, or web.jsonl with the texts that extraction should find; truth.jsonl, a
line for each page; questions.jsonl, as prepare_eval.py reads them; dirty_words.txt, adult_domains.txt and pii_domains.txt.
A page of truth.jsonl has url, date, domain, language, kind and text, and what its kind adds:

    article     topic; lines: those planted in many pages; foreign: a paragraph in another language; pii and decoys: personal data,
                and what looks so
    blocks      blocks of code, mathematics, tables, lists, alt texts and markdown markers among paragraphs, by kind
    exact       same_as: a page with the same text
    near        near: a page, and jaccard: the similarity to it (of sets of five words)
    old         newest: false. Its url has another page, with a later date
    log, gibberish, crowd, dirty    pages that heuristics or a classifier drop; tidy: one dirty word
    leaked      questions: those that the page has. retold: the same questions with other numbers
    adult, pii_domain    the domain is listed; other domains contain such a name, and are not listed
    code, mathematics    pages about one thing
"""

import argparse
import gzip
import json
import sys
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from uuid import NAMESPACE_URL, uuid5

import planted_text as texts
from planted_html import Site, block
from planted_pii import decoy, planted

SHARES = {"article": 34, "blocks": 8, "exact": 6, "near": 10, "old": 5, "log": 4, "gibberish": 3, "crowd": 7, "dirty": 3, "tidy": 2,
          "leaked": 4, "retold": 3, "adult": 3, "pii_domain": 2, "code": 3, "mathematics": 3}  # fmt: skip
JACCARDS = (0.5, 0.7, 0.8, 0.85, 0.9, 0.95)
REPEATED = (6, 7, 20)  # so many pages have a planted line; more than six are too many
LANGUAGE_SHARE, LATIN1_SHARE, PII_SHARE, FOREIGN_SHARE = 0.35, 0.1, 0.25, 0.15
ADULT, PII_DOMAINS = ("velvet-nights.com", "crimson-lounge.net"), ("people-finder.org", "phone-registry.com")
MARKERS = [("**{}**", "{}"), ("## {}", "{}"), ("_{}_", "{}"), ("[{}](https://example.org/there)", "{}"), ("> {}", "{}")]


@dataclass
class Page:
    kind: str
    site: Site
    url: str
    date: str
    blocks: list[tuple[str, str]]  # (kind of the block, text)
    facts: dict = field(default_factory=dict)
    html: bytes = b""
    boilerplate: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "\n".join(text for _, text in self.blocks)

    def truth(self) -> dict:
        own = {"blocks": [{"kind": kind, "text": text} for kind, text in self.blocks]} if self.kind == "blocks" else {}
        return {"url": self.url, "date": self.date, "domain": self.site.domain, "language": self.site.language, "kind": self.kind,
                "text": self.text, "boilerplate": self.boilerplate, **own, **self.facts}  # fmt: skip


class Web:
    """All pages, in an order at random. The same seed and count give the same web."""

    def __init__(self, seed: int, count: int):
        self.random, self.pages, self.questions = Random(seed), [], []
        self.sites = self._sites(max(12, count // 25))
        self.lines = self._lines(max(1, count // 250))
        wanted = {kind: max(1, round(count * share / sum(SHARES.values()))) for kind, share in SHARES.items()}
        wanted["article"] += max(0, count - sum(wanted.values()))
        for kind, number in wanted.items():  # articles first: others are made of them
            for _ in range(number):
                getattr(self, f"_{kind}")()
            if kind == "article":
                self._plant_lines()
        for page in self.pages:
            self._render(page)
        self.random.shuffle(self.pages)

    # ---- kinds of pages

    def _add(self, kind: str, blocks: list[tuple[str, str]], site: Site | None = None, url: str = "", date: str = "", **facts) -> Page:
        site = site or self.random.choice(self.sites["en"])
        url = url or f"https://{site.domain}/{self.random.choice(texts.LISTS['thing'])}/{len(self.pages)}.html"
        date = date or (datetime(2020, 1, 1) + timedelta(minutes=self.random.randrange(2_000_000))).strftime("%Y-%m-%dT%H:%M:%SZ")
        self.pages.append(Page(kind, site, url, date, blocks, facts))
        return self.pages[-1]

    def _prose(self, language: str = "en", topic: str | None = None, crowd: bool = False) -> list[tuple[str, str]]:
        return [("paragraph", text) for text in texts.article(self.random, language, topic, crowd)]

    def _with(self, blocks: list[tuple[str, str]], others: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """The others among the blocks, but neither first nor last, where extraction may take them for something else."""
        for other in others:
            blocks.insert(self.random.randint(1, len(blocks) - 1), other)
        return blocks

    def _article(self) -> None:
        other = self.random.random() < LANGUAGE_SHARE
        language = self.random.choice(list(texts.OTHERS)) if other else "en"
        topic = None if other else self.random.choice(list(texts.TOPICS))
        page = self._add("article", self._prose(language, topic), self.random.choice(self.sites[language]), topic=topic)
        if not other and self.random.random() < FOREIGN_SHARE:
            page.facts["foreign"] = texts.paragraph(self.random, self.random.choice(list(texts.OTHERS)))
            self._with(page.blocks, [("paragraph", page.facts["foreign"])])
        if not other and self.random.random() < PII_SHARE:
            found = [planted(self.random) for _ in range(3)]
            apparent = [decoy(self.random) for _ in range(3)]
            self._with(page.blocks, [("paragraph", said) for *_, said in [*found, *apparent]])
            page.facts |= {"pii": [{"kind": kind, "text": text} for kind, text, _ in found], "decoys": [text for text, _ in apparent]}

    def _blocks(self) -> None:
        random = self.random
        rows = [" | ".join(random.sample(texts.LISTS["thing"], 3)) for _ in range(4)]
        marker, _ = random.choice(MARKERS)
        page = self._add("blocks", self._with(self._prose(), [
            ("heading", " ".join(random.sample(texts.LISTS["thing"], 4)).capitalize()), ("code", texts.code(random)),
            ("tex", texts.formula(random)), ("mathml", texts.formula(random)), ("table", "\n".join(rows)),
            ("list", "\n".join(texts.sentence(random) for _ in range(3))), ("alt", "A picture of " + texts.sentence(random)),
        ]))  # fmt: skip
        marked = texts.sentence(random)
        page.facts["markdown"] = {"text": marked, "marked": marker.format(marked)}
        self._with(page.blocks, [("paragraph", marked)])

    def _original(self) -> Page:
        """An article without such facts as a copy would repeat, if possible one that has no other version yet."""
        plain = [page for page in self.pages if page.kind == "article" and not page.facts.keys() & {"lines", "pii", "foreign"}]
        page = self.random.choice([page for page in plain if "copied" not in page.facts] or plain)
        page.facts["copied"] = True
        return page

    def _exact(self) -> None:
        page = self._original()
        self._add("exact", list(page.blocks), self.random.choice(self.sites[page.site.language]), same_as=page.url)

    def _near(self) -> None:
        page = self._original()
        changed = texts.nearly(self.random, [text for _, text in page.blocks], self.random.choice(JACCARDS))
        near = self._add("near", [("paragraph", text) for text in changed], self.random.choice(self.sites[page.site.language]))
        near.facts |= {"near": page.url, "jaccard": round(texts.jaccard(page.text, near.text), 4)}

    def _old(self) -> None:
        page = self._original()
        year = f"{int(page.date[:4]) - 3}{page.date[4:].replace('-02-29', '-02-28')}"
        self._add("old", self._prose(page.site.language), page.site, page.url, year, newest=False)

    def _log(self) -> None:
        self._add("log", [("paragraph", line) for line in texts.log_lines(self.random, 40)])

    def _gibberish(self) -> None:
        self._add("gibberish", [("paragraph", texts.gibberish(self.random)) for _ in range(4)])

    def _crowd(self) -> None:
        self._add("crowd", self._prose(crowd=True))

    def _dirty(self, share: float = 0.06, kind: str = "dirty") -> None:
        blocks = self._prose()
        words = [text.split(" ") for _, text in blocks]
        places = [(p, w) for p, text in enumerate(words) for w in range(len(text))]
        for p, w in self.random.sample(places, max(1, round(share * len(places)))):
            words[p][w] = self.random.choice(texts.DIRTY)
        self._add(kind, [("paragraph", " ".join(text)) for text in words])

    def _tidy(self) -> None:
        self._dirty(0.0, "tidy")

    def _leaked(self) -> None:
        asked = [texts.question(self.random) for _ in range(self.random.choice([1, 6]))]
        self.questions += asked
        blocks = self._prose()[: 4 if len(asked) == 1 else 2]
        self._add("leaked", self._with(blocks, [("paragraph", texts.retyped(self.random, text)) for text in asked]), questions=asked)

    def _retold(self) -> None:
        asked = [texts.question(self.random) for _ in range(3)]
        told = [" ".join(str(self.random.randint(11, 99999)) if word.isdigit() else word for word in text.split(" ")) for text in asked]
        self.questions += asked
        self._add("retold", self._with(self._prose(), [("paragraph", text) for text in told]))

    def _adult(self, listed: tuple[str, ...] = ADULT, kind: str = "adult") -> None:
        domain = self.random.choice(listed)
        self._add(kind, self._prose(), Site(self.random, "en", self.random.choice([domain, f"www.{domain}", f"m.{domain}"])))

    def _pii_domain(self) -> None:
        self._adult(PII_DOMAINS, "pii_domain")

    def _code(self) -> None:
        blocks = [part for _ in range(4) for part in (("paragraph", texts.sentence(self.random, "en", "computing")),
                                                      ("code", texts.code(self.random)))]  # fmt: skip
        self._add("code", blocks)

    def _mathematics(self) -> None:
        self._add("mathematics", [part for _ in range(6) for part in (("paragraph", texts.sentence(self.random)),
                                                                      ("tex", texts.formula(self.random)))])  # fmt: skip

    # ---- what pages have in common

    def _sites(self, count: int) -> dict[str, list[Site]]:
        """Sites by language. The first English one has a listed domain's name inside its own."""
        sites = {language: [] for language in texts.LANGUAGES}
        for number in range(count):
            language = texts.LANGUAGES[number % 11] if number % 11 < len(texts.LANGUAGES) else "en"
            domain = f"{'-'.join(self.random.sample(texts.LISTS['thing'], 2))}-{number}.{self.random.choice(['org', 'com', 'net'])}"
            sites[language].append(Site(self.random, language, domain if number else f"not-{ADULT[0]}"))
        return sites

    def _lines(self, each: int) -> dict[str, int]:
        """Lines to plant, and in how many pages."""
        return {texts.sentence(self.random): count for count in REPEATED for _ in range(each)}

    def _plant_lines(self) -> None:
        pages = [page for page in self.pages if page.site.language == "en"]
        for line, count in self.lines.items():
            for page in self.random.sample(pages, min(count, len(pages))):
                self._with(page.blocks, [("paragraph", line)])
                page.facts.setdefault("lines", []).append(line)

    def _render(self, page: Page) -> None:
        charset = "iso-8859-1" if self.random.random() < LATIN1_SHARE else "utf-8"
        marked = page.facts.get("markdown", {"text": None, "marked": None})
        content = [block(kind, marked["marked"] if text == marked["text"] else text) for kind, text in page.blocks]
        title = " ".join(self.random.sample(texts.LISTS["thing"], 3)).capitalize()
        page.html, page.boilerplate = page.site.page(self.random, title, "".join(content), charset)

    # ---- files

    def write_warc(self, path: Path) -> None:
        """Each record is a gzip member of its own, as in Common Crawl, if the name ends in .gz."""
        with open(path, "wb") as file:
            for page in self.pages:
                record = warc_record(page)
                file.write(gzip.compress(record, mtime=0) if path.suffix == ".gz" else record)

    def write_html(self, folder: Path) -> None:
        """A file for each page; FOLDER.jsonl beside it says which page a file is."""
        folder.mkdir(parents=True, exist_ok=True)
        for number, page in enumerate(self.pages):
            (folder / f"{number:06}.html").write_bytes(page.html)
        write_rows(folder.with_suffix(".jsonl"), [{"file": f"{n:06}.html", "url": page.url, "date": page.date} for n, page in enumerate(self.pages)])

    def write_jsonl(self, path: Path) -> None:
        """The texts that extraction should find."""
        write_rows(path, [{"text": page.text, "id": str(number), "url": page.url, "date": page.date} for number, page in enumerate(self.pages)])

    def write_truth(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        write_rows(folder / "truth.jsonl", [page.truth() for page in self.pages])
        write_rows(folder / "questions.jsonl", [{"question": text, "choices": ["1", "2", "3", "4"], "answer": 0} for text in self.questions])
        for name, lines in (("dirty_words", texts.DIRTY), ("adult_domains", ADULT), ("pii_domains", PII_DOMAINS)):
            (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")


def warc_record(page: Page) -> bytes:
    http = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {len(page.html)}\r\n\r\n".encode() + page.html
    head = (f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: {page.url}\r\nWARC-Date: {page.date}\r\n"
            f"WARC-Record-ID: <urn:uuid:{uuid5(NAMESPACE_URL, page.url + page.date)}>\r\n"
            f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(http)}\r\n\r\n")  # fmt: skip
    return head.encode() + http + b"\r\n\r\n"


def write_rows(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, metavar="DIR", help="folder to write")
    parser.add_argument("--pages", type=int, default=1000, metavar="N", help="number of pages (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="what the pages are drawn from (default: %(default)s)")
    parser.add_argument("--format", choices=["warc", "html", "jsonl"], default="warc", help="form of the pages (default: %(default)s)")
    options = parser.parse_args()
    web = Web(options.seed, options.pages)
    web.write_truth(options.output)
    write = {"warc": web.write_warc, "html": web.write_html, "jsonl": web.write_jsonl}[options.format]
    write(options.output / {"warc": "web.warc.gz", "html": "html", "jsonl": "web.jsonl"}[options.format])
    counts = Counter(page.kind for page in web.pages)
    print(f"{options.output}: {len(web.pages)} pages, seed {options.seed}: " + ", ".join(f"{counts[kind]} {kind}" for kind in SHARES))
    return 0


if __name__ == "__main__":
    sys.exit(main())
