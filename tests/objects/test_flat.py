"""Volumes that are one object: in each store that writes parts, for two hosts; images that are only read."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from log_lab import content, soon
from mirrors_lab import Lab, now, run

import zoo
from breezeblock.errors import ConflictError, CorruptError, InvalidInputError, NotFoundError, UnsupportedError
from breezeblock.objects.cdmi import CdmiServer
from breezeblock.objects.flat import FlatDevice, lock, snapshots, volumes
from breezeblock.objects.flat.image import CHUNK
from breezeblock.objects.flat.watch import CHECK_S
from breezeblock.objects.nbd import Device, Server
from breezeblock.objects.nbd.device import Data
from breezeblock.objects.stores.azure import AzureStore
from breezeblock.objects.stores.memory import MemoryStore
from breezeblock.objects.stores.opening import StoreConfig, make_pool, open_store
from breezeblock.objects.stores.port import Body, Item, Traits

_T = TypeVar("_T")
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


class Lazy(MemoryStore):
    """Parts arrive in any order."""

    def __init__(self, dice: random.Random) -> None:
        super().__init__()
        self.dice = dice

    async def put_range(self, key: str, offset: int, body: Body) -> None:
        await asyncio.sleep(self.dice.random())
        await super().put_range(key, offset, body)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 1 << 30),
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 24), st.booleans()), min_size=2, max_size=40),
)
def test_overlapping_writes_take_effect_in_their_order(
    seed: int, changes: list[tuple[int, int, bool]]
) -> None:
    async def main() -> None:
        store, model = Lazy(random.Random(seed)), bytearray(4096)
        await volumes.create(store, VOLUME, 4096)
        device = await volumes.attach(store, VOLUME, "host")
        answers = []
        for number, (at, length, zeros) in enumerate(changes):
            data = bytes(length) if zeros else bytes([number + 1]) * length
            model[at : at + length] = data
            answers.append(device.zero(at, length) if zeros else device.write(at, memoryview(data)))
        await asyncio.gather(*(soon(answer) for answer in answers))
        assert await content(device) == bytes(model)
        await device.close()

    run(main())


def test_a_host_that_was_killed_gets_its_volume_again_and_one_that_lost_it_stops() -> None:
    async def main() -> None:
        store = MemoryStore()
        await volumes.create(store, VOLUME, 4096)
        killed = await volumes.attach(store, VOLUME, "host-a")
        again = await volumes.attach(store, VOLUME, "host-a")
        await soon(again.write(0, memoryview(b"a")))
        begun = now()
        other = await volumes.attach(store, VOLUME, "host-b", steal=True)
        assert now() - begun >= 2 * CHECK_S
        for old in (killed, again):
            with pytest.raises(lock.TakenError, match="host-b has it"):
                old.write(0, memoryview(b"x"))
            await old.close()
        await soon(other.write(1, memoryview(b"b")))
        assert (await content(other))[:2] == b"ab"
        await volumes.unlock(store, VOLUME)
        await asyncio.sleep(2 * CHECK_S)
        with pytest.raises(lock.TakenError, match="was removed"):
            other.flush()
        await other.close()
        store.objects[f"lock/{VOLUME}"] = b"no lock of ours"
        with pytest.raises(ConflictError, match="unknown"):
            await volumes.attach(store, VOLUME, "host-a")

    run(main())


class CutError(Exception):
    pass


class Dying(MemoryStore):
    """Whoever calls it dies before or behind its nth call."""

    def __init__(self, at: int, *, behind: bool) -> None:
        super().__init__()
        self.left, self.behind = at, behind

    async def _do(self, work: Callable[[], Awaitable[_T]]) -> _T:
        self.left -= 1
        if not self.left and not self.behind:
            raise CutError
        result = await work()
        if not self.left:
            raise CutError
        return result

    async def get(self, key: str, first: int = 0, length: int | None = None) -> bytes:
        return await self._do(lambda: MemoryStore.get(self, key, first, length))

    async def put(self, key: str, body: Body, *, create: bool = False, match: str = "") -> None:
        await self._do(lambda: MemoryStore.put(self, key, body, create=create, match=match))

    async def put_range(self, key: str, offset: int, body: Body) -> None:
        await self._do(lambda: MemoryStore.put_range(self, key, offset, body))

    async def delete(self, key: str) -> None:
        await self._do(lambda: MemoryStore.delete(self, key))

    async def head(self, key: str) -> Item:
        return await self._do(lambda: MemoryStore.head(self, key))


async def life(store: MemoryStore) -> None:
    """All that happens to a volume, each verb run again from its beginning where it was cut."""
    await again(lambda: volumes.create(store, VOLUME, 8192))
    device = await again(lambda: volumes.attach(store, VOLUME, "host"))
    await again(lambda: soon(device.write(100, memoryview(b"abc"))))
    await again(lambda: soon(device.zero(101, 1)))
    await again(lambda: device.grow(12288))
    await again(device.close)
    await again(lambda: volumes.unlock(store, VOLUME))
    await again(lambda: volumes.extend(store, VOLUME, 16384))
    device = await again(lambda: volumes.attach(store, VOLUME, "other"))
    assert await again(lambda: content(device)) == bytes(100) + b"a\0c" + bytes(16384 - 103)
    await again(device.close)
    await again(lambda: volumes.unlock(store, VOLUME))
    await again(lambda: volumes.delete(store, VOLUME))
    assert not store.objects


async def again(verb: Callable[[], Awaitable[_T]]) -> _T:
    try:
        return await verb()
    except CutError:
        return await verb()


@pytest.mark.parametrize("behind", [False, True])
def test_every_verb_can_be_cut_at_every_call_of_the_store(*, behind: bool) -> None:
    async def main() -> None:
        for at in range(1, 100):
            store = Dying(at, behind=behind)
            await life(store)
            if store.left > 0:
                assert at > 20, "it was cut at each call, and this time at none"
                return
        raise AssertionError("a life has fewer calls than that")

    run(main())


class Careless(MemoryStore):
    """As Apache: of two who create at one moment, both are told that they won."""

    traits = Traits(ranged_write=True)

    async def put(self, key: str, body: Body, *, create: bool = False, match: str = "") -> None:
        there = key in self.objects
        await asyncio.sleep(0.01)
        await super().put(key, body, create=create and there, match=match)


def test_where_creating_is_no_fence_one_of_two_still_gets_the_lock() -> None:
    async def main() -> None:
        store = Careless()
        await volumes.create(store, VOLUME, 4096)
        found = await asyncio.gather(
            *(volumes.attach(store, VOLUME, f"host-{number}") for number in range(4)), return_exceptions=True
        )
        assert len([one for one in found if isinstance(one, FlatDevice)]) == 1
        assert len([one for one in found if isinstance(one, lock.TakenError)]) == 3

    run(main())


def test_a_create_that_was_cut_off_goes_on_and_a_short_object_is_an_error() -> None:
    async def main() -> None:
        store = MemoryStore()
        await store.put(f"flat/{VOLUME}", b"")
        await volumes.create(store, VOLUME, 8192)
        device = await volumes.attach(store, VOLUME, "host")
        store.objects[f"flat/{VOLUME}"] = bytes(5000)
        with pytest.raises(CorruptError, match="ends at byte 5000 of 8192"):
            await soon(device.read(4096, 4096))
        await device.close()

    run(main())


def test_images_are_read_through_a_cache_and_must_not_change() -> None:
    async def main() -> None:
        lab = Lab(2)
        await lab.mirrors.open()
        body = random.Random(1).randbytes(6 * CHUNK + 777)
        lab.inner.objects["image"] = body
        image = await volumes.attach_image(lab.mirrors, "image")
        dice = random.Random(2)

        async def read(offset: int, length: int) -> bytes:
            found: Data | list[Data] = await soon(image.read(offset, length))
            return b"".join(found if isinstance(found, list) else [found])

        begun = now()
        for offset in range(0, len(body) - 4096, 4096):
            assert await read(offset, 4096) == body[offset : offset + 4096]
        assert sum(lab.counts("get")) == 7, "each chunk once"
        assert now() - begun < 0.04, "in sequence they come before they are asked for"
        for _ in range(100):
            offset = dice.randrange(len(body) - 1)
            length = dice.randrange(1, min(3 * CHUNK, len(body) - offset) + 1)
            assert await read(offset, length) == body[offset : offset + length]
        with pytest.raises(PermissionError):
            image.write(0, memoryview(b"x"))
        lab.inner.objects["image"] = body[::-1]
        await asyncio.sleep(2 * CHECK_S)
        with pytest.raises(ConflictError, match="was changed"):
            image.read(0, 1)
        await image.close()
        await lab.mirrors.close()

    run(main())


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
