"""On a kernel NFS mount: a share that Cinder wrote is adopted and used on; an image comes in and goes out.

What is there is judged on the server's side of the export.
"""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "takeover"))
from cinder_share import Disk, reads_as

from breezeblock import config as configuration
from breezeblock.app import compose, doctor
from breezeblock.app.takeover import Outcome, Takeover, Wishes
from breezeblock.catalog import pools
from breezeblock.errors import InvalidInputError, NotFoundError
from breezeblock.service import imaging, snapshots, volumes
from breezeblock.service.core import GIB, Caller, Service
from working import working

PROJECT = "a" * 32
ME = Caller(project_id=PROJECT, user_id="b" * 32, roles=frozenset({"admin"}), request_id="req-nfs")
SERVER = Path("/run/nfsroot/export/cinder")
SHARE = "127.0.0.1:/export/cinder"
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def written() -> dict[str, Disk]:
    """Volumes that Cinder wrote on the host, where its many programs start faster, and that moved here."""
    made = Path(os.environ["BREEZEBLOCK_SCRATCH"]) / "cinder"
    subprocess.run(["cp", "-a", "--sparse=always", made / "share", SERVER], check=True)
    return msgspec.json.decode((made / "disks.json").read_bytes(), type=dict[str, Disk])


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> configuration.Config:
    return configured(tmp_path_factory.mktemp("state"), SHARE)


def configured(state: Path, *shares: str, more: str = "") -> configuration.Config:
    (state / "images").mkdir()
    (state / "breezeblock.toml").write_text(
        f"""
[service]
state_dir = "{state}"
[database]
url = "sqlite:///{state}/catalog.db"
[images]
schemes = ["file"]
directories = ["{state}/images"]
[logging]
level = "warning"
[backends.nas]
kind = "nfs"
shares = {json.dumps([f"{share} -o vers=4.2" for share in shares])}
{more}
"""
    )
    return configuration.load(state / "breezeblock.toml", {})


def settled(look: Callable[..., Any], service: Service, id_: str) -> str:
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        try:
            row = look(service, ME, id_)
        except NotFoundError:
            return "gone"
        if row.op_id is None:
            return str(row.status)
        time.sleep(0.02)
    raise AssertionError(f"{id_} is {row.status} after {PATIENCE_S} s")


def verify(disk: Disk) -> None:
    info = SERVER / f"volume-{disk.id}.info"
    told = json.loads(info.read_text()) if info.exists() else {"active": f"volume-{disk.id}"}
    top = SERVER / told["active"]
    with top.open("rb") as file:
        image_format = "qcow2" if file.read(4) == b"QFI\xfb" else "raw"
    reads_as(top, image_format, disk.content)


def taken_over(config: configuration.Config, *, edit: bool) -> list[Outcome]:
    backends, policies = compose.open_backends(config)
    database = compose.open_database(config)
    wishes = Wishes(edit=edit, project_id=PROJECT)
    outcomes = list(Takeover(config, database, backends["nas"], policies["nas"], "", wishes).carry_out())
    backends["nas"].stop()
    database.dispose()
    assert {one.state for one in outcomes} == {"added"}, outcomes
    return outcomes


def test_a_share_of_cinders_is_adopted_and_used_on(
    written: dict[str, Disk], config: configuration.Config
) -> None:
    before = {path.name: path.stat().st_ino for path in SERVER.iterdir()}
    outcomes = taken_over(config, edit=True)
    assert {path.name: path.stat().st_ino for path in SERVER.iterdir()} == before, "nothing was copied"
    for disk in written.values():
        verify(disk)
    assert doctor.examine(config).findings == []
    rebuilt = msgspec.structs.replace(
        config, database=configuration.DatabaseSection(url=f"{config.database.url}.new")
    )
    found = taken_over(rebuilt, edit=False)
    assert {one.volume_id for one in found} == {one.volume_id for one in outcomes}
    assert doctor.examine(rebuilt).findings == [], "the share alone tells all that there is"
    with working(config) as service:
        for disk in written.values():
            assert settled(volumes.get, service, disk.id) == "available"
            copy = volumes.create(service, ME, volumes.NewVolume(source_volid=disk.id))
            assert settled(volumes.get, service, copy) == "available"
            for one in disk.snapshots:
                snapshots.delete(service, ME, one)
                assert settled(snapshots.get, service, one) == "gone"
            volumes.delete(service, ME, disk.id)
            assert settled(volumes.get, service, disk.id) == "gone"
            verify(Disk(copy, content=disk.content))
            volumes.delete(service, ME, copy)
            assert settled(volumes.get, service, copy) == "gone"
    assert list(SERVER.iterdir()) == []


