"""A directory of volumes, and independent eyes on it: everything is read and judged by programs not ours.

Raw and QCOW2 by QEMU's; VHD and VHDX by 7-Zip, which alone reads their chains right (and only where no image
is longer than the one below; the rest is read by our own code).
"""

import json
import os
import subprocess
import uuid
from pathlib import Path

from breezeblock import chains, images
from breezeblock.attempt import Attempt
from breezeblock.shares.files import listing
from sevenzip import seven_zip

NAMING = chains.Naming(extensions=("vhd", "vhdx"))
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
    """What other programs read from the image and whatever is below it."""
    if image_format in NAMING.extensions:
        return _content_of_vhd(path, image_format)
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


def _content_of_vhd(path: Path, image_format: str) -> bytes:
    lengths = {one.virtual_bytes for one in images.chain(path, image_format)}
    ours = b"".join(images.read(path, 0, images.info(path, image_format).virtual_bytes, image_format))
    if len(lengths) == 1 and len(ours) % 1024 == 0:  # 7-Zip reads no odd number of sectors of a VHDX
        assert seven_zip(path) == ours
    return ours


def backing_names(path: Path, image_format: str = "qcow2") -> list[tuple[str, str]]:
    if image_format in NAMING.extensions:
        return [(one.name, one.format) for one in images.chain(path, image_format)]
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


def is_clean(path: Path, image_format: str = "qcow2") -> bool:
    if image_format in NAMING.extensions:
        # A stop may leave a header's second copy behind; that is mended in passing, and harms nobody.
        return all(one.repairable for one in images.check(path, image_format))
    return subprocess.run(["qemu-img", "check", "-q", "-f", "qcow2", str(path)], check=False).returncode == 0


class Volume:
    """One volume under test, with the bytes that it and each of its snapshots must hold."""

    def __init__(self, directory: Path, image_format: str, virtual_bytes: int, volume_id: str | None = None):
        self.directory = directory
        self.format = image_format
        self.naming = NAMING.of_format(image_format)
        self.id = volume_id or new_id()
        self.model = bytearray(virtual_bytes)
        self.snapshots: dict[str, bytes] = {}

    def create(self) -> "Volume":
        chains.create(self.directory, self.naming, self.id, len(self.model), attempt(), format=self.format)
        return self

    @property
    def active(self) -> tuple[Path, str]:
        name, image_format = chains.active(self.directory, self.naming, self.id, self.format)
        return self.directory / name, image_format

    def write(self, offset: int, length: int, byte: int) -> None:
        length = min(length, len(self.model) - offset)
        if length <= 0:
            return
        if self.format in NAMING.extensions:
            images.write(self.active[0], offset, [bytes([byte]) * length], self.format)
        else:
            qemu_io(*self.active, f"write -P {byte} {offset} {length}")
        self.model[offset : offset + length] = bytes([byte]) * length

    def write_zeros(self, offset: int, length: int, *, unmap: bool = False) -> None:
        length = min(length, len(self.model) - offset)
        if length <= 0:
            return
        if self.format in NAMING.extensions:
            images.write(self.active[0], offset, [bytes(length)], self.format)
        else:
            qemu_io(*self.active, f"write -z {'-u ' if unmap else ''}{offset} {length}")
        self.model[offset : offset + length] = bytes(length)

    def snapshot(self, snapshot_id: str | None = None) -> str:
        snapshot_id = snapshot_id or new_id()
        chains.snapshot(
            self.directory, self.naming, self.id, snapshot_id, len(self.model), attempt(), format=self.format
        )
        self.snapshots[snapshot_id] = bytes(self.model)
        return snapshot_id

    def delete_snapshot(self, snapshot_id: str) -> None:
        chains.delete_snapshot(
            self.directory, self.naming, self.id, snapshot_id, attempt(), format=self.format
        )
        del self.snapshots[snapshot_id]

    def revert(self, snapshot_id: str) -> None:
        chains.revert(
            self.directory, self.naming, self.id, snapshot_id, len(self.model), attempt(), format=self.format
        )
        self.model = bytearray(self.snapshots[snapshot_id].ljust(len(self.model), b"\0"))

    def extend(self, virtual_bytes: int) -> None:
        chains.extend(self.directory, self.naming, self.id, virtual_bytes, attempt(), format=self.format)
        self.model.extend(bytes(virtual_bytes - len(self.model)))

    def verify(self) -> None:
        """Read everything through qemu-img, and account for every file of the volume."""
        path, image_format = self.active
        assert content(path, image_format) == self.model
        info_path = self.directory / self.naming.info(self.id)
        info = json.loads(info_path.read_text()) if info_path.exists() else {"active": path.name}
        assert info.pop("active") == path.name
        assert set(info) == set(self.snapshots)
        layers = backing_names(path, image_format) if image_format != "raw" else [(path.name, "raw")]
        assert layers[-1] == (self.naming.volume(self.id), self.format)
        names = [name for name, _format in layers]
        for snapshot_id, expected in self.snapshots.items():
            place = names.index(info[snapshot_id]) + 1
            held = content(self.directory / names[place], layers[place][1])
            assert held[: len(expected)] == expected
            longer = held[len(expected) :]  # an image of VHD or VHDX grows with the volume
            assert not any(longer)
            assert not longer or chains.even(self.format)
        for name, one in layers:
            assert one == "raw" or is_clean(self.directory / name, one)
        own = {name for name in listing(self.directory) if self.id in name}
        assert own == {*names} | ({info_path.name} if info_path.exists() else set())
        assert not [name for name in listing(self.directory) if name.startswith(".")]
        found = chains.check(
            self.directory,
            self.naming,
            self.id,
            list(self.snapshots),
            len(self.model),
            self.format,
            tables=False,
        )
        assert found == []


def written(directory: Path, kind: str, snapshots: int = 2) -> Volume:
    """A volume with data, and more of it above each of its snapshots, in runs of odd lengths."""
    volume = Volume(directory, kind, 4 * MIB).create()
    volume.write(0, MIB, 1)
    for number in range(snapshots):
        volume.snapshot()
        volume.write(512 * number, 512, 10 + number)
        volume.write(MIB + 64 * KIB * number, 4 * KIB, 20 + number)
    return volume
