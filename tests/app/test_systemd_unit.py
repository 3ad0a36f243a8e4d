"""The unit that is shipped, and what the service tells the service manager."""

import http.client
import os
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from breezeblock.app import quickstart

UNIT = Path(__file__).parent.parent.parent / "contrib" / "breezeblock.service"

# Each gives the service mounts of its own, which nobody else on the machine would see (systemd.exec(5)).
OWN_MOUNTS = {
    "BindPaths",
    "InaccessiblePaths",
    "MountFlags",
    "PrivateDevices",
    "PrivateMounts",
    "PrivateTmp",
    "ProtectControlGroups",
    "ProtectHome",
    "ProtectHostname",
    "ProtectKernelLogs",
    "ProtectKernelModules",
    "ProtectKernelTunables",
    "ProtectProc",
    "ProtectSystem",
    "ReadOnlyPaths",
    "ReadWritePaths",
    "TemporaryFileSystem",
}


def _directives() -> dict[str, str]:
    lines = [line for line in UNIT.read_text().splitlines() if "=" in line and not line.startswith("#")]
    return {key: value for key, _, value in (line.partition("=") for line in lines)}


def test_the_unit_starts_what_exists_and_takes_all_children_with_it() -> None:
    unit = _directives()
    program, *arguments = shlex.split(unit["ExecStart"])
    assert Path(program).name == "breezeblock"
    helped = subprocess.run(
        [sys.executable, "-c", "from breezeblock.cli import main; main()", arguments[0], "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--config" in arguments
    assert "--config" in helped.stdout
    assert (unit["Type"], unit["KillMode"], unit["Restart"]) == ("notify", "control-group", "always")
    assert int(unit["WatchdogSec"]) > 0
    assert int(unit["TimeoutStopSec"]) > 10  # engine.stop_timeout_s, and something to spare


def test_the_unit_hides_no_mount_from_hypervisors_on_the_machine() -> None:
    assert not OWN_MOUNTS & set(_directives())
    assert "@mount" in _directives()["SystemCallFilter"]


@pytest.fixture
def manager(tmp_path: Path) -> socket.socket:
    """What systemd would listen on."""
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    channel.bind(str(tmp_path / "notify"))
    channel.settimeout(60)
    return channel


def test_the_manager_hears_when_it_is_ready_alive_and_stopping(
    tmp_path: Path, manager: socket.socket
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    quickstart.prepare(tmp_path / "data", port)
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from breezeblock.cli import main; main()",
            "serve",
            "--config",
            str(tmp_path / "data" / "breezeblock.toml"),
        ],
        env=os.environ | {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "400000"},
        stderr=subprocess.DEVNULL,
    )
    heard = []
    while "READY=1" not in heard:
        heard.append(manager.recv(4096).decode())
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/healthz")
    assert connection.getresponse().status == 200
    connection.close()
    while heard[-1] != "WATCHDOG=1":
        heard.append(manager.recv(4096).decode())
    process.send_signal(signal.SIGTERM)
    while "STOPPING=1" not in heard:
        heard.append(manager.recv(4096).decode())
    assert process.wait(timeout=60) == 0
    manager.close()
