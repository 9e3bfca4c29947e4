"""scripts/serve.py with a guard: what is unsafe, or not known to be safe, is neither answered nor shown."""

import subprocess
import sys

import openai
import pytest
from checkout import script
from llmserve.guard import REFUSAL
from serving import Served, guard_model, parrot_model
from waiting import wait_until

ROOM = 96  # tokens of the guard's context


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("guarded")
    for name, text in (("fine", "fine!"), ("worse", "so bad")):
        parrot_model(folder / name, text)
    guard_model(folder / "guard", max_position_embeddings=ROOM)
    with Served(folder, {name: folder / name for name in ("guard", "fine", "worse")}, "--guard", "guard") as server:
        server.folder = folder
        yield server


@pytest.fixture(scope="module")
def client(place):
    return place.client()


def chat(client, text, model="fine", **more):
    return client.chat.completions.create(model=model, messages=[{"role": "user", "content": text}], temperature=0, **more)


CASES = {
    "safe": ("fine", "a good question", None),
    "prompt": ("fine", "a bad question", "unsafe_prompt=unsafe"),
    "answer": ("worse", "a good question", "unsafe_answer=unsafe"),
    "neither": ("fine", "an odd one", 'unsafe_prompt="neither safe nor unsafe: nsafe"'),
    "too long for the guard": ("fine", "x" * (ROOM + 1), 'unsafe_prompt="no verdict'),
}


@pytest.mark.parametrize("model, asked, logged", CASES.values(), ids=CASES)
def test_chats(place, client, model, asked, logged):
    before = len(place.log())
    (choice,) = chat(client, asked, model).choices
    assert (choice.message.content, choice.finish_reason) == ((REFUSAL, "content_filter") if logged else ("fine!", "stop"))
    line = place.logged("POST", "/v1/chat/completions", after=before)
    assert (logged or "finish=stop") in line and ("unsafe_" in line) == bool(logged), line


@pytest.mark.parametrize("model, asked, logged", CASES.values(), ids=CASES)
def test_streams(client, model, asked, logged):
    """Nothing of an answer comes before it is judged."""
    chunks = [chunk.choices[0] for chunk in chat(client, asked, model, stream=True)]
    pieces = [chunk.delta.content for chunk in chunks if chunk.delta.content]
    assert (pieces, chunks[-1].finish_reason) == (([REFUSAL], "content_filter") if logged else (["fine!"], "stop"))


def test_completions(place, client):
    """Every answer is judged. One prompt that is unsafe makes the request so."""
    asked = dict(temperature=0, max_tokens=12, logprobs=1)
    answers = client.completions.create(model="fine", prompt=["\n", "good\n"], n=2, **asked).choices
    assert [(answer.text, answer.finish_reason) for answer in answers] == [("fine!", "stop")] * 4
    answers = client.completions.create(model="fine", prompt=["\n", "bad\n"], n=2, **asked).choices
    assert [(answer.text, answer.finish_reason) for answer in answers] == [(REFUSAL, "content_filter")] * 4
    ids = place.ask("tokenize", {"prompt": "bad\n"})[2]["tokens"]
    assert client.completions.create(model="fine", prompt=ids, **asked).choices[0].finish_reason == "content_filter"
    worse = client.completions.create(model="worse", prompt="\n", **asked).choices[0]
    assert worse.text == REFUSAL and worse.logprobs.tokens == []


def test_what_stands_elsewhere_is_judged_too(client):
    """In tools, names, and the beginning of an answer that goes on."""
    tool = {"type": "function", "function": {"name": "do", "description": "bad", "parameters": {"type": "object"}}}
    assert chat(client, "Go", tools=[tool]).choices[0].finish_reason == "content_filter"
    begun = [{"role": "user", "content": "Go"}, {"role": "assistant", "content": "fi"}]
    goes_on = {"temperature": 0, "extra_body": {"continue_final_message": True}}
    assert client.chat.completions.create(model="fine", messages=begun, **goes_on).choices[0].message.content == "ne!"
    begun[-1]["content"] = "bad"
    assert client.chat.completions.create(model="fine", messages=begun, **goes_on).choices[0].finish_reason == "content_filter"
    named = [{"role": "user", "content": "Go", "name": "bad"}]
    assert client.chat.completions.create(model="fine", messages=named).choices[0].finish_reason == "content_filter"


def test_the_guard_answers_nothing_itself(place, client):
    assert [model.id for model in client.models.list()] == ["fine", "worse"]
    with pytest.raises(openai.NotFoundError, match="no model 'guard' here, expected one of: fine, worse"):
        chat(client, "a good question", "guard")
    unnamed = place.ask("v1/chat/completions", {"messages": [{"role": "user", "content": "Go"}], "temperature": 0})[2]
    assert unnamed["model"] == "fine"


def test_nothing_is_left_behind(place):
    for model in ("guard", "fine", "worse"):
        wait_until(lambda: place.quiet(model), model)


@pytest.mark.parametrize("guard, models, word", [("nobody", ("fine", "worse"), "expected the name of one --model"),
                                                 ("fine", ("fine",), "beside others")])  # fmt: skip
def test_refused(place, guard, models, word):
    names = [word for name in models for word in ("--model", f"{name}={place.folder / name}")]
    command = [sys.executable, script("serve"), *names, "--port", "0", "--guard", guard]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and word in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr
