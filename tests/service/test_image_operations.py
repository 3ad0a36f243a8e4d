"""Volumes from images and images from volumes, by the operations of a worker with real files."""

import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "images"))
from image_server import Site, serving_images

from breezeblock import config as configuration
from breezeblock.app import compose, quickstart
from breezeblock.catalog import operations
from breezeblock.errors import InvalidInputError, NotFoundError
from breezeblock.service import imaging, volumes
from breezeblock.service import operations as promised
from breezeblock.service.core import GIB, Caller, Service
from working import working

ME = Caller(project_id="a" * 32, user_id="b" * 32, request_id="req-images")


def qcow2(tmp_path: Path) -> bytes:
    path = tmp_path / "made.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "64M"], check=True)
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -q -P 9 1M 3M", path], check=True)
    return path.read_bytes()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with serving_images(qcow2(tmp_path)) as found:
        yield found


@pytest.fixture
def data(tmp_path: Path) -> Path:
    ready = quickstart.prepare(tmp_path / "data", 18780)
    (tmp_path / "out").mkdir()
    with (ready.data / "breezeblock.toml").open("a") as file:
        file.write(
            f'\n[images]\nschemes = ["http", "file"]\nprivate_addresses = true\n'
            f'directories = ["{tmp_path}/out"]\n'
        )
    return ready.data


@contextmanager
def running(data: Path) -> Iterator[Service]:
    config = configuration.load(data / "breezeblock.toml", {})
    with working(config) as service:
        yield service
        assert scratch(config) == []


def scratch(config: configuration.Config) -> list[str]:
    directory = Path(compose.image_policy(config).scratch)
    return sorted(path.name for path in directory.iterdir()) if directory.exists() else []


def until(done: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not done():
        assert time.monotonic() < end
        time.sleep(0.01)


def wanted(url: str, image_format: str = "qcow2", checksum: str = "") -> volumes.NewVolume:
    image = volumes.Image(url=url, format=image_format, checksum=checksum)
    return volumes.NewVolume(virtual_bytes=GIB, name="from an image", image=image)


def settled(service: Service, volume_id: str) -> str:
    until(lambda: volumes.get(service, ME, volume_id).op_id is None)
    return str(volumes.get(service, ME, volume_id).status)


def reason(service: Service) -> Any:
    return promised.list_(service, ME, states=(), volume_id=None, limit=1, marker=None)[0]


def test_a_volume_from_an_image_and_an_image_from_the_volume(data: Path, site: Site) -> None:
    checksum = f"sha256:{hashlib.sha256(site.content).hexdigest()}"
    with running(data) as service:
        volume_id = imaging.bring_in(
            service, ME, wanted(f"{site.url}/image?signed=secret", checksum=checksum)
        )
        # The site knows no query: refused, and the secret in the address is kept nowhere.
        assert settled(service, volume_id) == "error"
        assert "secret" not in str(tuple(reason(service)))
        volumes.delete(service, ME, volume_id)
        volume_id = imaging.bring_in(service, ME, wanted(f"{site.url}/image", checksum=checksum))
        assert settled(service, volume_id) == "available"
        path = data / "pool" / f"volume-{volume_id}"
        reads = "read -q -P 9 1M 3M", "read -q -P 0 0 1M", "read -q -P 0 4M 900M"
        for command in reads:
            subprocess.run(["qemu-io", "-r", "-f", "qcow2", "-c", command, path], check=True)
        out = data.parent / "out" / "image.qcow2"
        for url in (f"file://{out}", f"{site.url}/upload"):
            imaging.bring_out(service, ME, volume_id, volumes.Image(url=url, format="qcow2"))
            assert settled(service, volume_id) == "available"
        assert site.received["/upload"] == out.read_bytes()
        subprocess.run(["qemu-img", "compare", "-q", "-f", "qcow2", "-F", "qcow2", out, path], check=True)


def test_what_fails_says_why_and_leaves_nothing(data: Path, site: Site) -> None:
    with running(data) as service:
        for new, why in (
            (wanted(f"{site.url}/absent"), "404"),
            (wanted(f"{site.url}/image", checksum=f"sha256:{'0' * 64}"), "sha256"),
            (wanted(f"{site.url}/image", "raw"), "qcow2"),
        ):
            volume_id = imaging.bring_in(service, ME, new)
            assert settled(service, volume_id) == "error"
            assert why in reason(service).error
            assert not (data / "pool" / f"volume-{volume_id}").exists()
            volumes.delete(service, ME, volume_id)
        for url in ("https://example.org/x", "file:///etc/passwd", "gopher://x/y"):
            with pytest.raises(InvalidInputError):
                imaging.bring_in(service, ME, wanted(url))


def test_an_import_is_cancelled(data: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    from breezeblock.images import remote

    begun, go_on = threading.Event(), threading.Event()
    fetch = remote.fetch

    def slow(*arguments: Any) -> None:
        begun.set()
        go_on.wait(30)
        fetch(*arguments)

    monkeypatch.setattr(remote, "fetch", slow)
    with running(data) as service:
        volume_id = imaging.bring_in(service, ME, wanted(f"{site.url}/image"))
        assert begun.wait(30)
        promised.cancel(service, ME, volumes.get(service, ME, volume_id).op_id)
        time.sleep(0.6)  # a worker looks for the wish twice a second
        go_on.set()
        assert settled(service, volume_id) == "error"
        assert reason(service).state == "cancelled"
        assert not (data / "pool" / f"volume-{volume_id}").exists()


@pytest.mark.crash
def test_a_killed_service_goes_on_with_what_it_has_fetched(data: Path, site: Site) -> None:
    """The worker dies while the server holds the connection; its successor asks for the rest."""
    site.break_off_at = len(site.content) // 2
    program = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from breezeblock.images import remote\n"
        "def die(*a, **k):\n"
        "    os.kill(os.getpid(), 9)\n"
        "remote.UnavailableError = die\n"  # where it broke off, this process ends
        "from breezeblock.cli import main\n"
        "sys.argv = ['breezeblock', 'serve', '--role', 'worker']\n"
        "main()\n"
    )
    config = configuration.load(data / "breezeblock.toml", {})
    database = compose.open_database(config)
    try:
        with running(data):
            pass  # so that the pool is known
        service = compose.make_service(config, database, lambda: None)
        volume_id = imaging.bring_in(service, ME, wanted(f"{site.url}/image"))
        environment = {**os.environ, "BREEZEBLOCK_CONFIG": str(data / "breezeblock.toml")}
        died = subprocess.run([sys.executable, "-c", program], env=environment, timeout=60, check=False)
        assert died.returncode == -9
        assert len(scratch(config)) == 2
        with database.read() as connection:
            assert [row.state for row in operations.live(connection)] == ["running"]
    finally:
        database.dispose()
    with running(data) as service:
        assert settled(service, volume_id) == "available"
    assert len(site.ranges) == 1
    path = data / "pool" / f"volume-{volume_id}"
    subprocess.run(["qemu-io", "-r", "-f", "qcow2", "-c", "read -q -P 9 1M 3M", path], check=True)


def test_nobody_reads_the_volumes_of_others(data: Path) -> None:
    with running(data) as service:
        volume_id = volumes.create(service, ME, volumes.NewVolume(virtual_bytes=GIB))
        assert settled(service, volume_id) == "available"
        other = Caller(project_id="c" * 32, user_id="d" * 32)
        image = volumes.Image(url=f"file://{data.parent}/out/x", format="raw")
        with pytest.raises(NotFoundError):
            imaging.bring_out(service, other, volume_id, image)
