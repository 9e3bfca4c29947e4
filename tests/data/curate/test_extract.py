"""Extraction: what of a page is content, what is kept of code, mathematics and tables, and pages made to hurt."""

import pytest
import steprun
from curate.extract import Extract, page_text
from steprun import document

PROSE = "A paragraph of the article, which says something at some length, so that it counts as prose. "
BODY = f"<h1>A title</h1><p>{PROSE}</p><p>{PROSE * 4}</p><p>{PROSE * 3}</p>"
LINK = '<a href="/other">Another page of this site entirely</a>'


def text_of(body):
    return page_text(f"<!DOCTYPE html><html><head><title>x</title></head><body>{body}</body></html>")


@pytest.mark.parametrize("boilerplate", [
    "<nav>GONE</nav>", '<div class="navheader"><table><tr><td>GONE</td></tr></table></div>', "<footer><p>GONE</p></footer>",
    '<div role="navigation">GONE</div>', '<p style="display: none">GONE</p>',
    "<p hidden>GONE</p>", '<p aria-hidden="true">GONE</p>', '<div class="site-footer">GONE</div>', '<div id="comments"><p>GONE</p></div>', "<form>GONE</form>",
    '<ul class="menu"><li>GONE</li></ul>', f"<ul><li>GONE {LINK}</li></ul>", f"<h3>{LINK}</h3>", "<script>GONE</script>",
    "<div>" + f"<div>{LINK}<p>GONE</p></div>" * 3 + "</div>",
    f'<section><h2><a href="/x">GONE: {PROSE[:60]}</a></h2><p>GONE</p></section>',
])  # fmt: skip
def test_boilerplate_goes(boilerplate):
    expected = text_of(BODY)
    assert expected.count(PROSE.strip()) == 8 and "A title" in expected
    for page in (f"{boilerplate}<div>{BODY}</div>", f"<div>{BODY}{boilerplate}</div>"):
        assert text_of(page) == expected


@pytest.mark.parametrize("content", [
    f"<p>{PROSE} KEPT</p>", f'<p>{PROSE}<span class="share">x</span> KEPT</p>',
    f'<p><b>x</b><i class="x">y</i><span class="share">x</span> KEPT {PROSE}</p>',
    f"<p>KEPT with thirty characters {LINK * 3}</p>",
    f'<div><div class="share">{LINK * 9}</div>KEPT, and so is all that this block says.</div>',
    '<section id="sharing-a-file"><h2>KEPT</h2><p>Why.</p></section>', "<blockquote>KEPT</blockquote>",
    f"<p>KEPT: a sentence that is long and ends with {LINK}</p>",
    f"<table><tr><td>KEPT</td><td>{LINK}</td></tr><tr><td>and what follows"
    "</td><td>is said without any link in the whole row</td></tr></table>", "<pre>KEPT = 1</pre>",
    "<dl><dt>KEPT</dt><dd>It is.</dd></dl>",
    '<h2>KEPT<a class="headerlink" href="#x">¶</a></h2>', '<h2><a href="#there">KEPT</a></h2>', '<img src="x" alt="KEPT">',
])  # fmt: skip
def test_content_stays(content):
    found = text_of(f"<nav>{LINK}</nav><main>{BODY}{content}<p>{PROSE}</p></main>")
    assert "KEPT" in found and found.count(PROSE.strip()) >= 9 and "¶" not in found


@pytest.mark.parametrize("name", ["sidebar", "post-widget", "comments", "has-menu", "social-article"])
def test_what_holds_the_prose_stays_whatever_its_name(name):
    assert text_of(f'<form><div class="{name}" id="{name}">{BODY}</div></form>') == text_of(BODY)


def test_other_articles_beside_a_long_one_go():
    teasers = "".join(f'<article><h2><a href="/{n}">The news of {n}</a></h2><p>{PROSE}</p></article>' for n in range(5))
    assert text_of(f"<main><article>{BODY * 4}</article>{teasers}</main>") == text_of(BODY * 4)


