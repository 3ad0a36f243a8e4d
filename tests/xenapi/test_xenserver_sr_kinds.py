"""Each type of SR in the life of a volume: made from our configuration, used, and refused what it cannot."""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import msgspec
import pytest
from xen_settings import SECRETS, configured, section
from xen_storage import Admin
from xenserver import Simulator, simulated

from breezeblock.attempt import Attempt
from breezeblock.backends.contract import Snapshot, Volume
from breezeblock.backends.registry import open_backend, read_config
from breezeblock.cli import run
from breezeblock.errors import ConflictError, NoSpaceError, UnavailableError, UnsupportedError
from breezeblock.xenapi import srkinds

MIB = 1 << 20


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    luns = f"{4 * MIB},{16 * MIB},{8 * MIB}"
    with simulated("--http", "--cluster", "--luns", luns, "--capacity", str(1 << 30)) as running:
        yield running


def attempt() -> Attempt:
    return Attempt(operation_id=str(uuid4()), token="1")


def pattern(text: str) -> bytes:
    return hashlib.shake_128(text.encode()).digest(4096)


@pytest.mark.parametrize("kind", srkinds.KINDS)
def test_a_volume_lives_on(kind: str, simulator: Simulator, tmp_path: Path) -> None:
    given = section(simulator, tmp_path, kind, f"life-{kind}")
    path = configured(tmp_path, given)
    for _again in range(2):
        assert run(["xenserver", "sr", "create", "xen", "gold", "--yes", "--config", path]) == 0
    admin = Admin(simulator)
    (sr,) = admin.ask("SR.get_by_name_label", f"life-{kind}")
    for pbd in admin.ask("SR.get_PBDs", sr):
        config = admin.ask("PBD.get_device_config", pbd)
        assert "array-secret" not in str(config), "a secret stands in device_config"
        assert all(f"{key}_secret" in config for key in SECRETS.get(kind, ()))
        assert admin.ask("PBD.get_currently_attached", pbd)
    assert not [s for s in admin.ask("secret.get_all_records").values() if s["other_config"]], (
        "our secrets stay"
    )

    backend = open_backend("xen", read_config(given, "test"), tmp_path)
    backend.start()
    able = srkinds.find(kind)
    (driver,) = (sm for sm in admin.ask("SM.get_all_records").values() if sm["type"] == kind)
    promised = (able.snapshots, able.clones, able.extends)
    assert promised == tuple(f"VDI_{verb}" in driver["features"] for verb in ("SNAPSHOT", "CLONE", "RESIZE"))
    volume = Volume(id=str(uuid4()), virtual_bytes=4 * MIB, pool="gold")
    placed = backend.create(volume, attempt())
    assert not any(simulator.read(placed.locator, 4 * MIB)), "a new volume holds somebody's data"
    simulator.write(placed.locator, 8192, pattern(kind))
    snapshot = Snapshot(id=str(uuid4()), volume_id=volume.id, virtual_bytes=4 * MIB)
    clone = Volume(id=str(uuid4()), virtual_bytes=8 * MIB, pool="gold")
    if able.snapshots:
        snapped = backend.snapshot(volume, snapshot, attempt())
        simulator.write(placed.locator, 8192, pattern("later"))
        assert simulator.read(snapped.locator, 4096, 8192) == pattern(kind)
        cloned = backend.create_from_snapshot(volume, snapshot, clone, attempt())
        assert simulator.read(cloned.locator, 4096, 8192) == pattern(kind)
        assert len(simulator.read(cloned.locator, 8 * MIB)) == 8 * MIB
        twin = Volume(id=str(uuid4()), virtual_bytes=4 * MIB, pool="gold")
        assert simulator.read(backend.clone(volume, twin, attempt()).locator, 4096, 8192) == pattern("later")
        backend.delete(twin, attempt())
        backend.delete_snapshot(volume, snapshot, attempt())
        assert simulator.read(cloned.locator, 4096, 8192) == pattern(kind)
    else:
        cannot = f"Pool gold is an SR of type {kind} ({able.title}), which has no "
        for verb, text, remedy in (
            (lambda: backend.snapshot(volume, snapshot, attempt()), f"{cannot}snapshot.", ""),
            (lambda: backend.delete_snapshot(volume, snapshot, attempt()), f"{cannot}snapshot.", ""),
            (lambda: backend.revert(volume, snapshot, attempt()), f"{cannot}revert.", ""),
            (lambda: backend.extend(volume, 8 * MIB, attempt()), f"{cannot}extend.", ""),
            (
                lambda: backend.clone(volume, clone, attempt()),
                f"SR life-{kind} of type {kind} cannot clone {placed.locator} without copying it.",
                "Ask for a full copy: clone = full in the volume type or the pool.",
            ),
            (
                lambda: backend.flatten(volume, attempt()),
                "Back end xen leaves sharing to XenServer.",
                "",
            ),
        ):
            with pytest.raises(UnsupportedError) as refused:
                verb()
            assert (refused.value.message, refused.value.remedy) == (text, remedy)
        huge = Volume(id=str(uuid4()), virtual_bytes=1 << 30, pool="gold")
        with pytest.raises(NoSpaceError, match="SR_BACKEND_FAILURE_44"):
            backend.create(huge, attempt())
    vm = admin.ask("VM.create", {"name_label": "guest"})
    admin.ask("VM.start", vm, False, False)
    machine = admin.ask("VM.get_uuid", vm)
    for _again in range(2):
        assert run(["xenserver", "attach", "xen", placed.locator, machine, "--config", path]) == 0
    assert len(admin.ask("VM.get_VBDs", vm)) == 1
    with pytest.raises(ConflictError, match="attached"):
        backend.delete(volume, attempt())
    for _again in range(2):
        assert run(["xenserver", "detach", "xen", placed.locator, machine, "--config", path]) == 0
    if able.extends:
        backend.extend(volume, 6 * MIB, attempt())
        assert simulator.read(placed.locator, 4096, 5 * MIB) == bytes(4096)
    assert run(["xenserver", "sr", "destroy", "xen", "gold", "--yes", "--config", path]) == 4
    for one in (clone, volume):
        backend.delete(one, attempt())
    simulator.do("collect")
    assert run(["xenserver", "sr", "destroy", "xen", "gold", "--yes", "--config", path]) == 0
    assert admin.ask("SR.get_by_name_label", f"life-{kind}") == []
    assert not [s for s in admin.ask("secret.get_all_records").values() if s["value"] == "array-secret"]
    backend.stop()


