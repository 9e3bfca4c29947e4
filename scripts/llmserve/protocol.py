"""HTTP/1.1 as uvicorn speaks it, for clients that stop in the middle or speak something else."""

import asyncio
import json
import socket

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from .errors import ApiError
from .gate import say

NOT_HTTP = ApiError(400, "this is not a request of HTTP/1.1, or its head is too long")


class Protocol(H11Protocol):
    """Cuts a connection if a request's head is not complete after head_seconds, or if the client takes nothing of what is sent
    to it for idle_seconds."""

    head_seconds, idle_seconds = 0.0, 0.0  # see protocol_class
    deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport) -> None:
        super().connection_made(transport)
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, min(int(self.idle_seconds * 1000), 2**31 - 1))
        # asyncio sets it only where the listening socket names its protocol; without it a token may wait 40 ms
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._expect_head()

    def connection_lost(self, exc) -> None:
        self._end_wait()
        super().connection_lost(exc)

    def _expect_head(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._end_wait()
        elif self.deadline is None:
            self.deadline = self.loop.call_later(self.head_seconds, self.transport.abort)

    def _end_wait(self) -> None:
        if self.deadline is not None:
            self.deadline.cancel()
            self.deadline = None

    def send_400_response(self, msg: str) -> None:
        say(f"{self.client[0] if self.client else '-'} 400 error=\"{NOT_HTTP}\"")
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = json.dumps(NOT_HTTP.body()).encode()
            head = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
            for event in (h11.Response(status_code=400, headers=head), h11.Data(body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event))
        self.transport.close()


def protocol_class(head_seconds: float, idle_seconds: float) -> type[Protocol]:
    """With these times; uvicorn makes the objects by itself."""
    return type("TimedProtocol", (Protocol,), {"head_seconds": head_seconds, "idle_seconds": idle_seconds})
