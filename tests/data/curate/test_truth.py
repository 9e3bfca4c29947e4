"""Floors of precision and recall for every step, on a web of pages with planted facts (dev/bench/curate_truth.py)."""

import curate_truth
import pytest
from planted_web import Web
from seeds import seed_of

# (step, fact): (recall, precision)
FLOORS = {
    ("url_filter", "listed domains"): (1.0, 1.0),
    ("extract", "lines"): (0.98, 0.98),
    **{("extract", kind): (0.98, 1.0) for kind in ("paragraph", "code", "tex", "mathml", "table", "list", "alt", "markers removed")},
    ("language", "other than de, en, es, fr"): (0.98, 0.75),  # wrong are pages with a foreign paragraph, which are in no language enough
    ("language", "en"): (0.95, 0.99),
    ("language", "foreign lines"): (0.95, 0.98),
    ("quality", "chatter"): (0.95, 0.95),
    ("topic", "sport"): (0.9, 0.9),
    ("topic", "music"): (0.9, 0.9),
    ("decontaminate", "pages with questions"): (0.99, 0.99),
    ("url_dedup", "older versions"): (1.0, 1.0),
    ("minhash", "exact copies"): (1.0, 0.99),
    ("minhash", "near copies, Jaccard 0.8 or more"): (0.95, 0.99),
    ("line_dedup", "lines seen more than 6 times"): (1.0, 1.0),
    ("repetition", "logs"): (0.98, 0.98),
    ("dirty_words", "dirty words"): (0.98, 0.98),
    ("divergence", "gibberish"): (0.95, 0.95),
    ("gopher_repetition", "logs"): (0.98, 0.1),  # these rules are for prose: they drop code and mathematics
    ("gopher_quality", "gibberish"): (0.98, 0.1),
    ("pii", "all"): (0.95, 0.95),
}


@pytest.fixture(scope="module")
def web():
    return Web(seed_of("truth"), 400)


@pytest.mark.parametrize("check", curate_truth.CHECKS, ids=lambda check: check.__name__)
def test_floors(check, web):
    rows = curate_truth.measure(web, [check])
    held = [(row, *FLOORS[row.step, row.fact]) for row in rows if (row.step, row.fact) in FLOORS]
    assert held and all(row.planted for row in rows)
    assert [row for row, recall, precision in held if row.recall < recall or row.precision < precision] == []
