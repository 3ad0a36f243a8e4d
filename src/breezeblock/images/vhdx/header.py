"""The two headers: which one is current, and how they are replaced ([MS-VHDX] 2.2.2).

A header is written over the one that is not current, and flushed, so that one valid header exists at any
time; then the same again, so that both slots know of a log that must be replayed.
"""

from functools import cached_property, lru_cache
from struct import Struct
from uuid import UUID, uuid4

import msgspec
from msgspec.structs import replace

from breezeblock.images.file import File
from breezeblock.images.layer import WrongBytesError, corrupt
from breezeblock.images.vhdx.layout import (
    HEADER,
    HEADER_BYTES,
    HEADER_OFFSETS,
    MIB,
    NIL,
    SIGNATURE,
    checksum,
    seal,
)

_MAX_SEQUENCE = 1 << 63
_FRONT = Struct("<4sIQ")
"""head, checksum, sequence."""


class Header(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """What the current header says."""

    slot: int
    """Which of the two places it is in."""
    sequence: int
    file_write: UUID
    """Changes when the file does."""
    data_write: UUID
    """Changes when what the disk reads as does: children know their parent by it."""
    log: UUID
    """Which log entries are to be replayed; nil = none."""
    log_offset: int
    log_bytes: int
    other_is_valid: bool = True
    """The slot that is not current holds a valid header, too."""

    @cached_property
    def identity(self) -> str:
        """The DataWriteGuid as people write it."""
        return str(self.data_write)

    def encode(self) -> bytes:
        """Return the 4 KiB to write."""
        guids = (self.file_write.bytes_le, self.data_write.bytes_le, self.log.bytes_le)
        fields = HEADER.pack(b"head", 0, self.sequence, *guids, 0, 1, self.log_bytes, self.log_offset)
        return seal(fields.ljust(HEADER_BYTES, b"\0"))


def read(file: File, file_bytes: int) -> Header:
    """Return the current header. Raises CorruptError."""
    if file.peek(0, len(SIGNATURE)) != SIGNATURE:
        raise corrupt(file, "there is no VHDX signature", 0)
    one, other = file.peek(HEADER_OFFSETS[0], HEADER_BYTES), file.peek(HEADER_OFFSETS[1], HEADER_BYTES)
    first, second = _sequence(one), _sequence(other)
    if first == second:
        if first < 0:
            raise corrupt(file, "neither of the two headers is valid", HEADER_OFFSETS[0])
        if one != other:
            raise corrupt(file, f"both headers say {first}, but differ", HEADER_OFFSETS[1])
    slot = 0 if first >= second else 1
    try:
        current = _parse((other if slot else one)[: HEADER.size], slot, min(first, second) >= 0)
    except WrongBytesError as error:
        raise error.of(file, HEADER_OFFSETS[slot]) from None
    _check(file, current, file_bytes)
    return current


def _sequence(data: bytes) -> int:
    """Return a header's sequence number, -1 for one that is not valid."""
    if len(data) < HEADER_BYTES:
        return -1
    mark, stored, sequence = _FRONT.unpack_from(data)
    return sequence if mark == b"head" and stored == checksum(data) else -1


@lru_cache(1024)
def _parse(data: bytes, slot: int, other_is_valid: bool) -> Header:
    """Decode a header. Raises WrongBytesError."""
    fields = HEADER.unpack(data)
    _, _, sequence, file_write, data_write, log_guid, log_version, version, log_bytes, log_offset = fields
    log = UUID(bytes_le=log_guid)
    if version != 1:
        raise WrongBytesError(f"version {version} of VHDX is unknown", 66)
    if log_version != 0 and log != NIL:
        raise WrongBytesError(f"version {log_version} of the log is unknown", 64)
    return Header(
        slot=slot,
        sequence=sequence,
        file_write=UUID(bytes_le=file_write),
        data_write=UUID(bytes_le=data_write),
        log=log,
        log_offset=log_offset,
        log_bytes=log_bytes,
        other_is_valid=other_is_valid,
    )


def _check(file: File, header: Header, file_bytes: int) -> None:
    offset = HEADER_OFFSETS[header.slot]
    if header.sequence >= _MAX_SEQUENCE:
        raise corrupt(file, f"the header's sequence number {header.sequence} is impossible", offset + 8)
    start, length = header.log_offset, header.log_bytes
    if start % MIB or length % MIB or start < MIB or not MIB <= length <= file_bytes - start:
        raise corrupt(file, f"a log of {length} bytes at {start} cannot be", offset + 68)


def write(file: File, header: Header) -> None:
    """Put a header into its slot, durably."""
    file.write(HEADER_OFFSETS[header.slot], header.encode())
    file.flush()


def update(
    file: File,
    header: Header,
    *,
    data_write: UUID | None = None,
    log: UUID | None = None,
    new_file_write: bool = False,
) -> Header:
    """Replace both headers, one after the other, durably; return the one that is current then."""
    changed = replace(
        header,
        file_write=uuid4() if new_file_write else header.file_write,
        data_write=data_write or header.data_write,
        log=header.log if log is None else log,
        other_is_valid=True,
    )
    for _ in range(2):
        changed = replace(changed, slot=1 - changed.slot, sequence=changed.sequence + 1)
        write(file, changed)
    return changed