def test_a_full_copy_is_made_only_when_asked_for(simulator: Simulator, tmp_path: Path) -> None:
    Admin(simulator).make_sr("iscsi", "copies")
    backend = open_backend(
        "xen", read_config(section(simulator, tmp_path, "iscsi", "copies"), "test"), tmp_path
    )
    backend.start()
    volume = Volume(id=str(uuid4()), virtual_bytes=4 * MIB, pool="gold")
    simulator.write(backend.create(volume, attempt()).locator, 0, pattern("copied"))
    asked = Volume(id=str(uuid4()), virtual_bytes=4 * MIB, pool="gold", options={"clone": "full"})
    simulator.do("calls", reset=True)
    made = backend.clone(volume, asked, attempt())
    assert simulator.do("calls")["Async.VDI.copy"] == 1
    assert simulator.read(made.locator, 8192) == pattern("copied") + bytes(4096)
    for one in (asked, volume):
        backend.delete(one, attempt())
    backend.stop()


def test_a_chain_at_its_limit_is_refused_before_the_call(simulator: Simulator, tmp_path: Path) -> None:
    admin = Admin(simulator)
    admin.make_sr("nfs", "deep")
    (sr,) = admin.ask("SR.get_by_name_label", "deep")
    backend = open_backend("xen", read_config(section(simulator, tmp_path, "nfs", "deep"), "test"), tmp_path)
    backend.start()
    volume = Volume(id=str(uuid4()), virtual_bytes=4 * MIB, pool="gold")
    placed = backend.create(volume, attempt())
    taken: list[Snapshot] = []

    def take() -> None:
        simulator.write(placed.locator, 0, pattern(str(len(taken))))
        snapshot = Snapshot(id=str(uuid4()), volume_id=volume.id, virtual_bytes=4 * MIB)
        backend.snapshot(volume, snapshot, attempt())
        taken.append(snapshot)

    for _ in range(29):
        take()
    assert simulator.do("depth", vdi=placed.locator) == 30
    assert any("30" in finding.problem for finding in backend.check(volume, tuple(taken)))
    simulator.do("calls", reset=True)
    with pytest.raises(ConflictError, match="limit"):
        take()
    assert "Async.VDI.snapshot" not in simulator.do("calls")
    for snapshot in taken[:5]:
        backend.delete_snapshot(volume, snapshot, attempt())
    simulator.do("collect")
    take()
    backend.delete(volume, attempt())
    simulator.do("collect")
    assert admin.ask("SR.get_VDIs", sr) == []
    backend.stop()


