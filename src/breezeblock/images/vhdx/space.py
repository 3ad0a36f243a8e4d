"""Which parts of the file are in use: where new blocks may go, and whether old ones overlap."""

from collections.abc import Iterator
from typing import NamedTuple

from breezeblock.images.layer import corrupt
from breezeblock.images.vhdx import bat
from breezeblock.images.vhdx.image import Image
from breezeblock.images.vhdx.layout import MIB, TIB, State, round_up

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


def used_end(image: Image) -> int:
    """Return where the last block or table ends, a multiple of 1 MiB. Raises CorruptError on overlaps."""
    for offset, problem in overlaps(image):
        raise corrupt(image.file, problem, offset)
    end = max(last for _, last in image.regions.reserved)
    for placed in blocks(image):
        if placed.in_use:
            check(image, placed)
        elif placed.at + placed.length > image.view.file_bytes:
            continue
        end = max(end, placed.at + placed.length)
    return round_up(end, MIB)


def check(image: Image, placed: Placed) -> None:
    """Raise CorruptError unless the block lies inside the file and outside all tables."""
    if placed.is_bitmap:
        image.check_bitmap(placed.block, placed.at | placed.state)
    else:
        image.check_payload(placed.block, placed.at)


def overlaps(image: Image) -> Iterator[tuple[int, str]]:
    """Yield (where the BAT entry is, what is wrong) for each block that lies on another one."""
    for base in range(0, round_up(image.view.file_bytes, MIB) // MIB, _WINDOW_MIB):
        taken = bytearray(min(_WINDOW_MIB, image.view.file_bytes // MIB + 1 - base))
        for placed in blocks(image):
            at = placed.at // MIB - base
            first, last = max(0, at), min(len(taken), at + placed.length // MIB)
            if first >= last or not placed.in_use:
                continue
            if taken.find(1, first, last) >= 0:
                yield image.entry_offset(placed.entry), f"the block at {placed.at} is used twice"
            taken[first:last] = b"\1" * (last - first)


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
