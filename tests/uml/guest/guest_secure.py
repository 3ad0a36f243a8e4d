"""Root squashing with snapshots, the modes that another user needs or must not have, `share check`."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from breezeblock.attempt import Attempt
from breezeblock.backends.contract import Snapshot, Volume
from breezeblock.backends.registry import open_apart, read_config

SQUASHED = Path("/run/nfsroot/squashed")
ADDRESS = "127.0.0.1:/squashed"
NOBODY, QEMU, STRANGER = 65534, 64055, 54321
"""The user that root becomes on that export; the one that runs virtual machines; another."""


def attempt() -> Attempt:
    return Attempt(operation_id=str(uuid4()), token="t")


def as_user(uid: int, gid: int, *argv: str) -> "subprocess.CompletedProcess[str]":
    """Run a program as Nova's QEMU is: another user, perhaps in the files' group, without capabilities."""
    who = ("setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "--inh-caps=-all")
    return subprocess.run((*who, "--", *argv), capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("mode", "qemu_gid", "may"),
    [("0660", QEMU, False), ("0660", NOBODY, True), ("0666", QEMU, True), ("0600", NOBODY, False)],
    ids=["0660 stranger", "0660 in the group", "0666 anybody", "0600 in the group"],
)
def test_snapshots_under_root_squash_and_who_may_read(
    mode: str, qemu_gid: int, may: bool, tmp_path: Path
) -> None:
    tmp_path.chmod(0o755)
    for directory in tmp_path.parents:
        if directory.stat().st_mode & 0o005 != 0o005 and directory != Path("/"):
            directory.chmod(0o755)
    settings: dict[str, Any] = {"shares": [ADDRESS], "file_mode": mode, "mount_base": str(tmp_path / "mnt")}
    backend = open_apart("nas", read_config({"kind": "nfs", **settings}, "test"), tmp_path)
    backend.start()
    try:
        volume = Volume(id=str(uuid4()), virtual_bytes=1 << 20, pool=ADDRESS)
        backend.create(volume, attempt())
        for _ in range(2):
            taken = Snapshot(id=str(uuid4()), volume_id=volume.id, virtual_bytes=1 << 20)
            backend.snapshot(volume, taken, attempt())
        here = {path.name: path.stat() for path in SQUASHED.iterdir()}
        assert {status.st_uid for status in here.values()} == {NOBODY}
        assert {status.st_mode & 0o777 for status in here.values()} == {int(mode, 8)}
        # As os-brick and Nova: export, mount point and name from the connection; QEMU opens the whole chain.
        data = backend.connection_info(volume, {"host": "kvm1"}).data
        (point,) = Path(data["mount_point_base"]).iterdir()
        active = point / data["name"]
        said = as_user(QEMU, qemu_gid, "qemu-io", "-f", data["format"], "-c", "read -P 0 0 1M", str(active))
        assert (said.returncode == 0) == may, (said.stdout, said.stderr)
        if not may:
            assert "Permission denied" in said.stderr + said.stdout
        written = as_user(
            QEMU, qemu_gid, "qemu-io", "-f", data["format"], "-c", "write -P 7 0 64k", str(active)
        )
        assert (written.returncode == 0) == may
        how = "reads and writes" if may else "is refused"
        print(f"\nroot_squash, file_mode {mode}: QEMU as {QEMU}:{qemu_gid} {how}")
        backend.delete_snapshot(volume, taken, attempt())
        backend.delete(volume, attempt())
        assert list(SQUASHED.iterdir()) == []
    finally:
        backend.stop()
    stranger = as_user(STRANGER, STRANGER, "ls", str(SQUASHED))
    assert stranger.returncode == 0, "the directory's own mode is the operator's affair"


def test_share_check_on_two_real_mounts() -> None:
    command = [sys.executable, "-m", "breezeblock", "share", "check", "--json"]
    for address, options in (("127.0.0.1:/export", "vers=4.2"), (ADDRESS, "vers=3")):
        done = subprocess.run(
            [*command, address, "-o", options], capture_output=True, text=True, check=False, env=os.environ
        )
        assert done.returncode == 0, done.stdout + done.stderr
        (checked,) = json.loads(done.stdout)
        outcomes = {verdict["name"]: verdict["outcome"] for verdict in checked["verdicts"]}
        assert "broken" not in outcomes.values()
        needed = {"atomic replacement", "close-to-open", "names at once", "locks", "mounted hard", "fsync"}
        assert needed <= {name for name, outcome in outcomes.items() if outcome == "good"}
        print(f"\n{address} ({options}):")
        for verdict in checked["verdicts"]:
            print(f"  {verdict['name']:<22}{verdict['outcome']:<9}{verdict['seen'][:100]}")
    assert "breezeblock-check-" not in Path("/proc/self/mounts").read_text()
    assert not [path for path in Path("/run/nfsroot/export").iterdir() if "check" in path.name]


def test_share_check_finds_a_soft_mount_and_lost_visibility() -> None:
    # Attribute and name caches as an operator might turn them on.
    options = "vers=3,soft,nolock,actimeo=600,lookupcache=all"
    command = [sys.executable, "-m", "breezeblock", "share", "check", "127.0.0.1:/export", "-o", options]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 6
    (checked,) = json.loads(done.stdout)
    verdicts = {verdict["name"]: verdict for verdict in checked["verdicts"]}
    assert verdicts["mounted hard"]["outcome"] == "broken"
    assert verdicts["mounted hard"]["cost"]
    assert verdicts["locks at the server"]["outcome"] == "lacking"
    assert verdicts["names at once"]["outcome"] == "broken", verdicts["names at once"]
