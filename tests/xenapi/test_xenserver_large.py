"""Disks beyond the end of VHD: made where the driver offers QCOW2, refused elsewhere, naming the limit."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from xen_storage import Admin, XenStorage
from xenserver import Simulator, simulated

from breezeblock.attempt import Attempt
from breezeblock.backends.contract import Backend, Snapshot, Volume
from breezeblock.errors import InvalidInputError

MIB, TIB = 1 << 20, 1 << 40
VHD_END, QCOW2_END = 2190433320960, 16381 << 30
FAR = 2 * TIB + 5 * MIB


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with simulated("--http", "--qcow2", "--cluster", "--capacity", str(40 * TIB)) as running:
        yield running


def attempt() -> Attempt:
    return Attempt(operation_id=str(uuid4()), token="1")


def new(size: int, **options: str) -> Volume:
    return Volume(id=str(uuid4()), virtual_bytes=size, pool="gold", options=options)


def opened(simulator: Simulator, folder: Path, kind: str) -> Backend:
    return XenStorage(simulator, folder, Admin(simulator).make_sr(kind, f"{kind} {uuid4()}"), kind).open()


def promised(backend: Backend) -> int:
    (pool,) = backend.stats()
    assert pool.capabilities
    return pool.capabilities.max_virtual_bytes or 0


@pytest.mark.parametrize("kind", ["nfs", "lvmoiscsi", "gfs2"])
def test_a_large_volume_lives_on(kind: str, simulator: Simulator, tmp_path: Path) -> None:
    backend = opened(simulator, tmp_path, kind)
    assert promised(backend) >= QCOW2_END
    volume = new(3 * TIB)
    placed = backend.create(volume, attempt())
    assert placed.format == "qcow2"
    simulator.write(placed.locator, FAR, b"kept" * 1024)
    snapshot = Snapshot(id=str(uuid4()), volume_id=volume.id, virtual_bytes=3 * TIB)
    backend.snapshot(volume, snapshot, attempt())
    simulator.write(placed.locator, FAR, b"lost" * 1024)
    backend.extend(volume, 4 * TIB, attempt())
    assert simulator.read(placed.locator, 4096, 4 * TIB - 4096) == bytes(4096)
    clone = new(5 * TIB)
    cloned = backend.create_from_snapshot(volume, snapshot, clone, attempt())
    assert cloned.format == "qcow2"
    assert simulator.read(cloned.locator, 4096, FAR) == b"kept" * 1024
    reverted = backend.revert(volume, snapshot, attempt())
    assert simulator.read(reverted.locator, 4096, FAR) == b"kept" * 1024
    most = 16 * TIB if kind == "gfs2" else QCOW2_END
    with pytest.raises(InvalidInputError, match=f"exceed the {most} of"):
        backend.create(new(most + 512), attempt())
    for one in (clone, volume):
        backend.delete(one, attempt())
    backend.stop()


def test_a_vhd_gets_no_larger_than_it_can_but_its_copy_does(simulator: Simulator, tmp_path: Path) -> None:
    backend = opened(simulator, tmp_path, "nfs")
    volume = new(4 * MIB)
    placed = backend.create(volume, attempt())
    assert placed.format == "vhd"
    simulator.write(placed.locator, 0, b"small" * 1000)
    simulator.do("calls", reset=True)
    with pytest.raises(InvalidInputError, match=f"is vhd and ends at {VHD_END} bytes") as caught:
        backend.extend(volume, 3 * TIB, attempt())
    assert "clone = full" in caught.value.remedy
    with pytest.raises(InvalidInputError, match="is vhd and ends at"):
        backend.clone(volume, new(3 * TIB), attempt())
    assert not {"Async.VDI.resize", "Async.VDI.clone"} & simulator.do("calls").keys()
    large = new(3 * TIB, clone="full")
    copied = backend.clone(volume, large, attempt())
    assert copied.format == "qcow2"
    assert simulator.read(copied.locator, 8192) == (b"small" * 1000).ljust(8192, b"\0")
    backend.extend(large, 3 * TIB + 2 * MIB, attempt())
    for one in (large, volume):
        backend.delete(one, attempt())
    backend.stop()


def test_a_large_image_goes_out_and_comes_in(simulator: Simulator, tmp_path: Path) -> None:
    backend = opened(simulator, tmp_path, "nfs")
    first, second = new(3 * TIB), new(3 * TIB)
    placed = backend.create(first, attempt())
    simulator.write(placed.locator, FAR, b"far" * 1000)
    image = tmp_path / "image.qcow2"
    backend.export_image(first, None, str(image), "qcow2", attempt())
    command = ["qemu-io", "-r", "-f", "qcow2", "-c", f"read -P {ord('f')} {FAR} 1", str(image)]
    judged = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "Pattern verification failed" not in judged.stdout
    taken = backend.import_image(second, str(image), "qcow2", attempt())
    assert simulator.read(taken.locator, 4096, FAR) == (b"far" * 1000).ljust(4096, b"\0")
    assert taken.format == "qcow2"
    for one in (first, second):
        backend.delete(one, attempt())
    backend.stop()


@pytest.mark.parametrize("kind", ["smb", "linstor", "lvmofcoe"])
def test_a_driver_without_qcow2_names_its_limit(kind: str, simulator: Simulator, tmp_path: Path) -> None:
    backend = opened(simulator, tmp_path, kind)
    assert promised(backend) == VHD_END
    simulator.do("calls", reset=True)
    with pytest.raises(InvalidInputError, match=f"exceed the {VHD_END} of SR {kind}") as caught:
        backend.create(new(3 * TIB), attempt())
    assert caught.value.remedy == "Use an SR whose driver offers QCOW2."
    assert "Async.VDI.create" not in simulator.do("calls")
    backend.stop()


def test_hosts_without_qcow2_refuse_too(tmp_path: Path) -> None:
    with simulated("--http", "--capacity", str(40 * TIB)) as older:
        backend = opened(older, tmp_path, "nfs")
        with pytest.raises(InvalidInputError, match=f"exceed the {VHD_END} of"):
            backend.create(new(VHD_END + 2 * MIB), attempt())
        backend.delete(volume := new(VHD_END), attempt())
        assert backend.create(volume, attempt()).format == "vhd"
        backend.stop()
