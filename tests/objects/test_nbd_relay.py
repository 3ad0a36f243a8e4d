"""`breezeblock nbd relay`: servers that are killed, connections that are cut, and what passes through."""

import asyncio
import os
import random
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from nbd_lab import Served, serving, tool

from breezeblock.errors import UnavailableError
from breezeblock.objects.nbd import MemoryDevice, client, relay, wire

MIB = 1 << 20
BLOCK = 64 << 10
BLOCKS = 256
COMMAND = str(Path(sys.executable).parent / "breezeblock")


@contextmanager
def running(*arguments: str, until: Path) -> Iterator[subprocess.Popen[str]]:
    process = start(arguments, until)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def start(arguments: tuple[str, ...], until: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [COMMAND, "nbd", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    while not until.exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    return process


@contextmanager
def relaying(back: client.Place, front: Path) -> Iterator[client.Place]:
    with running("relay", str(back), "--socket", str(front), until=front):
        yield client.Place(str(front), back.export)


def test_a_relay_outlives_servers_that_are_killed_under_load(tmp_path: Path) -> None:
    image, back, front = tmp_path / "image", tmp_path / "back", tmp_path / "front"
    with image.open("wb") as file:
        file.truncate(64 * MIB)
    serve = ("serve", str(image), "--name", "disk", "--socket", str(back))
    with ExitStack() as stack:
        server = start(serve, back)

        @stack.callback
        def end() -> None:
            server.kill()
            server.communicate()

        relay = ("relay", str(client.Place(str(back), "disk")), "--socket", str(front))
        process = stack.enter_context(running(*relay, until=front))
        fio = subprocess.Popen(
            [
                *("fio", "--name=kills", "--ioengine=nbd", f"--uri={client.Place(str(front), 'disk')}"),
                *("--rw=randrw", "--bsrange=4k-1m", "--iodepth=16", "--size=64M", "--io_size=192M"),
                *("--verify=crc32c", "--verify_fatal=1", "--fsync=40", "--rate=24m,24m"),
                *(f"--aux-path={tmp_path}", f"--output={tmp_path / 'fio'}"),
            ]
        )
        kills = 0
        while fio.poll() is None:
            time.sleep(0.5)
            server.kill()
            server.wait()
            back.unlink()
            server = start(serve, back)
            kills += 1
        assert fio.returncode == 0, (tmp_path / "fio").read_text()
        assert kills > 1
        print(f"{kills} kills, no error")
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert not front.exists()


class Cutter(threading.Thread):
    """Stands before a server, and cuts each connection after so many bytes, wherever that is."""

    def __init__(self, path: Path, server: Path, dice: random.Random) -> None:
        super().__init__(daemon=True)
        self._server, self._dice = server, dice
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self.cuts = 0

    def run(self) -> None:
        with suppress(OSError):
            while True:
                self._pass_on(self._listener.accept()[0])

    def end(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self.join(10)
        self._listener.close()

    def _pass_on(self, near: socket.socket) -> None:
        with near, socket.socket(socket.AF_UNIX) as far:
            far.connect(str(self._server))
            left = self._dice.randrange(1, 12) * self._dice.choice((1, 100, 20_000, 400_000))
            ways = {near.fileno(): (near, far), far.fileno(): (far, near)}
            poll = select.poll()
            for one in ways:
                poll.register(one, select.POLLIN)
            while left > 0:
                for one, _event in poll.poll():
                    here, there = ways[one]
                    data = here.recv(min(left, 1 << 16))
                    if not data:
                        return
                    there.sendall(data)
                    left -= len(data)
            self.cuts += 1


def test_connections_that_are_cut_anywhere_lose_and_repeat_nothing(tmp_path: Path) -> None:
    dice, device = random.Random(3), MemoryDevice(BLOCKS * BLOCK)
    model = bytearray(device.length)
    with serving({"disk": device}, tmp_path) as served, ExitStack() as stack:
        cutter = Cutter(tmp_path / "cut", served.socket, dice)
        cutter.start()
        stack.callback(cutter.end)
        where = stack.enter_context(relaying(client.Place(str(tmp_path / "cut"), "disk"), tmp_path / "front"))
        connected = stack.enter_context(patiently(where))
        done = 0
        while cutter.cuts < 60:
            asked = batch(dice, model, done)
            done += len(asked)
            requests = b"".join(one[0] for one in asked.values())
            sending = threading.Thread(target=connected.sendall, args=(requests,))
            sending.start()
            while asked:
                magic, error, cookie = wire.SIMPLE.unpack(client.receive(connected, wire.SIMPLE.size))
                assert (magic, error) == (wire.SIMPLE_MAGIC, 0)
                _request, expected = asked.pop(cookie)
                assert client.receive(connected, len(expected)) == expected
            sending.join()
        assert bytes(device._view) == model


def batch(dice: random.Random, model: bytearray, done: int) -> dict[bytes, tuple[bytes, bytes]]:
    """Return requests that do not touch each other, by cookie, each with the data that answers it."""
    found = {}
    for number, block in enumerate(dice.sample(range(BLOCKS), 24)):
        cookie, at = (done + number).to_bytes(8), block * BLOCK + dice.randrange(512)
        length = dice.choice((1, 512, 4096, BLOCK - 512))
        if dice.random() < 0.5:
            head = wire.REQUEST.pack(wire.REQUEST_MAGIC, 0, wire.Command.READ, cookie, at, length)
            found[cookie] = head, bytes(model[at : at + length])
        else:
            data = dice.randbytes(length)
            head = wire.REQUEST.pack(wire.REQUEST_MAGIC, 0, wire.Command.WRITE, cookie, at, length)
            model[at : at + length] = data
            found[cookie] = head + data, b""
    return found


@contextmanager
def patiently(where: client.Place) -> Iterator[socket.socket]:
    """Connect; a negotiation that is cut is begun again by whoever wants to connect, not by the relay."""
    for _ in range(100):
        with suppress(OSError, UnavailableError):
            connected, _export = client.connect(where)
            break
    connected.settimeout(60)
    with connected:
        yield connected


def test_a_relay_that_may_open_no_more_files_goes_on_with_the_clients_it_has(tmp_path: Path) -> None:
    front = tmp_path / "front"
    with serving({"disk": MemoryDevice(MIB)}, tmp_path) as served:
        back = client.Place(str(served.socket), "disk")
        with running("relay", str(back), "--socket", str(front), until=front) as process:
            where = client.Place(str(front), "disk")
            first, _export = client.connect(where)
            opened = len(list(Path(f"/proc/{process.pid}/fd").iterdir()))
            resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (opened, 64))
            waiting = socket.socket(socket.AF_UNIX)
            waiting.settimeout(20)
            waiting.connect(str(front))
            with first, waiting:
                request = wire.REQUEST.pack(wire.REQUEST_MAGIC, 0, wire.Command.READ, b"cookie 1", 0, 1)
                for _ in range(5):
                    first.sendall(request)
                    client.receive(first, wire.SIMPLE.size + 1)
                    time.sleep(0.1)
                resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (64, 64))
                client.receive(waiting, wire.GREETING.size)
            assert process.poll() is None


def test_a_client_for_whom_there_is_no_thread_is_not_left_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start

    def lacking(thread: threading.Thread) -> None:
        if getattr(thread, "_target").__name__ == "_replies":  # noqa: B009 - it is not public
            raise RuntimeError("can't start new thread")
        start(thread)

    with serving({"disk": MemoryDevice(MIB)}, tmp_path) as served:
        one = relay.Relay(client.Place(str(served.socket), "disk"), tmp_path / "front")
        monkeypatch.setattr(threading.Thread, "start", lacking)
        near, front = socket.socketpair()
        with one._listener, near:
            near.settimeout(20)
            one._take(front)
            client.negotiate(near, client.Place(str(served.socket), "disk"))
            assert near.recv(1) == b""


class Full(MemoryDevice):
    """A store that is away: writes wait until there is room again."""

    def __init__(self, length: int) -> None:
        super().__init__(length)
        self.room: asyncio.Event = asyncio.Event()
        self.begun: list[int] = []

    def write(self, offset: int, data: memoryview, *, fua: bool = False) -> Any:
        self.begun.append(offset // MIB)
        return self._later(offset, bytes(data))

    async def _later(self, offset: int, data: bytes) -> None:
        await self.room.wait()
        super().write(offset, memoryview(data))


@pytest.mark.parametrize("relayed", [False, True], ids=["direct", "relayed"])
def test_what_a_client_gave_up_is_not_done_late(tmp_path: Path, relayed: bool) -> None:
    """A kernel whose timer ended asks again over another connection, and goes on when that is answered."""
    device = Full(128 * MIB)
    with serving({"disk": device}, tmp_path) as served, ExitStack() as stack:
        where = client.Place(str(served.socket), "disk")
        if relayed:
            where = stack.enter_context(relaying(where, tmp_path / "front"))
        given_up, other = stack.enter_context(patiently(where)), stack.enter_context(patiently(where))
        given_up.setblocking(False)
        data = b"".join(written(block, b"o" * MIB) for block in range(100))
        sent, quiet = 0, 0
        while quiet < 20:
            try:
                sent += given_up.send(data[sent : sent + MIB])
                quiet = 0
            except BlockingIOError:
                time.sleep(0.05)
                quiet += 1
        block = len(device.begun)  # the first that nobody has looked at yet
        assert sent > block * MIB + 64
        given_up.shutdown(socket.SHUT_RDWR)
        served.loop.call_soon_threadsafe(device.room.set)
        other.sendall(written(block, b"n" * MIB))
        assert client.receive(other, wire.SIMPLE.size)[4:8] == bytes(4)
        other.sendall(wire.REQUEST.pack(wire.REQUEST_MAGIC, 0, wire.Command.FLUSH, bytes(8), 0, 0))
        assert client.receive(other, wire.SIMPLE.size)[4:8] == bytes(4)
        until_gone(served, 1)
        assert device.begun == [*range(block), block]
        assert bytes(device._view[block * MIB : (block + 1) * MIB]) == b"n" * MIB


def written(block: int, data: bytes) -> bytes:
    cookie = block.to_bytes(8)
    return wire.REQUEST.pack(wire.REQUEST_MAGIC, 0, wire.Command.WRITE, cookie, block * MIB, len(data)) + data


def until_gone(served: Served, left: int) -> None:
    """Wait until the server has so many clients left."""
    until = time.monotonic() + 20
    while served.server.connections > left:
        assert time.monotonic() < until
        time.sleep(0.01)


def test_an_export_looks_as_it_does_without_a_relay(tmp_path: Path) -> None:
    device = MemoryDevice(8 * MIB)
    with serving({"disk": device}, tmp_path) as served:
        back = client.Place(str(served.socket), "disk")
        with relaying(back, tmp_path / "front") as front:
            assert described(front) == described(back)
            tool("qemu-io", "-f", "raw", "-c", "write -P 7 0 3M", "-c", "read -P 7 1M 1M", str(front))
            tool("nbdinfo", str(client.Place(front.address, "other")), code=1)
            device.grow(9 * MIB)
            assert described(front).length == 9 * MIB
            source = tmp_path / "source"
            source.write_bytes(os.urandom(9 * MIB))
            tool("nbdcopy", str(source), str(front))
            tool("nbdcopy", str(front), str(tmp_path / "copy"))
            assert (tmp_path / "copy").read_bytes() == source.read_bytes() == device._view


def described(where: client.Place) -> client.Export:
    connected, export = client.connect(where)
    connected.close()
    return export


@pytest.mark.parametrize(
    "said", [bytes(28), wire.REQUEST.pack(wire.REQUEST_MAGIC, 0, 1, bytes(8), 0, 1 << 31)]
)
def test_a_client_that_talks_nonsense_is_hung_up_on_alone(tmp_path: Path, said: bytes) -> None:
    with serving({"disk": MemoryDevice(MIB)}, tmp_path) as served:
        back = client.Place(str(served.socket), "disk")
        with relaying(back, tmp_path / "front") as front, patiently(front) as other:
            with patiently(front) as connected:
                connected.sendall(said)
                assert connected.recv(1) == b""
            other.sendall(wire.REQUEST.pack(wire.REQUEST_MAGIC, 0, wire.Command.READ, bytes(8), 0, 512))
            assert len(client.receive(other, wire.SIMPLE.size + 512)) == 528
