"""The least role that the page names is enough, and what it is not enough for says so."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from xen_settings import configured, section
from xen_storage import Admin
from xenserver import Simulator, simulated

from breezeblock.attempt import Attempt
from breezeblock.backends.contract import Snapshot, Volume
from breezeblock.backends.registry import open_backend, read_config
from breezeblock.cli import run
from breezeblock.errors import ForbiddenError

MIB = 1 << 20


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with simulated("--http", "--nbd", "--features", "VDI_REVERT") as running:
        yield running


def attempt() -> Attempt:
    return Attempt(operation_id=str(uuid4()), token="1")


def new() -> Volume:
    return Volume(id=str(uuid4()), virtual_bytes=4 * MIB, pool="gold")


@pytest.mark.parametrize(("role", "keeps_its_disk"), [("vm-admin", False), ("vm-power-admin", True)])
def test_a_role_for_volumes(role: str, keeps_its_disk: bool, simulator: Simulator, tmp_path: Path) -> None:
    admin = Admin(simulator)
    admin.make_sr("nfs", f"of {role}")
    given = section(simulator, tmp_path, "nfs", f"of {role}") | {"username": role}
    path = configured(tmp_path, given)
    backend = open_backend("xen", read_config(given, "test"), tmp_path)
    backend.start()
    assert backend.stats()[0].up, "measuring is for pool operators, and the pool is up without"
    volume, clone, taken = new(), new(), new()
    placed = backend.create(volume, attempt())
    simulator.write(placed.locator, 0, b"kept" * 1024)
    snapshot = Snapshot(id=str(uuid4()), volume_id=volume.id, virtual_bytes=4 * MIB)
    backend.snapshot(volume, snapshot, attempt())
    simulator.write(placed.locator, 0, b"lost" * 1024)
    backend.create_from_snapshot(volume, snapshot, clone, attempt())
    backend.extend(clone, 6 * MIB, attempt())
    reverted = backend.revert(volume, snapshot, attempt())
    assert simulator.read(reverted.locator, 4096) == b"kept" * 1024
    assert (reverted.locator == placed.locator) == keeps_its_disk
    for form in ("raw", "vhd"):
        backend.export_image(volume, None, str(tmp_path / form), form, attempt())
    imported = backend.import_image(taken, str(tmp_path / "raw"), "raw", attempt())
    assert simulator.read(imported.locator, 4096) == b"kept" * 1024
    vm = admin.ask("VM.create", {"name_label": f"guest of {role}"})
    for verb in ("attach", "detach"):
        assert run(["xenserver", verb, "xen", reverted.locator, f"guest of {role}", "--config", path]) == 0
    assert admin.ask("VM.get_VBDs", vm) == []
    assert backend.check(volume, (snapshot,)) == []
    for one in (clone, taken, volume):
        backend.delete(one, attempt())
    assert backend.sweep(frozenset()) == []
    backend.stop()


def test_roles_that_are_too_small_say_so(
    simulator: Simulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Admin(simulator).make_sr("nfs", "of others")
    given = section(simulator, tmp_path, "nfs", "of others")
    path = configured(tmp_path, section(simulator, tmp_path, "nfs", "new") | {"username": "vm-power-admin"})
    assert run(["xenserver", "sr", "create", "xen", "gold", "--yes", "--config", path]) != 0
    assert "role pool-operator" in " ".join(capsys.readouterr().err.split())
    backend = open_backend("xen", read_config(given | {"username": "read-only"}, "test"), tmp_path)
    backend.start()
    assert backend.stats()[0].up
    with pytest.raises(ForbiddenError, match=r"vdi\.create"):
        backend.create(new(), attempt())
    backend.stop()
