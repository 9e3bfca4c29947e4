"""Asks a server with OpenAI's interface many things at once."""

import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Callable, Iterable, Iterator

import httpx

from llmdata.errors import Fault, InputError

TRIES = 6  # of a request that the server had no room for
LONGEST_WAIT = 30  # s, between two tries


@dataclass(frozen=True)
class Request:
    """A text to continue, or the messages of a chat to answer. The server draws the i-th of `n` answers by the seed and i."""

    prompt: str | None = None
    messages: tuple[dict, ...] | None = None
    tools: tuple[dict, ...] = ()
    max_tokens: int = 256
    temperature: float = 0
    top_p: float = 1
    n: int = 1
    seed: int = 1
    stop: tuple[str, ...] = ()

    def body(self, model: str) -> dict:
        asked = {"prompt": self.prompt} if self.messages is None else {"messages": list(self.messages)}
        if self.tools:
            asked["tools"] = list(self.tools)
        shared = ("max_tokens", "temperature", "top_p", "n", "seed")
        return {"model": model, "stop": list(self.stop), **asked, **{name: getattr(self, name) for name in shared}}

    @property
    def route(self) -> str:
        return "/v1/completions" if self.messages is None else "/v1/chat/completions"


@dataclass(frozen=True)
class Answer:
    text: str
    finish: str  # "stop", "length", "content_filter"


class Refused(Exception):
    """The server does not answer this request, and never will: a prompt that is too long, for example."""


class Client:
    def __init__(self, url: str, at_once: int, key: str | None = None):
        """at_once: requests that the server has at the same time."""
        self.url, self.at_once, self.key = url.rstrip("/"), at_once, key
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.http = httpx.Client(base_url=url, headers=headers, timeout=None, limits=httpx.Limits(max_connections=at_once))

    def close(self) -> None:
        self.http.close()

    def models(self) -> dict[str, dict]:
        """{name: what the server says of it}."""
        return {entry["id"]: entry for entry in self._checked(self._send("GET", "/v1/models")).json()["data"]}

    def ask(self, model: str, request: Request) -> list[Answer]:
        """Errors: Refused; Fault where the server is gone or fails."""
        reply = self._checked(self._send("POST", request.route, json=request.body(model)))
        choices = sorted(reply.json()["choices"], key=lambda choice: choice["index"])
        return [Answer(c["text"] if "text" in c else c["message"]["content"] or "", c["finish_reason"]) for c in choices]

    def do_all(self, works: Iterable[tuple[int, Callable[[], list[Answer]]]]) -> Iterator[tuple[int, list[Answer] | Refused]]:
        """(number, what came of it) of each (number, work that asks), as they end."""
        with ThreadPoolExecutor(self.at_once) as pool:
            numbers = {pool.submit(work): number for number, work in works}
            try:
                for future in as_completed(numbers):
                    try:
                        yield numbers[future], future.result()
                    except Refused as refused:
                        yield numbers[future], refused
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _send(self, method: str, route: str, **body) -> httpx.Response:
        for attempt in range(TRIES):
            try:
                reply = self.http.request(method, route, **body)
            except httpx.TransportError as error:
                raise Fault(f"{self.http.base_url}: the server does not answer: {error}") from None
            if reply.status_code != 429:
                break
            time.sleep(min(LONGEST_WAIT, float(reply.headers.get("Retry-After", 1)) * (attempt + 1)))
        return reply

    def _checked(self, reply: httpx.Response) -> httpx.Response:
        if reply.status_code == 200:
            return reply
        try:
            message = reply.json()["error"]["message"]
        except (ValueError, KeyError, TypeError):
            message = reply.text[:200]
        if reply.status_code == 401:
            raise InputError(f"{self.http.base_url}: {message}")
        if reply.status_code in (400, 413, 422):
            raise Refused(message)
        raise Fault(f"{self.http.base_url}: HTTP {reply.status_code}: {message}")
