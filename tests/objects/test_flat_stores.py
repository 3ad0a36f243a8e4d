"""Volumes that are one object, in each store that writes parts, and as real clients see them."""

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from log_lab import content, soon

import zoo
from breezeblock.errors import ConflictError, InvalidInputError, NotFoundError, UnsupportedError
from breezeblock.objects.cdmi import CdmiServer
from breezeblock.objects.flat import snapshots, volumes
from breezeblock.objects.nbd import Device, Server
from breezeblock.objects.stores.azure import AzureStore
from breezeblock.objects.stores.memory import MemoryStore
from breezeblock.objects.stores.opening import StoreConfig, make_pool, open_store

VOLUME, LENGTH = "c" * 32, 1 << 20


@pytest.fixture(scope="module")
def apache() -> Iterator[str]:
    with TemporaryDirectory(prefix="breezeblock-flat-") as home, zoo.running(zoo.apache, Path(home)) as url:
        yield url


@pytest.fixture(scope="module")
def azure() -> Iterator[StoreConfig]:
    with TemporaryDirectory(prefix="breezeblock-flat-") as home, zoo.running(zoo.azurite, Path(home)) as url:
        yield StoreConfig(
            kind="azure",
            urls=[f"{url}/{zoo.AZURE_ACCOUNT}/pool", f"{url}/{zoo.AZURE_ACCOUNT}/pool/"],
            user=zoo.AZURE_ACCOUNT,
            password=zoo.AZURE_KEY,
            layout="flat",
        )


