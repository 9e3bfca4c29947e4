"""Duplicates by URL, by MinHash and by line, against counts by brute force. Tables are so small that each takes several."""

import tracemalloc
from collections import Counter, defaultdict
from random import Random

import numpy as np
import pytest
import steprun
from curate import minhash, tables
from curate.clusters import read_clusters
from curate.line_dedup import LineDedup
from curate.minhash import BANDS, ROWS, MinHash
from curate.url_dedup import UrlDedup, normal_url
from llmdata.errors import Fault
from planted_text import LISTS, jaccard
from seeds import seed_of
from steprun import document


@pytest.fixture(autouse=True)
def small_tables(monkeypatch):
    monkeypatch.setattr(tables, "MOST", 300)


def ids(tasks):
    return [each.id for documents in tasks for each in documents]


# ---- URL


@pytest.mark.parametrize("one, other", [
    ("http://Example.org/a", "https://example.org:443/a#part"), ("http://example.org", "https://EXAMPLE.org:443/"),
    ("http://example.org:80/?q=1", "https://example.org/?q=1#x"),
])  # fmt: skip
def test_urls_of_the_same_page(one, other):
    assert normal_url(one) == normal_url(other)


@pytest.mark.parametrize("other", ["http://example.org/A", "http://example.org/a/", "http://example.org/a?x", "http://example.org:81/a",
                                   "http://www.example.org/a"])  # fmt: skip
def test_urls_of_other_pages(other):
    assert normal_url(other) != normal_url("http://example.org/a")


def test_the_newest_of_a_url_stays(tmp_path):
    random = Random(seed_of("urls"))
    dates = [f"20{n // 400 + 10}-{n // 30 % 12 + 1:02}-{n % 30 // 2 + 1:02}T{n % 24:02}:30:00Z" for n in random.sample(range(4000), 500)]
    made = [document("x", n, url=f"https://a.org/{random.randrange(100)}#{n}", date=date) for n, date in enumerate(dates)]
    newest = {}
    for each in made:
        url, date = each.metadata["url"].partition("#")[0], each.metadata["date"]
        if url not in newest or date > newest[url].metadata["date"]:
            newest[url] = each
    kept, counts = steprun.run(UrlDedup, steprun.spread(made, 5, random), tmp_path)
    assert ids(kept) == [each.id for each in made if each in newest.values()]
    assert counts.reasons == {"older version of a URL": 500 - len(newest)}
    assert all(item["value"] <= item["threshold"][:19] + "Z" for item in counts.dropped.items)


def test_documents_without_url_or_date(tmp_path):
    made = [document("x", 0), document("x", 1), document("x", 2, url="https://a.org/"), document("x", 3, url="https://a.org/", date="soon"),
            document("x", 4, url="http://[bad", date="2020"), document("x", 5, url="https://b.org/\ud800"),
            document("x", 6, url="https://a.org/", date="2020-01-01"), document("x", 7, url="https://b.org/\ud800")]  # fmt: skip
    kept, _ = steprun.run(UrlDedup, [made[:3], [], made[3:]], tmp_path)
    assert ids(kept) == ["id0", "id1", "id4", "id5", "id6"]


# ---- near duplicates


def sets_of_similarity(similarity, size, random):
    common = round(2 * size * similarity / (1 + similarity))
    values = random.integers(0, 2**64, 2 * size - common, np.uint64)
    return values[:size], values[size - common :]


@pytest.mark.parametrize("similarity", [0.4, 0.6, 0.8])
def test_chance_of_a_pair(similarity):
    random, pairs = np.random.default_rng(seed_of(f"bands {similarity}")), 1500
    found = sum((minhash.bands(one) == minhash.bands(other)).any()
                for one, other in (sets_of_similarity(similarity, 300, random) for _ in range(pairs)))  # fmt: skip
    chance = 1 - (1 - similarity**ROWS) ** BANDS
    assert abs(found / pairs - chance) < 5 * (chance * (1 - chance) / pairs) ** 0.5 + 0.01


