"""The region table: where the block allocation table and the metadata are ([MS-VHDX] 2.2.3)."""

from itertools import pairwise

import msgspec

from breezeblock.images.layer import corrupt
from breezeblock.images.vhdx.header import Header
from breezeblock.images.vhdx.layout import (
    BAT_REGION,
    MAX_REGIONS,
    METADATA_REGION,
    METADATA_TABLE_BYTES,
    MIB,
    REGION_ENTRY,
    REGION_HEADER,
    REGION_TABLE_BYTES,
    REGION_TABLE_OFFSETS,
    guid_text,
    is_sealed,
    seal,
)
from breezeblock.images.vhdx.view import View


class Region(msgspec.Struct, frozen=True):
    """One entry of the table."""

    guid: bytes
    offset: int
    length: int
    required: bool = True

    @property
    def end(self) -> int:
        """The first byte behind it."""
        return self.offset + self.length


class Regions(msgspec.Struct, frozen=True):
    """The table, checked."""

    all: tuple[Region, ...]
    bat: Region
    metadata: Region
    reserved: tuple[tuple[int, int], ...]
    """(start, end) of everything that is no block, in order: the first MiB, the log, the regions."""

    def overlapping(self, start: int, end: int) -> bool:
        """Tell whether a range touches something that is no block."""
        return any(start < last and first < end for first, last in self.reserved)


def encode(regions: tuple[Region, ...]) -> bytes:
    """Return the table's 64 KiB."""
    data = bytearray(REGION_TABLE_BYTES)
    REGION_HEADER.pack_into(data, 0, b"regi", 0, len(regions), 0)
    for number, region in enumerate(regions):
        at = REGION_HEADER.size + number * REGION_ENTRY.size
        REGION_ENTRY.pack_into(data, at, region.guid, region.offset, region.length, int(region.required))
    return seal(data)


def read(view: View, header: Header) -> Regions:
    """Read the first copy that is valid. Raises CorruptError."""
    for offset in REGION_TABLE_OFFSETS:
        data = _copy(view, offset)
        if data is not None:
            return _check(view, header, _parse(view, data, offset), offset)
    raise corrupt(view.file, "neither copy of the region table is valid", REGION_TABLE_OFFSETS[0])


def wrong_copies(view: View) -> list[int]:
    """Return where the copies are that are not valid, or not like the first valid one."""
    copies = [_copy(view, offset) for offset in REGION_TABLE_OFFSETS]
    good = copies[0] or copies[1]
    return [offset for offset, copy in zip(REGION_TABLE_OFFSETS, copies, strict=True) if copy != good]


def _copy(view: View, offset: int) -> bytes | None:
    data = view.read(offset, REGION_TABLE_BYTES)
    return data if data[:4] == b"regi" and is_sealed(data) else None


def _parse(view: View, data: bytes, offset: int) -> list[Region]:
    count = REGION_HEADER.unpack_from(data)[2]
    if count > MAX_REGIONS:
        raise corrupt(view.file, f"{count} regions, at most {MAX_REGIONS} are possible", offset + 8)
    found = []
    for number in range(count):
        at = REGION_HEADER.size + number * REGION_ENTRY.size
        guid, start, length, required = REGION_ENTRY.unpack_from(data, at)
        region = Region(guid, start, length, bool(required & 1))
        if start % MIB or length % MIB or start < MIB or not 0 < length <= view.file_bytes - start:
            raise corrupt(view.file, f"a region of {length} bytes at {start} cannot be", offset + at)
        if region.required and region.guid not in {BAT_REGION, METADATA_REGION}:
            raise corrupt(view.file, f"the required region {guid_text(guid)} is unknown", offset + at)
        found.append(region)
    return found


def _check(view: View, header: Header, found: list[Region], offset: int) -> Regions:
    by_guid = {region.guid: region for region in found}
    if len(by_guid) < len(found):
        raise corrupt(view.file, "two regions have the same GUID", offset)
    if BAT_REGION not in by_guid or METADATA_REGION not in by_guid:
        raise corrupt(view.file, "the BAT or the metadata region is missing", offset)
    if by_guid[METADATA_REGION].length < METADATA_TABLE_BYTES:
        raise corrupt(view.file, "the metadata region is too small for its table", offset)
    reserved = sorted(
        [
            (0, MIB),
            (header.log_offset, header.log_offset + header.log_bytes),
            *((region.offset, region.end) for region in found),
        ]
    )
    for before, after in pairwise(reserved):
        if after[0] < before[1]:
            raise corrupt(view.file, f"two regions overlap at {after[0]}", offset)
    return Regions(tuple(found), by_guid[BAT_REGION], by_guid[METADATA_REGION], tuple(reserved))
