"""The simulator driven by clients that are not ours: the XAPI project's and Xen Orchestra's."""

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import XenAPI
from xenserver import Simulator, simulated

MIB = 1 << 20


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with simulated("--coalesce-delay", "0.05") as running:
        yield running


@pytest.fixture
def api(simulator: Simulator) -> Iterator[Any]:
    session = XenAPI.Session(simulator.url, ignore_ssl=True)
    session.xenapi.login_with_password("root", "secret", "1.0", "a foreign client")
    yield session.xenapi
    session.xenapi.session.logout()


def events(api: Any) -> Any:
    return getattr(api.event, "from")  # a word of Python's


def fails(code: str, call: Any, *params: Any) -> list[str]:
    with pytest.raises(XenAPI.Failure) as caught:
        call(*params)
    details: list[str] = caught.value.details
    assert details[0] == code
    return details[1:]


def test_the_life_of_a_disk(api: Any, simulator: Simulator) -> None:
    host = api.host.get_all()[0]
    config = {
        "target": "san",
        "targetIQN": "iqn.x:y",
        "SCSIid": "36",
        "chapuser": "u",
        "chappassword": "hidden",
    }
    sr = api.SR.create(host, config, "0", "shared", "", "lvmoiscsi", "user", True, {})
    pbds = [api.PBD.get_record(pbd) for pbd in api.SR.get_PBDs(sr)]
    assert len(pbds) == 2
    for pbd in pbds:
        assert "chappassword" not in pbd["device_config"]
        secret = api.secret.get_by_uuid(pbd["device_config"]["chappassword_secret"])
        assert api.secret.get_value(secret) == "hidden"
    assert len({pbd["device_config"]["chappassword_secret"] for pbd in pbds}) == 2

    record = {
        "name_label": "disk",
        "SR": sr,
        "virtual_size": str(5 * MIB + 1),
        "type": "user",
        "sharable": False,
        "read_only": False,
        "other_config": {"a": "b"},
    }
    vdi = api.VDI.create(record)
    assert api.VDI.get_virtual_size(vdi) == str(6 * MIB)
    assert api.VDI.get_record(vdi)["other_config"] == {"a": "b"}
    assert "snapshot" in api.VDI.get_allowed_operations(vdi)
    simulator.write(api.VDI.get_uuid(vdi), 0, b"data" * 1024)
    token = events(api)(["vdi"], "", 0.0)["token"]
    task = getattr(api, "Async").VDI.snapshot(vdi, {})  # noqa: B009
    while api.task.get_status(task) == "pending":
        time.sleep(0.01)
    assert api.task.get_status(task) == "success"
    result = api.task.get_result(task)
    assert result.startswith("<value>OpaqueRef:")
    snapshot = result.removeprefix("<value>").removesuffix("</value>")
    made = api.VDI.get_record(snapshot)
    assert (made["is_a_snapshot"], made["snapshot_of"], made["other_config"]) == (True, vdi, {"a": "b"})
    assert api.VDI.get_snapshots(vdi) == [snapshot]
    bases = [one for one in api.VDI.get_all_records().values() if one["name_label"] == "base copy"]
    assert [one["managed"] for one in bases] == [False]
    assert made["sm_config"]["vhd-parent"] == bases[0]["uuid"]
    batch = events(api)(["vdi"], token, 1.0)
    operations = {(event["ref"], event["operation"]) for event in batch["events"]}
    assert (snapshot, "add") in operations
    assert int(batch["valid_ref_counts"]["vdi"]) == len(api.VDI.get_all())

    vm = api.VM.create({"name_label": "guest"})
    vbd = api.VBD.create(
        {
            "VM": vm,
            "VDI": vdi,
            "userdevice": "autodetect",
            "bootable": False,
            "mode": "RW",
            "type": "Disk",
            "unpluggable": True,
            "empty": False,
            "other_config": {},
            "qos_algorithm_type": "",
            "qos_algorithm_params": {},
        }
    )
    fails("VM_BAD_POWER_STATE", api.VBD.plug, vbd)
    api.VM.start(vm, False, False)
    assert api.VBD.get_currently_attached(vbd)
    fails("DEVICE_ALREADY_ATTACHED", api.VBD.plug, vbd)
    assert fails("VDI_IN_USE", api.VDI.destroy, vdi) == [vdi, "destroy"]
    fails("VDI_IN_USE", api.VDI.resize, vdi, str(8 * MIB))
    fails("VDI_IN_USE", api.PBD.unplug, api.SR.get_PBDs(sr)[0])
    api.VBD.unplug(vbd)
    api.VBD.destroy(vbd)
    api.VDI.resize(vdi, str(8 * MIB))
    clone = api.VDI.clone(snapshot, {})
    assert simulator.read(api.VDI.get_uuid(clone), 4096) == b"data" * 1024
    fails("SR_HAS_PBD", api.SR.destroy, sr)
    for one in (vdi, snapshot, clone):
        api.VDI.destroy(one)
    end = time.monotonic() + 30
    while api.SR.get_VDIs(sr) and time.monotonic() < end:
        time.sleep(0.05)
    assert api.SR.get_VDIs(sr) == [], "the collector left base copies"
    for pbd in api.SR.get_PBDs(sr):
        api.PBD.unplug(pbd)
    api.SR.destroy(sr)
    assert api.secret.get_all() == []


