"""scripts/evaluate.py as a program, over models of which it is known what they say."""

import html.parser
import json
import signal

import psutil
import pytest
from serving import KEPT, Served, parrot_model, random_model
from suites import evaluate
from waiting import wait_until

QUESTIONS, RIGHT = 40, 30


def write_suite(place, name="suite.json", **changes):
    every = {"kind": "generate", "prompt": "{question}", "extract": "all"}
    chat = {"name": "chat", "file": "chat.jsonl", "chat": True, "max_tokens": 32, **every}
    text = {"name": "text", "file": "chat.jsonl", "max_tokens": 4, **every}
    long = {"name": "long", "file": "long.jsonl", "max_tokens": 4, **every}
    (place / name).write_text(json.dumps({"tasks": [chat | changes, text, long]}))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("evaluate")
    parrot_model(place / "parrot")
    for name in ("random", "base"):
        random_model(place / name)
    (place / "base" / "chat_template.jinja").unlink()
    rows = [{"question": f"Question {n}?", "answer": KEPT if n < RIGHT else "no"} for n in range(QUESTIONS)]
    (place / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[0]]))
    (place / "long.jsonl").write_text("".join(json.dumps({"question": "x" * n, "answer": "x"}) + "\n" for n in (10, 1000)))
    write_suite(place)
    return place


@pytest.fixture(scope="module")
def done(place):
    code, out, err = evaluate(place, place / "out")
    assert code == 0, err
    return json.loads((place / "out/results.json").read_text()), out


def test_scores(done):
    found, out = done
    chat, text, long = found["tasks"]
    assert chat["items"] == QUESTIONS and chat["duplicates"] == 1
    parrot = chat["models"]["parrot"]
    assert parrot["score"] == RIGHT / QUESTIONS
    assert parrot["interval"] == pytest.approx(1.96 * (0.75 * 0.25 / QUESTIONS) ** 0.5)
    assert chat["models"]["random"]["score"] == 0
    (pair,) = [pair for pair in chat["pairs"] if pair["models"] == ["parrot", "random"]]
    assert pair["difference"] == -0.75 and pair["p"] == pytest.approx(2 * 0.5**RIGHT) and pair["items"] == QUESTIONS
    assert "75.0 ± 13.4" in out


def test_what_is_not_counted(done):
    chat, text, long = done[0]["tasks"]
    base = chat["models"]["base"]
    assert base["score"] is None and base["items"] == 0 and "no chat template" in base["fault"]
    assert text["models"]["base"]["items"] == QUESTIONS
    ((why, count),) = long["models"]["parrot"]["not_counted"].items()
    assert count == 1 and "refused by the server" in why and long["models"]["parrot"]["items"] == 1


class Page(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.links, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.links += [value for name, value in attributes if name in ("src", "href") and not value.startswith("data:")]

    def handle_data(self, data):
        self.text += data + "\n"


def test_report(place, done):
    page = Page((place / "out/report.html").read_text())
    assert not page.links
    for words in ("75.0 ± 13.4", "parrot → random", "they differ", "not asked: has no chat template",
                  "1 items stand in the file again"):  # fmt: skip
        assert words in page.text, words


def test_goes_on_after_a_kill(place, done):
    output, kept = place / "killed", "items/chat/parrot.jsonl"
    process = evaluate(place, output, wait=False)
    wait_until(lambda: (output / kept).exists() and len((output / kept).read_text().splitlines()) > 8, "answers")
    servers = psutil.Process(process.pid).children()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    psutil.wait_procs(servers, 600)
    assert servers and not any(server.is_running() for server in servers)
    lines = (output / kept).read_bytes().splitlines()
    code, out, err = evaluate(place, output)
    assert code == 0, err
    assert (output / kept).read_bytes().splitlines()[: len(lines) - 1] == lines[:-1]
    assert json.loads((output / "results.json").read_text()) == done[0]
    size = (output / kept).stat().st_size
    assert evaluate(place, output)[0] == 0 and (output / kept).stat().st_size == size


def test_other_settings_are_refused(place, done):
    write_suite(place, "other.json", max_tokens=31)
    code, out, err = evaluate(place, place / "out", suite="other.json")
    assert code == 2 and "max_tokens" in err and "another --output" in err and len(err.strip().splitlines()) == 1, err


def test_a_server_that_runs(place, done):
    models = {name: place / name for name in ("parrot", "random", "base")}
    with Served(place / "served", models, "--api-key", "secret") as server:
        code, out, err = evaluate(place, place / "elsewhere", "--server", server.url, "--api-key", "secret")
        assert code == 0, err
        assert json.loads((place / "elsewhere/results.json").read_text()) == done[0]
        code, _, err = evaluate(place, place / "refused", "--server", server.url, "--api-key", "wrong")
        assert code == 2 and "key" in err
        code, _, err = evaluate(place, place / "refused", "--server", server.url, "--api-key", "secret", models=("parrot",))
        assert code == 0
    code, _, err = evaluate(place, place / "gone", "--server", server.url)
    assert code == 1 and "does not answer" in err


@pytest.mark.parametrize("options, word", [(("--at-once", 0), "at-once"), (("--suite", "none.json"), "none.json"),
                                           (("--models", "nobody"), "nobody")])  # fmt: skip
def test_refused(place, options, word):
    code, out, err = evaluate(place, place / "bad", *options)
    assert code == 2 and word in err and len(err.strip().splitlines()) == 1, err
    assert not (place / "bad").exists()
