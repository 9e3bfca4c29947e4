"""What stands around every request: who may ask, whether the server still takes work, one line in the log."""

import asyncio
import hmac
import json
import sys
import time

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect

from llmdata.characters import on_one_line

from .errors import ApiError
from .metrics import Metrics

LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")
GONE = 499  # the status in the log where the client went away before there was one
# What needs no key. The page holds none and asks for it.
OPEN = ("/", "/health", "/favicon.ico")


class Gate:
    """An ASGI application around another one."""

    def __init__(self, app, metrics: Metrics, api_key: str | None, local: bool):
        """local: the server can be reached from this machine alone, so that other names for it are a web page's trick."""
        self.app, self.metrics, self.local = app, metrics, local
        self.key = None if api_key is None else api_key.encode()
        self.draining = False
        self.busy = 0
        self.idle = asyncio.Event()
        self.idle.set()

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            return
        started, note, status = time.monotonic(), {}, []
        scope.setdefault("state", {})["note"] = note

        async def watched(message) -> None:
            if message["type"] == "http.response.start":
                status.append(message["status"])
            await send(message)

        self.busy += 1
        self.idle.clear()
        try:
            self._admit(scope)
            await self.app(scope, receive, watched)
        except ApiError as error:
            note["error"] = str(error)
            await error.response()(scope, receive, watched)
        except ClientDisconnect:
            note["error"] = "the client went away"
        finally:
            self.busy -= 1
            if not self.busy:
                self.idle.set()
            self._log(scope, status[0] if status else GONE, time.monotonic() - started, note)

    def _admit(self, scope) -> None:
        headers, path = Headers(scope=scope), scope["path"]
        if self.local and headers.get("host", "").rsplit(":", 1)[0].lower() not in LOCAL_NAMES:
            raise ApiError(403, f"found Host: {headers.get('host', '')[:100]}, expected one of {', '.join(LOCAL_NAMES)}")
        if self.draining and scope["method"] == "POST":
            raise ApiError(503, "the server is shutting down", code="shutting_down", retry_after=5)
        if self.key is None or path in OPEN or path.startswith("/static/"):
            return
        word, _, given = headers.get("authorization", "").partition(" ")
        if word.lower() != "bearer" or not hmac.compare_digest(given.strip().encode("latin-1"), self.key):
            raise ApiError(401, "expected the server's key in the header Authorization: Bearer KEY", code="invalid_api_key")

    def _log(self, scope, status: int, seconds: float, note: dict) -> None:
        route = scope.get("route")
        self.metrics.answers[getattr(route, "path", "other"), status] += 1
        client = scope.get("client") or ("-", 0)
        words = [time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), client[0], scope["method"], scope["path"][:200], str(status),
                 f"{seconds:.3f}s", *(f"{name}={json.dumps(value) if ' ' in str(value) else value}" for name, value in note.items())]  # fmt: skip
        print(on_one_line(" ".join(words)), file=sys.stderr, flush=True)
