"""The protocol, byte by byte: any requests in any pieces, against a model."""

import asyncio
import errno
import random
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nbd_lab import Served, serving
from nbd_socket import LENGTH, Request, open_socket, replies

from breezeblock.errors import NoSpaceError
from breezeblock.objects.nbd import MemoryDevice, Soon, client, wire
from breezeblock.objects.nbd.device import Data
from breezeblock.objects.nbd.wire import Command, Error, Flag


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
