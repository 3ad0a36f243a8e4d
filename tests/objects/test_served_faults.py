"""A volume that is served over NBD while its endpoints fail in each way: its client sees no error."""

import asyncio
import datetime as dt
import random
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from email.utils import format_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from faulty import FAULTS, Way
from log_lab import content
from serving_lab import eventually

import zoo
from breezeblock.objects.cdmi import CdmiServer
from breezeblock.objects.log import volumes
from breezeblock.objects.mirrors import Mirrors, Policy
from breezeblock.objects.nbd import Server, client, wire
from breezeblock.objects.nbd.wire import Command, Flag
from breezeblock.objects.stores.opening import StoreConfig, make_pool, open_store

VOLUME, LENGTH, PIECE = "a" * 32, 4 << 20, 16 << 10
QUICK = Policy(attempt_s=0.5, down_first_s=0.05, down_most_s=0.4, retry_first_s=0.01)


class Served:
    """A client of the volume, and what it must find there."""

    def __init__(self, where: client.Place, store: Mirrors) -> None:
        self._connection, _export = client.connect(where)
        self._connection.settimeout(60)
        self._dice, self._model = random.Random(5), bytearray(LENGTH)
        self._asked = 0
        self.store = store

    def work(self) -> None:
        """Write, so that the store must have it when the answer comes, and read elsewhere."""
        for _ in range(4):
            at, data = self._dice.randrange(LENGTH - PIECE), self._dice.randbytes(PIECE)
            assert self._ask(Command.WRITE, at, data) == b""
            self._model[at : at + PIECE] = data
            at = self._dice.randrange(LENGTH - PIECE)
            assert self._ask(Command.READ, at) == self._model[at : at + PIECE]

    def all(self) -> bool:
        return all(
            self._ask(Command.READ, at) == self._model[at : at + PIECE] for at in range(0, LENGTH, PIECE)
        )

    def is_model(self, found: bytes) -> bool:
        return found == self._model

    def states(self) -> list[str]:
        return [one.state for one in self.store.status().endpoints]

    def close(self) -> None:
        self._connection.close()

    def _ask(self, kind: Command, at: int, data: bytes = b"") -> bytes:
        self._asked += 1
        cookie, flags = self._asked.to_bytes(8), Flag.FUA if data else 0
        head = wire.REQUEST.pack(wire.REQUEST_MAGIC, flags, kind, cookie, at, PIECE)
        self._connection.sendall(head + data)
        answer = client.receive(self._connection, wire.SIMPLE.size)
        assert answer == wire.SIMPLE.pack(wire.SIMPLE_MAGIC, 0, cookie)
        return b"" if data else client.receive(self._connection, PIECE)


@contextmanager
def served(config: StoreConfig, directory: Path) -> Iterator[Served]:
    """Serve a new volume from a loop of its own; afterwards, look whether the store has it all."""
    path, up, ending = directory / "nbd.sock", threading.Event(), list[Callable[[], object]]()
    box: list[Any] = []

    async def main() -> None:
        await make_pool(config)
        store = await open_store(config, policy=QUICK, dice=random.Random(7))
        await volumes.create(store, VOLUME, LENGTH)
        # Hardly any cache, and no journal: what is asked for goes to the store.
        device = await volumes.attach(store, VOLUME, memory=volumes.Memory(cache_bytes=1 << 18))
        server, over, loop = Server({VOLUME: device}), asyncio.Event(), asyncio.get_running_loop()
        await server.listen_unix(path)
        ending.append(lambda: loop.call_soon_threadsafe(over.set))
        box.append(store)
        up.set()
        await over.wait()
        await server.stop()
        fresh = await volumes.attach(store, VOLUME)
        box.append(await content(fresh))
        await fresh.close()
        await store.close()

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    assert up.wait(60)
    seen = Served(client.Place(str(path), VOLUME), box[0])
    try:
        yield seen
    finally:
        seen.close()
        ending[0]()
        thread.join(60)
    assert seen.is_model(box[1])


