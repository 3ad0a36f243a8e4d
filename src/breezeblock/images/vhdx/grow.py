"""Raising the virtual disk size: the tables first, where nobody looks yet, then one log entry."""

from breezeblock.errors import InvalidInputError
from breezeblock.images.vhdx import bat, create, extents, items, regions, space
from breezeblock.images.vhdx.bat import Geometry
from breezeblock.images.vhdx.edit import Edit
from breezeblock.images.vhdx.layout import (
    BAT_REGION,
    MAX_VIRTUAL_BYTES,
    MIB,
    PAGE,
    REGION_TABLE_BYTES,
    REGION_TABLE_OFFSETS,
    State,
    round_up,
)
from breezeblock.images.vhdx.regions import Region

_COPY_BYTES = 1 * MIB


def grow(edit: Edit, virtual_bytes: int) -> None:
    """Raise the virtual bytes, durably. Raises InvalidInputError, naming the limit."""
    old = edit.image.grid
    if virtual_bytes == old.virtual_bytes:
        return
    if virtual_bytes % old.sector_bytes or not old.virtual_bytes < virtual_bytes <= MAX_VIRTUAL_BYTES:
        raise InvalidInputError(
            f"{edit.image.file.name}: a VHDX of {old.virtual_bytes} bytes cannot become {virtual_bytes}: a"
            f" multiple of its sector ({old.sector_bytes}) up to {MAX_VIRTUAL_BYTES} (64 TiB) is needed,"
            " and it cannot shrink."
        )
    # Not a new DataWriteGuid: below its old end the disk reads as before, and children go on fitting.
    edit.announce(data=False)
    new = bat.geometry(virtual_bytes, old.block_bytes, old.sector_bytes, differencing=old.differencing)
    file, table = edit.image.file, edit.image.regions.bat
    end = space.survey(edit.image).end
    if file.size() > end:
        file.truncate(end)
    changes = _clear_tail(edit, old)
    if new.entries * bat.ENTRY_BYTES > table.length:
        table = _move_table(edit, old, new, end)
        end = table.end
    else:
        _clear_entries(edit, old, new)
    if edit.image.metadata.fixed:
        file.truncate(end + (new.blocks - old.blocks) * new.block_bytes)
        create.write_fixed_entries(file, table.offset, new, old.blocks, end)
    changes |= items.size_change(edit, virtual_bytes)
    edit.publish(edit.patched(changes) | _region_pages(edit, table))
    edit.reload()


def _clear_tail(edit: Edit, old: Geometry) -> dict[int, bytes]:
    """Let what lies behind the disk's end in its last block be zeros; return what the log must do for it."""
    image = edit.image
    block = old.blocks - 1
    used = old.block_end(block) - old.block_start(block)
    state, at = bat.split(image.entry(old.payload(block)))
    if used == old.block_bytes or state not in {State.FULL, State.PARTIAL}:
        return {}
    image.file.truncate(max(image.file.size(), at + old.block_bytes))
    image.file.zero(at + used, old.block_bytes - used)
    if state == State.FULL:
        return {}
    bits = extents.block_bits(image, block, image.entry(old.bitmap(block)))
    kept = int(bits[: used // old.sector_bytes][::-1], 2)
    where = image.check_bitmap(block, image.entry(old.bitmap(block))) + old.bitmap_offset(block)
    return {where: kept.to_bytes(old.bitmap_bytes, "little")}


def _clear_entries(edit: Edit, old: Geometry, new: Geometry) -> None:
    """Let the entries of the new blocks be empty, whatever lies in the table behind those in use."""
    image = edit.image
    first = old.payload(old.blocks - 1) + 1
    if old.differencing:
        # Inside the last chunk's room only up to the entry of its bitmap, which is in use.
        _zero_entries(edit, first, old.entries - 1)
        first = old.entries
    _zero_entries(edit, first, new.entries)
    image.file.flush()


def _zero_entries(edit: Edit, first: int, last: int) -> None:
    image = edit.image
    if first < last:
        image.file.zero(image.entry_offset(first), (last - first) * bat.ENTRY_BYTES)


def _move_table(edit: Edit, old: Geometry, new: Geometry, end: int) -> Region:
    """Copy the BAT to the end of the file, with room for the new blocks."""
    image = edit.image
    table = Region(BAT_REGION, end, round_up(new.entries * bat.ENTRY_BYTES, MIB))
    image.file.truncate(table.end)
    total = old.entries * bat.ENTRY_BYTES
    for start in range(0, total, _COPY_BYTES):
        length = min(_COPY_BYTES, total - start)
        image.file.write(table.offset + start, image.file.read(image.regions.bat.offset + start, length))
    return table


def _region_pages(edit: Edit, table: Region) -> dict[int, bytes]:
    """Return the pages of both region tables that change when the BAT is elsewhere."""
    image = edit.image
    if table == image.regions.bat:
        return {}
    wanted = regions.encode(
        tuple(table if region.guid == BAT_REGION else region for region in image.regions.all)
    )
    return {
        offset + at: wanted[at : at + PAGE]
        for offset in REGION_TABLE_OFFSETS
        for at in range(0, REGION_TABLE_BYTES, PAGE)
        if image.file.read(offset + at, PAGE) != wanted[at : at + PAGE]
    }
