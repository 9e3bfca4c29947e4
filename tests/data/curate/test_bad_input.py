"""What bad input does to a run of data/curate.py: it is counted by reason and named, and everything else comes through."""

import gzip
import json
import os
import random

import pyarrow
import pyarrow.parquet
import pytest

import curating
from curating import WITH_PLANTED_STEPS, page, record, write_warc
from seeds import how_often

CAP = 2 << 20  # bytes of a document
EMPTY_FILES = how_often(200, 100_000)
LONG_LINE = how_often(20, 300) << 20
WORDS = "The river flows through the old town and its mills turn slowly while children watch from the bridge."


def good(number):
    return record(number, page(f"{WORDS} Page {number}."))


def spoiled(data, rng):
    """A gzip member whose middle is overwritten."""
    middle = len(data) // 2
    return data[:middle] + rng.randbytes(20) + data[middle + 20 :]


def make_archives(folder, rng):
    packed = [gzip.compress(good(n)) for n in range(6)]
    (folder / "broken.warc.gz").write_bytes(b"".join(packed[:2]) + spoiled(packed[2], rng) + b"".join(packed[3:]))
    (folder / "garbage.warc.gz").write_bytes(gzip.compress(good(10)) + rng.randbytes(3000) + gzip.compress(good(11)))
    (folder / "cut.warc.gz").write_bytes(gzip.compress(good(20)) + gzip.compress(good(21))[:-30])
    (folder / "cut.warc").write_bytes(good(30) + good(31)[:-50])
    write_warc(folder / "longer.warc.gz", [good(40), record(41, page(WORDS), lie=700), good(42), good(43)])
    write_warc(folder / "shorter.warc", [good(50), record(51, page(WORDS), lie=-20), good(52)], packed=False)
    bomb = gzip.compress(bytes(50 << 20))
    write_warc(folder / "bomb.warc.gz", [record(60, bomb, headers=b"Content-Encoding: gzip\r\n"), good(61)])
    write_warc(folder / "large.warc.gz", [record(70, page("x" * (2 * CAP))), good(71)])
    (folder / "nothing.warc.gz").write_bytes(b"")
    (folder / "none.warc.gz").write_bytes(b"this is no archive " * 100)


def make_charsets(folder):
    text = "Die Größe der Brücke übertrifft alle Erwartungen der Bürger, die schöne Häuser lieben und Äpfel gerne essen."
    russian = "Каждое утро старый рыбак выходил на берег реки и долго смотрел на медленное течение воды под мостом."
    pages = [
        record(100, page(text).decode().encode("latin-1"), content_type="text/html; charset=utf-8"),  # wrong
        record(101, page(text).decode().encode("latin-1"), content_type="text/html"),  # missing
        record(102, page(text), content_type="text/html; charset=iso-8859-1"),  # wrong, as it is UTF-8
        record(103, page(russian).decode().encode("cp1251"), content_type="text/html; charset=nonsense"),
        record(104, page(text).decode().encode("utf-16"), content_type="text/html"),
        record(105, page(WORDS.replace(" ", "\0 ", 1))),
        record(106, b"\0\1\2\3" * 500),
    ]
    write_warc(folder / "charsets.warc.gz", pages)
    return text, russian


def make_pages(folder):
    html = folder / "html"
    html.mkdir()
    for number in range(EMPTY_FILES):
        (html / f"empty{number:06}.html").write_bytes(b"")
    (html / "nested.html").write_bytes(b"<div>" * 100_000 + WORDS.encode() + b"</div>" * 100_000)
    (html / "explodes.html").write_bytes(page("".join(part * 5000 for part in ("a@", ".", "-", "((", " \t", "1.")) + WORDS))
    (html / "attributes.html").write_bytes(b"<p " + b"a='" * 100_000 + b">" + WORDS.encode())
    (html / "bomb.html.gz").write_bytes(gzip.compress(bytes(50 << 20)))
    (html / "cut.html.gz").write_bytes(gzip.compress(page(WORDS) * 100)[:-20])
    (html / "good.html").write_bytes(page(WORDS))
    (html / "vanishes.html").symlink_to("nowhere")


