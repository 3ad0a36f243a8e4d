"""Another NBD server's export as a device that outlives that server.

What was asked and not answered is kept, and sent again, in its order, over the next connection. So the
server behind may be killed, upgraded or moved, and whoever uses this device sees a pause as long as that
takes, and nothing else. It stands between a kernel and a server: the kernel by itself sends again what a dead
server did not answer only after a timeout of seconds.
"""

import asyncio
import errno
from typing import Any, NamedTuple, cast

import structlog

from breezeblock.errors import BreezeblockError
from breezeblock.objects.nbd import client, wire
from breezeblock.objects.nbd.device import DATA, Data, Extent, Soon
from breezeblock.objects.nbd.wire import Command, Flag, Transmission

log = structlog.get_logger()

_RETRY_S = 0.02
_MAX_RETRY_S = 0.2
_BUFFER_BYTES = 256 << 10
_HEADER = wire.SIMPLE.size


class _Asked(NamedTuple):
    head: bytes
    payload: memoryview | None
    length: int
    answer: "asyncio.Future[Any]"
    is_read: bool


class RemoteDevice:
    """A device elsewhere. Requests wait while its server does not answer."""

    def __init__(self, where: client.Place) -> None:
        """Prepare; `open` connects."""
        self._where = where
        self._export = client.Export(0, Transmission(0), 1, 4096)
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._asked: dict[bytes, _Asked] = {}
        self._cookie = 0
        self._closed = False
        self._reconnecting: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Connect for the first time. Raises what `client.connect` raises."""
        connected, export = await asyncio.to_thread(client.connect, self._where)
        connected.setblocking(False)
        self._export = export
        transport, _protocol = await self._loop.create_connection(lambda: _Answers(self), sock=connected)
        transport.set_write_buffer_limits(high=1 << 30)  # who asks is bounded already
        self._transport = transport
        for asked in self._asked.values():
            self._send(asked)

    def lost(self) -> None:
        """Connect again, for as long as it takes."""
        self._transport = None
        if not self._closed:
            self._reconnecting = self._loop.create_task(self._reconnect())

    async def _reconnect(self) -> None:
        log.warning("nbd.server_lost", server=str(self._where), waiting=len(self._asked))
        pause_s = _RETRY_S
        while not self._closed:
            try:
                await self.open()
            except (BreezeblockError, OSError):
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 1.5, _MAX_RETRY_S)
            else:
                log.info("nbd.server_back", server=str(self._where))
                return

    async def refresh(self) -> None:
        """Ask for the length again."""
        connected, self._export = await asyncio.to_thread(client.connect, self._where)
        connected.close()

    # --- the device ----------------------------------------------------------------------------

    @property
    def length(self) -> int:
        """Bytes, as of the last connection."""
        return self._export.length

    @property
    def minimum_bytes(self) -> int:
        """The server's."""
        return self._export.minimum_bytes

    @property
    def preferred_bytes(self) -> int:
        """The server's."""
        return self._export.preferred_bytes

    @property
    def read_only(self) -> bool:
        """The server's."""
        return bool(self._export.flags & Transmission.READ_ONLY)

    def read(self, offset: int, length: int) -> Soon[Data | list[Data]]:
        """Ask for bytes."""
        return self._ask(Command.READ, 0, offset, length)

    def write(self, offset: int, data: memoryview, *, fua: bool = False) -> Soon[None]:
        """Send bytes."""
        return self._change(Command.WRITE, 0, offset, len(data), fua, data)

    def flush(self) -> Soon[None]:
        """Pass it on."""
        return self._ask(Command.FLUSH, 0, 0, 0) if self._can(Transmission.SEND_FLUSH) else None

    def trim(self, offset: int, length: int, *, fua: bool = False) -> Soon[None]:
        """Pass it on."""
        if not self._can(Transmission.SEND_TRIM):
            return None
        return self._change(Command.TRIM, 0, offset, length, fua)

    def zero(
        self, offset: int, length: int, *, fua: bool = False, may_trim: bool = True, fast: bool = False
    ) -> Soon[None]:
        """Pass it on, or write zeros to a server that does not know how."""
        if fast and not self._can(Transmission.SEND_FAST_ZERO):
            raise OSError(errno.ENOTSUP, "the server does not say what is fast")
        if not self._can(Transmission.SEND_WRITE_ZEROES):
            return self._write_zeros(offset, length, fua)
        flags = (0 if may_trim else Flag.NO_HOLE) | (Flag.FAST_ZERO if fast else 0)
        return self._change(Command.WRITE_ZEROES, flags, offset, length, fua)

    def cache(self, offset: int, length: int) -> Soon[None]:
        """Pass it on."""
        if not self._can(Transmission.SEND_CACHE):
            return None
        return self._ask(Command.CACHE, 0, offset, length)

    def extents(self, offset: int, length: int, limit: int) -> list[Extent]:  # noqa: ARG002
        """Know nothing: simple replies cannot tell."""
        return [Extent(length, DATA)]

    async def close(self) -> None:
        """Flush, and take leave."""
        if self._transport is not None and not self.read_only:
            flushed = self.flush()
            if flushed is not None:
                await flushed
        self._closed = True
        if self._reconnecting is not None:
            self._reconnecting.cancel()
        if self._transport is not None:
            self._transport.write(wire.REQUEST.pack(wire.REQUEST_MAGIC, 0, Command.DISC, bytes(8), 0, 0))
            self._transport.close()

    async def _write_zeros(self, offset: int, length: int, fua: bool) -> None:
        zeros = memoryview(bytes(min(length, 1 << 20)))
        for start in range(offset, offset + length, len(zeros)):
            done = self.write(start, zeros[: offset + length - start], fua=fua)
            if done is not None:
                await done

    def _can(self, ability: Transmission) -> bool:
        return bool(self._export.flags & ability)

    def _change(
        self, kind: Command, flags: int, offset: int, length: int, fua: bool, data: memoryview | None = None
    ) -> Soon[None]:
        if not fua:
            return self._ask(kind, flags, offset, length, data)
        if self._can(Transmission.SEND_FUA):
            return self._ask(kind, flags | Flag.FUA, offset, length, data)
        return self._then_flush(self._ask(kind, flags, offset, length, data))

    async def _then_flush(self, change: "asyncio.Future[None]") -> None:
        await change
        flushed = self.flush()
        if flushed is not None:
            await flushed

    # --- the wire ------------------------------------------------------------------------------

    def _ask(
        self, kind: Command, flags: int, offset: int, length: int, payload: memoryview | None = None
    ) -> "asyncio.Future[Any]":
        self._cookie += 1
        cookie = self._cookie.to_bytes(8)
        head = wire.REQUEST.pack(wire.REQUEST_MAGIC, flags, kind, cookie, offset, length)
        asked = _Asked(head, payload, length, self._loop.create_future(), kind == Command.READ)
        self._asked[cookie] = asked
        if self._transport is not None:
            self._send(asked)
        return asked.answer

    def _send(self, asked: _Asked) -> None:
        transport = cast("asyncio.Transport", self._transport)
        if asked.payload is None:
            transport.write(asked.head)
        else:
            transport.writelines((asked.head, asked.payload))

    def expected(self, cookie: bytes) -> _Asked | None:
        """Return what an answer is to, None if nothing was asked so."""
        return self._asked.get(cookie)

    def answered(self, cookie: bytes, error: int, data: bytearray | None) -> None:
        """Settle a request."""
        answer = self._asked.pop(cookie).answer
        if answer.done():  # nobody waits for it any more
            return
        if error:
            answer.set_exception(OSError(error, "the server's error"))
        else:
            answer.set_result(data)


