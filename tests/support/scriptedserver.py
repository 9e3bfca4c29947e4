"""A server with the chat page whose models say what a test tells them to."""

import asyncio
import contextlib
import json
import math
import threading

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from llmserve.page import page_routes

HOLD = object()  # in an answer: nothing more comes until the client goes away
BREAK = object()  # the connection ends without the end of the answer


class ScriptedServer:
    """`says[MODEL]` is the answer to each request: a list of pieces of text or bytes, each a token; HOLD; BREAK; or an error
    (code, message) in place of the list or of a piece. `asked` has the bodies of all requests."""

    def __init__(self, models: dict[str, bool]):
        self.models, self.says, self.asked, self.gone = models, {}, [], threading.Event()
        self.key = ""

    def routes(self) -> list[Route]:
        return [Route("/v1/models", self.list_models), Route("/v1/chat/completions", self.answer, methods=["POST"]),
                Route("/v1/completions", self.answer, methods=["POST"]), *page_routes()]  # fmt: skip

    def list_models(self, request: Request) -> JSONResponse:
        if self.key and request.headers.get("Authorization") != f"Bearer {self.key}":
            return JSONResponse(error("the API key is missing or wrong"), 401)
        return JSONResponse({"data": [{"id": name, "chat": chat, "max_model_len": 4096} for name, chat in self.models.items()]})

    async def answer(self, request: Request) -> JSONResponse | StreamingResponse:
        body = await request.json()
        self.asked.append(body)
        says = self.says[body["model"]]
        if isinstance(says, tuple):
            return JSONResponse(error(says[1]), says[0], {"Retry-After": "7"} if says[0] == 429 else None)
        events = self.events(says, chunk_of_chat if "messages" in body else chunk_of_text)
        return StreamingResponse(events, media_type="text/event-stream")

    async def events(self, says, chunk):
        written = b""
        try:
            for piece in says:
                if piece is HOLD:
                    await asyncio.Event().wait()
                if piece is BREAK:
                    return
                if isinstance(piece, tuple):
                    yield event(error(piece[1]))
                    return
                token = piece if isinstance(piece, bytes) else piece.encode()
                before, written = whole_characters(written), written + token
                yield event(chunk(whole_characters(written)[len(before) :], token))
        except asyncio.CancelledError:
            self.gone.set()
            raise
        yield event({"choices": [{"index": 0, "delta": {}, "text": "", "finish_reason": "length"}]})
        yield event({"choices": [], "usage": {"completion_tokens": len(says)}})
        yield "data: [DONE]\n\n"


def whole_characters(data: bytes) -> str:
    return data.decode(errors="ignore")


def event(fields: dict) -> str:
    return f"data: {json.dumps(fields)}\n\n"


def error(message: str) -> dict:
    return {"error": {"message": message, "type": "invalid_request_error", "code": None, "param": None}}


def chunk_of_chat(text: str, token: bytes) -> dict:
    shown = token.decode(errors="replace")
    tops = [{"token": shown, "logprob": math.log(0.75)}, {"token": " other", "logprob": math.log(0.125)}]
    content = [{"token": shown, "bytes": list(token), "logprob": math.log(0.75), "top_logprobs": tops}]
    return {"choices": [{"index": 0, "delta": {"content": text}, "logprobs": {"content": content}, "finish_reason": None}]}


def chunk_of_text(text: str, token: bytes) -> dict:
    shown = token.decode(errors="replace")
    logprobs = {"tokens": [shown], "token_logprobs": [math.log(0.75)], "bytes": [list(token)],
                "top_logprobs": [{shown: math.log(0.75), " other": math.log(0.125)}]}  # fmt: skip
    return {"choices": [{"index": 0, "text": text, "logprobs": logprobs, "finish_reason": None}]}


@contextlib.contextmanager
def running(server: ScriptedServer):
    """Serves on a free port, whose URL is given, until the block is left."""
    config = uvicorn.Config(Starlette(routes=server.routes()), port=0, log_level="warning", timeout_graceful_shutdown=1)
    program = uvicorn.Server(config)
    sock = config.bind_socket()
    thread = threading.Thread(target=program.run, args=([sock],), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{sock.getsockname()[1]}/"
    finally:
        program.should_exit = True
        thread.join(600)
        sock.close()
