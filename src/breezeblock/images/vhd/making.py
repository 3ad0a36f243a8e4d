"""New VHD files, as Windows, XenServer and QEMU take them.

Layout: footer copy, header, two slots for the parent's name (one is used, the other is for the next
parent), the BAT, XenServer's batmap if wanted, blocks, footer.
"""

import os
import time
from functools import lru_cache

from msgspec.structs import replace

from breezeblock.errors import InvalidInputError
from breezeblock.images.file import File
from breezeblock.images.layer import Layer, Options
from breezeblock.images.vhd import batmap, names
from breezeblock.images.vhd.records import (
    EPOCH,
    HEADER_BYTES,
    MAX_VIRTUAL_BYTES,
    NO_OFFSET,
    SECTOR,
    Footer,
    Header,
    Type,
    geometry,
)
from breezeblock.images.vhd.table import padded
from breezeblock.images.vhd.vhd import Vhd

BLOCK_BYTES = 2 << 20
SLOTS = (4096, 4096 + names.SLOT_BYTES)
_BAT_OFFSET = SLOTS[1] + names.SLOT_BYTES
_WINDOWS, _WINDOWS_VERSION = b"win ", 0x000A_0000


def create(file: File, virtual_bytes: int, options: Options) -> None:
    """Write an image of zeros; see `layer.Format.create`."""
    footer = _footer(virtual_bytes, Type.FIXED if options.fixed else Type.DYNAMIC, options)
    if options.fixed:
        file.truncate(virtual_bytes)
        file.write(virtual_bytes, replace(footer, data_offset=NO_OFFSET).pack())
        return
    _write(file, footer, _header(virtual_bytes, options), b"")


def create_child(file: File, parent: Layer, name: str, options: Options) -> None:
    """Write an image above `parent`, a VHD or (as XenServer allows) a raw one; see `layer.Format`."""
    if options.fixed:
        raise InvalidInputError("A VHD with a parent cannot be fixed.")
    if parent.format not in {"vhd", "raw"}:
        raise InvalidInputError(f"A VHD's parent must be vhd or raw, not {parent.format}.")
    if options.creator is None and isinstance(parent, Vhd) and parent.footer.creator == batmap.CREATOR:
        options = replace(options, creator="xen")
    footer = _footer(parent.virtual_bytes, Type.DIFFERENCING, options)
    slot, locators = names.payload(name, SLOTS[0])
    header = replace(_header(parent.virtual_bytes, options), parent_name=name, locators=locators)
    if isinstance(parent, Vhd):
        header = replace(header, parent_id=parent.footer.unique_id, parent_timestamp=parent.footer.timestamp)
    _write(file, footer, header, slot)


def _footer(virtual_bytes: int, kind: Type, options: Options) -> Footer:
    if virtual_bytes % SECTOR or not 0 < virtual_bytes <= MAX_VIRTUAL_BYTES:
        raise InvalidInputError(
            f"A VHD of {virtual_bytes} bytes is impossible: a multiple of {SECTOR} "
            f"up to {MAX_VIRTUAL_BYTES} (2040 GiB) is needed.",
            remedy="Use VHDX, which holds up to 64 TiB." if virtual_bytes > MAX_VIRTUAL_BYTES else "",
        )
    if options.creator not in {None, "windows", "xen"}:
        raise InvalidInputError(f"A VHD's creator is windows or xen, not {options.creator!a}.")
    xen = options.creator == "xen"
    if xen and virtual_bytes % BLOCK_BYTES:
        raise InvalidInputError(
            f"XenServer's images hold a multiple of {BLOCK_BYTES} bytes; {virtual_bytes} is none."
        )
    if options.sector_bytes != SECTOR:
        raise InvalidInputError(f"A VHD has sectors of {SECTOR} bytes, not {options.sector_bytes}.")
    return Footer(
        type=kind,
        current_bytes=virtual_bytes,
        original_bytes=virtual_bytes,
        geometry=geometry(virtual_bytes),
        unique_id=os.urandom(16),
        timestamp=int(time.time()) - EPOCH,
        creator=batmap.CREATOR if xen else _WINDOWS,
        creator_version=batmap.CREATOR_VERSION if xen else _WINDOWS_VERSION,
        creator_os=bytes(4) if xen else b"Wi2k",
        data_offset=SECTOR,
    )


def _header(virtual_bytes: int, options: Options) -> Header:
    block = options.block_bytes or BLOCK_BYTES
    if block not in {BLOCK_BYTES, BLOCK_BYTES // 4}:
        raise InvalidInputError(
            f"A VHD's blocks have {BLOCK_BYTES} bytes (or {BLOCK_BYTES // 4}), not {block}: "
            "other programs take no others."
        )
    return Header(bat_offset=_BAT_OFFSET, entries=-(-virtual_bytes // block), block_bytes=block)


def _write(file: File, footer: Footer, header: Header, slot: bytes) -> None:
    tail = (
        batmap.pack(header.entries, header.bat_offset + padded(header.entries))
        if batmap.expected(footer)
        else b""
    )
    seal = footer.pack()
    file.write(0, (seal + header.pack()).ljust(SLOTS[0], b"\0") + slot)
    file.write(header.bat_offset, _empty_table(padded(header.entries)))
    file.write(header.bat_offset + padded(header.entries), tail + seal)


@lru_cache(2)
def _empty_table(length: int) -> bytes:
    return b"\xff" * length


def free_slot(image: Vhd, header: Header) -> int | None:
    """Return one of the two slots that nothing else in the file uses; None if there is none."""
    used = [
        range(SECTOR),
        range(image.footer.data_offset, image.footer.data_offset + HEADER_BYTES),
        range(header.bat_offset, header.bat_offset + padded(header.entries)),
        *(range(one.offset, one.offset + max(one.space, one.length)) for one in header.locators),
    ]
    for at in SLOTS:
        end = at + names.SLOT_BYTES
        clear = not any(one.start < end and at < one.stop for one in used)
        if clear and end <= image.table.first_block():
            return at
    return None
