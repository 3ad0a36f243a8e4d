"""Which parts of the file are in use: where new blocks may go, and whether old ones overlap."""

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from breezeblock.images.layer import corrupt
from breezeblock.images.vhdx import bat
from breezeblock.images.vhdx.image import Image
from breezeblock.images.vhdx.layout import MIB, TIB, State, round_up

_BLOCK, _KEPT = 1, 2
_MAX_GAPS = 1 << 16
_WINDOW_MIB = 16 * TIB // MIB
"""How much of a file is looked at in one pass over the BAT: a byte for each MiB is kept."""


class Placed(NamedTuple):
    """A block that has a place in the file."""

    entry: int
    """The index of its BAT entry."""
    block: int
    """The payload block; for a sector bitmap the last one that it covers."""
    is_bitmap: bool
    state: int
    at: int
    length: int

    @property
    def in_use(self) -> bool:
        """Its bytes are read; else its place is only kept."""
        return self.state >= State.FULL


class Survey(NamedTuple):
    """What of the file is in use."""

    end: int
    """Where the last block or table ends, a multiple of 1 MiB."""
    gaps: list[int]
    """Places before that for one payload block each, which nothing refers to. Their bytes may be anything."""


def survey(image: Image) -> Survey:
    """Look at all blocks. Raises CorruptError where two overlap, or one is not in the file."""
    end, gaps = max(last for _, last in image.regions.reserved), list[int]()
    for taken in _passes(image):
        for placed in blocks(image):
            if placed.in_use:
                if taken.first:
                    check(image, placed)
                if taken.add(placed):
                    raise corrupt(image.file, _twice(placed), image.entry_offset(placed.entry))
            elif placed.at + placed.length > image.view.file_bytes:
                continue
            else:
                taken.keep(placed.at, placed.at + placed.length)
            end = max(end, placed.at + placed.length)
        for start, stop in image.regions.reserved:
            taken.keep(start, stop)
        gaps += islice(taken.gaps(image.grid.block_bytes, end), _MAX_GAPS - len(gaps))
    return Survey(round_up(end, MIB), gaps)


def overlaps(image: Image) -> Iterator[tuple[int, str]]:
    """Yield (where the BAT entry is, what is wrong) for each block that lies on another one."""
    for taken in _passes(image):
        for placed in blocks(image):
            if placed.in_use and taken.add(placed):
                yield image.entry_offset(placed.entry), _twice(placed)


def _twice(placed: Placed) -> str:
    return f"the block at {placed.at} is used twice"


class _Taken:
    """Which MiB of a part of the file have an owner."""

    def __init__(self, base: int, count: int) -> None:
        self.first = base == 0
        self._base = base
        self._marks = bytearray(count)

    def add(self, placed: Placed) -> bool:
        """Give a block its place; tell whether another block has any of it."""
        first, last = self._range(placed.at, placed.at + placed.length)
        if first >= last:
            return False
        twice = self._marks.find(_BLOCK, first, last) >= 0
        self._marks[first:last] = bytes((_BLOCK,)) * (last - first)
        return twice

    def keep(self, start: int, stop: int) -> None:
        """Let a place be no gap."""
        first, last = self._range(start, stop)
        if first < last:
            self._marks[first:last] = bytes(mark or _KEPT for mark in self._marks[first:last])

    def gaps(self, length: int, end: int) -> Iterator[int]:
        """Yield where something of that length has room before `end`."""
        gap = bytes(length // MIB)
        at = 0
        while (at := self._marks.find(gap, at, max(0, end // MIB - self._base))) >= 0:
            yield (self._base + at) * MIB
            at += len(gap)

    def _range(self, start: int, stop: int) -> tuple[int, int]:
        return max(0, start // MIB - self._base), min(len(self._marks), stop // MIB - self._base)


def _passes(image: Image) -> Iterator[_Taken]:
    """Yield empty marks for one part of the file after the other."""
    size = image.view.file_bytes // MIB + 1
    for base in range(0, size, _WINDOW_MIB):
        yield _Taken(base, min(_WINDOW_MIB, size - base))


def check(image: Image, placed: Placed) -> None:
    """Raise CorruptError unless the block lies inside the file and outside all tables."""
    if placed.is_bitmap:
        image.check_bitmap(placed.block, placed.at | placed.state)
    else:
        image.check_payload(placed.block, placed.at)


def blocks(image: Image) -> Iterator[Placed]:
    """Yield each payload and bitmap block that has a place in the file, in the BAT's order."""
    grid = image.grid
    for window in bat.windows(image.view, image.regions.bat.offset, grid, 0, grid.blocks):
        if window.empty:
            continue
        for index, value in enumerate(window.entries, window.base):
            if not value:
                continue
            state, at = bat.split(value)
            chunk, position = divmod(index, grid.ratio + 1)
            is_bitmap = position == grid.ratio
            if (state < State.FULL and not at) or (is_bitmap and not grid.differencing):
                continue
            block = min(index - chunk - is_bitmap, grid.blocks - 1)
            if not is_bitmap and block < index - chunk:
                continue  # behind the disk's end, where a differencing image's last chunk has room
            yield Placed(index, block, is_bitmap, state, at, MIB if is_bitmap else grid.block_bytes)
