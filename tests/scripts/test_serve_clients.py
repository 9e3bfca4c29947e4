"""scripts/serve.py and its clients: many at once, slow ones, some that go away or stop half-way, keys, full queues, the end."""

import asyncio
import concurrent.futures
import contextlib
import http.client
import json
import random
import signal
import socket
import subprocess
import time

import openai
import pytest
from checkout import load_script
from serving import KEPT, PRECISION, Served, parrot_model, random_model
from waiting import wait_until

TEXT = "v1/completions"
USER = [{"role": "user", "content": "Hi"}]
ENDLESS = {"model": "endless", "prompt": "\n", "max_tokens": 10**6, "temperature": 0}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    random_model(folder / "random")
    parrot_model(folder / "parrot")
    parrot_model(folder / "endless", ends=False, max_position_embeddings=200_000)
    return {name: folder / name for name in ("random", "parrot", "endless")}


FEW = ("--rows", 4, "--queue", 60, "--context", 100_000, "--pages", 2000)  # so that clients wait, and long answers fit


@pytest.fixture(scope="module")
def place(models, tmp_path_factory):
    with Served(tmp_path_factory.mktemp("serve"), models, *FEW) as server:
        yield server


@pytest.fixture(scope="module")
def hasty(models, tmp_path_factory):
    """Ends answers that take more than 3 s."""
    with Served(tmp_path_factory.mktemp("hasty"), models, *FEW, "--request-seconds", 3) as server:
        yield server


@contextlib.contextmanager
def sent(place, body, path=TEXT, length=None):
    """A connection over which a request was sent, or the first part of one."""
    data = json.dumps(body).encode()
    head = f"POST /{path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {length or len(data)}\r\n\r\n"
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # what is not read soon waits at the server
        connection.settimeout(600)
        connection.connect(("127.0.0.1", place.port))
        connection.sendall(head.encode() + data)
        yield connection


def running(place, model="endless"):
    return place.counters()[f'llmc_requests_running{{model="{model}"}}']


def test_fifty_clients_at_once(place):
    """Whole and streamed, short and long, with and without the same beginning: each answer is the one it gets alone."""
    rng = random.Random(random.getrandbits(32))
    asked = [dict(model="random", prompt="Once upon a time" * rng.randrange(4) + str(number % 7), seed=number,
                  max_tokens=rng.randrange(1, 30), temperature=rng.choice([0, 1.1]), logprobs=rng.choice([None, 2]))
             for number in range(50)]  # fmt: skip

    def told(choice):
        return choice.text, choice.finish_reason, choice.logprobs and choice.logprobs.token_logprobs

    alone = [told(place.client().completions.create(**body).choices[0]) for body in asked]

    async def all_at_once():
        client = openai.AsyncOpenAI(base_url=f"{place.url}v1", api_key="none", max_retries=0)

        async def one(number, body):
            if number % 2:
                return told((await client.completions.create(**body)).choices[0])
            choices = [chunk.choices[0] async for chunk in await client.completions.create(stream=True, **body)]
            scores = [score for choice in choices if choice.logprobs for score in choice.logprobs.token_logprobs]
            return "".join(choice.text for choice in choices), choices[-1].finish_reason, scores if body["logprobs"] else None

        return await asyncio.gather(*(one(*item) for item in enumerate(asked)))

    assert asyncio.run(all_at_once()) == alone
    wait_until(lambda: place.quiet("random"), "all pages are free")


def test_clients_that_go_away(place):
    """Their pages are free as soon as that is noticed, whether they wait for a whole answer or read a stream."""
    for body in (ENDLESS, ENDLESS | {"stream": True}, ENDLESS | {"stream": True, "n": 9}):
        before = len(place.log())
        with sent(place, body) as connection:
            wait_until(lambda: running(place) > 0, "the request runs")
            if "stream" in body:
                assert connection.recv(100).startswith(b"HTTP/1.1 200 ")
        place.logged(f"POST /{TEXT} {200 if 'stream' in body else 499} ", 'error="the client went away"', after=before)
        wait_until(lambda: place.quiet("endless"), "all pages are free")


def test_slow_reader(hasty):
    """One who takes nothing of a stream delays nobody, and is cut when its time is over."""
    with sent(hasty, ENDLESS | {"stream": True, "logprobs": 20}) as connection:
        wait_until(lambda: running(hasty) > 0, "the stream runs")
        answer = hasty.ask(TEXT, {"model": "parrot", "prompt": "\n", "temperature": 0, "max_tokens": 3})[2]
        assert answer["choices"][0]["text"] == KEPT[:3]
        hasty.logged(f"POST /{TEXT} 200", "the answer was not complete within 3 s")
        wait_until(lambda: hasty.quiet("endless"), "all pages are free")
        with pytest.raises(OSError):  # no connection is left open
            wait_until(lambda: connection.send(b"x") and False, "the connection is cut", pause=0.1)