def article(random, words=120):
    return " ".join(random.choice(LISTS["thing"]) + random.choice(LISTS["adjective"]) for _ in range(words))


def changed(random, text, words):
    """Other words in so many places: each is in five runs of the 116, so the similarity falls by about 0.08 with the first ones."""
    parts = text.split(" ")
    for place in random.sample(range(len(parts)), words):
        parts[place] = f"other{random.randrange(10**6)}"
    return " ".join(parts)


def near_pairs(random, count):
    """Originals and changed copies, in random order, with each one's family in its metadata."""
    made = []
    for number in range(count):
        text = article(random)
        made += [(number, text), (number, changed(random, text, random.choice([0, 1, 2, 3, 3, 4, 5, 6])))]
    random.shuffle(made)
    return [document(text, place, language="en", family=family) for place, (family, text) in enumerate(made)]


def test_near_duplicates(tmp_path):
    random = Random(seed_of("near duplicates"))
    made = near_pairs(random, 400)
    first, similarity = {}, {}
    for each in made:
        earlier = first.setdefault(each.metadata["family"], each)
        similarity[each.id] = 0 if earlier is each else jaccard(earlier.text, each.text)
    kept, counts = steprun.run(MinHash, steprun.spread(made, 4, random), tmp_path)
    dropped = set(similarity) - set(ids(kept))
    assert all(similarity[name] >= 0.75 for name in dropped)
    alike = {name for name, value in similarity.items() if value >= 0.79}
    assert len(alike) > 100 and len(dropped & alike) >= 0.95 * len(alike)
    values = {item["id"]: item["value"] for item in counts.dropped.items + counts.kept.items if item["value"]}
    assert len(values) > 20 and all(value == pytest.approx(similarity[name], abs=1e-3) for name, value in values.items())


def test_what_is_no_duplicate(tmp_path):
    """Other numbers, another language, too few words in common, nothing at all."""
    random = Random(seed_of("no duplicates"))
    text = article(random)
    numbered = [" ".join(f"{random.randrange(10**6)} {word}" for word in "a b c d e f g h i j k l".split()) for _ in range(20)]
    made = [document(text, 0, language="en"), document(text, 1, language="de"), document("", 2), document(" \n", 3),
            *(document(each, 4 + n) for n, each in enumerate(numbered))]  # fmt: skip
    assert ids(steprun.run(MinHash, [made[:1], made[1:]], tmp_path)[0]) == [each.id for each in made]
    short = [document(each, n) for n, each in enumerate(["One two", "one, TWO!", "one three", "one two three four five six"])]
    assert ids(steprun.run(MinHash, [short], tmp_path / "short")[0]) == ["id0", "id2", "id3"]


def test_words_of_scripts_without_spaces(tmp_path):
    text = "".join(chr(0x4E00 + Random(seed_of("Chinese")).randrange(3000) + n) for n in range(200))
    made = [document(text, 0, language="zh"), document(text[:100] + text[101:], 1, language="zh"), document(text[:80], 2, language="zh")]
    assert ids(steprun.run(MinHash, [made], tmp_path)[0]) == ["id0", "id2"]


def test_clusters(tmp_path, monkeypatch):
    """Those of 30 documents have more records of one hash than are in memory at once."""
    monkeypatch.setattr(tables, "MOST", 24)
    random = Random(seed_of("clusters"))
    wanted, made = {"2": 3, "5": 2, "30": 1}, []
    for size, count in wanted.items():
        made += [text for _ in range(count) for text in [article(random)] * int(size)]
    made = [document(text, n) for n, text in enumerate(random.sample(made + [article(random) for _ in range(20)], len(made) + 20))]
    kept, counts = steprun.run(MinHash, steprun.spread(made, 3, random), tmp_path)
    assert len(ids(kept)) == 6 + 20 and {each.text for task in kept for each in task} == {each.text for each in made}
    assert counts.counters == {f"cluster size/{size}": count for size, count in wanted.items()}
    found = read_clusters(tmp_path)
    assert found["sizes"] == wanted and [each["size"] for each in found["largest"]] == [30, 5, 5, 2, 2, 2]
    for cluster in found["largest"]:
        assert len({member["excerpt"] for member in cluster["members"]}) == 1 and len(cluster["members"]) == min(5, cluster["size"])
        assert [member["jaccard"] for member in cluster["members"]] == [0.0, *[1.0] * (len(cluster["members"]) - 1)]


