"""Answers one request: prompts to tokens, tokens to parts of answers, parts to JSON or to server-sent events."""

import asyncio
import contextlib
import json
import time
from typing import AsyncIterator, Awaitable, Callable

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from llmdata.errors import InputError
from llmtext.texts import split_stops

from .choice import Choice, Part
from .engine import Token
from .errors import ApiError
from .model import Model
from .openai_request import Wanted
from .openai_response import Answer, joined, usage
from .state import Service
from .worker import Job

# the last one is for nginx, which would collect a stream before it passes it on
STREAM_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache"),
                  (b"x-accel-buffering", b"no")]  # fmt: skip
GONE = "the client went away"
LAST_WORD_SECONDS = 1.0  # for telling a client why a stream ends early


class Answering:
    """The sequences of one request. Used as a context: at its end none of them runs any more, whatever happened."""

    def __init__(self, service: Service, model: Model, wanted: Wanted, prompts: list[list[int]]):
        self.service, self.model, self.wanted, self.prompts = service, model, wanted, prompts
        self.job = Job(model.engine, model.sequences(wanted, prompts))
        stops, most = split_stops(model.tokenizer, wanted.stops), self.job.sequences[0].max_tokens
        self.choices = [Choice(n, model, stops, most, wanted.logprobs >= 0) for n in range(len(self.job.sequences))]
        self.open = len(self.choices)
        self.started, self.first, self.last_tokens = time.monotonic(), None, [0.0] * len(self.choices)
        self.scores: list[dict[int, Token]] = [{} for _ in self.choices]  # of prompts that are echoed

    async def __aenter__(self) -> "Answering":
        self.service.reserve(self.model, len(self.choices))
        try:
            await self.service.worker.begin(self.job)
        except BaseException as error:
            self._leave()
            if isinstance(error, InputError):
                raise ApiError(400, str(error)) from None
            raise
        return self

    async def __aexit__(self, *_) -> None:
        self._leave()

    def _leave(self) -> None:
        self.service.worker.cancel(self.job)
        self.model.busy -= len(self.choices)

    async def parts(self) -> AsyncIterator[Part]:
        """Parts of all answers as they come."""
        while self.open:
            event = await self.job.events.get()
            if isinstance(event, Exception):
                raise ApiError(500, "the engine failed; the server's log says why")
            index, token = event
            for part in self._take(index, token):
                if part.text or part.entries or part.finish:
                    yield part

    def _take(self, index: int, token: Token) -> list[Part]:
        choice, parts = self.choices[index], []
        if choice.row.finish:  # ended by a stop string while this token was under way
            return []
        if token.prompt_index >= 0:
            self.scores[index][token.prompt_index] = token
            return []
        self._clock(index)
        if self.wanted.echo and not choice.row.count:
            parts.append(self._echo(index))
        part = choice.take(token)
        if choice.ended:
            self.service.worker.cancel(self.job, index)
        self.open -= part.finish is not None
        return [*parts, part]

    def _echo(self, index: int) -> Part:
        number = index // self.wanted.n
        return self.choices[index].echo(self.prompts[number], self.prompt_text(number), self.scores[index])

    def prompt_text(self, number: int) -> str:
        """A prompt that is no chat."""
        given = self.wanted.prompts[number]
        return given if isinstance(given, str) else self.model.tokenizer.decode(given, skip_special_tokens=False)

    def _clock(self, index: int) -> None:
        now = time.monotonic()
        if self.first is None:
            self.first = now - self.started
            self.service.metrics.first_token.add(self.model.name, self.first)
        if self.last_tokens[index]:
            self.service.metrics.between_tokens.add(self.model.name, now - self.last_tokens[index])
        self.last_tokens[index] = now

    def usage(self) -> dict:
        return usage(sum(map(len, self.prompts)), sum(choice.row.count for choice in self.choices))

    def log(self) -> dict:
        """What the log's line says of the request."""
        counted = self.usage()
        said = {"model": self.model.name, "prompt": counted["prompt_tokens"], "tokens": counted["completion_tokens"],
                "finish": ",".join(dict.fromkeys(choice.row.finish or "cut" for choice in self.choices))}  # fmt: skip
        return said if self.first is None else said | {"first": f"{self.first:.3f}s"}


async def until_gone(receive: Callable[[], Awaitable[dict]], work: Awaitable, seconds: float):
    """Awaits the work. Ends it with ClientDisconnect when the client goes away, and with TimeoutError after so many seconds."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnect(receive))
    try:
        await asyncio.wait({task, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnect if gone.done() else TimeoutError
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnect(receive: Callable[[], Awaitable[dict]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def answer_whole(request: Request, answering: Answering, answer: Answer) -> Response:
    async def work() -> dict:
        async with answering:
            parts = [part async for part in answering.parts()]
        whole = [joined(part for part in parts if part.index == n) for n in range(len(answering.choices))]
        return answer.whole(whole, answering.usage())

    try:
        return JSONResponse(await until_gone(request.receive, work(), answering.service.limits.request_seconds))
    except TimeoutError:
        raise answering.service.limits.too_slow() from None
    finally:
        request.state.note |= answering.log()


class EventStream(Response):
    """Chunks as server-sent events. An error after the first of them is an event too; then the connection ends."""

    def __init__(self, answering: Answering, answer: Answer, note: dict):
        self.answering, self.answer, self.note, self.started = answering, answer, note, False

    async def __call__(self, scope, receive, send) -> None:
        limits = self.answering.service.limits
        try:
            await until_gone(receive, self._send_all(send), limits.request_seconds)
        except (ApiError, TimeoutError) as error:
            said = error if isinstance(error, ApiError) else limits.too_slow()
            if not self.started:
                raise said from None
            self.note["error"] = str(said)
            with contextlib.suppress(TimeoutError):  # of a client that does not read
                await asyncio.wait_for(_send_event(send, _json(said.body()), False), LAST_WORD_SECONDS)
        except ClientDisconnect:
            if not self.started:
                raise
            self.note["error"] = GONE
        finally:
            self.note |= self.answering.log()

    async def _send_all(self, send) -> None:
        async with self.answering as answering:
            self.started = True
            await send({"type": "http.response.start", "status": 200, "headers": STREAM_HEADERS})
            async for event in self._events(answering):
                await _send_event(send, event)
        await _send_event(send, b"[DONE]", False)

    async def _events(self, answering: Answering) -> AsyncIterator[bytes]:
        for n in range(len(answering.choices)):
            if begin := self.answer.begin(n):
                yield _json(begin)
        async for part in answering.parts():
            yield _json(self.answer.chunk([part]))
        if answering.wanted.include_usage:
            yield _json(self.answer.chunk([], answering.usage()))


async def _send_event(send, data: bytes, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": b"data: " + data + b"\n\n", "more_body": more})


def _json(value: dict) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
