"""Disks that others made become volumes, volumes are let go and come back; a host's own revert is used."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from xen_storage import Admin, XenStorage
from xenserver import Simulator, simulated

from breezeblock.attempt import Attempt
from breezeblock.backends.contract import Backend, Snapshot, Volume
from breezeblock.errors import BreezeblockError, ConflictError, InvalidInputError, NotFoundError
from breezeblock.testing import run_killed_at, trace_lines

MIB = 1 << 20


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with simulated("--http", "--coalesce-delay", "0.02") as running:
        yield running


@pytest.fixture
def storage(simulator: Simulator, tmp_path: Path) -> XenStorage:
    return XenStorage(simulator, tmp_path, Admin(simulator).make_sr("nfs", f"adopted {uuid4()}"))


@pytest.fixture
def backend(storage: XenStorage) -> Iterator[Backend]:
    opened = storage.open()
    yield opened
    opened.stop()


def attempt() -> Attempt:
    return Attempt(operation_id=str(uuid4()), token="1")


def new(size: int = 0) -> Volume:
    return Volume(id=str(uuid4()), virtual_bytes=size, pool="gold")


def stranger(simulator: Simulator, sr: str, **fields: Any) -> str:
    admin = Admin(simulator)
    record = {"name_label": "root disk", "SR": admin.ask("SR.get_by_uuid", sr), "virtual_size": str(4 * MIB)}
    record |= {"type": "user", "sharable": False, "read_only": False, "other_config": {"theirs": "kept"}}
    ref = admin.ask("VDI.create", record | fields)
    uuid = str(admin.ask("VDI.get_uuid", ref))
    simulator.write(uuid, 4096, b"theirs" * 100)
    return uuid


def record_of(simulator: Simulator, uuid: str) -> Any:
    admin = Admin(simulator)
    return admin.ask("VDI.get_record", admin.ask("VDI.get_by_uuid", uuid))


def test_a_disk_becomes_a_volume_and_comes_back_after_it_was_let_go(
    simulator: Simulator, storage: XenStorage, backend: Backend
) -> None:
    uuid, volume = stranger(simulator, storage.sr), new()
    before = record_of(simulator, uuid)
    found = backend.examine(volume, uuid)
    assert (found.virtual_bytes, found.snapshots) == (4 * MIB, ())
    assert uuid in found.edits[0]
    assert record_of(simulator, uuid) == before
    for _again in range(2):
        adopted = backend.adopt(volume, uuid, attempt())
        assert (adopted.volume.locator, adopted.virtual_bytes) == (uuid, 4 * MIB)
    now = record_of(simulator, uuid)
    assert (now["name_label"], now["other_config"]["theirs"]) == ("root disk", "kept")
    whole = Volume(id=volume.id, virtual_bytes=4 * MIB, pool="gold", locator=uuid)
    assert backend.check(whole, ()) == []
    taken = []
    for _ in range(3):
        one = Snapshot(id=str(uuid4()), volume_id=volume.id, virtual_bytes=4 * MIB)
        backend.snapshot(whole, one, attempt())
        simulator.write(uuid, 0, uuid4().bytes)
        taken.append(one.id)
    for _again in range(2):
        assert backend.release(whole, attempt()) == f"volume-{volume.id}"
    back = backend.adopt(new_like(volume), f"volume-{volume.id}", attempt())
    assert back.volume.locator == uuid
    assert [one.id for one in back.snapshots] == taken, "the oldest first"
    assert back.edits == ()
    other = new()
    with pytest.raises(ConflictError, match=f"is volume {volume.id}"):
        backend.adopt(other, uuid, attempt())
    assert simulator.read(uuid, 600, 4096) == b"theirs" * 100
    backend.delete(whole, attempt())


def new_like(volume: Volume) -> Volume:
    return Volume(id=volume.id, virtual_bytes=0, pool=volume.pool)


def test_what_may_not_be_taken_over(simulator: Simulator, storage: XenStorage, backend: Backend) -> None:
    admin = Admin(simulator)
    uuid = stranger(simulator, storage.sr)
    ref = admin.ask("VDI.get_by_uuid", uuid)
    snapshot = admin.ask("VDI.get_uuid", admin.ask("VDI.snapshot", ref, {}))
    shared = stranger(simulator, storage.sr, sharable=True)
    elsewhere = stranger(simulator, admin.make_sr("nfs", f"other {uuid4()}"))
    (base,) = (
        one["uuid"]
        for one in admin.ask("VDI.get_all_records").values()
        if not one["managed"] and one["SR"] == admin.ask("SR.get_by_uuid", storage.sr)
    )
    for name, kind, says in (
        (snapshot, ConflictError, "a snapshot"),
        (shared, ConflictError, "shared"),
        (elsewhere, NotFoundError, "no disk"),
        (base, NotFoundError, "no disk"),
        ("nothing", NotFoundError, "no disk"),
        (f"volume-{uuid4()}", NotFoundError, "no disk"),
    ):
        with pytest.raises(kind, match=says):
            backend.adopt(new(), name, attempt())
    with pytest.raises(InvalidInputError, match="not 8388608"):
        backend.adopt(new(8 * MIB), uuid, attempt())
    vm = admin.ask("VM.create", {"name_label": "user of it"})
    vbd = {"VM": vm, "VDI": ref, "userdevice": "0", "mode": "RW", "type": "Disk", "other_config": {}}
    admin.ask("VBD.create", vbd)
    with pytest.raises(ConflictError, match="connected to a VM"):
        backend.adopt(new(), uuid, attempt())
    admin.ask("VM.destroy", vm)
    assert record_of(simulator, uuid)["other_config"] == {"theirs": "kept"}
    for one in (uuid, snapshot, shared):
        admin.ask("VDI.destroy", admin.ask("VDI.get_by_uuid", one))


@pytest.mark.crash
def test_taking_over_and_letting_go_killed_anywhere(simulator: Simulator, storage: XenStorage) -> None:
    packages = ("breezeblock.backends.xenserver_adopting", *storage.packages)
    opened: list[Backend] = []

    def opening() -> None:
        opened[:] = [storage.open()]

    uuid, volume = stranger(simulator, storage.sr), new()
    verbs: tuple[Callable[[], object], ...] = (
        lambda: opened[0].adopt(volume, uuid, attempt()),
        lambda: opened[0].release(volume, attempt()),
    )
    for verb in verbs:
        lines = trace_lines(verb, packages, before=opening)
        if verb is verbs[0]:
            reset(simulator, uuid)
        for moment in lines[::3]:
            run_killed_at(verb, packages, moment, before=opening)
            opening()
            verb()
            assert opened[0].check(Volume(id=volume.id, virtual_bytes=4 * MIB, pool="gold"), ()) == []
            if verb is verbs[0]:
                reset(simulator, uuid)
        opened[0].adopt(volume, f"volume-{volume.id}" if verb is verbs[1] else uuid, attempt())
    opened[0].delete(volume, attempt())


def reset(simulator: Simulator, uuid: str) -> None:
    admin = Admin(simulator)
    admin.ask("VDI.set_other_config", admin.ask("VDI.get_by_uuid", uuid), {})


def test_a_host_that_reverts_keeps_the_disk(tmp_path: Path) -> None:
    with simulated("--http", "--features", "VDI_REVERT") as simulator:
        storage = XenStorage(simulator, tmp_path, Admin(simulator).make_sr("nfs", "reverting"))
        backend = storage.open()
        volume = new(4 * MIB)
        placed = backend.create(volume, attempt())
        simulator.write(placed.locator, 0, b"then" * 1024)
        one = Snapshot(id=str(uuid4()), volume_id=volume.id, virtual_bytes=4 * MIB)
        backend.snapshot(volume, one, attempt())
        simulator.write(placed.locator, 0, b"later" * 1024)
        simulator.write(placed.locator, 3 * MIB, b"later" * 1024)
        backend.extend(volume, 8 * MIB, attempt())
        larger = Volume(id=volume.id, virtual_bytes=8 * MIB, pool="gold")
        simulator.do("calls", reset=True)
        for _again in range(2):
            assert backend.revert(larger, one, attempt()).locator == placed.locator
        assert simulator.do("calls")["Async.VDI.revert"] == 2
        assert simulator.read(placed.locator, 8 * MIB) == (b"then" * 1024).ljust(8 * MIB, b"\0")
        simulator.write(placed.locator, 0, b"again" * 1024)
        simulator.do("fault", method="VDI.revert", code="RBAC_PERMISSION_DENIED", params=["vdi.revert", ""])
        moved = backend.revert(larger, one, attempt())
        assert moved.locator != placed.locator, "without the role a clone takes the disk's place"
        assert simulator.read(moved.locator, 4096) == b"then" * 1024
        simulator.do("fault", method="VDI.revert", code="SR_BACKEND_FAILURE_46", params=["", "gone", ""])
        with pytest.raises(BreezeblockError, match="46"):
            backend.revert(larger, one, attempt())
        backend.delete(larger, attempt())
        backend.stop()
