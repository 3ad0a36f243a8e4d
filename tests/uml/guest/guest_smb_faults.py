"""A Samba server that dies, refuses, fills up or loses a share in the middle of verbs, and its quirks.

As with NFS, the server is mended afterwards and nothing else is done; every byte is read on its own disk.
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import deadly
import pytest
from file_storage import FileStorage
from samba_server import CONFIG, PASSWORD, SERVER, USER, sh
from staging import Stage, until
from vhd_storage import VhdStorage

from breezeblock import images, vault
from breezeblock.backends.apart import apart
from breezeblock.backends.contract import Backend, Snapshot, Volume
from breezeblock.backends.smb import SmbConfig, smb_parts
from breezeblock.errors import CorruptError
from breezeblock.shares import files
from breezeblock.testing.lab import attempt
from sevenzip import seven_zip

MIB = 1 << 20
VERBS = {
    "create": "create",
    "clone": "clone",
    "create_from_snapshot": "create_from_snapshot",
    "snapshot_2": "snapshot",
    "extend_with_snapshots": "extend",
    "delete_middle_snapshot": "delete_snapshot",
    "revert_to_oldest": "revert",
    "delete": "delete",
}
"""The scenarios that are struck: at least one for each verb that changes something."""


@contextmanager
def stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, path: Path | None = None
) -> Iterator[Stage]:
    """Make the share `name`, and a back end that has it."""
    # The judge writes on the server's own disk: then Samba must see it and break what clients hold.
    directory = SERVER.share(name, path, kernel_oplocks="yes")
    address = f"//127.0.0.1/{name}"
    monkeypatch.setattr("breezeblock.backends.apart.RECHECK_S", 0.2)
    monkeypatch.setattr("breezeblock.backends.health.FLAPPING_S", 0.0)
    monkeypatch.setenv("DEADLY", str(tmp_path / "order"))
    monkeypatch.setenv("PYTHONPATH", str(Path(deadly.__file__).parent))
    vault.at(tmp_path).set("server", PASSWORD)
    config = SmbConfig(
        shares=[f"{address} -o username={USER},secret=server"],
        mount_base=str(tmp_path / "mnt"),
        mount_timeout_s=10,
        answer_timeout_s=3,
    )
    parts = smb_parts("filer", config)
    assert parts is not None
    backend = apart("filer", deadly.open_deadly_smb, config, tmp_path, parts)
    backend.start()

    def storage(make: Callable[[], Backend]) -> FileStorage:
        made = VhdStorage(directory, make, options={"format": "vhdx"}, extension="vhdx")
        made.by_others = False
        return made

    try:
        until(lambda: all(pool.up for pool in backend.stats()), "the pool is up")
        yield Stage(backend, address, directory, "", tmp_path / "order", storage)
    finally:
        backend.stop()


def test_the_server_killed_and_restarted_in_the_middle_of_every_verb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def strike() -> None:
        SERVER.kill()
        SERVER.start()

    print()
    with stage(tmp_path, monkeypatch, "killed") as on:
        for scenario, verb in VERBS.items():
            began = time.monotonic()
            struck = on.strike(scenario, verb, strike)
            tries = on.resume(struck)
            print(f"  {verb:<22}{time.monotonic() - began:5.1f} s, {tries} tries  {struck.ended[:90]}")


def test_a_share_removed_and_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with stage(tmp_path, monkeypatch, "removed") as on:
        struck = on.strike("snapshot_2", "snapshot", lambda: SERVER.remove("removed"))
        until(lambda: not on.backend.stats()[0].up, "the pool is down")
        reason = on.backend.stats()[0].reason
        SERVER.share("removed", kernel_oplocks="yes")
        print(f"\nshare removed: {struck.ended[:150]}\n  {reason[:200]}\n  {on.resume(struck)} tries")


def test_a_share_that_becomes_read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only() -> None:
        SERVER.share("readonly", read_only="yes", kernel_oplocks="yes")
        sh("smbcontrol", "-s", str(CONFIG), "all", "close-share", "readonly")

    with stage(tmp_path, monkeypatch, "readonly") as on:
        struck = on.strike("delete_middle_snapshot", "delete_snapshot", read_only)
        assert struck.ended.startswith(("UnavailableError", "PoolDownError")), struck.ended
        SERVER.share("readonly", kernel_oplocks="yes")
        sh("smbcontrol", "-s", str(CONFIG), "all", "close-share", "readonly")
        print(f"\nread-only in the middle: {struck.ended[:150]}; {on.resume(struck)} tries")


def test_a_full_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point = Path("/run/smbsmall")
    point.mkdir()
    with Path("/run/smbsmalldisk").open("wb") as disk:
        disk.truncate(48 * MIB)
    sh("mkfs.ext4", "-q", "-E", "nodiscard", "/run/smbsmalldisk")
    sh("mount", "-o", "loop", "/run/smbsmalldisk", str(point))
    (point / "lost+found").rmdir()
    filler = point / "filler"

    def fill() -> None:
        with filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(1 << 16))
            except OSError:
                pass

    with stage(tmp_path, monkeypatch, "small", point) as on:
        struck = on.strike("clone", "clone", fill)
        assert on.backend.stats()[0].up, "full is not down"
        filler.unlink()
        assert struck.ended.startswith("NoSpaceError"), struck.ended
        print(f"\nENOSPC in the middle of clone: {struck.ended}; {on.resume(struck)} tries")


def new(pool: str) -> Volume:
    return Volume(id=str(uuid4()), virtual_bytes=4 * MIB, pool=pool)


def test_names_that_differ_in_case_only_are_one_and_nothing_is_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stage(tmp_path, monkeypatch, "case") as on:
        volume = new(on.bad)
        foreign = on.directory / f"VOLUME-{volume.id.upper()}.VHDX"
        foreign.write_bytes(b"somebody's own")
        with pytest.raises(CorruptError):
            on.backend.create(volume, attempt())
        assert foreign.read_bytes() == b"somebody's own"
        assert [path.name for path in on.directory.iterdir()] == [foreign.name]


def test_a_hundred_volumes_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with stage(tmp_path, monkeypatch, "hundred") as on, ThreadPoolExecutor(100) as threads:
        volumes = [new(on.bad) for _ in range(100)]
        began = time.monotonic()
        placed = list(threads.map(lambda one: on.backend.create(one, attempt()), volumes))
        print(f"\n100 volumes in {time.monotonic() - began:.1f} s", end="")
        assert {one.format for one in placed} == {"vhdx"}
        names = {path.name for path in on.directory.iterdir()}
        assert names == {f"volume-{volume.id}.vhdx" for volume in volumes}
        list(threads.map(lambda one: on.backend.delete(one, attempt()), volumes[:20]))
        print(f", 20 gone after {time.monotonic() - began:.1f} s")
        assert len(list(on.directory.iterdir())) == 80


def test_a_chain_thirty_deep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with stage(tmp_path, monkeypatch, "deep") as on:
        volume = new(on.bad)
        on.backend.create(volume, attempt())
        active = f"volume-{volume.id}.vhdx"
        snapshots = []
        for number in range(1, 30):
            images.write(on.directory / active, number * 4096, [bytes([number]) * 4096], "vhdx")
            taken = Snapshot(id=str(uuid4()), volume_id=volume.id, virtual_bytes=volume.virtual_bytes)
            placed = on.backend.snapshot(volume, taken, attempt()).volume
            snapshots.append(taken)
            active = on.backend.connection_info(volume, {}).data["name"]
        assert placed.depth == 30
        wanted = b"".join(bytes([number]) * 4096 for number in range(30))
        judged = seven_zip(on.directory / active)
        assert judged[: len(wanted)] == wanted
        assert not any(judged[len(wanted) :])
        for taken in snapshots[10:14]:
            placed = on.backend.delete_snapshot(volume, taken, attempt())
        assert placed.depth == 26
        active = on.backend.connection_info(volume, {}).data["name"]
        judged = seven_zip(on.directory / active)
        assert judged[: len(wanted)] == wanted


def test_a_rename_that_the_server_refuses_for_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a Windows server does while a scanner has the file open; here the file cannot be changed."""
    with stage(tmp_path, monkeypatch, "refusing") as on:
        busy = on.directory / "busy"
        busy.write_bytes(b"old")
        (on.directory / "fresh").write_bytes(b"new")
        (point,) = (tmp_path / "mnt").iterdir()
        sh("chattr", "+i", str(busy))
        with pytest.raises(PermissionError) as refused:
            (point / "fresh").rename(point / "busy")
        with ThreadPoolExecutor(1) as thread:
            renaming = thread.submit(files.rename, point / "fresh", point / "busy")
            time.sleep(0.1)
            sh("chattr", "-i", str(busy))
            renaming.result()
        print(f"\nrefused: {refused.value.strerror}; then done")
        assert busy.read_bytes() == b"new"
        (point / "linked").hardlink_to(point / "busy")
        files.rename(point / "linked", point / "renamed")
        assert (on.directory / "renamed").stat().st_nlink == 2
