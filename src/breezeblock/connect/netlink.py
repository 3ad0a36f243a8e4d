"""The kernel's NBD client, controlled by generic netlink.

Source: Linux, include/uapi/linux/nbd-netlink.h, linux/genetlink.h and drivers/block/nbd.c. Netlink and not
the older ioctls: only devices that were made so can be given new connections while they are used.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterator
from enum import IntEnum
from sys import byteorder
from types import TracebackType
from typing import NamedTuple, Self

from breezeblock.errors import UnsupportedError

_NETLINK_GENERIC = 16
_SOL_NETLINK = 270
_ADD_MEMBERSHIP = 1
_HEADER = struct.Struct("=IHHII")
_GENERIC = struct.Struct("=BBH")
_ATTRIBUTE = struct.Struct("=HH")
_REQUEST, _ACK = 1, 4
_ERROR, _DONE = 2, 3
_CONTROLLER = 16
_CTRL_GETFAMILY, _CTRL_FAMILY_ID, _CTRL_FAMILY_NAME, _CTRL_GROUPS = 3, 1, 2, 7
_CTRL_GROUP_ID = 2
_NESTED = 1 << 15
_TYPE_MASK = (1 << 14) - 1
_TIMEOUT_S = 30.0


class Command(IntEnum):
    """What can be asked of the driver."""

    CONNECT = 1
    DISCONNECT = 2
    RECONFIGURE = 3
    LINK_DEAD = 4
    STATUS = 5


class Attribute(IntEnum):
    """What a request says."""

    INDEX = 1
    SIZE_BYTES = 2
    BLOCK_SIZE_BYTES = 3
    TIMEOUT = 4
    SERVER_FLAGS = 5
    CLIENT_FLAGS = 6
    SOCKETS = 7
    DEAD_CONN_TIMEOUT = 8
    DEVICE_LIST = 9
    BACKEND_IDENTIFIER = 10


DESTROY_ON_DISCONNECT = 1
_SOCK_ITEM, _SOCK_FD = 1, 1
_DEVICE_ITEM, _DEVICE_INDEX, _DEVICE_CONNECTED = 1, 1, 2


class Device(NamedTuple):
    """A device that the driver knows."""

    number: int
    connected: bool


class Nbd:
    """An open channel to the driver. Every method raises OSError with the kernel's errno."""

    def __init__(self) -> None:
        """Open it. Raises UnsupportedError if the kernel has no NBD driver loaded."""
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_GENERIC
        )
        self._socket.settimeout(_TIMEOUT_S)
        self._sequence = 0
        try:
            self._socket.bind((0, 0))
            found = self._ask(_CONTROLLER, _CTRL_GETFAMILY, _text(_CTRL_FAMILY_NAME, "nbd"))
        except FileNotFoundError as error:
            self._socket.close()
            raise UnsupportedError(
                "This kernel has no NBD driver loaded.", remedy="Load it: modprobe nbd nbds_max=0"
            ) from error
        except BaseException:
            self._socket.close()
            raise
        family = dict(_attributes(found[0]))
        self._family = int.from_bytes(family[_CTRL_FAMILY_ID], byteorder)
        self._groups = family.get(_CTRL_GROUPS, b"")

    def __enter__(self) -> Self:
        """Return the channel."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self._socket.close()

    def connect(
        self,
        sockets: list[socket.socket],
        *,
        length: int,
        block_bytes: int,
        flags: int,
        timeout_s: int,
        dead_timeout_s: int,
        identifier: str,
        index: int | None = None,
    ) -> int:
        """Make a device of `length` bytes over negotiated sockets and return its index.

        A request without an answer for `timeout_s` is sent again over another socket; with no socket
        alive, requests wait for `dead_timeout_s` before they fail. EBUSY if `index` is taken.
        """
        request = [
            _number(Attribute.SIZE_BYTES, length),
            _number(Attribute.BLOCK_SIZE_BYTES, block_bytes),
            _number(Attribute.SERVER_FLAGS, flags),
            _number(Attribute.TIMEOUT, timeout_s),
            _number(Attribute.DEAD_CONN_TIMEOUT, dead_timeout_s),
            _number(Attribute.CLIENT_FLAGS, DESTROY_ON_DISCONNECT),
            _text(Attribute.BACKEND_IDENTIFIER, identifier),
            _sockets(sockets),
        ]
        if index is not None:
            request.insert(0, _number(Attribute.INDEX, index, 4))
        for answer in self._ask(self._family, Command.CONNECT, b"".join(request)):
            for kind, value in _attributes(answer):
                if kind == Attribute.INDEX:
                    return int.from_bytes(value, byteorder)
        raise OSError(errno.EPROTO, "the driver made a device and does not say which")

    def reconfigure(
        self, index: int, *, identifier: str, sockets: list[socket.socket] | None = None, length: int = 0
    ) -> None:
        """Replace dead connections by new ones (living ones stay), or tell the device's new length in bytes.

        ENOENT or EINVAL if the device is not connected, EINVAL too if it is somebody else's.
        """
        request = [
            _number(Attribute.INDEX, index, 4),
            _text(Attribute.BACKEND_IDENTIFIER, identifier),
        ]
        if length:
            request.append(_number(Attribute.SIZE_BYTES, length))
        if sockets:
            request.append(_sockets(sockets))
        self._ask(self._family, Command.RECONFIGURE, b"".join(request))

    def disconnect(self, index: int) -> None:
        """Disconnect the device; what it has under way fails."""
        self._ask(self._family, Command.DISCONNECT, _number(Attribute.INDEX, index, 4))

    def status(self) -> list[Device]:
        """Return all devices."""
        found = []
        for answer in self._ask(self._family, Command.STATUS, b""):
            for kind, items in _attributes(answer):
                if kind == Attribute.DEVICE_LIST:
                    found += [
                        _device(item) for item_kind, item in _attributes(items) if item_kind == _DEVICE_ITEM
                    ]
        return found

    def subscribe(self) -> None:
        """Hear of devices that lose connections, from now on; this channel is then good for nothing else."""
        for _kind, group in _attributes(self._groups):
            number = dict(_attributes(group))[_CTRL_GROUP_ID]
            self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, int.from_bytes(number, byteorder))

    def dead_links(self, wait_s: float) -> set[int]:
        """Return the indexes of devices that lost a connection; waits at most `wait_s` for the first."""
        found = set()
        self._socket.settimeout(wait_s)
        try:
            while True:
                data = self._socket.recv(1 << 16)
                for kind, value in _attributes(data[_HEADER.size + _GENERIC.size :]):
                    if kind == Attribute.INDEX:
                        found.add(int.from_bytes(value, byteorder))
                self._socket.settimeout(0)
        except (TimeoutError, BlockingIOError):
            return found

    def _ask(self, family: int, command: int, attributes: bytes) -> list[bytes]:
        """Send a request and return the attributes of its answers, up to its acknowledgement."""
        self._sequence += 1
        body = _GENERIC.pack(command, 1, 0) + attributes
        length = _HEADER.size + len(body)
        self._socket.send(_HEADER.pack(length, family, _REQUEST | _ACK, self._sequence, 0) + body)
        answers: list[bytes] = []
        while True:
            data = self._socket.recv(1 << 20)
            while len(data) >= _HEADER.size:
                length, kind, _flags, sequence, _port = _HEADER.unpack_from(data)
                body, data = data[_HEADER.size : length], data[max(_HEADER.size, length + 3 & ~3) :]
                if sequence != self._sequence:
                    continue
                if kind == _ERROR:
                    code = -int.from_bytes(body[:4], byteorder, signed=True)
                    if code:
                        raise OSError(code, os.strerror(code))
                    return answers
                if kind != _DONE:
                    answers.append(body[_GENERIC.size :])


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def _number(kind: int, value: int, length: int = 8) -> bytes:
    return _attribute(kind, value.to_bytes(length, byteorder))


def _text(kind: int, value: str) -> bytes:
    return _attribute(kind, value.encode() + b"\0")


def _sockets(sockets: list[socket.socket]) -> bytes:
    items = [_attribute(_SOCK_ITEM | _NESTED, _number(_SOCK_FD, one.fileno(), 4)) for one in sockets]
    return _attribute(Attribute.SOCKETS | _NESTED, b"".join(items))


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if not _ATTRIBUTE.size <= length <= len(data):
            return
        yield kind & _TYPE_MASK, data[_ATTRIBUTE.size : length]
        data = data[length + 3 & ~3 :]


def _device(item: bytes) -> Device:
    values = dict(_attributes(item))
    return Device(
        int.from_bytes(values.get(_DEVICE_INDEX, b""), byteorder),
        bool(int.from_bytes(values.get(_DEVICE_CONNECTED, b""), byteorder)),
    )
