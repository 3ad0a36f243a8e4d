"""Listening, and what belongs to all connections: how many there may be, and their end."""

import asyncio
import socket
import ssl
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import structlog

from breezeblock.objects.nbd.connection import Connection
from breezeblock.objects.nbd.device import Device
from breezeblock.objects.nbd.sockets import listening

log = structlog.get_logger()

MAX_CONNECTIONS = 32
HANDSHAKE_S = 10.0
"""From connecting to the first request."""
STUCK_S = 60.0
"""A client that stops in the middle of something is dropped after at most twice that."""


class Server:
    """Serves devices by name until it is stopped."""

    def __init__(
        self,
        exports: Mapping[str, Device],
        *,
        tls: ssl.SSLContext | None = None,
        max_connections: int = MAX_CONNECTIONS,
        handshake_s: float = HANDSHAKE_S,
        stuck_s: float = STUCK_S,
    ) -> None:
        """Prepare; with `tls` nothing is told to a client before its connection is encrypted."""
        self.exports = exports
        self.tls = tls
        self.handshake_s = handshake_s
        self._max_connections = max_connections
        self._stuck_s = stuck_s
        self._listening: list[asyncio.Server] = []
        self._sockets: list[tuple[Path, int]] = []
        self._connections: set[Connection] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._ticker: asyncio.TimerHandle | None = None

    async def listen_unix(self, path: Path) -> None:
        """Listen on a socket that only our own user (and root) can open.

        It appears under its name when it can be used, and takes the place of one that a killed server
        left there.
        """
        await self._listen(listening(path))
        self._sockets.append((path, _inode(path)))

    async def listen_tcp(self, host: str, port: int) -> int:
        """Listen on TCP and return the port, which is chosen if `port` is 0."""
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        family, _type, _protocol, _name, address = found[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        await self._listen(listener)
        return int(listener.getsockname()[1])

    async def _listen(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        listener.setblocking(False)
        self._listening.append(await loop.create_server(lambda: Connection(self), sock=listener, backlog=64))
        if self._ticker is None:
            self._tick()

    async def stop(self) -> None:
        """Take no more requests, answer those that were taken, and close the devices.

        A client that does not fetch its answers is waited for as long as for any that is stuck.
        """
        for path, inode in self._sockets:
            with suppress(FileNotFoundError):
                if _inode(path) == inode:
                    path.unlink()
        for one in self._listening:
            one.close()
        if self._ticker is not None:
            self._ticker.cancel()
        for connection in list(self._connections):
            connection.leave()
        try:
            await asyncio.wait_for(self._empty.wait(), self._stuck_s)
        except TimeoutError:
            for connection in list(self._connections):
                connection.abort()
            await self._empty.wait()
        devices = dict.fromkeys(self.exports.values())
        # One that cannot be closed as it should must not keep the others from it.
        ends = await asyncio.gather(*(device.close() for device in devices), return_exceptions=True)
        for error in ends:
            if isinstance(error, BaseException):
                raise error

    @property
    def connections(self) -> int:
        """How many clients there are, with those that have gone but have requests under way."""
        return len(self._connections)

    def added(self, connection: Connection) -> bool:
        """Count a connection; False if there are too many."""
        if len(self._connections) >= self._max_connections:
            log.warning("nbd.too_many_connections", limit=self._max_connections)
            return False
        self._connections.add(connection)
        self._empty.clear()
        return True

    def removed(self, connection: Connection) -> None:
        """Forget a connection."""
        self._connections.discard(connection)
        if not self._connections:
            self._empty.set()

    def _tick(self) -> None:
        for connection in list(self._connections):
            connection.hang_up_if_stuck()
        self._ticker = asyncio.get_running_loop().call_later(self._stuck_s, self._tick)


def _inode(path: Path) -> int:
    return path.stat().st_ino
