#!/usr/bin/env python3
"""Serves models over HTTP as OpenAI's interface does, with a page to chat in: any Llama in a Hugging Face directory.

    serve.py --model DIR                                      one model, named after its folder
    serve.py --model before=runs/sft --model after=runs/dpo   several, under names of your choice

Requests run side by side: they join and leave the batch at any step, and prompts that begin alike share their beginning. The
same prompt, options and seed give the same text, whatever else is computed. Only this machine can connect unless --host says
otherwise; --api-key demands a key. Nothing is sent anywhere else.

SIGTERM or Ctrl-C: running answers are completed, new requests get 503, then the server ends; a second signal ends it at once.

Exit codes: 0 done; 2 bad usage or bad input (one line on stderr); 1 anything else.
"""

import argparse
import asyncio
import ipaddress
import logging
import os
import signal
import socket
import sys
from pathlib import Path

from llmdata import program

program.begin()

import uvicorn

from llmdata.characters import harmless
from llmdata.errors import Fault, InputError
from llmdata.model_folder import named_models
from llmdata.options import add_version, check_bounds, check_texts
from llmserve.app import make_app
from llmserve.engine import Engine
from llmserve.gate import Gate, say
from llmserve.model import Model
from llmserve.protocol import protocol_class
from llmserve.state import Limits, Service
from llmserve.worker import Worker
from llmtext.generator import library_path
from llmtext.options import add_build_options

MOST_INT = 2**31 - 1
CACHE_SHARE = 0.8  # of the free memory, for the caches of all models where --pages does not say their size
DRAINED_SECONDS = 5  # for connections to close when all answers are complete


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_version(parser)
    add = parser.add_argument
    add("--model", required=True, action="append", metavar="[NAME=]DIR",
        help="folder with config.json, safetensors and tokenizer.json (or .model); may be given several times")  # fmt: skip
    add("--guard", metavar="NAME", help="the model that judges prompts and answers of the others; unsafe ones are refused")
    add("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0: all of this machine (default: %(default)s)")
    add("--port", type=int, default=8000, metavar="N", help="port to listen on; 0: any free one (default: %(default)s)")
    add("--api-key", metavar="KEY", help="demand this key of all requests; @FILE: the first line of a file")
    add("--rows", type=int, default=16, metavar="N", help="answers that a model computes at once (default: %(default)s)")
    add("--context", type=int, default=8192, metavar="N",
        help="longest prompt and answer together, in tokens; at most the model's (default: %(default)s)")  # fmt: skip
    add("--pages", type=int, default=0, metavar="N",
        help="key-value cache of a model, in pages of 64 tokens; 0: for all --rows, or fewer if these do not fit into 80 percent "
             "of the free memory, of which the models not yet loaded have equal parts (default: %(default)s)")  # fmt: skip
    add("--queue", type=int, default=128, metavar="N",
        help="answers that may wait for a model; beyond, requests get 429 (default: %(default)s)")  # fmt: skip
    add("--max-body", type=float, default=2, metavar="MIB", help="largest body of a request, in MiB (default: %(default)g)")
    add("--request-seconds", type=float, default=600, metavar="S",
        help="longest time for an answer, in s (default: %(default)g)")  # fmt: skip
    add_build_options(add)
    return parser.parse_args()


def check_options(options: argparse.Namespace) -> None:
    check_texts(options, "model", "guard", "host", "api_key")
    check_bounds(options, {
        "port": (0, 65535), "rows": (1, 4096), "context": (2, MOST_INT), "pages": (0, 2**40), "queue": (0, MOST_INT),
        "max_body": (0.001, 1024), "request_seconds": (0.1, 10**6), "threads": (0, 2**16 - 1),
    })  # fmt: skip


def read_key(given: str | None) -> str | None:
    if given is None:
        return None
    key = given
    if given.startswith("@"):
        try:
            key = next(iter(Path(given[1:]).read_text().splitlines()), "")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"--api-key {given}: {error}") from None
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise InputError("--api-key: expected ASCII letters, digits and signs, without spaces")
    return key


