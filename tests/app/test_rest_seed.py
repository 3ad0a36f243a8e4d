"""As the old kernel driver was used: names, control files, an object for each volume, Scality's dialect."""

import asyncio
import errno
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from control_lab import control_files, number

from breezeblock import vault
from breezeblock.app.control_files import ControlFiles
from breezeblock.errors import UnsupportedError
from breezeblock.objects.flat.lock import Lock
from breezeblock.objects.stores.cdmi import CdmiStore
from cdmi_process import PASSWORD, USER, cdmi_server
from rest_place import configure, short_place


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    with short_place() as place:
        (place / "store").mkdir()
        vault.at(place / "state").set("cdmi", PASSWORD)
        with cdmi_server(place / "store") as url:
            pool = {"store": "cdmi", "layout": "flat", "dialect": "scality", "user": USER, "secret": "cdmi"}
            configure(place, **pool, urls=[f"{url}/volumes"])
            yield place


@pytest.fixture(scope="module")
def files(place: Path) -> ControlFiles:
    return control_files(place)


def test_a_volume_lives_as_one_object(files: ControlFiles, place: Path) -> None:
    def write(path: str, line: str) -> int | None:
        return number(lambda: files.write(path, line.encode()))

    assert write("create", "one 1M\n") is None
    assert write("create", "one 1M\n") == errno.EEXIST
    assert files.read("volumes") == b"one\n"
    assert write("attach", "one disk\n") is None
    uri = files.read("disk/srb_device").decode().strip()
    pattern = ["-c", "write -P 9 64k 8k", "-c", "read -P 9 64k 8k", "-c", "flush"]
    subprocess.run(["qemu-io", "-f", "raw", *pattern, uri], check=True, capture_output=True, timeout=60)
    (key,) = (place / "store" / "volumes" / "flat").iterdir()
    assert key.read_bytes() == (bytes(64 << 10) + b"\x09" * 8192).ljust(1 << 20, b"\0")
    assert write("destroy", "one\n") == errno.EBUSY
    assert write("extend", "one 2M\n") is None
    assert files.read("disk/srb_size") == b"2097152\n"
    view = files.rest.view(key.name)
    assert view is not None
    assert (view.trouble, view.failed, view.journal_bytes) == ("", "", 0)
    assert files.rest.status().attached[0].volume == key.name
    assert write("detach", "disk\n") is None
    assert write("extend", "one 3M\n") is None
    assert key.stat().st_size == 3 << 20
    with pytest.raises(UnsupportedError, match="layout flat"):
        files.rest.collect()
    assert write("destroy", "one\n") is None
    assert files.read("volumes") == b""
    left = {
        path.relative_to(place / "store" / "volumes").parts[0]
        for path in (place / "store").rglob("volumes/*/*")
    }
    assert left == {"pool"}


def test_what_another_host_has_is_not_destroyed(files: ControlFiles, place: Path) -> None:
    files.rest.create("two", 1 << 20)
    (listed,) = files.rest.volumes()

    async def elsewhere() -> None:
        url = files.rest.urls()[0]
        store = CdmiStore(url, dialect="scality", user=USER, password=PASSWORD)
        await Lock(store, f"lock/{listed.id}", "another", f"flat/{listed.id}").take()
        await store.close()

    asyncio.run(elsewhere())
    for verb, line in (("destroy", b"two\n"), ("extend", b"two 2M\n"), ("attach", b"two disk\n")):
        assert number(lambda verb=verb, line=line: files.write(verb, line)) == errno.EBUSY  # type: ignore[misc]
    assert files.read("volumes") == b"two\n"
