"""The protocol, byte by byte: any requests in any pieces against a model, and clients that mean harm."""

import asyncio
import errno
import random
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nbd_lab import Served, serving

from breezeblock.errors import InvalidInputError, NoSpaceError, NotFoundError, UnavailableError
from breezeblock.objects.nbd import MemoryDevice, Soon, client, wire
from breezeblock.objects.nbd.device import Data
from breezeblock.objects.nbd.wire import Command, Error, Flag

LENGTH = 1 << 20


class SlowDevice(MemoryDevice):
    """Answers everything later, in random order; but writes happen in the order of the calls."""

    def __init__(self, length: int) -> None:
        super().__init__(length)
        self.chance = random.Random(5)
        self.most = 0
        self.now = 0

    async def _later(self) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(self.chance.random() * 0.002)
        self.now -= 1

    def read(self, offset: int, length: int) -> Soon[Data | list[Data]]:
        return self._read(bytes(self._view[offset : offset + length]))

    async def _read(self, data: bytes) -> Data | list[Data]:
        await self._later()
        return [data[: len(data) // 2], memoryview(data)[len(data) // 2 :]]

    def write(self, offset: int, data: memoryview, *, fua: bool = False) -> Soon[None]:
        return self._write(offset, data, bytes(data))

    async def _write(self, offset: int, data: memoryview, seen: bytes) -> None:
        super().write(offset, memoryview(seen))
        await self._later()
        assert data == seen, "the buffer was overwritten before the write was done"


class BrokenDevice(MemoryDevice):
    """Fails in every way that a device can."""

    def read(self, offset: int, length: int) -> Soon[Data | list[Data]]:
        raise {0: OSError(errno.ENOMEM, "no memory"), 1: OSError(errno.EREMOTEIO, "remote")}.get(
            offset, ValueError("a bug")
        )

    async def _fails(self) -> None:
        raise NoSpaceError("full")

    def flush(self) -> Soon[None]:
        return self._fails()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    exports = {"now": MemoryDevice(LENGTH), "later": SlowDevice(LENGTH), "broken": BrokenDevice(LENGTH)}
    with serving(exports, tmp_path_factory.mktemp("wire"), handshake_s=1.0, stuck_s=0.5) as one:
        yield one


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


lengths = st.one_of(st.integers(0, 5000), st.sampled_from([65536, 190_000, 300_000, LENGTH]))
requests_of_any_kind = st.lists(
    st.builds(
        Request,
        kind=st.one_of(st.sampled_from([0, 0, 1, 1, 1, 3, 4, 5, 6, 7]), st.integers(8, 65535)),
        offset=st.one_of(st.integers(0, LENGTH), st.integers(0, (1 << 64) - 1), st.just(0)),
        length=lengths,
        flags=st.one_of(st.just(0), st.just(0), st.sampled_from(list(Flag)), st.integers(0, 65535)),
        seed=st.integers(0, 1 << 30),
    ),
    max_size=40,
)


@pytest.mark.parametrize("structured", [False, True], ids=["simple", "structured"])
@pytest.mark.parametrize("export", ["now", "later"])
@settings(max_examples=25, deadline=None)
@given(requests=requests_of_any_kind, pieces=st.lists(st.integers(1, 100_000), max_size=20))
def test_any_requests_in_any_pieces_get_one_answer_each(
    served: Served, export: str, structured: bool, requests: list[Request], pieces: list[int]
) -> None:
    """Each gets its one reply, whatever its place in the stream; content is compared one at a time below."""
    raw = b"".join(request.raw(cookie) for cookie, request in enumerate(requests))
    with open_socket(served, export, structured=structured) as connected:
        connected.settimeout(20)

        def send() -> None:
            start = 0
            for piece in pieces:
                connected.sendall(raw[start : start + piece])
                start += piece
            connected.sendall(raw[start:])

        sender = threading.Thread(target=send)
        sender.start()
        found = replies(connected, requests)
        sender.join()
        for cookie, request in enumerate(requests):
            inside = request.offset + request.length <= LENGTH
            if request.kind > 7 or (request.kind != Command.FLUSH and not request.length):
                assert found[cookie][0] == Error.EINVAL
            elif request.kind in {Command.READ, Command.CACHE, Command.WRITE} and not request.flags:
                beyond = Error.ENOSPC if request.kind == Command.WRITE else Error.EINVAL
                assert found[cookie][0] == (0 if inside else beyond)


@pytest.mark.parametrize("structured", [False, True], ids=["simple", "structured"])
@pytest.mark.parametrize("export", ["now", "later"])
@settings(max_examples=20, deadline=None)
@given(requests=requests_of_any_kind)
def test_content_is_that_of_a_model(
    served: Served, export: str, structured: bool, requests: list[Request]
) -> None:
    model = bytearray(LENGTH)
    wipe = Request(Command.WRITE_ZEROES, 0, LENGTH)
    with open_socket(served, export, structured=structured) as connected:
        connected.settimeout(20)
        for request in [wipe, *requests, Request(Command.READ, 0, LENGTH)]:
            connected.sendall(request.raw(0))
            error, data = replies(connected, [request])[0]
            place = slice(request.offset, request.offset + request.length)
            if error:
                continue
            if request.kind == Command.WRITE:
                model[place] = request.data
            elif request.kind in {Command.TRIM, Command.WRITE_ZEROES}:
                model[place] = bytes(request.length)
            elif request.kind == Command.READ:
                assert data == model[place]
            elif request.kind == Command.BLOCK_STATUS:
                extents = list(struct.iter_unpack(">II", data[4:]))
                assert sum(length for length, _state in extents) <= request.length
                at = request.offset
                for length, state in extents:
                    assert not state or not any(model[at : at + length])
                    at += length


def test_requests_wait_for_no_other(served: Served) -> None:
    device = served.server.exports["later"]
    assert isinstance(device, SlowDevice)
    requests = [Request(Command.WRITE, at * 4096, 4096, seed=at) for at in range(200)]
    with open_socket(served, "later") as connected:
        connected.sendall(b"".join(request.raw(cookie) for cookie, request in enumerate(requests)))
        order = list(replies(connected, requests))
    assert order != sorted(order)
    assert device.most > 20


def test_failures_of_a_device_have_their_numbers(served: Served) -> None:
    requests = [
        Request(Command.READ, 0, 1),
        Request(Command.READ, 1, 1),
        Request(Command.READ, 2, 1),
        Request(Command.FLUSH, 0, 0),
        Request(Command.WRITE, 0, 1),
    ]
    for structured in (False, True):
        with open_socket(served, "broken", structured=structured) as connected:
            connected.sendall(b"".join(request.raw(cookie) for cookie, request in enumerate(requests)))
            errors = {cookie: error for cookie, (error, _data) in replies(connected, requests).items()}
        assert errors == {0: Error.ENOMEM, 1: Error.EIO, 2: Error.EIO, 3: Error.ENOSPC, 4: 0}


def test_payloads_beyond_the_limit_are_refused_and_the_stream_stays_in_step(served: Served) -> None:
    huge = Request(Command.WRITE, 0, wire.MAX_PAYLOAD_BYTES + 1)
    requests = [huge, Request(Command.READ, 0, wire.MAX_PAYLOAD_BYTES + 1), Request(Command.READ, 0, 5)]
    with open_socket(served, "now") as connected:
        for cookie, request in enumerate(requests):
            connected.sendall(request.raw(cookie))
        found = replies(connected, requests)
    assert [found[cookie][0] for cookie in range(3)] == [
        Error.ENOSPC,
        Error.EINVAL,
        0,
    ]


def test_leaving_waits_for_what_is_under_way(served: Served) -> None:
    requests = [Request(Command.WRITE, at * 512, 512, seed=at) for at in range(20)]
    with open_socket(served, "later") as connected:
        raw = b"".join(request.raw(cookie) for cookie, request in enumerate(requests))
        connected.sendall(raw + Request(Command.DISC, 0, 0).raw(0))
        assert len(replies(connected, requests)) == 20
        assert connected.recv(1) == b""


def gone(connected: socket.socket, limit_s: float = 10) -> bool:
    """Tell whether the server hangs up; what it says before does not matter."""
    connected.settimeout(limit_s)
    try:
        while connected.recv(1 << 16):
            pass
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False
    return True


@pytest.mark.parametrize(
    "words",
    [
        b"GET / HTTP/1.1\r\n\r\n" * 10,
        b"\0\0\0\3" + b"NOTMAGIC" + bytes(8),
        b"\0\0\0\3" + wire.OPTION.pack(wire.OPTION_MAGIC, wire.Option.GO, 0xFFFFFFFF),
        b"\0\0\0\3" + wire.OPTION.pack(wire.OPTION_MAGIC, wire.Option.EXPORT_NAME, 4) + b"none",
        b"\0\0\0\3" + wire.OPTION.pack(wire.OPTION_MAGIC, wire.Option.LIST, 0) * 100,
        b"\xff\xff\xff\xff",
        b"\0\0\0\3" + wire.OPTION.pack(wire.OPTION_MAGIC, 6, 4)[:10],
        b"",
    ],
    ids=["http", "magic", "length", "export", "endless", "flags", "half", "silent"],
)
def test_bad_negotiations_are_cut_off(served: Served, words: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as connected:
        connected.connect(str(served.socket))
        connected.sendall(words)
        assert gone(connected)


@settings(max_examples=40, deadline=None)
@given(option=st.one_of(st.integers(1, 12), st.integers(0, (1 << 32) - 1)), data=st.binary(max_size=200))
def test_any_option_is_answered(served: Served, option: int, data: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as connected:
        connected.settimeout(5)
        connected.connect(str(served.socket))
        receive(connected, wire.GREETING.size)
        connected.sendall(b"\0\0\0\3" + wire.OPTION.pack(wire.OPTION_MAGIC, option, len(data)) + data)
        try:
            magic, answered, _kind, _length = wire.OPTION_REPLY.unpack(
                receive(connected, wire.OPTION_REPLY.size)
            )
        except (EOFError, ConnectionResetError):
            assert option == wire.Option.EXPORT_NAME
        else:
            assert (magic, answered) == (wire.OPTION_REPLY_MAGIC, option)


def test_a_request_without_magic_ends_the_connection(served: Served) -> None:
    with open_socket(served, "now") as connected:
        connected.sendall(bytes(28))
        assert gone(connected)


@pytest.mark.parametrize("part", [10, 28 + 1000], ids=["header", "payload"])
def test_half_a_request_does_not_hold_a_connection_for_ever(served: Served, part: int) -> None:
    with open_socket(served, "now") as connected, open_socket(served, "now") as idle:
        connected.sendall(Request(Command.WRITE, 0, 4096).raw(0)[:part])
        assert gone(connected)
        idle.sendall(Request(Command.READ, 0, 10).raw(0))
        assert replies(idle, [Request(Command.READ, 0, 10)])[0][0] == 0, "who says nothing may stay"


class CopyingDevice(MemoryDevice):
    """Gives memory of its own to each reader, so that what piles up shows."""

    def read(self, offset: int, length: int) -> Soon[Data | list[Data]]:
        return b"\1" * length


def test_a_client_that_fetches_no_replies_costs_bounded_memory(tmp_path: Path) -> None:
    """It asks for gigabytes and reads nothing: the server stops taking requests."""
    large = 32 << 20
    request = Request(Command.READ, 0, large)
    with serving({"": CopyingDevice(large)}, tmp_path) as one:
        connected, _export = client.connect(client.Place(str(one.socket), ""))
        with connected:
            connected.settimeout(1)
            before = resident_bytes()
            with suppress(TimeoutError):
                while True:
                    connected.sendall(request.raw(0) * 1000)
            assert resident_bytes() - before < 200 << 20
            received = 0
            while received < 3 * (large + 16):  # and when it does fetch them, all goes on
                received += len(connected.recv(1 << 20))


def test_stopping_does_not_wait_for_ever_for_a_client_that_fetches_nothing(tmp_path: Path) -> None:
    request = Request(Command.READ, 0, 1 << 20)
    with serving({"": CopyingDevice(1 << 20)}, tmp_path, stuck_s=0.3) as one:
        connected, _export = client.connect(client.Place(str(one.socket), ""))
        connected.sendall(request.raw(0) * 4)
    connected.close()


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_too_many_connections_are_turned_away(tmp_path: Path) -> None:
    with serving({"": MemoryDevice(LENGTH)}, tmp_path, max_connections=2) as one:
        where = client.Place(str(one.socket), "")
        first, second = client.connect(where)[0], client.connect(where)[0]
        with pytest.raises(UnavailableError):
            client.connect(where)
        first.close()
        while one.server.connections > 1:
            time.sleep(0.01)
        client.connect(where)[0].close()
        second.close()


def test_growth_is_told_to_who_asks(tmp_path: Path) -> None:
    device = MemoryDevice(LENGTH)
    with serving({"": device}, tmp_path) as one:
        where = client.Place(str(one.socket), "")
        connected, export = client.connect(where)
        assert export.length == LENGTH
        one.loop.call_soon_threadsafe(device.grow, 2 * LENGTH)
        while client.connect(where)[1].length != 2 * LENGTH:
            pass
        beyond = Request(Command.WRITE, LENGTH, 512)
        connected.sendall(beyond.raw(0))
        assert replies(connected, [beyond])[0][0] == 0
        connected.close()


@settings(max_examples=200, deadline=None)
@given(export=st.text(max_size=30), path=st.text(st.characters(codec="utf-8"), min_size=1, max_size=30))
def test_uris_survive_the_way_there_and_back(export: str, path: str) -> None:
    try:
        export.encode()
    except UnicodeEncodeError:
        return
    for where in (client.Place(f"/{path}", export), client.Place(("::1", 10809), export)):
        assert client.place(str(where)) == where


@pytest.mark.parametrize(
    "uri", ["", "http://x/", "nbd+unix:///a", "nbd+unix:///a?socket=b", "nbd://", "nbds://h/x"]
)
def test_what_is_no_uri_is_refused(uri: str) -> None:
    with pytest.raises(InvalidInputError, match="is no NBD URI"):
        client.place(uri)


def test_the_client_tells_what_is_wrong(served: Served, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no export of that name"):
        client.connect(client.Place(str(served.socket), "none"))
    with pytest.raises(UnavailableError, match="does not answer"):
        client.connect(client.Place(str(tmp_path / "nobody"), ""))
