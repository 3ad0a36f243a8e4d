"""The metadata region: what kind of disk the file holds ([MS-VHDX] 2.6)."""

from collections.abc import Iterable
from itertools import pairwise
from struct import Struct
from uuid import UUID

import msgspec

from breezeblock.images.layer import corrupt
from breezeblock.images.vhdx import locator as locators
from breezeblock.images.vhdx.layout import (
    FILE_PARAMETERS,
    INCOMPLETE_FILE,
    LOGICAL_SECTOR,
    MAX_BLOCK_BYTES,
    MAX_ITEM_BYTES,
    MAX_ITEMS,
    MAX_VIRTUAL_BYTES,
    METADATA_ENTRY,
    METADATA_HEADER,
    METADATA_TABLE_BYTES,
    MIN_BLOCK_BYTES,
    PAGE,
    PARENT_LOCATOR,
    PHYSICAL_SECTOR,
    REQUIRED,
    SECTOR_SIZES,
    VIRTUAL_DISK,
    VIRTUAL_DISK_ID,
    VIRTUAL_DISK_SIZE,
    guid_text,
    round_up,
)
from breezeblock.images.vhdx.locator import Locator
from breezeblock.images.vhdx.regions import Region
from breezeblock.images.vhdx.view import View

LEAVE_ALLOCATED, HAS_PARENT = 1, 2
_PARAMETERS, _SIZE, _SECTOR = Struct("<II"), Struct("<Q"), Struct("<I")
_LENGTHS = {
    FILE_PARAMETERS: 8,
    VIRTUAL_DISK_SIZE: 8,
    VIRTUAL_DISK_ID: 16,
    LOGICAL_SECTOR: 4,
    PHYSICAL_SECTOR: 4,
}
_KNOWN = {*_LENGTHS, PARENT_LOCATOR, INCOMPLETE_FILE}
_FLAGS = {FILE_PARAMETERS: REQUIRED, PARENT_LOCATOR: REQUIRED}


class Item(msgspec.Struct, frozen=True):
    """One entry of the table; `offset` counts from the region's start."""

    guid: bytes
    offset: int
    length: int
    flags: int


class Metadata(msgspec.Struct, frozen=True, kw_only=True):
    """What the known items say, checked."""

    virtual_bytes: int
    block_bytes: int
    fixed: bool
    logical_sector: int
    physical_sector: int
    disk_id: UUID
    locator: Locator | None
    items: tuple[Item, ...] = ()


def read(view: View, region: Region) -> Metadata:
    """Read the table and the known items. Raises CorruptError."""
    items = _read_table(view, region)
    found = {item.guid: item for item in items}
    if INCOMPLETE_FILE in found:
        raise corrupt(view.file, "its creation was never finished", region.offset)
    values = _read_values(view, region, found)
    block_bytes, flags = _PARAMETERS.unpack(values[FILE_PARAMETERS])
    (virtual_bytes,) = _SIZE.unpack(values[VIRTUAL_DISK_SIZE])
    logical, physical = (_SECTOR.unpack(values[guid])[0] for guid in (LOGICAL_SECTOR, PHYSICAL_SECTOR))
    at = {guid: region.offset + found[guid].offset for guid in _LENGTHS}
    if not MIN_BLOCK_BYTES <= block_bytes <= MAX_BLOCK_BYTES or block_bytes & (block_bytes - 1):
        raise corrupt(view.file, f"blocks of {block_bytes} bytes cannot be", at[FILE_PARAMETERS])
    for guid, sector in ((LOGICAL_SECTOR, logical), (PHYSICAL_SECTOR, physical)):
        if sector not in SECTOR_SIZES:
            raise corrupt(view.file, f"sectors of {sector} bytes cannot be", at[guid])
    if not 0 < virtual_bytes <= MAX_VIRTUAL_BYTES or virtual_bytes % logical:
        raise corrupt(view.file, f"a disk of {virtual_bytes} bytes cannot be", at[VIRTUAL_DISK_SIZE])
    return Metadata(
        virtual_bytes=virtual_bytes,
        block_bytes=block_bytes,
        fixed=bool(flags & LEAVE_ALLOCATED),
        logical_sector=logical,
        physical_sector=physical,
        disk_id=UUID(bytes_le=values[VIRTUAL_DISK_ID]),
        locator=_read_locator(view, region, found) if flags & HAS_PARENT else None,
        items=items,
    )


