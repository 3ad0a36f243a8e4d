"""A negotiation between a client and a server, through somebody who stands between and must follow the rest.

What they say passes through as it is, so the client learns everything of the export. Only what would change
how requests and answers look (structured replies, encryption, and what is newer) is refused in between.
"""

import socket
import time

from breezeblock.errors import UnavailableError
from breezeblock.objects.nbd import client, wire
from breezeblock.objects.nbd.wire import Option, Rep

_TIMEOUT_S = 10.0
_RETRY_S = 0.02
_MAX_OPTIONS = 64
_MAX_BYTES = 1 << 16
_ZEROES = 124
_PASSED = {Option.EXPORT_NAME, Option.ABORT, Option.LIST, Option.INFO, Option.GO}


class LeftError(Exception):
    """The client left before it had chosen, or cannot be understood."""


def introduce(front: socket.socket, address: str | tuple[str, int]) -> tuple[socket.socket, str]:
    """Let a client negotiate with the server at an address; return the connection to that, and the export.

    Both connections are then ready for requests, and blocking; replies are simple ones. Raises LeftError, and
    UnavailableError if no server comes in time.
    """
    front.settimeout(_TIMEOUT_S)
    back = _server(address)
    try:
        export = _pass_on(front, back)
    except (EOFError, OSError) as error:
        back.close()
        raise LeftError(str(error)) from error
    except BaseException:
        back.close()
        raise
    front.settimeout(None)
    back.settimeout(None)
    return back, export


def _server(address: str | tuple[str, int]) -> socket.socket:
    """Connect; a server that was killed may be there again in a moment."""
    until = time.monotonic() + _TIMEOUT_S
    while True:
        try:
            return client.opened(address, _TIMEOUT_S)
        except OSError as error:
            if time.monotonic() > until:
                raise UnavailableError(f"{address} does not answer: {error}.") from error
        time.sleep(_RETRY_S)


def _pass_on(front: socket.socket, back: socket.socket) -> str:
    front.sendall(greeting := client.receive(back, wire.GREETING.size))
    back.sendall(chosen := client.receive(front, 4))
    for _ in range(_MAX_OPTIONS):
        head = client.receive(front, wire.OPTION.size)
        magic, option, length = wire.OPTION.unpack(head)
        if magic != wire.OPTION_MAGIC or length > _MAX_BYTES:
            raise LeftError("no option that can be understood")
        data = client.receive(front, length)
        if option not in _PASSED:
            front.sendall(wire.OPTION_REPLY.pack(wire.OPTION_REPLY_MAGIC, option, Rep.ERR_UNSUP, 0))
            continue
        back.sendall(head + data)
        if option == Option.EXPORT_NAME:
            both = int.from_bytes(chosen) & int.from_bytes(greeting[-2:])
            zeroes = 0 if both & wire.Global.NO_ZEROES else _ZEROES
            front.sendall(client.receive(back, wire.EXPORT.size + zeroes))
            return data.decode()
        agreed = _answers(front, back)
        if agreed and option == Option.ABORT:
            break
        if agreed and option == Option.GO:
            return data[4 : 4 + int.from_bytes(data[:4])].decode()
    raise LeftError("the client chose nothing")


def _answers(front: socket.socket, back: socket.socket) -> bool:
    """Pass on what the server says of one option; True if it agrees."""
    while True:
        head = client.receive(back, wire.OPTION_REPLY.size)
        _magic, _option, kind, length = wire.OPTION_REPLY.unpack(head)
        if length > _MAX_BYTES:
            raise UnavailableError("The server does not answer as an NBD server does.")
        front.sendall(head + client.receive(back, length))
        if kind == Rep.ACK or kind < 0:
            return bool(kind == Rep.ACK)
