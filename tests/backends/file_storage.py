"""The storage of back ends of files, seen through qemu's own tools and as plain files."""

import json
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from breezeblock.backends.contract import Backend, Snapshot, Volume


@dataclass
class FileStorage:
    directory: Path
    """Where the one pool's files are."""
    make: Callable[[], Backend]
    """Return the back end, not started."""
    packages: tuple[str, ...] = ("breezeblock.backends.files", "breezeblock.chains", "breezeblock.images")
    unit_bytes: int = 1 << 20
    options: Mapping[str, str] = field(default_factory=dict)

    def open(self) -> Backend:
        backend = self.make()
        backend.start()
        return backend

    def read(self, volume: Volume, snapshot: Snapshot | None = None) -> bytes:
        image = self._image(volume, snapshot.id if snapshot else "active")
        with tempfile.TemporaryDirectory() as scratch:
            raw = Path(scratch) / "raw"
            _run("qemu-img", "convert", "-U", "-O", "raw", "-f", _format(image), str(image), str(raw))
            return raw.read_bytes()

    def write(self, volume: Volume, offset: int, data: bytes) -> None:
        image = self._image(volume, "active")
        with tempfile.NamedTemporaryFile() as pattern:
            pattern.write(data)
            pattern.flush()
            command = f"write -s {pattern.name} {offset} {len(data)}"
            _run("qemu-io", "-f", _format(image), "-c", command, str(image))

    def names(self) -> set[str]:
        return {str(path) for path in self.directory.rglob("*")}

    def damage(self, volume: Volume) -> None:
        self._image(volume, "active").unlink()

    def _image(self, volume: Volume, key: str) -> Path:
        info = self.directory / f"volume-{volume.id}.info"
        if not info.exists():
            assert key == "active", "a snapshot of a volume without .info"
            return self.directory / f"volume-{volume.id}"
        described = json.loads(info.read_text())
        if key == "active":
            return self.directory / str(described["active"])
        # A snapshot's entry names the overlay that was begun with it; its content is what that rests on.
        overlay = self.directory / str(described[key])
        told = _run("qemu-img", "info", "-U", "--output=json", "-f", "qcow2", str(overlay))
        return self.directory / Path(json.loads(told)["backing-filename"]).name


def _format(image: Path) -> str:
    return "qcow2" if image.open("rb").read(4) == b"QFI\xfb" else "raw"


def _run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr}{done.stdout}"
    return done.stdout