def _read_table(view: View, region: Region) -> tuple[Item, ...]:
    # Half a dozen items is what files have: their table and themselves come in two short reads.
    data = view.read(region.offset, PAGE)
    signature, _, count, _ = METADATA_HEADER.unpack_from(data)
    if signature != b"metadata":
        raise corrupt(view.file, "the metadata table has no signature", region.offset)
    if count > MAX_ITEMS:
        problem = f"{count} metadata items, at most {MAX_ITEMS} are possible"
        raise corrupt(view.file, problem, region.offset + 10)
    if METADATA_HEADER.size + count * METADATA_ENTRY.size > PAGE:
        data = view.read(region.offset, METADATA_TABLE_BYTES)
    items = []
    for number in range(count):
        at = METADATA_HEADER.size + number * METADATA_ENTRY.size
        guid, offset, length, flags, _ = METADATA_ENTRY.unpack_from(data, at)
        item = Item(guid, offset, length, flags)
        empty = offset == length == 0
        inside = METADATA_TABLE_BYTES <= offset <= region.length - length and 0 < length <= MAX_ITEM_BYTES
        if not empty and not inside:
            problem = f"a metadata item of {length} bytes at {offset} cannot be"
            raise corrupt(view.file, problem, region.offset + at)
        if flags & REQUIRED and item.guid not in _KNOWN:
            problem = f"the required metadata item {guid_text(guid)} is unknown"
            raise corrupt(view.file, problem, region.offset + at)
        items.append(item)
    spans = sorted((item.offset, item.offset + item.length) for item in items if item.length)
    if len({item.guid for item in items}) < len(items):
        raise corrupt(view.file, "a metadata item is there twice", region.offset)
    for before, after in pairwise(spans):
        if after[0] < before[1]:
            raise corrupt(view.file, f"two metadata items overlap at {after[0]}", region.offset + after[0])
    return tuple(items)


def _read_values(view: View, region: Region, found: dict[bytes, Item]) -> dict[bytes, bytes]:
    """Return the contents of the items that every image has."""
    for guid, length in _LENGTHS.items():
        item = found.get(guid)
        if item is None:
            raise corrupt(view.file, f"the metadata item {guid_text(guid)} is missing", region.offset)
        if item.length != length:
            problem = f"the metadata item {guid_text(guid)} has {item.length} bytes, not {length}"
            raise corrupt(view.file, problem, region.offset + item.offset)
    items = [found[guid] for guid in _LENGTHS]
    start = min(item.offset for item in items)
    end = max(item.offset + item.length for item in items)
    if end - start <= PAGE:
        data = view.read(region.offset + start, end - start)
        return {item.guid: data[item.offset - start :][: item.length] for item in items}
    return {item.guid: view.read(region.offset + item.offset, item.length) for item in items}


def _read_locator(view: View, region: Region, found: dict[bytes, Item]) -> Locator:
    item = found.get(PARENT_LOCATOR)
    if item is None:
        raise corrupt(view.file, "there is a parent, but no parent locator", region.offset)
    start = region.offset + item.offset
    return locators.parse(view.file, view.read(start, item.length), start)


def values(metadata: Metadata) -> dict[bytes, bytes]:
    """Return the encoded items that the specification requires."""
    flags = (LEAVE_ALLOCATED if metadata.fixed else 0) | (HAS_PARENT if metadata.locator else 0)
    encoded = {
        FILE_PARAMETERS: _PARAMETERS.pack(metadata.block_bytes, flags),
        VIRTUAL_DISK_SIZE: _SIZE.pack(metadata.virtual_bytes),
        VIRTUAL_DISK_ID: metadata.disk_id.bytes_le,
        LOGICAL_SECTOR: _SECTOR.pack(metadata.logical_sector),
        PHYSICAL_SECTOR: _SECTOR.pack(metadata.physical_sector),
    }
    if metadata.locator:
        encoded[PARENT_LOCATOR] = locators.encode(metadata.locator)
    return encoded


def encode_table(items: Iterable[Item]) -> bytes:
    """Return the table's 64 KiB."""
    listed = list(items)
    data = bytearray(METADATA_TABLE_BYTES)
    METADATA_HEADER.pack_into(data, 0, b"metadata", 0, len(listed), bytes(20))
    for number, item in enumerate(listed):
        at = METADATA_HEADER.size + number * METADATA_ENTRY.size
        METADATA_ENTRY.pack_into(data, at, item.guid, item.offset, item.length, item.flags, 0)
    return bytes(data)


def encode(metadata: Metadata) -> list[tuple[int, bytes]]:
    """Return what is not zero in a new region, and where: the table's first page, and the items."""
    items, contents = [], bytearray()
    for guid, value in values(metadata).items():
        flags = _FLAGS.get(guid, REQUIRED | VIRTUAL_DISK)
        items.append(Item(guid, METADATA_TABLE_BYTES + len(contents), len(value), flags))
        contents += value.ljust(round_up(len(value), 8), b"\0")
    return [(0, encode_table(items)[:PAGE]), (METADATA_TABLE_BYTES, bytes(contents))]


def room(region: Region, items: Iterable[Item], length: int) -> int | None:
    """Return where in the region an item of that length fits beside the others; None if nowhere."""
    at = METADATA_TABLE_BYTES
    for item in sorted((item for item in items if item.length), key=lambda item: item.offset):
        if item.offset - at >= length:
            return at
        at = max(at, round_up(item.offset + item.length, 8))
    return at if region.length - at >= length else None
