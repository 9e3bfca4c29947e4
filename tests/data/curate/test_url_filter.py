"""Lists of domains and URLs: the user's, and those that datatrove carries."""

import io
from random import Random

import pytest
import steprun
from curate import url_filter
from curate.url_filter import HashedSet, UrlFilter
from datatrove.pipeline.filters import url_filter as peer
from llmdata.errors import InputError
from seeds import seed_of
from steprun import document


def test_a_hashed_set_has_what_was_put_in(tmp_path):
    random = Random(seed_of("hashed set"))
    names = [f"{random.getrandbits(40)}.org" for _ in range(2000)]
    hashed = HashedSet(tmp_path / "set.npy", (name.encode() for name in names[:1000]))
    again = HashedSet(tmp_path / "set.npy", iter([b"not read, as the file exists"]))
    for each in (hashed, again):
        assert len(each) == 1000 and [name in each for name in names] == [True] * 1000 + [False] * 1000
    assert "x" not in HashedSet(tmp_path / "empty.npy", [])
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".npy"] == []


def run(tmp_path, urls, packaged=False, **lists):
    for name, lines in lists.items():
        (tmp_path / name).write_text("\n".join(lines))
    given = [document("text", n, **({"url": url} if url else {})) for n, url in enumerate(urls)]
    paths = {name: str(tmp_path / name) for name in lists}
    (kept,), counts = steprun.run(UrlFilter, [given], tmp_path / "folder", lists=paths, packaged=packaged)
    return [each.metadata.get("url") for each in kept], counts


def test_the_users_lists(tmp_path):
    bad = ["https://bad.org/", "http://www.BAD.org:8080/a?b#c", "https://deep.er.bad.org", "https://one.net/page/?q=1",
        "http://people.io"]
    good = ["https://notbad.org/", "https://bad.org.uk/", "https://one.net/page", "https://one.net/page?q=12",
        "https://org/bad.org", None]
    kept, counts = run(tmp_path, bad + good, adult=["# listed", "Bad.org  # one", "", "https://ONE.net/page/?q=1"],
        pii=["people.io"])
    assert kept == good
    assert counts.reasons == {"list adult": 4, "list pii": 1}
    assert {(item["value"], item["threshold"]) for item in counts.dropped.items} == {
        ("bad.org", "adult"), ("one.net/page/?q=1", "adult"), ("people.io", "pii")}  # fmt: skip
    with pytest.raises(InputError, match="steps.url_filter.lists.adult: found no file"):
        steprun.run(UrlFilter, [[]], tmp_path, lists={"adult": str(tmp_path / "none")})


def test_the_packaged_lists_are_used_as_datatrove_does(tmp_path, monkeypatch):
    """With lists of a few domains, and datatrove's own words."""
    lists = {"domains": b"velvet.com\nsub.mixed.org\n", "urls": b"https://plain.net/page\n"}
    monkeypatch.setattr(url_filter, "_packaged", lambda name: (line.strip() for line in io.BytesIO(lists[name])))
    monkeypatch.setattr(url_filter, "cached_assets_path", lambda **_: tmp_path)
    words = {name: peer.get_list(url_filter.ASSETS_PATH, f"{name}.txt", set())
             for name in ("banned_words", "soft_banned_words", "banned_subwords")}  # fmt: skip
    original = peer.URLFilter(2, ["velvet.com", "sub.mixed.org"], ["https://plain.net/page"], use_integrated_lists=False,
        **words)
    hard, soft, part = (sorted(words[name])[5] for name in words)
    other = sorted(words["soft_banned_words"])[6]
    urls = ["https://velvet.com/x", "https://a.velvet.com/", "https://sub.mixed.org/", "https://mixed.org/",
        "https://plain.net/page",
            "https://plain.net/pages", f"https://x.net/{hard}", f"https://x.net/{soft}", f"https://x.net/{soft}/{other}",
            f"https://x.net/aa{part}bb", "https://docs.python.org/3/library/re.html"]  # fmt: skip
    kept, counts = run(tmp_path, urls, packaged=True)
    assert kept == [url for url in urls if original.filter(document("", url=url)) is True]
    reasons = ("domain", "subdomain", "url", "hard_blacklisted")
    assert set(counts.reasons) >= {f"packaged: {reason}" for reason in reasons}


def test_the_package_has_the_lists():
    domains = url_filter._packaged("domains")
    assert all(next(domains) for _ in range(1000)) and next(url_filter._packaged("urls"))
