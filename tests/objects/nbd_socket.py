"""The protocol spoken by hand over a socket, for what no client would say."""

import random
import socket
import struct
from dataclasses import dataclass

from nbd_lab import Served

from breezeblock.objects.nbd import client, wire
from breezeblock.objects.nbd.wire import Command

LENGTH = 1 << 20


@dataclass(frozen=True)
class Request:
    kind: int
    offset: int
    length: int
    flags: int = 0
    seed: int = 0

    @property
    def data(self) -> bytes:
        return random.Random(self.seed).randbytes(self.length) if self.kind == Command.WRITE else b""

    def raw(self, cookie: int) -> bytes:
        head = (wire.REQUEST_MAGIC, self.flags, self.kind, cookie.to_bytes(8), self.offset, self.length)
        return wire.REQUEST.pack(*head) + self.data


def open_socket(served: Served, export: str, *, structured: bool = False) -> socket.socket:
    if not structured:
        return client.connect(client.Place(str(served.socket), export))[0]
    connected = socket.socket(socket.AF_UNIX)
    connected.connect(str(served.socket))
    receive(connected, wire.GREETING.size)
    connected.sendall((3).to_bytes(4))
    name = export.encode()
    context = (
        len(name).to_bytes(4) + name + (1).to_bytes(4) + len(wire.ALLOCATION).to_bytes(4) + wire.ALLOCATION
    )
    for option, data in (
        (wire.Option.STRUCTURED_REPLY, b""),
        (wire.Option.SET_META_CONTEXT, context),
        (wire.Option.GO, len(name).to_bytes(4) + name + bytes(2)),
    ):
        connected.sendall(wire.OPTION.pack(wire.OPTION_MAGIC, option, len(data)) + data)
        while True:
            _magic, _option, kind, length = wire.OPTION_REPLY.unpack(
                receive(connected, wire.OPTION_REPLY.size)
            )
            receive(connected, length)
            assert kind > 0
            if kind == wire.Rep.ACK:
                break
    return connected


def receive(connected: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        some = connected.recv(length - len(data))
        if not some:
            raise EOFError
        data += some
    return data


def replies(connected: socket.socket, requests: list[Request]) -> dict[int, tuple[int, bytes]]:
    """Return error and data for each request, by its number; fails on what is not in the protocol."""
    found: dict[int, tuple[int, bytes]] = {}
    while len(found) < len(requests):
        magic = int.from_bytes(receive(connected, 4))
        error, data = 0, b""
        if magic == wire.SIMPLE_MAGIC:
            error, raw_cookie = struct.unpack(">I8s", receive(connected, 12))
            cookie = int.from_bytes(raw_cookie)
            if not error and requests[cookie].kind == Command.READ:
                data = receive(connected, requests[cookie].length)
        else:
            assert magic == wire.CHUNK_MAGIC
            flags, kind, raw_cookie, length = struct.unpack(">HH8sI", receive(connected, 16))
            cookie = int.from_bytes(raw_cookie)
            assert flags == wire.CHUNK_DONE
            payload = receive(connected, length)
            if kind == wire.Chunk.ERROR:
                error, text = struct.unpack_from(">IH", payload)
                assert len(payload) == 6 + text
            elif kind == wire.Chunk.OFFSET_DATA:
                assert int.from_bytes(payload[:8]) == requests[cookie].offset
                data = payload[8:]
            else:
                assert kind == wire.Chunk.BLOCK_STATUS
                data = payload
        assert cookie not in found
        found[cookie] = error, data
    return found
