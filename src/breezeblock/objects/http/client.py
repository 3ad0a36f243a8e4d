"""Requests to one server (RFC 9112): kept-alive connections, deadlines, and bounds on what is taken in.

No redirects, no cookies, no compression, no proxies: a store that needs one of them is named otherwise.
"""

import asyncio
import ssl
from collections.abc import Mapping
from typing import NamedTuple, cast
from urllib.parse import urlsplit

import httptools

from breezeblock.errors import ConfigError, UnavailableError, UnsupportedError

MAX_HEAD_BYTES = 64 << 10
MAX_IDLE = 64


class Reply(NamedTuple):
    """An answer."""

    status: int
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes


class BrokenError(UnavailableError):
    """The connection ended, or what came over it is no HTTP."""


class TooLongError(BrokenError):
    """More came than was asked for."""

    def __init__(self, status: int) -> None:
        super().__init__("The server's answer is longer than what was asked for.")
        self.status = status


class _Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self, everyone: "set[_Connection]") -> None:
        self._everyone = everyone
        self.transport: asyncio.Transport | None = None
        self.alive = True
        self.silent = True
        """Nothing of an answer has come yet."""
        self._answer: asyncio.Future[Reply] | None = None
        self._parser: httptools.HttpResponseParser | None = None

    def ask(
        self, request: bytes, body: bytes | bytearray | memoryview, limit: int, *, head: bool
    ) -> "asyncio.Future[Reply]":
        """Send a request; the future gets the answer."""
        self._answer = asyncio.get_running_loop().create_future()
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._room, self._head_room, self._no_body, self.silent = limit, MAX_HEAD_BYTES, head, True
        assert self.transport  # noqa: S101 - connection_made comes first
        if len(body) < 1 << 16:
            self.transport.write(request + body)
        else:
            self.transport.write(request)
            self.transport.write(body)
        return self._answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop has classes of its own
        self._everyone.add(self)

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        if self._parser is None:
            self.close()  # an answer that nobody asked for
            return
        self.silent = False
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserCallbackError) as error:
            if self._parser is not None:
                self._fail(BrokenError(f"The server's answer is no HTTP, or too long: {error}."))

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever waits."""
        self.alive = False
        self._everyone.discard(self)
        self._fail(BrokenError(f"The server ended the connection ({exc or 'no reason'})."))

    def close(self) -> None:
        """End the connection."""
        self.alive = False
        if self.transport:
            self.transport.abort()

    def late(self) -> None:
        """Wait for the answer no longer."""
        self._fail(TimeoutError())

    def _fail(self, error: Exception) -> None:
        self.alive, self._parser = False, None
        if self._answer and not self._answer.done():
            self._answer.set_exception(error)
        if self.transport:
            self.transport.abort()

    # Called by the parser.

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        self._head_room -= len(name) + len(value)
        if self._head_room < 0:
            raise ValueError(f"more than {MAX_HEAD_BYTES} bytes of headers")
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """End here if no body follows."""
        if self._no_body:
            self._finish()

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._room -= len(body)
        if self._room < 0:
            status = self._parser.get_status_code() if self._parser else 0
            self._fail(TooLongError(status))
            raise ValueError("a longer body than was asked for")
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Answer."""
        self._finish()

    def _finish(self) -> None:
        if self._parser is None or self._answer is None:
            return
        status = self._parser.get_status_code()
        if status < 200:
            return  # 100 Continue and its like
        if not self._parser.should_keep_alive():
            self.alive = False
        self._parser = None
        if not self._answer.done():
            self._answer.set_result(Reply(status, self._headers, b"".join(self._body)))


