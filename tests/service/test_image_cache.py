"""Images that a pool keeps: the next volume is a clone; bounded, and known to be still right."""

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from running import ADMIN, ME, until
from test_families import Files, serving

sys.path.insert(0, str(Path(__file__).parents[1] / "images"))
from image_server import Site, serving_images

from breezeblock.catalog import image_cache, operations, rows, tables
from breezeblock.config import ImagesSection, PoolPolicy
from breezeblock.errors import ConflictError, ForbiddenError
from breezeblock.service import imaging, layers, volume_types, volumes
from breezeblock.service.core import GIB
from breezeblock.service.volumes import Image, NewVolume


def image_of(tmp_path: Path, value: int) -> bytes:
    path = tmp_path / f"{value}.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "64M"], check=True)
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", f"write -q -P {value} 1M 3M", path], check=True)
    return path.read_bytes()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with serving_images(image_of(tmp_path, 9)) as found:
        yield found


@contextmanager
def running(directory: Path, allowed: Path | None = None, **policy: Any) -> Iterator[Files]:
    images = ImagesSection(
        schemes=("http", "file"),
        private_addresses=True,
        directories=(str(allowed or directory),),
        scratch_dir=str(directory / "scratch"),
    )
    limits = PoolPolicy(max_over_subscription_ratio=1000, **policy)
    with serving(directory, limits, images=images) as run:
        yield run
        until(lambda: str(at_work(run)), "0")
        run.settled()


def at_work(run: Files) -> int:
    with run.database.read() as connection:
        return len(operations.live(connection))


def import_(run: Files, url: str, *, checksum: str = "", gib: int = 1, type_: str | None = None) -> str:
    image = Image(url=url, format="qcow2", checksum=checksum)
    new = NewVolume(virtual_bytes=gib * GIB, image=image, volume_type=type_)
    volume_id = imaging.bring_in(run.service, ME, new)
    assert run.until_volume(volume_id, "available", "error") == "available"
    return volume_id


def cached(run: Files) -> list[imaging.Cached]:
    return imaging.cached(run.service, ADMIN)


