"""XenServer's batmap: one bit per block that says "all its sectors are here", to save reading bitmaps.

It stands right behind the padded BAT of images tagged `tap`, which from version 1.2 on must have one. A
bit that is 0 only means "look at the bitmap", so this writer leaves them 0: then there is nothing to
keep in step, and no write order to go wrong.
"""

import struct
from dataclasses import dataclass

from breezeblock.images.file import File
from breezeblock.images.layer import corrupt
from breezeblock.images.vhd.records import SECTOR, Footer, Header, checksum
from breezeblock.images.vhd.table import padded

CREATOR = b"tap\0"
CREATOR_VERSION = 0x0001_0003
_COOKIE = b"tdbatmap"
_HEADER = struct.Struct(">8sQIII")
_VERSION = 0x0001_0002


@dataclass(frozen=True, slots=True)
class Batmap:
    """A batmap that was found."""

    offset: int
    """Of its header."""
    map_offset: int
    map: bytes
    intact: bool
    """Its checksum is right."""


def expected(footer: Footer) -> bool:
    """Tell whether the image must have one."""
    return footer.creator == CREATOR and footer.creator_version >= _VERSION


def read(file: File, header: Header) -> Batmap | None:
    """Read it; None where there is none. Raises CorruptError for an impossible one."""
    at = header.bat_offset + padded(header.entries)
    raw = file.peek(at, SECTOR)
    if raw[:8] != _COOKIE or len(raw) < _HEADER.size:
        return None
    _cookie, offset, sectors, _version, stored = _HEADER.unpack_from(raw)
    needed = padded_map(header.entries)
    if sectors * SECTOR < needed or offset % SECTOR or offset + needed > file.size():
        raise corrupt(file, f"a batmap of {sectors} sectors at {offset} is impossible", at)
    data = file.read(offset, needed)
    return Batmap(at, offset, data, checksum(data) == stored)


def pack(entries: int, at: int) -> bytes:
    """Return header and map without any bit set, to stand at `at`."""
    data = bytes(padded_map(entries))
    header = _HEADER.pack(_COOKIE, at + SECTOR, len(data) // SECTOR, _VERSION, checksum(data))
    return header.ljust(SECTOR, b"\0") + data


def padded_map(entries: int) -> int:
    """Return the bytes of the map: whole sectors."""
    return -(-entries // (8 * SECTOR)) * SECTOR
