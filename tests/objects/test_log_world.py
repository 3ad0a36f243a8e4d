"""Whatever happens to volumes, in any order: collections take away what is nobody's, and nothing else."""

import asyncio
import os
import random
from typing import Any

import pytest
from collecting_lab import LENGTH, QUIET
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from log_lab import PAGE, SlowStore, content, soon

from breezeblock.errors import ConflictError
from breezeblock.objects.log import volumes
from breezeblock.objects.log.collecting import collect
from breezeblock.objects.log.compacting import compact
from breezeblock.objects.log.device import LogDevice
from breezeblock.objects.stores.memory import MemoryStore

PAGES = LENGTH // PAGE
SCALE = int(os.environ.get("BREEZEBLOCK_CRASH_SCALE", "1"))
pytestmark = pytest.mark.usefixtures("no_pause")


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
