"""Putting new bytes into a dynamic or differencing VHD, so that a stop at any write changes nothing.

Order: a footer at the end of what is reserved, flushed, so that the file always ends in one; payload and
the new blocks' bitmaps, which nothing refers to yet; flush; bitmaps of old blocks and BAT entries; flush.
Blocks are laid so that their data begins on a 4 KiB page (as Windows and XenServer do). The rest of the
page before a bitmap is where the old footer stays untouched.
"""

from collections.abc import Callable, Iterator

from breezeblock.errors import NoSpaceError
from breezeblock.images.bitmap import bits, runs, set_bits
from breezeblock.images.file import File
from breezeblock.images.vhd.records import SECTOR
from breezeblock.images.vhd.table import MAX_FILE_BYTES, Table

_MAX_RESERVE = 64
"""Blocks reserved at once, at most: each reservation costs a flush."""


class Writer:
    """What was placed since the last commit."""

    def __init__(self, file: File, table: Table, *, differencing: bool, footer: Callable[[], bytes]) -> None:
        self._file = file
        self._table = table
        self._differencing = differencing
        self._footer = footer
        self._new: dict[int, int] = {}
        self._maps: dict[int, bytes] = {}
        self._next = 0
        self._reserved_end = 0
        self._reserve = 1
        self._full = b"\xff" * table.bitmap_bytes

    def place(self, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """Yield (where in the file, length) for the range; see `Layer.place`."""
        wanted = self._absent(offset, length)
        for index, start, stop in self._slices(offset, length):
            at = self._find(index)
            if at is None:
                at = self._allocate(index, wanted)
                wanted -= 1
            self._mark(index, at, start, stop)
            yield at + self._table.bitmap_bytes + start, stop - start

    def zero(self, offset: int, length: int) -> None:
        """Let a range read as zeros; see `Layer.zero`."""
        for index, start, stop in self._slices(offset, length):
            at = self._find(index)
            if at is not None:
                self._file.zero(at + self._table.bitmap_bytes + start, stop - start)
                if self._differencing:
                    self._mark(index, at, start, stop)
            elif self._differencing:
                self._mark(index, self._allocate(index, 1), start, stop)

    def commit(self) -> None:
        """Make payload durable, then what refers to it; see `Layer.commit`."""
        old = {index: data for index, data in self._maps.items() if index not in self._new}
        if self._new:
            for index, at in self._new.items():
                self._file.write(at, self._maps[index])
            self._file.write(self._end(), self._footer())
        self._file.flush()
        if not self._new and not old:
            return
        places = {index: self._table.block(index) for index in old}
        for index, place in places.items():
            self._file.write(place or 0, old[index])
        self._table.publish(self._new)
        self._file.flush()
        if self._new and self._end() < self._reserved_end:
            self._file.truncate(self._end() + SECTOR)
        self._new.clear()
        self._maps.clear()
        self._reserved_end = 0

    def _slices(self, offset: int, length: int) -> Iterator[tuple[int, int, int]]:
        """Yield (block, first byte in it, one past the last)."""
        block = self._table.header.block_bytes
        end = offset + length
        while offset < end:
            index, start = divmod(offset, block)
            stop = min(block, start + end - offset)
            yield index, start, stop
            offset += stop - start

    def _find(self, index: int) -> int | None:
        return self._new[index] if index in self._new else self._table.block(index)

    def _absent(self, offset: int, length: int) -> int:
        return sum(self._find(index) is None for index, _start, _stop in self._slices(offset, length))

    def _end(self) -> int:
        """Return where the last new block ends, which is where the footer goes."""
        return self._next - self._table.stride + self._table.bitmap_bytes + self._table.header.block_bytes

    def _allocate(self, index: int, wanted: int) -> int:
        """Return where a new block goes; `wanted` = how many more the caller is about to ask for."""
        if self._next >= self._reserved_end:
            self._reserve_blocks(max(wanted, 1))
        at = self._next
        self._next += self._table.stride
        self._new[index] = at
        self._maps[index] = bytes(self._table.bitmap_bytes) if self._differencing else self._full
        return at

    def _reserve_blocks(self, wanted: int) -> None:
        """Let the file end in a footer behind the next blocks; twice as many each time."""
        table = self._table
        if not self._reserved_end:
            self._next = table.next_place(self._file.size())
        count = max(min(self._reserve, _MAX_RESERVE), wanted)
        self._reserve *= 2
        end = self._next + (count - 1) * table.stride + table.bitmap_bytes + table.header.block_bytes
        if end + SECTOR > MAX_FILE_BYTES:
            raise NoSpaceError(
                f"{self._file.name}: a VHD file cannot pass {MAX_FILE_BYTES} bytes.",
                remedy="Flatten the image, or convert it to VHDX.",
            )
        self._file.write(end, self._footer())
        self._file.flush()
        self._reserved_end = end

    def _mark(self, index: int, at: int, start: int, stop: int) -> None:
        """Note that these bytes of the block are the layer's own."""
        data = self._maps.get(index)
        if data is None:
            data = self._file.read(at, self._table.bitmap_bytes)
        if data == self._full:
            return
        if not self._differencing:
            self._clear_unset(index, at, data)
            return
        self._maps[index] = set_bits(data, start // SECTOR, -(-stop // SECTOR), msb_first=True)

    def _clear_unset(self, index: int, at: int, data: bytes) -> None:
        """Fill a dynamic image's sparse bitmap: QEMU ignores them, others read unset sectors as zeros."""
        text = bits(data, self._table.header.block_bytes // SECTOR, msb_first=True)
        for first, last, is_set in runs(text):
            if not is_set:
                place = at + self._table.bitmap_bytes + first * SECTOR
                self._file.zero(place, (last - first) * SECTOR)
        self._maps[index] = self._full
