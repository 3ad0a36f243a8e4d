"""The kernel's NBD client with our server and our connector: file systems, kills, restarts, growth, the end.

Servers are forked from this process: starting another Python costs seconds in here.
"""

import hashlib
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from breezeblock.app import nbd
from breezeblock.connect import linux
from breezeblock.connect.netlink import Nbd
from breezeblock.errors import ConflictError, NotFoundError, UnavailableError
from breezeblock.objects.nbd import client

MIB = 1 << 20


def sh(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(argv)}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


@contextmanager
def forked(work: Callable[[], None]) -> Iterator[int]:
    """Do work in a child, which is killed at the end."""
    child = fork(work)
    try:
        yield child
    finally:
        kill(child)


def fork(work: Callable[[], None]) -> int:
    child = os.fork()
    if child == 0:
        try:
            os.closerange(3, 1024)  # an inherited file would keep its device busy
            work()
        finally:
            os._exit(1)
    return child


def kill(child: int, number: int = signal.SIGKILL) -> None:
    try:
        os.kill(child, number)
        os.waitpid(child, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


class Place:
    """An image, its server, and the connector for it."""

    def __init__(self, directory: Path, length: int) -> None:
        self.image = directory / "image"
        self.socket = directory / "socket"
        with self.image.open("wb") as file:
            file.truncate(length)
        self.info = linux.connection_data(f"nbd+unix:///disk?socket={self.socket}")
        self.connector = linux.LinuxConnector(directory / "state", timeout_s=2, dead_timeout_s=120)
        self._server = 0

    @contextmanager
    def served(self) -> Iterator[None]:
        self.start()
        try:
            yield
        finally:
            kill(self._server)

    def start(self) -> None:
        self._server = fork(lambda: nbd.serve(self.image, name="disk", unix=self.socket))
        until(self.socket.exists)

    def end(self, number: int) -> None:
        kill(self._server, number)
        if number == signal.SIGTERM:
            assert not self.socket.exists()
        self.socket.unlink(missing_ok=True)

    def replace(self) -> None:
        self.end(signal.SIGKILL)
        self.start()

    def hang_up(self) -> None:
        os.kill(self._server, signal.SIGHUP)


def until(true: Callable[[], bool], limit_s: float = 60) -> None:
    deadline = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def bytes_of(device: str) -> int:
    return int(Path("/sys/block", Path(device).name, "size").read_text()) * 512


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path, 400 * MIB)
    with place.served():
        yield place
        place.connector.detach(place.info, force=True)


GROW: dict[str, Callable[[str, str], str]] = {
    "ext4": lambda device, _point: sh("resize2fs", device),
    "xfs": lambda _device, point: sh("xfs_growfs", point),
    "btrfs": lambda _device, point: sh("btrfs", "filesystem", "resize", "max", point),
}
CHECK = {
    "ext4": lambda device: sh("e2fsck", "-fn", device),
    "xfs": lambda device: sh("xfs_repair", "-n", device),
    "btrfs": lambda device: sh("btrfs", "check", device),
}


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_a_file_system_lives_on_it(place: Place, tmp_path: Path, kind: str) -> None:
    device = place.connector.attach(place.info).device
    assert place.connector.attach(place.info).device == device, "attached once"
    assert bytes_of(device) == 400 * MIB
    sh(f"mkfs.{kind}", "-q", device)
    point = tmp_path / "mounted"
    point.mkdir()
    sh("mount", device, str(point))
    chance = random.Random(kind)
    for number in range(8):
        (point / f"file-{number}").write_bytes(chance.randbytes(5 * MIB))
    os.sync()
    full = place.image.stat().st_blocks
    sums = {number: digest(point / f"file-{number}") for number in range(8)}
    for number in range(0, 8, 2):
        (point / f"file-{number}").unlink()
    os.sync()
    sh("fstrim", str(point))
    assert place.image.stat().st_blocks < full - 15 * MIB // 512, "trimmed room is given back"

    os.truncate(place.image, 600 * MIB)
    place.hang_up()
    until(lambda: place.connector.extend(place.info) == 600 * MIB)
    assert bytes_of(device) == 600 * MIB
    GROW[kind](device, str(point))
    assert os.statvfs(point).f_blocks * os.statvfs(point).f_frsize > 450 * MIB
    with pytest.raises(ConflictError, match="in use"):
        place.connector.detach(place.info)
    sh("umount", str(point))
    CHECK[kind](device)
    place.connector.detach(place.info)
    assert linux.device_of(client.place(place.info["uri"])) is None
    assert place.connector.attached() == []
    place.connector.detach(place.info)

    device = place.connector.attach(place.info).device
    sh("mount", device, str(point))
    assert {number: digest(point / f"file-{number}") for number in range(1, 8, 2)} == {
        number: sums[number] for number in range(1, 8, 2)
    }
    sh("umount", str(point))
    place.connector.detach(place.info)


class Writer(threading.Thread):
    """Writes durable records to a device one after the other, and notes how long each took."""

    def __init__(self, device: str, first: int) -> None:
        super().__init__()
        self.device, self.first = device, first
        self.written: dict[int, int] = {}
        self.longest_s = 0.0
        self.error: OSError | None = None
        self.ended = threading.Event()

    def run(self) -> None:
        chance = random.Random(self.first)
        fd = os.open(self.device, os.O_WRONLY | os.O_DSYNC)
        try:
            while not self.ended.is_set():
                block = self.first + chance.randrange(1000)
                value = self.written.get(block, 0) + 1
                began = time.monotonic()
                os.pwrite(fd, content(block, value), block * 4096)
                self.longest_s = max(self.longest_s, time.monotonic() - began)
                self.written[block] = value
        except OSError as error:
            self.error = error
        finally:
            os.close(fd)


