"""A real program's writes, trims and flushes, recorded and played again: cut the power behind every one."""

import asyncio
import hashlib
import os
import random
from pathlib import Path
from typing import NamedTuple

import pytest
from log_lab import VOLUME, Cut, Disk, SlowStore, Workload, cut, reopened, soon
from nbd_lab import serving, tool

from breezeblock.objects.log import volumes
from breezeblock.objects.log.device import LogDevice
from breezeblock.objects.nbd import MemoryDevice

LENGTH = 1 << 20
EACH = 1 if os.environ.get("BREEZEBLOCK_CRASH_SCALE") else 2
"""One cut in two is tried; with the variable, all."""


class Change(NamedTuple):
    """What a client asked; a flush has no data and no length."""

    kind: str
    offset: int = 0
    data: bytes = b""
    length: int = 0


class Recorder(MemoryDevice):
    """Remembers in which order it was changed and flushed."""

    def __init__(self, length: int) -> None:
        super().__init__(length)
        self.seen: list[Change] = []

    def write(self, offset: int, data: memoryview, *, fua: bool = False) -> None:
        self.seen.append(Change("write", offset, bytes(data)))
        super().write(offset, data, fua=fua)
        if fua:
            self.flush()

    def zero(
        self, offset: int, length: int, *, fua: bool = False, may_trim: bool = True, fast: bool = False
    ) -> None:
        self.seen.append(Change("zero", offset, length=length))
        super().zero(offset, length, fua=fua, may_trim=may_trim, fast=fast)

    def flush(self) -> None:
        self.seen.append(Change("flush"))
        super().flush()


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> list[Change]:
    directory = tmp_path_factory.mktemp("recorded")
    device = Recorder(LENGTH)
    with serving({"": device}, directory) as served:
        work = (
            "fio",
            "--ioengine=nbd",
            f"--uri={served.uri()}",
            f"--size={LENGTH}",
            f"--aux-path={directory}",
        )
        tool(
            *(*work, "--name=journal", "--rw=write", "--bsrange=512-16k", "--bs_unaligned=0", "--fsync=4"),
            *("--io_size=512k", f"--output={directory / 'log'}", f"--aux-path={directory}"),
            *("--name=pages", "--rw=randwrite", "--bs=4k", "--iodepth=8", "--fsync=7", "--io_size=512k"),
        )
        tool("qemu-io", "-f", "raw", "-c", "write -z 8k 100k", "-c", "write -f -P 1 9k 70k", served.uri())
    return device.seen


async def play(changes: list[Change], journal: Path | None, disk: Disk, work: Workload) -> list[Cut]:
    """Do it all again to a volume; return what a crash behind each change would have left."""
    dice, cuts = work.dice, list[Cut]()
    store = SlowStore(dice)
    await volumes.create(store, VOLUME, LENGTH)
    device = await volumes.attach(store, VOLUME, journal, volumes.Memory(age_s=3600))
    for number, change in enumerate(changes):
        if change.kind != "flush":
            end = change.offset + (len(change.data) or change.length)
            work.model[change.offset : end] = change.data or bytes(change.length)
            work.note()
        await _done(device, change)
        if change.kind == "flush":
            work.promised = len(work.states) - 1
        elif dice.random() < 0.2:
            device.writer.seal()
        if number % 90 == 89:
            await device.writer.checkpoint()
        if number % EACH == 0:
            cuts.append(cut(store, work, disk.left(journal, dice), dice))
        for _ in range(dice.randrange(6)):
            await asyncio.sleep(0)
    await device.writer.stop()
    return cuts


async def _done(device: LogDevice, change: Change) -> None:
    if change.kind == "write":
        await soon(device.write(change.offset, memoryview(change.data)))
    elif change.kind == "zero":
        await soon(device.zero(change.offset, change.length))
    else:
        await soon(device.flush())


@pytest.mark.parametrize("kept", ["journal", "store", "journal lost"])
def test_behind_every_write_and_flush_a_crash_leaves_a_prefix(
    recorded: list[Change], kept: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len([one for one in recorded if one.kind == "flush"]) > 20
    assert len(recorded) > 150
    disk, work = Disk(monkeypatch), Workload(random.Random(kept), bytearray(LENGTH))

    async def run() -> int:
        cuts = await play(recorded, tmp_path / "journal" if kept != "store" else None, disk, work)
        for number, left in enumerate(cuts):
            device, seen = await reopened(left, tmp_path / f"after-{number}" if kept == "journal" else None)
            await device.writer.stop()
            digest = hashlib.sha256(seen).digest()
            found = [n for n, state in enumerate(work.states[: left.most + 1]) if state == digest]
            assert found, f"cut {number}: no prefix"
            assert kept == "journal lost" or max(found) >= left.least, f"cut {number}: a flush was a lie"
        assert cuts[-1].least > 50
        return len(cuts)

    assert asyncio.run(run()) >= len(recorded) // EACH
