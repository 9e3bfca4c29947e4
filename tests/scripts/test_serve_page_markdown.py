"""What the chat page makes of Markdown, in Chromium."""

import random
import re

import pytest

import browser
import seeds
from scriptedserver import ScriptedServer, running

pytestmark = browser.is_there


@pytest.fixture(scope="module")
def render(tmp_path_factory):
    """A function that shows a text of these pieces as it grows by one after the other: its HTML, and its characters."""

    def show(*pieces):
        return driver.execute_async_script("""
            const [pieces, done] = arguments;
            import("/static/answer.js").then(({ AnswerText }) => {
                const [text, tokens] = [new AnswerText(), []];
                pieces.forEach((_, n) => text.show(pieces.slice(0, n + 1).join(""), tokens, "markdown"));
                done([text.element.innerHTML, text.element.textContent]);
            }).catch((error) => done([String(error), ""]));""", pieces)

    with running(ScriptedServer({})) as url, browser.open_browser(tmp_path_factory.mktemp("browser")) as driver:
        driver.get(url)
        yield show
        assert browser.complaints(driver) == []


def code(language, text):
    """A code block's HTML."""
    caption = f"<figcaption><span>{language}</span><button type=\"button\">Copy</button></figcaption>"
    return f"<figure class=\"code\">{caption}<pre tabindex=\"0\"><code>{text}</code></pre></figure>"


@pytest.mark.parametrize("source, html", [
    ("a\nb\n\nc", "<p>a\nb</p><p>c</p>"),
    ("# A *b*\ntext", "<h3>A <em>b</em></h3><p>text</p>"),
    ("**a** __b__ *c* _d_ ***e***",
     "<p><strong>a</strong> <strong>b</strong> <em>c</em> <em>d</em> <strong><em>e</em></strong></p>"),
    ("*a **b** c*", "<p><em>a <strong>b</strong> c</em></p>"),
    ("2 * 3 * 4, a_b_c, a_b_ c, ** x **, *, _", "<p>2 * 3 * 4, a_b_c, a_b_ c, ** x **, *, _</p>"),
    ("`a*b*` ``c ` d`` ` e", "<p><code>a*b*</code> <code>c ` d</code> ` e</p>"),
    (r"\*a\* \\ \x", r"<p>*a* \ \x</p>"),
    ("- a\n- b\n  - c\n\n    d\n- e",
     "<ul><li><p>a</p></li><li><p>b</p><ul><li><p>c</p><p>d</p></li></ul></li><li><p>e</p></li></ul>"),
    ("3. a\n4. b\n\nc", "<ol start=\"3\"><li><p>a</p></li><li><p>b</p></li></ol><p>c</p>"),
    ("1. a\n- b", "<ol start=\"1\"><li><p>a</p></li></ol><ul><li><p>b</p></li></ul>"),
    ("a\n***\nb", "<p>a</p><hr><p>b</p>"),
    ("<b>&amp;", "<p>&lt;b&gt;&amp;amp;</p>"),
    ("```c\nint *a;\n\n  b\n```\nafter", code("c", "int *a;\n\n  b\n") + "<p>after</p>"),
    ("~~~\n```\n~~~", code("", "```\n")),
    ("```py\nnot yet closed", code("py", "not yet closed")),
    ("- item\n\n  ```\n  x\n    y\n  ```", f"<ul><li><p>item</p>{code('', 'x' + chr(10) + '  y' + chr(10))}</li></ul>"),
])  # fmt: skip
def test_markdown(render, source, html):
    assert render(source)[0] == html


def test_any_text_is_shown_whole(render):
    """All words of random Markdown are shown, in order, whatever is made of the marks, and in pieces as at once."""
    draw = random.Random(seeds.seed_of("markdown"))
    marks = ["*", "**", "_", "`", "~~~\n", "\n```\n", "\n", "\n\n", "  ", "\n- ", "\n1. ", "\n# ", "\\", "---", "<b>", " ", "🦙"]
    for _ in range(seeds.how_often(40, 4000)):
        pieces = [f" w{n} " if draw.random() < 0.5 else draw.choice(marks) for n in range(draw.randrange(1, 50))]
        html, text = render("".join(pieces))
        size = draw.randrange(1, 5)
        assert render(*("".join(pieces[at : at + size]) for at in range(0, len(pieces), size)))[0] == html, (size, pieces)
        assert re.findall(r"w\d+", text) == [piece.strip() for piece in pieces if piece.startswith(" w")], pieces


def test_long_hostile_text_is_shown(render):
    """A list with more items, and an item with more blocks, than a call takes arguments; marks that nothing closes."""
    assert render("- a\n" * 150_000)[1] == render("- a\n" + "\n  a\n" * 149_999)[1] == "a" * 150_000
    for piece in ("*", "**a", "_a ", "`", "```\n", "a `", "- ", " " * 50 + "- a\n", "\n", "*a _b ", "\\", "1. \n\n"):
        html, _ = render(piece * (20_000 // len(piece)))
        assert "Error" not in html, piece
