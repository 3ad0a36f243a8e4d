"""The metadata region: what kind of disk the file holds ([MS-VHDX] 2.6)."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from struct import Struct
from uuid import UUID

import msgspec

from breezeblock.images.layer import Parent, WrongBytesError, corrupt
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
_KEPT_BYTES = 2048
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


class Metadata(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """What the known items say, checked."""

    virtual_bytes: int
    block_bytes: int
    fixed: bool
    logical_sector: int
    physical_sector: int
    disk_id: UUID
    locator: Locator | None
    items: tuple[Item, ...] = ()

    @cached_property
    def parent(self) -> Parent | None:
        """What the parent locator says."""
        return Parent(self.locator.paths, str(self.locator.linkage), "vhdx") if self.locator else None

    @cached_property
    def told(self) -> dict[str, object]:
        """What is told of it to people."""
        return {
            "kind": "differencing" if self.locator else "fixed" if self.fixed else "dynamic",
            "block_bytes": self.block_bytes,
            "logical_sector_bytes": self.logical_sector,
            "physical_sector_bytes": self.physical_sector,
            "disk_id": str(self.disk_id),
        }


def read(view: View, region: Region) -> Metadata:
    """Read the table and the known items. Raises CorruptError."""
    entries = _read_entries(view, region)
    # Large ones are not kept: a file from outside may have them, and many such files may come.
    small = len(entries) <= _KEPT_BYTES
    try:
        table = (_table if small else _table.__wrapped__)(entries, region.length)
        if not table.slices:
            return _decode(
                table, [view.read(region.offset + item.offset, item.length) for item in table.known]
            )
        data = view.read(region.offset + table.start, table.length)
        return (_metadata if small and table.length <= _KEPT_BYTES else _metadata.__wrapped__)(table, data)
    except WrongBytesError as error:
        raise error.of(view.file, region.offset) from None


def _read_entries(view: View, region: Region) -> bytes:
    data = view.read(region.offset, PAGE)
    signature, _, count, _ = METADATA_HEADER.unpack_from(data)
    if signature != b"metadata":
        raise corrupt(view.file, "the metadata table has no signature", region.offset)
    if count > MAX_ITEMS:
        problem = f"{count} metadata items, at most {MAX_ITEMS} are possible"
        raise corrupt(view.file, problem, region.offset + 10)
    used = METADATA_HEADER.size + count * METADATA_ENTRY.size
    if used > PAGE:
        data = view.read(region.offset, METADATA_TABLE_BYTES)
    return data[METADATA_HEADER.size : used]


@lru_cache(1024)
def _metadata(table: "_Table", data: bytes) -> Metadata:
    """Decode the known items, which were read together. Raises WrongBytesError."""
    return _decode(table, [data[part] for part in table.slices])


def _decode(table: "_Table", contents: list[bytes]) -> Metadata:
    """Decode the known items' contents. Raises WrongBytesError."""
    values = dict(zip((item.guid for item in table.known), contents, strict=True))
    at = {item.guid: item.offset for item in table.known}
    block_bytes, flags = _PARAMETERS.unpack(values[FILE_PARAMETERS])
    (virtual_bytes,) = _SIZE.unpack(values[VIRTUAL_DISK_SIZE])
    logical, physical = (_SECTOR.unpack(values[guid])[0] for guid in (LOGICAL_SECTOR, PHYSICAL_SECTOR))
    if not MIN_BLOCK_BYTES <= block_bytes <= MAX_BLOCK_BYTES or block_bytes & (block_bytes - 1):
        raise WrongBytesError(f"blocks of {block_bytes} bytes cannot be", at[FILE_PARAMETERS])
    for guid, sector in ((LOGICAL_SECTOR, logical), (PHYSICAL_SECTOR, physical)):
        if sector not in SECTOR_SIZES:
            raise WrongBytesError(f"sectors of {sector} bytes cannot be", at[guid])
    if not 0 < virtual_bytes <= MAX_VIRTUAL_BYTES or virtual_bytes % logical:
        raise WrongBytesError(f"a disk of {virtual_bytes} bytes cannot be", at[VIRTUAL_DISK_SIZE])
    return Metadata(
        virtual_bytes=virtual_bytes,
        block_bytes=block_bytes,
        fixed=bool(flags & LEAVE_ALLOCATED),
        logical_sector=logical,
        physical_sector=physical,
        disk_id=UUID(bytes_le=values[VIRTUAL_DISK_ID]),
        locator=_locator(values, at) if flags & HAS_PARENT else None,
        items=table.items,
    )


