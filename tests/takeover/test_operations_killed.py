"""Managing, bringing images in and out: killed before any line, then run again or cancelled."""

import hashlib
import json
import os
import sqlite3
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from killed_operations import NO_IMAGES, Place

from breezeblock import config as configuration
from breezeblock.app import quickstart
from breezeblock.catalog import invariants
from breezeblock.catalog.database import Database
from breezeblock.catalog.image_cache import Limits
from breezeblock.service import imaging, managing, volumes
from breezeblock.service.core import GIB, Caller, Service
from breezeblock.testing.kill import Outcome, run_killed_at, trace
from working import working

ME = Caller(project_id="a" * 32, user_id="b" * 32, roles=frozenset({"admin"}), request_id="req-killed")
OLD, SNAPSHOT = "0198aaaa-0000-4000-8000-000000000001", "0198aaaa-0000-4000-8000-000000000002"
OURS = "0198aaaa-0000-4000-8000-000000000003"
PACKAGES = (
    "breezeblock.operations",
    "breezeblock.chains",
    "breezeblock.images.remote",
    "breezeblock.images.s3",
    "breezeblock.images.qcow2",
    "breezeblock.shares.files",
    "breezeblock.catalog.rows",
    "breezeblock.catalog.operations",
)
ROUNDS = 8
EACH = "BREEZEBLOCK_KILL_EVERY_LINE" in os.environ
"""Kill before each line that finds the disk changed, not before some of them."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A stopped service whose pool holds a file, and a chain as Cinder writes it, of nobody's."""
    ready = quickstart.prepare(tmp_path_factory.mktemp("killed") / "data", 18782)
    config = configuration.load(ready.data / "breezeblock.toml", {})
    with working(config):
        pass  # so that the pool is known
    pool = ready.data / "pool"
    with (pool / "disk.raw").open("wb") as file:
        file.write(b"somebody's")
        file.truncate(GIB)
    with (pool / f"volume-{OLD}").open("wb") as file:
        file.write(b"cinder's")
        file.truncate(GIB)
    overlay = f"volume-{OLD}.{SNAPSHOT}"
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", f"volume-{OLD}", overlay, "1G"],
        check=True,
        cwd=pool,
    )
    below = f"/var/lib/cinder/mnt/{'ab' * 16}/volume-{OLD}"
    subprocess.run(["qemu-img", "rebase", "-u", "-F", "raw", "-b", below, overlay], check=True, cwd=pool)
    info = {"active": overlay, SNAPSHOT: overlay}
    (pool / f"volume-{OLD}.info").write_text(json.dumps(info))
    return Place(config)


@dataclass(frozen=True)
class Case:
    """An operation, and what must be there when it is done, or was cancelled."""

    ask: Callable[[Service, Place], str]
    done: Callable[[Place, str], None]
    cancelled: Callable[[Place, str], None]
    image_cache: Limits = NO_IMAGES


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def volume(place: Place, volume_id: str) -> Any:
    with sqlite3.connect(place.catalog) as connection:
        row = connection.execute("SELECT status FROM volumes WHERE id = ?", (volume_id,)).fetchone()
    connection.close()
    return row and row[0]


def names(place: Place) -> set[str]:
    return {path.name for path in place.pool.iterdir()}


CHAIN = {f"volume-{OLD}", f"volume-{OLD}.{SNAPSHOT}", f"volume-{OLD}.info"}


def manage_file(service: Service, place: Place) -> str:
    reference = managing.Reference(name="disk.raw")
    return managing.manage(service, ME, managing.NewManaged(host=host(place), reference=reference))


def host(place: Place) -> str:
    return f"{place.config.service.name}@local#local"


def file_managed(place: Place, volume_id: str) -> None:
    assert volume(place, volume_id) == "available"
    assert names(place) == {f"volume-{volume_id}", *CHAIN}
    assert (place.pool / f"volume-{volume_id}").open("rb").read(10) == b"somebody's"


