"""What stands around every request: who may ask, whether the server still takes work, one line in the log."""

import asyncio
import contextlib
import hmac
import json
import os
import re
import sys
import time
import traceback

from starlette.datastructures import Headers

from llmdata.characters import on_one_line

from .errors import ApiError
from .state import Service

# What this machine calls itself: a web page elsewhere can let its name lead here, but no number.
LOCAL_HOST = re.compile(r"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d+)?", re.I)
# What needs no key. The page holds none and asks for it.
OPEN = ("/", "/health")
SPARE = 64  # requests that send their body or are read, beside as many as all models have room for


class Gate:
    """An ASGI application around another one."""

    def __init__(self, app, service: Service, api_key: str | None, local: bool):
        """local: the server can be reached from this machine alone, so that other names for it are a web page's trick."""
        self.app, self.service = app, service
        self.key = None if api_key is None else api_key.encode()
        self.local = local and self.key is None
        self.most = len(service.models) * service.limits.room + SPARE
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
        except Exception:  # the application has answered with 500, if it still could
            traceback.print_exc()
        finally:
            self.busy -= 1
            if not self.busy:
                self.idle.set()
            self._log(scope, status[0] if status else 500, time.monotonic() - started, note)

    def _admit(self, scope) -> None:
        headers, path = Headers(scope=scope), scope["path"]
        if self.local and not LOCAL_HOST.fullmatch(host := headers.get("host", "")):
            raise ApiError(403, f"found Host: {host[:100]}, expected localhost or 127.0.0.1; other names need --api-key")
        if self.service.draining and scope["method"] == "POST":
            raise ApiError(503, "the server is shutting down", code="shutting_down", retry_after=5)
        if self.busy > self.most and scope["method"] == "POST":  # their bodies would fill the memory
            raise ApiError(429, f"{self.most} requests are under way: try again later", code="queue_full", retry_after=1)
        if self.key is None or path in OPEN or path.startswith("/static/"):
            return
        word, _, given = headers.get("authorization", "").partition(" ")
        if word.lower() != "bearer" or not hmac.compare_digest(given.strip().encode("latin-1"), self.key):
            raise ApiError(401, "expected the server's key in the header Authorization: Bearer KEY", code="invalid_api_key")

    def _log(self, scope, status: int, seconds: float, note: dict) -> None:
        route = scope.get("route")
        self.service.metrics.answers[getattr(route, "path", "other"), status] += 1
        client = scope.get("client") or ("-", 0)
        words = [client[0], scope["method"], scope["path"][:200], str(status), f"{seconds:.3f}s"]
        words += [f"{name}={json.dumps(value) if ' ' in str(value) else value}" for name, value in note.items()]
        say(" ".join(words))


def say(line: str) -> None:
    """A line in the log. Where that cannot be written any more, the server goes on."""
    with contextlib.suppress(OSError, ValueError):
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        print(f"{stamp} {on_one_line(line)}\n", end="", file=sys.stderr or open(os.devnull, "w"), flush=True)
