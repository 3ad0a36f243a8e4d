"""A real client, the real service, a real kernel NFS mount: the life of volumes by openstacksdk.

After each step the content is read on the server's side of the export by qemu-io, which goes neither
through our code nor through the client's mount.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from qemu_io import image_format

SERVER = Path("/run/nfsroot/export")
PROJECT = "aaaa"
SHARES = {"three": ("127.0.0.1:/export/s3", "vers=3"), "four": ("127.0.0.1:/export/s42", "vers=4.2")}
PATIENCE_S = 60.0


def until(true: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end, f"not within {PATIENCE_S} s: {what}"
        time.sleep(0.02)


def answers() -> bool:
    try:
        with urlopen("http://127.0.0.1:8776/healthz", timeout=5) as reply:
            return bool(reply.status == 200)
    except URLError:
        return False


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    state = tmp_path_factory.mktemp("service")
    config = f"""
[service]
state_dir = "{state}"
[database]
url = "sqlite:///{state}/catalog.db"
[auth]
mode = "none"
[logging]
level = "warning"
"""
    for name, (address, options) in SHARES.items():
        Path(f"/run/nfsroot{address.partition(':')[2]}").mkdir()
        config += f'[backends.{name}]\nkind = "nfs"\nshares = ["{address} -o {options}"]\n'
    (state / "breezeblock.toml").write_text(config)
    command = [sys.executable, "-m", "breezeblock", "serve", "--config", str(state / "breezeblock.toml")]
    with (state / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=dict(os.environ))
    try:
        until(answers, "the service answers")
        yield
    finally:
        process.terminate()
        status = process.wait(30)
        print((state / "log").read_text()[-3000:])
    assert status == 0


@pytest.fixture(scope="module")
def cloud(service: None) -> Iterator[Any]:
    import openstack

    with openstack.connection.Connection(
        auth_type="admin_token",
        auth={"endpoint": f"http://127.0.0.1:8776/v3/{PROJECT}", "token": f"admin:{PROJECT}"},
        block_storage_endpoint_override=f"http://127.0.0.1:8776/v3/{PROJECT}",
        compute_api_version="2",
    ) as connection:
        storage: Any = connection.block_storage
        for name in SHARES:
            made = storage.create_type(name=name)
            storage.update_type_extra_specs(made, volume_backend_name=name)
        yield storage


class Life:
    """One volume, told step by step."""

    def __init__(self, cloud: Any, backend: str) -> None:
        self.cloud = cloud
        self.directory = Path(f"/run/nfsroot{SHARES[backend][0].partition(':')[2]}")
        self.backend = backend
        self.began = time.monotonic()

    def told(self, what: str) -> None:
        print(f"  {what:<46}{(time.monotonic() - self.began) * 1000:6.0f} ms", flush=True)
        self.began = time.monotonic()

    def volume(self, **wanted: Any) -> Any:
        made = self.cloud.create_volume(volume_type=self.backend, **wanted)
        return self.cloud.wait_for_status(made, "available", interval=0.02, wait=60)

    def snapshot(self, volume: Any, name: str) -> Any:
        made = self.cloud.create_snapshot(volume_id=volume.id, name=name)
        return self.cloud.wait_for_status(made, "available", interval=0.02, wait=60)

    def settle(self, volume: Any) -> None:
        until(lambda: self.cloud.get_volume(volume.id).status == "available", "it is available again")

    def active(self, volume: Any) -> tuple[Path, str]:
        base = self.directory / f"volume-{volume.id}"
        info = Path(f"{base}.info")
        name = json.loads(info.read_text())["active"] if info.exists() else base.name
        return self.directory / name, image_format(self.directory / name)

    def write(self, volume: Any, pattern: int) -> None:
        self._qemu_io(volume, f"write -q -P {pattern} 0 256k")

    def reads(self, volume: Any, pattern: int) -> None:
        said = self._qemu_io(volume, f"read -q -P {pattern} 0 256k")
        assert "verification failed" not in said, (volume.name, pattern)

    def _qemu_io(self, volume: Any, command: str) -> str:
        path, image_format = self.active(volume)
        done = subprocess.run(
            ["qemu-io", "-f", image_format, "-c", command, str(path)],
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout + done.stderr


@pytest.mark.parametrize("backend", SHARES)
def test_the_whole_life_by_the_real_client(cloud: Any, backend: str) -> None:
    address, options = SHARES[backend]
    mounted = [
        line for line in Path("/proc/mounts").read_text().splitlines() if line.startswith(f"{address} ")
    ]
    assert mounted
    assert options in mounted[0]
    print(f"\nopenstacksdk → breezeblock → {address} ({options}):")
    life = Life(cloud, backend)
    a = life.volume(name="a", size=1)
    assert str(a.host).endswith(f"@{backend}#{address}")
    life.told("create a")
    life.write(a, 1)
    s1 = life.snapshot(a, "s1")
    life.write(a, 2)
    s2 = life.snapshot(a, "s2")
    life.write(a, 3)
    life.told("write 1, snapshot s1, write 2, snapshot s2, write 3")
    life.reads(a, 3)
    b = life.volume(name="b", size=1, snapshot_id=s1.id)
    c = life.volume(name="c", size=2, source_volume_id=a.id)
    life.reads(b, 1)
    life.reads(c, 3)
    life.told("b from s1 reads 1, c cloned from a reads 3")
    cloud.extend_volume(a, 3)
    life.settle(a)
    assert cloud.get_volume(a.id).size == 3
    life.reads(a, 3)
    life.told("extend a with its snapshots")
    cloud.revert_volume_to_snapshot(a, s1)
    life.settle(a)
    life.reads(a, 1)
    life.told("revert a to the older snapshot: reads 1")
    cloud.revert_volume_to_snapshot(a, s2)
    life.settle(a)
    life.reads(a, 2)
    life.told("revert a to the newest snapshot: reads 2")
    life.write(a, 4)
    cloud.delete_snapshot(s1)
    cloud.wait_for_delete(s1, interval=0.02, wait=60)
    life.reads(a, 4)
    d = life.volume(name="d", size=1, snapshot_id=s2.id)
    life.reads(d, 2)
    life.told("delete s1: a reads 4, d from s2 reads 2")
    attachment = cloud.create_attachment(a, instance="11111111-2222-4333-8444-555555555555")
    info = cloud.update_attachment(attachment, connector={"host": "kvm1"}).connection_info
    assert (info["driver_volume_type"], info["export"], info["format"]) == ("nfs", address, "qcow2")
    assert info["name"] == life.active(a)[0].name
    cloud.complete_attachment(attachment)
    assert cloud.get_volume(a.id).status == "in-use"
    cloud.delete_attachment(attachment)
    life.settle(a)
    life.told("attach and detach a: nfs, its export, name and format")
    cloud.delete_volume(a, cascade=True)
    for volume in (b, c, d):
        life.reads(volume, {"b": 1, "c": 3, "d": 2}[volume.name])
        cloud.delete_volume(volume)
    for volume in (a, b, c, d):
        cloud.wait_for_delete(volume, interval=0.02, wait=60)
    life.told("delete a with its snapshot, then b, c, d")
    assert list(life.directory.iterdir()) == [], "nothing is left on the server"
