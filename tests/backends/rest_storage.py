"""An object store as a contract suite's storage: seen through the layout itself, without the back end."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from breezeblock.backends.contract import Backend, Snapshot, Volume
from breezeblock.backends.rest import open_rest
from breezeblock.backends.rest_config import RestConfig, RestPool, store_config
from breezeblock.objects.log import format as form
from breezeblock.objects.log import opening, volumes
from breezeblock.objects.nbd.device import Device
from breezeblock.objects.stores.opening import open_store
from breezeblock.objects.stores.port import Store, everything

T = TypeVar("T")


@dataclass
class RestStorage:
    state: Path
    pool: RestPool
    packages: tuple[str, ...] = ("breezeblock.backends.rest", "breezeblock.objects.log.volumes")
    unit_bytes: int = 64 << 10
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def config(self) -> RestConfig:
        return RestConfig(
            pools={"gold": self.pool}, run_dir=str(self.state / "run"), journal_dir=str(self.state / "log")
        )

    def open(self) -> Backend:
        backend = open_rest("rest", self.config, self.state)
        backend.start()
        return backend

    def run(self, work: Callable[[Store], Awaitable[T]]) -> T:
        async def opened() -> T:
            store = await open_store(store_config(self.pool, "", self.state))
            try:
                return await work(store)
            finally:
                await store.close()

        return asyncio.run(opened())

    def read(self, volume: Volume, snapshot: Snapshot | None = None) -> bytes:
        async def work(store: Store) -> bytes:
            device = await self.view(store, key(volume), snapshot)
            try:
                return await content(device)
            finally:
                await device.close()

        return self.run(work)

    def write(self, volume: Volume, offset: int, data: bytes) -> None:
        async def work(store: Store) -> None:
            device = await self.attach(store, key(volume))
            await soon(device.write(offset, memoryview(data)))
            await device.close()

        self.run(work)

    async def view(self, store: Store, name: str, snapshot: Snapshot | None) -> Device:
        now = volumes.held(store, name, snapshot.id) if snapshot else newest(store, name)
        return await volumes.view(store, await now)

    async def attach(self, store: Store, name: str) -> Device:
        return await volumes.attach(store, name)

    def names(self) -> set[str]:
        """What is left of the deleted for the collection is not counted: roots, snapshots and marks are."""
        items = self.run(lambda store: everything(store, ""))
        return {item.key for item in items if "/seg/" not in item.key and "/leaf/" not in item.key}

    def damage(self, volume: Volume) -> None:
        async def work(store: Store) -> None:
            newest = (await everything(store, f"v/{key(volume)}/root/"))[-1].key
            await store.put(newest, (await store.get(newest))[:-1])

        self.run(work)


async def newest(store: Store, volume: str) -> form.Root:
    return await volumes.frozen(store, await opening.newest(store, volume))


def key(volume: Volume) -> str:
    return UUID(volume.id).hex


async def soon(answer: Any) -> Any:
    return await answer if asyncio.iscoroutine(answer) or asyncio.isfuture(answer) else answer


async def content(device: Device) -> bytes:
    got = await soon(device.read(0, device.length))
    return b"".join(got) if isinstance(got, list) else bytes(got)
