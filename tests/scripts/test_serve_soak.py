"""scripts/serve.py under requests of all kinds, half of which are broken off somewhere: nothing stays behind. scripts/soak.sh
sends 10,000 of them."""

import concurrent.futures
import json
import os
import pathlib
import random
import socket

from seeds import how_often
from serving import KEPT, Served, parrot_model
from waiting import wait_until

MODELS = ("parrot", "endless")
MIB = 1 << 20
ROOM = 16 * MIB  # by which the memory of the second half's requests may grow: caches that are not full yet


def draw(rng):
    """(the request, or its beginning; how many bytes of the answer to read, None: all)"""
    model = rng.choice(MODELS)
    body = {"model": model, "temperature": 0, "max_tokens": rng.randrange(1, 60), "stream": rng.random() < 0.5}
    if rng.random() < 0.3:
        body["stop"] = rng.choice(["-stop", "€", ["never"]])
    chat = rng.random() < 0.5
    said = "a" * rng.randrange(1, 90)
    body |= {"messages": [{"role": "user", "content": said}]} if chat else {"prompt": f"{said}\n"}
    body |= {} if chat else rng.choice([{}, {"n": 3}, {"echo": True, "logprobs": 3}])
    text = json.dumps(body).encode()
    path = "/v1/chat/completions" if chat else "/v1/completions"
    head = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", f"Content-Length: {len(text)}"]
    request = "\r\n".join([*head, "Connection: close", "", ""]).encode() + text
    kind = rng.random()
    if kind < 0.1:
        return request[: rng.randrange(1, len(request))], 0
    return request, rng.choice([0, 1, rng.randrange(400)]) if kind < 0.5 else None


def send(port, request, wanted):
    """What came of an answer, all of it if `wanted` is None; else the connection is cut after so many bytes."""
    with socket.create_connection(("127.0.0.1", port), timeout=600) as connection:
        connection.sendall(request)
        answer = b""
        while (wanted is None or len(answer) < wanted) and (data := connection.recv(4096)):
            answer += data
        if wanted is not None and random.random() < 0.5:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # ends with a reset
    return answer


def held(process):
    """(open files, threads, bytes of memory)"""
    folder = pathlib.Path(f"/proc/{process.pid}")
    pages = int((folder / "statm").read_text().split()[1])
    return len(list((folder / "fd").iterdir())), len(list((folder / "task").iterdir())), pages * os.sysconf("SC_PAGE_SIZE")


def test_nothing_leaks(tmp_path):
    rng, count = random.Random(random.getrandbits(32)), how_often(240, 10_000)
    parrot_model(tmp_path / "parrot")
    parrot_model(tmp_path / "endless", ends=False)
    with Served(tmp_path / "log", {name: tmp_path / name for name in MODELS}, "--threads", 1, "--queue", 1000) as server:

        def half():
            with concurrent.futures.ThreadPoolExecutor(12) as pool:
                asked = [draw(rng) for _ in range(count // 2)]
                for (_, wanted), answer in zip(asked, pool.map(lambda one: send(server.port, *one), asked)):
                    assert wanted is not None or answer.startswith(b"HTTP/1.1 200 "), answer
            for model in MODELS:
                wait_until(lambda: server.quiet(model), f"an idle {model}", process=server.process)
            return held(server.process)

        files, threads, memory = half()
        files_then, threads_then, memory_then = half()
        print(f"{count} requests: {files_then} files, {threads_then} threads, {memory / MIB:.1f}, {memory_then / MIB:.1f} MiB")
        assert files_then <= files and threads_then <= threads and memory_then <= memory + ROOM
        for model in MODELS:
            asked = {"model": model, "messages": [{"role": "user", "content": "x"}], "max_tokens": len(KEPT.encode())}
            answer = server.client().chat.completions.create(temperature=0, **asked)
            assert answer.choices[0].message.content == KEPT