def test_answers_that_take_too_long(hasty):
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        (status, _, body), (_, _, events) = pool.map(lambda more: hasty.ask(TEXT, ENDLESS | more), ({}, {"stream": True}))
    assert status == 504 and body["error"]["code"] == "timeout" and "not complete within 3 s" in body["error"]["message"]
    assert json.loads(events.split("\n\n")[-2].removeprefix("data: "))["error"]["code"] == "timeout" and "[DONE]" not in events
    wait_until(lambda: hasty.quiet("endless"), "all pages are free")


def until_closed(connection, end=None, said=b""):
    """What is said until the connection ends, or until this is, behind what has been."""
    with contextlib.suppress(ConnectionResetError):
        while (end is None or end not in said) and (part := connection.recv(2**16)):
            said += part
    return said


def test_half_sent_requests(hasty):
    """A body that stops coming is answered, a head is not; neither is waited for longer than 3 s, as two answers are that end
    by another limit."""
    heads = (b"", b"POST /v1/comp", b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /hea")
    with contextlib.ExitStack() as stack:
        body = stack.enter_context(sent(hasty, {"prompt": "a"}, length=1000))
        opened = [stack.enter_context(socket.create_connection(("127.0.0.1", hasty.port), 600)) for _ in heads]
        for connection, data in zip(opened, heads):
            connection.sendall(data)
        assert [hasty.ask(TEXT, ENDLESS)[0] for _ in range(2)] == [504, 504]
        for connection in (body, *opened):
            connection.setblocking(False)  # an error, where something is still to come
        assert body.recv(2**16).startswith(b"HTTP/1.1 408 ")
        hasty.logged("408", "the body was not complete within 3 s")
        for connection, data in zip(opened, heads):
            assert until_closed(connection).count(b"HTTP/1.1 200") == data.count(b"\r\n\r\n")


def test_full_queue(place):
    """429 with Retry-After; the openai client tries again by itself."""
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(sent(place, ENDLESS | {"n": 16, "stream": True}))
        wait_until(lambda: running(place) == 4, "all rows run")
        more = ENDLESS | {"stream": True}  # so that the head comes at once, whatever it says
        with sent(place, more) as connection:
            said = until_closed(connection, b"\r\n\r\n")
            assert said.startswith(b"HTTP/1.1 429 ") and b"\r\nretry-after: 1" in said
            assert b'"queue_full"' in until_closed(connection, b"}}", said)
        assert place.ask(TEXT, {"model": "parrot", "prompt": "a", "max_tokens": 1})[0] == 200  # another model's queue
        with pytest.raises(openai.RateLimitError):
            place.client().completions.create(**more)
    answer = place.client(max_retries=20).completions.create(**ENDLESS | {"max_tokens": 2})
    assert answer.choices[0].text == KEPT[:2]


def test_requests_that_are_never_sent_whole(models, tmp_path):
    """More than could ever have a place are turned away before their bodies are read; the others go on."""
    with Served(tmp_path, {"parrot": models["parrot"]}, "--rows", 1, "--queue", 0) as server:
        said = {"prompt": "\n", "temperature": 0, "max_tokens": 3}
        with contextlib.ExitStack() as stack:
            for _ in range(65):
                stack.enter_context(sent(server, said, length=1000))
            status, headers, body = wait_until(lambda: (got := server.ask(TEXT, said))[0] != 200 and got, "a refusal")
            assert status == 429 and headers["Retry-After"] and "65 requests are under way" in body["error"]["message"]
            assert server.ask("health")[0] == 200
        wait_until(lambda: server.ask(TEXT, said)[0] == 200, "room")


def test_curl(place):
    """Over a kept connection, and one for each request; curl asks before it sends a large body."""
    body = json.dumps({"model": "parrot", "messages": USER, "temperature": 0, "user": "x" * 1_100_000})
    command = ["curl", "-sS", "--fail-with-body", "-H", "Content-Type: application/json", "--data-binary", "@-"]
    urls = [f"{place.url}v1/chat/completions"] * 2
    done = subprocess.run([*command, *urls], input=body, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count(json.dumps(KEPT, ensure_ascii=False)) == 2, done
    done = subprocess.run([*command, f"{place.url}{TEXT}"], input='{"prompt": 7}', capture_output=True, text=True)
    assert done.returncode == 22 and set(json.loads(done.stdout)) == {"error"}


# ---- servers of their own


def test_api_key(models, tmp_path):
    (tmp_path / "key").write_text("s3cret\n")
    with Served(tmp_path, {"parrot": models["parrot"]}, "--api-key", f"@{tmp_path / 'key'}") as server:
        said = {"prompt": "a"}
        for key in (None, "Bearer s3cre", "s3cret", "Bearer s3cret\u00e9"):
            headers = {"Authorization": key} if key else {}
            for path, body in (("v1/models", None), (TEXT, said), ("metrics", None), ("tokenize", said), ("nothing", None)):
                status, told, answer = server.ask(path, body, headers)
                assert status == 401 and told["WWW-Authenticate"] == "Bearer" and answer["error"]["code"] == "invalid_api_key"
        assert server.ask("health")[0] == 200
        assert server.client(api_key="s3cret").chat.completions.create(model="parrot", messages=USER, temperature=0).choices
        with pytest.raises(openai.AuthenticationError):
            server.client(api_key="other").models.list()
        assert server.ask("v1/models", headers={"Authorization": "Bearer s3cret", "Host": "proxy.example"})[0] == 200
        assert "s3cret" not in server.log_path.read_text()
        assert server.stop() == 0


@pytest.mark.parametrize(
    "host, key, warned", [("0.0.0.0", (), True), ("0.0.0.0", ("--api-key", "s"), False), ("127.0.0.2", (), False)]
)
def test_open_to_others_without_a_key(models, tmp_path, host, key, warned):
    with Served(tmp_path, {"parrot": models["parrot"]}, "--host", host, *key) as server:
        lines = [line for line in server.log() if "warning" in line]
        assert len(lines) == warned, lines
        assert not warned or f"whoever reaches 0.0.0.0:{server.port} can use the models; --api-key demands a key" in lines[0]
        server.logged("parrot: a cache of 64 pages of 64 tokens, contexts of up to 256 tokens")


def test_sigterm_completes_what_runs(models, tmp_path):
    with Served(tmp_path, models, "--rows", 2, "--context", 3000) as server:
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            asked = [pool.submit(server.ask, TEXT, ENDLESS | {"max_tokens": 1000, "stream": n % 2 == 0}) for n in range(4)]
            wait_until(lambda: running(server) == 2, "two run, two wait")
            server.process.send_signal(signal.SIGTERM)
            server.logged("SIGTERM: completing 4 requests")
            status, headers, body = server.ask(TEXT, ENDLESS)
            assert status == 503 and headers["Retry-After"] and body["error"]["code"] == "shutting_down"
            assert server.ask("health")[0] == 503
            answers = [future.result() for future in asked]
        assert [status for status, _, _ in answers] == [200] * 4 and "[DONE]" in answers[0][2]
        assert len(answers[1][2]["choices"][0]["text"].encode()) >= 1000
        assert server.process.wait(600) == 0


def test_second_signal_ends_at_once(models, tmp_path):
    with Served(tmp_path, models, *FEW) as server, sent(server, ENDLESS | {"stream": True}) as connection:
        assert connection.recv(100)
        server.process.send_signal(signal.SIGINT)
        server.logged("SIGINT: completing 1 requests")
        assert server.stop(signal.SIGTERM) == 128 + signal.SIGTERM


def test_taken_port(models, place, tmp_path):
    said = f"serve: --host 127.0.0.1 --port {place.port}: cannot listen there: Address already in use"
    with pytest.raises(AssertionError, match=said):
        Served(tmp_path, {"parrot": models["parrot"]}, "--port", place.port)


@pytest.mark.parametrize(
    "options, words",
    [
        (["--model", "=x"], "expected DIR or NAME=DIR"), (["--model", "a=x", "--model", "a=y"], "the name a is taken"),
        (["--model", "a=/nowhere"], "/nowhere: no such folder"), (["--rows", "0"], "--rows 0: expected 1 to 4096"),
        (["--request-seconds", "nan"], "--request-seconds nan: expected"),
        (["--api-key", "a b"], "--api-key: expected ASCII letters"), (["--api-key", "@/nowhere"], "--api-key @/nowhere"),
        (["--host", "no.such.host.invalid"], "cannot listen there"),
    ],
)  # fmt: skip
def test_bad_usage(monkeypatch, capsys, options, words):
    arguments = options if "--model" in options else ["--model", "a=/nowhere", *options]
    monkeypatch.setattr("sys.argv", ["serve.py", "--precision", PRECISION, "--port", "0", *arguments])
    assert load_script("serve").main() == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert line.startswith("serve: ") and words in line
