"""A disk in use goes to another SR: by our command or by others', found again, never taken for leftovers."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from xen_settings import configured, section
from xen_storage import Admin
from xenserver import Simulator, simulated

from breezeblock.attempt import Attempt
from breezeblock.backends.contract import Backend, Snapshot, Volume
from breezeblock.backends.registry import open_backend, read_config
from breezeblock.backends.xenserver_tags import MAKING
from breezeblock.cli import run
from breezeblock.connect.xenserver import XenServerConnector
from breezeblock.errors import ConflictError, NotFoundError
from breezeblock.xenapi.mirror import Mirror
from breezeblock.xenapi.session import Account, Session

MIB = 1 << 20
POOLS = {"gold": "nfs", "silver": "lvmoiscsi", "luns": "iscsi", "array": "netapp"}


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with simulated("--http", "--luns", str(4 * MIB)) as running:
        yield running


class World:
    """A back end of several pools, and a volume whose disk a machine uses."""

    def __init__(self, simulator: Simulator, folder: Path) -> None:
        self.simulator, self.admin = simulator, Admin(simulator)
        for kind in POOLS.values():
            if not self.admin.ask("SR.get_by_name_label", f"move {kind}"):
                self.admin.make_sr(kind, f"move {kind}")
        given = section(simulator, folder, "nfs", "move nfs")
        given["pools"] = {pool: {"sr": f"move {kind}", "type": kind} for pool, kind in POOLS.items()}
        self.path = configured(folder, given)
        self.backend: Backend = open_backend("xen", read_config(given, "test"), folder)
        self.backend.start()
        session = Session(Account((simulator.url,), "root", "secret"))
        self.connector = XenServerConnector(session, Mirror(session))
        self.vm = self.admin.ask("VM.create", {"name_label": f"guest {uuid4()}"})
        self.admin.ask("VM.start", self.vm, False, False)
        self.machine = str(self.admin.ask("VM.get_uuid", self.vm))

    def volume(self, pool: str = "gold") -> Volume:
        new = Volume(id=str(uuid4()), virtual_bytes=4 * MIB, pool=pool)
        placed = self.backend.create(new, attempt())
        self.simulator.write(placed.locator, MIB, b"moved" * 100)
        return Volume(id=new.id, virtual_bytes=4 * MIB, pool=pool, locator=placed.locator)

    def attached(self, volume: Volume) -> dict[str, object]:
        data = self.backend.connection_info(volume, {}).data
        self.connector.attach(data, self.machine)
        return data

    def move(self, volume: Volume, pool: str) -> int:
        return run(["xenserver", "move", "xen", volume.id, pool, "--config", self.path])

    def sr_of(self, uuid: str) -> str:
        sr = self.admin.ask("VDI.get_SR", self.admin.ask("VDI.get_by_uuid", uuid))
        return str(self.admin.ask("SR.get_name_label", sr))

    def in_catalog(self, volume: Volume, pool: str) -> Volume:
        """Unmanage it, and manage it in the pool where it is."""
        told = self.backend.release(volume, attempt())
        found = self.backend.adopt(Volume(id=volume.id, virtual_bytes=0, pool=pool), told, attempt())
        assert found.virtual_bytes == 4 * MIB
        return Volume(id=volume.id, virtual_bytes=4 * MIB, pool=pool, locator=found.volume.locator)


@pytest.fixture
def world(simulator: Simulator, tmp_path: Path) -> Iterator[World]:
    made = World(simulator, tmp_path)
    yield made
    made.backend.stop()


def attempt() -> Attempt:
    return Attempt(operation_id=str(uuid4()), token="1")


def test_a_disk_in_use_is_moved_and_found_again(world: World) -> None:
    volume = world.volume()
    data = world.attached(volume)
    for _again in range(2):
        assert world.move(volume, "silver") == 0
    (finding,) = world.backend.check(volume, ())
    assert "is not in pool gold" in finding.problem
    now = world.backend.connection_info(volume, {}).data
    assert now["vdi_uuid"] != volume.locator
    assert world.sr_of(now["vdi_uuid"]) == "move lvmoiscsi"
    assert world.simulator.read(now["vdi_uuid"], 500, MIB) == b"moved" * 100
    assert world.connector.find(now, world.machine)
    world.connector.detach(data, world.machine)  # as it was told when it was attached
    assert world.admin.ask("VM.get_VBDs", world.vm) == []
    moved = world.in_catalog(volume, "silver")
    assert world.backend.check(moved, ()) == []
    world.backend.delete(moved, attempt())
    with pytest.raises(NotFoundError):
        world.backend.connection_info(moved, {})


def test_a_copy_of_a_disk_that_is_gone_is_not_taken_for_it(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    volume = world.volume("silver")
    (silver,) = world.admin.ask("SR.get_by_name_label", "move lvmoiscsi")
    data = world.attached(volume)
    ref = world.admin.ask("VDI.get_by_uuid", volume.locator)
    theirs = world.admin.ask("VDI.clone", ref, {})  # inherits the marks, and stays
    assert world.move(volume, "gold") == 0
    assert world.move(volume, "silver") == 0, "the copy is of another disk than the one that was moved"
    now = world.backend.connection_info(volume, {}).data["vdi_uuid"]
    again = world.admin.ask("VDI.clone", world.admin.ask("VDI.get_by_uuid", now), {})
    world.admin.ask("VDI.pool_migrate", world.admin.ask("VDI.get_by_uuid", now), silver, {})
    assert world.move(volume, "silver") == 4
    said = " ".join(capsys.readouterr().err.split())
    assert all(world.admin.ask("VDI.get_uuid", one) in said for one in (theirs, again))
    assert "breezeblock:vdi" in said
    for one in (theirs, again):
        world.admin.ask("VDI.destroy", one)
    assert world.move(volume, "silver") == 0
    world.connector.detach(data, world.machine)
    world.backend.delete(world.in_catalog(volume, "silver"), attempt())


def test_a_disk_that_others_moved_is_never_taken_for_leftovers(world: World) -> None:
    volume = world.volume()
    data = world.attached(volume)
    ref = world.admin.ask("VDI.get_by_uuid", volume.locator)
    snapshot = str(uuid4())  # of an attempt that was killed
    world.admin.ask("VDI.add_to_other_config", ref, f"{MAKING}{snapshot}", "killed")
    (silver,) = world.admin.ask("SR.get_by_name_label", "move lvmoiscsi")
    new = world.admin.ask("VDI.get_uuid", world.admin.ask("VDI.pool_migrate", ref, silver, {}))
    world.connector.detach(data, world.machine)
    assert world.backend.sweep(frozenset()) == []
    (finding,) = world.backend.check(volume, ())
    assert new in finding.remedy
    wanted = Snapshot(id=snapshot, volume_id=volume.id, virtual_bytes=4 * MIB)
    with pytest.raises(NotFoundError, match="no disk"):
        world.backend.snapshot(volume, wanted, attempt())
    with pytest.raises(ConflictError, match=f"is gone, and {new} has its marks"):
        world.backend.delete(volume, attempt())
    assert world.simulator.read(new, 500, MIB) == b"moved" * 100
    assert world.move(volume, "array") == 3, "it is not there"
    for _again in range(2):
        assert world.move(volume, "silver") == 0
    moved = world.in_catalog(volume, "silver")
    assert moved.locator == new
    world.backend.delete(moved, attempt())


@pytest.mark.parametrize(
    ("method", "after"),
    [("VDI.pool_migrate", False), ("VDI.pool_migrate", True), ("VDI.set_other_config", False)],
)
def test_a_move_that_was_cut_off_is_finished(method: str, after: bool, world: World) -> None:
    volume = world.volume()
    data = world.attached(volume)
    world.simulator.do("fault", method=method, after=after, die=True)
    assert world.move(volume, "silver") != 0
    assert world.move(volume, "silver") == 0
    world.connector.detach(data, world.machine)
    moved = world.in_catalog(volume, "silver")
    assert world.simulator.read(moved.locator, 500, MIB) == b"moved" * 100
    world.backend.delete(moved, attempt())
    assert world.backend.sweep(frozenset()) == []


def test_what_cannot_be_moved_says_why(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    volume = world.volume()

    def refused(pool: str) -> str:
        world.simulator.do("calls", reset=True)
        capsys.readouterr()
        assert world.move(volume, pool) != 0
        assert "Async.VDI.pool_migrate" not in world.simulator.do("calls")
        return " ".join(capsys.readouterr().err.split())

    assert "is in no VM" in refused("silver")
    world.attached(volume)
    assert "old data, which would show through" in refused("luns")
    one = Snapshot(id=str(uuid4()), volume_id=volume.id, virtual_bytes=4 * MIB)
    world.backend.snapshot(volume, one, attempt())
    assert "1 snapshots, which would stay in its SR" in refused("silver")
    world.backend.delete_snapshot(volume, one, attempt())
    ref = world.admin.ask("VDI.get_by_uuid", volume.locator)
    world.admin.ask("VDI.enable_cbt", ref)
    assert "has its changes tracked" in refused("silver")
    world.admin.ask("VDI.disable_cbt", ref)
    assert "There are: gold, silver, luns, array." in refused("bronze")
    fixed = volume
    volume = world.volume("array")
    world.attached(volume)
    assert "cannot mirror a disk in use" in refused("silver")
    for one_volume in (volume, fixed):
        world.connector.detach(world.backend.connection_info(one_volume, {}).data, world.machine)
        world.backend.delete(one_volume, attempt())


def test_a_disk_in_use_is_not_copied_but_its_snapshot_is(world: World) -> None:
    volume = world.volume()
    data = world.attached(volume)
    copy = Volume(id=str(uuid4()), virtual_bytes=4 * MIB, pool="silver", options={"clone": "full"})
    world.simulator.do("calls", reset=True)
    with pytest.raises(ConflictError, match="attached to a VM: copy is not possible") as caught:
        world.backend.clone(volume, copy, attempt())
    assert caught.value.remedy == "Copy a snapshot of it, or detach it."
    assert "Async.VDI.create" not in world.simulator.do("calls")
    one = Snapshot(id=str(uuid4()), volume_id=volume.id, virtual_bytes=4 * MIB)
    world.backend.snapshot(volume, one, attempt())
    placed = world.backend.create_from_snapshot(volume, one, copy, attempt())
    assert world.simulator.read(placed.locator, 500, MIB) == b"moved" * 100
    world.connector.detach(data, world.machine)
    for one_volume in (copy, volume):
        world.backend.delete(one_volume, attempt())