@pytest.mark.parametrize("html, expected", [
    ('<script type="math/tex">a_1 + b</script>', "$a_1 + b$"), ('<script type="math/tex; mode=display">a</script>', "$$a$$"),
    ('<math><semantics><mi>x</mi><annotation encoding="application/x-tex">x^2</annotation></semantics></math>', "$x^2$"),
    ('<math alttext="\\frac{1}{2}" display="block"><mfrac><mn>1</mn><mn>2</mn></mfrac></math>', "$$\\frac{1}{2}$$"),
    ("<math><mfrac><mi>a</mi><mrow><mi>b</mi><mo>+</mo><mn>1</mn></mrow></mfrac><msup><mi>x</mi><mn>12</mn></msup></math>",
    "$(a)/(b+1)x^(12)$"),
    ('<span class="katex"><span class="katex-mathml"><math><mi>k</mi></math></span><span class="katex-html">k</span></span>',
    "$k$"),
    ('<span style="display: none"><math alttext="w"></math></span><img class="mwe-math-fallback-image-inline" alt="w">', "$w$"),
    ("**bold** and __so is this__ and *this* and _that_", "bold and so is this and this and that"),
    ("[named](https://example.org/x) and [1](/a) but f[0](x)", "named and 1 but f[0](x)"),
    ("2 * 3 * 4, f(**kw), __init__, snake_case_name, get_x_ y, a_b, x*y*z",
    "2 * 3 * 4, f(**kw), __init__, snake_case_name, get_x_ y, a_b, x*y*z"),
    ("## A heading", "A heading"), ("&gt; quoted", "quoted"), ("<code>**kept** _here_</code>", "**kept** _here_"),
    ("#hashtag", "#hashtag"),
])  # fmt: skip
def test_marks(html, expected):
    found = text_of(f"{BODY}<p>{html}</p>{BODY}")
    assert found == text_of(f"{BODY}<p>PLACE</p>{BODY}").replace("PLACE", expected)


def test_code_keeps_its_lines_and_tables_their_rows():
    found = text_of(f"{BODY}<pre>def f(x):\n    if x:\n\n        return  **x\n</pre><table><tr><th>a</th><th>b</th></tr><tr><td>1</td>"
                    f"<td>2</td></tr></table>{BODY}")  # fmt: skip
    assert "def f(x):\n    if x:\n\n        return  **x" in found
    assert [line.split() for line in found.split("\n") if line[:1] in "a1" and len(line.split()) == 2] == [["a", "b"],
        ["1", "2"]]


@pytest.mark.parametrize("html", [
    "", " ", "\0", "<", "<p>", "<html></html>", "<frameset><frame></frameset>", "\ud800", "<!--" * 100_000, "<" * 100_000,
    "&" * 100_000,
    '<a href="' * 50_000, "<svg><style>" * 1000, "<table><tr>" * 30_000, "<p>" * 100_000, "<b>" * 100_000, "</p>" * 100_000,
])  # fmt: skip
def test_pages_of_nothing(html):
    assert page_text(html).strip("<&? ") == ""


@pytest.mark.parametrize("tag", ["div", "b", "table", "ul", "blockquote", "math"])
def test_nothing_is_lost_below_deep_nesting(tag):
    found = page_text(f"<p>{PROSE}</p>" + f"<{tag}>" * 100_000 + "deep inside" + f"</{tag}>" * 100_000 + "<p>after it</p>")
    assert PROSE.strip() in found and "deep inside" in found and "after it" in found


@pytest.mark.parametrize("mark", ["*", "_", "**", "__", "[", "[a](", "> ", "# ", "*a ", "_a_b", "``` ", "!["])
def test_marks_without_end(mark):
    assert len(page_text(f"<p>{mark * 50_000}")) > 40_000


def test_the_step(tmp_path):
    given = [document(f"<body><nav>menu</nav>{BODY}", 0, type="html"), document("<b>no HTML</b>", 1, type="text"),
             document("<nav>menu</nav>", 2, type="html")]  # fmt: skip
    (kept,), counts = steprun.run(Extract, [given], tmp_path)
    assert [(each.id, each.metadata["type"]) for each in kept] == [("id0", "text"), ("id1", "text")]
    assert (kept[0].text, kept[1].text) == (text_of(BODY), "<b>no HTML</b>")
    assert counts.reasons == {"too little text": 1} and counts.changed == 2
    (kept,), _ = steprun.run(Extract, [[document(f"<nav>menu</nav>{BODY}", 0, type="html")]], tmp_path, main_content=False)
    assert "menu" in kept[0].text
