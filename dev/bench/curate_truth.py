#!/usr/bin/env python3
"""Precision and recall of every step of curation on a web of pages with planted facts (planted_web.py).

    dev/bench/curate_truth.py [--pages 2000] [--seed 1] [--json FILE]

Each step is given the pages as the steps before it would leave them if these made no mistake, so that a figure is of one step.
Precision is the share of what a step found that was planted, recall the share of what was planted that it found.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from random import Random
from typing import Callable, Iterable

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "data"), str(ROOT / "tests/support")]
import planted_text as texts  # noqa: E402
import steprun  # noqa: E402
from curate.steps import STEPS  # noqa: E402
from datatrove.data import Document  # noqa: E402
from llmdata import tokenizer  # noqa: E402
from planted_web import Page, Web, write_rows  # noqa: E402

TASKS = 3
WANTED = ["de", "en", "es", "fr"]  # languages
SIMILAR, SIMILAR_ENOUGH = 0.8, 0.75  # pairs that must be found; pairs that may be


@dataclass
class Row:
    """One line of the table."""

    step: str
    fact: str
    planted: int
    recalled: int  # of those planted
    found: int
    correct: int  # of those found

    @property
    def recall(self) -> float:
        return self.recalled / self.planted if self.planted else 1.0

    @property
    def precision(self) -> float:
        return self.correct / self.found if self.found else 1.0


def of_sets(step: str, fact: str, planted: set, found: set) -> Row:
    both = len(planted & found)
    return Row(step, fact, len(planted), both, len(found), both)


def run_program(name: str, *arguments) -> None:
    done = subprocess.run([sys.executable, ROOT / f"data/{name}.py", *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr}")


def document(number: int, page: Page, text: str | None = None) -> Document:
    metadata = {"url": page.url, "date": page.date, "domain": page.site.domain, "language": page.site.language}
    return Document(text=page.text if text is None else text, id=str(number), metadata=metadata)


def run_step(name: str, settings: dict, documents: list[Document], folder: pathlib.Path) -> dict[int, Document]:
    """What the step lets through, by number."""
    parts, _ = steprun.run(STEPS[name], [documents[rank::TASKS] for rank in range(TASKS)], folder / name, **settings)
    return {int(found.id): found for part in parts for found in part}


class Truth:
    """The web, and what a step should do with it."""

    def __init__(self, web: Web, folder: pathlib.Path):
        self.web, self.folder = web, folder
        web.write_truth(folder)

    def pages(self, *kinds: str) -> dict[int, Page]:
        return {number: page for number, page in enumerate(self.web.pages) if not kinds or page.kind in kinds}

    def dropped(self, name: str, settings: dict, pages: dict[int, Page], language: str | None = None) -> set[int]:
        pages = {number: page for number, page in pages.items() if language in (None, page.site.language)}
        return set(pages) - set(run_step(name, settings, [document(*page) for page in pages.items()], self.folder))

    def rows(self, name: str, rows: list[dict]) -> pathlib.Path:
        write_rows(self.folder / f"{name}.jsonl", rows)
        return self.folder / f"{name}.jsonl"

    def train(self, name: str, *arguments) -> str:
        """The model that train_quality.py makes."""
        run_program("train_quality", *arguments, "--output", self.folder / f"{name}.bin")
        return str(self.folder / f"{name}.bin")

    def list(self, name: str) -> str:
        return str(self.folder / f"{name}.txt")


# ---- the steps


def url_filter(truth: Truth) -> list[Row]:
    lists = {"adult": truth.list("adult_domains"), "pii": truth.list("pii_domains")}
    dropped = truth.dropped("url_filter", {"lists": lists, "packaged": False}, truth.pages())
    return [of_sets("url_filter", "listed domains", set(truth.pages("adult", "pii_domain")), dropped)]


def extract(truth: Truth) -> list[Row]:
    """Lines of the content, against those of what the site puts around it; and blocks of each kind."""
    pages = truth.pages()
    given = [document(number, page, page.html.decode("latin-1" if b"iso-8859-1" in page.html else "utf-8")) for number, page in pages.items()]
    for each in given:
        each.metadata["type"] = "html"
    left = run_step("extract", {}, given, truth.folder)
    text = {number: " ".join(left[number].text.split()) if number in left else "" for number in pages}
    content = [" ".join(line.replace(" | ", " ").split()) in text[n] for n, page in pages.items() for line in page.text.split("\n")]
    wrong = sum(line in text[n] for n, page in pages.items() for line in page.boilerplate)
    rows = [Row("extract", "lines", len(content), sum(content), sum(content) + wrong, sum(content))]
    blocks = [(kind, block in (left[n].text if kind == "code" else text[n])) for n, page in truth.pages("blocks").items()
              for kind, block in ((kind, " ".join(block.replace(" | ", " ").split()) if kind != "code" else block)
                                  for kind, block in page.blocks)]  # fmt: skip
    blocks += [("markers removed", page.facts["markdown"]["text"] in text[n] and page.facts["markdown"]["marked"] not in text[n])
               for n, page in truth.pages("blocks").items()]  # fmt: skip
    total, found = Counter(kind for kind, _ in blocks), Counter(kind for kind, right in blocks if right)
    return rows + [Row("extract", kind, total[kind], found[kind], 0, 0) for kind in sorted(total)]


def language(truth: Truth) -> list[Row]:
    """Pages that are dropped are those in unwanted languages; pages of gibberish are in none."""
    pages = {number: page for number, page in truth.pages().items() if page.kind not in ("gibberish", "code", "mathematics", "log")}
    left = run_step("language", {"languages": WANTED}, [document(*page) for page in pages.items()], truth.folder)
    planted = {number for number, page in pages.items() if page.site.language not in WANTED}
    rows = [of_sets("language", f"other than {', '.join(WANTED)}", planted, set(pages) - set(left))]
    for wanted in WANTED:
        rows.append(of_sets("language", wanted, {number for number, page in pages.items() if page.site.language == wanted},
                            {number for number, found in left.items() if found.metadata["language"] == wanted}))  # fmt: skip
    return [*rows, foreign_lines(truth, pages)]


def foreign_lines(truth: Truth, pages: dict[int, Page]) -> Row:
    """Paragraphs that are in neither the page's language nor a wanted one."""
    pages = {number: page for number, page in pages.items() if page.site.language == "en"}
    left = run_step("language", {"languages": ["en"], "line_threshold": 0.7}, [document(*page) for page in pages.items()], truth.folder)
    planted = {(number, pages[number].facts["foreign"]) for number in left if "foreign" in pages[number].facts}
    found = {(number, line) for number in left for line in pages[number].text.split("\n") if line not in left[number].text}
    return of_sets("language", "foreign lines", planted, found)


