"""The chat page in Chromium, before scripts/serve.py with models of its own."""

import pytest
from selenium.webdriver.common.keys import Keys

import browser
from chatpage import ChatPage
from hfmodels import edit_config
from serving import FIELDS, KEPT, Served, parrot_model

pytestmark = browser.is_there

LONG = 50_000  # tokens of an answer that no test waits for


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    place = tmp_path_factory.mktemp("page")
    parrot_model(place / "parrot")
    parrot_model(place / "endless", "Once 🦙", ends=False)
    edit_config(place / "endless", lambda fields: fields.update(max_position_embeddings=LONG))
    parrot_model(place / "base")
    (place / "base/chat_template.jinja").unlink()
    models = {name: place / name for name in ("parrot", "endless", "base")}
    with Served(place / "served", models, "--context", LONG, "--rows", 4) as served, browser.open_browser(place) as driver:
        page = ChatPage(driver, served.url)
        page.open()
        yield served, page


@pytest.fixture
def page(opened):
    _, page = opened
    page.one("#new").click()
    page.fill("[name=temperature]", "0")
    yield page
    assert browser.complaints(page.driver) == []


def answer_of(page, model):
    return page.all(f".turn:last-child [aria-label='Answer of {model}'] > .text")[0].get_property("textContent")


def test_models_side_by_side(page):
    assert page.texts("#models small") == ["chat", "chat", "continues texts"]
    page.choose("parrot", "endless", "base")
    page.fill("[name=max_tokens]", "10")
    page.ask("Hello é🦙")
    page.fill("[name=max_tokens]", "100")
    page.ask("Once more")
    assert answer_of(page, "parrot") == KEPT
    assert answer_of(page, "endless").startswith("Once 🦙Once 🦙O")
    notes = [note.get_property("textContent") for note in page.all(".turn:last-child .answer .note")]
    assert notes[0].startswith(f"{len(KEPT.encode()) + 1} tokens") and notes[1].startswith("100 tokens")
    assert ["cut at the limit" in note for note in notes] == [False, True, False]


def test_tokens_of_bytes_make_characters(page):
    page.choose("parrot")
    page.ask("Hello")
    assert page.tokens() == list(KEPT)
    page.hover(page.one(".token"))
    assert page.text("#tip code") == KEPT[0] and len(page.all("#tip tr")) == 5
    shares = [float(cell.removesuffix(" %").removeprefix("< ")) for cell in page.texts("#tip td:nth-child(2)")]
    assert shares[0] == max(shares) > 50 and sum(shares) < 100.1


def test_a_stopped_answer_ends_in_the_engine(page, opened):
    served, _ = opened
    page.choose("endless")
    page.fill("[name=max_tokens]", str(LONG - 1000))
    page.send("Tell me")
    page.until(lambda: answer_of(page, "endless"))
    page.key(Keys.ESCAPE)
    page.wait()
    assert page.text(".answer .note").endswith("stopped")
    page.until(lambda: served.quiet("endless"))
    assert served.logged("the client went away")


def test_continuing_gives_what_one_answer_gives(page):
    page.choose("parrot")
    page.fill("[name=max_tokens]", "4")
    page.ask("Hello")
    assert answer_of(page, "parrot") == KEPT[:4]
    page.fill("[name=max_tokens]", "100")
    page.button(".answer", "Continue").click()
    page.wait()
    assert answer_of(page, "parrot") == KEPT
    page.choose("base")
    page.one("#new").click()
    page.fill("[name=max_tokens]", "3")
    page.ask(KEPT[:1])
    assert answer_of(page, "base") == KEPT[1:4]
    page.fill("[name=max_tokens]", "100")
    page.button(".answer", "Continue").click()
    page.wait()
    assert answer_of(page, "base") == KEPT[1:]


def test_the_servers_errors_are_shown(page):
    page.choose("parrot")
    page.run("document.getElementById('prompt').value = 'word '.repeat(arguments[0])", FIELDS["max_position_embeddings"])
    page.ask("")
    assert "expected" in page.text(".error") and page.text(".error").endswith(".")


def test_headers(opened):
    served, _ = opened
    for path in ("", "static/app.js", "static/style.css"):
        status, headers, _ = served.ask(path)
        assert status == 200 and "script-src 'self'" in headers["Content-Security-Policy"], path
        assert headers["X-Content-Type-Options"] == "nosniff"
    assert served.ask("static/../page.py")[0] == served.ask("static/index.html")[0] == 404
