"""SRs by the command and by the configuration: brought back, repaired, probed, refused."""

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
    with simulated() as running:
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
