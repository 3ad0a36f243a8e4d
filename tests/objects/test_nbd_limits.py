"""Clients that mean harm, or are too many, and what a client of ours is told."""

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nbd_lab import Served, serving
from nbd_socket import LENGTH, Request, open_socket, receive, replies

from breezeblock.errors import InvalidInputError, NotFoundError, UnavailableError
from breezeblock.objects.nbd import MemoryDevice, Server, Soon, client, transmission, wire
from breezeblock.objects.nbd.device import Data
from breezeblock.objects.nbd.wire import Command


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    directory = tmp_path_factory.mktemp("limits")
    exports = {"now": MemoryDevice(LENGTH), "other": MemoryDevice(LENGTH)}  # so that there is no usual one
    with serving(exports, directory, handshake_s=1.0, stuck_s=0.5) as one:
        yield one


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


class LoadingDevice(MemoryDevice):
    """Takes its time to fetch what it is told to expect."""

    def __init__(self, length: int) -> None:
        super().__init__(length)
        self.now = self.most = 0

    async def _fetch(self, length: int) -> None:
        self.now += length
        self.most = max(self.most, self.now)
        await asyncio.sleep(0.01)
        self.now -= length

    def cache(self, offset: int, length: int) -> Soon[None]:  # type: ignore[override]
        return self._fetch(length)


def test_hints_that_much_will_be_read_are_taken_a_few_at_a_time(tmp_path: Path) -> None:
    device = LoadingDevice(16 << 20)
    with serving({"": device}, tmp_path) as one:
        connected, _export = client.connect(client.Place(str(one.socket), ""))
        with connected:
            requests = [Request(Command.CACHE, 0, 8 << 20)] * 20
            for cookie, request in enumerate(requests):
                connected.sendall(request.raw(cookie))
            assert {error for error, _ in replies(connected, requests).values()} == {0}
    assert 0 < device.most <= transmission.WINDOW_BYTES


class FailingDevice(MemoryDevice):
    """Cannot be closed."""

    async def close(self) -> None:
        raise UnavailableError("the store is away")


class ClosedDevice(MemoryDevice):
    closed = False

    async def close(self) -> None:
        self.closed = True


def test_a_device_that_cannot_be_closed_does_not_keep_others_open(tmp_path: Path) -> None:
    other = ClosedDevice(LENGTH)

    async def main() -> None:
        server = Server({"bad": FailingDevice(LENGTH), "good": other})
        await server.listen_unix(tmp_path / "socket")
        with pytest.raises(UnavailableError, match="is away"):
            await server.stop()

    asyncio.run(main())
    assert other.closed


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


def test_a_refusal_that_nobody_knows_is_a_refusal() -> None:
    near, far = socket.socketpair()
    with near, far:
        far.sendall(wire.GREETING.pack(wire.GREETING_MAGIC, wire.OPTION_MAGIC, 3))
        unknown = 0x80000099 - (1 << 32)
        far.sendall(wire.OPTION_REPLY.pack(wire.OPTION_REPLY_MAGIC, wire.Option.GO, unknown, 0))
        with pytest.raises(UnavailableError, match="0x80000099"):
            client.negotiate(near, client.Place("/socket", "disk"))
