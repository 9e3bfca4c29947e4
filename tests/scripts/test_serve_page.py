"""The chat page in Chromium, before a server whose models say what a test wants."""

import json

import pytest
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

import browser
from chatpage import ChatPage
from scriptedserver import BREAK, HOLD, ScriptedServer, running

pytestmark = browser.is_there

MODELS = {"after": True, "before": True, "base": False}
HOSTILE = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script> [a](javascript:alert(1)) &lt;"


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    with running(server := ScriptedServer(MODELS)) as url, browser.open_browser(folder) as driver:
        server.downloads = folder
        yield server, ChatPage(driver, url)


@pytest.fixture
def server(opened):
    server, _ = opened
    server.says, server.key, server.asked = {name: ["Hello"] for name in MODELS}, "", []
    server.gone.clear()
    return server


@pytest.fixture
def page(opened, server):
    _, page = opened
    browser.set_size(page.driver, 1280, 800)
    browser.set_dark(page.driver, False)
    page.open()
    yield page
    assert browser.complaints(page.driver) == []


def answers(page):
    return page.texts(".turn:last-child .answer > .text")


# ---- asking


def test_models_answer_side_by_side(page, server):
    server.says = {"after": ["One ", "answer"], "before": ["Another"], "base": [" and so on"]}
    page.ask("Who?")
    assert page.texts(".answer > h2") == ["after", "before", "base"]
    assert answers(page) == ["One answer", "Another", " and so on"]
    assert len({element.rect["y"] for element in page.all(".answer")}) == 1
    assert page.text(".answer .note").startswith("2 tokens")


def test_requests_say_what_the_form_says(page, server):
    page.fill("#system", "Be brief.")
    for name, value in {"temperature": "0.5", "top_p": "0.9", "top_k": "40", "max_tokens": "17", "seed": "3"}.items():
        page.fill(f"[name={name}]", value)
    page.choose("after")
    page.ask("Who?")
    assert server.asked == [{
        "model": "after", "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who?"}],
        "temperature": 0.5, "top_p": 0.9, "top_k": 40, "max_tokens": 17, "seed": 3, "stream": True,
        "stream_options": {"include_usage": True}, "logprobs": True, "top_logprobs": 5,
    }]  # fmt: skip
    page.fill("[name=seed]", "")
    Select(page.one("[name=probabilities]")).select_by_value("off")
    page.ask("Why?")
    assert not {"seed", "logprobs", "top_logprobs"} & set(server.asked[-1])


def test_each_model_sees_its_own_answers(page, server):
    server.says = {"after": ["A"], "before": ["B"], "base": ["C"]}
    page.ask("1?")
    page.ask("2?")
    seen = {body["model"]: body for body in server.asked[3:]}
    for model, answer in (("after", "A"), ("before", "B")):
        assert [message["content"] for message in seen[model]["messages"]] == ["1?", answer, "2?"]
    assert seen["base"]["prompt"] == "1?C2?" and "messages" not in seen["base"]
    page.choose("after")
    page.ask("3?")
    page.choose("before")
    page.ask("4?")  # what it did not answer itself, another one did
    assert [message["content"] for message in server.asked[-1]["messages"]] == ["1?", "B", "2?", "B", "3?", "A", "4?"]


def test_keys_of_the_message(page, server):
    page.choose("after")
    page.one("#prompt").send_keys("one", Keys.SHIFT, Keys.ENTER, Keys.NULL, "two")
    assert server.asked == []
    page.ask("")
    assert server.asked[0]["messages"][0]["content"] == "one\ntwo"
    page.one("#prompt").send_keys("  ", Keys.ENTER)
    page.choose()
    page.one("#prompt").send_keys("Who?", Keys.ENTER)
    page.until(lambda: page.text("#status") == "Choose a model first.")
    assert len(server.asked) == 1


def test_a_wrong_setting_is_not_sent(page, server):
    page.fill("[name=temperature]", "-1")
    page.one("#prompt").send_keys("Who?", Keys.ENTER)
    assert page.run("return document.activeElement.name") == "temperature"
    page.fill("[name=temperature]", "1")
    page.ask("")
    assert {body["temperature"] for body in server.asked} == {1}


# ---- stopping, going on, once more


