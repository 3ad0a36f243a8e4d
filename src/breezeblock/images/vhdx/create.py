"""Making VHDX files: fixed, dynamic, differencing.

The layout is the one Windows makes: log at 1 MiB, metadata at 2 MiB, BAT from 3 MiB, then blocks.
"""

import sys
from array import array
from functools import lru_cache
from uuid import UUID, uuid4

from breezeblock.errors import InvalidInputError
from breezeblock.images.file import File
from breezeblock.images.layer import Options
from breezeblock.images.vhdx import bat, metadata, regions
from breezeblock.images.vhdx.bat import Geometry
from breezeblock.images.vhdx.header import Header
from breezeblock.images.vhdx.layout import (
    BAT_REGION,
    CREATOR_BYTES,
    CREATOR_OFFSET,
    HEADER_OFFSETS,
    MAX_BLOCK_BYTES,
    MAX_VIRTUAL_BYTES,
    METADATA_REGION,
    MIB,
    MIN_BLOCK_BYTES,
    NIL,
    PAGE,
    REGION_TABLE_OFFSETS,
    SECTOR_SIZES,
    SIGNATURE,
    TIB,
    State,
    round_up,
)
from breezeblock.images.vhdx.metadata import Metadata
from breezeblock.images.vhdx.regions import Region

_IDENTIFIER = (SIGNATURE.ljust(CREATOR_OFFSET, b"\0") + "Breezeblock".encode("utf-16-le")).ljust(
    CREATOR_OFFSET + CREATOR_BYTES, b"\0"
)
_LOG = (1 * MIB, 1 * MIB)
_METADATA = Region(METADATA_REGION, 2 * MIB, 1 * MIB)
_BAT_OFFSET = 3 * MIB
_PHYSICAL_SECTOR = 4096
_SMALL_BLOCKS_UP_TO = 8 * TIB
CHILD_BLOCK_BYTES = 2 * MIB


def blank(virtual_bytes: int, options: Options, disk_id: UUID | None = None) -> Metadata:
    """Return what a new image is to be. Raises InvalidInputError, naming the limit."""
    block_bytes = options.block_bytes or (2 * MIB if virtual_bytes <= _SMALL_BLOCKS_UP_TO else 32 * MIB)
    if options.sector_bytes not in SECTOR_SIZES:
        raise InvalidInputError(f"VHDX has sectors of 512 or 4096 bytes, not {options.sector_bytes}.")
    if not 0 < virtual_bytes <= MAX_VIRTUAL_BYTES or virtual_bytes % options.sector_bytes:
        raise InvalidInputError(
            f"A VHDX cannot hold a disk of exactly {virtual_bytes} bytes: it must be a multiple of its sector"
            f" ({options.sector_bytes}), above 0 and at most {MAX_VIRTUAL_BYTES} (64 TiB)."
        )
    if not MIN_BLOCK_BYTES <= block_bytes <= MAX_BLOCK_BYTES or block_bytes & (block_bytes - 1):
        raise InvalidInputError(
            f"VHDX blocks of {block_bytes} bytes cannot be: a power of two from 1 to 256 MiB is needed."
        )
    return Metadata(
        virtual_bytes=virtual_bytes,
        block_bytes=block_bytes,
        fixed=options.fixed,
        logical_sector=options.sector_bytes,
        physical_sector=_PHYSICAL_SECTOR,
        disk_id=disk_id or uuid4(),
        locator=None,
    )


def write(file: File, new: Metadata) -> None:
    """Fill an empty file. The caller flushes it, and shows it to nobody before."""
    grid = bat.geometry(
        new.virtual_bytes, new.block_bytes, new.logical_sector, differencing=new.locator is not None
    )
    table = Region(BAT_REGION, _BAT_OFFSET, round_up(grid.entries * bat.ENTRY_BYTES, MIB))
    file.truncate(table.end + (grid.blocks * new.block_bytes if new.fixed else 0))
    file.write(0, _IDENTIFIER)
    file_write, data_write = uuid4(), uuid4()
    for slot in (0, 1):
        header = Header(
            slot=slot,
            sequence=slot + 1,
            file_write=file_write,
            data_write=data_write,
            log=NIL,
            log_offset=_LOG[0],
            log_bytes=_LOG[1],
        )
        file.write(HEADER_OFFSETS[slot], header.encode())
    # What is left unwritten of the tables is a hole, which reads as the zeros that belong there.
    encoded = _region_table(table)
    for offset in REGION_TABLE_OFFSETS:
        file.write(offset, encoded)
    for start, part in metadata.encode(new):
        file.write(_METADATA.offset + start, part)
    if new.fixed:
        write_fixed_entries(file, table.offset, grid, 0, table.end)


@lru_cache(16)
def _region_table(table: Region) -> bytes:
    """Return what is not zero in the region table: one and the same for all images of a size."""
    return regions.encode((table, _METADATA))[:PAGE]


def write_fixed_entries(file: File, table_offset: int, grid: Geometry, first: int, at: int) -> None:
    """Write the entries of all blocks from `first` on, which lie one behind the other from `at` on."""
    block = first
    while block < grid.blocks:
        # A chunk at a time: behind its blocks' entries is one for a bitmap, which a fixed image has not.
        last = min(grid.blocks, (block // grid.ratio + 1) * grid.ratio)
        step = grid.block_bytes
        start = at + (block - first) * step
        entries = array("Q", range(start | State.FULL, (start | State.FULL) + (last - block) * step, step))
        if sys.byteorder == "big":
            entries.byteswap()
        file.write(table_offset + grid.payload(block) * bat.ENTRY_BYTES, entries.tobytes())
        block = last
