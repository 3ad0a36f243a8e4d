"""Volumes of an object store as devices of a real kernel: filled, trimmed, snapshotted, cloned, grown."""

import errno
import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from guest_nbd import CHECK, GROW, bytes_of, digest, sh

from breezeblock.app import attaching
from breezeblock.app.control_files import ControlFiles
from breezeblock.app.rest import Rest
from breezeblock.attempt import Attempt
from breezeblock.backends import registry
from breezeblock.backends.contract import Snapshot, Volume
from breezeblock.config import Config, ServiceSection
from breezeblock.connect.linux import LinuxConnector

MIB = 1 << 20
LENGTH = 400 * MIB


def attempt() -> Attempt:
    return Attempt(operation_id=str(uuid4()), token=uuid4().hex)


class Host:
    """This host with a store of its own, or with pools elsewhere."""

    def __init__(self, directory: Path, pools: dict[str, Any] | None = None) -> None:
        self.directory = directory
        (directory / "store").mkdir()
        section = {
            "kind": "rest",
            "run_dir": str(directory / "run"),
            "journal_dir": str(directory / "journals"),
            "pools": pools or {"gold": {"store": "directory", "urls": [str(directory / "store")]}},
        }
        config = self.config = Config(
            service=ServiceSection(state_dir=str(directory / "state")), backends={"rest": section}
        )
        settings = attaching.rest_config(config, "rest")
        self.backend = registry.open_backend("rest", settings, directory / "state")
        kernel = LinuxConnector(directory / "records", timeout_s=20, dead_timeout_s=120)
        # Relays are for kills, and a process more costs seconds in here.
        self.connector = attaching.connector(config, directory / "records", kernel=kernel, relayed=False)

    def volume(self, length: int = LENGTH) -> Volume:
        return Volume(id=str(uuid4()), virtual_bytes=length, pool="gold")

    def data(self, volume: Volume) -> dict[str, Any]:
        return self.backend.connection_info(volume, {}).data

    def held_bytes(self, volume: Volume) -> int:
        """What is not a hole in a volume as it is in the store now."""
        with self.backend.open_data(volume) as data:
            return sum(length for _at, length, full in data.extents(0, data.virtual_bytes) if full)

    def left(self) -> list[str]:
        places = [self.directory / name for name in ("run", "journals", "records")]
        return [str(one) for place in places for one in place.rglob("*") if one.suffix in {".json", ".log"}]


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with tempfile.TemporaryDirectory(dir="/run") as directory:
        yield Host(Path(directory))


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_a_file_system_on_a_volume_of_an_object_store(host: Host, tmp_path: Path, kind: str) -> None:
    volume, point, chance = host.volume(), tmp_path / "mounted", random.Random(kind)
    point.mkdir()
    host.backend.create(volume, attempt())
    data = host.data(volume)
    device = host.connector.attach(data).device
    assert bytes_of(device) == LENGTH
    sh(f"mkfs.{kind}", "-q", device)
    sh("mount", device, str(point))
    for number in range(6):
        (point / f"file-{number}").write_bytes(chance.randbytes(4 * MIB))
    sums = {number: digest(point / f"file-{number}") for number in range(6)}
    os.sync()
    full = host.held_bytes(volume)
    snapshot = Snapshot(id=str(uuid4()), volume_id=volume.id, virtual_bytes=LENGTH)
    host.backend.snapshot(volume, snapshot, attempt())

    for number in range(0, 6, 2):
        (point / f"file-{number}").unlink()
    os.sync()
    sh("fstrim", str(point))
    assert host.held_bytes(volume) < full - 8 * MIB, "what was trimmed is a hole"
    host.backend.extend(volume, LENGTH + 200 * MIB, attempt())
    host.connector.grown(data)
    assert bytes_of(device) == LENGTH + 200 * MIB
    GROW[kind](device, str(point))
    assert os.statvfs(point).f_blocks * os.statvfs(point).f_frsize > LENGTH + 50 * MIB
    sh("umount", str(point))
    CHECK[kind](device)
    host.connector.detach(data)
    assert host.left() == []

    clone = host.volume()
    host.backend.create_from_snapshot(volume, snapshot, clone, attempt())
    host.backend.delete(volume, attempt())
    device = host.connector.attach(host.data(clone)).device
    sh("mount", device, str(point))
    assert {number: digest(point / f"file-{number}") for number in range(6)} == sums
    sh("umount", str(point))
    CHECK[kind](device)
    host.connector.detach(host.data(clone))
    assert host.left() == []


def test_control_files_make_devices(host: Host) -> None:
    files = ControlFiles(Rest(host.config), host.connector)
    files.write("create", b"old 8M\n")
    files.write("attach", b"old disk\n")
    device = files.read("disk/srb_device").decode().strip()
    assert bytes_of(device) == 8 * MIB
    files.write("extend", b"old 16M\n")
    assert bytes_of(device) == int(files.read("disk/srb_size")) == 16 * MIB
    held = os.open(device, os.O_RDONLY | os.O_EXCL)
    with pytest.raises(OSError, match="busy") as caught:
        files.write("detach", b"disk\n")
    assert caught.value.errno == errno.EBUSY
    os.close(held)
    files.write("detach", b"disk\n")
    files.write("destroy", b"old\n")
    assert host.left() == []
