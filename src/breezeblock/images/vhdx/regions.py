"""The region table: where the block allocation table and the metadata are ([MS-VHDX] 2.2.3)."""

from functools import lru_cache
from itertools import pairwise

import msgspec

from breezeblock.images.layer import WrongBytesError, corrupt
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

_HEAD_BYTES = 256


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
    data = REGION_HEADER.pack(b"regi", 0, len(regions), 0)
    for region in regions:
        data += REGION_ENTRY.pack(region.guid, region.offset, region.length, int(region.required))
    return seal(data.ljust(REGION_TABLE_BYTES, b"\0"))


def read(view: View, header: Header) -> Regions:
    """Read the first copy that is valid. Raises CorruptError."""
    for offset in REGION_TABLE_OFFSETS:
        # Few entries and zeros are what all files have. Where the checksum is right for that, the entries are
        # what was written, and the other 64 KiB need not be read; `check` looks at those.
        head = view.read(offset, _HEAD_BYTES)
        try:
            if _is_all(head):
                found = _regions(head, header.log_offset, header.log_bytes)
            elif data := _copy(view, offset):
                # Large ones are not kept: a file from outside may have one, and many such files may come.
                found = _regions.__wrapped__(data, header.log_offset, header.log_bytes)
            else:
                continue
            if found.reserved[-1][1] > view.file_bytes:
                _refuse_outside(found, view.file_bytes)
        except WrongBytesError as error:
            raise error.of(view.file, offset) from None
        return found
    raise corrupt(view.file, "neither copy of the region table is valid", REGION_TABLE_OFFSETS[0])


def wrong_copies(view: View) -> list[int]:
    """Return where the copies are that are not valid, or not like the first valid one."""
    copies = [_copy(view, offset) for offset in REGION_TABLE_OFFSETS]
    good = copies[0] or copies[1]
    return [offset for offset, copy in zip(REGION_TABLE_OFFSETS, copies, strict=True) if copy != good]


@lru_cache(64)
def _is_all(head: bytes) -> bool:
    """Tell whether a table has its entries in its first bytes, and by its checksum zeros behind them."""
    count: int = REGION_HEADER.unpack_from(head)[2]
    fits = REGION_HEADER.size + count * REGION_ENTRY.size <= len(head)
    return fits and head[:4] == b"regi" and is_sealed(head.ljust(REGION_TABLE_BYTES, b"\0"))


def _copy(view: View, offset: int) -> bytes | None:
    data = view.read(offset, REGION_TABLE_BYTES)
    return data if data[:4] == b"regi" and is_sealed(data) else None


@lru_cache(1024)
def _regions(data: bytes, log_offset: int, log_bytes: int) -> Regions:
    """Decode a table's header and entries, of a file with a log there. Raises WrongBytesError."""
    count = REGION_HEADER.unpack_from(data)[2]
    if count > MAX_REGIONS:
        raise WrongBytesError(f"{count} regions, at most {MAX_REGIONS} are possible", 8)
    return _check(_parse(data, count), log_offset, log_bytes)


def _refuse_outside(found: Regions, file_bytes: int) -> None:
    for number, region in enumerate(found.all):
        if region.end > file_bytes:
            raise _impossible(region, REGION_HEADER.size + number * REGION_ENTRY.size)


def _impossible(region: Region, at: int) -> WrongBytesError:
    return WrongBytesError(f"a region of {region.length} bytes at {region.offset} cannot be", at)


def _parse(data: bytes, count: int) -> list[Region]:
    found = []
    for number in range(count):
        at = REGION_HEADER.size + number * REGION_ENTRY.size
        guid, start, length, required = REGION_ENTRY.unpack_from(data, at)
        region = Region(guid, start, length, bool(required & 1))
        if start % MIB or length % MIB or start < MIB or not length:
            raise _impossible(region, at)
        if region.required and region.guid not in {BAT_REGION, METADATA_REGION}:
            raise WrongBytesError(f"the required region {guid_text(guid)} is unknown", at)
        found.append(region)
    return found


def _check(found: list[Region], log_offset: int, log_bytes: int) -> Regions:
    by_guid = {region.guid: region for region in found}
    if len(by_guid) < len(found):
        raise WrongBytesError("two regions have the same GUID", 0)
    if BAT_REGION not in by_guid or METADATA_REGION not in by_guid:
        raise WrongBytesError("the BAT or the metadata region is missing", 0)
    if by_guid[METADATA_REGION].length < METADATA_TABLE_BYTES:
        raise WrongBytesError("the metadata region is too small for its table", 0)
    reserved = sorted(
        [
            (0, MIB),
            (log_offset, log_offset + log_bytes),
            *((region.offset, region.end) for region in found),
        ]
    )
    for before, after in pairwise(reserved):
        if after[0] < before[1]:
            raise WrongBytesError(f"two regions overlap at {after[0]}", 0)
    return Regions(tuple(found), by_guid[BAT_REGION], by_guid[METADATA_REGION], tuple(reserved))