def _locator(values: dict[bytes, bytes], at: dict[bytes, int]) -> Locator:
    if PARENT_LOCATOR not in values:
        raise WrongBytesError("there is a parent, but no parent locator", 0)
    try:
        return locators.parse(values[PARENT_LOCATOR])
    except WrongBytesError as error:
        raise WrongBytesError(error.problem, at[PARENT_LOCATOR] + error.at) from None


@dataclass(frozen=True, slots=True, eq=False)
class _Table:
    """One and the same for the same bytes, so that it is known again without a look into it."""

    items: tuple[Item, ...]
    known: tuple[Item, ...]
    start: int
    length: int
    """Where all known items are."""
    slices: tuple[slice, ...]
    """Where each is in that; empty if they lie too far from each other to be read at once."""


@lru_cache(256)
def _table(entries: bytes, region_bytes: int) -> _Table:
    """Decode the table's entries. Raises WrongBytesError."""
    items = []
    for number, (guid, offset, length, flags, _) in enumerate(METADATA_ENTRY.iter_unpack(entries)):
        at = METADATA_HEADER.size + number * METADATA_ENTRY.size
        empty = offset == length == 0
        inside = METADATA_TABLE_BYTES <= offset <= region_bytes - length and 0 < length <= MAX_ITEM_BYTES
        if not empty and not inside:
            raise WrongBytesError(f"a metadata item of {length} bytes at {offset} cannot be", at)
        if flags & REQUIRED and guid not in _KNOWN:
            raise WrongBytesError(f"the required metadata item {guid_text(guid)} is unknown", at)
        items.append(Item(guid, offset, length, flags))
    found = {item.guid: item for item in items}
    if len(found) < len(items):
        raise WrongBytesError("a metadata item is there twice", 0)
    spans = sorted((item.offset, item.offset + item.length) for item in items if item.length)
    for before, after in pairwise(spans):
        if after[0] < before[1]:
            raise WrongBytesError(f"two metadata items overlap at {after[0]}", after[0])
    if INCOMPLETE_FILE in found:
        raise WrongBytesError("its creation was never finished", 0)
    _require_all(found)
    known = tuple(found[guid] for guid in (*_LENGTHS, PARENT_LOCATOR) if guid in found)
    start, end = min(item.offset for item in known), max(item.offset + item.length for item in known)
    slices = (slice(item.offset - start, item.offset - start + item.length) for item in known)
    return _Table(tuple(items), known, start, end - start, tuple(slices) if end - start <= PAGE else ())


def _require_all(found: dict[bytes, Item]) -> None:
    """See that the items are there that every image has."""
    for guid, length in _LENGTHS.items():
        item = found.get(guid)
        if item is None:
            raise WrongBytesError(f"the metadata item {guid_text(guid)} is missing", 0)
        if item.length != length:
            problem = f"the metadata item {guid_text(guid)} has {item.length} bytes, not {length}"
            raise WrongBytesError(problem, item.offset)


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
    """Return the table as far as it is used; zeros follow."""
    entries = [METADATA_ENTRY.pack(one.guid, one.offset, one.length, one.flags, 0) for one in items]
    return METADATA_HEADER.pack(b"metadata", 0, len(entries), bytes(20)) + b"".join(entries)


def encode(metadata: Metadata) -> list[tuple[int, bytes]]:
    """Return what is not zero in a new region, and where: the table and the items."""
    items, contents = [], bytearray()
    for guid, value in values(metadata).items():
        flags = _FLAGS.get(guid, REQUIRED | VIRTUAL_DISK)
        items.append(Item(guid, METADATA_TABLE_BYTES + len(contents), len(value), flags))
        contents += value.ljust(round_up(len(value), 8), b"\0")
    return [(0, encode_table(items)), (METADATA_TABLE_BYTES, bytes(contents))]


def room(region: Region, items: Iterable[Item], length: int) -> int | None:
    """Return where in the region an item of that length fits beside the others; None if nowhere."""
    at = METADATA_TABLE_BYTES
    for item in sorted((item for item in items if item.length), key=lambda item: item.offset):
        if item.offset - at >= length:
            return at
        at = max(at, round_up(item.offset + item.length, 8))
    return at if region.length - at >= length else None
