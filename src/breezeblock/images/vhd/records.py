"""The records of a VHD file: footer, dynamic header, parent locators.

Source: Microsoft, "Virtual Hard Disk Image Format Specification" 1.0; what Windows, XenServer and QEMU do
beyond it is said where it matters. Numbers are big-endian. All offsets, lengths and sizes are bytes,
except that BAT entries count 512-byte sectors.
"""

import struct
import zlib
from enum import IntEnum
from functools import cached_property, lru_cache

import msgspec

from breezeblock.images.file import File
from breezeblock.images.layer import WrongBytesError, corrupt

SECTOR = 512
COOKIE = b"conectix"
HEADER_COOKIE = b"cxsparse"
NO_OFFSET = 0xFFFF_FFFF_FFFF_FFFF
EPOCH = 946_684_800
"""2000-01-01 UTC as Unix time: what VHD counts seconds from."""
HEADER_BYTES = 1024
MAX_ENTRIES = 4 * 1_044_480
"""For 2040 GiB in the smallest blocks that are accepted, 512 KiB."""
MAX_VIRTUAL_BYTES = 2040 << 30
"""What the 32-bit sectors of the BAT can address, with all block bitmaps: Hyper-V's and QEMU's limit."""

_FOOTER = struct.Struct(">8sIIQI4sI4sQQHBBII16sBB")
_HEADER = struct.Struct(">8sQQIIII16sII512s")
_LOCATOR = struct.Struct(">4sIIIQ")
_LOCATORS = 8
_KEPT = 1024
"""So many records stay decoded: those of several chains."""


class Type(IntEnum):
    """What kind of VHD it is."""

    FIXED = 2
    DYNAMIC = 3
    DIFFERENCING = 4


_TYPES = frozenset(Type)