def test_a_thick_snapshot_without_room_is_refused(simulator: Simulator, tmp_path: Path) -> None:
    uuid = Admin(simulator).make_sr("lvmohba", "thick")
    simulator.do("capacity", sr=uuid, count=12 * MIB)
    backend = open_backend(
        "xen", read_config(section(simulator, tmp_path, "lvmohba", "thick"), "test"), tmp_path
    )
    backend.start()
    volume = Volume(id=str(uuid4()), virtual_bytes=8 * MIB, pool="gold")
    backend.create(volume, attempt())
    (pool,) = backend.stats()
    assert (pool.total_bytes, pool.free_bytes) == (12 * MIB, 4 * MIB)
    with pytest.raises(NoSpaceError):
        backend.snapshot(volume, Snapshot(id="s", volume_id=volume.id, virtual_bytes=8 * MIB), attempt())
    with pytest.raises(NoSpaceError):
        backend.create(Volume(id=str(uuid4()), virtual_bytes=8 * MIB, pool="gold"), attempt())
    backend.delete(volume, attempt())
    backend.stop()


def test_strangers_snapshots_of_our_volumes_are_left_alone(simulator: Simulator, tmp_path: Path) -> None:
    """They inherit our marks, and are not ours."""
    admin = Admin(simulator)
    admin.make_sr("nfs", "strangers")
    config = read_config(section(simulator, tmp_path, "nfs", "strangers"), "test")
    backend = open_backend("xen", config, tmp_path)
    backend.start()
    volume = Volume(id=str(uuid4()), virtual_bytes=4 * MIB, pool="gold")
    placed = backend.create(volume, attempt())
    ref = admin.ask("VDI.get_by_uuid", placed.locator)
    theirs = [admin.ask("VDI.snapshot", ref, {}), admin.ask("VDI.clone", ref, {})]
    uuids = {admin.ask("VDI.get_uuid", one) for one in theirs}
    assert {found.name for found in backend.inventory() if found.kind == "foreign"} == uuids
    assert backend.check(volume, ()) == []
    backend.delete(volume, attempt())
    backend.delete(volume, attempt())
    assert backend.sweep(frozenset()) == []
    assert {found.name for found in backend.inventory() if found.kind == "foreign"} == uuids
    for one in theirs:
        admin.ask("VDI.destroy", one)
    backend.stop()


def test_a_disk_goes_into_a_file_and_back(simulator: Simulator, tmp_path: Path) -> None:
    Admin(simulator).make_sr("nfs", "files")
    given = section(simulator, tmp_path, "nfs", "files")
    path = configured(tmp_path, given)
    backend = open_backend("xen", read_config(given, "test"), tmp_path)
    backend.start()
    one, two = (Volume(id=str(uuid4()), virtual_bytes=4 * MIB, pool="gold") for _ in range(2))
    first, second = backend.create(one, attempt()).locator, backend.create(two, attempt()).locator
    simulator.write(first, 3 * MIB, pattern("exported"))
    for form in ("raw", "vhd"):
        file = tmp_path / f"disk.{form}"
        simulator.do("fault", method="exporting", code="VDI_IO_ERROR", params=["broken"])
        arguments = ["xenserver", "export", "xen", first, str(file), "--format", form, "--config", path]
        assert run(arguments) != 0
        assert [one.name for one in tmp_path.iterdir() if "disk" in one.name and form in one.name] == []
        assert run(arguments) == 0
        assert run(arguments) == 4, "a file that exists is not overwritten"
        simulator.write(second, 0, pattern(form))
        taking = [
            "xenserver",
            "import",
            "xen",
            second,
            str(file),
            "--format",
            form,
            "--yes",
            "--config",
            path,
        ]
        assert run(taking) == 0
        assert simulator.read(second, 4096, 3 * MIB) == pattern("exported")
    for volume in (one, two):
        backend.delete(volume, attempt())
    backend.stop()


