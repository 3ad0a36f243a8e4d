"""Moving what a chain reads as into a layer: the one loop under write, merge, flatten and convert.

A layer takes only whole units (`Layer.sector_bytes`): a sector, a qcow2 cluster. Where what is moved
ends inside a unit, the rest of that unit comes from the chain that is read, so that nothing has to be
read back from what is being written.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from breezeblock.attempt import Attempt
from breezeblock.images.layer import Kind, Layer
from breezeblock.images.raw import SLICE_BYTES, check_cancelled
from breezeblock.images.stack import Part, Stack, extents, load, read

_BATCH_BYTES = 256 << 20
_BATCH_PIECES = 4096
"""What is placed between two commits, at most: it bounds memory, and what a stop loses."""
_STORE_BYTES = 32 << 20
"""After how much the kernel is asked to begin storing: copying and storing then go on side by side."""
_ZERO_BYTES = 16 << 30
"""How much is made zeros at once, for layers that keep tables of it in memory."""


class _Bytes(NamedTuple):
    """A stretch in which extents end inside units."""

    offset: int
    data: bytes


class Range(NamedTuple):
    """Virtual bytes from `offset` up to, not including, `end`."""

    offset: int
    end: int


def move(
    source: Stack,
    ranges: Iterable[Range],
    target: Layer,
    attempt: Attempt,
    *,
    fresh: bool = False,
) -> None:
    """Make the target hold, in these ranges, what the source reads as; durable when it returns.

    `fresh`: the target is new and reads as zeros. Parts that the target itself has are left out, so that
    a chain can be merged into one of its own layers. Beyond the source's end is zeros.
    """
    batch = Batch(target)
    for one in _whole_units(ranges, target.sector_bytes, target.virtual_bytes):
        end = min(one.end, source.virtual_bytes)
        for piece in _pieces(source, one.offset, end, target.sector_bytes):
            check_cancelled(attempt)
            if isinstance(piece, _Bytes):
                batch.put(piece.offset, piece.data)
            elif piece.layer is not target:
                _put(piece, batch, fresh=fresh)
            attempt.progress(one.offset, target.virtual_bytes)
        if one.end > end and not fresh:
            batch.zero(max(end, one.offset), one.end - max(end, one.offset))
    batch.commit()


def _whole_units(ranges: Iterable[Range], unit: int, limit: int) -> Iterator[Range]:
    """Yield the ranges rounded outwards, made one where they then touch."""
    last: Range | None = None
    for one in ranges:
        wide = Range(one.offset // unit * unit, min(limit, -(-one.end // unit) * unit))
        if last and wide.offset <= last.end:
            last = Range(last.offset, max(last.end, wide.end))
            continue
        if last:
            yield last
        last = wide
    if last:
        yield last


def _pieces(source: Stack, start: int, end: int, unit: int) -> Iterator[Part | _Bytes]:
    """Divide a range of whole units into extents of whole units, and bytes where they are mixed."""
    done = start
    for part in extents(source, start, end - start):
        first = -(-max(part.extent.offset, done) // unit) * unit
        last = part.extent.end if part.extent.end == end else part.extent.end // unit * unit
        if first < last:
            yield from _mixed(source, done, first)
            yield part._replace(extent=part.extent.clip(first, last))
            done = last
        elif last - done >= SLICE_BYTES:
            yield from _mixed(source, done, last)
            done = last
    yield from _mixed(source, done, end)


def _mixed(source: Stack, start: int, end: int) -> Iterator[_Bytes]:
    for offset in range(start, end, SLICE_BYTES):
        yield _Bytes(offset, read(source, offset, min(SLICE_BYTES, end - offset)))


def _put(part: Part, batch: "Batch", *, fresh: bool) -> None:
    extent, layer = part
    if extent.kind is Kind.PACKED:
        batch.put(extent.offset, load(part))
    elif extent.kind is Kind.ZERO:
        if not fresh:
            batch.zero(extent.offset, extent.length)
    else:
        for offset, length, is_data in _spans(part, batch.target.sector_bytes):
            if is_data:
                batch.copy(layer, extent.at + offset - extent.offset, offset, length)
            elif not fresh:
                batch.zero(offset, length)


def _spans(part: Part, unit: int) -> Iterator[tuple[int, int, bool]]:
    """Divide DATA into (offset, length, is data): holes of its file count in whole units only."""
    extent = part.extent
    done = extent.offset
    for at, length, is_data in part.layer.file.spans(extent.at, extent.length):
        end = at + length - extent.at + extent.offset
        start = -(-(end - length) // unit) * unit
        end = end if end == extent.end else end // unit * unit
        if not is_data and start < end:
            if done < start:
                yield done, start - done, True
            yield start, end - start, False
            done = end
    if done < extent.end:
        yield done, extent.end - done, True


class Batch:
    """What is placed in the target until the next commit."""

    def __init__(self, target: Layer) -> None:
        self.target = target
        self._bytes = 0
        self._pieces = 0
        self._unstored = 0

    def put(self, offset: int, data: bytes) -> None:
        """Write bytes."""
        start = 0
        for at, length in self.target.place(offset, len(data)):
            self.target.file.write(at, memoryview(data)[start : start + length])
            start += length
        self._count(len(data))

    def copy(self, source: Layer, source_at: int, offset: int, length: int) -> None:
        """Copy bytes that lie in another layer's file."""
        for start in range(0, length, SLICE_BYTES):
            size = min(SLICE_BYTES, length - start)
            at = source_at + start
            for place, count in self.target.place(offset + start, size):
                self.target.file.copy(source.file, at, place, count)
                at += count
            self._count(size)

    def zero(self, offset: int, length: int) -> None:
        """Let a range read as zeros."""
        for start in range(offset, offset + length, _ZERO_BYTES):
            self.target.zero(start, min(_ZERO_BYTES, offset + length - start))
            self._count(0)

    def commit(self) -> None:
        """Make what was placed durable and visible."""
        self.target.commit()
        self._bytes = self._pieces = 0

    def _count(self, length: int) -> None:
        self._bytes += length
        self._pieces += 1
        self._unstored += length
        if self._unstored >= _STORE_BYTES:
            self._unstored = 0
            self.target.file.start_writing()
        if self._bytes >= _BATCH_BYTES or self._pieces >= _BATCH_PIECES:
            self.commit()


def own_ranges(layer: Layer) -> Iterator[Range]:
    """Yield what the layer does not leave to its parent."""
    for one in layer.extents(0, layer.virtual_bytes):
        if one.kind is not Kind.PARENT:
            yield Range(one.offset, one.end)
