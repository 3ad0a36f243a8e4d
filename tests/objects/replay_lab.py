"""What a program did to a device, recorded; and done again to a volume, with the power cut on the way."""

import asyncio
import hashlib
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from log_lab import PAGE, VOLUME, Cut, Disk, SlowStore, Workload, cut, let_go, soon

from breezeblock.objects.log import volumes
from breezeblock.objects.log.device import LogDevice
from breezeblock.objects.nbd import MemoryDevice

_EMPTY = bytes(PAGE)


class Change(NamedTuple):
    """What a client asked. A flush has no data and no length; a mark is its user's word of what holds now."""

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
        super().write(offset, data)
        self._durable(fua)

    def zero(
        self, offset: int, length: int, *, fua: bool = False, may_trim: bool = True, fast: bool = False
    ) -> None:
        self.seen.append(Change("zero", offset, length=length))
        super().trim(offset, length)
        self._durable(fua)

    def trim(self, offset: int, length: int, *, fua: bool = False) -> None:
        self.seen.append(Change("trim", offset, length=length))
        super().trim(offset, length)
        self._durable(fua)

    def flush(self) -> None:
        self.seen.append(Change("flush"))

    def mark(self, word: str) -> None:
        self.seen.append(Change("mark", data=word.encode()))

    def _durable(self, fua: bool) -> None:
        if fua:
            self.flush()


class Replay(Workload):
    """The same changes made to a model, and what it was after each."""

    def __init__(self, dice: random.Random, length: int) -> None:
        self._pages: dict[int, int] = {}
        self._sum = 0
        self.marks: list[tuple[int, str]] = []
        """Words, each with the number of the write that it follows."""
        super().__init__(dice, bytearray(length))

    def note(self) -> None:
        self.states.append(self._sum.to_bytes(32))

    def put(self, offset: int, data: bytes) -> None:
        """Change the model, and note what it is now: only pages that were touched are looked at."""
        if not data:
            return
        self.model[offset : offset + len(data)] = data
        for page in range(offset // PAGE, (offset + len(data) - 1) // PAGE + 1):
            new = _page(page, self.model[page * PAGE : (page + 1) * PAGE])
            self._sum ^= self._pages.get(page, 0) ^ new
            self._pages[page] = new
        self.note()

    def change(self, change: Change) -> None:
        """Do what a volume does: zeros by whole pages first, then, if that must be, at the ends."""
        if change.kind == "write":
            self.put(change.offset, change.data)
            return
        end = change.offset + change.length
        first, last = -(-change.offset // PAGE) * PAGE, end // PAGE * PAGE
        if first < last:
            self.put(first, bytes(last - first))
            head, tail = (change.offset, first), (last, end)
        else:
            head, tail = (change.offset, end), (end, end)
        if change.kind == "zero":
            for start, stop in (head, tail):
                self.put(start, bytes(stop - start))


def digest(content: bytes | bytearray) -> bytes:
    """Return what `Replay.states` has for this content."""
    found = 0
    for page in range(-(-len(content) // PAGE)):
        found ^= _page(page, content[page * PAGE : (page + 1) * PAGE])
    return found.to_bytes(32)


def _page(number: int, content: bytes | bytearray) -> int:
    if content == _EMPTY[: len(content)]:
        return 0
    return int.from_bytes(hashlib.sha256(number.to_bytes(8) + content).digest())


def prefix(work: Workload, left: Cut, seen: bytes, *, flushed: bool) -> int:
    """Return the number of the last write that came back.

    Fail if these are no prefix, or, if flushes are to be kept, one that is too short.
    """
    state = digest(seen)
    found = [number for number, one in enumerate(work.states[: left.most + 1]) if one == state]
    assert found, f"after {left.most} writes: no prefix"
    assert not flushed or max(found) >= left.least, f"after {left.most} writes: a flush was a lie"
    return max(found)


async def play(
    changes: Sequence[Change],
    work: Replay,
    journal: Path | None,
    disk: Disk,
    wanted: Callable[[int], bool],
    crashed: Callable[[int, Cut], object],
) -> None:
    """Do it all again to a volume; `crashed` gets what a crash behind each `wanted` change would leave."""
    store = SlowStore(work.dice)
    await volumes.create(store, VOLUME, len(work.model))
    device = await volumes.attach(store, VOLUME, journal, volumes.Memory(age_s=3600))
    for number, change in enumerate(changes):
        if change.kind == "mark":
            work.marks.append((len(work.states) - 1, change.data.decode()))
            continue
        if change.kind != "flush":
            work.change(change)
        await _done(device, change)
        if change.kind == "flush":
            work.promised = len(work.states) - 1
        elif work.dice.random() < 0.2:
            device.writer.seal()
        if number % 90 == 89:
            await device.writer.checkpoint()
        if wanted(number):
            crashed(number, cut(store, work, disk.left(journal, work.dice), work.dice))
        for _ in range(work.dice.randrange(6)):
            await asyncio.sleep(0)
    await let_go(device)


async def _done(device: LogDevice, change: Change) -> None:
    if change.kind == "write":
        await soon(device.write(change.offset, memoryview(change.data)))
    elif change.kind == "flush":
        await soon(device.flush())
    else:
        await soon(getattr(device, change.kind)(change.offset, change.length))
