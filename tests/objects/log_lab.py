"""A store in which uploads overtake each other, and a workload that remembers every state."""

import asyncio
import hashlib
import os
import random
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from breezeblock.objects.log import journal, volumes
from breezeblock.objects.log.device import LogDevice
from breezeblock.objects.nbd import Device
from breezeblock.objects.stores.memory import MemoryStore
from breezeblock.objects.stores.port import Body

VOLUME = "0123456789abcdef" * 2
PAGE = 4096
PAGES = 48
LENGTH = PAGES * PAGE


class SlowStore(MemoryStore):
    """Puts take a few turns of the event loop, so several are on their way at one time."""

    def __init__(self, dice: random.Random) -> None:
        super().__init__()
        self._dice = dice
        self.underway: dict[str, bytes] = {}

    async def put(self, key: str, body: Body, *, create: bool = False, match: str = "") -> None:
        self.underway[key] = bytes(body)
        for _ in range(self._dice.randrange(12)):
            await asyncio.sleep(0)
        try:
            await super().put(key, body, create=create, match=match)
        finally:
            self.underway.pop(key, None)


@dataclass
class Cut:
    """What is left after a crash."""

    objects: dict[str, bytes]
    journal: dict[str, bytes]
    least: int
    """The write that a flush had promised last."""
    most: int


@dataclass
class Workload:
    """Random changes, and the digest of the volume after each."""

    dice: random.Random
    model: bytearray = field(default_factory=lambda: bytearray(LENGTH))
    states: list[bytes] = field(default_factory=list)
    promised: int = 0

    def __post_init__(self) -> None:
        self.note()

    def note(self) -> None:
        self.states.append(hashlib.sha256(self.model).digest())

    async def step(self, device: LogDevice) -> None:
        kind = self.dice.choices(("write", "piece", "zero", "trim", "flush", "seal"), (50, 15, 8, 8, 10, 15))[
            0
        ]
        if kind == "flush":
            before = len(self.states) - 1
            await soon(device.flush())
            self.promised = max(self.promised, before)
        elif kind == "seal":
            device.writer.seal()
        elif kind == "write":
            count = self.dice.randrange(1, 9)
            await self.write(device, self.dice.randrange(PAGES - count) * PAGE, count * PAGE)
        elif kind == "piece":
            length = self.dice.randrange(1, 3 * PAGE)
            await self.write(device, self.dice.randrange(LENGTH - length), length)
        else:
            count = self.dice.randrange(1, 12)
            first = self.dice.randrange(PAGES - count)
            self.model[first * PAGE : (first + count) * PAGE] = bytes(count * PAGE)
            self.note()
            await soon(getattr(device, kind)(first * PAGE, count * PAGE))

    async def write(self, device: LogDevice, offset: int, length: int) -> None:
        data = self.dice.randbytes(length)
        self.model[offset : offset + length] = data
        self.note()
        await soon(device.write(offset, memoryview(data)))


async def soon(answer: Any) -> Any:
    return await answer if asyncio.iscoroutine(answer) or asyncio.isfuture(answer) else answer


async def content(device: Device) -> bytes:
    got = await soon(device.read(0, device.length))
    return b"".join(got) if isinstance(got, list) else bytes(got)


class Disk:
    """A disk that knows what fdatasync told it; of the rest, each page may have reached it or not."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._kept: dict[int, bytes] = {}
        patch.setattr(os, "fdatasync", self._keep)  # the real ones would only cost time here
        patch.setattr(os, "fsync", self._keep)
        patch.setattr(journal, "FILE_BYTES", 1 << 18)

    def _keep(self, fd: int) -> None:
        status = os.fstat(fd)
        if stat.S_ISREG(status.st_mode):
            self._kept[status.st_ino] = os.pread(fd, status.st_size, 0)

    def left(self, directory: Path | None, dice: random.Random) -> dict[str, bytes]:
        """Return what a crash of the host would leave now."""
        found = {}
        for path in sorted(directory.glob("*.log")) if directory else ():
            try:
                data, kept = path.read_bytes(), self._kept[path.stat().st_ino]
            except FileNotFoundError:
                continue  # its thread has just removed it
            pages = range(0, len(data), PAGE)
            found[path.name] = b"".join((data, kept)[dice.random() < 0.5][at : at + PAGE] for at in pages)
        return found


def cut(store: SlowStore, work: Workload, journal: dict[str, bytes], dice: random.Random) -> Cut:
    """Crash now: of the uploads under way, each has arrived or not."""
    objects = dict(store.objects)
    for key, body in store.underway.items():
        if dice.random() < 0.5:
            objects.setdefault(key, body)
    return Cut(objects, journal, work.promised, len(work.states) - 1)


async def reopened(left: Cut, directory: Path | None) -> tuple[LogDevice, bytes]:
    """Open what a crash left, and read it all."""
    store = MemoryStore()
    store.objects = dict(left.objects)
    if directory:
        _put_down(left.journal, directory)
    device = await volumes.attach(store, VOLUME, directory, volumes.Memory(age_s=3600))
    return device, await content(device)


async def let_go(device: LogDevice) -> None:
    """End like a process that is killed: what it holds is closed, and nothing else is done."""
    await device.writer.stop()
    if device._journal:
        await device._journal.close(stored=-1)


def _put_down(files: dict[str, bytes], directory: Path) -> None:
    directory.mkdir()
    for name, data in files.items():
        (directory / name).write_bytes(data)
