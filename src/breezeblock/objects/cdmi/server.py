"""HTTP/1.1 for the CDMI server: one connection, one request at a time, file work on threads."""

import asyncio
import base64
import hmac
import ssl
from collections import deque
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import httptools

from breezeblock.errors import BreezeblockError, NoSpaceError
from breezeblock.objects.cdmi import requests
from breezeblock.objects.http.client import MAX_HEAD_BYTES
from breezeblock.objects.stores.directory import DirectoryStore
from breezeblock.objects.stores.port import MAX_OBJECT_BYTES

_REASONS = {200: "OK", 201: "Created", 204: "No Content", 206: "Partial Content"}


class _Asked(NamedTuple):
    request: requests.Request
    keep_alive: bool


class CdmiServer:
    """Serves a directory; `user` and `password` are asked for (Basic) if set."""

    def __init__(self, root: Path, *, user: str = "", password: str = "") -> None:
        self.store = DirectoryStore(root)
        pair = base64.b64encode(f"{user}:{password}".encode()).decode()
        self._expected = f"Basic {pair}" if user else ""
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()

    async def start(self, host: str, port: int, context: ssl.SSLContext | None = None) -> int:
        """Listen; return the port."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Connection(self, self._connections), host, port, ssl=context
        )
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Stop listening and end all connections."""
        if self._server:
            self._server.close()
        for connection in list(self._connections):
            connection.close()

    async def answer(self, request: requests.Request) -> requests.Answer:
        """Answer one request."""
        said = request.headers.get("authorization", "")
        if self._expected and not hmac.compare_digest(said.encode(), self._expected.encode()):
            return requests.Answer(401, {"WWW-Authenticate": 'Basic realm="cdmi"'})
        try:
            return await asyncio.to_thread(requests.answer, self.store, request)
        except NoSpaceError:
            return requests.Answer(507)
        except BreezeblockError as error:
            return requests.Answer(503 if not error.permanent else 400, {}, str(error).encode())


class _Connection(asyncio.Protocol):
    def __init__(self, server: CdmiServer, everyone: "set[_Connection]") -> None:
        self._server, self._everyone = server, everyone
        self._waiting: deque[_Asked] = deque()
        self._task: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._fresh()

    def _fresh(self) -> None:
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._url = b""
        self._room, self._head_room = MAX_OBJECT_BYTES, MAX_HEAD_BYTES

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - a stream always has one
        self._transport = transport
        self._everyone.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._everyone.discard(self)
        self._transport = None

    def close(self) -> None:
        if self._transport:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserCallbackError):
            self._send(requests.Answer(400), keep_alive=False)

    # Called by the parser.

    def on_url(self, url: bytes) -> None:
        self._take(len(url))
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._take(len(name) + len(value))
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def _take(self, count: int) -> None:
        self._head_room -= count
        if self._head_room < 0:
            raise ValueError("too long an address, or too many headers")

    def on_headers_complete(self) -> None:
        if self._headers.get("expect", "").lower() == "100-continue" and self._transport:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._room -= len(body)
        if self._room < 0:
            raise ValueError("too long a body")
        self._body.append(body)

    def on_message_complete(self) -> None:
        path, _, search = self._url.decode("latin-1").partition("?")
        request = requests.Request(
            self._parser.get_method().decode(), unquote(path), search, self._headers, b"".join(self._body)
        )
        self._waiting.append(_Asked(request, self._parser.should_keep_alive()))
        self._fresh()
        if self._task is None:
            if self._transport:
                self._transport.pause_reading()
            self._task = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        while self._waiting and self._transport:
            asked = self._waiting.popleft()
            answer = await self._server.answer(asked.request)
            self._send(answer, keep_alive=asked.keep_alive, head=asked.request.method == "HEAD")
        self._task = None
        if self._transport and not self._transport.is_closing():
            self._transport.resume_reading()

    def _send(self, answer: requests.Answer, *, keep_alive: bool, head: bool = False) -> None:
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
