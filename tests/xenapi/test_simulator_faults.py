"""Faults as the README of the simulator says how to provoke them, seen by a client that is not ours."""

import http.client
import time
import xmlrpc.client
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import XenAPI
from xen_storage import DEVICE_CONFIG
from xenserver import Simulator, simulated

MIB = 1 << 20


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with simulated("--http", "--coalesce-delay", "0.02", "--luns", str(4 * MIB)) as running:
        yield running


@pytest.fixture
def api(simulator: Simulator) -> Any:
    session = XenAPI.Session(simulator.url)
    session.xenapi.login_with_password("root", "secret")
    return session.xenapi


def make_sr(api: Any, kind: str = "nfs") -> str:
    host = api.host.get_all()[0]
    config = DEVICE_CONFIG[kind]
    return str(api.SR.create(host, config, "0", f"{kind} {time.monotonic_ns()}", "", kind, "user", True, {}))


def disk(api: Any, sr: str, size: int = 4 * MIB) -> str:
    record = {"name_label": "d", "SR": sr, "virtual_size": str(size), "type": "user", "sharable": False}
    return str(api.VDI.create(record | {"read_only": False, "other_config": {}}))


def fails(code: str, call: Callable[[], object]) -> list[str]:
    with pytest.raises(XenAPI.Failure) as caught:
        call()
    assert caught.value.details[0] == code, caught.value.details
    return list(caught.value.details[1:])


def test_no_space(api: Any, simulator: Simulator) -> None:
    sr = make_sr(api, "lvmoiscsi")
    simulator.do("capacity", sr=api.SR.get_uuid(sr), count=6 * MIB)
    disk(api, sr)
    said = fails("SR_BACKEND_FAILURE_44", lambda: disk(api, sr))
    assert "insufficient space" in said[1]
    luns = make_sr(api, "iscsi")
    disk(api, luns)
    fails("SR_BACKEND_FAILURE_44", lambda: disk(api, luns))


def test_a_disk_whose_data_is_gone(api: Any, simulator: Simulator) -> None:
    vdi = disk(api, make_sr(api))
    simulator.do("lose", vdi=api.VDI.get_uuid(vdi))
    fails("HANDLE_INVALID", lambda: api.VDI.snapshot(vdi, {}))  # the SR was scanned


@pytest.mark.parametrize("number", [46, 47, 1200])
def test_any_failure_of_a_driver(number: int, api: Any, simulator: Simulator) -> None:
    vdi = disk(api, make_sr(api))
    said = ["", "what the driver said [opterr=x]", ""]
    simulator.do("fault", method="VDI.snapshot", code=f"SR_BACKEND_FAILURE_{number}", params=said)
    assert fails(f"SR_BACKEND_FAILURE_{number}", lambda: api.VDI.snapshot(vdi, {})) == said
    assert api.VDI.snapshot(vdi, {})


@pytest.mark.parametrize(
    ("kind", "config", "number", "shows"),
    [
        ("nfs", {"server": "nas"}, 101, "<nfs-exports>"),
        ("lvmoiscsi", {"target": "san"}, 96, "<TargetIQN>"),
        ("lvmohba", {}, 107, "<SCSIid>"),
    ],
)
def test_discovery_by_failure(kind: str, config: dict[str, str], number: int, shows: str, api: Any) -> None:
    host = api.host.get_all()[0]
    said = fails(f"SR_BACKEND_FAILURE_{number}", lambda: api.SR.probe(host, config, kind, {}))
    assert shows in said[-1]


def test_a_chain_at_its_limit_while_the_collector_lags(api: Any, simulator: Simulator) -> None:
    simulator.do("lag", seconds=3600)
    vdi = disk(api, make_sr(api))
    uuid = api.VDI.get_uuid(vdi)
    for _ in range(29):
        simulator.write(uuid, 0, b"new" * 1000)
        api.VDI.destroy(api.VDI.snapshot(vdi, {}))
    simulator.write(uuid, 0, b"new" * 1000)
    fails("SR_BACKEND_FAILURE_109", lambda: api.VDI.snapshot(vdi, {}))
    simulator.do("collect")
    assert api.VDI.snapshot(vdi, {})
    simulator.do("lag", seconds=0.02)


def test_a_session_that_was_ended(simulator: Simulator) -> None:
    server = xmlrpc.client.ServerProxy(simulator.url)
    session: Any = server.session.login_with_password("root", "secret", "1.0", "")
    simulator.do("expire")
    reply: Any = server.host.get_all(session["Value"])
    assert reply["ErrorDescription"] == ["SESSION_INVALID", session["Value"]]


def test_a_disk_in_a_machine(api: Any) -> None:
    vdi, vm = disk(api, make_sr(api)), api.VM.create({"name_label": "guest"})
    record = {"VM": vm, "VDI": vdi, "userdevice": "0", "mode": "RW", "type": "Disk", "other_config": {}}
    api.VBD.create(record)
    api.VM.start(vm, False, False)
    for call in (lambda: api.VDI.destroy(vdi), lambda: api.VDI.resize(vdi, str(8 * MIB))):
        assert fails("VDI_IN_USE", call)[0] == vdi


def test_a_host_that_dies(api: Any, simulator: Simulator) -> None:
    vdi = disk(api, make_sr(api))
    simulator.do("fault", method="VDI.clone", die=True)
    task = getattr(api, "Async").VDI.clone(vdi, {})  # noqa: B009
    while api.task.get_status(task) == "pending":
        time.sleep(0.01)
    assert api.task.get_error_info(task)[0] == "HOST_OFFLINE"
    simulator.do("kill_host", number=1)
    other = XenAPI.Session(simulator.url.replace("127.0.0.1", "127.0.0.2"))
    with pytest.raises((OSError, http.client.HTTPException)):
        other.xenapi.login_with_password("root", "secret")
