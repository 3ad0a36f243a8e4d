"""Collections remove what is nobody's, and nothing else, whatever goes on beside them."""

import asyncio
import os
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from log_lab import PAGE, SlowStore, content, soon

from breezeblock.errors import BreezeblockError, ConflictError, CorruptError, NotFoundError
from breezeblock.objects.log import format as form
from breezeblock.objects.log import volumes
from breezeblock.objects.log.collecting import collect
from breezeblock.objects.log.compacting import compact
from breezeblock.objects.log.device import LogDevice
from breezeblock.objects.log.writer import FencedError
from breezeblock.objects.stores.memory import MemoryStore

PAGES = 64
LENGTH = PAGES * PAGE
ONE, TWO = "1" * 32, "2" * 32
SCALE = int(os.environ.get("BREEZEBLOCK_CRASH_SCALE", "1"))
QUIET = volumes.Memory(age_s=3600)


class World:
    """Volumes, snapshots and what must be in them."""

    def __init__(self, dice: random.Random, store: MemoryStore) -> None:
        self.dice, self.store = dice, store
        self.models: dict[str, bytearray] = {}
        self.devices: dict[str, LogDevice] = {}
        self.snapshots: dict[tuple[str, str], bytes] = {}
        self._names = 0

    async def step(self) -> None:
        verbs = ("create", "write", "attach", "detach", "snapshot", "clone", "delete", "drop", "revert")
        weights = (3, 40, 8, 5, 12, 8, 3, 8, 3)
        await getattr(self, "_" + self.dice.choices((*verbs, "seal", "compact"), (*weights, 12, 4))[0])()

    def _name(self) -> str:
        self._names += 1
        return f"{self._names:032x}"

    def _some(self, names: Any) -> Any:
        return self.dice.choice(sorted(names)) if names else None

    async def _create(self) -> None:
        name = self._name()
        await volumes.create(self.store, name, LENGTH)
        self.models[name] = bytearray(LENGTH)

    async def _attach(self) -> None:
        if name := self._some(self.models.keys() - self.devices.keys()):
            self.devices[name] = await volumes.attach(self.store, name, memory=QUIET)

    async def _detach(self) -> None:
        if name := self._some(self.devices):
            await self.devices.pop(name).close()

    async def _write(self) -> None:
        if not (name := self._some(self.devices)):
            await self._attach()
            return
        count = self.dice.randrange(1, 16)
        first = self.dice.randrange(PAGES - count)
        place = slice(first * PAGE, (first + count) * PAGE)
        if self.dice.random() < 0.2:
            self.models[name][place] = bytes(count * PAGE)
            await soon(self.devices[name].trim(first * PAGE, count * PAGE))
        else:
            data = self.dice.randbytes(8) * (count * PAGE // 8)
            self.models[name][place] = data
            await soon(self.devices[name].write(first * PAGE, memoryview(data)))

    async def _seal(self) -> None:
        if name := self._some(self.devices):
            if self.dice.random() < 0.6:
                await self.devices[name].writer.barrier()
            else:
                await self.devices[name].writer.checkpoint()

    async def _snapshot(self) -> None:
        if not (name := self._some(self.models)):
            return
        label = f"s{self._names}"
        self._names += 1
        if name in self.devices:
            model = bytes(self.models[name])
            await volumes.snapshot(self.devices[name], label)
        else:
            model = bytes(self.models[name])
            await volumes.snapshot_detached(self.store, name, label)
        self.snapshots[name, label] = model

    async def _clone(self) -> None:
        if found := self._some(self.snapshots):
            name = self._name()
            source, label = found
            await volumes.clone(self.store, source, label, name)
            self.models[name] = bytearray(self.snapshots[found])

    async def _revert(self) -> None:
        usable = [one for one in self.snapshots if one[0] not in self.devices]
        if found := self._some(usable):
            await volumes.revert(self.store, *found)
            self.models[found[0]] = bytearray(self.snapshots[found])

    async def _drop(self) -> None:
        if found := self._some(self.snapshots):
            del self.snapshots[found]
            await volumes.delete_snapshot(self.store, *found)

    async def _delete(self) -> None:
        if name := self._some(self.models.keys() - self.devices.keys() - {one for one, _ in self.snapshots}):
            del self.models[name]
            await volumes.delete(self.store, name)

    async def _compact(self) -> None:
        if name := self._some(self.devices):
            device = self.devices[name]
            own = [n for n in range(device.writer.arrived) if self.dice.random() < 0.5]
            await compact(device, own)

    async def check(self) -> None:
        """Everything reads as it must."""
        for name in sorted(self.models):
            device = self.devices.get(name) or await volumes.attach(self.store, name, memory=QUIET)
            assert await content(device) == self.models[name], name
            if name not in self.devices:
                await device.close()
        for source, label in sorted(self.snapshots):
            name = self._name()
            await volumes.clone(self.store, source, label, name)
            device = await volumes.attach(self.store, name, memory=QUIET)
            assert await content(device) == self.snapshots[source, label], (source, label)
            await device.close()
            await volumes.delete(self.store, name)

    async def end(self) -> None:
        for name in sorted(self.devices):
            await self.devices.pop(name).close()


@settings(max_examples=3 * SCALE, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 1 << 32))
def test_no_live_page_is_lost_and_in_the_end_only_what_lives_is_there(seed: int) -> None:
    async def run() -> None:
        dice = random.Random(seed)
        world = World(dice, MemoryStore())
        for _ in range(120):
            await world.step()
            if dice.random() < 0.15:
                await collect(world.store)
        await world.check()
        await world.end()
        for _ in range(3):
            done = await collect(world.store)
        assert not done.waiting
        await world.check()
        for source, label in list(world.snapshots):
            await volumes.delete_snapshot(world.store, source, label)
        for name in world.models:
            await volumes.delete(world.store, name)
        for _ in range(2):
            await collect(world.store)
        assert not [key for key in world.store.objects if not key.startswith("gc/")]

    asyncio.run(run())