def content(block: int, value: int) -> bytes:
    return f"{block}:{value};".encode().ljust(16) * 256


@pytest.mark.parametrize(
    ("number", "relayed"),
    [(signal.SIGKILL, False), (signal.SIGTERM, False), (signal.SIGKILL, True)],
    ids=["kill -9", "upgrade", "kill -9, relayed"],
)
def test_a_server_that_ends_under_load_costs_a_stall_and_no_error(
    place: Place, number: int, relayed: bool
) -> None:
    with ExitStack() as stack:
        if relayed:
            front, uri = place.image.with_name("relay"), place.info["uri"]
            stack.enter_context(forked(lambda: nbd.relay(uri, unix=front)))
            until(front.exists)
            place.info = linux.connection_data(f"nbd+unix:///disk?socket={front}")
        device = place.connector.attach(place.info).device
        stack.enter_context(forked(lambda: place.connector.keep(lambda: False)))
        writers = [Writer(device, first * 1000) for first in range(4)]
        for writer in writers:
            writer.start()
        away_s = 0.0
        for _ in range(2):
            time.sleep(0.7)
            ended = time.monotonic()
            place.end(number)
            time.sleep(0.1)
            place.start()
            away_s = max(away_s, time.monotonic() - ended)
            before = [len(writer.written) + sum(writer.written.values()) for writer in writers]
            until(
                lambda before=before: all(  # type: ignore[misc] # mypy infers no lambda with defaults
                    writer.error or len(writer.written) + sum(writer.written.values()) > count
                    for writer, count in zip(writers, before, strict=True)
                )
            )
        for writer in writers:
            writer.ended.set()
        for writer in writers:
            writer.join(60)
            assert not writer.is_alive()
            assert writer.error is None
        with Path(device).open("rb", buffering=0) as fresh:
            os.posix_fadvise(fresh.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            for writer in writers:
                for block, value in writer.written.items():
                    assert os.pread(fresh.fileno(), 4096, block * 4096) == content(block, value)
        place.connector.detach(place.info)
    stall = max(writer.longest_s for writer in writers)
    total = sum(sum(writer.written.values()) for writer in writers)
    who = f"{signal.Signals(number).name}{' with a relay' if relayed else ''}"
    print(f"{who}: {total} durable writes, no error, longest stall {stall:.2f} s, away {away_s:.2f} s")


def test_a_file_system_survives_kills_while_it_is_filled(place: Place, tmp_path: Path) -> None:
    device = place.connector.attach(place.info).device
    sh("mkfs.ext4", "-q", device)
    point = tmp_path / "mounted"
    point.mkdir()
    sh("mount", "-o", "errors=remount-ro", device, str(point))
    data = random.Random(1).randbytes(20 * MIB)
    with forked(lambda: place.connector.keep(lambda: False)):
        for number in range(2):
            killer = threading.Timer(0.2, place.replace)
            killer.start()
            for part in range(4):
                with (point / f"{number}-{part}").open("wb") as file:
                    file.write(data)
                    os.fsync(file.fileno())
            killer.join()
    assert "rw," in next(line for line in Path("/proc/mounts").read_text().splitlines() if str(point) in line)
    sh("umount", str(point))
    sh("e2fsck", "-fn", device)
    sh("mount", device, str(point))
    assert all(path.read_bytes() == data for path in point.glob("?-?"))
    assert len(list(point.glob("?-?"))) == 8
    sh("umount", str(point))
    place.connector.detach(place.info)


def test_after_a_restart_of_the_host_devices_come_back_under_their_names(place: Place) -> None:
    device = place.connector.attach(place.info).device
    with Path(device).open("wb", buffering=0) as written:
        written.write(b"before" * 4096)
        os.fsync(written.fileno())
    # What a restart leaves: the records, and no device.
    with Nbd() as channel:
        channel.disconnect(int(device.removeprefix("/dev/nbd")))
    until(lambda: place.connector.attached()[0][1] is None)
    place.end(signal.SIGKILL)
    (failure,) = place.connector.restore()
    assert isinstance(failure.error, UnavailableError)
    with forked(lambda: place.connector.keep(lambda: False)):
        place.start()
        until(lambda: place.connector.attached()[0][1] is not None)
    assert place.connector.attached()[0][1] == device
    with Path(device).open("rb", buffering=0) as read:
        assert read.read(6) == b"before"
    place.connector.detach(place.info)


def test_a_read_only_device_takes_no_writes(place: Place) -> None:
    attached = place.connector.attach(place.info, read_only=True)
    assert attached.read_only
    assert place.connector.find(place.info) == attached
    with pytest.raises(PermissionError):
        Path(attached.device).write_bytes(b"x" * 512)
    with pytest.raises(ConflictError, match="attached read-only"):
        place.connector.attach(place.info)
    place.connector.detach(place.info)
    assert place.connector.find(place.info) is None


def test_what_cannot_be_attached_leaves_nothing(place: Place) -> None:
    wrong = linux.connection_data(f"nbd+unix:///other?socket={place.socket}")
    with pytest.raises(NotFoundError, match="no export of that name"):
        place.connector.attach(wrong)
    place.end(signal.SIGTERM)
    with pytest.raises(UnavailableError, match="does not answer"):
        place.connector.attach(place.info)
    assert place.connector.attached() == []
    place.start()
