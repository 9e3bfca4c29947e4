"""scripts/serve.py and bad requests: each gets an error object as OpenAI's and one line in the log; others are undisturbed."""

import http.client
import json
import random
import socket

import pytest
from seeds import how_often
from serving import KEPT, Served, parrot_model
from waiting import wait_until

CHAT, TEXT = "v1/chat/completions", "v1/completions"
USER = [{"role": "user", "content": "Hi"}]
GOOD = {"prompt": "\n", "temperature": 0, "max_tokens": 40}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serve")
    parrot_model(folder / "parrot")
    with Served(folder, {"parrot": folder / "parrot"}, "--max-body", 1, "--queue", 100) as server:
        yield server


def judged(place, status, said, body, *words):
    """An error object with these words in its message, one line in the log, and a server that answers."""
    assert status[0] == said, body
    error = body["error"]
    assert set(error) == {"message", "type", "param", "code"} and isinstance(error["type"], str)
    for word in words:
        assert str(word) in error["message"], error
    assert "\n" not in error["message"] and "/tmp" not in error["message"]
    assert place.ask(TEXT, GOOD)[2]["choices"][0]["text"] == KEPT
    place.logged(f" {said} ", after=status[1])
    lines = place.log()[status[1] :]
    assert sum(f" {said} " in line for line in lines) == 1, lines
    assert all(f" {said} " in line or " 200 " in line for line in lines), lines
    return error


def refused(place, path, body, said, *words, **more):
    before = len(place.log())
    status, headers, answer = place.ask(path, body, **more)
    return judged(place, (status, before), said, answer, *words) | {"headers": headers}


@pytest.mark.parametrize(
    "path, fields, param",
    [
        (TEXT, {"prompt": "x" * 300}, "prompt"),
        (TEXT, {"prompt": [5] * 300}, "prompt"),
        (CHAT, {"messages": [{"role": "user", "content": "x" * 300}]}, "messages"),
        (CHAT, {"messages": USER * 300}, "messages"),
    ],
)
def test_prompt_too_long(place, path, fields, param):
    error = refused(place, path, fields, 400, "tokens, expected the context's 256 or fewer")
    assert error["code"] == "context_length_exceeded" and error["param"] == param


def test_unknown_model(place):
    error = refused(place, TEXT, {"model": "nobody", "prompt": "a"}, 404, "no model 'nobody' here, expected one of: parrot")
    assert error["code"] == "model_not_found" and error["param"] == "model"


