"""Collections remove what is nobody's, and nothing else, whatever goes on beside them."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from collecting_lab import LENGTH, ONE, QUIET, TWO, made, write
from log_lab import PAGE, content, soon

from breezeblock.errors import BreezeblockError, CorruptError, NotFoundError
from breezeblock.objects.log import format as form
from breezeblock.objects.log import volumes
from breezeblock.objects.log.collecting import collect
from breezeblock.objects.log.compacting import compact
from breezeblock.objects.log.device import LogDevice
from breezeblock.objects.log.writer import FencedError
from breezeblock.objects.stores.memory import MemoryStore

pytestmark = pytest.mark.usefixtures("no_pause")


def test_what_a_dead_writer_left_goes_and_its_successors_fence_stays() -> None:
    async def run() -> None:
        store = MemoryStore()
        older = await made(store)
        await write(older, 0, 4, b"a")
        newer = await volumes.attach(store, ONE, memory=QUIET)
        # Behind the fence lies what the older one had on its way when it was overtaken, and a leaf.
        behind = form.segment_key(ONE, newer.writer.epoch + 3)
        store.objects[behind] = b"x" * (form.HEAD_BYTES + PAGE)
        orphan = form.leaf_key(ONE, older.writer.epoch << 24 | 7)
        store.objects[orphan] = b"x"
        await write(newer, 4, 4, b"b")
        await newer.writer.checkpoint()
        first = await collect(store)
        assert first.waiting
        assert not first.removed
        second = await collect(store)
        assert second.removed == first.waiting
        assert behind not in store.objects
        assert orphan not in store.objects
        assert form.segment_key(ONE, newer.writer.epoch) in store.objects
        with pytest.raises(FencedError):
            await write(older, 0, 1, b"c")
        assert (await content(newer))[: 8 * PAGE] == b"a" * 4 * PAGE + b"b" * 4 * PAGE
        await newer.close()

    asyncio.run(run())


def test_a_clone_keeps_what_its_deleted_source_wrote() -> None:
    async def run() -> None:
        store = MemoryStore()
        device = await made(store)
        await write(device, 0, 8, b"a")
        await device.writer.checkpoint()
        await write(device, 8, 8, b"b")
        await volumes.snapshot(device, "s")
        await write(device, 16, 32, b"c")
        await device.close()
        await volumes.clone(store, ONE, "s", TWO)
        await volumes.delete_snapshot(store, ONE, "s")
        await volumes.delete(store, ONE)
        before = sum(map(len, store.objects.values()))
        for _ in range(3):
            await collect(store)
        assert sum(map(len, store.objects.values())) < before - 32 * PAGE
        assert await volumes.volumes(store) == [TWO]
        two = await volumes.attach(store, TWO, memory=QUIET)
        assert (await content(two))[: 17 * PAGE] == b"a" * 8 * PAGE + b"b" * 8 * PAGE + bytes(PAGE)
        await two.close()
        await volumes.delete(store, TWO)
        for _ in range(2):
            await collect(store)
        assert all(key.startswith("gc/") for key in store.objects)

    asyncio.run(run())


def test_sparse_segments_are_found_and_compacted_while_the_volume_is_written() -> None:
    async def run() -> None:
        store = MemoryStore()
        device = await made(store)
        for number in range(8):
            await write(device, 0, 32, bytes([number + 1]))
            await write(device, 32 + number, 1, bytes([number + 101]))
            await write(device, 0, 32, bytes([number + 1]))
        await device.writer.checkpoint()
        expected = await content(device)
        found = (await collect(store)).sparse
        assert not found  # one page of one: none is sparse
        await write(device, 0, 2, b"z")
        await write(device, 2, 29, b"y")
        await device.writer.checkpoint()
        expected = b"z" * 2 * PAGE + b"y" * 29 * PAGE + expected[31 * PAGE :]
        found = (await collect(store)).sparse
        assert list(found) == [ONE]
        moving = asyncio.ensure_future(compact(device, found[ONE]))
        await soon(device.write(0, memoryview(b"w" * PAGE)))
        assert await moving
        expected = b"w" * PAGE + expected[PAGE:]
        for _ in range(2):
            await collect(store)
        assert not {form.segment_key(ONE, number) for number in found[ONE]} & store.objects.keys()
        await device.close()
        device = await volumes.attach(store, ONE, memory=QUIET)
        assert await content(device) == expected
        await device.close()

    asyncio.run(run())


def test_a_broken_map_stops_a_collection() -> None:
    async def run() -> None:
        store = MemoryStore()
        device = await made(store)
        await write(device, 0, 8, b"a")
        await device.writer.checkpoint()
        await device.close()
        (leaf,) = (key for key in store.objects if "/leaf/" in key)
        held = store.objects.pop(leaf)
        before = set(store.objects)
        for _ in range(3):
            with pytest.raises(CorruptError, match="is named and not there"):
                await collect(store)
        assert set(store.objects) == before
        store.objects[leaf] = held
        await collect(store)

    asyncio.run(run())


def test_a_clone_whose_snapshot_went_meanwhile_is_no_success() -> None:
    class Hasty(MemoryStore):
        async def put(self, key: str, body: Any, *, create: bool = False, match: str = "") -> None:
            await super().put(key, body, create=create)
            if key == form.root_key(TWO, 0, 0):
                await volumes.delete_snapshot(self, ONE, "s")

    async def run() -> None:
        store = Hasty()
        await volumes.create(store, ONE, LENGTH)
        await volumes.snapshot_detached(store, ONE, "s")
        with pytest.raises(NotFoundError):
            await volumes.clone(store, ONE, "s", TWO)

    asyncio.run(run())


def test_a_writer_that_began_beside_another_ones_checkpoint_has_its_root(tmp_path: Path) -> None:
    """The older writer stores a new root while the newer one reads the one before."""

    class Late(MemoryStore):
        older: LogDevice | None = None

        async def get(self, key: str, first: int = 0, length: int | None = None) -> bytes:
            body = await super().get(key, first, length)
            if "/root/" in key and self.older:
                older, self.older = self.older, None
                await older.writer.checkpoint()
            return body

    async def run() -> None:
        store = Late()
        older = await made(store)
        await write(older, 0, 8, b"a")
        await older.writer.checkpoint()
        await write(older, 8, 8, b"b")
        store.older = older
        newer = await volumes.attach(store, ONE, tmp_path / "journal", QUIET)
        for _ in range(3):
            await collect(store)
        assert (await content(newer))[: 16 * PAGE] == b"a" * 8 * PAGE + b"b" * 8 * PAGE
        await newer.writer.checkpoint()
        await newer.close()
        with pytest.raises(BreezeblockError):
            await write(older, 0, 1, b"c")

    asyncio.run(run())


def test_leaves_of_a_checkpoint_that_takes_its_time_are_left_alone() -> None:
    class Slow(MemoryStore):
        collecting = False

        async def put(self, key: str, body: Any, *, create: bool = False, match: str = "") -> None:
            if self.collecting and "/root/" in key:
                for _ in range(3):
                    await collect(self)
            await super().put(key, body, create=create)

    async def run() -> None:
        store = Slow()
        device = await made(store)
        for mark in b"abc":
            await write(device, 0, 8, bytes([mark]))
            store.collecting = True
            await device.writer.checkpoint()
        await device.close()
        store.collecting = False
        device = await volumes.attach(store, ONE, memory=QUIET)
        assert await content(device) == b"c" * 8 * PAGE + bytes(LENGTH - 8 * PAGE)
        await device.close()

    asyncio.run(run())
