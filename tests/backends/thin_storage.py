"""A thin pool as a contract suite's storage: read and written through LVM's devices, as a host does."""

from dataclasses import dataclass

from flat_storage import FlatStorage

from breezeblock.backends.contract import Backend, Snapshot, Volume
from breezeblock.backends.registry import open_backend


@dataclass
class ThinStorage(FlatStorage):
    unit_bytes: int = 1 << 20

    def open(self) -> Backend:
        backend = open_backend("rest", self.config, self.state)
        backend.start()
        return backend

    def read(self, volume: Volume, snapshot: Snapshot | None = None) -> bytes:
        with self.open().open_data(volume, snapshot) as data:
            return data.read(0, data.virtual_bytes)

    def write(self, volume: Volume, offset: int, data: bytes) -> None:
        with self.open().open_data(volume, writable=True) as device:
            device.write(offset, data)