def begin(page, server, model, *pieces):
    """An answer that has got so far."""
    page.choose(model)
    server.says[model] = [*pieces, HOLD]
    page.send("Tell me.")
    page.until(lambda: answers(page) == ["".join(pieces)])


def test_stop_and_continue(page, server):
    begin(page, server, "after", "Once ", "upon")
    page.key(Keys.ESCAPE)
    page.wait()
    assert server.gone.wait(browser.HANG)
    assert page.text(".answer .note").endswith("stopped")
    server.says["after"] = [" a ", "time"]
    page.button(".answer", "Continue").click()
    page.until(lambda: answers(page) == ["Once upon a time"])
    page.wait()
    assert server.asked[-1]["messages"][-1] == {"role": "assistant", "content": "Once upon"}
    assert server.asked[-1]["continue_final_message"] is True
    assert page.tokens() == ["Once ", "upon", " a ", "time"]


def test_stop_button_and_a_text_that_goes_on(page, server):
    begin(page, server, "base", " It was")
    page.one("#stop").click()
    page.wait()
    server.says["base"] = [" here"]
    page.button(".answer", "Continue").click()
    page.until(lambda: answers(page) == [" It was here"])
    assert server.asked[-1]["prompt"] == "Tell me. It was"


def test_another_chat_stops_the_answer(page, server):
    begin(page, server, "after", "Once")
    page.one("#new").click()
    assert server.gone.wait(browser.HANG)
    page.until(lambda: page.texts("#history .chat") == ["Tell me."])
    assert page.all(".turn") == [] and page.one("#send").is_displayed()


def test_retry_asks_one_model_again(page, server):
    page.choose("after", "before")
    page.ask("Who?")
    server.says = {"after": ["Better"], "before": ["Worse"]}
    page.button(".answer:first-child", "Retry").click()
    page.until(lambda: answers(page) == ["Better", "Hello"])
    page.wait()
    assert len(server.asked) == 3 and server.asked[0] == server.asked[2]


def test_an_edited_turn_is_sent_again(page, server):
    page.choose("after")
    for text in ("1?", "2?", "3?"):
        page.ask(text)
    page.button(".turn:nth-child(2) .prompt", "Edit").click()
    page.key(Keys.END, " Really?", Keys.ENTER)
    page.until(lambda: page.texts(".prompt > .text") == ["1?", "2? Really?"])
    page.wait()
    assert [message["content"] for message in server.asked[-1]["messages"]] == ["1?", "Hello", "2? Really?"]
    page.button(".prompt", "Edit").click()
    page.key("no", Keys.ESCAPE)
    assert page.texts(".prompt > .text") == ["1?", "2? Really?"]


def test_an_edited_answer_is_what_the_model_sees(page, server):
    page.choose("after")
    page.ask("1?")
    page.button(".answer", "Edit").click()
    page.one(".edit textarea").clear()
    page.one(".edit textarea").send_keys("Other", Keys.ENTER)
    assert answers(page) == ["Other"]
    page.ask("2?")
    assert server.asked[-1]["messages"][1] == {"role": "assistant", "content": "Other"}


def test_copy(page, server):
    server.says["after"] = ["*a*", "\n```\nx = 1\n```"]
    page.choose("after")
    page.ask("Who?")
    page.driver.set_permissions("clipboard-read", "granted")
    page.driver.set_permissions("clipboard-write", "granted")
    for label, copied in ((".answer .bar-of-actions", "*a*\n```\nx = 1\n```"), (".code", "x = 1\n"), (".prompt", "Who?")):
        page.button(label, "Copy").click()
        page.until(lambda: page.button(label, "Copied"))
        assert page.driver.execute_async_script("navigator.clipboard.readText().then(arguments[0])") == copied


# ---- probabilities