class _Answers(asyncio.BufferedProtocol):
    """One connection's simple replies."""

    def __init__(self, device: RemoteDevice) -> None:
        self._device = device
        self._buffer = bytearray(_BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        self._data: bytearray | None = None
        """What a read is answered with, of which so many bytes have come."""
        self._came = 0
        self._cookie = b""
        self._transport = cast("asyncio.Transport", None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        if self._data is not None:
            return memoryview(self._data)[self._came :]
        return self._view[self._end :]

    def buffer_updated(self, nbytes: int) -> None:
        if self._data is None:
            self._end += nbytes
        else:
            self._came += nbytes
            self._settle_if_whole()
        while self._data is None and self._end - self._start >= _HEADER:
            magic, error, cookie = wire.SIMPLE.unpack_from(self._buffer, self._start)
            asked = self._device.expected(cookie)
            if magic != wire.SIMPLE_MAGIC or asked is None:
                log.error("nbd.bad_reply")
                self._transport.abort()
                return
            self._start += _HEADER
            if error or not asked.is_read:
                self._device.answered(cookie, error, None)
                continue
            here = min(asked.length, self._end - self._start)
            self._data, self._cookie, self._came = bytearray(asked.length), cookie, here
            self._data[:here] = self._view[self._start : self._start + here]
            self._start += here
            self._settle_if_whole()
        rest = self._end - self._start
        if rest:
            self._view[:rest] = bytes(self._view[self._start : self._end])
        self._start, self._end = 0, rest

    def _settle_if_whole(self) -> None:
        if self._data is not None and self._came == len(self._data):
            data, self._data = self._data, None
            self._device.answered(self._cookie, 0, data)

    def eof_received(self) -> None:
        pass

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._device.lost()
