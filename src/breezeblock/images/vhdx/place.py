"""Offline writing: where bytes go, and the table changes that publish them.

A new block is taken where nothing refers to it, and is all zeros until written.
Bits of sector bitmaps and BAT entries are collected and published by `commit` through the log.
"""

from collections.abc import Iterator
from itertools import chain, islice

from breezeblock.images import bitmap
from breezeblock.images.vhdx import bat, space
from breezeblock.images.vhdx.edit import Edit
from breezeblock.images.vhdx.layout import MIB, State
from breezeblock.images.vhdx.log import MAX_PAGES

_ABSENT = {State.NOT_PRESENT, State.UNDEFINED, State.ZERO, State.UNMAPPED}


class Placement:
    """The changes to an image since the last commit."""

    def __init__(self, edit: Edit) -> None:
        self._edit = edit
        self._end: int | None = None
        self._gaps: list[int] = []
        """What nothing referred to before the first change. What is freed since is not among it."""
        self._entries: dict[int, int] = {}
        self._bits: dict[int, bytes] = {}
        """By file offset: the new bytes of a block's part of a bitmap that is in use already."""

    # --- where bytes go --------------------------------------------------------------------------

    def place(self, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """Yield (where in the file, length) for the bytes of a range; see `Layer.place`."""
        self._edit.announce(data=True)
        for block, start, end in self._parts(offset, length):
            yield self._place(block, start, end) + start, end - start

    def zero(self, offset: int, length: int) -> None:
        """Let a range read as zeros after the next commit."""
        self._edit.announce(data=True)
        grid = self._edit.image.grid
        for block, start, end in self._parts(offset, length):
            state, at = self._state(block)
            whole = end - start == grid.block_end(block) - grid.block_start(block)
            hides = grid.differencing and state == State.NOT_PRESENT
            if whole and not self._edit.image.metadata.fixed:
                if state != State.ZERO and (state in {State.FULL, State.PARTIAL} or hides):
                    self._entries[grid.payload(block)] = bat.entry(State.ZERO, 0)
            elif state not in _ABSENT or hides:
                at = self._place(block, start, end)
                self._edit.image.file.zero(at + start, end - start)

    def _parts(self, offset: int, length: int) -> Iterator[tuple[int, int, int]]:
        """Divide a range by blocks: (block, first byte in it, one past the last)."""
        grid = self._edit.image.grid
        position, end = offset, offset + length
        while position < end:
            block = position // grid.block_bytes
            begin = grid.block_start(block)
            stop = min(end, begin + grid.block_bytes)
            yield block, position - begin, stop - begin
            position = stop

    def _state(self, block: int) -> tuple[int, int]:
        image = self._edit.image
        index = image.grid.payload(block)
        known = self._entries.get(index)
        state, at = bat.split(image.entry(index) if known is None else known)
        if state in _ABSENT:
            return state, 0
        if state != State.FULL and not (state == State.PARTIAL and image.grid.differencing):
            raise image.bad_state(block, state)
        return state, at if known is not None else image.check_payload(block, at)

    def _place(self, block: int, start: int, end: int) -> int:
        """Let the block be in the file, these bytes of it present; return where it begins."""
        grid = self._edit.image.grid
        index = grid.payload(block)
        state, at = self._state(block)
        if state == State.FULL:
            return at
        whole = end - start == grid.block_end(block) - grid.block_start(block)
        new = state in _ABSENT
        if new:
            at = self._allocate(grid.block_bytes)
        if whole or not grid.differencing or (new and state != State.NOT_PRESENT):
            self._entries[index] = bat.entry(State.FULL, at)
        else:
            self._set_bits(block, start, end, clear=new)
            self._entries[index] = bat.entry(State.PARTIAL, at)
        return at

    def _allocate(self, length: int) -> int:
        """Return where new zeros are: in a gap that fits, or at the end of the file."""
        file = self._edit.image.file
        if self._end is None:
            self._end, self._gaps = space.survey(self._edit.image)
            # What a stopped writer left behind the last block is nobody's, and may not be zeros.
            if file.size() > self._end:
                file.truncate(self._end)
        if self._gaps and length == self._edit.image.grid.block_bytes:
            at = self._gaps.pop()
            file.zero(at, length)
            return at
        at, self._end = self._end, self._end + length
        file.truncate(self._end)
        return at

    def _set_bits(self, block: int, start: int, end: int, *, clear: bool) -> None:
        """Mark sectors of a block as present, in a bitmap in use or in a new one."""
        image = self._edit.image
        grid = image.grid
        index = grid.bitmap(block)
        value = self._entries.get(index)
        if value is None:
            value = image.entry(index)
            if bat.split(value)[0] == State.FULL:
                image.check_bitmap(block, value)
            else:
                value = bat.entry(State.FULL, self._allocate(MIB))
                self._entries[index] = value
        where = bat.split(value)[1] + grid.bitmap_offset(block)
        old = self._bits.get(where)
        if old is None:
            old = bytes(grid.bitmap_bytes) if clear else image.file.read(where, grid.bitmap_bytes)
        first, last = start // grid.sector_bytes, end // grid.sector_bytes
        self._bits[where] = bitmap.set_bits(old, first, last, msb_first=False)

    # --- publishing ------------------------------------------------------------------------------

    def commit(self) -> None:
        """Flush what was written, then publish it through the log. Without changes: only flush."""
        edit = self._edit
        image = edit.image
        if not self._entries and not self._bits:
            image.file.flush()
            return
        fresh = {bat.split(value)[1] for index, value in self._entries.items() if self._is_bitmap(index)}
        logged = {}
        for where, bits in sorted(self._bits.items()):
            if where // MIB * MIB in fresh:
                image.file.write(where, bits)
            else:
                logged[where] = bits
        bat_changes = {
            image.entry_offset(index): value.to_bytes(bat.ENTRY_BYTES, "little")
            for index, value in sorted(self._entries.items())
        }
        # All at once where one log entry has room; if not, bitmaps first: a bit whose block is not there
        # yet means nothing, and those of blocks that are there stand for themselves.
        pages = chain(edit.patched(logged).items(), edit.patched(bat_changes).items())
        while batch := dict(islice(pages, MAX_PAGES)):
            edit.publish(batch)
        self._entries.clear()
        self._bits.clear()

    def _is_bitmap(self, index: int) -> bool:
        grid = self._edit.image.grid
        return grid.differencing and index % (grid.ratio + 1) == grid.ratio
