"""Disks in machines: found again after a kill at any line, never twice, never somebody else's."""

from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest
from xen_storage import Admin, XenStorage
from xenserver import Simulator, simulated

from breezeblock.attempt import Attempt
from breezeblock.backends.contract import Volume
from breezeblock.connect import Attached, Connector
from breezeblock.connect.xenserver import XenServerConnector
from breezeblock.errors import BreezeblockError, ConflictError, InvalidInputError, NotFoundError
from breezeblock.testing import Outcome, run_killed_at, trace_lines
from breezeblock.xenapi.mirror import Mirror
from breezeblock.xenapi.session import Account, Session

MIB = 1 << 20
PACKAGES = ("breezeblock.connect.xenserver",)


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with simulated("--http") as running:
        yield running


@pytest.fixture(scope="module")
def admin(simulator: Simulator) -> Admin:
    return Admin(simulator)


@pytest.fixture(scope="module")
def storage(simulator: Simulator, admin: Admin, tmp_path_factory: pytest.TempPathFactory) -> XenStorage:
    return XenStorage(simulator, tmp_path_factory.mktemp("xen"), admin.make_sr("nfs", "connected"))


@pytest.fixture
def data(storage: XenStorage) -> Iterator[dict[str, Any]]:
    backend = storage.open()
    volume = Volume(id=str(uuid4()), virtual_bytes=4 * MIB, pool="gold")
    backend.create(volume, Attempt(operation_id="o", token="1"))
    yield backend.connection_info(volume, {}).data
    backend.delete(volume, Attempt(operation_id="o", token="2"))
    backend.stop()


@pytest.fixture
def machine(admin: Admin) -> Iterator[str]:
    ref = admin.ask("VM.create", {"name_label": f"guest {uuid4()}"})
    admin.ask("VM.start", ref, False, False)
    yield ref
    admin.ask("VM.hard_shutdown", ref)
    admin.ask("VM.destroy", ref)


def connector(simulator: Simulator) -> Connector:
    session = Session(Account((simulator.url,), "root", "secret"))
    return XenServerConnector(session, Mirror(session))


def plugged(admin: Admin, machine: str) -> list[bool]:
    return [admin.ask("VBD.get_currently_attached", one) for one in admin.ask("VM.get_VBDs", machine)]


def test_attach_and_detach_may_be_repeated(
    simulator: Simulator, admin: Admin, data: dict[str, Any], machine: str
) -> None:
    made = connector(simulator)
    name, uuid = admin.ask("VM.get_name_label", machine), admin.ask("VM.get_uuid", machine)
    assert made.find(data, name) is None
    for consumer in (name, uuid):
        assert made.attach(data, consumer) == Attached(consumer=uuid, device="xvda")
    assert made.find(data, name) == Attached(consumer=uuid, device="xvda")
    with pytest.raises(ConflictError, match="as RW"):
        made.attach(data, uuid, read_only=True)
    for consumer in (name, uuid):
        made.detach(data, consumer)
    assert plugged(admin, machine) == []
    assert made.attach(data | {"access_mode": "ro"}, uuid).read_only
    made.detach(data, uuid)


def test_a_machine_that_is_off_gets_the_disk_when_it_starts(
    simulator: Simulator, admin: Admin, data: dict[str, Any], machine: str
) -> None:
    admin.ask("VM.hard_shutdown", machine)
    made, uuid = connector(simulator), admin.ask("VM.get_uuid", machine)
    assert made.attach(data, uuid).device == ""
    admin.ask("VM.start", machine, False, False)
    assert made.attach(data, uuid).device == "xvda"
    made.detach(data, uuid)


def test_what_others_connected_is_theirs(
    simulator: Simulator, admin: Admin, data: dict[str, Any], machine: str
) -> None:
    vdi = admin.ask("VDI.get_by_uuid", data["vdi_uuid"])
    record = {"VM": machine, "VDI": vdi, "userdevice": "3", "bootable": False, "mode": "RW", "type": "Disk"}
    record |= {"empty": False, "other_config": {}, "qos_algorithm_type": "", "qos_algorithm_params": {}}
    vbd = admin.ask("VBD.create", record)
    made, uuid = connector(simulator), admin.ask("VM.get_uuid", machine)
    for verb in (made.attach, made.detach):
        with pytest.raises(ConflictError, match="not ours"):
            verb(data, uuid)
    admin.ask("VBD.destroy", vbd)


def test_a_disk_in_another_machine_leaves_no_connection_behind(
    simulator: Simulator, admin: Admin, data: dict[str, Any], machine: str
) -> None:
    other = admin.ask("VM.create", {"name_label": f"other {uuid4()}"})
    admin.ask("VM.start", other, False, False)
    made, uuids = connector(simulator), [admin.ask("VM.get_uuid", one) for one in (machine, other)]
    made.attach(data, uuids[0])
    with pytest.raises(ConflictError, match="VDI_IN_USE"):
        made.attach(data, uuids[1])
    assert plugged(admin, other) == []
    made.detach(data, uuids[0])
    assert made.attach(data, uuids[1]).device
    made.detach(data, uuids[1])
    admin.ask("VM.hard_shutdown", other)
    admin.ask("VM.destroy", other)


def test_what_is_not_there_is_named(simulator: Simulator, data: dict[str, Any], admin: Admin) -> None:
    made = connector(simulator)
    with pytest.raises(NotFoundError, match="No machines are called nobody"):
        made.attach(data, "nobody")
    with pytest.raises(NotFoundError, match="no disk"):
        made.attach({"vdi_uuid": str(uuid4())}, "nobody")
    with pytest.raises(InvalidInputError, match="vdi_uuid"):
        made.attach({}, "nobody")
    made.detach(data, "nobody")
    twins = [admin.ask("VM.create", {"name_label": "twin"}) for _ in range(2)]
    with pytest.raises(NotFoundError, match="2 machines"):
        made.attach(data, "twin")
    for one in twins:
        admin.ask("VM.destroy", one)


@pytest.mark.crash
@pytest.mark.parametrize("verb", ["attach", "detach"])
def test_killed_before_any_line(
    verb: str, simulator: Simulator, admin: Admin, data: dict[str, Any], machine: str
) -> None:
    uuid = admin.ask("VM.get_uuid", machine)

    def act() -> None:
        call: Callable[..., object] = getattr(connector(simulator), verb)
        call(data, uuid)

    def begin() -> None:
        mine = connector(simulator)
        mine.detach(data, uuid)
        if verb == "detach":
            mine.attach(data, uuid)

    begin()
    lines = trace_lines(act, PACKAGES)
    assert len(lines) > 20
    for moment in lines:
        begin()
        assert run_killed_at(act, PACKAGES, moment) is Outcome.KILLED
        act()
        assert plugged(admin, machine) == ([True] if verb == "attach" else []), moment
        connector(simulator).detach(data, uuid)
        assert plugged(admin, machine) == [], moment


def test_a_host_that_dies_while_plugging(
    simulator: Simulator, admin: Admin, data: dict[str, Any], machine: str
) -> None:
    made, uuid = connector(simulator), admin.ask("VM.get_uuid", machine)
    simulator.do("fault", method="VBD.plug", die=True, after=True)
    with pytest.raises(BreezeblockError, match="HOST_OFFLINE"):
        made.attach(data, uuid)
    assert made.attach(data, uuid).device
    made.detach(data, uuid)
    assert plugged(admin, machine) == []
