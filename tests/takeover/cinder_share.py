"""A share that Cinder's own NFS driver wrote, and what each volume and snapshot on it must read as."""

import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-cinder" / "bin" / "python"
STEP = 1 << 20

Content = dict[int, int]
"""Offset to the byte value that fills 64 KiB there; zeros elsewhere."""


@dataclass
class Disk:
    id: str
    gib: int = 1
    content: Content = field(default_factory=dict)
    snapshots: dict[str, Content] = field(default_factory=dict)
    """Oldest first."""


def write(image: Path, image_format: str, offset: int, value: int) -> None:
    command = f"write -q -P {value} {offset} 64k"
    subprocess.run(["qemu-io", "-f", image_format, "-c", command, str(image)], check=True)


def reads_as(image: Path, image_format: str, content: Content) -> None:
    """An independent reader finds just this content, and nothing in the 64 KiB after each piece."""
    commands = []
    for offset in range(0, 16 * STEP, STEP):
        commands += ["-c", f"read -q -P {content.get(offset, 0)} {offset} 64k"]
        commands += ["-c", f"read -q -P 0 {offset + 65536} 64k"]
    done = subprocess.run(
        ["qemu-io", "-r", "-f", image_format, *commands, str(image)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "failed" not in done.stdout + done.stderr, (image, content, done.stdout)


class Cinder:
    """The process that runs the driver; `steps` are methods of its Writer."""

    def __init__(self, state: Path, mounts: Path) -> None:
        assert PYTHON.exists(), f"there is no {PYTHON}: run tools/setup.sh test"
        for directory in (state, mounts):
            directory.mkdir(parents=True)
        self._log = (state / "log").open("w+")
        self._process = subprocess.Popen(
            [PYTHON, "-W", "ignore", Path(__file__).with_name("cinder_writer.py"), state, mounts],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self.share = Path(self._answer())
        self._values = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._process.communicate()
        self._log.close()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, Path(self._log.name).read_text()[-3000:]
        return json.loads(line)

    def step(self, name: str, **arguments: Any) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([name, arguments]) + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        assert "done" in answer, answer.get("failed")
        return answer["done"]

    def create(self, *, qcow2: bool = False) -> Disk:
        disk = Disk(self.step("create", qcow2=qcow2))
        self.write(disk)
        return disk

    def write(self, disk: Disk) -> None:
        """As a guest: over the first piece, and to a place of its own."""
        self._values += 1
        path, image_format = self.step("active", volume=disk.id)
        for offset in (0, (self._values % 15 + 1) * STEP):
            write(Path(path), image_format, offset, self._values)
            disk.content[offset] = self._values

    def snapshot(self, disk: Disk) -> str:
        snapshot_id: str = self.step("snapshot", volume=disk.id)
        disk.snapshots[snapshot_id] = dict(disk.content)
        self.write(disk)
        return snapshot_id

    def delete_snapshot(self, disk: Disk, snapshot_id: str, *, online: bool = False) -> None:
        self.step("delete_snapshot", snapshot=snapshot_id, online=online)
        del disk.snapshots[snapshot_id]

    def extend(self, disk: Disk, gib: int) -> None:
        self.step("extend", volume=disk.id, gib=gib)
        disk.gib = gib


def written(cinder: Cinder) -> dict[str, Disk]:
    """Write one volume of each kind that the driver can leave behind."""
    disks = {
        "raw": cinder.create(),
        "qcow2": cinder.create(qcow2=True),
    }
    for name in ("merged offline", "merged upwards", "only an overlay left", "stale info", "extended"):
        disks[name] = cinder.create()
    disks["merged downwards"] = cinder.create(qcow2=True)
    three = [cinder.snapshot(disks["merged offline"]) for _ in range(3)]
    cinder.delete_snapshot(disks["merged offline"], three[1])
    three = [cinder.snapshot(disks["merged upwards"]) for _ in range(3)]
    cinder.delete_snapshot(disks["merged upwards"], three[2], online=True)
    only = cinder.snapshot(disks["only an overlay left"])
    cinder.delete_snapshot(disks["only an overlay left"], only, online=True)
    cinder.delete_snapshot(disks["stale info"], cinder.snapshot(disks["stale info"]))
    three = [cinder.snapshot(disks["merged downwards"]) for _ in range(3)]
    cinder.delete_snapshot(disks["merged downwards"], three[1], online=True)
    cinder.snapshot(disks["extended"])
    cinder.extend(disks["extended"], 2)
    cinder.write(disks["extended"])
    return disks


def write_small(place: Path) -> None:
    """Write two volumes into `place`/share, and what they must read as into `place`/disks.json."""
    with Cinder(place / "state", place / "mnt") as cinder:
        disks = {"snapped": cinder.create(), "only an overlay left": cinder.create(qcow2=True)}
        cinder.snapshot(disks["snapped"])
        disk = disks["only an overlay left"]
        cinder.delete_snapshot(disk, cinder.snapshot(disk), online=True)
    cinder.share.rename(place / "share")
    (place / "disks.json").write_bytes(msgspec.json.encode(disks))
