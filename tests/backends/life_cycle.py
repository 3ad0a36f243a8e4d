"""The whole life of a volume on a back end of files, told step by step and judged after every step.

The judge shares nothing with the code under test: it reads `.info` as JSON, asks qemu-img for the chain,
and has qemu-img convert produce the bytes, which are compared with a model. It writes as a consumer does:
with qemu-io, to the file and format that `connection_info` gave.
"""

import hashlib
import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec

from breezeblock.attempt import Attempt
from breezeblock.backends.contract import Backend, Placement, Snapshot, Volume

MIB = 1 << 20


def attempt() -> Attempt:
    return Attempt(operation_id=str(uuid4()), token=uuid4().hex[:12])


def tool(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr}"
    return done.stdout


@dataclass
class Disk:
    """A volume beside the bytes that it and its snapshots must have."""

    title: str
    volume: Volume
    content: bytearray
    snapshots: dict[str, tuple[Snapshot, bytes]] = field(default_factory=dict)

    def placed(self, placement: Placement) -> None:
        self.volume = msgspec.structs.replace(
            self.volume,
            locator=placement.locator,
            format=placement.format,
            virtual_bytes=len(self.content),
        )


@dataclass
class Story:
    backend: Backend
    pool: str
    directory: Path
    """Where the pool's files are."""
    scratch: Path
    say: Callable[[str], None]
    disks: list[Disk] = field(default_factory=list)
    number: int = 0
    chains: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """What qemu-img said of these very bytes."""
    contents: dict[str, bytes] = field(default_factory=dict)
    """What qemu-img read from these very bytes."""

    def create(self, title: str, mib: int, options: dict[str, str]) -> Disk:
        disk = self.new(title, mib, options)
        disk.placed(self.backend.create(disk.volume, attempt()))
        self.disks.append(disk)
        return disk

    def new(self, title: str, mib: int, options: dict[str, str]) -> Disk:
        volume = Volume(id=str(uuid4()), virtual_bytes=mib * MIB, pool=self.pool, options=options)
        return Disk(title, volume, bytearray(mib * MIB))

    def write(self, disk: Disk, byte: int, *places: tuple[int, int]) -> None:
        """Write one byte value to ranges of (offset, length), as a consumer."""
        data = self.backend.connection_info(disk.volume, {}).data
        commands = [word for at, length in places for word in ("-c", f"write -P {byte:#x} {at} {length}")]
        tool("qemu-io", "-f", data["format"], *commands, str(self.directory / data["name"]))
        for at, length in places:
            disk.content[at : at + length] = bytes([byte]) * length

    def snapshot(self, disk: Disk, title: str) -> None:
        snapshot = Snapshot(id=str(uuid4()), volume_id=disk.volume.id, virtual_bytes=len(disk.content))
        disk.placed(self.backend.snapshot(disk.volume, snapshot, attempt()).volume)
        disk.snapshots[title] = (snapshot, bytes(disk.content))

    def delete_snapshot(self, disk: Disk, title: str) -> None:
        snapshot, _content = disk.snapshots.pop(title)
        disk.placed(self.backend.delete_snapshot(disk.volume, snapshot, attempt()))

    def extend(self, disk: Disk, mib: int) -> None:
        placement = self.backend.extend(disk.volume, mib * MIB, attempt())
        disk.content.extend(bytes(mib * MIB - len(disk.content)))
        disk.placed(placement)

    def revert(self, disk: Disk, title: str) -> None:
        snapshot, content = disk.snapshots[title]
        placement = self.backend.revert(disk.volume, snapshot, attempt())
        disk.content[:] = content + bytes(len(disk.content) - len(content))
        disk.placed(placement)

    def derive(self, title: str, source: Disk, snapshot: str, mib: int, options: dict[str, str]) -> Disk:
        disk = self.new(title, mib, {**options, "clone": "full"})  # the contract suite tells of linked ones
        content: bytes = bytes(source.content)
        if snapshot:
            of, content = source.snapshots[snapshot]
            placement = self.backend.create_from_snapshot(source.volume, of, disk.volume, attempt())
        else:
            placement = self.backend.clone(source.volume, disk.volume, attempt())
        disk.content[: len(content)] = content
        disk.placed(placement)
        self.disks.append(disk)
        return disk

    def delete(self, disk: Disk) -> None:
        self.backend.delete(disk.volume, attempt())
        self.disks.remove(disk)

    def judged(self, title: str, began: float) -> None:
        """Read everything there is through independent tools, and print one line."""
        took = time.monotonic() - began
        good = []
        for disk in self.disks:
            good.append(disk.title)
            self.judge(disk)
            good += [f"{disk.title}@{name}" for name in disk.snapshots]
        self.number += 1
        self.say(f"{self.number:3} {title:<46} {took * 1000:6.0f} ms   same bytes: {', '.join(good) or '-'}")

    def judge(self, disk: Disk) -> None:
        base = self.directory / f"volume-{disk.volume.id}"
        info_path = base.with_name(f"{base.name}.info")
        info = json.loads(info_path.read_text()) if info_path.exists() else {"active": base.name}
        told = self.backend.connection_info(disk.volume, {}).data
        assert told["name"] == info["active"]
        assert set(info) == {"active"} | {snapshot.id for snapshot, _ in disk.snapshots.values()}
        files = {
            path.name: hashlib.sha256(path.read_bytes()).digest()
            for path in self.directory.glob(f"{base.name}*")
        }
        chain = self.chain(files, told["format"], info["active"])
        assert chain[0]["virtual-size"] == len(disk.content)
        names = [layer["name"] for layer in chain]
        assert set(names) == set(files) - {info_path.name}, "files that are in no chain"
        self.compare(disk.title, chain, files, disk.content)
        for title, (snapshot, content) in disk.snapshots.items():
            below = chain[names.index(info[snapshot.id]) + 1 :]
            self.compare(f"{disk.title}@{title}", below, files, content)

    def chain(self, files: dict[str, bytes], image_format: str, active: str) -> list[dict[str, Any]]:
        """Have qemu-img tell the chain, the active image first."""
        argv = ("qemu-img", "info", "-U", "--backing-chain", "--output=json", "-f", image_format)
        key = repr(sorted(files.items()))
        if key not in self.chains:
            layers = json.loads(tool(*argv, str(self.directory / active)))
            for layer in layers:
                layer["name"] = Path(layer["filename"]).name
                assert "/" not in layer.get("backing-filename", ""), "backing names are bare"
            self.chains[key] = layers
        return self.chains[key]

    def compare(
        self, title: str, chain: list[dict[str, Any]], files: dict[str, bytes], content: bytes | bytearray
    ) -> None:
        """Have qemu-img read the chain's uppermost image, unless all its files are what they were."""
        key = repr([(layer["name"], files[layer["name"]]) for layer in chain])
        if key not in self.contents:
            raw = self.scratch / "judged.raw"
            source = str(self.directory / chain[0]["name"])
            tool("qemu-img", "convert", "-U", "-f", chain[0]["format"], "-O", "raw", source, str(raw))
            self.contents[key] = raw.read_bytes()
        assert self.contents[key] == content, f"{title} has other bytes than it must"

    def check(self) -> None:
        """The back end's own opinion."""
        for disk in self.disks:
            snapshots = tuple(snapshot for snapshot, _ in disk.snapshots.values())
            assert self.backend.check(disk.volume, snapshots) == []
        found = {item.name for item in self.backend.inventory() if item.pool == self.pool}
        assert found == {path.name for path in self.directory.iterdir()}


