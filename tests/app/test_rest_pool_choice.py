"""One back end of object stores with pools of every layout, through the API: which pool, and what it can."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import zoo
from served import Served

GIB = 1 << 30
BACKENDS = """
[backends.rest]
kind = "rest"
run_dir = "{place}/run"
journal_dir = "{place}/journals"
[backends.rest.pools.log]
store = "directory"
urls = ["{place}/segments"]
[backends.rest.pools.plain]
store = "directory"
layout = "flat"
urls = ["{place}/plain"]
[backends.rest.pools.images]
store = "web"
layout = "read-only"
urls = ["{url}"]
images = ["debian/12.raw", "gone.raw"]
"""


class Cloud(Served):
    def type(self, name: str, **specs: str) -> None:
        body = {"volume_type": {"name": name, "extra_specs": specs}}
        status, found = self.call("POST", "/types", body)
        assert status == 200, found

    def pool_of(self, volume_id: str) -> str:
        status, found = self.call("GET", f"/volumes/{volume_id}")
        assert status == 200, found
        host: str = found["volume"]["os-vol-host-attr:host"]
        return host.partition("#")[2]

    def refused(self, method: str, path: str, body: Any, said: str) -> None:
        status, found = self.call(method, path, body)
        assert status == 400, found
        assert said in found["badRequest"]["message"]

    def act(self, volume_id: str, action: str, values: Any = None) -> tuple[int, Any]:
        return self.call("POST", f"/volumes/{volume_id}/action", {action: values})


@pytest.fixture(scope="module")
def images() -> Iterator[Path]:
    """A web server's directory, in memory as all of this is."""
    with tempfile.TemporaryDirectory(prefix="b", dir="/dev/shm") as home:
        yield Path(home)


@pytest.fixture(scope="module")
def cloud(images: Path) -> Iterator[Cloud]:
    place = images / "service"
    for name in ("segments", "plain"):
        (place / name).mkdir(parents=True)
    with zoo.running(zoo.nginx, images) as url:
        (images / "data" / "debian").mkdir()
        (images / "data" / "debian" / "12.raw").write_bytes(os.urandom(1 << 20) + bytes(1 << 20))
        backends = BACKENDS.format(place=place, url=url)
        served = Cloud(place, f"sqlite:///{place}/catalog.db", backends=backends)
        try:
            served.start()
            yield served
        finally:
            served.stop_all()


def test_pools_say_what_they_can(cloud: Cloud) -> None:
    status, found = cloud.call("GET", "/scheduler-stats/get_pools?detail=True")
    assert status == 200
    able = {pool["name"].partition("#")[2]: pool["capabilities"] for pool in found["pools"]}
    names = ("layout", "storage_protocol", "snapshot_support", "revert_to_snapshot_support", "read_only")
    assert {pool: tuple(can[name] for name in names) for pool, can in able.items()} == {
        "log": ("log", "nbd", True, True, False),
        "plain": ("flat", "nbd", False, False, False),
        "images": ("read-only", "nbd", False, False, True),
    }
    assert (able["images"]["total_capacity_gb"], able["images"]["free_capacity_gb"]) == (0, 0)


def test_a_volume_type_asks_for_a_layout_or_for_what_it_can(cloud: Cloud) -> None:
    cloud.type("plain", layout="flat")
    cloud.type("with-snapshots", snapshot_support="<is> True")
    cloud.type("without", **{"capabilities:snapshot_support": "<is> False"})
    cloud.type("both", layout="flat", snapshot_support="<is> True")
    cloud.type("images", layout="read-only")
    plain = cloud.volume(volume_type="plain")
    assert cloud.pool_of(plain) == "plain"
    assert cloud.pool_of(cloud.volume(volume_type="without")) == "plain"
    kept = cloud.volume(volume_type="with-snapshots")
    assert cloud.pool_of(kept) == "log"
    cloud.snapshot(kept)
    cloud.refused("POST", "/snapshots", {"snapshot": {"volume_id": plain}}, "cannot take snapshots")
    wanted = {"size": 1, "volume_type": "both"}
    cloud.refused("POST", "/volumes", {"volume": wanted}, "its snapshot_support is False, not <is> True")
    wanted = {"size": 1, "volume_type": "images"}
    cloud.refused("POST", "/volumes", {"volume": wanted}, "rest#images: it is read-only")


def test_an_image_on_a_web_server_becomes_a_volume(cloud: Cloud, images: Path) -> None:
    image = images / "data" / "debian" / "12.raw"
    before, content = image.stat().st_mtime_ns, image.read_bytes()
    _, found = cloud.call("GET", "/os-services?binary=cinder-volume")
    host = f"{found['services'][0]['host'].partition('@')[0]}@rest#images"

    def listed() -> dict[str, tuple[bool, str | None]]:
        status, found = cloud.call("GET", f"/manageable_volumes/detail?host={host.replace('#', '%23')}")
        assert status == 200, found
        return {
            one["reference"]["source-name"]: (one["safe_to_manage"], one["cinder_id"])
            for one in found["manageable-volumes"]
        }

    assert listed() == {"debian/12.raw": (True, None), "gone.raw": (False, None)}
    wanted = {"host": host, "ref": {"source-name": "debian/12.raw"}, "bootable": True}
    status, found = cloud.call("POST", "/manageable_volumes", {"volume": wanted})
    assert status == 202, found
    base = found["volume"]["id"]
    cloud.until(f"/volumes/{base}", "available")
    assert listed()["debian/12.raw"] == (False, base)
    _, found = cloud.call("GET", f"/volumes/{base}")
    assert (found["volume"]["bootable"], found["volume"]["metadata"].get("readonly")) == ("true", "True")

    cloud.refused("POST", "/snapshots", {"snapshot": {"volume_id": base}}, "cannot take snapshots")
    path = f"/volumes/{base}/action"
    cloud.refused("POST", path, {"os-extend": {"new_size": 2}}, "rest#images: it is read-only")
    cloud.refused("POST", path, {"os-update_readonly_flag": {"readonly": False}}, "only read")
    connector = {"host": "here"}
    body = {"attachment": {"volume_uuid": base, "connector": connector, "mode": "rw"}}
    cloud.refused("POST", "/attachments", body, "read-only; attach it with mode 'ro'")
    assert cloud.all("attachments") == []
    body["attachment"]["mode"] = "ro"
    status, found = cloud.call("POST", "/attachments", body)
    assert status == 200, found
    info = found["attachment"]["connection_info"]
    assert (info["access_mode"], info["driver_volume_type"], info["pool"]) == ("ro", "nbd", "images")
    assert cloud.call("DELETE", f"/attachments/{found['attachment']['id']}")[0] == 200
    cloud.until(f"/volumes/{base}", "available")

    copy = cloud.volume(source_volid=base, volume_type="plain")
    assert cloud.pool_of(copy) == "plain"
    flat = images / "service" / "plain" / "flat" / copy.replace("-", "")
    with flat.open("rb") as data:
        assert data.read(len(content)) == content
    assert flat.stat().st_size == GIB

    image.write_bytes(content + content)
    body = {"volume": {"size": 1, "source_volid": base, "volume_type": "with-snapshots"}}
    status, found = cloud.call("POST", "/volumes", body)
    assert status == 202, found
    cloud.until_idle()
    _, messages = cloud.call("GET", "/messages")
    assert any("debian/12.raw was changed" in one["user_message"] for one in messages["messages"]), messages
    assert cloud.act(base, "os-unmanage")[0] == 202
    cloud.until(f"/volumes/{base}", "gone")
    image.write_bytes(content)
    os.utime(image, ns=(before, before))
