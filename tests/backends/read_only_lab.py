"""A server of images, and a back end with a pool of them."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec

import zoo
from breezeblock.app import attaching
from breezeblock.attempt import Attempt
from breezeblock.backends.contract import Volume
from breezeblock.backends.rest import RestBackend, open_rest
from breezeblock.config import Config, ServiceSection

MIB = 1 << 20
IMAGES = ["debian/12.raw", "debian/11.raw", "odd.raw", "disk.qcow2", "none.raw"]


def attempt() -> Attempt:
    return Attempt(operation_id=str(uuid4()), token=uuid4().hex)


def volume(pool: str = "images", length: int = 0, image_format: str = "") -> Volume:
    return Volume(id=str(uuid4()), virtual_bytes=length, pool=pool, format=image_format)


def section(**pool: Any) -> dict[str, Any]:
    return {"kind": "rest", "pools": {"images": {"layout": "read-only", **pool}}}


class Place:
    """A server of images, and a back end with a pool of them beside one that can be written."""

    def __init__(self, home: Path, url: str) -> None:
        self.data, self.place = home / "data", home / "x"
        self.place.mkdir()
        (self.place / "store").mkdir()
        wanted = section(store="web", urls=[url], images=IMAGES)
        wanted["pools"]["gold"] = {"store": "directory", "urls": [str(self.place / "store")]}
        wanted |= {"run_dir": str(self.place / "run"), "journal_dir": str(self.place / "journals")}
        self.config = Config(
            service=ServiceSection(state_dir=str(self.place / "state")), backends={"rest": wanted}
        )
        self.backend = self.open()

    def open(self) -> RestBackend:
        return open_rest("rest", attaching.rest_config(self.config, "rest"), self.place / "state")

    def put(self, name: str, content: bytes) -> None:
        path = self.data / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)

    def manage(self, name: str) -> Volume:
        new = volume()
        found = self.backend.adopt(new, name, attempt())
        return msgspec.structs.replace(
            new, virtual_bytes=found.virtual_bytes, locator=found.volume.locator, format=found.volume.format
        )

    def tree(self) -> dict[str, tuple[int, int]]:
        return {str(one): (one.stat().st_size, one.stat().st_mtime_ns) for one in self.data.rglob("*")}


@contextmanager
def served() -> Iterator[Place]:
    memory = tempfile.TemporaryDirectory(prefix="b", dir="/dev/shm")  # sockets have short names
    with memory as home, zoo.running(zoo.nginx, Path(home)) as url:
        yield Place(Path(home), url)