def open_socket(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=1024)
    except OSError as error:
        raise InputError(f"--host {host} --port {port}: cannot listen there: {error.strerror or error}") from None


def is_local(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def open_models(options: argparse.Namespace, folders: dict[str, Path]) -> dict[str, Model]:
    library = library_path(options.target, options.precision)
    models = {}
    for name, folder in folders.items():
        say(f"loading {name} from {folder}")
        share = CACHE_SHARE / (len(folders) - len(models))  # the others' weights and caches are still to come
        engine = Engine(library, folder, options.rows, options.context, options.pages, options.threads, share)
        models[name] = Model(name, folder, engine)
        say(f"{name}: a cache of {engine.counts().pages} pages of 64 tokens, contexts of up to {engine.context} tokens")
        if name == options.guard and models[name].template is None:
            raise InputError(f"--guard {name}: cannot chat: {models[name].no_template}")
    return models


class Server(uvicorn.Server):
    """uvicorn's, with signals that drain the gate first."""

    def __init__(self, gate: Gate, limits: Limits):
        protocol = protocol_class(limits.read_seconds, limits.request_seconds)
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # the gate and the protocol tell what happens
        super().__init__(uvicorn.Config(
            gate, http=protocol, ws="none", lifespan="off", log_config=None, access_log=False, server_header=False,
            timeout_keep_alive=limits.read_seconds, timeout_graceful_shutdown=DRAINED_SECONDS,
        ))  # fmt: skip
        self.gate, self.fault = gate, None

    def fail(self, error: Exception) -> None:
        """An engine can do no more: ends the server, so that whoever watches over it starts another one."""
        self.fault, self.should_exit = error, True

    def handle_exit(self, sig: int, frame) -> None:
        if self.gate.service.draining:
            os._exit(128 + sig)
        self.gate.service.draining = True
        say(f"{signal.Signals(sig).name}: completing {self.gate.busy} requests; again to end at once")
        asyncio.get_running_loop().create_task(self._drain())

    async def _drain(self) -> None:
        await self.gate.idle.wait()
        self.should_exit = True

    async def run_on(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        await self._serve([listener])


async def serve(options: argparse.Namespace, models: dict[str, Model], listener: socket.socket, key: str | None) -> None:
    limits = Limits(options.rows, options.queue, int(options.max_body * 2**20), options.request_seconds)
    servers: list[Server] = []
    engines = [model.engine for model in models.values()]
    worker = Worker(engines, asyncio.get_running_loop(), lambda error: servers[0].fail(error))
    service = Service(models, limits, worker, options.guard)
    host, port = listener.getsockname()[:2]
    gate = Gate(make_app(service), service, key, is_local(host))
    servers.append(Server(gate, limits))
    worker.start()
    shown = f"[{host}]" if ":" in host else host
    if key is None and not is_local(host):
        say(f"warning: whoever reaches {shown}:{port} can use the models; --api-key demands a key of them")
    names = ", ".join(harmless(model.name) for model in service.offered)
    print(f"serve: http://{shown}:{port}/ serves {names}", flush=True)
    try:
        await servers[0].run_on(listener)
    finally:
        worker.stop()
    if servers[0].fault is not None:
        raise Fault(f"the engine failed: {servers[0].fault}")


def run(options: argparse.Namespace) -> None:
    check_options(options)
    key, folders = read_key(options.api_key), named_models(options.model, "--model")
    if options.guard is not None and (options.guard not in folders or len(folders) == 1):
        raise InputError(f"--guard {options.guard}: expected the name of one --model, beside others that it judges")
    sys.setswitchinterval(0.001)  # s; the thread of the engines should not wait for that of the connections
    with open_socket(options.host, options.port) as listener:
        models = open_models(options, folders)
        asyncio.run(serve(options, models, listener, key))
    for model in models.values():
        model.encoder.shutdown()
        model.engine.close()


def main() -> int:
    options = parse_arguments()
    return program.run(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
