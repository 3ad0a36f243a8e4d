"""The block allocation table (BAT): where each block of a dynamic or differencing VHD lies.

A block is its sector bitmap, padded to whole sectors, then its data. An entry is the bitmap's sector.
"""

import struct
import sys
from array import array
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property

from breezeblock.images.file import File
from breezeblock.images.layer import corrupt
from breezeblock.images.vhd.records import SECTOR, Header

ABSENT = 0xFFFF_FFFF
PAGE = 4096
MAX_FILE_BYTES = ABSENT * SECTOR


class Table:
    """The BAT of one open file; at most 16 MiB of memory, read when first needed."""

    def __init__(self, file: File, header: Header) -> None:
        self._file = file
        self.header = header
        self.bitmap_bytes = -(-header.block_bytes // (SECTOR * 8 * SECTOR)) * SECTOR

    @cached_property
    def entries(self) -> "array[int]":
        """Return the sector of each block; ABSENT where there is none."""
        table = array("I", self._file.read(self.header.bat_offset, self.header.entries * 4))
        if sys.byteorder == "little":
            table.byteswap()
        return table

    def block(self, index: int) -> int | None:
        """Return where the bitmap of a block begins in the file, None if there is no such block.

        Raises CorruptError if the entry points outside the file, or onto the headers.
        """
        sector = self.entries[index]
        if sector == ABSENT:
            return None
        at = sector * SECTOR
        if at < 3 * SECTOR or at + self.bitmap_bytes + self.header.block_bytes > self.file_bytes:
            raise corrupt(
                self._file,
                f"block {index} at {at} is not inside the file of {self.file_bytes} bytes",
                self.header.bat_offset + index * 4,
            )
        return at

    def first_block(self) -> int:
        """Return where the first block in the file begins; the end of all sectors if there is none."""
        return min(self.entries, default=ABSENT) * SECTOR

    @cached_property
    def file_bytes(self) -> int:
        """Return the file's length, as it was when blocks were last added."""
        return self._file.size()

    def publish(self, blocks: Mapping[int, int]) -> None:
        """Write the places of new blocks, by index; neighbours in one write. The caller flushes."""
        for first, count in _groups(sorted(blocks)):
            sectors = [blocks[index] // SECTOR for index in range(first, first + count)]
            self._file.write(self.header.bat_offset + first * 4, struct.pack(f">{count}I", *sectors))
            self.entries[first : first + count] = array("I", sectors)
        self.__dict__.pop("file_bytes", None)

    def packed(self, entries: int) -> bytes:
        """Return the table for that many blocks, padded to whole sectors."""
        table = array("I", self.entries)
        if sys.byteorder == "little":
            table.byteswap()
        return table.tobytes().ljust(padded(entries), b"\xff")

    @property
    def stride(self) -> int:
        """How far apart new blocks are put: their data begins on a page, and a footer fits between."""
        return -(-(self.bitmap_bytes + self.header.block_bytes) // PAGE) * PAGE

    def next_place(self, end: int) -> int:
        """Return where a block's bitmap goes when the file's used bytes (footer included) end at `end`."""
        return -(-(end + self.bitmap_bytes) // PAGE) * PAGE - self.bitmap_bytes


def padded(entries: int) -> int:
    """Return the bytes that a table takes: whole sectors."""
    return -(-entries * 4 // SECTOR) * SECTOR


def _groups(indexes: Iterable[int]) -> Iterator[tuple[int, int]]:
    first, count = -1, 0
    for index in indexes:
        if index == first + count:
            count += 1
            continue
        if count:
            yield first, count
        first, count = index, 1
    if count:
        yield first, count
