"""Thin volumes in plain stores, by the kernel's own NBD and device-mapper: their life, and verbs killed."""

import hashlib
import os
import random
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from guest_nbd import CHECK, GROW, digest, fork, sh
from guest_rest import MIB, Host, attempt
from thin_storage import ThinStorage

from breezeblock.backends.contract import Snapshot, Volume
from breezeblock.backends.rest_config import RestPool
from breezeblock.backends.rest_reports import key_of
from breezeblock.connect import lvm, thin
from breezeblock.connect.linux import HERE
from breezeblock.errors import ConflictError, UnsupportedError
from breezeblock.testing import Case, cases

LENGTH = 48 * MIB
ALL = os.environ.get("BREEZEBLOCK_CHAOS_THIN") == "all"
"""Kill at every command instead of some, and hold thin pools to the whole contract. It takes half an hour."""


@pytest.fixture
def host() -> Iterator[Host]:
    with tempfile.TemporaryDirectory(dir="/run") as directory:
        store = {"store": "directory", "urls": [f"{directory}/store"], "layout": "flat", "thin": True}
        host = Host(Path(directory), {"gold": store})
        host.backend.start()
        yield host
        left_nothing(host)


def left_nothing(host: Host) -> None:
    assert "No devices" in sh("dmsetup", "ls")
    assert not list(Path("/sys/block").glob("nbd*/backend"))
    assert host.left() == []
    assert [one.name for one in Path("/dev/mapper").iterdir()] == ["control"]


def length_of(device: str) -> int:
    fd = os.open(device, os.O_RDONLY)
    try:
        return os.lseek(fd, 0, os.SEEK_END)
    finally:
        os.close(fd)


def taken(volume: Volume, length: int = LENGTH) -> Snapshot:
    return Snapshot(id=str(uuid4()), volume_id=volume.id, virtual_bytes=length)


def content(host: Host, volume: Volume, snapshot: Snapshot | None = None) -> str:
    with host.backend.open_data(volume, snapshot) as data:
        whole = hashlib.sha256()
        for at in range(0, data.virtual_bytes, 4 * MIB):
            whole.update(data.read(at, min(4 * MIB, data.virtual_bytes - at)))
        return whole.hexdigest()


def objects(host: Host) -> set[str]:
    return {found.name for found in host.backend.inventory()}


def test_the_life_of_a_thin_volume(host: Host, tmp_path: Path) -> None:
    backend, volume, point, chance = host.backend, host.volume(LENGTH), tmp_path / "on", random.Random(7)
    point.mkdir()
    assert backend.stats()[0].up
    before = objects(host)
    backend.create(volume, attempt())
    info = backend.connection_info(volume, {})
    assert info.driver_volume_type == "nbd-thin"
    assert "uri" not in info.data
    with pytest.raises(UnsupportedError, match="the kernel has to open"):
        host.connector.attach(info.data, read_only=True)

    device = host.connector.attach(info.data).device
    assert device == str(thin.node(key_of(volume)))
    assert length_of(device) == LENGTH, "what was asked for, to the byte"
    assert host.connector.attach(info.data).device == device
    sh("mkfs.ext4", "-q", device)
    sh("mount", device, str(point))
    (point / "old").write_bytes(chance.randbytes(8 * MIB))
    old = digest(point / "old")
    with pytest.raises(ConflictError, match="in use"):
        host.connector.detach(info.data)
    first = taken(volume)
    with pytest.raises(ConflictError, match=os.uname().nodename):
        backend.snapshot(volume, first, attempt())
    sh("umount", str(point))
    # What a host that comes back finds: the pool is a device again, and nothing on it.
    pool = host.connector._kernel
    assert pool is not None
    (where,) = [one for _record, one in pool.attached() if one]
    thin.deactivate(where, key_of(volume))
    assert host.connector.find(info.data, HERE) is None
    assert host.connector.activate() == []
    assert host.connector.find(info.data, HERE) is not None
    host.connector.detach(info.data)
    left_nothing(host)

    backend.snapshot(volume, first, attempt())
    assert backend.check(volume, (first,)) == []
    with backend.open_data(volume, writable=True) as data:
        data.write(4 * MIB, b"other" * MIB)
    clone = host.volume(LENGTH)
    backend.create_from_snapshot(volume, first, clone, attempt())
    grown = LENGTH + 17 * MIB
    backend.extend(volume, grown, attempt())
    backend.revert(volume, first, attempt())
    device = host.connector.attach(info.data).device
    assert length_of(device) == grown
    CHECK["ext4"](device)
    sh("mount", device, str(point))
    assert digest(point / "old") == old
    GROW["ext4"](device, str(point))
    sh("umount", str(point))
    # What a guest makes of LVM on its volume is its own affair, and in nobody's way.
    sh("lvm", "pvcreate", "-ff", "--yes", "--config", "devices{scan_lvs=1}", "--devices", device, device)
    host.connector.detach(info.data)
    assert content(host, volume, first) == content(host, clone)
    backend.delete_snapshot(volume, first, attempt())
    backend.delete(volume, attempt())
    backend.delete(clone, attempt())
    assert objects(host) == before