def test_failures_have_the_code_and_parameters_of_the_model(api: Any) -> None:
    assert fails("HANDLE_INVALID", api.VDI.get_record, "OpaqueRef:x") == ["VDI", "OpaqueRef:x"]
    assert fails("UUID_INVALID", api.SR.get_by_uuid, "x") == ["SR", "x"]
    fails("MESSAGE_METHOD_UNKNOWN", api.VDI.fly, "x")
    assert fails("MESSAGE_PARAMETER_COUNT_MISMATCH", api.VDI.get_record)[0] == "VDI.get_record"
    fails("SR_UNKNOWN_DRIVER", api.SR.create, api.host.get_all()[0], {}, "0", "", "", "tape", "", True, {})
    host = api.host.get_all()[0]
    error = fails("SR_BACKEND_FAILURE_101", api.SR.probe, host, {"server": "nas"}, "nfs", {})
    assert "<nfs-exports>" in error[2]
    fails("EVENT_FROM_TOKEN_PARSE_FAILURE", events(api), ["vdi"], "nonsense", 0.0)
    fails("EVENT_SUBSCRIPTION_PARSE_FAILURE", events(api), ["/"], "", 0.0)
    pool = api.pool.get_all()[0]
    api.pool.add_to_other_config(pool, "k", "v")
    fails("MAP_DUPLICATE_KEY", api.pool.add_to_other_config, pool, "k", "v")


def test_a_session_that_ended_is_invalid(simulator: Simulator) -> None:
    session = XenAPI.Session(simulator.url, ignore_ssl=True)
    with pytest.raises(XenAPI.Failure) as caught:
        session.xenapi.login_with_password("root", "wrong")
    assert caught.value.details[:2] == ["SESSION_AUTHENTICATION_FAILED", "root"]
    other = XenAPI.Session(simulator.url.replace("127.0.0.1", "127.0.0.2"), ignore_ssl=True)
    with pytest.raises(XenAPI.Failure) as caught:
        other.xenapi.login_with_password("root", "secret")
    assert caught.value.details == ["HOST_IS_SLAVE", "127.0.0.1"]


@pytest.mark.parametrize("rpc", ["json-rpc", "xml-rpc"])
def test_xen_orchestras_client(rpc: str, simulator: Simulator) -> None:
    """Needs `tools/setup.sh test`, which installs the package as package-lock.json beside this has it."""
    command = ["node", "xen_api_scenario.mjs", simulator.url, rpc]
    here = Path(__file__).parent
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=here)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert json.loads(done.stdout) == {
        "size": 4 * MIB,
        "sr": f"by {rpc}",
        "snapshot": True,
        "same": True,
        "renamed": "renamed",
        "failure": ["HANDLE_INVALID", "VDI", "OpaqueRef:none"],
    }
