"""What stores and connections do once in a while: lost answers, bad moments, listings that are none."""

import asyncio
import calendar
import hashlib
import os
import random
import time
from pathlib import Path
from typing import Any

import httptools
import pytest
from mirrors_lab import Flaky

from breezeblock.errors import BreezeblockError, ConfigError, UnavailableError, UnsupportedError
from breezeblock.objects import pool
from breezeblock.objects.cdmi import CdmiServer
from breezeblock.objects.http.client import Client
from breezeblock.objects.mirrors import Gate, Mirrors, Policy
from breezeblock.objects.stores.cdmi import CdmiStore
from breezeblock.objects.stores.directory import DirectoryStore
from breezeblock.objects.stores.elements import records
from breezeblock.objects.stores.memory import MemoryStore
from breezeblock.objects.stores.opening import StoreConfig, endpoint
from breezeblock.objects.stores.port import ExistsError, Store
from breezeblock.objects.stores.s3 import S3Store
from breezeblock.objects.stores.sigv4 import Credentials, sign


class Server(asyncio.Protocol):
    """Keeps objects; of the second request on a connection it does the work, and hangs up."""

    objects: dict[bytes, bytes]

    def __init__(self, objects: dict[bytes, bytes], listing: bytes = b"") -> None:
        self.objects, self._listing, self._count = objects, listing, 0

    def connection_made(self, transport: Any) -> None:
        self._transport, self._parser = transport, httptools.HttpRequestParser(self)
        self._body, self._url, self._create = b"", b"", False

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._url, self._body, self._create = url, b"", False

    def on_header(self, name: bytes, _value: bytes) -> None:
        self._create |= name.lower() == b"if-none-match"

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        self._count += 1
        verb, status, body = self._parser.get_method(), b"404 None", b""
        if verb == b"PUT":
            status = b"412 There" if self._create and self._url in self.objects else b"201 Made"
            if status == b"201 Made":
                self.objects[self._url] = self._body
        elif self._listing:
            status, body = b"200 OK", self._listing
        elif self._url in self.objects:
            status, body = b"200 OK", self.objects[self._url]
        if self._count == 2 and verb == b"PUT":
            self._transport.close()
            return
        self._transport.write(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body))


async def _nothing(*_: object) -> None:
    """Pass."""


async def listening(objects: dict[bytes, bytes], listing: bytes = b"") -> tuple[asyncio.Server, str]:
    server = await asyncio.get_running_loop().create_server(lambda: Server(objects, listing), "127.0.0.1", 0)
    return server, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def test_a_create_whose_answer_was_lost_with_its_idle_connection_is_ones_own() -> None:
    async def main() -> None:
        server, url = await listening({})
        mirrors = Mirrors([url], CdmiStore, Gate(_nothing, _nothing))
        await mirrors.open()
        await mirrors.put("one", b"1", create=True)
        await mirrors.put("two", b"2", create=True)  # over the connection that is kept, and then closed
        with pytest.raises(ExistsError):
            await mirrors.put("two", b"3", create=True)
        await mirrors.close()
        server.close()

    asyncio.run(main())


def test_a_bad_moment_during_the_probe_is_no_verdict() -> None:
    async def main() -> None:
        inner = MemoryStore()
        await pool.make(inner, "first", "log")
        bad = Flaky(inner, "second")
        puts = iter(range(1000))
        bad.before = lambda verb: UnavailableError("busy") if verb == "put" and next(puts) == 2 else None
        with pytest.raises(UnsupportedError, match="busy"):
            await pool.qualify(bad, "second", "log")
        await pool.qualify(bad, "second", "log")
        bad.before = lambda _: UnavailableError("down")
        good = Flaky(inner, "second")
        await pool.qualify(good, "second", "log")
        assert good.asked == ["get"], "it is known now"

    asyncio.run(main())


S3_LISTING = b"<R><Contents><Key>k</Key><Size>1</Size></Contents></R>"


