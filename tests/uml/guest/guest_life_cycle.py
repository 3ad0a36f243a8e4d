"""The whole life of a volume on shares that our own back end mounted, over NFS 3 and NFS 4.2."""

import hashlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from life_cycle import MIB, Story, attempt, tell

from breezeblock.backends.contract import Backend, Volume
from breezeblock.backends.registry import open_backend, read_config
from breezeblock.errors import UnavailableError
from breezeblock.shares import mounts

ROOT = Path("/run/nfsroot")
SHARES = {"3": "127.0.0.1:/export/v3", "4.2": "127.0.0.1:/export/v42"}


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    state = tmp_path_factory.mktemp("state")
    shares_file = state / "shares"
    lines = ["# one share a version"]
    for version, address in SHARES.items():
        Path(f"{ROOT}{address.partition(':')[2]}").mkdir()
        lines.append(f"{address} -o vers={version}")
    shares_file.write_text("\n".join(lines))
    found = open_backend("nas", read_config({"kind": "nfs", "shares_file": str(shares_file)}, "test"), state)
    found.start()
    yield found
    found.stop()


def mount_of(address: str) -> tuple[Path, str]:
    for line in Path("/proc/self/mounts").read_text().splitlines():
        source, point, kind, options, *_ = line.split()
        if source == address:
            return Path(point), f"{kind} {options}"
    raise AssertionError(f"{address} is not mounted")


@pytest.mark.parametrize("version", SHARES)
def test_the_whole_life_of_a_volume(backend: Backend, tmp_path: Path, version: str) -> None:
    address = SHARES[version]
    pools = {pool.name: pool for pool in backend.stats()}
    assert pools[address].up, pools[address].reason
    point, how = mount_of(address)
    assert f"vers={version}" in how
    print(f"\nNFSv{version}: {address} mounted at {point} ({how})")
    tell(Story(backend, address, point, tmp_path, print), {}, {"format": "qcow2"})
    assert list(Path(f"{ROOT}{address.partition(':')[2]}").iterdir()) == [], "empty on the server too"


def test_a_share_that_squashes_root_will_do(tmp_path: Path) -> None:
    # The directory belongs to the user that root becomes; nobody else needs to write there.
    address = "127.0.0.1:/squashed"
    backend = open_backend("squash", read_config({"kind": "nfs", "shares": [address]}, "test"), tmp_path)
    backend.start()
    (pool,) = backend.stats()
    assert pool.up, pool.reason
    point, _how = mount_of(address)
    story = Story(backend, address, point, tmp_path, print)
    print("\nroot_squash:")
    began = time.monotonic()
    disk = story.create("a", 2, {})
    story.write(disk, 1, (0, MIB))
    story.snapshot(disk, "s1")
    story.write(disk, 2, (0, 4096))
    story.judged("create, write, snapshot, write", began)
    assert {path.stat().st_uid for path in (ROOT / "squashed").iterdir()} == {65534}
    story.delete_snapshot(disk, "s1")
    story.judged("delete the snapshot", began)
    story.delete(disk)
    assert list((ROOT / "squashed").iterdir()) == []


def test_a_lost_mount_is_healed_by_the_next_verb(backend: Backend) -> None:
    address = SHARES["4.2"]
    point, _how = mount_of(address)
    for heal in (
        lambda volume: backend.create(volume, attempt()),
        lambda _volume: backend.stats(),
        lambda volume: backend.delete(volume, attempt()),
    ):
        subprocess.run(["umount", "-l", str(point)], check=True)
        assert mounts.source_at(point) is None
        heal(Volume(id="5c2b0a2e-0000-4000-8000-000000000001", virtual_bytes=MIB, pool=address))
        assert mounts.source_at(point) == address
    subprocess.run(["umount", "-l", str(point)], check=True)
    assert list(point.iterdir()) == [], "nothing was written below the mount"
    backend.stats()
    print("\na mount lost behind our back was healed by create, stats and delete")


def test_a_share_that_cannot_be_reached_is_a_pool_that_is_down(tmp_path: Path) -> None:
    good, bad = SHARES["3"], "127.0.0.1:/export/absent"
    config = {"kind": "nfs", "shares": [good, bad], "mount_timeout_s": 5, "mount_attempts": 1}
    backend = open_backend("half", read_config(config, "test"), tmp_path)
    backend.start()
    up, down = backend.stats()
    assert up.up
    assert (down.name, down.up, down.free_bytes) == (bad, False, None)
    assert "cannot be mounted" in down.reason
    assert "No such file or directory" in down.reason
    with pytest.raises(UnavailableError, match="cannot be mounted"):
        backend.create(Volume(id=str(uuid4()), virtual_bytes=MIB, pool=bad), attempt())
    print(f"\npool {bad} is down: {down.reason}")


def test_connection_info_is_what_os_brick_takes(backend: Backend, tmp_path: Path) -> None:
    address = SHARES["3"]
    volume = Volume(id=str(uuid4()), virtual_bytes=MIB, pool=address)
    backend.create(volume, attempt())
    connection = backend.connection_info(volume, {"host": "compute1"})
    data = connection.data
    assert connection.driver_volume_type == "nfs"
    assert data["options"] == "-o vers=3"
    # What the consumer does with it: mount `export` at base/md5, open `name` there.
    point = Path(
        data["mount_point_base"], hashlib.md5(data["export"].encode(), usedforsecurity=False).hexdigest()
    )
    assert (point / data["name"]).stat().st_size == MIB
    backend.delete(volume, attempt())
