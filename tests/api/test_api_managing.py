"""Managing what is on storage already, through HTTP, with a worker and real files."""

import json
import subprocess
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from api_world import Client, World, serving

from breezeblock.app import quickstart
from working import working

GIB = 1 << 30


@dataclass
class Place:
    pool: Path
    world: World
    host: str
    admin: Client

    def image(self, name: str, image_format: str = "raw", gib: int = 1) -> Path:
        subprocess.run(
            ["qemu-img", "create", "-q", "-f", image_format, self.pool / name, f"{gib}G"], check=True
        )
        return self.pool / name

    def manage(self, source: str, **more: Any) -> Any:
        reference = {"source-name": source, **more.pop("ref", {})}
        return self.admin.post(
            "/manageable_volumes", {"volume": {"host": self.host, "ref": reference, **more}}
        )

    def content(self, kind: str = "volumes") -> dict[str, dict[str, Any]]:
        answer = self.admin.get(f"/manageable_{kind}/detail?host={self.host.replace('#', '%23')}")
        assert answer.status_code == 200, answer.text
        return {next(iter(one["reference"].values())): one for one in answer.json()[f"manageable-{kind}"]}

    def until(self, kind: str, resource_id: str, *wanted: str) -> str:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            answer = self.admin.get(f"/{kind}s/{resource_id}")
            status = "gone" if answer.status_code == 404 else str(answer.json()[kind]["status"])
            if status in wanted:
                return status
            time.sleep(0.01)
        raise AssertionError(status)

    def used(self) -> tuple[int, int]:
        answer = self.admin.get(f"/os-quota-sets/{self.admin.project_id}?usage=true").json()["quota_set"]
        return answer["volumes"]["in_use"], answer["gigabytes"]["in_use"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    ready = quickstart.prepare(tmp_path_factory.mktemp("managing") / "data", 18779)
    with working(ready.config) as service, serving(service) as server:
        host = f"{ready.config.service.name}@local#local"
        world = World(service.database, server)
        yield Place(ready.data / "pool", world, host, world.client("admin"))


@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
def test_a_file_becomes_a_volume_and_is_let_go_again(place: Place, image_format: str) -> None:
    path = place.image(f"disk.{image_format}", image_format, 2)
    subprocess.run(["qemu-io", "-f", image_format, "-c", "write -q -P 7 1M 64k", path], check=True)
    inode, before = path.stat().st_ino, place.used()
    listed = place.content()[path.name]
    if image_format == "raw":
        assert (listed["safe_to_manage"], listed["size"], listed["cinder_id"]) == (True, 2, None)
    else:
        assert (listed["safe_to_manage"], "guest" in listed["reason_not_safe"]) == (False, True)
    answer = place.manage(path.name, name="old disk", ref={"format": image_format}, metadata={"a": "b"})
    assert answer.status_code == 202, answer.text
    volume_id = answer.json()["volume"]["id"]
    assert answer.json()["volume"]["status"] == "managing"
    assert place.until("volume", volume_id, "available", "error") == "available"
    shown = place.admin.get(f"/volumes/{volume_id}").json()["volume"]
    assert (shown["size"], shown["name"], shown["metadata"]) == (2, "old disk", {"a": "b"})
    final = place.pool / f"volume-{volume_id}"
    assert (final.stat().st_ino, path.exists()) == (inode, False)
    assert place.used() == (before[0] + 1, before[1] + 2)
    assert place.content()[final.name]["cinder_id"] == volume_id
    assert place.manage(final.name).status_code == 400
    assert place.admin.post(f"/volumes/{volume_id}/action", {"os-unmanage": {}}).status_code == 202
    assert place.until("volume", volume_id, "gone", "error_unmanaging") == "gone"
    assert final.stat().st_ino == inode
    assert place.used() == before


def test_a_volume_comes_back_with_its_snapshots(place: Place) -> None:
    made = place.admin.post("/volumes", {"volume": {"size": 1}}).json()["volume"]["id"]
    place.until("volume", made, "available")
    taken = []
    for _ in range(2):
        body = {"snapshot": {"volume_id": made, "force": True}}
        taken.append(place.admin.post("/snapshots", body).json()["snapshot"]["id"])
        place.until("snapshot", taken[-1], "available")
    assert place.admin.post(f"/volumes/{made}/action", {"os-unmanage": {}}).status_code == 400
    files = {path.name: path.stat().st_ino for path in place.pool.glob(f"volume-{made}*")}
    for snapshot_id in taken:
        assert place.admin.post(f"/snapshots/{snapshot_id}/action", {"os-unmanage": {}}).status_code == 202
    listed = place.content("snapshots")
    assert [listed[one]["safe_to_manage"] for one in taken] == [True, True]
    body = {"snapshot": {"volume_id": made, "ref": {"source-id": taken[0]}, "name": "again"}}
    assert place.admin.post("/manageable_snapshots", body).status_code == 202
    assert place.until("snapshot", taken[0], "available", "gone") == "available"
    body["snapshot"]["ref"] = {"source-id": str(uuid.uuid4())}
    absent = place.admin.post("/manageable_snapshots", body).json()["snapshot"]["id"]
    assert place.until("snapshot", absent, "gone") == "gone"
    place.admin.post(f"/snapshots/{taken[0]}/action", {"os-unmanage": {}})
    place.admin.post(f"/volumes/{made}/action", {"os-unmanage": {}})
    place.until("volume", made, "gone")
    # Its id is in its name, so it keeps that, and its snapshots are those beside it.
    assert place.manage(f"volume-{made}").json()["volume"]["id"] == made
    assert place.until("volume", made, "available", "gone") == "available"
    listed_now = place.admin.get(f"/snapshots?volume_id={made}").json()["snapshots"]
    assert {one["id"] for one in listed_now} == set(taken)
    assert {path.name: path.stat().st_ino for path in place.pool.glob(f"volume-{made}*")} == files
    assert place.admin.delete(f"/volumes/{made}?cascade=true").status_code == 202
    assert place.until("volume", made, "gone", "error_deleting") == "gone"


def test_what_cannot_be_managed_is_left_untouched_and_leaves_no_row(place: Place) -> None:
    before = place.used()
    base = place.image("base.raw")
    (place.pool / "hostile.qcow2").unlink(missing_ok=True)
    for backing in ("/etc/passwd", "base.raw"):
        hostile = place.pool / "hostile.qcow2"
        subprocess.run(
            ["qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", backing, hostile, "1G"],
            check=True,
        )
        content = hostile.read_bytes()
        answer = place.manage("hostile.qcow2", ref={"format": "qcow2"})
        volume_id = answer.json()["volume"]["id"]
        assert place.until("volume", volume_id, "gone", "available", "error") == "gone"
        told = place.admin.get(f"/messages?resource_uuid={volume_id}").json()["messages"]
        assert told[0]["user_message"]
        assert hostile.read_bytes() == content
        hostile.unlink()
    for name in ("absent", "../pool/base.raw", "/etc/passwd", ".hidden"):
        volume_id = place.manage(name).json()["volume"]["id"]
        assert place.until("volume", volume_id, "gone", "available", "error") == "gone"
    (place.pool / "link").symlink_to("/etc/passwd")
    volume_id = place.manage("link").json()["volume"]["id"]
    assert place.until("volume", volume_id, "gone", "available", "error") == "gone"
    (place.pool / "link").unlink()
    assert place.used() == before
    base.unlink()


def test_only_admins_and_only_known_pools(place: Place) -> None:
    member = place.world.client("member")
    assert member.get("/manageable_volumes?host=x").status_code == 403
    body = {"volume": {"host": place.host, "ref": {"source-name": "x"}}}
    assert member.post("/manageable_volumes", body).status_code == 403
    assert place.admin.get("/manageable_volumes?host=breezeblock@nowhere%23x").status_code == 400
    assert place.admin.get("/manageable_volumes").status_code == 400
    assert place.admin.at("3.7").post("/manageable_volumes", body).status_code == 404
    assert (
        place.admin.at("3.0").post("/os-volume-manage", {"volume": {"host": place.host}}).status_code == 400
    )
    assert json.loads(place.admin.post("/manageable_volumes", {}).text)["badRequest"]


def test_a_volume_that_is_not_ours_yet_is_not_deleted(place: Place) -> None:
    volume_id = place.world.volume(
        status="error_managing", project_id=place.admin.project_id, backend="local", pool="local"
    )
    stranger = place.image(f"volume-{volume_id}")
    assert place.admin.delete(f"/volumes/{volume_id}?cascade=true").status_code == 400
    assert place.admin.post(f"/volumes/{volume_id}/action", {"os-force_delete": {}}).status_code == 400
    assert stranger.exists()
    with place.world.database.write() as connection:
        connection.exec_driver_sql(f"DELETE FROM volumes WHERE id = '{volume_id}'")
    stranger.unlink()
