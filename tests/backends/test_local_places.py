import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from life_cycle import MIB, attempt

from breezeblock.backends.contract import Backend, Volume
from breezeblock.backends.registry import open_backend, read_config
from breezeblock.errors import (
    BreezeblockError,
    ConfigError,
    CorruptError,
    InvalidInputError,
    UnavailableError,
)


def local(state: Path, **settings: Any) -> Backend:
    backend = open_backend("here", read_config({"kind": "local", **settings}, "test"), state)
    backend.start()
    return backend


def volume(**changes: Any) -> Volume:
    return Volume(**{"id": str(uuid4()), "virtual_bytes": MIB, "pool": "here", **changes})


@pytest.mark.parametrize(
    "put",
    [
        lambda path: path.symlink_to("/etc/hostname"),
        os.mkfifo,
        lambda path: path.mkdir(),
        lambda path: path.write_text("somebody's"),
    ],
    ids=["symlink", "fifo", "directory", "file"],
)
def test_a_stranger_under_our_name_is_refused_and_left_alone(
    tmp_path: Path, put: Callable[[Path], None]
) -> None:
    backend, wanted = local(tmp_path, path=str(tmp_path / "pool")), volume()
    stranger = tmp_path / "pool" / f"volume-{wanted.id}"
    put(stranger)
    before = stranger.lstat()
    with pytest.raises(CorruptError, match=rf"volume-{wanted.id}"):
        backend.create(wanted, attempt())
    after = stranger.lstat()
    assert (after.st_ino, after.st_mtime_ns, after.st_size) == (
        before.st_ino,
        before.st_mtime_ns,
        before.st_size,
    )
    assert [path.name for path in (tmp_path / "pool").iterdir()] == [stranger.name]


@pytest.mark.parametrize("virtual_bytes", [0, -512, 513, 1 << 63, 1 << 80])
def test_impossible_lengths(tmp_path: Path, virtual_bytes: int) -> None:
    backend = local(tmp_path, path=str(tmp_path / "pool"))
    with pytest.raises(InvalidInputError, match=str(virtual_bytes)):
        backend.create(volume(virtual_bytes=virtual_bytes), attempt())
    with pytest.raises(InvalidInputError, match=str(virtual_bytes)):
        backend.extend(volume(), virtual_bytes, attempt())
    assert list((tmp_path / "pool").iterdir()) == []


@pytest.mark.parametrize(
    "identity", ["", "../../etc/passwd", "a\nb", "x" * 300, "0E6D2A1C-5B7F-4C3A-9D8E-1F2A3B4C5D6E"]
)
def test_names_that_are_no_ids(tmp_path: Path, identity: str) -> None:
    backend = local(tmp_path, path=str(tmp_path / "pool"))
    with pytest.raises(InvalidInputError):
        backend.create(volume(id=identity), attempt())
    assert list((tmp_path / "pool").iterdir()) == []


@pytest.mark.parametrize("options", [{"format": "vhd"}, {"provisioning": "fat"}, {"colour": "red"}])
def test_options_that_are_not_offered(tmp_path: Path, options: dict[str, str]) -> None:
    backend = local(tmp_path, path=str(tmp_path / "pool"))
    with pytest.raises(InvalidInputError, match=next(iter(options))):
        backend.create(volume(options=options), attempt())


def test_pools_that_are_down_say_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    pools = {
        "good": str(tmp_path / "good"),
        "file": str(tmp_path / "file"),
        "below": str(tmp_path / "file/x"),
    }
    backend = local(tmp_path, pools=pools)
    good, file, below = backend.stats()
    assert good.up
    assert good.total_bytes
    assert (file.up, below.up) == (False, False)
    assert "Not a directory" in file.reason
    assert str(tmp_path / "file/x") in below.reason
    with pytest.raises(UnavailableError, match="Not a directory"):
        backend.create(volume(pool="file"), attempt())
    (tmp_path / "good").rmdir()
    assert "No such file" in backend.stats()[0].reason


def test_a_directory_that_must_be_a_mount_is_not_used_while_it_is_none(tmp_path: Path) -> None:
    backend = local(tmp_path, path=str(tmp_path / "disk"), must_be_mounted=True)
    (pool,) = backend.stats()
    assert not pool.up
    assert f"Nothing is mounted at {tmp_path / 'disk'}" in pool.reason
    assert not (tmp_path / "disk").exists(), "it is not made either"
    (mounted,) = local(tmp_path, path="/dev/shm", must_be_mounted=True).stats()
    assert mounted.up


def test_a_pool_that_is_gone_from_the_configuration_is_no_missing_volume(tmp_path: Path) -> None:
    backend = local(tmp_path, path=str(tmp_path / "pool"))
    with pytest.raises(ConfigError, match="has no pool elsewhere; its pools are here") as caught:
        backend.delete(volume(pool="elsewhere"), attempt())
    assert isinstance(caught.value, BreezeblockError)
    assert not caught.value.not_found, "or the volume would count as deleted"


def test_what_a_consumer_is_told(tmp_path: Path) -> None:
    backend, made = local(tmp_path, path=str(tmp_path / "pool"), file_mode="0640"), volume()
    placement = backend.create(made, attempt())
    assert (placement.locator, placement.format) == ("", "raw")
    connection = backend.connection_info(made, {"host": "h"})
    assert connection.driver_volume_type == "local"
    path = Path(connection.data["device_path"])
    assert (path.stat().st_size, path.stat().st_mode & 0o777) == (MIB, 0o640)
    assert connection.data["format"] == "raw"
    backend.disconnect(made, {"host": "h"})


def test_sweep_takes_only_the_dead(tmp_path: Path) -> None:
    backend = local(tmp_path, pools={"a": str(tmp_path / "a"), "b": str(tmp_path / "b")})
    for name in ("a/.tmp-live-1", "a/.tmp-dead-1", "b/.tmp-dead-2", "b/other"):
        (tmp_path / name).write_text("")
    assert sorted(backend.sweep(frozenset({"live"}))) == [".tmp-dead-1", ".tmp-dead-2"]
    assert {(item.pool, item.name, item.kind) for item in backend.inventory()} == {
        ("a", ".tmp-live-1", "temporary"),
        ("b", "other", "foreign"),
    }