def tell(story: Story, options: dict[str, str], other: dict[str, str]) -> None:
    """Tell all of it; `other` are the options of the volumes that are made from the first."""

    def step(title: str, act: Callable[[], object]) -> None:
        began = time.monotonic()
        act()
        story.judged(title, began)

    before = set(story.directory.iterdir())
    step("create a, 8 MiB", lambda: story.create("a", 8, options))
    (a,) = story.disks
    step("write pattern 1", lambda: story.write(a, 0x11, (0, 3 * MIB), (6 * MIB, MIB)))
    step("snapshot s1", lambda: story.snapshot(a, "s1"))
    step(
        "write pattern 2 over half of it", lambda: story.write(a, 0x22, (MIB, 2 * MIB), (7 * MIB + 512, 4096))
    )
    step("snapshot s2", lambda: story.snapshot(a, "s2"))
    step("write pattern 3", lambda: story.write(a, 0x33, (2 * MIB, MIB), (8 * MIB - 512, 512)))
    step("snapshot s3", lambda: story.snapshot(a, "s3"))
    step("write pattern 4", lambda: story.write(a, 0x44, (512, 1024), (4 * MIB, MIB)))
    step("delete s2, the middle one", lambda: story.delete_snapshot(a, "s2"))
    step("extend to 12 MiB, with snapshots", lambda: story.extend(a, 12))
    step("write pattern 5 into the new part", lambda: story.write(a, 0x55, (11 * MIB, MIB)))
    step("revert to s1, the older", lambda: story.revert(a, "s1"))
    step("write pattern 6", lambda: story.write(a, 0x66, (0, 65536), (9 * MIB, 65536)))
    step("revert to s3, the newest", lambda: story.revert(a, "s3"))
    step("write pattern 7", lambda: story.write(a, 0x77, (5 * MIB, 65536)))
    step("clone a to b, 14 MiB", lambda: story.derive("b", a, "", 14, other))
    step("create c from a@s1", lambda: story.derive("c", a, "s1", 8, other))
    _, b, c = story.disks
    story.check()
    step("write pattern 8 to b", lambda: story.write(b, 0x88, (0, MIB)))
    step("write pattern 9 to c", lambda: story.write(c, 0x99, (0, MIB)))
    step("delete s1, the oldest", lambda: story.delete_snapshot(a, "s1"))
    step("snapshot s4", lambda: story.snapshot(a, "s4"))
    step("write pattern 10", lambda: story.write(a, 0xAA, (3 * MIB, MIB), (10 * MIB, MIB)))
    step("delete s4, the newest", lambda: story.delete_snapshot(a, "s4"))
    step("delete s3, the last", lambda: story.delete_snapshot(a, "s3"))
    story.check()
    step("delete b", lambda: story.delete(b))
    step("delete a", lambda: story.delete(a))
    step("delete c", lambda: story.delete(c))
    left = set(story.directory.iterdir()) - before
    assert left == set(), f"left behind: {sorted(path.name for path in left)}"
    story.say("    nothing is left behind")
