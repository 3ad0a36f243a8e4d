"""Where things lie in a VHDX file and how they are encoded: the tables of [MS-VHDX] section 2.

All numbers are little-endian, GUIDs mixed-endian (`UUID.bytes_le`), checksums CRC-32C over the whole
structure with the checksum's own four bytes (at byte 4) taken as zero. All sizes are bytes.
"""

from enum import IntEnum
from struct import Struct
from uuid import UUID

import google_crc32c


def _guid(text: str) -> bytes:
    return UUID(text).bytes_le


def guid_text(raw: bytes) -> str:
    """Return how people write an encoded GUID."""
    return str(UUID(bytes_le=raw))


KIB, MIB, TIB = 1 << 10, 1 << 20, 1 << 40
NIL = UUID(int=0)
PAGE = 4096
"""The unit of the log ([MS-VHDX] 2.3)."""

# --- the first MiB (2.2) ---------------------------------------------------------------------------
SIGNATURE = b"vhdxfile"
CREATOR_OFFSET, CREATOR_BYTES = 8, 512
HEADER_OFFSETS = (64 * KIB, 128 * KIB)
HEADER_BYTES = 4 * KIB
REGION_TABLE_OFFSETS = (192 * KIB, 256 * KIB)
REGION_TABLE_BYTES = 64 * KIB

HEADER = Struct("<4sIQ16s16s16sHHIQ")
"""head, checksum, sequence, file, data and log GUID, log version, version, log length and offset."""
REGION_HEADER = Struct("<4sIII")
"""regi, checksum, entry count, reserved."""
REGION_ENTRY = Struct("<16sQII")
"""guid, offset, length, required."""
MAX_REGIONS = 2047
BAT_REGION = _guid("2dc27766-f623-4200-9d64-115e9bfd4a08")
METADATA_REGION = _guid("8b7ca206-4790-4b9a-b8fe-575f050f886e")

# --- the log (2.3) ---------------------------------------------------------------------------------
LOG_ENTRY = Struct("<4sIIIQII16sQQ")
"""loge, checksum, length, tail, sequence, descriptors, reserved, log GUID, flushed and last offset."""
LOG_ZERO = Struct("<4sIQQQ")
"""zero, reserved, length, file offset, sequence."""
LOG_DATA = Struct("<4s4s8sQQ")
"""desc, trailing bytes, leading bytes, file offset, sequence."""
LOG_SECTOR = Struct("<4sI4084sI")
"""data, high half of the sequence, bytes, low half."""
DESCRIPTOR_BYTES = 32

# --- the block allocation table (2.5) --------------------------------------------------------------
OFFSET_MASK = 0xFFFF_FFFF_FFF0_0000
STATE_MASK = 7
SECTORS_PER_CHUNK = 1 << 23
"""One sector bitmap block of 1 MiB has a bit for each."""


class State(IntEnum):
    """What a BAT entry says of its block (2.5.1.1)."""

    NOT_PRESENT = 0
    UNDEFINED = 1
    ZERO = 2
    UNMAPPED = 3
    FULL = 6
    PARTIAL = 7


# --- metadata (2.6) --------------------------------------------------------------------------------
METADATA_HEADER = Struct("<8sHH20s")
"""metadata, reserved, entry count, reserved."""
METADATA_ENTRY = Struct("<16sIIII")
"""guid, offset in the region, length, flags, reserved."""
METADATA_TABLE_BYTES = 64 * KIB
MAX_ITEMS = 2047
MAX_ITEM_BYTES = MIB
USER, VIRTUAL_DISK, REQUIRED = 1, 2, 4

FILE_PARAMETERS = _guid("caa16737-fa36-4d43-b3b6-33f0aa44e76b")
VIRTUAL_DISK_SIZE = _guid("2fa54224-cd1b-4876-b211-5dbed83bf4b8")
VIRTUAL_DISK_ID = _guid("beca12ab-b2e6-4523-93ef-c309e000c746")
LOGICAL_SECTOR = _guid("8141bf1d-a96f-4709-ba47-f233a8faab5f")
PHYSICAL_SECTOR = _guid("cda348c7-445d-4471-9cc9-e9885251c556")
PARENT_LOCATOR = _guid("a8d35f2d-b30b-454d-abf7-d3d84834ab0c")
INCOMPLETE_FILE = _guid("71cc85f0-1b69-4e28-9558-c3bf83ae75d3")
"""Not in the specification: Windows marks a file so until its creation is finished."""

LOCATOR_HEADER = Struct("<16sHH")
"""type, reserved, pair count."""
LOCATOR_ENTRY = Struct("<IIHH")
"""key offset, value offset, key length, value length."""
LOCATOR_TYPE = _guid("b04aefb7-d19e-4a81-b789-25b8e9445913")
MAX_PAIRS = 256

MAX_VIRTUAL_BYTES = 64 * TIB
MAX_FILE_BYTES = 72 * TIB
"""More than a full image of the largest size takes with its bitmaps and tables."""
MIN_BLOCK_BYTES, MAX_BLOCK_BYTES = MIB, 256 * MIB
SECTOR_SIZES = (512, 4096)


_NO_CHECKSUM = bytes(4)


def checksum(data: bytes) -> int:
    """Return the CRC-32C of a structure whose checksum field is at byte 4."""
    crc: int = google_crc32c.value(data[:4] + _NO_CHECKSUM + data[8:])
    return crc


def seal(data: bytes | bytearray) -> bytes:
    """Fill in the checksum of a finished structure."""
    raw = bytes(data)
    return raw[:4] + checksum(raw).to_bytes(4, "little") + raw[8:]


def is_sealed(data: bytes) -> bool:
    """Tell whether the checksum is right."""
    return len(data) >= 8 and data[4:8] == checksum(data).to_bytes(4, "little")


def round_up(value: int, unit: int) -> int:
    """Return the next multiple of `unit`."""
    return -(-value // unit) * unit
