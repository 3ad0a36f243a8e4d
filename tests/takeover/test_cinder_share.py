"""A share written by Cinder's real NFS driver: adopted without a copy, read by others, and used on."""

import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cinder_share import Cinder, Disk, reads_as, write, written

from breezeblock import config as configuration
from breezeblock.app import doctor, quickstart
from breezeblock.cli.exits import Exit
from breezeblock.service import snapshots, volumes
from breezeblock.service.core import GIB, Caller
from working import working

PROJECT = "c" * 32
ME = Caller(project_id=PROJECT, user_id="b" * 32, roles=frozenset({"admin"}), request_id="req-takeover")
MARKER = ".cinderSecureEnvIndicator"


@dataclass(frozen=True)
class Share:
    """Cinder's share as a pool of ours, not taken over yet."""

    data: Path
    disks: dict[str, Disk]

    @property
    def pool(self) -> Path:
        return self.data / "pool"

    @property
    def config(self) -> configuration.Config:
        return configuration.load(self.data / "breezeblock.toml", {})

    def command(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [
                sys.executable,
                "-m",
                "breezeblock",
                *arguments,
                "--config",
                str(self.data / "breezeblock.toml"),
            ],
            capture_output=True,
            text=True,
            check=False,
        )

    def adopt(self, *options: str) -> list[dict[str, Any]]:
        done = self.command("pool", "adopt", "local", "--project", PROJECT, "--yes", "--json", *options)
        assert done.returncode in {Exit.OK, Exit.FINDINGS}, done.stderr
        found: list[dict[str, Any]] = json.loads(done.stdout)
        return found

    def verify(self, where: Path) -> None:
        """Read every volume and snapshot with qemu-io, by what `.info` in a directory says."""
        for disk in self.disks.values():
            self.verify_disk(disk, where)

    def verify_disk(self, disk: Disk, where: Path) -> None:
        info = where / f"volume-{disk.id}.info"
        told = json.loads(info.read_text()) if info.exists() else {"active": f"volume-{disk.id}"}
        assert set(disk.snapshots) <= set(told)
        reads_as(where / told["active"], image_format(where / told["active"]), disk.content)
        for snapshot_id, content in disk.snapshots.items():
            below = below_of(where / told[snapshot_id])
            reads_as(below, image_format(below), content)


def image_format(path: Path) -> str:
    with path.open("rb") as file:
        return "qcow2" if file.read(4) == b"QFI\xfb" else "raw"


def below_of(overlay: Path) -> Path:
    done = subprocess.run(
        ["qemu-img", "info", "-f", "qcow2", "--output=json", str(overlay)], capture_output=True, check=True
    )
    return overlay.parent / Path(json.loads(done.stdout)["backing-filename"]).name


@pytest.fixture(scope="module")
def from_cinder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Disk]]:
    base = tmp_path_factory.mktemp("cinder")
    with Cinder(base / "state", base / "mnt") as cinder:
        return cinder.share, written(cinder)


@pytest.fixture
def share(from_cinder: tuple[Path, dict[str, Disk]], tmp_path: Path) -> Share:
    source, disks = from_cinder
    ready = quickstart.prepare(tmp_path / "data", 18778)
    shutil.rmtree(ready.data / "pool", ignore_errors=True)
    subprocess.run(["cp", "-a", "--sparse=always", source, ready.data / "pool"], check=True)
    (ready.data / "pool" / MARKER).touch(0o640)
    fresh = {name: Disk(d.id, d.gib, dict(d.content), dict(d.snapshots)) for name, d in disks.items()}
    return Share(ready.data, fresh)


def until(look: Any, *arguments: Any, gone: bool = False) -> None:
    from breezeblock.errors import NotFoundError

    end = time.monotonic() + 60
    while True:
        try:
            status = look(*arguments).status
        except NotFoundError:
            assert gone
            return
        if status == "available" and not gone:
            return
        assert time.monotonic() < end, status
        assert "error" not in status
        time.sleep(0.01)


