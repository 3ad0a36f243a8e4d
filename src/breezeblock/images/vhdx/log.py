"""The log: finding what a stopped writer left to be done, and writing entries ([MS-VHDX] 2.3).

The log is a ring of 4 KiB sectors holding entries. Each entry names the oldest entry that must be
replayed together with it (its tail). The newest entry from which an unbroken line leads back to its tail
tells what to replay; one that was torn has a wrong checksum and does not count.
"""

from dataclasses import dataclass
from itertools import count
from uuid import UUID

from breezeblock.images.file import File
from breezeblock.images.layer import corrupt
from breezeblock.images.vhdx.header import Header
from breezeblock.images.vhdx.layout import (
    DESCRIPTOR_BYTES,
    LOG_DATA,
    LOG_ENTRY,
    LOG_SECTOR,
    LOG_ZERO,
    MAX_FILE_BYTES,
    MIB,
    NIL,
    PAGE,
    REGION_TABLE_OFFSETS,
    is_sealed,
    round_up,
    seal,
)
from breezeblock.images.vhdx.view import Replay, Zeros

MAX_REPLAY_BYTES = 32 * MIB
"""Longer logs are refused while they have something to replay; writers use 1 MiB."""
_MAX_ZEROS = 4096
_READ, _WALKED = 4, 64
"""How often the log's length may be read, and its entries walked, before it counts as made to stall us."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A valid log entry."""

    at: int
    """Where in the log, in bytes from its start."""
    length: int
    tail: int
    sequence: int
    descriptors: int
    flushed: int
    last: int


def replay(file: File, header: Header) -> Replay | None:
    """Return what must still be written; None if the log is empty. Raises CorruptError."""
    if header.log == NIL:
        return None
    if header.log_bytes > MAX_REPLAY_BYTES:
        problem = f"the log to replay has {header.log_bytes} bytes, at most {MAX_REPLAY_BYTES} are taken"
        raise corrupt(file, problem, header.log_offset)
    ring = file.read(header.log_offset, header.log_bytes)
    sequence = _active(file, header, ring)
    head = sequence[-1]
    if file.size() < head.flushed:
        raise corrupt(file, f"the file was cut short: its log knows of {head.flushed} bytes", file.size())
    if head.last > MAX_FILE_BYTES:
        raise corrupt(file, f"the log wants a file of {head.last} bytes", header.log_offset + head.at)
    result = Replay(max(file.size(), round_up(head.last, MIB)))
    order = count()
    for entry in sequence:
        _collect(file, header, ring, entry, result, order)
    return result


def _active(file: File, header: Header, ring: bytes) -> list[Entry]:
    """Return the entries to replay, oldest first."""
    entries = _entries(file, header, ring)
    steps = _WALKED * len(entries) + 1
    for head in sorted(entries.values(), key=lambda entry: entry.sequence, reverse=True):
        line = []
        entry = entries.get(head.tail)
        while entry and steps > 0:
            steps -= 1
            line.append(entry)
            if entry is head:
                return line
            following = entries.get((entry.at + entry.length) % len(ring))
            entry = following if following and following.sequence == entry.sequence + 1 else None
    raise corrupt(file, "the log must be replayed, but holds no unbroken line of entries", header.log_offset)


def _entries(file: File, header: Header, ring: bytes) -> dict[int, Entry]:
    entries = {}
    budget = _READ * len(ring)
    for at in range(0, len(ring), PAGE):
        if ring[at : at + 4] != b"loge":
            continue
        _, _, length, tail, sequence, descriptors, _, guid, flushed, last = LOG_ENTRY.unpack_from(ring, at)
        plausible = PAGE <= length <= len(ring) and length % PAGE == 0 and tail % PAGE == 0 and sequence > 0
        if guid != header.log.bytes_le or not plausible or descriptors * DESCRIPTOR_BYTES > length:
            continue
        budget -= length
        if budget < 0:
            raise corrupt(file, "the log's entries overlap each other", header.log_offset + at)
        if is_sealed(_cut(ring, at, length)):
            entries[at] = Entry(at, length, tail, sequence, descriptors, flushed, last)
    return entries


def _cut(ring: bytes, at: int, length: int) -> bytes:
    data = ring[at : at + length]
    return data if len(data) == length else data + ring[: length - len(data)]


def _collect(
    file: File, header: Header, ring: bytes, entry: Entry, result: Replay, order: "count[int]"
) -> None:
    """Add what one entry writes; a descriptor or data sector that is not the entry's own is refused."""
    data = _cut(ring, entry.at, entry.length)
    where = header.log_offset + entry.at
    sector = round_up(LOG_ENTRY.size + entry.descriptors * DESCRIPTOR_BYTES, PAGE)
    for number in range(entry.descriptors):
        at = LOG_ENTRY.size + number * DESCRIPTOR_BYTES
        signature = data[at : at + 4]
        if signature == b"zero":
            _, _, length, offset, sequence = LOG_ZERO.unpack_from(data, at)
            _check_target(file, header, offset, length, result, where)
            result.zeros.append(Zeros(next(order), offset, offset + length))
        elif signature == b"desc" and sector + PAGE <= entry.length:
            _, trailing, leading, offset, sequence = LOG_DATA.unpack_from(data, at)
            _check_target(file, header, offset, PAGE, result, where)
            mark, high, content, low = LOG_SECTOR.unpack_from(data, sector)
            if mark != b"data" or high << 32 | low != entry.sequence:
                raise corrupt(file, f"a log entry's data sector {sector // PAGE} is another's", where)
            result.pages[offset] = (next(order), leading + content + trailing)
            sector += PAGE
        else:
            raise corrupt(file, f"a log entry's descriptor {number} is none", where)
        if sequence != entry.sequence or len(result.zeros) > _MAX_ZEROS:
            raise corrupt(file, f"a log entry's descriptor {number} is another's", where)


def _check_target(file: File, header: Header, offset: int, length: int, result: Replay, where: int) -> None:
    """Refuse to write over the headers or the log itself, or outside the file."""
    end = offset + length
    in_log = offset < header.log_offset + header.log_bytes and header.log_offset < end
    outside = offset < REGION_TABLE_OFFSETS[0] or end > result.file_bytes
    if offset % PAGE or length % PAGE or in_log or outside:
        raise corrupt(file, f"a log entry writes {length} bytes at {offset}", where)


MAX_PAGES = (PAGE - LOG_ENTRY.size) // DESCRIPTOR_BYTES
"""How many pages an entry of ours holds: QEMU (7.2) cannot replay one with a second descriptor sector."""


def build(pages: dict[int, bytes], guid: UUID, file_bytes: int) -> bytes:
    """Return the only entry of a log with that GUID, to be written at the log's start."""
    sequence = 1
    front = bytearray(round_up(LOG_ENTRY.size + len(pages) * DESCRIPTOR_BYTES, PAGE))
    length = len(front) + len(pages) * PAGE
    LOG_ENTRY.pack_into(
        front, 0, b"loge", 0, length, 0, sequence, len(pages), 0, guid.bytes_le, file_bytes, file_bytes
    )
    sectors = bytearray()
    for number, (offset, page) in enumerate(sorted(pages.items())):
        at = LOG_ENTRY.size + number * DESCRIPTOR_BYTES
        LOG_DATA.pack_into(front, at, b"desc", page[-4:], page[:8], offset, sequence)
        sectors += LOG_SECTOR.pack(b"data", sequence >> 32, page[8:-4], sequence & 0xFFFF_FFFF)
    return seal(front + sectors)