# (path, fields, words, the field at fault)
FIELDS = [
    (TEXT, {"n": 1000}, "found 1000, expected a whole number from 1 to 128", "n"),
    (CHAT, {"n": 0}, "found 0, expected", "n"),
    (CHAT, {"n": True}, "found true", "n"),
    (TEXT, {"n": 64, "prompt": ["a", "b", "c"]}, "64 answers to each of 3 prompts", "n"),
    (TEXT, {"n": 117}, "found 117 answers in one request, expected 116 or fewer", "n"),
    (CHAT, {"stop": ["a"] * 3000}, "found 3000 texts, expected up to 16", "stop"),
    (CHAT, {"stop": ["a", ""]}, "texts of 1 to 256 characters", "stop"),
    (CHAT, {"stop": ["a" * 257]}, "texts of 1 to 256 characters", "stop"),
    (CHAT, {"stop": 7}, "found 7", "stop"),
    (CHAT, {"stop": "\ud800"}, "expected texts of 1 to 256 characters", "stop"),
    (CHAT, {"temperature": 2.5}, "found 2.5, expected a number from 0 to 2", "temperature"),
    (CHAT, {"temperature": -0.1}, "found -0.1", "temperature"),
    (CHAT, {"temperature": "hot"}, 'found "hot"', "temperature"),
    (TEXT, {"top_p": 1.01}, "found 1.01", "top_p"),
    (TEXT, {"top_p": 0}, "top-p 0, expected more than 0", None),
    (TEXT, {"top_k": -1}, "found -1", "top_k"),
    (TEXT, {"top_k": 10**30}, "expected a whole number", "top_k"),
    (TEXT, {"seed": 1.5}, "found 1.5", "seed"),
    (TEXT, {"max_tokens": -1}, "found -1", "max_tokens"),
    (TEXT, {"max_tokens": 0}, 'expected 1 or more, or "echo": true', "max_tokens"),
    (CHAT, {"max_tokens": 0}, "found 0", "max_tokens"),
    (TEXT, {"logprobs": 21}, "found 21, expected a whole number from 0 to 20", "logprobs"),
    (TEXT, {"logprobs": True}, "found true", "logprobs"),
    (CHAT, {"logprobs": 5}, "found 5, expected true or false", "logprobs"),
    (CHAT, {"top_logprobs": 2}, 'or "logprobs": true', "top_logprobs"),
    (CHAT, {"stream": "yes"}, 'found "yes"', "stream"),
    (CHAT, {"stream_options": {"include_usage": True}}, 'together with "stream": true', "stream_options"),
    (TEXT, {"prompt": ""}, None, None),
    (TEXT, {"prompt": []}, "a list of such that is not empty", "prompt"),
    (TEXT, {"prompt": None}, "found null", "prompt"),
    (TEXT, {"prompt": [[1], []]}, "a list of token ids", "prompt"),
    (TEXT, {"prompt": ["a", 7]}, "a list of token ids", "prompt"),
    (TEXT, {"prompt": [7, -1]}, "found token id -1, expected 0 to 260", "prompt"),
    (TEXT, {"prompt": [7, 261]}, "found token id 261, expected 0 to 260", "prompt"),
    (TEXT, {"prompt": [10**40]}, "found token id 1000000", "prompt"),
    (TEXT, {"prompt": ["a"] * 129}, "found 129 prompts", "prompt"),
    (TEXT, {"prompt": "\ud800"}, "expected Unicode text", "prompt"),
    (TEXT, {"best_of": 4}, "found 4, expected 1: nothing else is supported", "best_of"),
    (TEXT, {"suffix": "b"}, 'found "b"', "suffix"),
    (CHAT, {"frequency_penalty": 0.5}, "found 0.5, expected 0: nothing else is supported", "frequency_penalty"),
    (CHAT, {"logit_bias": {"5": 3}}, "nothing else is supported", "logit_bias"),
    (CHAT, {"response_format": {"type": "json_object"}}, "nothing else is supported", "response_format"),
    (CHAT, {"tool_choice": "required"}, "a call cannot be forced", "tool_choice"),
    (CHAT, {"temprature": 1}, 'unknown field "temprature"', "temprature"),
    (CHAT, {"\ud800": 1}, "unknown field", None),
    (CHAT, {"messages": None}, "expected a list of messages", "messages"),
    (CHAT, {"messages": []}, "expected a list of messages", "messages"),
    (CHAT, {"messages": "Hi"}, "expected a list of messages", "messages"),
    (CHAT, {"messages": ["Hi"]}, "messages[0]", "messages"),
    (CHAT, {"messages": [{"role": "wizard", "content": "Hi"}]}, 'role "wizard", expected one of system, user', "messages"),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "expected texts alone",
     "messages"),
    (CHAT, {"messages": [{"role": "user", "content": "\udc00"}]}, "surrogate", "messages"),
    (CHAT, {"continue_final_message": True}, "a last message of the assistant", "messages"),
    (CHAT, {"continue_final_message": True, "messages": [{"role": "assistant", "content": "a"}]}, "in front of the last",
     "messages"),
    (CHAT, {"tools": "look"}, "tools", None),
    (CHAT, {"chat_template_kwargs": {"messages": []}}, "not for a row to set", None),
    (CHAT, {"model": 5}, "found 5", "model"),
]  # fmt: skip


@pytest.mark.parametrize(
    "path, fields, words, param", FIELDS, ids=lambda value: str(value)[:40] if isinstance(value, dict) else ""
)
def test_fields(place, path, fields, words, param):
    body = {"prompt": "a"} if path == TEXT else {"messages": USER}
    if words is None:  # an empty prompt is the begin token
        assert place.ask(path, body | fields)[0] == 200
        return
    error = refused(place, path, body | fields, 400, words)
    assert error["param"] == param and error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "body, words",
    [
        (b'{"prompt": "a", "temperature": NaN}', "NaN is no number of JSON"),
        (b'{"prompt": "a", "temperature": -Infinity}', "-Infinity is no number of JSON"),
        (b'{"prompt": "a", "temperature": 1e999}', "expected a number from 0 to 2"),
        (b'{"prompt": "a", "top_k": 1' + b"0" * 5000 + b"}", "not JSON"),
        (b'{"prompt": "\xff\xfe"}', "not UTF-8 at byte 12"),
        (b'{"prompt": ' + b"[" * 500_000, "nested too deep"),
        (b'{"prompt": ' + b'{"a":' * 150_000 + b"1" + b"}" * 150_001, "nested too deep"),
        (b"", "not JSON"),
        (b"null", "the body is null, expected a JSON object"),
        (b"[]", "the body is a list, expected a JSON object"),
        (b'{"prompt": "a"', "not JSON"),
        (b'{"prompt": "a"} x', "not JSON"),
    ],
    ids=range(12),
)
def test_bodies(place, body, words):
    refused(place, TEXT, body, 400, words)


