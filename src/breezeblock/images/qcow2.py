"""QCOW2 headers: read under strict limits, create, re-parent, grow.

Source: docs/interop/qcow2.txt of QEMU. All numbers are big-endian; all sizes here are bytes. What QEMU
would accept but no image of ours can have (an external data file, encryption, internal snapshots,
extended L2 entries, a backing file without a recorded format) is refused, so that nothing in a header
that somebody else wrote can make a tool open another file.
"""

import os
import re
import struct
from functools import lru_cache

import msgspec

from breezeblock.errors import CorruptError, InvalidInputError
from breezeblock.images.layer import WrongBytesError

MAGIC = b"QFI\xfb"
CLUSTER_BITS = 16
CLUSTER_BYTES = 1 << CLUSTER_BITS
MAX_L1_BYTES = 32 << 20
MAX_VIRTUAL_BYTES = (MAX_L1_BYTES // 8) << (2 * CLUSTER_BITS - 3)
"""The largest image that QEMU opens with our clusters: 2 EiB."""

_V2 = struct.Struct(">4sIQIIQIIQQIIQ")
_V3 = struct.Struct(">QQQII")
_NAME = struct.Struct(">QI")
_HEADER_BYTES = 112
_HEAD_BYTES, _KEPT_BYTES, _MOST_HEAD_BYTES = 4096, 1024, 65536
"""What is read, what of that is looked at and kept, and what is read if that does not do."""
_SECTOR = 512
_EXTENSION = struct.Struct(">II")
_END, _BACKING_FORMAT, _DATA_FILE, _LUKS = 0, 0xE2792ACA, 0x44415441, 0x0537BE77
_COMPRESSION_TYPE = 1 << 3
_COMPRESSION_AT = 104
_NAME_SLOTS = (2048, 3072)
_MAX_NAME = 1023
_MAX_REFTABLE_BYTES = 8 << 20
_BARE_NAME = re.compile(rb"[A-Za-z0-9_][A-Za-z0-9._-]*\Z")
_PATH = re.compile(rb"(?:/[A-Za-z0-9._/+@,-]*/)?[A-Za-z0-9_][A-Za-z0-9._-]*\Z")
_FORMATS = {"raw", "qcow2"}


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What a header says, checked."""

    name: str
    """What to call the image in messages."""
    version: int
    cluster_bits: int
    virtual_bytes: int
    l1_entries: int
    l1_offset: int
    backing: str | None
    """A bare file name."""
    backing_format: str | None
    file_bytes: int
    """How long the file was when the header was read."""
    editable: bool
    """A native edit of the header keeps everything right (no autoclear features to maintain)."""
    zstd: bool
    """Compressed clusters are packed with zstd, not with deflate."""
    name_offset: int
    format_offset: int
    """Where the backing format's extension begins; 0 without one."""
    extensions_end: int

    @property
    def cluster_bytes(self) -> int:
        """Bytes in a cluster."""
        return 1 << self.cluster_bits

    @property
    def l1_reach(self) -> int:
        """Virtual bytes that one L1 entry covers."""
        return 1 << (2 * self.cluster_bits - 3)


def parse(fd: int, *, foreign: bool = False, name: str = "QCOW2 image") -> Header:
    """Read and check the header; CorruptError says what is wrong at which offset of which file: `name`.

    `foreign`: accept a backing file named by a path, and one whose format is not recorded, so that an
    image can be taken over. The name is then only text: nothing may be opened by it.
    """
    try:
        return _parse(fd, foreign, name)
    except WrongBytesError as error:
        raise CorruptError(
            f"{name}: {error.problem} (at byte {error.at}).",
            remedy="Restore it if it was damaged; of a good one `qemu-img convert` makes one that is taken.",
        ) from None


def _parse(fd: int, foreign: bool, name: str) -> Header:
    file_bytes = os.lseek(fd, 0, os.SEEK_END)
    head = os.pread(fd, _HEAD_BYTES, 0)
    if len(head) < _V2.size or head[:4] != MAGIC:
        raise WrongBytesError("there is no QCOW2 header", 0)
    offset, length = _NAME.unpack_from(head, 8)
    try:
        return _decode(head[:_KEPT_BYTES], head[offset : offset + length], file_bytes, foreign, name)
    except _FurtherError:
        head = os.pread(fd, _MOST_HEAD_BYTES, 0)
        backing = os.pread(fd, min(length, _MAX_NAME), offset) if length else b""
        # Large ones are not kept: a file from outside may have one, and many such files may come.
        return _decode.__wrapped__(head, backing, file_bytes, foreign, name)


class _FurtherError(Exception):
    """More of the file is needed than is mostly read."""


@lru_cache(1024)
def _decode(head: bytes, backing_name: bytes, file_bytes: int, foreign: bool, name: str) -> Header:
    """Check and decode a header. Raises WrongBytesError; `_FurtherError` if its first KiB has not all of it.

    A function of the bytes alone, whose results are kept: a chain looked at again mostly holds the same.
    """
    (
        _magic,
        version,
        name_offset,
        name_length,
        cluster_bits,
        virtual_bytes,
        crypt,
        l1_entries,
        l1_offset,
        reftable_offset,
        reftable_clusters,
        snapshots,
        _snapshots_offset,
    ) = _V2.unpack_from(head)
    if version not in {2, 3}:
        raise WrongBytesError(f"version {version} is unknown", 4)
    if not 9 <= cluster_bits <= 21:
        raise WrongBytesError(f"clusters of 2^{cluster_bits} bytes, 2^9 to 2^21 are possible", 20)
    header_bytes, editable = _parse_features(head, version, 1 << cluster_bits)
    if crypt:
        raise WrongBytesError("the image is encrypted", 32)
    if snapshots:
        raise WrongBytesError("the image holds internal snapshots", 60)
    _check_tables(
        virtual_bytes, cluster_bits, file_bytes, l1_entries, l1_offset, reftable_offset, reftable_clusters
    )
    if name_offset and name_offset + name_length > 1 << cluster_bits:
        raise WrongBytesError("the backing file's name lies outside the first cluster", 8)
    limit = name_offset or 1 << cluster_bits
    if not len(head) == _KEPT_BYTES < file_bytes:
        limit = min(limit, len(head))
    elif name_offset and len(backing_name) < name_length:
        raise _FurtherError
    backing_format, format_offset, end = _parse_extensions(head, header_bytes, limit)
    backing = None
    if name_offset and name_length:
        backing = _backing(backing_name, name_length, name_offset, _PATH if foreign else _BARE_NAME)
    if backing is not None and backing_format is None and not foreign:
        raise WrongBytesError("the backing file's format is not recorded", header_bytes)
    return Header(
        name=name,
        version=version,
        cluster_bits=cluster_bits,
        virtual_bytes=virtual_bytes,
        l1_entries=l1_entries,
        l1_offset=l1_offset,
        backing=backing,
        backing_format=backing_format if backing is not None else None,
        file_bytes=file_bytes,
        editable=editable,
        zstd=version == 3 and header_bytes > _COMPRESSION_AT and head[_COMPRESSION_AT] == 1,
        name_offset=name_offset,
        format_offset=format_offset,
        extensions_end=end,
    )


def _parse_features(head: bytes, version: int, cluster_bytes: int) -> tuple[int, bool]:
    """Return the header's length and whether we may edit it."""
    if version == 2:
        return _V2.size, True
    if len(head) < _V2.size + _V3.size:
        raise WrongBytesError("the file ends inside it", len(head))
    incompatible, _compatible, autoclear, refcount_order, header_bytes = _V3.unpack_from(head, _V2.size)
    if incompatible & ~_COMPRESSION_TYPE:
        names = {0: "dirty", 1: "marked corrupt", 2: "external data file", 4: "extended L2 entries"}
        bits = [
            names.get(bit, f"unknown bit {bit}") for bit in range(64) if incompatible >> bit & 1 and bit != 3
        ]
        raise WrongBytesError(f"refused features: {', '.join(bits)}", 72)
    if refcount_order > 6:
        raise WrongBytesError(f"refcounts of 2^{refcount_order} bits, at most 2^6 are possible", 96)
    if not _V2.size + _V3.size <= header_bytes <= min(cluster_bytes, 4096) or header_bytes % 8:
        raise WrongBytesError(f"a header length of {header_bytes} is impossible", 100)
    return header_bytes, autoclear == 0


def _check_tables(
    virtual_bytes: int,
    cluster_bits: int,
    file_bytes: int,
    l1_entries: int,
    l1_offset: int,
    reftable_offset: int,
    reftable_clusters: int,
) -> None:
    cluster_bytes = 1 << cluster_bits
    if l1_entries * 8 > MAX_L1_BYTES:
        raise WrongBytesError(f"{l1_entries} L1 entries are over the limit of {MAX_L1_BYTES // 8}", 36)
    if virtual_bytes > l1_entries << (2 * cluster_bits - 3):
        raise WrongBytesError(f"the L1 table is too small for {virtual_bytes} virtual bytes", 24)
    if l1_offset % cluster_bytes or (l1_entries and not 0 < l1_offset <= file_bytes - l1_entries * 8):
        raise WrongBytesError(f"the L1 table at {l1_offset} is not inside the file of {file_bytes} bytes", 40)
    if reftable_clusters * cluster_bytes > _MAX_REFTABLE_BYTES or reftable_clusters == 0:
        raise WrongBytesError(f"a refcount table of {reftable_clusters} clusters is impossible", 56)
    if reftable_offset % cluster_bytes or not 0 < reftable_offset < file_bytes:
        raise WrongBytesError(f"the refcount table at {reftable_offset} is not inside the file", 48)


def _parse_extensions(head: bytes, offset: int, limit: int) -> tuple[str | None, int, int]:
    """Return the recorded backing format, where it stands, and where the extensions end."""
    backing_format, format_offset = None, 0
    while offset + _EXTENSION.size <= limit:
        start = offset + _EXTENSION.size
        if start > len(head):
            raise _FurtherError
        kind, length = _EXTENSION.unpack_from(head, offset)
        if kind == _END:
            return backing_format, format_offset, start
        if length > limit - start:
            raise WrongBytesError(f"an extension of {length} bytes does not fit", offset)
        if kind in {_DATA_FILE, _LUKS}:
            raise WrongBytesError("it names an external data file or a key", offset)
        if start + length > len(head):
            raise _FurtherError
        if kind == _BACKING_FORMAT:
            backing_format = head[start : start + length].decode("ascii", "replace")
            format_offset = offset
            if backing_format not in _FORMATS:
                raise WrongBytesError(f"backing format {backing_format!a} is none of raw, qcow2", offset)
        offset = start + (length + 7) // 8 * 8
    return backing_format, format_offset, min(offset, limit)


def _backing(name: bytes, length: int, offset: int, allowed: re.Pattern[bytes]) -> str:
    if length > _MAX_NAME:
        raise WrongBytesError(f"a backing file name of {length} bytes is over the limit of {_MAX_NAME}", 16)
    if len(name) != length or not allowed.match(name):
        raise WrongBytesError(f"the backing file {name[:80]!a} is not a bare file name", offset)
    return name.decode("ascii")


def is_recordable(name: str) -> bool:
    """Tell whether an image of ours may name this backing file: no tool can take it for anything else."""
    return name.isascii() and _BARE_NAME.match(name.encode()) is not None and len(name) <= 255


def create(fd: int, virtual_bytes: int, *, backing: str | None = None, backing_format: str = "raw") -> None:
    """Write an image without data into an empty file: zeros, or what `backing` holds."""
    if not 0 <= virtual_bytes <= MAX_VIRTUAL_BYTES or virtual_bytes % _SECTOR:
        raise InvalidInputError(
            f"A QCOW2 image of {virtual_bytes} bytes is impossible: a multiple of {_SECTOR} "
            f"up to {MAX_VIRTUAL_BYTES} is needed."
        )
    l1_entries = max(1, -(-virtual_bytes // (1 << (2 * CLUSTER_BITS - 3))))
    l1_clusters = -(-l1_entries * 8 // CLUSTER_BYTES)
    name = (backing or "").encode("ascii")
    header = _V2.pack(
        MAGIC,
        3,
        _NAME_SLOTS[0] if name else 0,
        len(name),
        CLUSTER_BITS,
        virtual_bytes,
        0,
        l1_entries,
        3 * CLUSTER_BYTES,
        CLUSTER_BYTES,
        1,
        0,
        0,
    )
    header += _V3.pack(0, 0, 0, 4, _HEADER_BYTES)
    header = header.ljust(_HEADER_BYTES, b"\0")
    if name:
        header += _format_extension(backing_format)
    header += _EXTENSION.pack(_END, 0)
    if name:
        header = header.ljust(_NAME_SLOTS[0], b"\0") + name
    used = 3 + l1_clusters
    # Cluster 0 header, 1 refcount table, 2 refcount block, 3… L1: each counted once.
    os.ftruncate(fd, used * CLUSTER_BYTES)
    os.pwrite(fd, header, 0)
    os.pwrite(fd, struct.pack(">Q", 2 * CLUSTER_BYTES), CLUSTER_BYTES)
    os.pwrite(fd, b"\0\1" * used, 2 * CLUSTER_BYTES)


def _format_extension(name: str) -> bytes:
    data = name.encode("ascii")
    return _EXTENSION.pack(_BACKING_FORMAT, len(data)) + data.ljust(8, b"\0")


def reparent(fd: int, header: Header, backing: str, backing_format: str) -> bool:
    """Make the image's backing file another one that reads the same, safe against power failure.

    The new name goes to a place that the header does not use yet; one write of the first sector then
    switches to it. False if the header's layout leaves no room for that (nothing was written).
    """
    name = backing.encode("ascii")
    old = range(header.name_offset, header.name_offset + len((header.backing or "").encode()))
    slots = [
        slot
        for slot in _NAME_SLOTS
        if header.extensions_end <= slot
        and slot + len(name) <= header.cluster_bytes
        and not (slot < old.stop and old.start < slot + len(name))
    ]
    place = header.format_offset
    if not header.editable or not slots or not 0 < place <= _SECTOR - 16 or backing_format not in _FORMATS:
        return False
    os.pwrite(fd, name, slots[0])
    os.fdatasync(fd)
    sector = bytearray(os.pread(fd, _SECTOR, 0))
    struct.pack_into(">QI", sector, 8, slots[0], len(name))
    sector[place : place + 16] = _format_extension(backing_format)
    os.pwrite(fd, sector, 0)
    os.fsync(fd)
    return True


def grow(fd: int, header: Header, virtual_bytes: int) -> bool:
    """Raise the virtual bytes by one write of the first sector; False if the L1 table has no room.

    The caller makes sure that the backing file is not longer than the image: what it holds beyond
    would show through.
    """
    if virtual_bytes <= header.virtual_bytes:
        return True
    entries = -(-virtual_bytes // header.l1_reach)
    room = -(-header.l1_entries * 8 // header.cluster_bytes) * header.cluster_bytes
    if not header.editable or entries * 8 > min(room, MAX_L1_BYTES):
        return False
    start, stop = header.l1_entries * 8, max(entries, header.l1_entries) * 8
    if any(os.pread(fd, stop - start, header.l1_offset + start)):
        return False
    if os.fstat(fd).st_size < header.l1_offset + stop:
        os.ftruncate(fd, header.l1_offset + room)
    sector = bytearray(os.pread(fd, _SECTOR, 0))
    struct.pack_into(">Q", sector, 24, virtual_bytes)
    struct.pack_into(">I", sector, 36, stop // 8)
    os.pwrite(fd, sector, 0)
    os.fsync(fd)
    return True
