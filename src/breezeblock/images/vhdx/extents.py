"""What of a disk a VHDX file holds: block states and sector bitmaps as extents ([MS-VHDX] 2.5.1)."""

from collections.abc import Iterator

from breezeblock.images import bitmap
from breezeblock.images.layer import Extent, Kind
from breezeblock.images.vhdx import bat
from breezeblock.images.vhdx.bat import Geometry, Window
from breezeblock.images.vhdx.image import Image
from breezeblock.images.vhdx.layout import STATE_MASK, State

_NOTHING = {State.UNDEFINED: Kind.ZERO, State.ZERO: Kind.ZERO, State.UNMAPPED: Kind.ZERO}


def extents(image: Image, offset: int, length: int) -> Iterator[Extent]:
    """Divide a range inside the virtual bytes, neighbours of one kind joined."""
    end = offset + length
    pending: Extent | None = None
    for piece in _pieces(image, offset, end):
        extent = piece.clip(offset, end)
        if extent.length <= 0:
            continue
        if pending and _continues(pending, extent):
            pending = pending._replace(length=pending.length + extent.length)
            continue
        if pending:
            yield pending
        pending = extent
    if pending:
        yield pending


def _continues(before: Extent, extent: Extent) -> bool:
    return before.kind is extent.kind and (
        extent.kind is not Kind.DATA or before.at + before.length == extent.at
    )


def _pieces(image: Image, offset: int, end: int) -> Iterator[Extent]:
    grid = image.grid
    if end <= offset:
        return
    first, last = offset // grid.block_bytes, -(-end // grid.block_bytes)
    absent = Kind.PARENT if grid.differencing else Kind.ZERO
    for window in bat.windows(image.view, image.regions.bat.offset, grid, first, last):
        if window.empty:
            start = grid.block_start(window.first)
            yield Extent(start, grid.block_end(window.last - 1) - start, absent)
            continue
        for block, count, value in _runs(grid, window):
            yield from _run(image, window, block, count, value, absent)


def _runs(grid: Geometry, window: Window) -> Iterator[tuple[int, int, int]]:
    """Yield (first block, how many, first entry) for blocks that lie, or are missing, side by side."""
    block = window.first
    while block < window.last:
        last = min(window.last, (block // grid.ratio + 1) * grid.ratio)
        base = grid.payload(block) - window.base
        first = expected = value = window.entries[base]
        begin, step = block, grid.block_bytes if value & STATE_MASK == State.FULL else 0
        for value in window.entries[base : base + last - block]:
            if value != expected or value & STATE_MASK == State.PARTIAL:
                if block > begin:
                    yield begin, block - begin, first
                begin, first = block, value
                step = grid.block_bytes if value & STATE_MASK == State.FULL else 0
            expected = value + step
            block += 1
        yield begin, block - begin, first


def _run(image: Image, window: Window, block: int, count: int, value: int, absent: Kind) -> Iterator[Extent]:
    grid = image.grid
    state, at = bat.split(value)
    start = grid.block_start(block)
    length = grid.block_end(block + count - 1) - start
    if state == State.FULL:
        yield from _data(image, start, length, image.check_payload(block, at, count))
    elif state == State.NOT_PRESENT:
        yield Extent(start, length, absent)
    elif state in _NOTHING:
        yield Extent(start, length, Kind.ZERO)
    elif state == State.PARTIAL and grid.differencing:
        image.check_payload(block, at)
        bits = block_bits(image, block, window[grid.bitmap(block)])
        size = grid.sector_bytes
        for begin, stop, present in bitmap.runs(bits, 0, length // size):
            run = (start + begin * size, (stop - begin) * size)
            if present:
                yield from _data(image, *run, at + begin * size)
            else:
                yield Extent(*run, Kind.PARENT)
    else:
        raise image.bad_state(block, state)


def _data(image: Image, start: int, length: int, at: int) -> Iterator[Extent]:
    """Yield DATA, and ZERO for what the file will only have once its log is replayed."""
    there = length
    if image.view.replay is not None:
        there = max(0, min(length, image.file.size() - at))
    if there:
        yield Extent(start, there, Kind.DATA, at)
    if there < length:
        yield Extent(start + there, length - there, Kind.ZERO)


def block_bits(image: Image, block: int, bitmap_entry: int) -> str:
    """Return a block's part of the sector bitmap as text of 0 and 1."""
    grid = image.grid
    where = image.check_bitmap(block, bitmap_entry) + grid.bitmap_offset(block)
    data = image.view.read(where, grid.bitmap_bytes)
    return bitmap.bits(data, grid.block_bytes // grid.sector_bytes, msb_first=False)