def file_not_managed(place: Place, volume_id: str) -> None:
    """Cancelled in time, nothing was done; later, it bears its new name; in neither case it is gone."""
    if volume(place, volume_id) == "available":
        file_managed(place, volume_id)
        return
    assert volume(place, volume_id) is None
    (name,) = names(place) - CHAIN
    assert name in {"disk.raw", f"volume-{volume_id}"}
    assert (place.pool / name).open("rb").read(10) == b"somebody's"


def manage_chain(service: Service, place: Place) -> str:
    reference = managing.Reference(name=f"volume-{OLD}")
    return managing.manage(service, ME, managing.NewManaged(host=host(place), reference=reference))


def chain_is_there(place: Place, volume_id: str) -> None:
    assert volume_id == OLD
    assert names(place) == {"disk.raw", *CHAIN}
    assert (place.pool / f"volume-{OLD}").open("rb").read(8) == b"cinder's"


def chain_managed(place: Place, volume_id: str) -> None:
    chain_is_there(place, volume_id)
    assert volume(place, volume_id) == "available"
    with sqlite3.connect(place.catalog) as connection:
        assert connection.execute("SELECT id, status FROM snapshots").fetchall() == [(SNAPSHOT, "available")]
    connection.close()
    done = subprocess.run(
        ["qemu-io", "-r", "-f", "qcow2", "-c", "read -v 0 8", place.pool / f"volume-{OLD}.{SNAPSHOT}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "cinder.s" in done.stdout


def chain_not_managed(place: Place, volume_id: str) -> None:
    chain_is_there(place, volume_id)
    assert volume(place, volume_id) in {None, "available"}


def bring_in(service: Service, place: Place) -> str:
    source = place.out / "in.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", source, "64M"], check=True)
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -q -P 9 1M 3M", source], check=True)
    image = volumes.Image(url=f"file://{source}", format="qcow2", checksum=f"sha256:{digest(source)}")
    return imaging.bring_in(service, ME, volumes.NewVolume(virtual_bytes=GIB, image=image))


def again(service: Service, place: Place) -> str:
    """The pool keeps the image already."""
    bring_in(service, place)
    place.work()
    url = f"file://{place.out / 'in.qcow2'}"
    return imaging.bring_in(
        service, ME, volumes.NewVolume(virtual_bytes=GIB, image=volumes.Image(url=url, format="qcow2"))
    )


def linked(place: Place, volume_id: str) -> None:
    """The volume reads as the image, which the pool keeps, once, and which is used on."""
    assert volume(place, volume_id) == "available"
    with sqlite3.connect(place.catalog) as connection:
        ((image, ready),) = connection.execute("SELECT volume_id, ready FROM cached_images").fetchall()
        parents = connection.execute("SELECT DISTINCT parent_id FROM volumes WHERE id != ?", (image,))
        assert (ready, parents.fetchall()) == (1, [(image,)])
    connection.close()
    path = place.pool / f"volume-{volume_id}"
    subprocess.run(["qemu-io", "-r", "-f", "qcow2", "-c", "read -q -P 9 1M 3M", path], check=True)
    assert volume(place, image) == "cached"


def not_linked(place: Place, volume_id: str) -> None:
    """Nothing of the volume is there; an image is whole, or gone."""
    if volume(place, volume_id) == "available":
        linked(place, volume_id)
        return
    assert volume(place, volume_id) == "error"
    assert not list(place.pool.glob(f"volume-{volume_id}*"))
    with sqlite3.connect(place.catalog) as connection:
        kept = connection.execute("SELECT volume_id FROM cached_images WHERE ready").fetchall()
        others = connection.execute("SELECT id FROM volumes").fetchall()
    connection.close()
    known = {name for (one,) in [*kept, *others] for name in names(place) if one in name}
    assert names(place) == {"disk.raw", *CHAIN, *known}


