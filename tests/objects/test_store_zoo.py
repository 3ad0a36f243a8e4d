"""Real servers, probed: volumes live on those that keep what they promise, the others are refused."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from log_lab import content, soon

import zoo
from breezeblock.errors import ForbiddenError, NotFoundError, UnsupportedError
from breezeblock.objects.cdmi import CdmiServer
from breezeblock.objects.http.client import Client
from breezeblock.objects.log import volumes
from breezeblock.objects.probe import Probe, probe
from breezeblock.objects.stores.azure import AzureStore
from breezeblock.objects.stores.cdmi import CdmiStore
from breezeblock.objects.stores.directory import DirectoryStore
from breezeblock.objects.stores.memory import MemoryStore
from breezeblock.objects.stores.port import Store, everything
from breezeblock.objects.stores.s3 import S3Store
from breezeblock.objects.stores.sigv4 import Credentials
from breezeblock.objects.stores.web import WebStore
from breezeblock.objects.stores.webdav import WebDavStore

Urls = Callable[[Any], str]
VOLUME, OTHER, LENGTH = "a" * 32, "b" * 32, 8 << 20


@pytest.fixture(scope="module")
def urls() -> Iterator[Urls]:
    """Start each server when it is first wanted, where other users may go, as in no directory of pytest."""
    with ExitStack() as stack:
        started: dict[Any, str] = {}

        def url(command: Any) -> str:
            if command not in started:
                home = stack.enter_context(TemporaryDirectory(prefix=f"breezeblock-{command.__name__}-"))
                started[command] = stack.enter_context(zoo.running(command, Path(home)))
            return started[command]

        yield url


async def with_store(kind: str, urls: Urls, directory: Path, use: Callable[[Store], Awaitable[None]]) -> None:
    async with AsyncExitStack() as stack:
        store: Any
        if kind == "memory":
            store = MemoryStore()
        elif kind == "directory":
            store = DirectoryStore(directory)
        elif kind.startswith("cdmi"):
            server = CdmiServer(directory, user="u", password="p")
            port = await server.start("127.0.0.1", 0)
            stack.push_async_callback(server.stop)
            dialect: Any = kind.removeprefix("cdmi-")
            store = CdmiStore(f"http://127.0.0.1:{port}", dialect=dialect, user="u", password="p")
        elif kind == "moto":
            store = S3Store(f"{urls(zoo.moto)}/pool/in/it", credentials=lambda: Credentials("k", "s"))
            await store._send("PUT", "/pool", "", {}, b"", 1 << 20)
        elif kind == "s3rver":
            store = S3Store(f"{urls(zoo.s3rver)}/pool", credentials=lambda: Credentials("S3RVER", "S3RVER"))
        elif kind == "azurite":
            url = f"{urls(zoo.azurite)}/{zoo.AZURE_ACCOUNT}/pool/in/it"
            store = AzureStore(url, user=zoo.AZURE_ACCOUNT, password=zoo.AZURE_KEY)
            await store._send("PUT", store._container, {"restype": "container"})
        else:
            store = WebDavStore(urls(getattr(zoo, kind)))
        stack.push_async_callback(store.close)
        await use(store)


LOG = ["memory", "directory", "cdmi-standard", "cdmi-scality", "moto", "azurite"]


@pytest.mark.parametrize("kind", LOG)
def test_a_store_that_keeps_its_promises_holds_volumes(kind: str, urls: Urls, tmp_path: Path) -> None:
    async def use(store: Store) -> None:
        found = await probe(store)
        found.require("log")
        assert found.can("flat") == store.traits.ranged_write, found
        assert not await everything(store, "scratch/")
        await volumes.create(store, VOLUME, LENGTH)
        device = await volumes.attach(store, VOLUME)
        pattern = b"".join(number.to_bytes(4, "little") * 1024 for number in range(LENGTH // 4096))
        await soon(device.write(0, memoryview(pattern)))
        await soon(device.write(5, memoryview(b"unaligned")))
        expected = pattern[:5] + b"unaligned" + pattern[14:]
        await device.writer.checkpoint()
        await volumes.snapshot(device, "s")
        await soon(device.zero(0, LENGTH))
        await device.close()
        await volumes.clone(store, VOLUME, "s", OTHER)
        device = await volumes.attach(store, OTHER)
        assert await content(device) == expected
        await device.close()
        assert await volumes.volumes(store) == [VOLUME, OTHER]
        with pytest.raises(NotFoundError):
            await store.get("absent")

    asyncio.run(with_store(kind, urls, tmp_path, use))


def test_apache_writes_parts_but_its_conditions_are_no_fence(urls: Urls, tmp_path: Path) -> None:
    async def use(store: Store) -> None:
        found = await probe(store)
        found.require("flat")
        with pytest.raises(UnsupportedError, match="of many creators one wins"):
            found.require("log")
        await store.put("a/b/c", b"0123456789", create=True)
        await store.put_range("a/b/c", 20, b"end")
        assert await store.get("a/b/c") == b"0123456789" + bytes(10) + b"end"
        with pytest.raises(NotFoundError):
            await store.put_range("a/b/absent", 0, b"x")
        assert [(item.key, item.length) for item in await everything(store, "a/")] == [("a/b/c", 23)]
        with pytest.raises(NotFoundError):
            await store.get("absent")

    asyncio.run(with_store("apache", urls, tmp_path, use))


@pytest.mark.parametrize(
    ("kind", "trial"),
    [
        ("nginx", "create only what is not there"),
        ("rclone", "create only what is not there"),
        ("s3rver", "create only what is not there"),
        ("rclone", "write a part and nothing else"),
        ("nginx", "write a part and nothing else"),
        ("wsgidav", "write a part and nothing else"),
    ],
)
def test_a_server_that_ignores_conditions_or_shreds_objects_is_refused(
    kind: str, trial: str, urls: Urls, tmp_path: Path
) -> None:
    async def use(store: Store) -> None:
        found: Probe = await probe(store)
        assert not {one.trial: one.passed for one in found.findings}[trial]
        layout = "log" if trial.startswith("create") else "flat"
        with pytest.raises(UnsupportedError, match=trial):
            found.require(layout)

    asyncio.run(with_store(kind, urls, tmp_path, use))


def test_the_old_dialect_is_refused_where_it_destroys(urls: Urls) -> None:
    async def run() -> None:
        directory = WebDavStore(urls(zoo.apache))
        await directory.put("scratch/there", b"")  # which that dialect cannot make here
        await directory.close()
        store = CdmiStore(urls(zoo.apache), dialect="scality")
        assert not (await probe(store)).can("flat")
        await store.close()

    asyncio.run(run())


def test_reading_only_and_wrong_passwords(tmp_path: Path) -> None:
    async def run() -> None:
        (tmp_path / "secret").mkdir()
        (tmp_path / "root").mkdir()
        (tmp_path / "secret" / "hidden").touch()
        server = CdmiServer(tmp_path / "root", user="u", password="p")
        url = f"http://127.0.0.1:{await server.start('127.0.0.1', 0)}"
        server.store.put_now("base/image", b"0123456789")
        reader = WebStore(f"{url}/base", user="u", password="p")
        assert await reader.get("image", 3, 4) == b"3456"
        assert (await reader.head("image")).length == 10
        assert not (await probe(reader)).can("log")
        with pytest.raises(ForbiddenError):
            await CdmiStore(url, user="u", password="wrong").get("base/image")
        client = Client(url)
        assert (await client.request("GET", "/../etc/passwd", reader.headers)).status in {400, 404}
        for outside in ["/.tmp/x", "/.tmp/", "/../", "/../secret/", "/%2e%2e/", "/base/../../"]:
            answer = await client.request("GET", outside, reader.headers)
            assert answer.status == 400, outside
            assert b"hidden" not in answer.body
        long = await client.request("GET", "/" + "x" * (1 << 20), reader.headers)
        assert long.status == 400
        await server.stop()

    asyncio.run(run())