@pytest.mark.parametrize("kind", ["directory", "cdmi-standard", "cdmi-scality", "apache", "azure"])
def test_a_flat_volume_lives_in_each_store_that_writes_parts(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    async def main() -> None:
        server = CdmiServer(tmp_path)
        url = f"http://127.0.0.1:{await server.start('127.0.0.1', 0)}"
        config = {
            "directory": StoreConfig(kind="directory", urls=[str(tmp_path)], layout="flat"),
            "cdmi-standard": StoreConfig(kind="cdmi", urls=[url], layout="flat"),
            "cdmi-scality": StoreConfig(kind="cdmi", urls=[url], dialect="scality", layout="flat"),
        }.get(kind)
        if kind == "apache":
            config = StoreConfig(kind="webdav", urls=[request.getfixturevalue(kind)], layout="flat")
        elif kind == "azure":
            config = request.getfixturevalue(kind)
            await container(config)
        assert config
        await make_pool(config)
        store = await open_store(config)
        await volumes.create(store, VOLUME, LENGTH)
        await volumes.create(store, VOLUME, LENGTH)
        with pytest.raises(ConflictError, match=f"of {LENGTH} bytes"):
            await volumes.create(store, VOLUME, 2 * LENGTH)
        device = await volumes.attach(store, VOLUME, "host-a")
        assert await content(device) == bytes(LENGTH)
        dice, model = random.Random(3), bytearray(LENGTH)
        step = device.minimum_bytes
        for _ in range(20):
            at = dice.randrange((LENGTH - 9000) // step) * step
            data = dice.randbytes(-(-dice.randrange(1, 9000) // step) * step)
            model[at : at + len(data)] = data
            await soon(device.write(at, memoryview(data)))
        await soon(device.zero(step, 137 * step))
        model[step : 138 * step] = bytes(137 * step)
        await soon(device.trim(1 << 19, 4096))
        if store.traits.holes:
            model[1 << 19 : (1 << 19) + 4096] = bytes(4096)
        assert await content(device) == bytes(model)
        with pytest.raises(ConflictError, match="host-a has it"):
            await volumes.attach(store, VOLUME, "host-b")
        for verb in (volumes.extend(store, VOLUME, 2 * LENGTH), volumes.delete(store, VOLUME)):
            with pytest.raises(ConflictError, match="attached by host-a"):
                await verb
        await device.grow(LENGTH + 8192)
        assert await content(device) == bytes(model) + bytes(8192)
        await device.close()
        await volumes.extend(store, VOLUME, 2 * LENGTH)
        device = await volumes.attach(store, VOLUME, "host-b")
        assert await content(device) == bytes(model) + bytes(LENGTH)
        await device.close()
        assert await volumes.volumes(store) == [VOLUME]
        await volumes.delete(store, VOLUME)
        await volumes.delete(store, VOLUME)
        assert not await volumes.volumes(store)
        with pytest.raises(NotFoundError):
            await volumes.attach(store, VOLUME, "host-b")
        with pytest.raises(InvalidInputError):
            await volumes.create(store, "../x", LENGTH)
        await store.close()
        await server.stop()

    asyncio.run(main())


async def container(config: StoreConfig) -> None:
    store = AzureStore(config.urls[0], user=config.user, password=config.password)
    await store._send("PUT", store._container, {"restype": "container"})  # done if it is there
    await store.close()


def test_azure_takes_snapshots_and_its_lease_is_a_fence(azure: StoreConfig) -> None:
    async def main() -> None:
        await container(azure)
        await make_pool(azure)
        store, other = await open_store(azure), await open_store(azure)
        volume = "d" * 32
        await volumes.create(store, volume, LENGTH)
        device = await volumes.attach(store, volume, "host-a")
        await soon(device.write(512, memoryview(b"a" * 1024)))
        for _ in range(2):
            await snapshots.take(store, volume, "one")
        await soon(device.write(512, memoryview(b"b" * 512)))
        await device.grow(2 * LENGTH)
        image = await snapshots.attach(store, volume, "one")
        assert await content(image) == bytes(512) + b"a" * 1024 + bytes(LENGTH - 1536)
        await image.close()
        # The same host after a crash: it has the lock, and a lease of its own.
        again = await volumes.attach(other, volume, "host-a")
        with pytest.raises(ConflictError, match="leased by somebody else"):
            await soon(device.write(512, memoryview(b"x" * 512)))
        await soon(again.write(1024, memoryview(b"c" * 512)))
        assert (await content(again))[:2048] == bytes(512) + b"b" * 512 + b"c" * 512 + bytes(512)
        await again.close()
        with pytest.raises(ConflictError, match="has snapshots: one"):
            await volumes.delete(other, volume)
        await snapshots.delete(other, volume, "one")
        await snapshots.delete(other, volume, "one")
        # A host that died with lock and lease.
        await volumes.attach(other, volume, "host-b")
        await volumes.unlock(store, volume)
        await volumes.delete(store, volume)
        assert volume not in await volumes.volumes(store)
        with pytest.raises(UnsupportedError, match="takes no snapshots"):
            await snapshots.take(MemoryStore(), volume, "one")
        await store.close()
        await other.close()

    asyncio.run(main())


def test_real_clients_use_a_flat_volume_and_an_image_over_nbd(tmp_path: Path) -> None:
    async def qemu_io(socket: Path, export: str, *commands: str) -> str:
        options = [part for command in commands for part in ("-c", command)]
        process = await asyncio.create_subprocess_exec(
            "qemu-io",
            *(
                "-f",
                "raw",
                *(["-r"] if export == "image" else []),
                f"nbd+unix:///{export}?socket={socket}",
                *options,
            ),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        out, _ = await process.communicate()
        return out.decode()

    async def main() -> None:
        (tmp_path / "pool").mkdir()
        cdmi = CdmiServer(tmp_path / "pool")
        url = f"http://127.0.0.1:{await cdmi.start('127.0.0.1', 0)}"
        config = StoreConfig(kind="cdmi", urls=[url, f"{url}/"], layout="flat")
        await make_pool(config)
        store = await open_store(config)
        reader = await open_store(StoreConfig(kind="web", urls=[url]))
        await volumes.create(store, VOLUME, LENGTH)
        device = await volumes.attach(store, VOLUME, "host")
        devices: dict[str, Device] = {
            "flat": device,
            "image": await volumes.attach_image(reader, f"flat/{VOLUME}"),
        }
        server, socket = Server(devices), tmp_path / "nbd"
        await server.listen_unix(socket)
        said = await qemu_io(
            socket, "flat", "write -P 7 5000 100000", "write -z 8192 4096", "flush", "discard 0 4096"
        )
        assert "failed" not in said, said
        said = await qemu_io(
            socket, "flat", "read -P 7 5000 3192", "read -P 0 8192 4096", "read -P 7 12288 92712"
        )
        assert said.count("bytes at offset") == 3, said
        assert "verification failed" not in said, said
        said = await qemu_io(socket, "image", "read -P 7 12288 92712")
        assert "verification failed" not in said, said
        assert "read 92712/92712" in said
        await server.stop()
        await store.close()
        await reader.close()
        await cdmi.stop()

    asyncio.run(main())
