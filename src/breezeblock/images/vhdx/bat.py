"""The block allocation table: where each block is ([MS-VHDX] 2.5).

Payload blocks are grouped into chunks of 2^23 sectors. Behind the entries of a chunk's blocks comes one
for its sector bitmap, which only differencing images use.
"""

import sys
from array import array
from collections.abc import Iterator
from functools import lru_cache

import msgspec

from breezeblock.images.vhdx.layout import OFFSET_MASK, SECTORS_PER_CHUNK, STATE_MASK
from breezeblock.images.vhdx.view import View

ENTRY_BYTES = 8
_WINDOW_ENTRIES = 1 << 16
"""Of a table of 64 TiB only so much is in memory at a time."""


class Geometry(msgspec.Struct, frozen=True):
    """How a disk is divided into blocks and chunks."""

    virtual_bytes: int
    block_bytes: int
    sector_bytes: int
    differencing: bool
    ratio: int
    """Blocks in a chunk."""
    blocks: int
    entries: int
    """How many entries the table has."""
    bitmap_bytes: int
    """How many bytes of its chunk's sector bitmap belong to one block."""

    def payload(self, block: int) -> int:
        """Return the index of a block's entry."""
        return block + block // self.ratio

    def bitmap(self, block: int) -> int:
        """Return the index of the entry for the sector bitmap that covers a block."""
        return (block // self.ratio + 1) * (self.ratio + 1) - 1

    def bitmap_offset(self, block: int) -> int:
        """Return where in its chunk's bitmap a block's bits begin."""
        return block % self.ratio * self.bitmap_bytes

    def block_start(self, block: int) -> int:
        """Return a block's first virtual byte."""
        return block * self.block_bytes

    def block_end(self, block: int) -> int:
        """Return the first virtual byte behind a block."""
        return min((block + 1) * self.block_bytes, self.virtual_bytes)


@lru_cache(256)
def geometry(virtual_bytes: int, block_bytes: int, sector_bytes: int, *, differencing: bool) -> Geometry:
    """Return how a disk is divided."""
    ratio = SECTORS_PER_CHUNK * sector_bytes // block_bytes
    blocks = -(-virtual_bytes // block_bytes)
    entries = -(-blocks // ratio) * (ratio + 1) if differencing else blocks + (blocks - 1) // ratio
    bitmap_bytes = block_bytes // sector_bytes // 8
    return Geometry(
        virtual_bytes, block_bytes, sector_bytes, differencing, ratio, blocks, entries, bitmap_bytes
    )


def entry(state: int, at: int) -> int:
    """Return an entry."""
    return at | state


def split(value: int) -> tuple[int, int]:
    """Return an entry's (state, offset in the file)."""
    return value & STATE_MASK, value & OFFSET_MASK


def windows(view: View, offset: int, grid: Geometry, first: int, last: int) -> "Iterator[Window]":
    """Yield the table, which lies at `offset`, piecemeal for the blocks from `first` up to `last`."""
    step = max(1, _WINDOW_ENTRIES // grid.ratio) * grid.ratio
    start = first // grid.ratio * grid.ratio
    for begin in range(start, last, step):
        end = min(begin + step, last)
        base = grid.payload(begin)
        stop = grid.bitmap(end - 1) + 1 if grid.differencing else grid.payload(end - 1) + 1
        data = view.read(offset + base * ENTRY_BYTES, (stop - base) * ENTRY_BYTES)
        yield Window(max(begin, first), end, base, data)


class Window:
    """A piece of the table."""

    def __init__(self, first: int, last: int, base: int, data: bytes) -> None:
        self.first = first
        """The first block."""
        self.last = last
        """The block behind the last one."""
        self.base = base
        """The index of `entries[0]` in the whole table."""
        self.empty = data.count(0) == len(data)
        """All entries are zero, as in most of a large disk."""
        self.entries = array("Q", data)
        if sys.byteorder == "big":
            self.entries.byteswap()

    def __getitem__(self, index: int) -> int:
        return self.entries[index - self.base]