def test_everything_is_taken_over_as_it_is(share: Share) -> None:
    # A file's blocks count only once they are written: a file system adds its own to them then.
    subprocess.run(["sync", *share.pool.iterdir()], check=True)
    before = {path.name: (path.stat().st_ino, path.stat().st_blocks) for path in share.pool.iterdir()}
    planned = share.adopt("--dry-run")
    assert {one["state"] for one in planned} == {"to add"}
    outcomes = {one["volume_id"]: one for one in share.adopt()}
    for disk in share.disks.values():
        outcome = outcomes[disk.id]
        assert (outcome["state"], outcome["snapshots"]) == ("added", len(disk.snapshots)), outcome
        assert outcome["virtual_bytes"] == disk.gib * GIB
    # Nothing was copied, nothing was added, nothing is missing.
    after = {path.name: (path.stat().st_ino, path.stat().st_blocks) for path in share.pool.iterdir()}
    assert after == before
    assert {path.stat().st_mode & 0o777 for path in share.pool.iterdir()} == {0o640, 0o660}
    share.verify(share.pool)
    assert doctor.examine(share.config).findings == []
    assert {one["state"] for one in share.adopt()} == {"known"}


def test_what_was_taken_over_is_used_on(share: Share) -> None:
    share.adopt()
    with working(share.config) as service:
        for disk in share.disks.values():
            new = snapshots.create(service, ME, snapshots.NewSnapshot(volume_id=disk.id))
            until(snapshots.get, service, ME, new)
            disk.snapshots[new] = dict(disk.content)
            told = json.loads((share.pool / f"volume-{disk.id}.info").read_text())
            write(share.pool / told["active"], "qcow2", 0, 77)
            disk.content[0] = 77
        share.verify(share.pool)
        copies: list[Disk] = []
        for disk in share.disks.values():
            oldest = next(iter(disk.snapshots))
            copy = volumes.create(service, ME, volumes.NewVolume(snapshot_id=oldest))
            until(volumes.get, service, ME, copy)
            copies.append(Disk(copy, content=disk.snapshots[oldest]))
            share.verify_disk(copies[-1], share.pool)
            snapshots.delete(service, ME, oldest)
            until(snapshots.get, service, ME, oldest, gone=True)
            del disk.snapshots[oldest]
            volumes.extend(service, ME, disk.id, 3 * GIB)
            until(volumes.get, service, ME, disk.id)
        share.verify(share.pool)
        # The copies rest on what Cinder wrote; they keep it when its volumes go, and take it along.
        for disk in share.disks.values():
            volumes.delete(service, ME, disk.id, cascade=True)
            until(volumes.get, service, ME, disk.id, gone=True)
        for taken in copies:
            share.verify_disk(taken, share.pool)
        assert doctor.examine(share.config).findings == []
        for taken in copies:
            volumes.delete(service, ME, taken.id)
            until(volumes.get, service, ME, taken.id, gone=True)
    assert {path.name for path in share.pool.iterdir()} == {MARKER}


def test_old_chains_that_name_the_image_below_by_its_path(
    share: Share, from_cinder: tuple[Path, dict[str, Disk]]
) -> None:
    disk = share.disks["merged offline"]
    told = json.loads((share.pool / f"volume-{disk.id}.info").read_text())
    for snapshot_id in disk.snapshots:
        overlay = share.pool / told[snapshot_id]
        below = below_of(overlay).name
        kind = "raw" if below == f"volume-{disk.id}" else "qcow2"
        path = f"/var/lib/cinder/mnt/{'0123456789abcdef' * 2}/{below}"
        subprocess.run(
            ["qemu-img", "rebase", "-u", "-f", "qcow2", "-F", kind, "-b", path, str(overlay)], check=True
        )
    outcomes = {one["volume_id"]: one for one in share.adopt()}
    assert len(outcomes[disk.id]["edits"]) == 2
    share.verify(share.pool)
    assert doctor.examine(share.config).findings == []