@contextmanager
def aside(made: Callable[[], Any]) -> Iterator[Any]:
    """Run what a coroutine's context gives in a loop beside the test's thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        context = made()
        yield asyncio.run_coroutine_threadsafe(context.__aenter__(), loop).result(60)
        asyncio.run_coroutine_threadsafe(context.__aexit__(None, None, None), loop).result(60)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(60)
        loop.close()


@asynccontextmanager
async def ways(root: Path) -> AsyncIterator[tuple[CdmiServer, list[Way], list[str]]]:
    server = CdmiServer(root, user="u", password="first")
    port = await server.start("127.0.0.1", 0)
    three = [Way(port) for _ in range(3)]
    yield server, three, [await way.start() for way in three]
    for way in three:
        await way.stop()
    await server.stop()


def test_each_fault_of_an_endpoint_and_credentials_that_expire(tmp_path: Path) -> None:
    root, secrets = tmp_path / "root", tmp_path / "secrets"
    root.mkdir()
    secrets.write_text("u\nfirst\n")
    with aside(lambda: ways(root)) as (server, three, urls):
        config = StoreConfig(kind="cdmi", urls=urls, credentials_file=str(secrets))
        with served(config, tmp_path) as volume:
            for number, fault in enumerate(FAULTS):
                eventually(lambda: set(volume.states()) == {"up"})
                for at, way in enumerate(three):
                    way.fault = fault if at != number % 3 else ""
                # Which ways are taken is left to chance, and to what was quick before.
                tries = iter(range(20))
                while not any(way.seen.get(fault) for way in three):
                    assert next(tries, None) is not None, f"{fault} was never met"
                    volume.work()
                for way in three:
                    way.fault = ""
            other = CdmiServer(root, user="u", password="second")
            server._expected = other._expected
            working = threading.Thread(target=volume.work)
            working.start()
            eventually(lambda: "up" not in volume.states())
            assert working.is_alive(), "with credentials that are refused everywhere it waits"
            secrets.write_text("u\nsecond\n")
            working.join(60)
            assert not working.is_alive()
            assert volume.all()


class Gate:
    """Stands before an S3 server that looks neither at clocks nor at tokens, and does."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.ahead = dt.timedelta(0)
        self.token = "one"
        self.refused: dict[str, int] = {}

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/pool"
        server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        found = {
            name.lower(): value for name, value in re.findall(r"(?m)^([\w-]+): *(.*?)\r$", head.decode())
        }
        body = await reader.readexactly(int(found.get("content-length", 0)))
        why = self._why_not(found)
        if why:
            self.refused[why] = self.refused.get(why, 0) + 1
            said = f"<Error><Code>{why}</Code></Error>"
            date = format_datetime(dt.datetime.now(dt.UTC) + self.ahead, usegmt=True)
            close = f"Connection: close\r\nDate: {date}\r\nContent-Length: {len(said)}"
            writer.write(f"HTTP/1.1 403 Forbidden\r\n{close}\r\n\r\n{said}".encode())
        else:
            parts = urlsplit(self._url)
            inner, out = await asyncio.open_connection(parts.hostname, parts.port)
            out.write(head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") + body)
            writer.write(await inner.read())
            out.close()
        await writer.drain()
        writer.close()

    def _why_not(self, found: dict[str, str]) -> str:
        said = dt.datetime.strptime(found["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=dt.UTC)
        if abs(said - dt.datetime.now(dt.UTC) - self.ahead) > dt.timedelta(minutes=15):
            return "RequestTimeTooSkewed"
        return "" if found.get("x-amz-security-token") == self.token else "ExpiredToken"


@pytest.fixture
def moto(tmp_path: Path) -> Iterator[str]:
    with zoo.running(zoo.moto, tmp_path) as url:
        requests.put(f"{url}/pool", timeout=20)
        yield url


def test_a_servers_clock_that_jumps_and_a_token_that_expires(moto: str, tmp_path: Path) -> None:
    gate, secrets = Gate(moto), tmp_path / "secrets"
    secrets.write_text("k\ns\none\n")
    with aside(gate.opened) as url:
        config = StoreConfig(kind="s3", urls=[url], credentials_file=str(secrets))
        with served(config, tmp_path) as volume:
            volume.work()
            gate.ahead = dt.timedelta(hours=3)
            volume.work()
            secrets.write_text("k\ns\ntwo\n")
            gate.token = "two"
            volume.work()
            gate.ahead = dt.timedelta(hours=-5)
            volume.work()
            assert gate.refused["RequestTimeTooSkewed"] >= 2
            assert gate.refused["ExpiredToken"] >= 1
            assert volume.all()