def brought_in(place: Place, volume_id: str) -> None:
    assert volume(place, volume_id) == "available"
    assert names(place) == {"disk.raw", *CHAIN, f"volume-{volume_id}"}
    path = place.pool / f"volume-{volume_id}"
    subprocess.run(["qemu-io", "-r", "-f", "raw", "-c", "read -q -P 9 1M 3M", path], check=True)


def not_brought_in(place: Place, volume_id: str) -> None:
    if volume(place, volume_id) == "available":
        brought_in(place, volume_id)
        return
    assert volume(place, volume_id) == "error"
    assert names(place) == {"disk.raw", *CHAIN}


def export_as(image_format: str) -> Callable[[Service, Place], str]:
    def ask(service: Service, place: Place) -> str:
        volume_id = volumes.create(service, ME, volumes.NewVolume(virtual_bytes=GIB))
        place.work()
        with (place.pool / f"volume-{volume_id}").open("r+b") as file:
            file.write(b"exported")
        image = volumes.Image(url=f"file://{place.out}/image", format=image_format)
        imaging.bring_out(service, ME, volume_id, image)
        return volume_id

    return ask


def exported(place: Place, volume_id: str) -> None:
    assert volume(place, volume_id) == "available"
    assert [path.name for path in place.out.iterdir()] == ["image"]
    kind = {b"QFI\xfb": "qcow2", b"vhdx": "vhdx"}[(place.out / "image").open("rb").read(4)]
    subprocess.run(
        ["qemu-img", "compare", "-q", "-f", kind, "-F", "raw", place.out / "image", f"volume-{volume_id}"],
        check=True,
        cwd=place.pool,
    )


def not_exported(place: Place, volume_id: str) -> None:
    if list(place.out.iterdir()):
        exported(place, volume_id)
        return
    assert volume(place, volume_id) == "available"


CASES = {
    "manage a file": Case(manage_file, file_managed, file_not_managed),
    "manage a chain": Case(manage_chain, chain_managed, chain_not_managed),
    "bring in": Case(bring_in, brought_in, not_brought_in),
    "bring in and keep": Case(bring_in, linked, not_linked, Limits(images=2, virtual_bytes=8 * GIB)),
    "bring in again": Case(again, linked, not_linked, Limits(images=2, virtual_bytes=8 * GIB)),
    "bring out qcow2": Case(export_as("qcow2"), exported, not_exported),
    "bring out vhdx": Case(export_as("vhdx"), exported, not_exported),
}


@pytest.mark.crash
@pytest.mark.parametrize("ending", ["rerun", "cancel"])
@pytest.mark.parametrize("name", CASES)
def test_killed_before_any_line(place: Place, tmp_path: Path, name: str, ending: str) -> None:
    case = CASES[name]
    place = Place(place.config, case.image_cache)
    once = place.copy(tmp_path / "whole")
    volume_id = once.promise(lambda service: case.ask(service, once))
    # Between two of these, nothing on disk changes: neither files nor the catalog.
    moments = trace(once.work, PACKAGES, watching=once.catalog.parent).changes
    case.done(once, volume_id)
    killed = 0
    for number in range(0, len(moments), 1 if EACH else max(1, len(moments) // ROUNDS)):
        one = place.copy(tmp_path / str(number))
        volume_id = one.promise(lambda service, one=one: case.ask(service, one))  # type: ignore[misc]
        killed += run_killed_at(one.work, PACKAGES, moments[number]) is Outcome.KILLED
        one.work(cancel=ending == "cancel")
        (case.done if ending == "rerun" else case.cancelled)(one, volume_id)
        assert one.scratch == []
        database = Database(one.config.database.url)
        with database.read() as connection:
            assert invariants.miscounts(connection) == []
            assert invariants.orphans(connection) == []
        database.dispose()
        subprocess.run(["rm", "-rf", one.catalog.parent], check=True)
    assert killed > ROUNDS // 2