def url_dedup(truth: Truth) -> list[Row]:
    return [of_sets("url_dedup", "older versions", set(truth.pages("old")), truth.dropped("url_dedup", {}, truth.pages()))]


def minhash(truth: Truth) -> list[Row]:
    """A planted pair is found if one of the two was dropped; a drop is right if a page of the same origin is similar enough."""
    pages = {number: page for number, page in truth.pages().items() if page.kind != "old"}
    number_of = {page.url: number for number, page in pages.items()}
    origin = {number: number_of[page.facts.get("near") or page.facts.get("same_as") or page.url] for number, page in pages.items()}
    dropped = truth.dropped("minhash", {}, pages)
    right = sum(any(m != n and origin[m] == origin[n] and texts.jaccard(pages[m].text, pages[n].text) >= SIMILAR_ENOUGH for m in pages)
                for n in dropped)  # fmt: skip
    rows = []
    for fact, kind, least in (("exact copies", "exact", 1.0), (f"near copies, Jaccard {SIMILAR} or more", "near", SIMILAR)):
        pairs = [{n, origin[n]} for n, page in pages.items() if page.kind == kind and page.facts.get("jaccard", 1.0) >= least]
        rows.append(Row("minhash", fact, len(pairs), sum(bool(pair & dropped) for pair in pairs), len(dropped), right))
    return rows


def line_dedup(truth: Truth) -> list[Row]:
    """The lines are counted here once more, by language."""
    pages = truth.pages()
    counts = Counter((page.site.language, line) for page in pages.values() for line in page.text.split("\n"))
    left = run_step("line_dedup", {}, [document(*page) for page in pages.items()], truth.folder)
    planted, found = set(), set()
    for number, page in pages.items():
        after = Counter(left[number].text.split("\n") if number in left else [])
        for place, line in enumerate(page.text.split("\n")):
            if counts[page.site.language, line] > 6 and any(letter.isalnum() for letter in line):
                planted.add((number, place))
            if not after[line]:
                found.add((number, place))
    return [of_sets("line_dedup", "lines seen more than 6 times", planted, found)]


