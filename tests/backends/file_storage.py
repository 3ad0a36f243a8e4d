"""The storage of back ends of files, seen through qemu's own tools and as plain files."""

import json
import os
import struct
import subprocess
import tempfile
import threading
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
    unit_bytes: int = 128 << 10
    options: Mapping[str, str] = field(default_factory=dict)
    extension: str = ""
    """Of all files, without the dot."""

    def open(self) -> Backend:
        backend = self.make()
        backend.start()
        return backend

    def read(self, volume: Volume, snapshot: Snapshot | None = None) -> bytes:
        image = self._image(volume, snapshot.id if snapshot else "active")
        return QEMU_IO.read(image) if _format(image) == "qcow2" else image.read_bytes()

    def write(self, volume: Volume, offset: int, data: bytes) -> None:
        image = self._image(volume, "active")
        QEMU_IO.write(image, _format(image), offset, data)

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
        return _backing_name(image)


def _format(image: Path) -> str:
    with image.open("rb") as file:
        return "qcow2" if file.read(4) == b"QFI\xfb" else "raw"


def _backing_name(path: Path) -> str:
    """Read it as the QCOW2 specification has it: offset and length are at bytes 8 and 16."""
    with path.open("rb") as file:
        header = file.read(4096)
    offset, length = struct.unpack_from(">QI", header, 8)
    return header[offset : offset + length].decode()


class QemuIo:
    """One qemu-io for all tests: to start one for each reading and writing would take most of their time."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def read(self, path: Path) -> bytes:
        """Return all that a qcow2 image reads as, with the images below it."""
        with path.open("rb") as file:
            length = int.from_bytes(file.read(32)[24:], "big")  # QCOW2 specification, byte 24: virtual bytes
        lines = self._on(path, "qcow2", f"read -v 0 {length}")
        # "00000ff0:  ed 72 ... e6  .r.A............": offset, sixteen bytes, the same as text
        rows = (line.split("  ")[1] for line in lines if line[8:9] == ":")
        content = b"".join(bytes.fromhex(row) for row in rows)
        assert len(content) == length, lines[-3:]
        return content

    def write(self, path: Path, image_format: str, offset: int, data: bytes) -> None:
        with tempfile.NamedTemporaryFile() as source:
            source.write(data)
            source.flush()
            said = self._on(path, image_format, f"write -s {source.name} {offset} {len(data)}")
        assert said[0].startswith("wrote "), said

    def _on(self, path: Path, image_format: str, command: str) -> list[str]:
        """Open the image, give the command, close it; return what was said."""
        with self._lock:
            if self._process is None:
                pipe = subprocess.PIPE
                self._process = subprocess.Popen(
                    ["qemu-io"], stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT
                )
                self._answer()
            opened = self._ask(f"open -o driver={image_format} {path}")
            assert not opened, opened
            said = self._ask(command)
            self._ask("close")
            return said.splitlines()

    def _ask(self, command: str) -> str:
        # One at a time: it looks for the next line only when the pipe becomes readable again.
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n".encode())
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        said = b""
        while not said.endswith(b"qemu-io> "):
            part = os.read(self._process.stdout.fileno(), 1 << 16)
            assert part, f"qemu-io ended: {said!r}"
            said += part
        return said.removesuffix(b"qemu-io> ").decode()


QEMU_IO = QemuIo()
