"""An open VHD file as a layer: fixed, dynamic or differencing."""

from collections.abc import Iterator, Mapping
from functools import cached_property

from breezeblock.images.bitmap import bits, runs
from breezeblock.images.file import File
from breezeblock.images.layer import Extent, Kind, Layer, Parent, Problem, WrongBytesError, corrupt, joined
from breezeblock.images.vhd import checking, editing, names
from breezeblock.images.vhd.blocks import Writer
from breezeblock.images.vhd.records import SECTOR, Footer, Header, Type, footer_of, parse_footer, parse_header
from breezeblock.images.vhd.table import ABSENT, Table

_HEAD_BYTES = 8192


class Vhd(Layer):
    """One open VHD file."""

    format = "vhd"

    def __init__(self, file: File, footer: Footer, header: Header | None, head: bytes = b"") -> None:
        super().__init__(file)
        self.footer = footer
        self.header = header
        self._head = head
        """The file's first bytes, as they were when it was opened."""

    @cached_property
    def table(self) -> Table:
        """Return the BAT; fixed images have none."""
        assert self.header is not None  # noqa: S101 - for the type checker: asked of non-fixed ones only
        return Table(self.file, self.header)

    @cached_property
    def _writer(self) -> Writer:
        checking.require_sound(self)
        return Writer(self.file, self.table, differencing=self._differencing, footer=self.footer.pack)

    def reload(self, footer: Footer, header: Header | None) -> None:
        """Go on with changed headers."""
        self.footer, self.header, self._head = footer, header, b""
        for name in ("table", "_writer", "parent"):
            self.__dict__.pop(name, None)

    @property
    def _differencing(self) -> bool:
        return self.footer.type is Type.DIFFERENCING

    @property
    def virtual_bytes(self) -> int:
        """How many bytes the disk has: the current size, never the geometry's."""
        return self.footer.current_bytes

    @property
    def identity(self) -> str:
        """The unique id in hex."""
        return self.footer.identity

    @cached_property
    def parent(self) -> Parent | None:
        """What a differencing image records; an id of zeros means a raw parent (XenServer)."""
        if self.header is None or not self._differencing:
            return None
        return names.recorded(self.file, self.header, self._head)

    @property
    def details(self) -> Mapping[str, object]:
        """What only VHD has."""
        return {**self.footer.told, "block_bytes": self.header.block_bytes if self.header else None}

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        """Divide a range; see `Layer.extents`."""
        if self.header is None:
            return iter((Extent(offset, length, Kind.DATA, offset),) if length else ())
        return joined(self._sparse(offset, offset + length))

    def _sparse(self, offset: int, end: int) -> Iterator[Extent]:
        table, block = self.table, self.table.header.block_bytes
        missing = Kind.PARENT if self._differencing else Kind.ZERO
        entries = table.entries
        while offset < end:
            index = offset // block
            at = table.block(index)
            if at is None:
                last = -(-end // block)
                while index < last and entries[index] == ABSENT:
                    index += 1
                stop = min(end, index * block)
                yield Extent(offset, stop - offset, missing)
            else:
                stop = min(end, (index + 1) * block)
                yield from self._block(at, index * block, offset, stop)
            offset = stop

    def _block(self, at: int, base: int, offset: int, end: int) -> Iterator[Extent]:
        table = self.table
        data = self.file.read(at, table.bitmap_bytes)
        missing = Kind.PARENT if self._differencing else Kind.ZERO
        first, last = (offset - base) // SECTOR, -(-(end - base) // SECTOR)
        if data.count(0xFF) == len(data):
            yield Extent(offset, end - offset, Kind.DATA, at + table.bitmap_bytes + offset - base)
            return
        text = bits(data, table.header.block_bytes // SECTOR, msb_first=True)
        for start, stop, own in runs(text, first, last):
            place = at + table.bitmap_bytes + start * SECTOR
            length = (stop - start) * SECTOR
            kind = Kind.DATA if own else missing
            yield Extent(base + start * SECTOR, length, kind, place if own else 0).clip(offset, end)

    def place(self, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """Yield where bytes go; see `Layer.place`."""
        if self.header is None:
            yield offset, length
        else:
            yield from self._writer.place(offset, length)

    def zero(self, offset: int, length: int) -> None:
        """Let a range read as zeros; see `Layer.zero`."""
        if self.header is None:
            self.file.zero(offset, length)
        else:
            self._writer.zero(offset, length)

    def commit(self) -> None:
        """Make durable what was placed; see `Layer.commit`."""
        if self.header is None:
            self.file.flush()
        else:
            self._writer.commit()

    def grow(self, virtual_bytes: int) -> None:
        """Raise the virtual bytes; see `Layer.grow`."""
        editing.grow(self, virtual_bytes)

    def reparent(self, parent: Layer, name: str) -> None:
        """Record another parent; see `Layer.reparent`."""
        editing.reparent(self, parent, name)

    def adopt(self, child: Layer) -> None:
        """Take the unique id of a merged child; see `Layer.adopt`."""
        if not isinstance(child, Vhd):
            raise corrupt(child.file, f"a {child.format} image cannot be the child of a VHD", 0)
        editing.adopt(self, child.footer)

    def check(self) -> Iterator[Problem]:
        """Look at footers, BAT, bitmaps and batmap; see `Layer.check`."""
        return checking.check(self)

    def repair(self) -> list[str]:
        """Mend footers, slack and the batmap; see `Layer.repair`."""
        return checking.repair(self)


def open_layer(file: File) -> Vhd:
    """Read footer and header. Raises CorruptError."""
    size = file.size()
    # Most that opening needs lies together: the footer's copy, the header, the parent's names.
    head = file.peek(0, _HEAD_BYTES)
    footer = _footer_that_counts(file, size, head[:SECTOR])
    if footer.type is Type.FIXED:
        if footer.current_bytes > size - SECTOR:
            raise corrupt(file, f"the file is too short for {footer.current_bytes} virtual bytes", 48)
        return Vhd(file, footer, None)
    return Vhd(file, footer, parse_header(file, footer, size, head), head)


def _footer_that_counts(file: File, size: int, head: bytes) -> Footer:
    """Return the footer that counts.

    For a fixed image that is the one at the end: its first sector is the guest's, and is never taken for
    a footer. Other images have a copy at the start, which changes together with the header and so is the
    one that fits it; the one at the end is used where that is damaged.
    """
    end = max(0, size - SECTOR)
    tail = file.peek(end, SECTOR)
    if tail[:8] == b"v_poison":
        return parse_footer(file, tail, end)
    last = _footer(tail)
    if last and last.type is Type.FIXED:
        return last
    first = last if head == tail else _footer(head)
    if first and first.type is not Type.FIXED:
        return first
    return last or parse_footer(file, tail, end)


def _footer(raw: bytes) -> Footer | None:
    try:
        return footer_of(raw)
    except WrongBytesError:
        return None