def test_a_path_out_of_the_share_is_refused(share: Share) -> None:
    disk = share.disks["stale info"]
    hostile = share.disks["only an overlay left"]
    overlay = json.loads((share.pool / f"volume-{hostile.id}.info").read_text())["active"]
    for path in (f"/etc/volume-{hostile.id}", f"/var/lib/cinder/mnt/{'0' * 32}/volume-{disk.id}"):
        subprocess.run(
            ["qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", path, str(share.pool / overlay)],
            check=True,
        )
        before = (share.pool / overlay).read_bytes()
        outcomes = {one["volume_id"]: one for one in share.adopt()}
        assert outcomes[hostile.id]["state"] == "left"
        assert outcomes[hostile.id]["reason"]
        assert (share.pool / overlay).read_bytes() == before


def test_a_disk_on_which_a_guest_wrote_a_header_is_left_until_somebody_knows(share: Share) -> None:
    disk = share.disks["raw"]
    header = (share.pool / f"volume-{share.disks['qcow2'].id}").read_bytes()[: 1 << 20]
    with (share.pool / f"volume-{disk.id}").open("r+b") as file:
        file.write(header)
    outcomes = {one["volume_id"]: one for one in share.adopt()}
    assert (outcomes[disk.id]["state"], "guest" in outcomes[disk.id]["reason"]) == ("left", True)
    outcomes = {one["volume_id"]: one for one in share.adopt("--format", "raw")}
    assert (outcomes[disk.id]["state"], outcomes[disk.id]["format"]) == ("added", "raw")
    # Where there was no doubt, that word decided nothing.
    with working(share.config) as service:
        assert volumes.get(service, ME, share.disks["qcow2"].id).format == "qcow2"


def test_a_volume_that_a_program_has_open_is_left(share: Share) -> None:
    disk = share.disks["extended"]
    active = json.loads((share.pool / f"volume-{disk.id}.info").read_text())["active"]
    guest = subprocess.Popen(
        ["qemu-io", "-f", "qcow2", str(share.pool / active)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert guest.stdin is not None
    assert guest.stdout is not None
    try:
        guest.stdin.write("read 0 512\n")
        guest.stdin.flush()
        while "ops/sec" not in guest.stdout.readline():
            pass
        outcomes = {one["volume_id"]: one for one in share.adopt()}
        assert (outcomes[disk.id]["state"], "open" in outcomes[disk.id]["reason"]) == ("left", True)
    finally:
        guest.communicate()
    states = {one["volume_id"]: one["state"] for one in share.adopt()}
    assert states[disk.id] == "added"


def test_names_and_projects_come_from_a_list(share: Share, tmp_path: Path) -> None:
    disk, busy = share.disks["extended"], share.disks["raw"]
    listed = {
        "volumes": [
            {
                "id": disk.id,
                "name": "payroll",
                "size": 2,
                "status": "available",
                "bootable": "true",
                "volume_type": "cinder-type",
                "metadata": {"a": "b"},
                "os-vol-tenant-attr:tenant_id": "d" * 32,
                "created_at": "2020-01-02T03:04:05.000000",
            },
            {"id": busy.id, "size": 1, "status": "in-use"},
        ],
        "snapshots": [{"id": one, "name": "friday"} for one in disk.snapshots],
    }
    (tmp_path / "list.json").write_text(json.dumps(listed))
    done = share.command("pool", "adopt", "local", "--yes", "--json", "--list", str(tmp_path / "list.json"))
    outcomes = {one["volume_id"]: one for one in json.loads(done.stdout)}
    assert outcomes[disk.id]["state"] == "added"
    assert "in-use" in outcomes[busy.id]["reason"]
    assert "--project" in outcomes[share.disks["qcow2"].id]["reason"]
    with working(share.config) as service:
        row = volumes.get(service, ME, disk.id)
        assert (row.name, row.project_id, row.bootable) == ("payroll", "d" * 32, True)
        assert row.created_at == "2020-01-02T03:04:05.000000"
        assert snapshots.get(service, ME, next(iter(disk.snapshots))).name == "friday"