@pytest.mark.parametrize(
    "listing",
    [
        S3_LISTING.replace(b"<Size>1</Size>", b""),
        S3_LISTING.replace(b"<Size>1<", b"<Size>one<"),
        S3_LISTING.replace(b"<Key>k</Key>", b""),
        b"<R>" + b"<a>" * 500 + b"</a>" * 500 + b"</R>",
        b"<!DOCTYPE R [<!ENTITY a 'b'>]><R>&a;</R>",
        b"{}",
    ],
)
def test_a_listing_that_is_none_is_a_failure_of_the_store(listing: bytes) -> None:
    async def main() -> None:
        server, url = await listening({}, listing)
        store = S3Store(f"{url}/bucket", credentials=lambda: Credentials("a", "b"))
        with pytest.raises(UnavailableError):
            await store.page("")
        await store.close()
        server.close()

    asyncio.run(main())


def test_a_long_text_in_many_pieces_is_read_once() -> None:
    text = "\n" * (1 << 20)  # expat hands over each line by itself
    assert records(f"<R><a>{text}</a><b>1</b></R>".encode(), "a")[1] == {"b": "1"}


def test_an_endpoint_that_fails_in_an_unforeseen_way_is_down_and_not_forgotten() -> None:
    async def main() -> None:
        async def prove(_store: Store) -> None:
            raise KeyError("unforeseen")

        mirrors = Mirrors(
            ["e"], lambda _: MemoryStore(), Gate(prove, _nothing), policy=Policy(), dice=random.Random(1)
        )
        async with asyncio.timeout(20):
            with pytest.raises(BreezeblockError, match="unforeseen"):
                await mirrors.open()
        await mirrors.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    "url",
    [
        "https://someone:opaque@host/bucket",
        "https://host/bucket?sig=opaque",
        "https://host/bucket#opaque",
    ],
)
def test_a_url_with_a_secret_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        endpoint(StoreConfig(kind="cdmi", urls=[url]), url)
    assert "opaque" not in str(caught.value)


def test_what_a_killed_writer_left_in_a_directory_goes_after_a_day(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    store.put_now("k", b"value")
    for name, age_s in (("old", 2 * 86400), ("new", 60)):
        (tmp_path / ".tmp" / name).write_bytes(b"half")
        os.utime(tmp_path / ".tmp" / name, (time.time() - age_s,) * 2)
    store.room_now()
    assert [path.name for path in (tmp_path / ".tmp").iterdir()] == ["new"]
    assert store.get_now("k") == b"value"


def test_what_cannot_be_a_key_is_not_listed(tmp_path: Path) -> None:
    for name in ("v/one", "lost+found/two", "v/a b/three", "v/four five"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    async def main() -> None:
        served = CdmiServer(tmp_path)
        store = CdmiStore(f"http://127.0.0.1:{await served.start('127.0.0.1', 0)}")
        assert [item.key for item in (await store.page("")).items] == ["v/one"]
        await store.close()
        await served.stop()
        endless, url = await listening({}, b'{"children": ["a/", "/", "../", "b"]}')
        store = CdmiStore(url)
        async with asyncio.timeout(20):
            assert len((await store.page("")).items) == 8, "as deep as a key may be"
        await store.close()
        endless.close()

    asyncio.run(main())


def test_requests_are_signed_as_the_specification_says() -> None:
    # The example "GET Object" of the S3 API reference, "Authenticating Requests".
    credentials = Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
    headers = {"host": "examplebucket.s3.amazonaws.com", "range": "bytes=0-9"}
    nothing, when = hashlib.sha256().hexdigest(), calendar.timegm((2013, 5, 24, 0, 0, 0))
    signed = sign(credentials, "us-east-1", "GET", "/test.txt", "", headers, nothing, when)
    known = "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
    assert signed["authorization"].endswith(f"Signature={known}")
    assert signed["x-amz-date"] == "20130524T000000Z"


def test_a_server_that_says_nothing_is_given_up_with_its_connection() -> None:
    async def run() -> None:
        gone = asyncio.Event()

        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await reader.read()
            except ConnectionError:
                pass
            finally:
                gone.set()
                writer.close()

        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        client = Client(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", deadline_s=0.1)
        with pytest.raises(UnavailableError, match="did not answer GET within"):
            await client.request("GET", "/x")
        await gone.wait()
        assert client.connections == 0
        await client.close()
        server.close()

    asyncio.run(run())