def test_a_volume_in_a_vm_grows_where_the_driver_can(tmp_path: Path) -> None:
    for feature in ("", "VDI_RESIZE_ONLINE"):
        with simulated("--features", feature) as simulator:
            admin = Admin(simulator)
            admin.make_sr("nfs", "online")
            config = read_config(section(simulator, tmp_path, "nfs", "online"), "test")
            backend = open_backend("xen", config, tmp_path)
            backend.start()
            volume = Volume(id=str(uuid4()), virtual_bytes=4 * MIB, pool="gold")
            placed = backend.create(volume, attempt())
            vm = admin.ask("VM.create", {"name_label": "guest"})
            disk = admin.ask("VDI.get_by_uuid", placed.locator)
            record = {
                "VM": vm,
                "VDI": disk,
                "userdevice": "0",
                "mode": "RW",
                "type": "Disk",
                "bootable": False,
            }
            admin.ask("VBD.create", record)
            admin.ask("VM.start", vm, False, False)
            if feature:
                backend.extend(volume, 8 * MIB, attempt())
                assert admin.ask("VDI.get_virtual_size", disk) == str(8 * MIB)
            else:
                with pytest.raises(ConflictError, match="attached"):
                    backend.extend(volume, 8 * MIB, attempt())
            backend.stop()


def test_a_pool_offers_what_its_driver_has(tmp_path: Path) -> None:
    with simulated("--http", "--lacking", "VDI_SNAPSHOT VDI_CLONE VDI_RESIZE") as simulator:
        Admin(simulator).make_sr("nfs", "poor")
        backend = open_backend("xen", read_config(section(simulator, tmp_path, "nfs", "poor"), "t"), tmp_path)
        backend.start()
        (pool,) = backend.stats()
        able = pool.capabilities
        assert able
        assert (able.snapshots, able.clone, able.extend, able.revert) == (False, False, False, "none")
        assert able.facts["snapshot_support"] == able.facts["linked_clone_support"] == "False"
        volume = Volume(id=str(uuid4()), virtual_bytes=4 * MIB, pool="gold")
        backend.create(volume, attempt())
        simulator.do("calls", reset=True)
        one = Snapshot(id=str(uuid4()), volume_id=volume.id, virtual_bytes=4 * MIB)
        with pytest.raises(UnsupportedError, match="does not allow snapshot"):
            backend.snapshot(volume, one, attempt())
        with pytest.raises(UnsupportedError, match="does not allow resize"):
            backend.extend(volume, 8 * MIB, attempt())
        assert not {"Async.VDI.snapshot", "Async.VDI.resize"} & simulator.do("calls").keys()
        backend.stop()


def test_a_volume_out_of_sight_is_not_taken_for_deleted(simulator: Simulator, tmp_path: Path) -> None:
    admin = Admin(simulator)
    uuid = admin.make_sr("nfs", "sight")
    given = section(simulator, tmp_path, "nfs", "sight")
    path = configured(tmp_path, given)
    backend = open_backend("xen", read_config(given, "test"), tmp_path)
    backend.start()
    new = Volume(id=str(uuid4()), virtual_bytes=4 * MIB, pool="gold")
    placed = backend.create(new, attempt())
    volume = msgspec.structs.replace(new, locator=placed.locator)
    (sr,) = admin.ask("SR.get_by_name_label", "sight")
    for pbd in admin.ask("SR.get_PBDs", sr):
        admin.ask("PBD.unplug", pbd)
    with pytest.raises(UnavailableError, match="plug"):
        backend.delete(volume, attempt())
    (pool,) = backend.stats()
    assert (pool.up, "plugged on no host" in pool.reason) == (False, True)
    assert run(["xenserver", "sr", "forget", "xen", "gold", "--yes", "--config", path]) == 0
    with pytest.raises(UnavailableError, match="no SRs"):
        backend.delete(volume, attempt())
    assert run(["xenserver", "sr", "introduce", "xen", "gold", uuid, "--config", path]) == 0
    with pytest.raises(ConflictError, match="marks") as caught:
        backend.delete(volume, attempt())
    disk = admin.ask("VDI.get_by_uuid", placed.locator)
    for setting in re.findall(r"other_config:(breezeblock:\w+)=(\S+?)(?: |$)", caught.value.remedy):
        admin.ask("VDI.add_to_other_config", disk, *setting)
    assert backend.check(volume, ()) == []
    backend.delete(volume, attempt())
    assert admin.ask("SR.get_VDIs", admin.ask("SR.get_by_uuid", uuid)) == []
    backend.stop()
