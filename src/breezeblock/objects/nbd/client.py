"""The client's half of the negotiation, on a blocking socket: what a connector needs before it hands over.

An export is named by an NBD URI (the project's doc/uri.md): `nbd+unix:///EXPORT?socket=PATH`, or
`nbd://HOST[:PORT]/EXPORT`. QEMU and libvirt take them as they are.
"""

import socket
from typing import NamedTuple
from urllib.parse import parse_qs, quote, unquote, urlsplit

from breezeblock.errors import InvalidInputError, NotFoundError, UnavailableError
from breezeblock.objects.nbd import wire
from breezeblock.objects.nbd.wire import Info, Option, Rep, Transmission

PORT = 10809
_TIMEOUT_S = 10.0
_MAX_REPLY_BYTES = 1 << 16
_MAX_REPLIES = 64


class Place(NamedTuple):
    """Where an export is served."""

    address: str | tuple[str, int]
    """A socket's path, or host and port."""
    export: str

    def __str__(self) -> str:
        """Return the URI."""
        name = quote(self.export, safe="")
        if isinstance(self.address, str):
            return f"nbd+unix:///{name}?socket={quote(self.address)}"
        host, port = self.address
        return f"nbd://{f'[{host}]' if ':' in host else host}:{port}/{name}"


class Export(NamedTuple):
    """What a server tells of an export."""

    length: int
    """Bytes."""
    flags: Transmission
    minimum_bytes: int
    preferred_bytes: int


def place(uri: str) -> Place:
    """Read an NBD URI. Raises InvalidInputError if it is none that this host can use."""
    try:
        parts = urlsplit(uri)
        export = unquote(parts.path.removeprefix("/"), errors="strict")
        if parts.scheme == "nbd+unix" and not parts.netloc:
            (path,) = parse_qs(parts.query)["socket"]
            if path.startswith("/"):
                return Place(path, export)
        elif parts.scheme == "nbd" and parts.hostname and not parts.query:
            return Place((parts.hostname, parts.port or PORT), export)
    except (KeyError, ValueError):
        pass
    raise InvalidInputError(
        f"{uri!r} is no NBD URI that can be attached here.",
        remedy="Write nbd+unix:///EXPORT?socket=/PATH or nbd://HOST:PORT/EXPORT.",
    )


def connect(where: Place, *, timeout_s: float = _TIMEOUT_S) -> tuple[socket.socket, Export]:
    """Connect and negotiate; the socket is then ready for requests, and blocking.

    Raises UnavailableError if nobody answers within `timeout_s` or what answers is no NBD server,
    NotFoundError if it has no such export.
    """
    try:
        connected = opened(where.address, timeout_s)
        try:
            export = negotiate(connected, where)
        except BaseException:
            connected.close()
            raise
    except (OSError, EOFError) as error:
        raise UnavailableError(
            f"{where} does not answer: {error}.", remedy="Look whether the NBD server runs."
        ) from error
    connected.settimeout(None)
    return connected, export


def opened(address: str | tuple[str, int], timeout_s: float) -> socket.socket:
    """Connect, without a word. Raises OSError."""
    if not isinstance(address, str):
        tcp = socket.create_connection(address, timeout_s)
        tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return tcp
    unix = socket.socket(socket.AF_UNIX)
    try:
        unix.settimeout(timeout_s)
        unix.connect(address)
    except BaseException:
        unix.close()
        raise
    return unix


def negotiate(connected: socket.socket, where: Place) -> Export:
    """Greet and choose the export, with simple replies: the kernel knows no others."""
    magic, options, flags = wire.GREETING.unpack(receive(connected, wire.GREETING.size))
    if (magic, options) != (wire.GREETING_MAGIC, wire.OPTION_MAGIC) or not flags & 1:
        raise UnavailableError(f"{where} is no NBD server that speaks fixed newstyle.")
    connected.sendall(int(wire.Global.FIXED_NEWSTYLE | wire.Global.NO_ZEROES).to_bytes(4))
    name = where.export.encode()
    wanted = b"\0\1" + Info.BLOCK_SIZE.to_bytes(2)
    data = len(name).to_bytes(4) + name + wanted
    connected.sendall(wire.OPTION.pack(wire.OPTION_MAGIC, Option.GO, len(data)) + data)
    length, able, minimum, preferred = 0, Transmission(0), 1, 4096
    for _ in range(_MAX_REPLIES):
        kind, reply = _option_reply(connected, where)
        if kind == Rep.ACK:
            return Export(length, able, minimum, preferred)
        if kind == Rep.ERR_UNKNOWN:
            raise NotFoundError(f"{where}: the server has no export of that name.")
        if kind < 0:
            raise UnavailableError(
                f"{where} refuses: {reply[:200].decode(errors='replace') or hex(kind & 0xFFFFFFFF)}"
            )
        if kind == Rep.INFO and reply[:2] == Info.EXPORT.to_bytes(2) and len(reply) == 12:
            _info, length, number = wire.INFO_EXPORT.unpack(reply)
            able = Transmission(number)
        elif kind == Rep.INFO and reply[:2] == Info.BLOCK_SIZE.to_bytes(2) and len(reply) == 14:
            _info, minimum, preferred, _maximum = wire.INFO_BLOCK_SIZE.unpack(reply)
    raise UnavailableError(f"{where} does not come to an end of its answers.")


def _option_reply(connected: socket.socket, where: Place) -> tuple[int, bytes]:
    magic, option, kind, length = wire.OPTION_REPLY.unpack(receive(connected, wire.OPTION_REPLY.size))
    if magic != wire.OPTION_REPLY_MAGIC or option != Option.GO or length > _MAX_REPLY_BYTES:
        raise UnavailableError(f"{where} does not answer as an NBD server does.")
    return kind, receive(connected, length)


def receive(connected: socket.socket, length: int) -> bytes:
    """Return so many bytes. Raises EOFError if the connection ends before."""
    data = bytearray()
    while len(data) < length:
        some = connected.recv(length - len(data))
        if not some:
            raise EOFError("the connection was closed")
        data += some
    return bytes(data)
