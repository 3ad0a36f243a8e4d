"""A client that has just come, until it has said which device it wants."""

import asyncio
import socket
import ssl
from collections.abc import Callable, Mapping
from typing import Protocol, cast

import structlog

from breezeblock.objects.nbd.device import Device
from breezeblock.objects.nbd.handshake import TLS, Agreed, HangUpError, negotiate
from breezeblock.objects.nbd.transmission import Transmission

log = structlog.get_logger()

_BUFFER_BYTES = 1 << 12


class House(Protocol):
    """What a connection needs of its server."""

    exports: Mapping[str, Device]
    tls: ssl.SSLContext | None
    handshake_s: float

    def added(self, connection: "Connection") -> bool:
        """Count a connection; False if there are too many."""

    def removed(self, connection: "Connection") -> None:
        """Forget a connection."""


class Connection(asyncio.BufferedProtocol):
    """Negotiates; then it holds the place of its transmission."""

    def __init__(self, server: House) -> None:
        self._server = server
        self._transport = cast("asyncio.Transport", None)
        self._out = bytearray()
        self._talk = negotiate(server.exports, self._out, tls=server.tls is not None)
        self._wanted: int | str = 0
        self._buffer = bytearray(_BUFFER_BYTES)
        self._filled = 0
        self._transmission: Transmission | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._upgrade: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet, unless there are too many."""
        self._transport = cast("asyncio.Transport", transport)
        if not self._server.added(self):
            self._hang_up()
            return
        _no_delay(transport)
        self._deadline = asyncio.get_running_loop().call_later(self._server.handshake_s, self._hang_up)
        self._advance(lambda: next(self._talk))

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        """Return where the next bytes go."""
        return memoryview(self._buffer)[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        """Give the negotiation what it wants, as long as that is there."""
        self._filled += nbytes
        while self._transmission is None and isinstance(self._wanted, int) and self._filled >= self._wanted:
            wanted = bytes(self._buffer[: self._wanted])
            rest = self._buffer[self._wanted : self._filled]
            self._buffer[: len(rest)] = rest
            self._filled = len(rest)
            if not self._advance(lambda: self._talk.send(wanted)):  # noqa: B023 - called at once
                return

    def _advance(self, step: Callable[[], int | str]) -> bool:
        """Take one step of the negotiation; False when that was its last in this form."""
        try:
            self._wanted = step()
        except StopIteration as end:
            self._send()
            self._agreed(end.value)
            return False
        except HangUpError as error:
            log.warning("nbd.negotiation_failed", why=str(error))
            self._hang_up()
            return False
        self._send()
        if self._wanted != TLS:
            return True
        if self._filled:
            # Whatever came in the clear behind the request would be taken for encrypted.
            log.warning("nbd.negotiation_failed", why="data between STARTTLS and its answer")
            self._hang_up()
        else:
            self._transport.pause_reading()  # what comes now is not for us
            self._upgrade = asyncio.get_running_loop().create_task(self._start_tls())
        return False

    async def _start_tls(self) -> None:
        context = cast("ssl.SSLContext", self._server.tls)
        try:
            encrypted = await asyncio.get_running_loop().start_tls(
                self._transport,
                self,
                context,
                server_side=True,
                ssl_handshake_timeout=self._server.handshake_s,
            )
        except OSError as error:
            log.warning("nbd.tls_failed", why=str(error))
            encrypted = None
        if encrypted is None:
            self._hang_up()
            return
        self._transport = encrypted
        if self._advance(lambda: self._talk.send(b"")):
            self.buffer_updated(0)

    def _agreed(self, agreed: Agreed | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        if agreed is None:
            self._transport.close()
            return
        self._transmission = Transmission(agreed, self._transport, lambda: self._server.removed(self))
        self._transport.set_protocol(self._transmission)
        self._transmission.feed(bytes(self._buffer[: self._filled]))

    def _send(self) -> None:
        if self._out:
            self._transport.write(bytes(self._out))
            self._out.clear()

    def eof_received(self) -> None:
        """Close: nobody leaves a negotiation half way."""

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Forget it all."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._talk.close()
        self._server.removed(self)

    def leave(self) -> None:
        """Take no more requests, answer those that were taken, then close."""
        if self._transmission is None:
            self._hang_up()
        else:
            self._transmission.leave()

    def abort(self) -> None:
        """Close at once."""
        if self._transmission is None:
            self._hang_up()
        else:
            self._transmission.abort()

    def hang_up_if_stuck(self) -> None:
        """Close what makes no progress; negotiations have their own deadline."""
        if self._transmission is not None:
            self._transmission.hang_up_if_stuck()

    def _hang_up(self) -> None:
        self._transport.abort()


def _no_delay(transport: asyncio.BaseTransport) -> None:
    """See that small replies leave at once."""
    connected = transport.get_extra_info("socket")
    if connected is not None and connected.family != socket.AF_UNIX:
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