def test_a_chain_of_changes_is_one_cluster(tmp_path):
    random = Random(seed_of("chain"))
    texts = [article(random)]
    while len(texts) < 8:
        texts.append(changed(random, texts[-1], 2))
    kept, _ = steprun.run(MinHash, [[document(text, n) for n, text in enumerate(texts)]], tmp_path)
    assert ids(kept) == ["id0"] and read_clusters(tmp_path)["sizes"] == {"8": 1}


def test_a_long_document_takes_little_memory():
    runs = np.random.default_rng(seed_of("long")).integers(0, 2**64, 500_000, np.uint64)
    tracemalloc.start()
    minhash.bands(runs)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6  # all hashes together would be 384 MB


# ---- lines


def test_lines_are_counted_exactly(tmp_path):
    random, most, size = Random(seed_of("lines")), 6, 60
    known = ["}", "---", "", *(f"{random.choice(LISTS['thing'])} {n}" for n in range(120))]
    made = [document("\n".join(random.choice(known[: random.randint(1, 123)]) for _ in range(random.randint(1, 8))), n,
                     language=random.choice(["en", "en", "de", "a/../b"])) for n in range(400)]  # fmt: skip
    tasks = steprun.spread(made, 5, random)
    before = {each.id: (each.metadata["language"], each.text.split("\n")) for each in made}
    buckets, bucket_of = defaultdict(Counter), {}
    state = {}  # language: (number of the bucket, documents in it)
    for task in tasks:
        by_language = defaultdict(list)
        for each in task:
            by_language[each.metadata["language"]].append(each.id)
        for language, names in by_language.items():
            for part in (names[at : at + size] for at in range(0, len(names), size)):
                number, full = state.get(language, (0, 0))
                number, full = (number + 1, 0) if full and full + len(part) > size else (number, full)
                state[language] = number, full + len(part)
                for name in part:
                    bucket_of[name] = language, number
                    buckets[bucket_of[name]].update(before[name][1])
    kept, counts = steprun.run(LineDedup, tasks, tmp_path, most=most, bucket_documents=size)
    wanted = {name: [line for line in lines if not any(map(str.isalnum, line)) or buckets[bucket_of[name]][line] <= most]
              for name, (_, lines) in before.items()}  # fmt: skip
    removed = sum(len(before[name][1]) - len(lines) for name, lines in wanted.items())
    assert len(set(bucket_of.values())) > 5 and counts.changes == removed > 100
    gone = {name for name, lines in wanted.items() if not any(map(str.isalnum, "".join(lines)))}
    assert {each.id: list(filter(None, each.text.split("\n"))) for task in kept for each in task} == \
        {name: list(filter(None, lines)) for name, lines in wanted.items() if name not in gone}  # fmt: skip
    assert counts.reasons == {"no line left": len(gone)}


def test_lines_differ_by_more_than_case_and_space(tmp_path):
    lines = ["Home  page", "home page", " HOME PAGE", "home\tpage", "homepage"] * 2
    made = [document(f"own {n}\n\n{line}\n\nend {n}", n) for n, line in enumerate(lines)]
    kept, _ = steprun.run(LineDedup, [made], tmp_path)
    assert [each.text.split("\n")[1:-1] for each in kept[0]] == [[""], [""], [""], [""], ["", "homepage", ""]] * 2


