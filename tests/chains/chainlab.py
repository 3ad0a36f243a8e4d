"""A directory of volumes, and independent eyes on it: everything is read and judged by QEMU's own tools."""

import json
import os
import subprocess
import uuid
from pathlib import Path

from breezeblock import chains
from breezeblock.attempt import Attempt
from breezeblock.shares.files import listing

NAMING = chains.Naming()
KIB, MIB = 1 << 10, 1 << 20


def new_id() -> str:
    return str(uuid.uuid4())


def attempt(operation_id: str = "", run: str = "a") -> Attempt:
    return Attempt(operation_id=operation_id or new_id(), token=run)


def qemu_io(path: Path, image_format: str, *commands: str) -> None:
    arguments = [part for command in commands for part in ("-c", command)]
    done = subprocess.run(
        ["qemu-io", "-f", image_format, *arguments, str(path)], check=True, capture_output=True, text=True
    )
    assert "rror" not in done.stdout, done.stdout


def content(path: Path, image_format: str) -> bytes:
    """What qemu-img reads from the image and whatever is below it."""
    flat = Path("/dev/shm") / f"breezeblock-test-{os.getpid()}-{new_id()}"
    try:
        subprocess.run(
            ["qemu-img", "convert", "-f", image_format, "-O", "raw", str(path), str(flat)],
            check=True,
            capture_output=True,
        )
        return flat.read_bytes()
    finally:
        flat.unlink(missing_ok=True)


def backing_names(path: Path) -> list[tuple[str, str]]:
    done = subprocess.run(
        ["qemu-img", "info", "-f", "qcow2", "--backing-chain", "--output=json", str(path)],
        check=True,
        capture_output=True,
        cwd=path.parent,
    )
    return [
        (Path(one["filename"]).name, one["format"])
        for one in json.loads(done.stdout)  # the format is what the header above records
    ]


def is_clean(path: Path) -> bool:
    return subprocess.run(["qemu-img", "check", "-q", "-f", "qcow2", str(path)], check=False).returncode == 0


class Volume:
    """One volume under test, with the bytes that it and each of its snapshots must hold."""

    def __init__(self, directory: Path, image_format: str, virtual_bytes: int, volume_id: str | None = None):
        self.directory = directory
        self.format = image_format
        self.id = volume_id or new_id()
        self.model = bytearray(virtual_bytes)
        self.snapshots: dict[str, bytes] = {}

    def create(self) -> "Volume":
        chains.create(self.directory, NAMING, self.id, len(self.model), attempt(), format=self.format)
        return self

    @property
    def active(self) -> tuple[Path, str]:
        name, image_format = chains.active(self.directory, NAMING, self.id, self.format)
        return self.directory / name, image_format

    def write(self, offset: int, length: int, byte: int) -> None:
        length = min(length, len(self.model) - offset)
        if length <= 0:
            return
        qemu_io(*self.active, f"write -P {byte} {offset} {length}")
        self.model[offset : offset + length] = bytes([byte]) * length

    def write_zeros(self, offset: int, length: int, *, unmap: bool = False) -> None:
        length = min(length, len(self.model) - offset)
        if length <= 0:
            return
        qemu_io(*self.active, f"write -z {'-u ' if unmap else ''}{offset} {length}")
        self.model[offset : offset + length] = bytes(length)

    def snapshot(self, snapshot_id: str | None = None) -> str:
        snapshot_id = snapshot_id or new_id()
        chains.snapshot(
            self.directory, NAMING, self.id, snapshot_id, len(self.model), attempt(), format=self.format
        )
        self.snapshots[snapshot_id] = bytes(self.model)
        return snapshot_id

    def delete_snapshot(self, snapshot_id: str) -> None:
        chains.delete_snapshot(self.directory, NAMING, self.id, snapshot_id, attempt(), format=self.format)
        del self.snapshots[snapshot_id]

    def revert(self, snapshot_id: str) -> None:
        chains.revert(
            self.directory, NAMING, self.id, snapshot_id, len(self.model), attempt(), format=self.format
        )
        self.model = bytearray(self.snapshots[snapshot_id].ljust(len(self.model), b"\0"))

    def extend(self, virtual_bytes: int) -> None:
        chains.extend(self.directory, NAMING, self.id, virtual_bytes, attempt(), format=self.format)
        self.model.extend(bytes(virtual_bytes - len(self.model)))

    def verify(self) -> None:
        """Read everything through qemu-img, and account for every file of the volume."""
        path, image_format = self.active
        assert content(path, image_format) == self.model
        info_path = self.directory / NAMING.info(self.id)
        info = json.loads(info_path.read_text()) if info_path.exists() else {"active": path.name}
        assert info.pop("active") == path.name
        assert set(info) == set(self.snapshots)
        layers = backing_names(path) if image_format == "qcow2" else [(path.name, "raw")]
        assert layers[-1] == (NAMING.volume(self.id), self.format)
        names = [name for name, _format in layers]
        for snapshot_id, expected in self.snapshots.items():
            place = names.index(info[snapshot_id]) + 1
            assert content(self.directory / names[place], layers[place][1]) == expected
        for name, one in layers:
            assert one == "raw" or is_clean(self.directory / name)
        own = {name for name in listing(self.directory) if self.id in name}
        assert own == {*names} | ({info_path.name} if info_path.exists() else set())
        assert not [name for name in listing(self.directory) if name.startswith(".")]
        found = chains.check(
            self.directory, NAMING, self.id, list(self.snapshots), len(self.model), self.format, tables=False
        )
        assert found == []
