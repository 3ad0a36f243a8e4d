"""What the first driver of this kind got wrong in 2011, and its successor in 2012: a test for each defect.

What other tests show already: verbs that it did not have are refused by name (sr_kinds), types pick their
pool (service), what an SR is forgotten for comes back (sr_commands), 1,000 volumes cost no more (many),
one SR in two pools of hosts is refused (health), a failure keeps its code and parameters (wire).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from xen_settings import configured, section
from xen_storage import Admin
from xenserver import Simulator, simulated

from breezeblock.attempt import Attempt
from breezeblock.backends.contract import Backend, Volume
from breezeblock.backends.registry import open_backend, read_config
from breezeblock.cli import run
from breezeblock.connect.xenserver import XenServerConnector
from breezeblock.errors import BreezeblockError, UnavailableError
from breezeblock.xenapi.mirror import Mirror
from breezeblock.xenapi.session import Account, Session

MIB = 1 << 20


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with simulated("--http") as running:
        yield running


@pytest.fixture
def admin(simulator: Simulator) -> Admin:
    return Admin(simulator)


def attempt() -> Attempt:
    return Attempt(operation_id=str(uuid4()), token="1")


def new(pool: str = "gold") -> Volume:
    return Volume(id=str(uuid4()), virtual_bytes=4 * MIB, pool=pool)


def opened(given: dict[str, Any], folder: Path) -> Backend:
    backend = open_backend("xen", read_config(given, "test"), folder)
    backend.start()
    return backend


def pbds_of(admin: Admin, label: str) -> list[dict[str, Any]]:
    (sr,) = admin.ask("SR.get_by_name_label", label)
    return [admin.ask("PBD.get_record", pbd) for pbd in admin.ask("SR.get_PBDs", sr)]


def test_an_sr_that_was_just_made_is_used_at_once(simulator: Simulator, tmp_path: Path) -> None:
    """1.5.4: what was read before the SR was made stood for no SR."""
    given = section(simulator, tmp_path, "nfs", "made later")
    backend = opened(given, tmp_path)
    assert [(pool.up, "no SRs" in pool.reason) for pool in backend.stats()] == [(False, True)]
    with pytest.raises(UnavailableError, match="no SRs are called made later"):
        backend.create(new(), attempt())
    path = configured(tmp_path, given)
    assert run(["xenserver", "sr", "create", "xen", "gold", "--yes", "--config", path]) == 0
    volume = new()
    backend.create(volume, attempt())
    backend.delete(volume, attempt())
    backend.stop()


def test_values_may_hold_anything_and_be_long(simulator: Simulator, admin: Admin, tmp_path: Path) -> None:
    """1.5.5: they were joined by spaces and cut at 2,047 characters."""
    options = "vers=4.1,sec=sys proto=tcp 'quoted' ümlaut " + "x" * 3000
    config = {"server": "nas", "serverpath": "/with space/and=sign", "options": options}
    given = section(simulator, tmp_path, "nfs", "any value", device_config=config)
    given["pools"]["gold"]["secret_files"] = {}
    path = tmp_path / "breezeblock.toml"
    lines = [f"{key} = '{value}'" for key, value in given.items() if key != "pools"]
    held = ", ".join(f'{key} = "{value}"' for key, value in config.items())
    pool = f'[backends.xen.pools.gold]\nsr = "any value"\ntype = "nfs"\ndevice_config = {{ {held} }}\n'
    path.write_text("[backends.xen]\n" + "\n".join(lines) + "\n" + pool)
    assert run(["xenserver", "sr", "create", "xen", "gold", "--yes", "--config", str(path)]) == 0
    assert [pbd["device_config"] for pbd in pbds_of(admin, "any value")] == [config, config]


def test_secrets_stand_in_nothing_that_a_reader_sees(
    simulator: Simulator, admin: Admin, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """1.5.5 and 1.5.6: `backend_list` printed them, the database had them, and SR.sm_config too."""
    given = section(simulator, tmp_path, "lvmoiscsi", "secretive")
    path = configured(tmp_path, given)
    assert run(["xenserver", "sr", "create", "xen", "gold", "--yes", "--config", path]) == 0
    (sr,) = admin.ask("SR.get_by_name_label", "secretive")
    uuid = admin.ask("SR.get_uuid", sr)
    assert admin.ask("SR.get_sm_config", sr) == {}
    assert run(["xenserver", "sr", "forget", "xen", "gold", "--yes", "--config", path]) == 0
    assert run(["xenserver", "sr", "introduce", "xen", "gold", uuid, "--config", path]) == 0
    (sr,) = admin.ask("SR.get_by_name_label", "secretive")
    assert admin.ask("SR.get_sm_config", sr) == {}
    assert run(["xenserver", "sr", "list", "xen", "--json", "--config", path]) == 0
    assert run(["xenserver", "sr", "plug", "xen", "gold", "--config", path]) == 0
    backend, volume = opened(given, tmp_path), new()
    backend.create(volume, attempt())
    shown = [
        capsys.readouterr(),
        backend.connection_info(volume, {}),
        admin.ask("SR.get_all_records"),
        admin.ask("PBD.get_all_records"),
        admin.ask("VDI.get_all_records"),
    ]
    assert "array-secret" not in str(shown)
    old = opened(given | {"connection_type": "xensm"}, tmp_path)
    fields = old.connection_info(volume, {})
    assert fields.driver_volume_type == "xensm"
    assert {"sr_uuid", "sr_type", "vdi_uuid", "target", "targetIQN", "SCSIid"} <= fields.data.keys()
    assert fields.data["introduce_sr_keys"] == ["target", "targetIQN", "SCSIid", "sr_type"]
    assert "array-secret" not in str(fields)
    backend.delete(volume, attempt())
    for one in (backend, old):
        one.stop()


@pytest.mark.parametrize(("kind", "shared"), [("smb", True), ("xfs", False)])
def test_an_sr_is_shared_only_where_its_type_is(
    kind: str, shared: bool, simulator: Simulator, admin: Admin, tmp_path: Path
) -> None:
    """1.5.7: nothing was shared, and nothing had a content type."""
    path = configured(tmp_path, section(simulator, tmp_path, kind, f"is {kind}"))
    assert run(["xenserver", "sr", "create", "xen", "gold", "--yes", "--config", path]) == 0
    (sr,) = admin.ask("SR.get_by_name_label", f"is {kind}")
    assert (admin.ask("SR.get_shared", sr), admin.ask("SR.get_content_type", sr)) == (shared, "user")
    assert len(pbds_of(admin, f"is {kind}")) == (2 if shared else 1)


def test_a_detach_leaves_the_sr_to_the_others(simulator: Simulator, admin: Admin, tmp_path: Path) -> None:
    """1.5.10: detaching forgot the SR, though others used it."""
    admin.make_sr("nfs", "in common")
    backend = opened(section(simulator, tmp_path, "nfs", "in common"), tmp_path)
    session = Session(Account((simulator.url,), "root", "secret"))
    connector = XenServerConnector(session, Mirror(session))
    vm = admin.ask("VM.create", {"name_label": "one guest"})
    admin.ask("VM.start", vm, False, False)
    machine = admin.ask("VM.get_uuid", vm)
    volumes = [new(), new()]
    for volume in volumes:
        backend.create(volume, attempt())
    told = [backend.connection_info(volume, {}).data for volume in volumes]
    for data in told:
        connector.attach(data, machine)
    for data in told:
        connector.detach(data, machine)
        assert [pbd["currently_attached"] for pbd in pbds_of(admin, "in common")] == [True, True]
    for volume in volumes:
        backend.delete(volume, attempt())
    backend.stop()


def test_one_pool_that_cannot_be_reached_takes_down_nothing_else(
    simulator: Simulator, admin: Admin, tmp_path: Path
) -> None:
    """1.5.12: the service did not start if any back end was unreachable."""
    admin.make_sr("nfs", "reachable")
    given = section(simulator, tmp_path, "nfs", "reachable")
    given["pools"]["lost"] = {"sr": "nowhere", "type": "ext"}
    backend, volume = opened(given, tmp_path), new()
    assert {pool.name: pool.up for pool in backend.stats()} == {"gold": True, "lost": False}
    backend.create(volume, attempt())
    with pytest.raises(UnavailableError):
        backend.create(new("lost"), attempt())
    backend.delete(volume, attempt())
    backend.stop()
    dark = opened(given | {"url": "http://127.0.0.1:1", "certificate_sha256": ""}, tmp_path)
    (first, _second) = dark.stats()
    assert not first.up
    assert "cannot be reached" in first.reason
    dark.stop()


@pytest.mark.parametrize("after", [False, True])
def test_an_sr_whose_making_failed_leaves_nothing(
    after: bool, simulator: Simulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """1.6: a failure left SR and PBD behind. And 1.5.13: the reason was swallowed."""
    label = f"failed {after}"
    path = configured(tmp_path, section(simulator, tmp_path, "lvmoiscsi", label))
    making = ["xenserver", "sr", "create", "xen", "gold", "--yes", "--config", path]
    before = simulator.do("names")
    said = ["", "the driver's own words", ""]
    fault = {"method": "SR.create", "code": "SR_BACKEND_FAILURE_47", "params": said, "after": after}
    simulator.do("fault", **fault)
    assert run(making) != 0
    error = " ".join(capsys.readouterr().err.split())
    assert "SR_BACKEND_FAILURE_47 (the driver's own words)" in error
    assert "Do not forget the SR" in error
    if not after:
        assert simulator.do("names") == before
    assert run(making) == 0
    assert len(Admin(simulator).ask("SR.get_by_name_label", label)) == 1


def test_a_killed_making_leaves_no_secret_twice(simulator: Simulator, admin: Admin, tmp_path: Path) -> None:
    """A process that died after it had made the secret: the next one takes that away."""
    given = section(simulator, tmp_path, "lvmoiscsi", "secret twice")
    path = configured(tmp_path, given)
    mark = {"breezeblock:secret": "Breezeblock xen/gold:chappassword"}
    admin.ask("secret.create", {"value": "array-secret", "other_config": mark})
    others = admin.ask("secret.create", {"value": "theirs", "other_config": {"breezeblock:secret": "x:y"}})
    assert run(["xenserver", "sr", "create", "xen", "gold", "--yes", "--config", path]) == 0
    left = admin.ask("secret.get_all_records")
    assert [ref for ref, secret in left.items() if secret["other_config"]] == [others]
    admin.ask("secret.destroy", others)


def test_sizes_are_numbers_that_are_true(simulator: Simulator, admin: Admin, tmp_path: Path) -> None:
    """1.6: capacity was `unknown`, and two values were tuples by a stray comma."""
    uuid = admin.make_sr("lvmohba", "measured")
    simulator.do("capacity", sr=uuid, count=64 * MIB)
    backend, volume = opened(section(simulator, tmp_path, "lvmohba", "measured"), tmp_path), new()
    backend.create(volume, attempt())
    (pool,) = backend.stats()
    assert (pool.total_bytes, pool.free_bytes) == (64 * MIB, 60 * MIB)
    backend.delete(volume, attempt())
    backend.stop()


def test_the_reason_of_a_failed_create_is_told(simulator: Simulator, admin: Admin, tmp_path: Path) -> None:
    """1.5.13: `Create failed` was all that was said."""
    admin.make_sr("nfs", "failing")
    backend = opened(section(simulator, tmp_path, "nfs", "failing"), tmp_path)
    said = ["", "VDI creation failed [opterr=no inode]", ""]
    simulator.do("fault", method="VDI.create", code="SR_BACKEND_FAILURE_78", params=said)
    with pytest.raises(BreezeblockError, match=r"SR_BACKEND_FAILURE_78 \(VDI creation .*no inode") as caught:
        backend.create(new(), attempt())
    assert "SMlog" in caught.value.remedy
    backend.stop()