def test_refused_answers_give_their_places_back(place):
    """Also those that only the engine refuses."""
    for _ in range(2):
        refused(place, TEXT, {"prompt": "a", "top_p": 0, "n": 100}, 400, "top-p 0, expected more than 0")


@pytest.mark.parametrize("ids", [None, "a", [True], [1.0], [-1], [261]], ids=str)
def test_ids_that_are_no_tokens(place, ids):
    refused(place, "detokenize", {"tokens": ids}, 400, "expected a list of ids from 0 to 260")


def test_nesting_of_10_mb(place):
    refused(place, TEXT, b"[" * 10_000_000, 413, "the body is larger than 1048576 bytes")


def test_large_body_of_unknown_length(place):
    """Sent in chunks, it is read up to the limit only."""
    connection, before = http.client.HTTPConnection("127.0.0.1", place.port, timeout=600), len(place.log())
    pieces = iter([b'{"prompt": "'] + [b"a" * 2**16] * 40)
    connection.request("POST", f"/{TEXT}", pieces, {"Content-Type": "application/json"}, encode_chunked=True)
    response = connection.getresponse()
    judged(place, (response.status, before), 413, json.loads(response.read()), "larger than")


def test_other_kind_of_content(place):
    """A web page of another host may send text/plain without asking."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        refused(place, TEXT, GOOD, 415, f"found Content-Type: {kind}", headers={"Content-Type": kind})


def test_paths_and_methods(place):
    refused(place, "v1/nothing", None, 404, "no such path: /v1/nothing")
    error = refused(place, TEXT, None, 405, "GET is not for /v1/completions", method="GET")
    assert error["headers"]["Allow"] == "POST"
    refused(place, "health", None, 405, "DELETE is not for", method="DELETE")


def test_foreign_name_of_this_host(place):
    """A web page whose name leads to 127.0.0.1 cannot ask."""
    refused(place, "v1/models", None, 403, "found Host: evil.example", headers={"Host": "evil.example"})
    refused(place, "v1/models", None, 403, "found Host: 127.0.0.1.example", headers={"Host": "127.0.0.1.example"})
    for name in ("localhost", "localhost:80", "[::1]:8000", "[::1]", "127.0.0.2:80"):
        assert place.ask("v1/models", headers={"Host": name})[0] == 200


def exchange(place, data):
    """What the server says to these bytes until it closes the connection."""
    with socket.create_connection(("127.0.0.1", place.port), 600) as connection:
        connection.sendall(data)
        said = b""
        while part := connection.recv(2**16):
            said += part
        return said


@pytest.mark.parametrize(
    "data", [b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/1.1\r\nx: " + b"a" * 2**16]
)
def test_what_is_not_http(place, data):
    before = len(place.log())
    head, _, body = exchange(place, data).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    judged(place, (400, before), 400, json.loads(body), "not a request of HTTP/1.1")


def test_bodies_drawn_at_random(place):
    """Valid requests with bytes and values changed: always JSON with an error object or an answer, never a 500."""
    rng, count = random.Random(random.getrandbits(32)), how_often(800, 20_000)
    before = len(wait_until(place.log, "the log"))
    values = [None, True, -1, 0, 1, 2**63, 1e308, "", "\u20ac", [], {}, [[]], [{}], {"a": None}, ["a", 1], [3, 4], "\ud800", USER]
    statuses = {}
    connection = http.client.HTTPConnection("127.0.0.1", place.port, timeout=600)
    for _ in range(count):
        path = rng.choice([CHAT, TEXT, "tokenize", "detokenize"])
        fields = {"messages": USER} if path == CHAT else {"tokens": [3]} if path == "detokenize" else {"prompt": "\n"}
        if path in (CHAT, TEXT):
            fields |= {"max_tokens": 4, "temperature": 0}
        names = [*fields, "n", "stop", "seed", "logprobs", "top_logprobs", "stream", "stream_options", "echo", "model",
                 "tools", "user", "x"]  # fmt: skip
        for _ in range(rng.randrange(3)):
            fields[rng.choice(names)] = rng.choice(values)
        body = bytearray(json.dumps(fields, ensure_ascii=rng.random() < 0.5).encode(errors="surrogatepass"))
        for _ in range(rng.choice([0, 0, 1, 5])):
            body[rng.randrange(len(body))] = rng.randrange(256)
        connection.request("POST", f"/{path}", bytes(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        said, status = response.read(), response.status
        statuses[status] = statuses.get(status, 0) + 1
        assert status == 200 or (status in (400, 404) and set(json.loads(said)) == {"error"}), (bytes(body), status, said)
    assert statuses.keys() >= {200, 400}, statuses
    wait_until(lambda: len(place.log()) - before == count and place.quiet("parrot"), "a line for each, and nothing left behind")
