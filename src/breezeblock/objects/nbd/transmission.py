"""One client's requests and their replies, after the negotiation: the hot path.

Three things make it cheap. All requests that one wake-up of the event loop brought are parsed in one go and
their replies leave in one system call. Payloads are received into the buffer that the device is given to
read from; large ones into a buffer of exactly their length. And what the device answers at once is
replied to at once; only what takes time becomes a task, and may finish in any order.

What a client can make us hold is bounded: `WINDOW_BYTES` of requests and replies under way and one request
more. Above that we stop reading from its socket, and it waits.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

import structlog

from breezeblock.objects.nbd import wire
from breezeblock.objects.nbd.bounds import refusal
from breezeblock.objects.nbd.device import Data, Device
from breezeblock.objects.nbd.handshake import Agreed
from breezeblock.objects.nbd.replies import Replies
from breezeblock.objects.nbd.sockets import hung_up
from breezeblock.objects.nbd.wire import Command, Error, Flag

log = structlog.get_logger()
_T = TypeVar("_T")

WINDOW_BYTES = 16 << 20
_BUFFER_BYTES = 256 << 10
_ROOM_BYTES = 64 << 10
"""A buffer with less room left at its end is replaced, or its rest moved to the front."""
_COST_BYTES = 4096
"""What the smallest request under way counts."""
_MAX_EXTENTS = 1 << 13
_HEADER = wire.REQUEST.size
_BUFFERS = frozenset({bytes, bytearray, memoryview, list})

_FUA = int(Flag.FUA)
_READ, _WRITE = int(Command.READ), int(Command.WRITE)


class Transmission(asyncio.BufferedProtocol):
    """Takes over a connected transport from the negotiation."""

    def __init__(self, agreed: Agreed, transport: asyncio.Transport, ended: Callable[[], None]) -> None:
        """Begin; `ended` is called when the connection is gone and nothing of it is under way."""
        self._device: Device = agreed.device
        self._replies = Replies(transport, structured=agreed.structured)
        self._allocation = agreed.allocation
        self._transport = transport
        self._ended: Callable[[], None] | None = ended
        self._loop = asyncio.get_running_loop()
        self._futures: set[asyncio.Future[Any]] = set()
        self._reads: set[asyncio.Future[Any]] = set()
        self._under_way = 0
        """Bytes that requests under way count."""
        self._writable = True
        self._leaving = False
        self._lost = False
        self._received = 0
        """Grows with each wake-up, so that somebody can see that nothing comes any more."""
        self._seen = (-1, 0)
        # The buffer, and what of it is not parsed yet.
        self._buffer = bytearray(_BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        self._kept = False
        """Whether a request under way reads from the buffer, so that nothing in it may be overwritten."""
        # A payload that is received into a buffer of its own.
        self._payload: memoryview | None = None
        self._payload_filled = 0
        self._payload_request = (0, b"", 0)
        self._skip = 0
        """Bytes of a refused payload that are still to come."""
        self._handlers: tuple[Callable[[int, bytes, int, int], None], ...] = (
            self._read,
            self._refuse,  # writes have a payload and go another way
            self._leave,
            self._flush,
            self._trim,
            self._cache,
            self._zero,
            self._status,
        )
        transport.set_write_buffer_limits(high=WINDOW_BYTES // 2)

    # --- receiving -----------------------------------------------------------------------------

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        """Return where the next bytes go."""
        if self._payload is not None:
            return self._payload[self._payload_filled :]
        return self._view[self._end :]

    def buffer_updated(self, nbytes: int) -> None:
        """Do all requests that are complete now."""
        self._received += 1
        if self._payload is None:
            self._end += nbytes
        else:
            self._payload_filled += nbytes
            if self._payload_filled < len(self._payload):
                return
            data, self._payload = self._payload, None
            self._write(*self._payload_request, data)
        self._go_on()

    def feed(self, rest: bytes) -> None:
        """Take what came together with the end of the negotiation, and begin."""
        self._view[: len(rest)] = rest
        self._end = len(rest)
        self._go_on()

    def _go_on(self) -> None:
        more = self._parse()
        self._replies.send()
        self._make_room()
        if self._transport.is_closing():
            return
        if more:
            # The transport says that it has too much only after this turn of the loop.
            self._transport.pause_reading()
            self._loop.call_soon(self._resume)
        elif self._has_room() and not self._leaving:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def _resume(self) -> None:
        """Go on after a pause; a client that has gone may have asked the same over another connection."""
        if self._writable and not self._lost:
            if hung_up(self._transport.get_extra_info("socket")):
                self._leave()
            self._go_on()

    def _has_room(self) -> bool:
        return self._writable and self._under_way < WINDOW_BYTES

    def _parse(self) -> bool:
        """Do what is complete. True if replies piled up and the rest must wait until they are sent."""
        buffer, handlers = self._buffer, self._handlers
        while self._end - self._start >= _HEADER and not self._leaving and self._has_room():
            if self._replies.waiting_bytes > WINDOW_BYTES:
                return True
            if self._skip:
                self._skip_some()
                continue
            magic, flags, kind, cookie, offset, length = wire.REQUEST.unpack_from(buffer, self._start)
            if magic != wire.REQUEST_MAGIC:
                self._abort("a request without its magic number")
                break
            self._start += _HEADER
            if kind == 1:
                begin = self._start
                if self._end - begin >= length and length <= wire.MAX_PAYLOAD_BYTES:
                    self._start += length
                    self._write(flags, cookie, offset, self._view[begin : self._start])
                elif not self._part_of_payload(flags, cookie, offset, length):
                    break
            elif kind < len(handlers):
                handlers[kind](flags, cookie, offset, length)
            else:
                self._refuse(flags, cookie, offset, length)
        if self._skip:
            self._skip_some()
        return False

    def _part_of_payload(self, flags: int, cookie: bytes, offset: int, length: int) -> bool:
        """Arrange for a payload that has not all come yet; False if there is nothing to do until it has."""
        if length > wire.MAX_PAYLOAD_BYTES:
            # The replies stay in step only if the payload is read; it need not be kept.
            self._refused(_WRITE, flags, cookie, offset, length)
            self._skip = length
            return True
        if length < _BUFFER_BYTES - _ROOM_BYTES - _HEADER:
            self._start -= _HEADER  # look again when there is more
            return False
        payload = memoryview(bytearray(length))
        here = self._end - self._start
        payload[:here] = self._view[self._start : self._end]
        self._start = self._end
        self._payload, self._payload_filled = payload, here
        self._payload_request = (flags, cookie, offset)
        return False

    def _skip_some(self) -> None:
        some = min(self._skip, self._end - self._start)
        self._start += some
        self._skip -= some

    def _make_room(self) -> None:
        """See that the buffer can take the rest of what it holds a part of, and a good deal more."""
        rest = self._end - self._start
        if not rest and not self._kept:
            self._start = self._end = 0
            return
        wanted = _ROOM_BYTES
        if rest >= _HEADER:  # a write whose payload has not all come
            wanted += max(0, _HEADER + wire.REQUEST.unpack_from(self._buffer, self._start)[5] - rest)
        if _BUFFER_BYTES - self._end >= min(wanted, _BUFFER_BYTES - rest):
            return
        old = self._view[self._start : self._end]
        if self._kept:
            # Whoever reads from the old one keeps it alive, and nobody else does.
            self._buffer = bytearray(_BUFFER_BYTES)
            self._view = memoryview(self._buffer)
            self._kept = False
        self._view[:rest] = old
        self._start, self._end = 0, rest

    # --- the requests --------------------------------------------------------------------------

    def _refused(self, kind: int, flags: int, cookie: bytes, offset: int, length: int) -> bool:
        refused = refusal(self._device, kind, flags, offset, length)
        if refused is not None:
            self._replies.error(cookie, *refused)
        return refused is not None

    def _read(self, flags: int, cookie: bytes, offset: int, length: int) -> None:
        if self._refused(_READ, flags, cookie, offset, length):
            return
        try:
            data = self._device.read(offset, length)
        except Exception as error:  # noqa: BLE001 - a device's bug must not take the connection along
            self._replies.failure(cookie, error)
            return
        if type(data) in _BUFFERS:
            self._replies.data(cookie, offset, length, cast("Data | list[Data]", data))
        else:
            later = cast("Awaitable[Data | list[Data]]", data)
            task = self._later(
                cookie, later, lambda got: self._replies.data(cookie, offset, length, got), length
            )
            self._reads.add(task)
            task.add_done_callback(self._reads.discard)

    def _write(self, flags: int, cookie: bytes, offset: int, data: memoryview) -> None:
        if self._refused(_WRITE, flags, cookie, offset, len(data)):
            return
        try:
            answer = self._device.write(offset, data, fua=True) if flags else self._device.write(offset, data)
        except Exception as error:  # noqa: BLE001
            self._replies.failure(cookie, error)
            return
        if answer is None:
            self._replies.done(cookie)
        else:
            self._kept = self._kept or data.obj is self._buffer
            self._later(cookie, answer, None, len(data))

    def _flush(self, flags: int, cookie: bytes, offset: int, length: int) -> None:
        if flags or offset or length:
            self._replies.error(cookie, Error.EINVAL, "a flush takes no flags, offset or length")
        else:
            self._do(cookie, self._device.flush)

    def _trim(self, flags: int, cookie: bytes, offset: int, length: int) -> None:
        if not self._refused(Command.TRIM, flags, cookie, offset, length):
            self._do(cookie, lambda: self._device.trim(offset, length, fua=bool(flags & _FUA)))

    def _cache(self, flags: int, cookie: bytes, offset: int, length: int) -> None:
        if not self._refused(Command.CACHE, flags, cookie, offset, length):
            self._do(cookie, lambda: self._device.cache(offset, length), length=length)

    def _zero(self, flags: int, cookie: bytes, offset: int, length: int) -> None:
        if self._refused(Command.WRITE_ZEROES, flags, cookie, offset, length):
            return
        fua, may_trim, fast = bool(flags & _FUA), not flags & Flag.NO_HOLE, bool(flags & Flag.FAST_ZERO)
        self._do(cookie, lambda: self._device.zero(offset, length, fua=fua, may_trim=may_trim, fast=fast))

    def _status(self, flags: int, cookie: bytes, offset: int, length: int) -> None:
        if not self._allocation:
            self._replies.error(cookie, Error.EINVAL, "no meta context was chosen")
        elif not self._refused(Command.BLOCK_STATUS, flags, cookie, offset, length):
            limit = 1 if flags & Flag.REQ_ONE else _MAX_EXTENTS
            self._do(
                cookie,
                lambda: self._device.extents(offset, length, limit),
                lambda found: self._replies.extents(cookie, length, found),
            )

    def _leave(self, *_request: object) -> None:
        """Finish what is under way, then close."""
        self._leaving = True
        self._close_if_done()

    def _refuse(self, _flags: int, cookie: bytes, _offset: int, _length: int) -> None:
        self._replies.error(cookie, Error.EINVAL, "no such command")

    # --- answering -----------------------------------------------------------------------------

    def _do(
        self,
        cookie: bytes,
        verb: Callable[[], Awaitable[_T] | _T],
        reply: Callable[[_T], None] | None = None,
        length: int = 0,
    ) -> None:
        """Call a verb that moves so many bytes and reply, now or later; without `reply`, of success."""
        try:
            answer = verb()
        except Exception as error:  # noqa: BLE001
            self._replies.failure(cookie, error)
            return
        if isinstance(answer, Awaitable):
            self._later(cookie, answer, reply, length)
        elif reply is None:
            self._replies.done(cookie)
        else:
            reply(answer)

    def _later(
        self, cookie: bytes, answer: Awaitable[_T], reply: Callable[[_T], None] | None, length: int
    ) -> "asyncio.Future[_T]":
        cost = max(length, _COST_BYTES)
        self._under_way += cost
        future = asyncio.ensure_future(answer, loop=self._loop)
        self._futures.add(future)
        future.add_done_callback(lambda done: self._came(cookie, done, reply, cost))
        return future

    def _came(
        self, cookie: bytes, done: "asyncio.Future[_T]", reply: Callable[[_T], None] | None, cost: int
    ) -> None:
        self._futures.discard(done)
        error = asyncio.CancelledError() if done.cancelled() else done.exception()
        if isinstance(error, Exception):
            self._replies.failure(cookie, error)
        elif error is not None:
            self._replies.error(cookie, Error.ESHUTDOWN, "given up")
        elif reply is None:
            self._replies.done(cookie)
        else:
            reply(done.result())
        stalled = not self._has_room()
        self._under_way -= cost
        self._replies.send()
        if self._lost or self._leaving:
            self._close_if_done()
        elif stalled and self._has_room():
            self._resume()

    # --- the connection ------------------------------------------------------------------------

    def pause_writing(self) -> None:
        """Take no more requests from a client that does not fetch its replies."""
        self._writable = False
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Go on with what was left lying."""
        self._writable = True
        self._resume()

    def eof_received(self) -> bool:
        """Finish what is under way although the client said no word of leaving."""
        self._leave()
        return self._transport.get_extra_info("sslcontext") is None  # with TLS neither half can be kept

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Let what changes data finish; nobody waits for what is read any more."""
        self._lost = True
        for future in list(self._reads):
            future.cancel()
        self._close_if_done()

    def leave(self) -> None:
        """Take no more requests, answer those that were taken, then close the connection."""
        if not self._transport.is_closing():
            self._transport.pause_reading()
        self._leave()

    def abort(self) -> None:
        """Close the connection at once, whatever is still to be sent."""
        self._transport.abort()

    def hang_up_if_stuck(self) -> None:
        """Close a connection that sent a part of a request and nothing since the last call."""
        part = self._payload is not None or self._skip or (self._end > self._start and self._has_room())
        now = self._received, self._transport.get_write_buffer_size()
        if (part or not self._writable) and self._seen == now and not self._futures:
            self._abort("stopped in the middle of a request or a reply")
        self._seen = now

    def _close_if_done(self) -> None:
        if self._under_way:
            return
        if not self._lost:
            self._replies.send()
            self._transport.close()
        elif self._ended is not None:
            ended, self._ended = self._ended, None
            ended()

    def _abort(self, why: str) -> None:
        log.warning("nbd.hung_up", why=why)
        self._leaving = True
        self._transport.abort()