def reads(run: Files, volume_id: str, value: int, at: str = "1M 3M") -> None:
    """Read the volume as a consumer does who was told its format."""
    done = subprocess.run(
        [
            *("qemu-io", "-r", "-f", run.row(volume_id).format),
            *("-c", f"read -q -P {value} {at}", run.pool / f"volume-{volume_id}"),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "failed" not in done.stdout + done.stderr


def test_the_second_volume_from_an_image_is_a_clone(tmp_path: Path, site: Site) -> None:
    with running(tmp_path) as run:
        first = import_(run, f"{site.url}/image")
        (image,) = cached(run)
        assert (image.state, image.volumes, site.asked) == ("ready", 1, 1)
        names = {path.name for path in run.pool.iterdir()}
        more = [import_(run, f"{site.url}/image", gib=gib) for gib in (1, 2, 1)]
        assert site.asked == 1
        # A clone is a header and a name; nothing was written that grows with the image.
        new = [path for path in run.pool.rglob("*") if path.name not in names and path.is_file()]
        assert sum(path.stat().st_blocks * 512 for path in new) < 3 * 300_000
        for volume_id in (first, *more):
            assert run.row(volume_id).parent_id == image.id
            assert run.row(volume_id).depth == 2
            reads(run, volume_id, 9)
        reads(run, more[1], 0, "1G 1G")
        (image,) = cached(run)
        assert (image.volumes, image.uses) == (4, 3)
        layers.flatten(run.service, ME, first)
        run.until_free(first)
        reads(run, first, 9)


def test_it_is_nobodys_volume(tmp_path: Path, site: Site) -> None:
    with running(tmp_path) as run:
        import_(run, f"{site.url}/image")
        (image,) = cached(run)
        for force in (False, True):
            with pytest.raises(ConflictError):
                volumes.delete(run.service, ADMIN, image.id, cascade=True, force=force)
        with pytest.raises(ConflictError):
            volumes.extend(run.service, ADMIN, image.id, 2 * GIB)
        with pytest.raises(ForbiddenError):
            imaging.cached(run.service, ME)
        with pytest.raises(ForbiddenError):
            imaging.evict(run.service, ME, image.id)


def test_what_its_source_has_replaced_is_not_used(tmp_path: Path, site: Site) -> None:
    with running(tmp_path) as run:
        old = import_(run, f"{site.url}/image")
        site.content, site.tag = image_of(tmp_path, 7), '"v2"'
        new = import_(run, f"{site.url}/image")
        reads(run, old, 9)
        reads(run, new, 7)
        assert [one.state for one in cached(run)] == ["replaced", "ready"]
        run.delete(old)
        run.delete(new)
        # Unused now; the next look at its source lets it go.
        site.content, site.tag = image_of(tmp_path, 5), '"v3"'
        newest = import_(run, f"{site.url}/image")
        reads(run, newest, 5)
        assert [one.state for one in cached(run)] == ["replaced", "ready"]
        # Without a word of the server's, nobody knows whether it is the same: it is fetched.
        site.content, site.tag = image_of(tmp_path, 3), ""
        reads(run, import_(run, f"{site.url}/image"), 3)


def test_a_file_tells_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "image.qcow2"
    path.write_bytes(image_of(tmp_path, 1))
    with running(tmp_path) as run:
        one, two = (import_(run, f"file://{path}") for _ in range(2))
        assert run.row(one).parent_id == run.row(two).parent_id is not None
        path.write_bytes(image_of(tmp_path, 2))
        three = import_(run, f"file://{path}")
        reads(run, two, 1)
        reads(run, three, 2)


def test_a_checksum_is_never_taken_on_trust(tmp_path: Path, site: Site) -> None:
    right = f"sha256:{hashlib.sha256(site.content).hexdigest()}"
    with running(tmp_path) as run:
        import_(run, f"{site.url}/image")
        import_(run, f"{site.url}/image", checksum=right)
        assert site.asked == 2
        import_(run, f"{site.url}/image", checksum=right)
        assert site.asked == 2
        wrong = Image(url=f"{site.url}/image", format="qcow2", checksum=f"sha256:{'0' * 64}")
        bad = imaging.bring_in(run.service, ME, NewVolume(virtual_bytes=GIB, image=wrong))
        assert run.until_volume(bad, "available", "error") == "error"


def test_it_is_bounded_and_lets_the_longest_unused_go(tmp_path: Path) -> None:
    for value in range(1, 5):
        (tmp_path / f"{value}.img").write_bytes(image_of(tmp_path, value))
    urls = [f"file://{tmp_path}/{value}.img" for value in range(1, 5)]
    with running(tmp_path / "two", tmp_path, image_cache_images=2) as run:
        made = [import_(run, url) for url in urls[:2]]
        # Both are in use: the third one is brought in without being kept.
        third = import_(run, urls[2])
        assert run.row(third).parent_id is None
        assert [one.url for one in cached(run)] == urls[:2]
        run.delete(made[0])
        run.delete(made[1])
        run.delete(import_(run, urls[0]))  # used again: the second is the longest unused
        import_(run, urls[3])
        assert [one.url for one in cached(run)] == [urls[0], urls[3]]
        until(lambda: str(len(list(run.pool.glob("*.info")))), "3")  # two images', a clone's
    with running(tmp_path / "none", tmp_path, image_cache_images=0) as run:
        assert run.row(import_(run, urls[0])).parent_id is None
        assert cached(run) == []
    with running(tmp_path / "small", tmp_path, image_cache_bytes=GIB - 1) as run:
        import_(run, urls[0])
        assert cached(run) == []


def test_an_administrator_lets_one_go_and_its_clones_live_on(tmp_path: Path, site: Site) -> None:
    with running(tmp_path) as run:
        volume_id = import_(run, f"{site.url}/image")
        (image,) = cached(run)
        imaging.evict(run.service, ADMIN, image.id)
        assert run.until_volume(image.id, "gone", "error_deleting") == "gone"
        assert cached(run) == []
        assert run.kept() == {image.id}
        reads(run, volume_id, 9)
        run.delete(volume_id)
        assert list(run.pool.iterdir()) == []
        assert run.kept() == set()


def test_one_that_a_volume_is_being_made_from_stays(tmp_path: Path, site: Site) -> None:
    with running(tmp_path) as run:
        volume_id = import_(run, f"{site.url}/image")
        (image,) = cached(run)
        with run.database.write() as connection:
            rows.update(connection, tables.volumes, volume_id, op_id="somebody's", status="downloading")
        with pytest.raises(ConflictError):
            imaging.evict(run.service, ADMIN, image.id)
        with run.database.write() as connection:
            rows.update(connection, tables.volumes, volume_id, op_id=None, status="available")
        assert [one.state for one in cached(run)] == ["ready"]
        reads(run, import_(run, f"{site.url}/image"), 9)


@pytest.mark.parametrize("specs", [{"breezeblock:clone": "full"}, {"breezeblock:format": "raw"}])
def test_types_that_want_their_own_bytes_get_them(tmp_path: Path, site: Site, specs: dict[str, str]) -> None:
    with running(tmp_path) as run:
        volume_types.create(run.service, ADMIN, name="own", extra_specs=specs)
        assert run.row(import_(run, f"{site.url}/image", type_="own")).parent_id is None
        assert cached(run) == []


def test_an_import_that_fails_leaves_no_image(tmp_path: Path, site: Site) -> None:
    site.content = site.content[:4096]  # its tables lie beyond the end
    with running(tmp_path) as run:
        image = Image(url=f"{site.url}/image", format="qcow2")
        bad = imaging.bring_in(run.service, ME, NewVolume(virtual_bytes=GIB, image=image))
        assert run.until_volume(bad, "available", "error") == "error"
        with run.database.read() as connection:
            assert image_cache.all_images(connection) == []
        run.delete(bad)
        until(lambda: str(sorted(path.name for path in run.pool.iterdir())), "[]")