def test_probabilities_on_hover_and_by_keyboard(page, server):
    page.choose("after")
    server.says["after"] = ["Yes", " indeed", "\n\n", "**bo", "ld** ", "日".encode()[:2], "日".encode()[2:], "🦙"]
    page.ask("Who?")
    tokens = page.all(".token")
    assert page.tokens() == ["Yes", " indeed", "bo", "ld", " ", "日", "🦙"]
    assert not page.one("#tip").is_displayed()
    page.hover(tokens[1])
    assert page.texts("#tip td:nth-child(-n+2)") == ["␣indeed", "75.0 %", "␣other", "12.5 %"]
    page.hover(page.one("#prompt"))
    assert not page.one("#tip").is_displayed()
    assert [token.get_attribute("tabindex") for token in tokens] == ["0"] + ["-1"] * 6
    page.run("arguments[0].focus()", tokens[0])
    for key, shown in ((Keys.ARROW_RIGHT, "␣indeed"), (Keys.END, "🦙"), (Keys.ARROW_LEFT, "日"), (Keys.HOME, "Yes")):
        page.key(key)
        assert page.text("#tip code") == shown
        assert page.run("return document.activeElement.getAttribute('aria-describedby')") == "tip"
    page.key(Keys.ESCAPE)
    assert not page.one("#tip").is_displayed()


def test_probabilities_of_a_text_that_goes_on(page, server):
    page.choose("base")
    server.says["base"] = ["**no", "日".encode()[:1], "日".encode()[1:], "\nmark** "]
    page.ask("Who?")
    assert page.tokens() == ["**no", "日", "mark** "]
    page.hover(page.all(".token")[0])
    assert page.texts("#tip td:nth-child(-n+2)") == ["**no", "75.0 %", "␣other", "12.5 %"]


def test_coloured_probabilities(page, server):
    page.choose("after")
    server.says["after"] = ["**bo", "ld**"]
    page.ask("Who?")
    assert answers(page) == ["bold"]
    Select(page.one("[name=probabilities]")).select_by_value("colour")
    page.until(lambda: answers(page) == ["**bold**"])
    assert page.run("return arguments[0].style.getPropertyValue('--p')", page.all(".token")[0]) == "0.750"
    assert page.all(".token")[0].value_of_css_property("background-color") != "rgba(0, 0, 0, 0)"


# ---- text


def test_hostile_text_stays_text(page, server):
    server.says = {"after": [HOSTILE], "before": ["```" + HOSTILE + "\n" + HOSTILE], "base": [HOSTILE]}
    server.models = {**MODELS, HOSTILE: True}
    try:
        page.ask(HOSTILE)
        page.reload()
        assert page.texts("#models span")[-1] == HOSTILE
    finally:
        server.models = MODELS
    page.all("#history .chat")[0].click()
    assert answers(page)[0] == HOSTILE and answers(page)[2] == HOSTILE and HOSTILE in answers(page)[1]
    assert page.all("main img, main a, main script, aside img") == []
    assert page.driver.title.startswith("<img")
    # and were a text made markup, the browser would refuse it
    assert page.run("try { document.body.innerHTML = '<p>'; return 'made' } catch (error) { return error.name }") == "TypeError"
    assert all("TrustedHTML" in complaint for complaint in browser.complaints(page.driver))


# ---- errors


@pytest.mark.parametrize("says, text, message", [
    ((429, "the queue is full"), "", "The queue is full. Try again in 7 s."),
    ((400, "the prompt has 9 tokens, expected at most 8."), "", "The prompt has 9 tokens, expected at most 8."),
    (["Once", (500, "out of memory")], "Once", "Out of memory."),
    (["Once", BREAK], "Once", "The server broke off before the end of the answer."),
])  # fmt: skip
def test_errors_are_sentences(page, server, says, text, message):
    page.choose("after", "before")
    server.says["after"] = says
    page.ask("Who?")
    assert page.texts(".answer .error") == [message, ""]
    assert page.texts(".answer > .text") == [text, "Hello"]
    assert page.one(".error").get_attribute("role") == "alert"
    server.says["after"] = ["Well"]
    page.button(".answer:first-child", "Retry").click()
    page.until(lambda: answers(page) == ["Well", "Hello"] and not page.one(".error").is_displayed())


def test_a_server_that_is_gone(page, server):
    with running(other := ScriptedServer({"brief": True})) as url:
        gone = ChatPage(page.driver, url)
        gone.open()
    other.says = {"brief": ["Hello"]}
    gone.ask("Who?")
    assert gone.text(".error") == "The server does not answer. Is it still running?"


