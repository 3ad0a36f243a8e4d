"""A flat volume over CDMI as a kernel's device, and then its object as a device that is only read."""

import asyncio
import os
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from guest_nbd import CHECK, GROW, MIB, bytes_of, digest, forked, sh, until
from guest_rest import Host, attempt

import zoo
from breezeblock.backends.contract import Volume
from breezeblock.errors import ConflictError
from breezeblock.objects.cdmi import CdmiServer

LENGTH = 64 * MIB


@contextmanager
def cdmi(directory: Path) -> Iterator[str]:
    """Serve a directory from a child: another Python would take seconds in here."""
    told = directory.with_name("port")

    async def serve() -> None:
        port = await CdmiServer(directory).start("127.0.0.1", 0)
        told.with_suffix(".new").write_text(str(port))
        told.with_suffix(".new").rename(told)
        await asyncio.Event().wait()

    directory.mkdir()
    with forked(lambda: asyncio.run(serve())):
        until(told.exists)
        yield f"http://127.0.0.1:{told.read_text()}"


def test_ext4_on_a_flat_volume_and_read_only_on_its_object(tmp_path: Path) -> None:
    point, chance = tmp_path / "mounted", random.Random("flat")
    point.mkdir()
    memory = tempfile.TemporaryDirectory(dir="/run")  # sockets have short names
    with memory as place, cdmi(Path(place, "served")) as url:
        gold = {"store": "cdmi", "layout": "flat", "urls": [url]}
        host = Host(Path(place), {"gold": gold})
        volume = host.volume(LENGTH)
        host.backend.create(volume, attempt())
        data = host.data(volume)
        device = host.connector.attach(data).device
        assert bytes_of(device) == LENGTH
        sh("mkfs.ext4", "-q", device)
        sh("mount", device, str(point))
        for number in range(4):
            (point / f"file-{number}").write_bytes(chance.randbytes(2 * MIB))
        sums = {number: digest(point / f"file-{number}") for number in range(4)}
        for number in (1, 3):
            (point / f"file-{number}").unlink()
        os.sync()
        sh("fstrim", str(point))  # nothing comes of it, and nothing is lost

        host.backend.extend(volume, LENGTH + 64 * MIB, attempt())
        host.connector.grown(data)
        assert bytes_of(device) == LENGTH + 64 * MIB
        GROW["ext4"](device, str(point))
        assert os.statvfs(point).f_blocks * os.statvfs(point).f_frsize > LENGTH
        sh("umount", str(point))
        CHECK["ext4"](device)
        host.connector.detach(data)
        assert host.left() == []

        device = host.connector.attach(data).device
        sh("mount", device, str(point))
        assert {number: digest(point / f"file-{number}") for number in (0, 2)} == {0: sums[0], 2: sums[2]}
        sh("umount", str(point))
        host.connector.detach(data)
        assert host.left() == []

        (image,) = Path(place, "served", "flat").iterdir()
        read_only(Path(place), image, point, {number: sums[number] for number in (0, 2)})


def read_only(place: Path, image: Path, point: Path, sums: dict[int, str]) -> None:
    """Let nginx have what the volume was, and mount that."""
    (place / "web").mkdir()
    with zoo.running(zoo.nginx, place / "web") as url:
        image.rename(place / "web" / "data" / "base.raw")
        pool = {"store": "web", "layout": "read-only", "urls": [url], "images": ["base.raw"]}
        (place / "images").mkdir()
        host = Host(place / "images", {"images": pool})
        new = msgspec.structs.replace(host.volume(0), pool="images")
        volume = adopted(host, new)
        data = host.data(volume)
        with pytest.raises(ConflictError, match="can only be read"):
            host.connector.attach(data)
        device = host.connector.attach(data, read_only=True).device
        assert Path("/sys/block", Path(device).name, "ro").read_text().strip() == "1"
        with pytest.raises(OSError, match="not permitted"), Path(device).open("wb", buffering=0) as file:
            file.write(bytes(4096))
        sh("mount", "-o", "ro", device, str(point))
        assert {number: digest(point / f"file-{number}") for number in sums} == sums
        sh("umount", str(point))
        host.connector.detach(data)
        assert host.left() == []


def adopted(host: Host, volume: Volume) -> Volume:
    found = host.backend.adopt(volume, "base.raw", attempt())
    return msgspec.structs.replace(volume, locator=found.volume.locator, virtual_bytes=found.virtual_bytes)