def killed(work: Callable[[], object], number: int, *, midway: bool) -> bool:
    """Do something in a child that is killed before, or in, its LVM command of this number."""
    started = lvm._started
    calls = iter(range(1000))

    def cut(words: list[str]) -> "subprocess.CompletedProcess[str]":
        if words[0] == "lvm" and next(calls) == number:
            if not midway:
                os.kill(os.getpid(), signal.SIGKILL)
            signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
            signal.setitimer(signal.ITIMER_REAL, 0.15)
        return started(words)

    def run() -> None:
        lvm._started = cut
        work()
        os._exit(0)

    child = fork(run)
    return os.waitpid(child, 0)[1] != 0


def test_verbs_that_are_killed_are_done_when_they_are_called_again(host: Host) -> None:
    backend, volume = host.backend, host.volume(8 * MIB)
    snapshot, doing = taken(volume, 8 * MIB), attempt()

    def killed_and_done(work: Callable[[], object], *points: int) -> None:
        for number in range(20) if ALL else points:
            if not killed(work, number, midway=number % 2 == 1):
                break
        work()

    killed_and_done(lambda: backend.create(volume, doing), 2)
    with backend.open_data(volume, writable=True) as data:
        data.write(0, b"first" * 4096)
        before = data.read(0, 8 * MIB)
    killed_and_done(lambda: backend.snapshot(volume, snapshot, doing), 1)
    with backend.open_data(volume, writable=True) as data:
        data.write(2 * MIB, b"later" * MIB)
    killed_and_done(lambda: backend.extend(volume, 16 * MIB, doing))
    killed_and_done(lambda: backend.revert(volume, snapshot, doing), 4, 3)
    with backend.open_data(volume) as data:
        assert data.virtual_bytes == 16 * MIB
        assert data.read(0, 8 * MIB) == before
        assert data.read(8 * MIB, 8 * MIB) == bytes(8 * MIB)
    with backend.open_data(volume, snapshot) as data:
        assert data.read(0, 8 * MIB) == before
    assert killed(lambda: backend.delete_snapshot(volume, snapshot, doing), 1, midway=True)
    backend.start()  # a service that comes back takes away what its predecessor left in the kernel
    left_nothing(host)
    backend.delete_snapshot(volume, snapshot, doing)
    assert backend.check(volume, ()) == []
    backend.delete(volume, doing)


if ALL:

    @pytest.mark.parametrize("case", [case for case in cases() if "linked_clones" not in case.needs], ids=str)
    def test_thin(case: Case) -> None:
        with tempfile.TemporaryDirectory(dir="/run") as directory:
            place = Path(directory)
            (place / "store").mkdir()
            urls = [str(place / "store")]
            case.run(ThinStorage(place, RestPool(store="directory", urls=urls, layout="flat", thin=True)))
        assert "No devices" in sh("dmsetup", "ls")
