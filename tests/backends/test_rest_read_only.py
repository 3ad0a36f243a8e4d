"""Pools that are only read: images on nginx, and in S3 where there is a listing; what cannot be one."""

import asyncio
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest
from read_only_lab import IMAGES, MIB, Place, attempt, section, served, volume

import zoo
from breezeblock.app import attaching
from breezeblock.backends.rest import open_rest
from breezeblock.backends.rest_config import RestConfig
from breezeblock.errors import (
    ConflictError,
    InvalidInputError,
    NotFoundError,
    UnavailableError,
    UnsupportedError,
)
from breezeblock.objects import serving
from breezeblock.objects.stores.s3 import S3Store
from breezeblock.objects.stores.sigv4 import Credentials


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with served() as place:
        yield place


def test_an_image_is_managed_read_copied_and_let_go(place: Place, tmp_path: Path) -> None:
    content = os.urandom(MIB) + bytes(2 * MIB)
    place.put("debian/12.raw", content)
    place.put("odd.raw", b"x" * 700)
    place.put("disk.qcow2", b"QFI\xfb".ljust(MIB, b"\0"))
    before, backend = place.tree(), place.backend
    seen = {pool.name: pool for pool in backend.stats()}["images"]
    assert (seen.up, seen.total_bytes, seen.free_bytes, seen.findings) == (True, 0, 0, ())
    assert seen.capabilities
    assert (seen.capabilities.read_only, seen.capabilities.extend, seen.capabilities.snapshots) == (
        True,
        False,
        False,
    )
    listed = [found for found in backend.inventory() if found.pool == "images"]
    assert [(found.name, found.kind, found.volume_id) for found in listed] == [
        (name, "offered", None) for name in IMAGES
    ]

    held = place.manage("debian/12.raw")
    assert held.virtual_bytes == 3 * MIB
    assert json.loads(held.locator)["key"] == "debian/12.raw"
    assert place.manage("debian/12.raw").locator == held.locator
    assert backend.check(held, ()) == []
    backend.export_image(held, None, str(tmp_path / "out"), "raw", attempt())
    assert (tmp_path / "out").read_bytes() == content
    copy = volume("gold", 4 * MIB)
    backend.clone(held, copy, attempt())
    with backend.open_data(copy) as data:
        assert data.read(0, 4 * MIB) == content.ljust(4 * MIB, b"\0")

    assert backend.release(held, attempt()) == "debian/12.raw"
    backend.delete(held, attempt())
    assert place.tree() == before


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("none.raw", NotFoundError, "none.raw"),
        ("odd.raw", InvalidInputError, "odd.raw has 700 bytes"),
        ("disk.qcow2", InvalidInputError, "disk.qcow2 begins like qcow2"),
        ("../passwd", NotFoundError, "no name of an object"),
    ],
)
def test_what_is_no_raw_image_is_not_managed(place: Place, name: str, error: Any, said: str) -> None:
    place.put("odd.raw", b"x" * 700)
    place.put("disk.qcow2", b"QFI\xfb".ljust(MIB, b"\0"))
    with pytest.raises(error, match=said):
        place.manage(name)
    if name == "disk.qcow2":
        assert place.backend.adopt(volume(image_format="raw"), name, attempt()).virtual_bytes == MIB


def test_what_would_write_is_refused(place: Place, tmp_path: Path) -> None:
    place.put("debian/12.raw", b"a" * MIB)
    held, backend, before = place.manage("debian/12.raw"), place.backend, place.tree()
    (tmp_path / "image").write_bytes(bytes(MIB))
    new = volume(length=MIB)
    with pytest.raises(UnsupportedError, match="Pool images is read-only") as caught:
        backend.create(new, attempt())
    assert "Manage one" in caught.value.remedy
    with pytest.raises(UnsupportedError, match="read-only"):
        backend.extend(held, 2 * MIB, attempt())
    with pytest.raises(UnsupportedError, match="read-only"):
        backend.clone(held, new, attempt())
    with pytest.raises(UnsupportedError, match="read-only"):
        backend.import_image(new, str(tmp_path / "image"), "raw", attempt())
    with pytest.raises(UnsupportedError, match="read-only"), backend.open_data(held, writable=True):
        pass
    backend.delete(new, attempt())  # as the undo of a create does
    assert place.tree() == before


def test_a_changed_object_is_an_error_that_names_it(place: Place) -> None:
    place.put("debian/11.raw", b"a" * 4 * MIB)
    held, backend = place.manage("debian/11.raw"), place.backend
    copy = volume("gold", 4 * MIB)

    def changed_meanwhile() -> None:
        with backend.open_data(held) as data:
            assert data.read(0, 4) == b"aaaa"
            place.put("debian/11.raw", b"b" * 4 * MIB)
            os.utime(place.data / "debian/11.raw", (1, 1))
            with pytest.raises(ConflictError, match="while it was read"):
                data.read(3 * MIB, 4)

    for use in (
        changed_meanwhile,
        lambda: backend.connection_info(held, {}),
        lambda: backend.clone(held, copy, attempt()),
    ):
        with pytest.raises(ConflictError, match=r"debian/11\.raw was changed"):
            use()
    (finding,) = backend.check(held, ())
    assert "debian/11.raw was changed" in finding.problem
    (place.data / "debian/11.raw").unlink()
    (finding,) = backend.check(held, ())
    assert "debian/11.raw is gone" in finding.problem
    backend.delete(copy, attempt())
    assert not any(one.kind == "temporary" for one in backend.inventory())
    assert backend.release(held, attempt()) == "debian/11.raw"
    backend.delete(held, attempt())


