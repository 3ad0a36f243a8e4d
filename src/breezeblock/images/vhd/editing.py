"""Changing a VHD's headers: grow, another parent, another identity.

A parent's name is put where nothing refers to it and switched to by one write of the header. A new size
or identity stands in both footers, which some readers (7-Zip) want equal: so the BAT is written anew
behind the end of the file, followed by the new footer, and one write of the first 1,536 bytes switches to
them, while the old BAT keeps its old footer. Those bytes lie in one 4 KiB page.
"""

from typing import TYPE_CHECKING

from msgspec.structs import replace

from breezeblock.errors import InvalidInputError, UnsupportedError
from breezeblock.images.layer import Layer, corrupt
from breezeblock.images.vhd import batmap, names
from breezeblock.images.vhd.records import (
    MAX_VIRTUAL_BYTES,
    SECTOR,
    Footer,
    Type,
    geometry,
)
from breezeblock.images.vhd.table import PAGE

if TYPE_CHECKING:
    from breezeblock.images.vhd.vhd import Vhd


def grow(image: "Vhd", virtual_bytes: int) -> None:
    """Raise the virtual bytes; doing it again changes nothing."""
    if virtual_bytes % SECTOR or virtual_bytes > MAX_VIRTUAL_BYTES:
        raise InvalidInputError(
            f"A VHD of {virtual_bytes} bytes is impossible: a multiple of {SECTOR} "
            f"up to {MAX_VIRTUAL_BYTES} (2040 GiB) is needed."
        )
    old = image.footer
    footer = replace(old, current_bytes=virtual_bytes, geometry=geometry(virtual_bytes))
    if virtual_bytes < old.current_bytes:
        raise InvalidInputError(
            f"{image.file.name} has {old.current_bytes} bytes; shrinking it is not possible."
        )
    if image.header is None:
        _grow_fixed(image, old, footer)
        return
    if virtual_bytes > old.current_bytes:
        _clear_behind(image, old.current_bytes)
    _switch(image, footer, max(image.header.entries, -(-virtual_bytes // image.header.block_bytes)))


def _grow_fixed(image: "Vhd", old: Footer, new: Footer) -> None:
    """Put the footer at the new end first, still with the old size, then clear the old one's place."""
    file, place, end = image.file, old.current_bytes, new.current_bytes
    if end > place:
        file.write(end, old.pack())
        file.flush()
        file.zero(place, end - place)
        file.flush()
    file.write(end, new.pack())
    file.flush()
    if file.size() > end + SECTOR:
        file.truncate(end + SECTOR)
    image.reload(new, None)


def _clear_behind(image: "Vhd", virtual_bytes: int) -> None:
    """Zero what the last block holds behind the old end, so that it does not come to light."""
    table = image.table
    index, start = divmod(virtual_bytes, table.header.block_bytes)
    at = table.block(index) if start else None
    if at is not None:
        image.file.zero(at + table.bitmap_bytes + start, table.header.block_bytes - start)
        if image.footer.type is Type.DIFFERENCING:
            data = image.file.read(at, table.bitmap_bytes)
            count = table.bitmap_bytes * 8
            keep = (1 << count) - (1 << (count - start // SECTOR))
            image.file.write(at, (int.from_bytes(data, "big") & keep).to_bytes(len(data), "big"))
        image.file.flush()


def append(image: "Vhd", raw: bytes, at: int) -> None:
    """Write something new at a place behind the end of the file; the file always ends in a footer."""
    end = at + -(-len(raw) // SECTOR) * SECTOR
    image.file.write(end, image.footer.pack())
    image.file.flush()
    image.file.write(at, raw)
    image.file.flush()


def _switch(image: "Vhd", footer: Footer, entries: int) -> None:
    """Make both footers this one, and the table that long, durably."""
    file, header = image.file, image.table.header
    raw = image.table.packed(entries)
    at = -(-file.size() // PAGE) * PAGE
    if batmap.expected(footer):
        raw += batmap.pack(entries, at + len(raw))
    append(image, raw, at)
    file.write(at + len(raw), footer.pack())
    file.flush()
    header = replace(header, bat_offset=at, entries=entries)
    if footer.data_offset == SECTOR:
        file.write(0, footer.pack() + header.pack())
    else:
        file.write(footer.data_offset, header.pack())
        file.flush()
        file.write(0, footer.pack())
    file.flush()
    image.reload(footer, header)


def reparent(image: "Vhd", parent: Layer, name: str) -> None:
    """Record another parent: its name where nothing refers to it yet, then the header in one write."""
    from breezeblock.images.vhd.making import free_slot
    from breezeblock.images.vhd.vhd import Vhd

    header = image.header
    if header is None or image.footer.type is not Type.DIFFERENCING:
        raise UnsupportedError(f"{image.file.name} is no differencing VHD: it has no parent to change.")
    if not isinstance(parent, Vhd) and parent.format != "raw":
        raise InvalidInputError(f"A VHD's parent must be vhd or raw, not {parent.format}.")
    at = free_slot(image, header)
    place = -(-image.file.size() // PAGE) * PAGE if at is None else at
    raw, locators = names.payload(name, place)
    if at is None:
        append(image, raw, place)
    else:
        image.file.write(place, raw)
        image.file.flush()
    header = replace(
        header,
        parent_id=parent.footer.unique_id if isinstance(parent, Vhd) else bytes(16),
        parent_timestamp=parent.footer.timestamp if isinstance(parent, Vhd) else 0,
        parent_name=name,
        locators=locators,
    )
    image.file.write(image.footer.data_offset, header.pack())
    image.file.flush()
    image.reload(image.footer, header)


def adopt(image: "Vhd", child: Footer) -> None:
    """Take a merged child's unique id, so that its own children know this image as their parent."""
    if child.current_bytes != image.footer.current_bytes:
        raise corrupt(image.file, "it has not the size of the child it is to replace", 48)
    footer = replace(image.footer, unique_id=child.unique_id, timestamp=child.timestamp, hidden=child.hidden)
    if image.header is not None:
        _switch(image, footer, image.header.entries)
        return
    image.file.write(footer.current_bytes, footer.pack())
    image.file.flush()
    image.reload(footer, None)
