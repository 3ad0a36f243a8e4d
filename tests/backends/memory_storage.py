"""The memory back end's storage, seen without the back end: its files, read and written as files."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from breezeblock.backends.contract import Backend, Snapshot, Volume
from breezeblock.backends.memory import MemoryBackend, MemoryConfig


@dataclass
class MemoryStorage:
    config: MemoryConfig
    packages: tuple[str, ...] = ("breezeblock.backends.memory", "breezeblock.backends.copying")
    unit_bytes: int = 64 << 10
    options: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.root = Path(self.config.path)

    def open(self) -> Backend:
        backend = MemoryBackend("ram", self.config)
        backend.start()
        return backend

    def read(self, volume: Volume, snapshot: Snapshot | None = None) -> bytes:
        return self._blob(volume, snapshot).read_bytes()

    def write(self, volume: Volume, offset: int, data: bytes) -> None:
        with self._blob(volume, None).open("r+b") as file:
            file.seek(offset)
            file.write(data)

    def names(self) -> set[str]:
        return {str(path) for path in Path(self.config.path).rglob("*")}

    def damage(self, volume: Volume) -> None:
        self._blob(volume, None).unlink()

    def _blob(self, volume: Volume, snapshot: Snapshot | None) -> Path:
        home = Path(self.config.path) / volume.id
        state = json.loads((home / "volume.json").read_text())
        blob = state["snapshots"][snapshot.id] if snapshot else state["active"]
        return home / str(blob[0] if isinstance(blob, list) else blob["file"])
