"""The routes of the server."""

import asyncio

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from .answering import GONE, Answering, EventStream, answer_whole
from .errors import ApiError
from .fields import Fields, parse_object
from .guard import Guard, Guarded
from .openai_request import read_chat, read_completion
from .openai_response import ChatAnswer, CompletionAnswer
from .page import page_routes
from .state import Service

MOST_DISCARDED = 64 << 20  # bytes of a body too large that are read, since a client in the midst of sending hears no answer


async def read_body(request: Request, service: Service) -> dict:
    """The request's JSON object. Only application/json is read, which web pages of other hosts may not send unasked."""
    limits = service.limits
    kind = request.headers.get("content-type", "")
    if kind.partition(";")[0].strip().lower() != "application/json":
        raise ApiError(415, f"found Content-Type: {kind[:100]}, expected application/json")
    body, length = bytearray(), 0
    try:
        async with asyncio.timeout(limits.read_seconds):
            async for chunk in request.stream():
                length += len(chunk)
                if length <= limits.body_bytes:
                    body += chunk
                elif length > MOST_DISCARDED:
                    break
    except TimeoutError:
        raise ApiError(408, f"the body was not complete within {limits.read_seconds:g} s") from None
    if length > limits.body_bytes:
        raise ApiError(413, f"the body is larger than {limits.body_bytes} bytes")
    return parse_object(bytes(body))


class Routes:
    def __init__(self, service: Service):
        self.service = service
        self.guard = Guard(service, service.models[service.guard]) if service.guard else None

    async def _answer(self, request: Request, read, kind) -> Response:
        wanted = read(await read_body(request, self.service))
        model = self.service.model(wanted.model)
        prompts = await model.in_encoder(model.encode, wanted)
        of = self.service, model, wanted, prompts
        answering = Guarded(self.guard, *of) if self.guard else Answering(*of)
        answer = kind(model.name, model.texts, wanted.logprobs >= 0)
        if wanted.stream:
            return EventStream(answering, answer, request.state.note)
        return await answer_whole(request, answering, answer)

    async def completions(self, request: Request) -> Response:
        return await self._answer(request, read_completion, CompletionAnswer)

    async def chat(self, request: Request) -> Response:
        return await self._answer(request, read_chat, ChatAnswer)

    async def models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [model.describe() for model in self.service.offered]})

    async def one_model(self, request: Request) -> Response:
        return JSONResponse(self.service.model(request.path_params["name"]).describe())

    async def tokenize(self, request: Request) -> Response:
        """As vLLM's, which lm-eval uses: {"prompt": text} to {"tokens": ids}."""
        fields = Fields(await read_body(request, self.service))
        model, text = self.service.model(fields.text("model")), fields.text("prompt")
        special = fields.flag("add_special_tokens", True)
        fields.finish(frozenset())
        if text is None:
            raise ApiError(400, '"prompt": expected a text', "prompt")
        ids = await model.in_encoder(model.encode_text, text, special)
        return JSONResponse({"tokens": ids, "count": len(ids), "max_model_len": model.engine.context})

    async def detokenize(self, request: Request) -> Response:
        fields = Fields(await read_body(request, self.service))
        model, ids = self.service.model(fields.text("model")), fields.take("tokens")
        fields.finish(frozenset())
        if not isinstance(ids, list) or not all(type(n) is int and 0 <= n < model.engine.vocab_size for n in ids):
            raise ApiError(400, f'"tokens": expected a list of ids from 0 to {model.engine.vocab_size - 1}', "tokens")
        return JSONResponse({"prompt": model.tokenizer.decode(ids, skip_special_tokens=False)})

    async def tokenizer_info(self, request: Request) -> Response:
        return JSONResponse(self.service.model(request.query_params.get("model")).tokenizer_info())

    async def health(self, request: Request) -> Response:
        """503 when no work is taken any more, so that a load balancer turns to others."""
        return JSONResponse({"status": "draining"}, 503) if self.service.draining else JSONResponse({"status": "ok"})

    async def metrics(self, request: Request) -> Response:
        counts = [(name, await self.service.worker.counts(model.engine)) for name, model in self.service.models.items()]
        return PlainTextResponse("\n".join(self.service.metrics.lines(counts)) + "\n", media_type="text/plain; version=0.0.4")


def make_app(service: Service) -> Starlette:
    at = Routes(service)
    routes = [
        Route("/v1/models", at.models), Route("/v1/models/{name:path}", at.one_model),
        Route("/v1/completions", at.completions, methods=["POST"]), Route("/v1/chat/completions", at.chat, methods=["POST"]),
        Route("/tokenize", at.tokenize, methods=["POST"]), Route("/detokenize", at.detokenize, methods=["POST"]),
        Route("/tokenizer_info", at.tokenizer_info), Route("/health", at.health), Route("/metrics", at.metrics), *page_routes(),
    ]  # fmt: skip
    handlers = {ApiError: _api_error, HTTPException: _http_error, ClientDisconnect: _gone, Exception: _fault}
    return Starlette(routes=routes, exception_handlers=handlers)


async def _api_error(request: Request, error: ApiError) -> Response:
    request.state.note["error"] = str(error)
    return error.response()


async def _gone(request: Request, error: ClientDisconnect) -> Response:
    """Nobody reads it: the status of nginx, for the log."""
    return await _api_error(request, ApiError(499, GONE))


async def _http_error(request: Request, error: HTTPException) -> Response:
    said = {404: f"no such path: {request.url.path[:200]}", 405: f"{request.method} is not for {request.url.path[:200]}"}
    response = await _api_error(request, ApiError(error.status_code, said.get(error.status_code, error.detail)))
    response.headers.update(error.headers or {})
    return response


async def _fault(request: Request, error: Exception) -> Response:
    return await _api_error(request, ApiError(500, "the server met a fault; its log says more"))