def test_the_key_is_asked_for_and_not_kept(page, server):
    server.key = "secret"
    page.run("sessionStorage.clear()")
    page.reload()
    page.until(lambda: page.text("#status") == "The API key is missing or wrong.")
    assert page.run("return document.activeElement.id") == "key"
    page.key("secret", Keys.TAB)
    page.until(lambda: page.texts("#models span") == list(MODELS))
    kept = page.run("return Array.from(localStorage, (_, n) => localStorage.getItem(localStorage.key(n)))")
    assert kept and not any("secret" in value for value in kept)


# ---- history and looks


def test_history_is_kept(page, server):
    page.choose("after")
    page.ask("First?")
    page.one("#new").click()
    page.ask("Second?\nwith more")
    page.fill("#system", "Be brief.")
    page.reload()
    assert page.texts("#history .chat") == ["Second?", "First?"]
    assert [box.is_selected() for box in page.all("#models input")] == [True, False, False]
    assert page.one("#system").get_property("value") == "Be brief."
    page.all("#history .chat")[1].click()
    assert page.texts(".prompt > .text") == ["First?"] and answers(page) == ["Hello"]
    page.ask("Third?")
    assert [message["content"] for message in server.asked[-1]["messages"]] == ["Be brief.", "First?", "Hello", "Third?"]
    page.all("#history .remove")[0].click()
    assert page.texts("#history .chat") == ["Second?"] and page.all(".turn") == []


def test_export_and_clear(page, server):
    page.choose("after")
    page.ask("First?")
    page.one("#export").click()
    path = server.downloads / "chats.json"
    (chat,) = page.until(lambda: path.exists() and json.loads(path.read_text()))
    assert chat["turns"][0]["prompt"] == "First?" and chat["turns"][0]["answers"]["after"]["text"] == "Hello"
    assert "tokens" not in chat["turns"][0]["answers"]["after"]
    page.run("localStorage.setItem('chat:x', '{')")
    for answer, left in (("dismiss", 2), ("accept", 0)):
        page.one("#clear").click()
        getattr(page.driver.switch_to.alert, answer)()
        assert page.run("return Object.keys(localStorage).filter((key) => key.startsWith('chat:')).length") == left
    assert page.all("#history li") == []


def test_what_cannot_be_kept_is_said(page, server):
    for key, value in (("chat:x", "{"), ("chat:y", '{"id": "y", "turns": [1]}')):
        page.run("localStorage.setItem(...arguments)", key, value)
    page.reload()
    assert page.text("#unreadable") == "Stored chats that cannot be read: 2. They stay until the history is cleared."
    page.run("Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError') }")
    page.choose("after")
    page.ask("Who?")
    assert "storage is full" in page.text("#status")
    assert answers(page) == ["Hello"]


def test_a_deleted_chat_stays_deleted(page, server):
    begin(page, server, "after", "Once")
    page.one("#history .chat").click()  # it is shown already, and goes on
    page.one("#history .remove").click()
    assert server.gone.wait(browser.HANG)
    server.says["after"] = ["Hello"]
    page.ask("Who?")
    assert page.texts("#history .chat") == ["Who?"]


@pytest.mark.parametrize("dark", [False, True])
def test_dark_and_light(page, dark):
    browser.set_dark(page.driver, dark)
    shades = []
    for _ in ("auto", "light", "dark"):
        red = page.run("return getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0]")
        shades.append(int(red) < 128)
        page.one("#theme").click()
    assert shades == [dark, False, True]


def test_narrow(page, server):
    server.says = {name: ["word " * 40, "longword" * 40, "\n```\n" + "code " * 100 + "\n```\n"] for name in MODELS}
    page.ask("question" * 40)
    browser.set_size(page.driver, 360, 640)
    assert page.run("return document.documentElement.scrollWidth") == 360
    assert page.run("return document.getElementById('log').scrollWidth <= document.getElementById('log').clientWidth")
    assert len({element.rect["x"] for element in page.all(".answer")}) == 1  # one below the other
    assert not page.one("#new").is_displayed()
    page.one("#menu").click()
    page.until(lambda: page.one("#new").is_displayed())
    page.key(Keys.ESCAPE)
    page.until(lambda: not page.one("#new").is_displayed())
    page.hover(page.all(".token")[0])
    tip = page.one("#tip").rect
    assert tip["x"] >= 0 and tip["x"] + tip["width"] <= 360


def test_nothing_but_the_servers_own_files(page):
    loaded = page.run("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert loaded and all(name.startswith(page.url) for name in loaded)