class Footer(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """The 512 bytes at the end, and for images with a BAT also at the start."""

    type: Type
    current_bytes: int
    original_bytes: int
    geometry: tuple[int, int, int]
    """Cylinders, heads, sectors per track."""
    unique_id: bytes
    timestamp: int
    creator: bytes
    creator_version: int
    creator_os: bytes
    data_offset: int
    hidden: int = 0
    """XenServer's mark of an internal node of a chain."""
    saved_state: int = 0

    @cached_property
    def identity(self) -> str:
        """The unique id in hex."""
        return self.unique_id.hex()

    @cached_property
    def told(self) -> dict[str, object]:
        """What is told of it to people."""
        return {
            "type": self.type.name.lower(),
            "unique_id": self.identity,
            "creator": self.creator.decode("latin-1").rstrip("\0 "),
            "geometry": "x".join(map(str, self.geometry)),
            "hidden": bool(self.hidden),
        }

    def pack(self) -> bytes:
        """Return the 512 bytes."""
        raw = _FOOTER.pack(
            COOKIE,
            2,
            0x0001_0000,
            self.data_offset,
            self.timestamp,
            self.creator,
            self.creator_version,
            self.creator_os,
            self.original_bytes,
            self.current_bytes,
            *self.geometry,
            self.type,
            0,
            self.unique_id,
            self.saved_state,
            self.hidden,
        ).ljust(SECTOR, b"\0")
        return raw[:64] + struct.pack(">I", checksum(raw)) + raw[68:]


class Locator(msgspec.Struct, frozen=True):
    """Where one form of the parent's path lies."""

    code: bytes
    space: int
    """Reserved for it."""
    length: int
    """Used of that."""
    offset: int


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """The 1,024 bytes behind the first footer of an image with a BAT."""

    bat_offset: int
    entries: int
    block_bytes: int
    parent_id: bytes = bytes(16)
    parent_timestamp: int = 0
    parent_name: str = ""
    locators: tuple[Locator, ...] = ()

    def pack(self) -> bytes:
        """Return the 1,024 bytes."""
        raw = _HEADER.pack(
            HEADER_COOKIE,
            NO_OFFSET,
            self.bat_offset,
            0x0001_0000,
            self.entries,
            self.block_bytes,
            0,
            self.parent_id,
            self.parent_timestamp,
            0,
            self.parent_name.encode("utf-16-be", "surrogatepass")[:510],
        )
        for one in self.locators:
            raw += _LOCATOR.pack(one.code, one.space, one.length, 0, one.offset)
        raw = raw.ljust(HEADER_BYTES, b"\0")
        return raw[:36] + struct.pack(">I", checksum(raw)) + raw[40:]


def checksum(raw: bytes, field: int | None = None) -> int:
    """Return the one's complement of the sum of all bytes; those at `field` count as 0."""
    # The low half of Adler-32 is the sum modulo 65521, more than 256 bytes can add up to; sum() is slow.
    parts = (zlib.adler32(raw[at : at + 256], 0) & 0xFFFF for at in range(0, len(raw), 256))
    return ~(sum(parts) - (sum(raw[field : field + 4]) if field else 0)) & 0xFFFF_FFFF


def parse_footer(file: File, raw: bytes, offset: int) -> Footer:
    """Check and read a footer that was found at `offset`. Raises CorruptError."""
    try:
        return footer_of(raw)
    except WrongBytesError as error:
        raise error.of(file, offset) from None


@lru_cache(_KEPT)
def footer_of(raw: bytes) -> Footer:
    """Check and read a footer. Raises WrongBytesError."""
    if len(raw) < SECTOR or raw[:8] != COOKIE:
        poisoned = raw[:8] == b"v_poison"
        what = "the image was disabled by XenServer" if poisoned else "there is no VHD footer"
        raise WrongBytesError(what, 0)
    (
        _cookie,
        _features,
        version,
        data_offset,
        timestamp,
        creator,
        creator_version,
        creator_os,
        original_bytes,
        current_bytes,
        cylinders,
        heads,
        per_track,
        kind,
        stored,
        unique_id,
        saved_state,
        hidden,
    ) = _FOOTER.unpack_from(raw)
    if checksum(raw, 64) != stored:
        raise WrongBytesError("the footer's checksum is wrong", 64)
    if version >> 16 != 1:
        raise WrongBytesError(f"VHD version {version:#x} is unknown", 12)
    if kind not in _TYPES:
        raise WrongBytesError(f"VHD type {kind} is none of 2, 3, 4", 60)
    if current_bytes % SECTOR or not 0 < current_bytes <= MAX_VIRTUAL_BYTES:
        raise WrongBytesError(f"{current_bytes} virtual bytes are impossible", 48)
    return Footer(
        type=Type(kind),
        current_bytes=current_bytes,
        original_bytes=original_bytes,
        geometry=(cylinders, heads, per_track),
        unique_id=unique_id,
        timestamp=timestamp,
        creator=creator,
        creator_version=creator_version,
        creator_os=creator_os,
        data_offset=data_offset,
        hidden=hidden,
        saved_state=saved_state,
    )


def parse_header(file: File, footer: Footer, file_bytes: int, head: bytes = b"") -> Header:
    """Check and read the dynamic header that the footer points to. Raises CorruptError.

    `head`: the file's first bytes, as far as they were read already.
    """
    at = footer.data_offset
    if at % SECTOR or not SECTOR <= at <= file_bytes - HEADER_BYTES:
        raise corrupt(file, f"the dynamic header at {at} is not inside the file", 16)
    end = at + HEADER_BYTES
    raw = head[at:end] if end <= len(head) else file.read(at, HEADER_BYTES)
    try:
        header = _header_of(raw)
    except WrongBytesError as error:
        raise error.of(file, at) from None
    needed = -(-footer.current_bytes // header.block_bytes)
    if not needed <= header.entries <= MAX_ENTRIES:
        raise corrupt(file, f"{header.entries} BAT entries, but {needed} blocks", at + 28)
    bat_offset = header.bat_offset
    if bat_offset % SECTOR or not SECTOR <= bat_offset <= file_bytes - header.entries * 4:
        raise corrupt(file, f"the BAT at {bat_offset} is not inside the file", at + 16)
    return header


@lru_cache(_KEPT)
def _header_of(raw: bytes) -> Header:
    (
        cookie,
        _next,
        bat_offset,
        version,
        entries,
        block_bytes,
        stored,
        *_rest,
    ) = _HEADER.unpack_from(raw)
    if cookie != HEADER_COOKIE:
        raise WrongBytesError("there is no dynamic header", 0)
    if checksum(raw, 36) != stored:
        raise WrongBytesError("the dynamic header's checksum is wrong", 36)
    if version >> 16 != 1:
        raise WrongBytesError(f"header version {version:#x} is unknown", 24)
    if block_bytes & (block_bytes - 1) or not 512 << 10 <= block_bytes <= 256 << 20:
        raise WrongBytesError(f"blocks of {block_bytes} bytes are impossible", 32)
    return Header(
        bat_offset=bat_offset,
        entries=entries,
        block_bytes=block_bytes,
        parent_id=raw[40:56],
        parent_timestamp=int.from_bytes(raw[56:60], "big"),
        parent_name=raw[64:576].decode("utf-16-be", "surrogatepass").partition("\0")[0],
        locators=tuple(_locators(raw)),
    )


def _locators(raw: bytes) -> list[Locator]:
    found = []
    for index in range(_LOCATORS):
        code, space, length, _reserved, offset = _LOCATOR.unpack_from(raw, 576 + index * _LOCATOR.size)
        if code != bytes(4):
            # By the specification `space` counts sectors; Windows, XenServer and VirtualBox write bytes.
            found.append(Locator(code, space if space >= SECTOR else space * SECTOR, length, offset))
    return found


def geometry(virtual_bytes: int) -> tuple[int, int, int]:
    """Return cylinders, heads and sectors per track, by the specification's appendix."""
    sectors = min(virtual_bytes // SECTOR, 65535 * 16 * 255)
    if sectors >= 65535 * 16 * 63:
        return sectors // 255 // 16, 16, 255
    per_track, rows = 17, sectors // 17
    heads = max(4, -(-rows // 1024))
    if rows >= heads * 1024 or heads > 16:
        per_track, heads, rows = 31, 16, sectors // 31
    if rows >= heads * 1024:
        per_track, heads, rows = 63, 16, sectors // 63
    return rows // heads, heads, per_track
