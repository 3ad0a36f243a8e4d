"""SRs by the command and by the configuration: brought back, repaired, probed, refused."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from xen_settings import configured, section
from xen_storage import Admin
from xenserver import Simulator, simulated

from breezeblock.backends.registry import read_config
from breezeblock.cli import run
from breezeblock.errors import ConfigError


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with simulated("--cluster") as running:
        yield running


@pytest.mark.parametrize("kind", ["nfs", "lvmoiscsi"])
def test_an_sr_comes_back_after_it_was_forgotten(kind: str, simulator: Simulator, tmp_path: Path) -> None:
    path = configured(tmp_path, section(simulator, tmp_path, kind, f"back-{kind}"))
    admin = Admin(simulator)
    uuid = admin.make_sr(kind, f"back-{kind}")
    assert run(["xenserver", "sr", "forget", "xen", "gold", "--yes", "--config", path]) == 0
    assert admin.ask("SR.get_by_name_label", f"back-{kind}") == []
    for _again in range(2):
        assert run(["xenserver", "sr", "introduce", "xen", "gold", uuid, "--config", path]) == 0
    (sr,) = admin.ask("SR.get_by_name_label", f"back-{kind}")
    first, second = admin.ask("SR.get_PBDs", sr)
    admin.ask("PBD.unplug", second)
    admin.ask("PBD.destroy", second)
    admin.ask("PBD.unplug", first)
    assert run(["xenserver", "sr", "repair", "xen", "gold", "--config", path]) == 0
    pbds = [admin.ask("PBD.get_record", pbd) for pbd in admin.ask("SR.get_PBDs", sr)]
    assert [pbd["currently_attached"] for pbd in pbds] == [True, True]


@pytest.mark.parametrize(
    ("kind", "keys", "shows"),
    [
        ("nfs", ["server=nas"], "/exports/vm"),
        ("lvmoiscsi", ["target=san"], "iqn.2026-01.org.example:t0"),
        ("lvmoiscsi", ["target=san", "targetIQN=iqn.2026-01.org.example:t0"], "36001405sim0"),
    ],
)
def test_probe_shows_what_there_is(
    kind: str,
    keys: list[str],
    shows: str,
    simulator: Simulator,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = configured(tmp_path, section(simulator, tmp_path, "nfs", "x"))
    options = [part for key in keys for part in ("--key", key)]
    assert run(["xenserver", "probe", "xen", kind, *options, "--json", "--config", path]) == 0
    assert shows in capsys.readouterr().out


def test_a_probe_may_need_a_secret(
    simulator: Simulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = configured(tmp_path, section(simulator, tmp_path, "nfs", "x"))
    keys = ["--key", "target=filer", "--key", "username=admin"]
    probe = ["xenserver", "probe", "xen", "netapp", *keys, "--config", path]
    assert run(probe) != 0
    assert "SR_BACKEND_FAILURE_115" in capsys.readouterr().err
    assert run([*probe, "--secret", f"password={tmp_path / 'array'}"]) == 0
    assert run([*probe, "--secret", f"password={tmp_path / 'nowhere'}"]) != 0
    assert run([*probe, "--key", "password=array-secret"]) == 2
    assert "array-secret" not in str(capsys.readouterr())


def test_a_driver_of_the_newer_interface_is_probed_its_own_way(
    simulator: Simulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = section(simulator, tmp_path, "gfs2", "clustered")
    path = configured(tmp_path, given)
    asking = ["xenserver", "probe", "xen", "gfs2", "--json", "--config", path, "--key", "provider=hba"]
    assert run(asking) == 0
    (lun,) = json.loads(capsys.readouterr().out)
    assert lun == {"provider": "hba", "ScsiId": "36001405sim0", "vendor": "SIM"}
    assert run(["xenserver", "sr", "create", "xen", "gold", "--yes", "--config", path]) == 0
    (uuid,) = (line.split()[1] for line in capsys.readouterr().out.splitlines() if "uuid" in line.lower())
    assert run([*asking, "--key", "ScsiId=36001405sim0"]) == 0
    assert [one["UUID"] for one in json.loads(capsys.readouterr().out)] == [uuid]


def test_what_the_hosts_have_no_driver_for_is_refused_before_the_call(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with simulated("--http", "--without", "netapp linstor") as hosts:
        for kind, says in (
            ("netapp", "NetApp was dropped: between XenServer 6.2 and 6.5."),
            ("linstor", "The hosts have no storage driver of type linstor."),
            ("gfs2", "Make the hosts a cluster"),
            ("zfs", "SR_OPERATION_NOT_SUPPORTED"),
        ):
            path = configured(tmp_path, section(hosts, tmp_path, kind, kind))
            verb = ["probe", "xen", "zfs"] if kind == "zfs" else ["sr", "create", "xen", "gold", "--yes"]
            hosts.do("calls", reset=True)
            assert run(["xenserver", *verb, "--config", path]) != 0
            assert says in " ".join(capsys.readouterr().err.split())
            assert ("Async.SR.create" in hosts.do("calls")) == (kind == "gfs2")
            assert hosts.do("names") == [], "a secret or an SR stays"


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"type": "tape"}, "no type of SR"),
        ({"type": "nfs", "device_config": {"server": "a"}}, "serverpath"),
        ({"type": "nfs", "device_config": {"server": "a", "serverpath": "relative"}}, "serverpath"),
        ({"type": "nfs", "device_config": {"server": "a", "serverpath": "/b", "sever": "c"}}, "sever"),
        ({"type": "equal", "device_config": {"password": "hunter2"}}, "secret_files"),
    ],
)
def test_settings_that_cannot_work_are_refused(
    config: dict[str, Any], says: str, simulator: Simulator, tmp_path: Path
) -> None:
    given = section(simulator, tmp_path, "nfs", "x")
    given["pools"] = {"gold": {"sr": "x"} | config}
    with pytest.raises(ConfigError, match=says) as caught:
        read_config(given, "test")
    assert "hunter2" not in str(caught.value)


def test_a_password_never_travels_without_tls(tmp_path: Path, simulator: Simulator) -> None:
    given = section(simulator, tmp_path, "nfs", "x") | {"url": "http://xen.example.org"}
    with pytest.raises(ConfigError, match="TLS"):
        read_config(given, "test")


def test_every_type_is_listed_with_its_keys(capsys: pytest.CaptureFixture[str]) -> None:
    seed = {"nfs", "ext", "lvm", "lvmohba", "lvmoiscsi", "iscsi", "hba", "netapp", "equal"}
    today = {"smb", "file", "xfs", "zfs", "cephfs", "glusterfs", "moosefs", "linstor", "gfs2"}
    assert run(["xenserver", "sr-types", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed.keys() >= seed | today | {"largeblock", "lvmofcoe"}
    assert {name for name, kind in listed.items() if kind["gone"]} == {
        "lvmofcoe",
        "rawhba",
        "netapp",
        "equal",
        "cslg",
    }
    assert "4\\.1" in listed["nfs"]["keys"]["nfsversion"]["pattern"]
    assert run(["xenserver", "sr-types"]) == 0
    assert "server*, username, password!" in " ".join(capsys.readouterr().out.split())