def test_an_image_comes_in_and_goes_out(config: configuration.Config, written: dict[str, Disk]) -> None:
    del written  # that test is over
    images = Path(config.images.directories[0])
    source = images / "in.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", source, "1G"], check=True)
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -q -P 9 1M 3M", source], check=True)
    checksum = f"sha256:{hashlib.sha256(source.read_bytes()).hexdigest()}"
    with working(config) as service:
        image = volumes.Image(url=f"file://{source}", format="qcow2", checksum=checksum)
        made = []
        for _ in range(2):
            made.append(imaging.bring_in(service, ME, volumes.NewVolume(virtual_bytes=GIB, image=image)))
            assert settled(volumes.get, service, made[-1]) == "available"
        (kept,) = imaging.cached(service, ME)
        assert (kept.volumes, kept.uses) == (2, 1)
        for number, volume_id in enumerate(made):
            out = images / f"out{number}.qcow2"
            image = volumes.Image(url=f"file://{out}", format="qcow2")
            imaging.bring_out(service, ME, volume_id, image)
            assert settled(volumes.get, service, volume_id) == "available"
            subprocess.run(
                ["qemu-img", "compare", "-q", "-f", "qcow2", "-F", "qcow2", source, out], check=True
            )
            volumes.delete(service, ME, volume_id)
            assert settled(volumes.get, service, volume_id) == "gone"
        imaging.evict(service, ME, kept.id)
        assert settled(volumes.get, service, kept.id) == "gone"
    assert list(SERVER.iterdir()) == []


def test_the_room_of_two_shares_decides_where_volumes_go(tmp_path: Path) -> None:
    """One on the large file system that holds all exports, one of 48 MiB: by the room, thin, no byte over."""
    point = Path("/run/nfsroot/room")
    point.mkdir()
    with Path("/run/room").open("wb") as disk:
        disk.truncate(48 << 20)
    (point.parent / "export" / "room").mkdir()
    for command in (
        ["mkfs.ext4", "-q", "-E", "nodiscard", "/run/room"],
        ["mount", "-o", "loop", "/run/room", str(point)],
        ["exportfs", "-o", "rw,insecure,no_subtree_check,sec=sys,fsid=8,no_root_squash", "*:/room"],
    ):
        subprocess.run(command, check=True)
    shares = ("127.0.0.1:/export/room", "127.0.0.1:/room")
    ratio = "max_over_subscription_ratio = 1.0\nreserved_percentage = 10"
    config = configured(tmp_path, *shares, more=ratio)
    with working(config) as service:
        large, small = pools_of(service, *shares)
        for pool, directory in ((large, point.parent), (small, point)):
            seen = os.statvfs(directory)
            beyond = seen.f_blocks * seen.f_frsize - pool.total_bytes  # NFS counts in blocks of its own
            assert abs(beyond) < 1 << 20
        limit = int(large.total_bytes * 0.9) // GIB * GIB
        first = volumes.create(service, ME, volumes.NewVolume(virtual_bytes=limit))
        assert settled(volumes.get, service, first) == "available"
        assert [one.provisioned_bytes for one in pools_of(service, *shares)] == [limit, 0]
        assert (point.parent / "export" / "room" / f"volume-{first}").stat().st_size == limit
        with pytest.raises(InvalidInputError) as refused:
            volumes.create(service, ME, volumes.NewVolume(virtual_bytes=GIB))
        assert all(f"nas#{share}: " in str(refused.value) for share in shares), str(refused.value)
        volumes.delete(service, ME, first)
        assert settled(volumes.get, service, first) == "gone"
        again = volumes.create(service, ME, volumes.NewVolume(virtual_bytes=GIB))
        assert settled(volumes.get, service, again) == "available"


def pools_of(service: Service, *names: str) -> list[Any]:
    """Return what the catalog knows of pools, once it has heard of all."""
    end = time.monotonic() + PATIENCE_S
    while True:
        with service.database.read() as connection:
            found = {pool.name: pool for pool in pools.all_pools(connection) if pool.total_bytes}
        if found.keys() >= set(names):
            return [found[name] for name in names]
        assert time.monotonic() < end, found
        time.sleep(0.02)
