"""The eight commands that the first five minutes consist of, by the real `openstack` client."""

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from deployed import Deployed, until

pytestmark = pytest.mark.clients
ADMIN = ("--cloud", "breezeblock-admin")


def _look(service: Deployed, *arguments: str) -> Any:
    """Ask with our own command, which starts ten times faster than the real client."""
    return json.loads(service.call("breezeblock", *arguments, "--json").stdout)


def _qemu_io(uri: str, *commands: str) -> str:
    words = [word for command in commands for word in ("-c", command)]
    argv = ["qemu-io", "-f", "raw", *words, uri]
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout


def _available(service: Deployed, kind: str, name: str) -> None:
    until(lambda: _look(service, kind, "show", name)["status"] == "available", f"{kind} {name} is available")


def test_the_first_eight_commands_end_as_cinders_would(service: Deployed) -> None:
    service.openstack("volume", "create", "--size", "1", "a")
    _available(service, "volume", "a")
    service.openstack("volume", "snapshot", "create", "--volume", "a", "s")
    _available(service, "snapshot", "s")
    service.openstack("volume", "create", "--snapshot", "s", "b")
    service.openstack("volume", "create", "--source", "a", "c")
    _available(service, "volume", "b")
    _available(service, "volume", "c")
    service.openstack("volume", "set", "--size", "2", "a")
    until(lambda: _look(service, "volume", "show", "a")["size"] == 2, "the volume is extended")
    service.openstack("volume", "snapshot", "delete", "s")
    until(lambda: _look(service, "snapshot", "list") == [], "s is gone")
    listed = service.openstack("volume", "list", "--long", as_json=True)
    seen = {item["Name"]: (item["Status"], item["Size"], item["Type"], item["Bootable"]) for item in listed}
    assert {name: (status, size) for name, (status, size, _, _) in seen.items()} == {
        "a": ("available", 2),
        "b": ("available", 1),
        "c": ("available", 1),
    }
    assert {kind for _, _, kind, _ in seen.values()} == {"__DEFAULT__"}
    assert len(list(service.pool.glob("volume-*"))) >= 3
    service.openstack("volume", "delete", "a", "b", "c")
    until(lambda: _look(service, "volume", "list") == [], "all volumes are gone")
    until(lambda: not list(service.pool.iterdir()), "the pool is empty")


def test_an_administrators_views(service: Deployed) -> None:
    admin = "breezeblock-admin"
    pools = service.openstack("volume", "backend", "pool", "list", cloud=admin, as_json=True)
    assert [pool["Name"] for pool in pools] == ["breezeblock@local#local", "breezeblock@rest#rest"]
    states = [
        row["State"] for row in service.openstack("volume", "service", "list", cloud=admin, as_json=True)
    ]
    assert states
    assert set(states) == {"up"}
    assert service.openstack("quota", "show", "--volume", "demo", cloud=admin)
    types = service.openstack("volume", "type", "list", cloud=admin, as_json=True)
    assert {row["Name"] for row in types} == {"__DEFAULT__", "rest"}


def test_what_is_refused_is_said(service: Deployed) -> None:
    too_large = service.call(
        "openstack", "--os-cloud", "breezeblock", "volume", "create", "--size", "99999999", "x", check=False
    )
    assert too_large.returncode != 0
    assert "local#local" in too_large.stdout + too_large.stderr
    nobody = service.call("openstack", "--os-cloud", "breezeblock", "volume", "show", "nobody", check=False)
    assert nobody.returncode != 0
    assert "nobody" in nobody.stdout + nobody.stderr


def test_volumes_in_the_object_store_are_served_to_this_host(service: Deployed) -> None:
    """Without the device, which needs a kernel's driver: tests/uml has that."""
    until(
        lambda: "breezeblock@rest#rest" in [pool["name"] for pool in _look(service, "pool", "list", *ADMIN)],
        "the object store is a pool",
    )
    service.openstack("volume", "create", "--size", "1", "--type", "rest", "r")
    _available(service, "volume", "r")
    config = ("--config", str(service.data / "breezeblock.toml"))
    place = ("--state", str(service.data / "attachments"), "--no-device", *config)
    with ThreadPoolExecutor() as threads:  # several at a time are as good as one
        told = threads.map(lambda _: service.call("breezeblock", "attach", "r", *place).stdout, range(3))
        (uri,) = {one.strip() for one in told}
    assert _look(service, "volume", "show", "r")["status"] == "in-use"
    assert "wrote 65536" in _qemu_io(uri, "write -P 7 1M 64k", "flush")
    service.call("breezeblock", "snapshot", "create", "r", "while-in-use")
    _qemu_io(uri, "write -P 8 1M 64k", "flush")
    service.call("breezeblock", "detach", "r", *place)
    assert _look(service, "volume", "show", "r")["status"] == "available"
    service.call("breezeblock", "volume", "create", "r2", "--snapshot", "while-in-use")
    uri = service.call("breezeblock", "attach", "r2", *place).stdout.strip()
    assert "failed" not in _qemu_io(uri, "read -P 7 1M 64k")
    service.call("breezeblock", "detach", "r2", *place)
    service.call("breezeblock", "snapshot", "delete", "--yes", "while-in-use")
    service.call("breezeblock", "volume", "delete", "--yes", "r", "r2")
