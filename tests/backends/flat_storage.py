"""A store in the layout flat as a contract suite's storage: the object that a volume is, read and written."""

from dataclasses import dataclass

from rest_storage import RestStorage, key

from breezeblock.backends.contract import Snapshot, Volume
from breezeblock.objects.flat import snapshots, volumes
from breezeblock.objects.nbd.device import Device
from breezeblock.objects.stores.port import Store, everything


@dataclass
class FlatStorage(RestStorage):
    packages: tuple[str, ...] = (
        "breezeblock.backends.rest",
        "breezeblock.backends.rest_flat",
        "breezeblock.objects.flat.snapshots",
        "breezeblock.objects.flat.volumes",
    )

    async def view(self, store: Store, name: str, snapshot: Snapshot | None) -> Device:
        if snapshot:
            return await snapshots.attach(store, name, snapshot.id)
        return await volumes.attach_image(store, snapshots.key(name))

    async def attach(self, store: Store, name: str) -> Device:
        return await volumes.attach(store, name, "a host")

    def names(self) -> set[str]:
        return {item.key for item in self.run(lambda store: everything(store, ""))}

    def damage(self, volume: Volume) -> None:
        self.run(lambda store: store.delete(snapshots.key(key(volume))))