class Client:
    """One server, by URL."""

    def __init__(self, url: str, *, context: ssl.SSLContext | None = None, deadline_s: float = 60.0) -> None:
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:  # which may quote a password
            raise ConfigError("The host or port of an endpoint's URL cannot be read.") from None
        # What is more than that may be a secret, and URLs are shown in messages.
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise ConfigError(
                "Credentials do not belong in a URL, nor anything after its path.",
                remedy="Use the settings for them.",
            )
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ConfigError(f"{url!r} is no http or https URL of a server.")
        self.path = parts.path.rstrip("/")
        self.authority = parts.netloc
        self._host = parts.hostname
        self._port = port or (443 if parts.scheme == "https" else 80)
        secure = parts.scheme == "https"
        self._context = (context or ssl.create_default_context()) if secure else None
        self._deadline_s = deadline_s
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()
        self._closed = False

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._open)

    async def request(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | bytearray | memoryview = b"",
        *,
        limit: int = 1 << 20,
    ) -> Reply:
        """Ask, and return the answer; a body of more than `limit` bytes is refused.

        If a kept-alive connection turns out to be dead before any answer came, a fresh one is tried: our
        requests may be repeated, but for those with a condition. Their caller has to know that there may have
        been a first one, which made the condition false. Raises UnavailableError.
        """
        lines = [f"{method} {target} HTTP/1.1", f"Host: {self.authority}", "User-Agent: breezeblock"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        if body or method in {"PUT", "POST"}:
            lines.append(f"Content-Length: {len(body)}")
        text = "\r\n".join(lines)
        plain = text.replace("\r\n", "")
        if "\r" in plain or "\n" in plain or not text.isascii():
            raise ConfigError(f"{method} to {self.authority}: a header has characters that it cannot have.")
        data = text.encode("ascii") + b"\r\n\r\n"
        until = asyncio.get_running_loop().time() + self._deadline_s
        once = method != "GET" and _conditional(headers or {})
        try:
            return await self._ask(data, body, limit, until, head=method == "HEAD", once=once)
        except TooLongError as error:
            if error.status == 200 and any(name.lower() == "range" for name in headers or {}):
                # It would send the whole again and again: no use in asking once more.
                raise UnsupportedError(f"{self.authority} ignores ranges: it sends whole objects.") from None
            raise
        except TimeoutError:
            raise UnavailableError(
                f"{self.authority} did not answer {method} within {self._deadline_s:g} s."
            ) from None
        except (OSError, ssl.SSLError) as error:
            raise UnavailableError(f"{self.authority} cannot be reached: {error}.") from error

    async def _ask(
        self,
        data: bytes,
        body: bytes | bytearray | memoryview,
        limit: int,
        until: float,
        *,
        head: bool,
        once: bool,
    ) -> Reply:
        while self._idle:
            held = self._idle.pop()
            if held.alive:
                try:
                    return await self._over(held, data, body, limit, until, head=head)
                except BrokenError:
                    if once or not held.silent:
                        self._drop_idle()  # they may be as dead
                        raise
        async with asyncio.timeout_at(until):
            made = await self._connect()
        return await self._over(made, data, body, limit, until, head=head)

    async def _over(
        self,
        held: _Connection,
        data: bytes,
        body: bytes | bytearray | memoryview,
        limit: int,
        until: float,
        *,
        head: bool,
    ) -> Reply:
        # A timer of the loop costs a third of asyncio.timeout.
        late = asyncio.get_running_loop().call_at(until, held.late)
        try:
            reply = await held.ask(data, body, limit, head=head)
        except BaseException:
            held.close()
            raise
        finally:
            late.cancel()
        if held.alive and len(self._idle) < MAX_IDLE and not self._closed:
            self._idle.append(held)
        else:
            held.close()
        return reply

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        name = self._host if self._context else None
        _, made = await loop.create_connection(
            lambda: _Connection(self._open), self._host, self._port, ssl=self._context, server_hostname=name
        )
        return made

    async def close(self) -> None:
        """End the connections that are idle now, the others with their requests."""
        self._closed = True
        self._drop_idle()
        await asyncio.sleep(0)

    def _drop_idle(self) -> None:
        while self._idle:
            self._idle.pop().close()


def _conditional(headers: Mapping[str, str]) -> bool:
    said = {name.lower(): value for name, value in headers.items()}
    return "if-none-match" in said or said.get("if-match", "*") != "*"
