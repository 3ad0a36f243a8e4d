"""The storage of back ends of files, seen through qemu's own tools and as plain files."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from breezeblock.backends.contract import Backend, Snapshot, Volume
from qemu_io import QEMU_IO, backing_name, image_format


@dataclass
class FileStorage:
    directory: Path
    """Where the one pool's files are."""
    make: Callable[[], Backend]
    """Return the back end, not started."""
    packages: tuple[str, ...] = ("breezeblock.backends.files", "breezeblock.chains", "breezeblock.images")
    unit_bytes: int = 128 << 10
    options: Mapping[str, str] = field(default_factory=dict)
    extension: str = ""
    """Of all files, without the dot."""

    def __post_init__(self) -> None:
        self.root = self.directory

    def open(self) -> Backend:
        backend = self.make()
        backend.start()
        return backend

    def read(self, volume: Volume, snapshot: Snapshot | None = None) -> bytes:
        image = self._image(volume, snapshot.id if snapshot else "active")
        return QEMU_IO.read(image) if image_format(image) == "qcow2" else image.read_bytes()

    def write(self, volume: Volume, offset: int, data: bytes) -> None:
        image = self._image(volume, "active")
        QEMU_IO.write(image, image_format(image), offset, data)

    def names(self) -> set[str]:
        return {str(path) for path in self.directory.rglob("*")}

    def damage(self, volume: Volume) -> None:
        self._image(volume, "active").unlink()

    def _image(self, volume: Volume, key: str) -> Path:
        first = self.directory / f"volume-{volume.id}{'.' if self.extension else ''}{self.extension}"
        info = first.with_name(f"{first.name}.info")
        if not info.exists():
            assert key == "active", "a snapshot of a volume without .info"
            return first
        described = json.loads(info.read_text())
        if key == "active":
            return self.directory / str(described["active"])
        # A snapshot's entry names the overlay that was begun with it; its content is what that rests on.
        return self.directory / self._below(self.directory / str(described[key]))

    def _below(self, image: Path) -> str:
        return backing_name(image)