# ---- files


@pytest.mark.parametrize("step", [UrlDedup, MinHash])
def test_a_document_that_is_left_out_later_shifts_no_other(tmp_path, step):
    random = Random(seed_of("left out"))
    same = article(random)
    made = [document(same if n % 4 == 3 else article(random), n, url=f"https://a.org/{'same' if n % 4 == 3 else n}", date="2020-01-01")
            for n in range(24)]  # fmt: skip
    kept, _ = steprun.run(step, [made], tmp_path, left_out={"id2", "id12"})
    assert ids(kept) == [f"id{n}" for n in range(24) if n not in (2, 12) and (n % 4 != 3 or n == 3)]


def test_an_attempt_that_was_killed_leaves_nothing(tmp_path):
    random = Random(seed_of("killed"))
    made = [document(f"{article(random)}\nline", n, url=f"https://a.org/{n}", date="2020-01-01") for n in range(100)]
    for step in (UrlDedup, MinHash, LineDedup):
        barrier = step(steprun.settings_of(step), steprun.Context(tmp_path / step.name, 1))
        steprun.collect(barrier, [made * 2])  # what a longer attempt leaves behind
        again = [document(each.text, each.id, **each.metadata) for each in made]  # what a run changes
        assert len(steprun.run(step, [again], tmp_path / step.name)[0][0]) == 100


@pytest.mark.parametrize("pattern", ["bands/*.npy", "shingles/*.u32", "shingles/*.npy", "pairs/*.npy", "duplicates/*.npy"])
def test_files_of_a_wrong_length_are_named(tmp_path, pattern):
    random = Random(seed_of("cut"))
    text = article(random)
    tasks = [[document(text, n) for n in range(30)]]
    barrier = MinHash(steprun.settings_of(MinHash), steprun.Context(tmp_path, 1))
    steprun.collect(barrier, tasks)
    minhash._sets.cache_clear()
    passes = barrier.between()
    for number, each in enumerate(passes):
        for path in list(tmp_path.glob(pattern))[:1]:
            path.write_bytes(path.read_bytes()[:-5])
            with pytest.raises(Fault, match=path.name):
                for later in passes[number:]:
                    later.pipeline[0].run(None, 0, 1)
                barrier.decide().start(0)
            return
        each.pipeline[0].run(None, 0, 1)
    raise AssertionError(f"no file {pattern}")


@pytest.mark.parametrize("parts", [1, 3, 16])
def test_merged_runs_hold_everything_once(tmp_path, monkeypatch, parts):
    random = np.random.default_rng(seed_of("merged"))
    dtype = [("hash", "<u8"), ("value", "<u4")]
    hashes = np.r_[random.integers(0, 2**64, 400, np.uint64), np.repeat(np.array([0, 7, 2**64 - 1], np.uint64), 100)]
    records = np.zeros(len(hashes), dtype)
    records["hash"], records["value"] = random.permutation(hashes), np.arange(len(hashes))
    for rank, part in enumerate(np.array_split(records, 3)):
        runs = tables.Runs(tmp_path, rank, dtype)
        for some in np.array_split(part, 7):
            runs.add(some)
        runs.flush()
    found = [each for part in range(parts) for each in tables.merged(tables.runs_of(tmp_path), part, parts)]
    together = np.concatenate(found)
    assert sorted(together["value"]) == list(range(len(hashes))) and (np.diff(together["hash"].astype(object)) >= 0).all()
    assert all(one["hash"][-1] < other["hash"][0] for one, other in zip(found, found[1:]))
    monkeypatch.setattr(tables, "MOST", 16)
    pieces = [each for part in range(parts) for each in tables.merged(tables.runs_of(tmp_path), part, parts, whole=False)]
    assert np.array_equal(np.concatenate(pieces), together) and max(map(len, pieces)) < 100  # a run of one hash, not all