@settings(max_examples=4 * SCALE, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 1 << 32))
def test_collections_beside_everything_else_and_killed_anywhere(seed: int) -> None:
    async def run() -> None:
        dice = random.Random(seed)
        world = World(dice, SlowStore(dice))
        collecting: asyncio.Task[Any] | None = None
        for _ in range(80):
            step = asyncio.ensure_future(world.step())
            while not step.done():
                if collecting is None or collecting.done():
                    if collecting is not None and not collecting.cancelled() and collecting.exception():
                        assert isinstance(collecting.exception(), ConflictError)
                    collecting = asyncio.ensure_future(collect(world.store))
                if dice.random() < 0.002:
                    collecting.cancel()
                await asyncio.sleep(0)
            await step
        if collecting is not None:
            await asyncio.wait([collecting])
        await world.check()
        await world.end()
        for _ in range(2):
            await collect(world.store)
        await world.check()

    asyncio.run(run())


async def write(device: LogDevice, first: int, count: int, mark: bytes) -> None:
    await soon(device.write(first * PAGE, memoryview(mark * (count * PAGE))))
    await device.writer.barrier()


def test_what_a_dead_writer_left_goes_and_its_successors_fence_stays() -> None:
    async def run() -> None:
        store = MemoryStore()
        await volumes.create(store, ONE, LENGTH)
        older = await volumes.attach(store, ONE, memory=QUIET)
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
        await volumes.create(store, ONE, LENGTH)
        device = await volumes.attach(store, ONE, memory=QUIET)
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
        await volumes.create(store, ONE, LENGTH)
        device = await volumes.attach(store, ONE, memory=QUIET)
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
        await volumes.create(store, ONE, LENGTH)
        device = await volumes.attach(store, ONE, memory=QUIET)
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
        await volumes.create(store, ONE, LENGTH)
        older = await volumes.attach(store, ONE, memory=QUIET)
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
        await volumes.create(store, ONE, LENGTH)
        device = await volumes.attach(store, ONE, memory=QUIET)
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
