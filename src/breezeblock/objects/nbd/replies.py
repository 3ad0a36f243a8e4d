"""Replies that wait to be sent together."""

import asyncio
from collections.abc import Sequence
from typing import cast

import structlog

from breezeblock.errors import BreezeblockError, NoSpaceError
from breezeblock.objects.nbd import wire
from breezeblock.objects.nbd.device import Data, Extent
from breezeblock.objects.nbd.wire import Error

log = structlog.get_logger()

_JOIN_BYTES = 512 << 10
"""Up to here copying replies together is cheaper than handing over many buffers."""
_ERRORS = frozenset(Error)
_OK = wire.SIMPLE.pack(wire.SIMPLE_MAGIC, 0, b"")[:8]
_HEAD_BYTES = 64
"""What a reply counts besides its data."""


class Replies:
    """Encodes replies as the client wants them, and sends all of one moment in one go."""

    def __init__(self, transport: asyncio.Transport, *, structured: bool) -> None:
        self._transport = transport
        self._structured = structured
        self._out: list[Data] = []
        self.waiting_bytes = 0

    def done(self, cookie: bytes) -> None:
        """Tell of a success without data; structured clients understand this form too."""
        self._out.append(_OK + cookie)
        self.waiting_bytes += _HEAD_BYTES

    def data(self, cookie: bytes, offset: int, length: int, data: Data | list[Data]) -> None:
        """Tell what was read; a device that gives more or less would put the client out of step."""
        if length != (sum(map(len, data)) if type(data) is list else len(data)):
            log.error("nbd.wrong_length", offset=offset, wanted=length)
            self.error(cookie, Error.EIO, "the device gave another length")
            return
        if self._structured:
            head = wire.CHUNK_DATA.pack(
                wire.CHUNK_MAGIC, wire.CHUNK_DONE, wire.Chunk.OFFSET_DATA, cookie, length + 8, offset
            )
        else:
            head = _OK + cookie
        self._out.append(head)
        if type(data) is list:
            self._out += data
        else:
            self._out.append(cast("Data", data))
        self.waiting_bytes += length + _HEAD_BYTES

    def extents(self, cookie: bytes, length: int, found: Sequence[Extent]) -> None:
        """Tell a block status, cut off after `length` bytes."""
        raw = bytearray((1).to_bytes(4))  # the number of the only context there is
        for extent in found:
            part = min(extent.length, length)
            raw += wire.EXTENT.pack(part, extent.state)
            length -= part
            if not length:
                break
        self._chunk(cookie, wire.Chunk.BLOCK_STATUS, raw)

    def failure(self, cookie: bytes, error: Exception) -> None:
        """Tell of an exception what the protocol knows of it."""
        if isinstance(error, OSError) and error.errno in _ERRORS:
            self.error(cookie, Error(error.errno), error.strerror or "")
        elif isinstance(error, NoSpaceError):
            self.error(cookie, Error.ENOSPC, error.message)
        elif isinstance(error, BreezeblockError):
            self.error(cookie, Error.EIO, error.message)
        else:
            log.error("nbd.request_failed", exc_info=error)
            self.error(cookie, Error.EIO, "")

    def error(self, cookie: bytes, error: Error, text: str) -> None:
        """Tell of an error, with words if the client takes them."""
        if self._structured:
            raw = text.encode()[: wire.MAX_NAME_BYTES]
            self._chunk(cookie, wire.Chunk.ERROR, wire.CHUNK_ERROR.pack(error, len(raw)) + raw)
        else:
            self._out.append(wire.SIMPLE.pack(wire.SIMPLE_MAGIC, error, cookie))
            self.waiting_bytes += _HEAD_BYTES

    def send(self) -> None:
        """Hand everything to the transport; to one that is closed, that changes nothing."""
        out, self._out = self._out, []
        if out and not self._transport.is_closing():
            if self.waiting_bytes <= _JOIN_BYTES:
                self._transport.write(b"".join(out))
            else:
                self._transport.writelines(out)
        self.waiting_bytes = 0

    def _chunk(self, cookie: bytes, kind: wire.Chunk, payload: bytes | bytearray) -> None:
        head = wire.CHUNK.pack(wire.CHUNK_MAGIC, wire.CHUNK_DONE, kind, cookie, len(payload))
        self._out += (head, payload)
        self.waiting_bytes += len(payload) + _HEAD_BYTES