def make_rows(folder):
    rows = [{"text": WORDS, "id": "row-1"}, ["no object"], {"text": 7}, {"text": f"{WORDS} \ud800", "id": "row-2"},
            {"html": page(WORDS).decode(), "id": "row-3"},
            {"text": WORDS, "id": 4, "url": "http://x.example/\ud800", "language": 7, "metadata": {"huge": 10**30}},
            {"text": WORDS, "id": 5, "language": "../up"}, {"text": WORDS, "id": 6, "metadata": {"language": "DE-at"}}]  # fmt: skip
    lines = [json.dumps(row) for row in rows]
    with open(folder / "rows.jsonl", "wb") as file:
        file.write("\n".join(lines).encode() + b"\nnot JSON\n" + b"[" * 100_000 + b'\n{"text": "\xff"}\n{"text": "')
        for _ in range(LONG_LINE >> 20):
            file.write(b"x" * (1 << 20))
        file.write(b'"}\n' + json.dumps({"text": WORDS, "id": "row-last"}).encode() + b"\n")
    (folder / "cut.jsonl.gz").write_bytes(gzip.compress(json.dumps(rows[0]).encode() + b"\n" + os.urandom(1 << 18))[:-50])
    table = pyarrow.table({"text": [WORDS, None], "id": ["table-1", "table-2"]})
    pyarrow.parquet.write_table(table, folder / "table.parquet")
    (folder / "broken.parquet").write_bytes(b"PAR1" + os.urandom(1000))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(statistics, documents by id, the folder, what the charsets' pages say)"""
    folder, rng = tmp_path_factory.mktemp("bad"), random.Random(random.getrandbits(63))
    web = folder / "web"
    web.mkdir()
    make_archives(web, rng)
    texts = make_charsets(web)
    make_pages(web)
    make_rows(web)
    config = curating.settings(folder, [web], {"extract": {}, "pii": {}}, document_bytes=CAP, document_seconds=20)
    return curating.curate("--config", config), curating.documents(folder / "out"), folder, texts


def named(made, reason):
    return " ".join(made[0]["input"]["faults"][reason]["names"])


def ids(made):
    return {name.strip("<>").removeprefix("urn:uuid:").lstrip("0") for name in made[1]}


def test_damaged_members_cost_themselves_alone(made):
    assert "broken.warc.gz" in named(made, "damaged WARC record") and "garbage.warc.gz" in named(made, "damaged WARC record")
    assert {"1", "3", "4", "5", "10", "11", "20", "30"} <= ids(made) and "2" not in ids(made)


def test_truncated_records_are_named(made):
    assert "/21" in named(made, "truncated WARC record") and "/31" in named(made, "truncated WARC record")


def test_a_record_that_claims_the_next_one_is_left_out_and_the_next_one_read(made):
    assert "/41" in named(made, "lying Content-Length")
    assert {"40", "42", "43"} <= ids(made) and "41" not in ids(made)


def test_a_record_longer_than_it_claims_hides_no_other(made):
    assert "shorter.warc" in named(made, "damaged WARC record") and {"50", "52"} <= ids(made)


def test_bombs_and_long_documents_are_named(made):
    for name in ("/60", "/70", "rows.jsonl: line 12", "bomb.html.gz"):
        assert name in named(made, "too long")
    assert {"61", "71", "row-last"} <= ids(made)


def test_a_page_is_read_whatever_charset_it_claims(made):
    german, russian = made[3]
    texts = {name.strip("<>")[-3:]: row["text"] for name, row in made[1].items() if name.startswith("<urn:uuid:000001")}
    assert [name for name in ("100", "101", "102", "104") if german not in texts[name]] == []
    assert russian in texts["103"]
    assert "\0" not in texts["105"] and "The river flows" in texts["105"]
    assert "site.example/106" in named(made, "binary")


def test_empty_files_are_counted(made):
    assert made[0]["input"]["faults"]["empty file"]["count"] == EMPTY_FILES
    assert len(made[0]["input"]["faults"]["empty file"]["names"]) <= 60


def test_odd_html_comes_through_or_is_counted(made):
    """Depth, attributes and characters that make careless code run for ever, or out of stack."""
    counted = " ".join(name for step in made[0]["steps"].values() for fault in step["faults"].values() for name in fault["names"])
    for name in ("nested", "explodes", "attributes"):
        assert any(f"/{name}.html" in one for one in made[1]) or name in counted, name
    assert any("/good.html" in name for name in made[1])


def test_a_vanished_file_is_named(made):
    assert "vanishes.html" in named(made, "file vanished")


def test_rows_that_are_none_are_named(made):
    assert made[0]["input"]["faults"]["not a row"]["count"] == 6  # two values, two lines, one of JSON too deep, one of a table
    assert {"row-1", "row-2", "row-3", "4", "table-1"} <= set(made[1])
    assert "\ufffd" in made[1]["row-2"]["text"]
    assert [made[1][name].get("language") for name in "456"] == [None, None, "de"]


def test_damaged_files_are_named(made):
    for name in ("cut.jsonl.gz", "broken.parquet"):
        assert name in named(made, "damaged file")
    assert "cut.html.gz" in named(made, "damaged gzip data")


def test_no_process_took_more_memory_than_its_share(made):
    assert 0 < max(used["memory_mib"] for used in made[0]["passes"].values()) < 2048


@pytest.fixture(scope="module")
def misbehaved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted")
    rows = [{"text": f"{WORDS} Number {n}.", "id": f"good-{n}"} for n in range(30)]
    for place, kind in enumerate(("crash", "hang", "hungry", "slow", "raises", "crash"), 3):
        rows.insert(4 * place, {"text": f"{WORDS} PLANTED:{kind}", "id": f"{kind}-{place}"})
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    config = curating.settings(folder, [folder / "rows.jsonl"], {"planted": {}}, document_seconds=1, memory_gb=1, workers=1)
    statistics = curating.curate("--config", config, program=WITH_PLANTED_STEPS)
    return statistics, curating.documents(folder / "out")


def test_a_process_that_dies_or_hangs_costs_one_document(misbehaved):
    statistics, documents = misbehaved
    assert {name for name in documents} == {f"good-{n}" for n in range(30)}
    died = {reason: fault["names"] for reason, fault in statistics["input"]["faults"].items()}
    assert died == {"process died (SIGSEGV)": ["crash-3", "crash-8"], "time limit (process stopped)": ["hang-4"]}


def test_faults_of_a_step_cost_one_document(misbehaved):
    faults = misbehaved[0]["steps"]["planted"]["faults"]
    assert {reason: fault["names"] for reason, fault in faults.items()} == {
        "MemoryError": ["hungry-5"], "time limit": ["slow-6"], "ValueError": ["raises-7: planted"]}  # fmt: skip
