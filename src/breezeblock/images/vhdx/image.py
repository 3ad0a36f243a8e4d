"""Everything that opening a VHDX file reads, checked."""

import msgspec

from breezeblock.images.file import File
from breezeblock.images.layer import corrupt
from breezeblock.images.vhdx import bat, header, log, metadata, regions
from breezeblock.images.vhdx.bat import Geometry
from breezeblock.images.vhdx.header import Header
from breezeblock.images.vhdx.layout import MAX_FILE_BYTES, MIB, State
from breezeblock.images.vhdx.metadata import Metadata
from breezeblock.images.vhdx.regions import Regions
from breezeblock.images.vhdx.view import View


class Image(msgspec.Struct, frozen=True):
    """An opened file. Its tables are read through what is still in its log."""

    view: View
    header: Header
    regions: Regions
    metadata: Metadata
    grid: Geometry

    @property
    def file(self) -> File:
        """The file."""
        return self.view.file

    def entry_offset(self, index: int) -> int:
        """Return where in the file a BAT entry is."""
        return self.regions.bat.offset + index * bat.ENTRY_BYTES

    def entry(self, index: int) -> int:
        """Read one BAT entry."""
        return int.from_bytes(self.view.read(self.entry_offset(index), bat.ENTRY_BYTES), "little")

    def check_payload(self, block: int, at: int, count: int = 1) -> int:
        """Return where blocks side by side begin, once known to be in the file and in no table."""
        needed = self.grid.block_end(block + count - 1) - self.grid.block_start(block)
        return self._check(at, needed, f"block {block}", self.grid.payload(block))

    def check_bitmap(self, block: int, value: int) -> int:
        """Return where the sector bitmap is that an entry names."""
        state, at = bat.split(value)
        index = self.grid.bitmap(block)
        if state != State.FULL:
            problem = f"block {block} needs a sector bitmap, but there is none"
            raise corrupt(self.file, problem, self.entry_offset(index))
        return self._check(at, MIB, f"the sector bitmap of block {block}", index)

    def _check(self, at: int, needed: int, what: str, index: int) -> int:
        if at + needed > self.view.file_bytes or self.regions.overlapping(at, at + needed):
            problem = f"{what} at {at} is outside the file or in its tables"
            raise corrupt(self.file, problem, self.entry_offset(index))
        return at

    def bad_state(self, block: int, state: int) -> Exception:
        """Return the error for an entry whose state cannot be."""
        problem = f"block {block} has the impossible state {state}"
        return corrupt(self.file, problem, self.entry_offset(self.grid.payload(block)))


def load(file: File) -> Image:
    """Read headers, log, region table and metadata. Raises CorruptError; writes nothing."""
    file_bytes = file.size()
    if file_bytes > MAX_FILE_BYTES:
        raise corrupt(file, f"a file of {file_bytes} bytes cannot be", MAX_FILE_BYTES)
    current = header.read(file, file_bytes)
    view = View(file, log.replay(file, current), file_bytes)
    table = regions.read(view, current)
    found = metadata.read(view, table.metadata)
    grid = bat.geometry(
        found.virtual_bytes,
        found.block_bytes,
        found.logical_sector,
        differencing=found.locator is not None,
    )
    if grid.entries * bat.ENTRY_BYTES > table.bat.length:
        problem = f"the BAT has room for {table.bat.length // bat.ENTRY_BYTES} of {grid.entries} entries"
        raise corrupt(file, problem, table.bat.offset)
    return Image(view, current, table, found, grid)
