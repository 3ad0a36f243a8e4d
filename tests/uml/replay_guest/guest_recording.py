"""What a kernel's ext4 asks of its device, recorded for the host, which plays it again and cuts the power."""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import msgspec
from guest_nbd import sh
from nbd_lab import serving
from replay_lab import Recorder

from breezeblock.connect import linux

LENGTH = 8 << 20
ROUNDS = 150


class Files:
    """Files whose names and bytes are on the disk for certain, as the recording is told."""

    def __init__(self, point: Path, disk: Recorder) -> None:
        self.point, self._disk = point, disk
        self.names: list[str] = []

    def durable(self, name: str) -> None:
        """Put it on the disk, and say so once it is there."""
        for path in (self.point / name, self.point):
            fd = os.open(path, os.O_RDONLY)
            os.fsync(fd)
            os.close(fd)
        self._disk.mark(f"kept {name} {sha256((self.point / name).read_bytes()).hexdigest()}")
        self.names.append(name)

    @contextmanager
    def leaving(self, name: str) -> Iterator[Path]:
        """Say that from here on it may be gone."""
        self._disk.mark(f"leaves {name}")
        self.names.remove(name)
        yield self.point / name


def work(files: Files, dice: random.Random, number: int) -> None:
    path = files.point / f"{number:03d}"
    what = dice.choice(("keep",) * 5 + ("write", "replace", "replace", "delete", "over", "grow"))
    path.write_bytes(dice.randbytes(dice.randrange(1, 24 << 10)))
    if what == "keep":
        files.durable(path.name)
    elif what == "replace" and files.names:
        with path.open("rb") as written:
            os.fsync(written.fileno())
        with files.leaving(dice.choice(files.names)) as old:
            path.rename(old)
        files.durable(old.name)
    elif what == "delete" and files.names:
        with files.leaving(dice.choice(files.names)) as old:
            old.unlink()
    elif what in {"over", "grow"} and files.names:
        with files.leaving(dice.choice(files.names)) as old, old.open("r+b") as file:
            file.seek(0, os.SEEK_END if what == "grow" else os.SEEK_SET)
            file.write(dice.randbytes(5000))
        if dice.random() < 0.8:
            files.durable(old.name)
    if number % 25 == 24:
        sh("fstrim", str(files.point))


def test_a_file_system_is_recorded(tmp_path: Path) -> None:
    disk, point, dice = Recorder(LENGTH), tmp_path / "mounted", random.Random(7)
    point.mkdir()
    connector = linux.LinuxConnector(tmp_path / "state", timeout_s=60)
    with serving({"": disk}, tmp_path) as served:
        info = linux.connection_data(served.uri())
        device = connector.attach(info).device
        queue = Path("/sys/block", Path(device).name, "queue")
        (queue / "max_sectors_kb").write_text("32")  # more, and smaller, writes to cut between
        sh("mkfs.ext4", "-q", "-b", "1024", "-J", "size=1", device)
        sh("mount", device, str(point))
        disk.mark("made")
        files = Files(point, disk)
        for number in range(ROUNDS):
            work(files, dice, number)
        sh("umount", str(point))
        connector.detach(info)
    kinds = [change.kind for change in disk.seen]
    assert kinds.count("trim") > 10
    assert kinds.count("flush") > 100
    assert len(files.names) > 10
    Path(os.environ["BREEZEBLOCK_SCRATCH"], "recording").write_bytes(msgspec.msgpack.encode(disk.seen))
