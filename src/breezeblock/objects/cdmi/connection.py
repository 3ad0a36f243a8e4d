"""HTTP/1.1 on one connection of the CDMI server: one request at a time, each with a deadline.

Who is not let in is told so when the request is complete, for a client that is still sending does not read;
but of such a body nothing is kept.
"""

import asyncio
from collections import deque
from typing import NamedTuple, Protocol, cast
from urllib.parse import unquote

import httptools

from breezeblock.objects.cdmi.requests import Answer, Request
from breezeblock.objects.http.client import MAX_HEAD_BYTES
from breezeblock.objects.stores.port import MAX_OBJECT_BYTES

BUSY = Answer(503, {"Retry-After": "1"})
_REASONS = {200: "OK", 201: "Created", 204: "No Content", 206: "Partial Content"}


class Limited(Protocol):
    """How much there may be; times are in seconds."""

    @property
    def connections(self) -> int:
        """At one time."""

    @property
    def idle_s(self) -> float:
        """Of silence between requests."""

    @property
    def request_s(self) -> float:
        """For a request to come, and for its answer to go."""


class Serving(Protocol):
    """What a connection asks of its server."""

    connections: "set[Connection]"

    @property
    def limits(self) -> Limited:
        """How much there may be."""

    def refusal(self, headers: dict[str, str]) -> Answer | None:
        """Return the answer to a request that is not let in."""

    def hold(self, count: int) -> Answer | None:
        """Count bytes of a body; return the answer if they are too many."""

    async def answer(self, request: Request) -> Answer:
        """Answer one that is."""


class _Asked(NamedTuple):
    request: Request
    refusal: Answer | None
    keep_alive: bool


class Connection(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, server: Serving) -> None:
        self._server = server
        self._waiting: deque[_Asked] = deque()
        self._task: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._timer: asyncio.TimerHandle | None = None
        self._gone = asyncio.Event()
        """Set while answers leave as fast as they are given."""
        self._gone.set()
        self._held = 0
        self._extra = False
        self._fresh()

    def _fresh(self) -> None:
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._url = b""
        self._refusal: Answer | None = None
        self._room, self._head_room = MAX_OBJECT_BYTES, MAX_HEAD_BYTES

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for a request."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop has classes of its own
        self._server.connections.add(self)
        here, most = len(self._server.connections), self._server.limits.connections
        self._extra = here > most
        if here > 2 * most:
            self.close()
        self._within(self._server.limits.idle_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        del exc
        self._server.connections.discard(self)
        self._transport = None
        self._gone.set()
        self._let_go()
        if self._timer:
            self._timer.cancel()

    def pause_writing(self) -> None:
        """Answer no more until what was answered has gone."""
        self._gone.clear()

    def resume_writing(self) -> None:
        """Go on."""
        self._gone.set()

    def close(self) -> None:
        """End it now."""
        if self._transport:
            self._transport.abort()

    def _within(self, seconds: float) -> None:
        """Close it unless something happens in time."""
        if self._timer:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, self.close)

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserCallbackError):
            self._send(Answer(400), keep_alive=False)

    # Called by the parser.

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._within(self._server.limits.request_s)

    def on_url(self, url: bytes) -> None:
        """Take a part of the address."""
        self._take(len(url))
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        self._take(len(name) + len(value))
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def _take(self, count: int) -> None:
        self._head_room -= count
        if self._head_room < 0:
            raise ValueError("too long an address, or too many headers")

    def on_headers_complete(self) -> None:
        """Let it in, or not."""
        self._refusal = BUSY if self._extra else self._server.refusal(self._headers)
        if self._headers.get("expect", "").lower() == "100-continue" and self._transport:
            if self._refusal:
                self._send(self._refusal, keep_alive=False)
            else:
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._room -= len(body)
        if self._room < 0 and not self._refusal:
            raise ValueError("too long a body")
        if not self._refusal:
            self._held += len(body)
            self._refusal = self._server.hold(len(body))
            self._body.append(body)
        if self._refusal:
            self._body.clear()

    def on_message_complete(self) -> None:
        """Answer."""
        path, _, search = self._url.decode("latin-1").partition("?")
        request = Request(
            self._parser.get_method().decode(), unquote(path), search, self._headers, b"".join(self._body)
        )
        keep_alive = self._parser.should_keep_alive() and not self._extra
        self._waiting.append(_Asked(request, self._refusal, keep_alive))
        self._fresh()
        if self._task is None:
            if self._transport:
                self._transport.pause_reading()
            self._task = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        limits = self._server.limits
        while self._waiting and self._transport:
            asked = self._waiting.popleft()
            if self._timer:
                self._timer.cancel()  # our own disk may take its time
            answer = asked.refusal or await self._server.answer(asked.request)
            self._within(limits.request_s)
            self._send(answer, keep_alive=asked.keep_alive, head=asked.request.method == "HEAD")
            await self._gone.wait()
        self._let_go()
        self._task = None
        if self._transport and not self._transport.is_closing():
            self._within(limits.idle_s)
            self._transport.resume_reading()

    def _let_go(self) -> None:
        self._server.hold(-self._held)
        self._held = 0

    def _send(self, answer: Answer, *, keep_alive: bool, head: bool = False) -> None:
        if not self._transport:
            return
        lines = [f"HTTP/1.1 {answer.status} {_REASONS.get(answer.status, 'Answer')}"]
        lines += [f"{name}: {value}" for name, value in answer.headers.items()]
        if answer.status != 204:
            lines.append(f"Content-Length: {len(answer.body) if answer.length < 0 else answer.length}")
        if not keep_alive:
            lines.append("Connection: close")
        self._transport.write("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n")
        if answer.body and not head:
            self._transport.write(answer.body)
        if not keep_alive:
            self._transport.close()