def heuristics(truth: Truth) -> list[Row]:
    """The paper's three, and Gopher's rules, which know logs by their repetitions and gibberish by its want of stop words."""
    logs, gibberish, prose = set(truth.pages("log")), set(truth.pages("gibberish")), truth.pages()
    rules = [("repetition", {}, "logs", logs), ("dirty_words", {"list": truth.list("dirty_words")}, "dirty words", set(truth.pages("dirty"))),
             ("divergence", {"least_corpus": 10_000}, "gibberish", gibberish), ("gopher_repetition", {}, "logs", logs),
             ("gopher_quality", {}, "gibberish", gibberish)]  # fmt: skip
    english = {number: page for number, page in prose.items() if page.site.language == "en"}
    return [of_sets(name, fact, planted, truth.dropped(name, settings, english)) for name, settings, fact, planted in rules]


def pii(truth: Truth) -> list[Row]:
    """By kind; what only looks like personal data counts against the precision of all kinds together."""
    pages = {number: page for number, page in truth.pages("article").items() if "pii" in page.facts}
    left = run_step("pii", {}, [document(*page) for page in pages.items()], truth.folder)
    planted = [(number, fact["kind"], fact["text"]) for number, page in pages.items() for fact in page.facts["pii"]]
    gone = Counter(kind for number, kind, text in planted if text not in left[number].text)
    wrong = sum(text not in left[number].text for number, page in pages.items() for text in page.facts["decoys"])
    total = Counter(kind for _, kind, _ in planted)
    rows = [Row("pii", kind, total[kind], gone[kind], 0, 0) for kind in sorted(total)]
    return [Row("pii", "all", len(planted), sum(gone.values()), sum(gone.values()) + wrong, sum(gone.values())), *rows]


def quality(truth: Truth) -> list[Row]:
    """Trained on other articles and chatter than the web's."""
    random = Random(truth.web.questions[0])
    examples = {name: [{"text": "\n".join(texts.article(random, crowd=name == "crowd"))} for _ in range(300)] for name in ("good", "crowd")}
    model = truth.train("quality", *(part for name in examples for part in (f"--{name}", truth.rows(name, examples[name]))))
    dropped = truth.dropped("quality", {"model": model}, truth.pages("article", "crowd", "blocks"), "en")
    return [of_sets("quality", "chatter", set(truth.pages("crowd")), dropped)]


def topic(truth: Truth) -> list[Row]:
    random = Random(truth.web.questions[0])
    labelled = [{"text": "\n".join(texts.article(random, topic=topic)), "label": topic} for topic in texts.TOPICS for _ in range(50)]
    model = truth.train("topic", "--labelled", truth.rows("topics", labelled))
    pages = {number: page for number, page in truth.pages("article").items() if page.site.language == "en"}
    left = run_step("topic", {"model": model}, [document(*page) for page in pages.items()], truth.folder)
    return [of_sets("topic", topic, {number for number, page in pages.items() if page.facts["topic"] == topic},
                    {number for number, found in left.items() if found.metadata["topic"] == topic}) for topic in texts.TOPICS]  # fmt: skip


def decontaminate(truth: Truth) -> list[Row]:
    folder, items = truth.folder / "tokenizer", truth.folder / "questions.eval"
    folder.mkdir()
    tokenizer.train((page.text for page in truth.web.pages), 1024).save(folder)
    run_program("prepare_eval", truth.folder / "questions.jsonl", "--tokenizer", folder, "--output", items)
    dropped = truth.dropped("decontaminate", {"items": [str(items)], "tokenizer": str(folder)}, truth.pages())
    return [of_sets("decontaminate", "pages with questions", set(truth.pages("leaked")), dropped)]


CHECKS: list[Callable[[Truth], list[Row]]] = [url_filter, extract, language, url_dedup, minhash, line_dedup, heuristics, pii, quality, topic, decontaminate]


def measure(web: Web, checks: Iterable[Callable[[Truth], list[Row]]] = CHECKS) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        truth = Truth(web, pathlib.Path(folder))
        return [row for check in checks for row in check(truth)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, default=2000, metavar="N", help="pages of the web (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="what they are drawn from (default: %(default)s)")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write the table there, too")
    options = parser.parse_args()
    rows = measure(Web(options.seed, options.pages))
    print("| step | planted | number | recall | found | precision |\n| --- | --- | --- | --- | --- | --- |")
    for row in rows:
        found = f"{row.found} | {row.precision:.4f}" if row.found else " | "
        print(f"| {row.step} | {row.fact} | {row.planted} | {row.recall:.4f} | {found} |")
    if options.json:
        shown = [vars(row) | {"recall": row.recall, "precision": row.precision} for row in rows]
        options.json.write_text(json.dumps({"pages": options.pages, "seed": options.seed, "rows": shown}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