def test_it_is_attached_for_reading_only(place: Place) -> None:
    place.put("debian/12.raw", b"\5" * MIB)
    held = place.manage("debian/12.raw")
    info = place.backend.connection_info(held, {})
    assert info.driver_volume_type == "nbd"
    assert (info.data["access_mode"], info.data["discard"]) == ("ro", False)
    assert info.data["export"] == UUID(held.id).hex
    connector = attaching.connector(place.config, place.place / "records")
    with pytest.raises(ConflictError, match="can only be read"):
        connector.attach(info.data)
    assert connector.records() == []
    uri = connector.attach(info.data, read_only=True).device
    assert uri == info.data["uri"]
    try:
        reads_fives(uri)
        words = ["qemu-io", "-f", "raw", "-c", "write -P 6 0 4k", uri]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode
        task = attaching.task(place.config, info.data)
        with pytest.raises(UnsupportedError, match="only read"):
            serving.call(task.socket, serving.Grow(2 * MIB))
        with pytest.raises(ConflictError, match="attached to this host"):
            place.backend.delete(held, attempt())
        view = serving.running(task.socket)
        assert view
        assert (view.length, view.failed) == (MIB, "")
        os.kill(view.pid, signal.SIGKILL)
        replaced(task, view.pid)
        reads_fives(uri)
        assert connector.restore() == []
    finally:
        connector.detach(info.data)
    left = [str(one) for one in place.place.rglob("*") if one.suffix in {".json", ".log"}]
    assert [one for one in left if "usage" not in one] == []
    place.put("debian/12.raw", b"\6" * 2 * MIB)
    with pytest.raises(ConflictError, match=r"debian/12\.raw was changed"):
        connector.attach(info.data, read_only=True)
    assert connector.records() == []


def replaced(task: serving.Task, worker: int) -> None:
    """Wait until the keeper has another worker."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        with suppress(UnavailableError):  # it was killed while we asked
            now = serving.running(task.socket)
            if now and now.pid != worker:
                return
    raise AssertionError("The worker was not replaced.")


def reads_fives(uri: str) -> None:
    words = ["qemu-io", "-f", "raw", "-r", "-c", "read -P 5 0 1M", uri]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
    assert "failed" not in done.stdout


def test_without_the_server_a_pool_is_down_and_its_volumes_can_be_let_go() -> None:
    with served() as place:
        place.put("debian/12.raw", bytes(MIB))
        held = place.manage("debian/12.raw")
    (seen,) = [pool for pool in place.backend.stats() if pool.name == "images"]
    assert not seen.up
    assert "cannot be reached" in seen.reason
    with pytest.raises(UnavailableError, match="cannot be reached"):
        place.backend.connection_info(held, {})
    assert place.backend.release(held, attempt()) == "debian/12.raw"
    place.backend.delete(held, attempt())


def test_what_is_configured_and_missing_is_told(place: Place) -> None:
    (place.data / "debian/12.raw").unlink(missing_ok=True)
    place.put("disk.qcow2", bytes(MIB))
    found = {pool.name: pool for pool in place.backend.stats()}["images"]
    assert found.up
    assert "pool images, object debian/12.raw" in {one.subject for one in found.findings}


def test_a_bucket_of_images_is_listed(tmp_path: Path) -> None:
    async def fill(url: str) -> None:
        store = S3Store(f"{url}/bucket/images", credentials=lambda: Credentials("key", "secret"))
        await store.client.request("PUT", "/bucket")
        await store.put("one.raw", b"1" * 4096)
        await store.put("two.raw", b"2" * 4096)
        await store.close()

    with zoo.running(zoo.moto, tmp_path) as url:
        asyncio.run(fill(url))
        (tmp_path / "login").write_text("key\nsecret\n")
        pool = {"store": "s3", "urls": [f"{url}/bucket/images"], "credentials_file": str(tmp_path / "login")}
        backend = open_rest("rest", msgspec.convert(section(**pool), RestConfig), tmp_path / "state")
        assert [found.name for found in backend.inventory()] == ["one.raw", "two.raw"]
        assert [one.up for one in backend.stats()] == [True]
        new = volume()
        found = backend.adopt(new, "two.raw", attempt())
        held = msgspec.structs.replace(new, locator=found.volume.locator, virtual_bytes=4096)
        with backend.open_data(held) as data:
            assert data.read(100, 3) == b"222"
        assert [one.name for one in backend.inventory()] == ["one.raw", "two.raw"]
