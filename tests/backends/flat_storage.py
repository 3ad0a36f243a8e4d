"""A store in the layout flat as a contract suite's storage: the object that a volume is, read and written."""

from dataclasses import dataclass

from rest_storage import RestStorage, content, key, soon

from breezeblock.backends.contract import Snapshot, Volume
from breezeblock.objects.flat import snapshots, volumes
from breezeblock.objects.stores.port import Store, everything


@dataclass
class FlatStorage(RestStorage):
    packages: tuple[str, ...] = (
        "breezeblock.backends.rest",
        "breezeblock.backends.rest_flat",
        "breezeblock.objects.flat.snapshots",
        "breezeblock.objects.flat.volumes",
    )

    def read(self, volume: Volume, snapshot: Snapshot | None = None) -> bytes:
        async def work(store: Store) -> bytes:
            if snapshot:
                device = await snapshots.attach(store, key(volume), snapshot.id)
            else:
                device = await volumes.attach_image(store, snapshots.key(key(volume)))
            try:
                return await content(device)
            finally:
                await device.close()

        return self.run(work)

    def write(self, volume: Volume, offset: int, data: bytes) -> None:
        async def work(store: Store) -> None:
            device = await volumes.attach(store, key(volume), "a host")
            await soon(device.write(offset, memoryview(data)))
            await device.close()

        self.run(work)

    def names(self) -> set[str]:
        return {item.key for item in self.run(lambda store: everything(store, ""))}

    def damage(self, volume: Volume) -> None:
        self.run(lambda store: store.delete(snapshots.key(key(volume))))
