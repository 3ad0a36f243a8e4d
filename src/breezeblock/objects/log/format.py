"""What the objects of the layout *log* look like, byte by byte. All numbers are little-endian.

A segment is a head of 24 KiB and then its pages. The head has a fixed length so that a page's place follows
from its index alone: head and page can be fetched at the same time. Everything carries a CRC-32C.
"""

import re
import struct
import sys
import zlib
from array import array
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import google_crc32c
import msgspec
import zstandard

from breezeblock.errors import CorruptError

PAGE = 4096
SEGMENT_PAGES = 1024
MAX_EXTENTS = 1024
HEAD_BYTES = 24 << 10
CHUNK_PAGES = 16
"""What is compressed, and kept in memory, as one."""
LEAF_PAGES = 1 << 18
LEAF_BYTES = LEAF_PAGES * PAGE
WINDOW = 16
"""A writer never uploads a number of this much or more above the first that has not arrived."""
MAX_SOURCES = 1 << 12
MAX_ROOT_BYTES = 32 << 20
"""A volume of 1 PiB has a million leaves, each of up to 18 bytes in its root."""
MAX_MARK_BYTES = 64 << 20
STILL_S = 1.0
"""A collection looks twice, so far apart. Who makes a holder from another within half of it needs no look
at the other after that: a collection that missed both has not looked for the second time yet."""

_HEAD = struct.Struct("<8s16sQQQQQQIII16s")
_MAGIC = b"BzSeg\x00\x00\x01"
_EXTENT = struct.Struct("<QII")
_ENDS, _FOLLOWS = 1, 2
_ROOT_MAGIC = b"BzRoot\x00\x01"
_LEAF_MAGIC = b"BzLeaf\x00\x01"
_NAME = re.compile(r"[0-9a-f]{32}", re.ASCII)


crc: Callable[[bytes], int] = google_crc32c.value
"""Return the CRC-32C; a function around it would cost as much as the sum of a short record."""


class Extent(NamedTuple):
    """Pages of the volume, from `start` on, that lie in the segment from `place` on; -1: they are zeros."""

    start: int
    amount: int
    place: int


class Segment(msgspec.Struct, frozen=True):
    """A segment's head."""

    volume: str
    number: int
    epoch: int
    length: int
    """The volume's bytes, after this segment."""
    last: int
    """The number of the last write that is in it."""
    resume: int
    """The number of the segment that follows: the next one, or behind the window of the writer fenced off."""
    pages: int
    extents: list[Extent]
    sums: bytes
    """A CRC-32C of each page."""
    chunks: tuple[int, ...] = ()
    """The bytes of each chunk, if they are compressed; one that did not become shorter is as it was."""
    token: bytes = bytes(16)
    """In a fence: random, so that a writer knows its own."""
    ends: bool = False
    """Its writer stores nothing after it: until the next fence, nobody has the volume."""
    follows: bool = False
    """In a fence: the writer before it is known to have ended, so that nobody needs to be stopped by it."""

    @property
    def fence(self) -> bool:
        """Whether it begins an epoch."""
        return self.epoch == self.number


class Root(msgspec.Struct, frozen=True, kw_only=True):
    """A volume at one moment, or a snapshot of it."""

    volume: str
    epoch: int
    number: int
    length: int
    sources: list[str]
    """Volumes whose objects it uses, itself among them; the map names them by their place here."""
    own: int
    """Its own place in `sources`."""
    leaves: dict[int, tuple[int, int]]
    """Source and ref of each leaf that is not all zeros."""
    tails: list[tuple[int, int, int]]
    """Segments to apply after the leaves: source, first number, and the number to stop before."""
    next: int
    """The volume's own segment that follows after those; in a snapshot, none does."""
    last: int = 0
    """The number of the last write that the leaves contain."""
    token: bytes = bytes(16)
    """Of the fence of its epoch, which lies before `next`."""
    ends: bool = False
    """Nobody has the volume, unless segments follow."""
    reason: str = ""


def add_extent(extents: list[Extent], new: Extent) -> None:
    """Add an extent, as part of the last one where it continues it."""
    if extents:
        start, amount, place = extents[-1]
        if place >= 0 and start + amount == new.start and place + amount == new.place:
            extents[-1] = Extent(start, amount + new.amount, place)
            return
    extents.append(new)


def is_volume(name: str) -> bool:
    """Tell whether this names a volume."""
    return _NAME.fullmatch(name) is not None


def segment_key(volume: str, number: int) -> str:
    """Return where a segment lies."""
    return f"v/{volume}/seg/{number:012x}"


def leaf_key(volume: str, ref: int) -> str:
    """Return where a leaf lies."""
    return f"v/{volume}/leaf/{ref:016x}"


def root_key(volume: str, epoch: int, number: int) -> str:
    """Return where a root lies: roots sort by age, and one of a fenced writer never comes last."""
    return f"v/{volume}/root/{epoch:012x}-{number:08x}"


def snapshot_key(volume: str, name: str) -> str:
    """Return where a snapshot lies."""
    return f"v/{volume}/snap/{name}"


def tentative_key(volume: str, name: str) -> str:
    """Return where a snapshot lies until it is known to be whole."""
    return f"v/{volume}/new/{name}"


def pack(segment: Segment) -> bytes:
    """Return a head of 24 KiB. The extents fit: a writer starts anew at 1,024."""
    body = b"".join(_EXTENT.pack(e.start, e.amount, e.place & 0xFFFFFFFF) for e in segment.extents)
    head = _HEAD.pack(
        _MAGIC,
        bytes.fromhex(segment.volume),
        segment.number,
        segment.epoch,
        segment.length,
        segment.last,
        segment.resume,
        segment.ends * _ENDS | segment.follows * _FOLLOWS,
        segment.pages,
        len(segment.extents),
        len(segment.chunks),
        segment.token,
    )
    lengths = struct.pack(f"<{len(segment.chunks)}I", *segment.chunks)
    filled = (head + body + segment.sums + lengths).ljust(HEAD_BYTES - 4, b"\0")
    return filled + crc(filled).to_bytes(4, "little")


def unpack(head: bytes, volume: str, number: int, *, extents: bool = True) -> Segment:
    """Return what a head says. Raises CorruptError, also if it is another segment's.

    Without `extents` they are left out: whoever only reads pages has no use for them, and they take long.
    """
    key = segment_key(volume, number)
    if len(head) < HEAD_BYTES or crc(head[: HEAD_BYTES - 4]) != int.from_bytes(
        head[HEAD_BYTES - 4 : HEAD_BYTES], "little"
    ):
        raise damaged(key)
    magic, name, seen, epoch, length, last, resume, bits, pages, count, packed, token = _HEAD.unpack_from(
        head
    )
    if magic != _MAGIC or name.hex() != volume or seen != number or pages > SEGMENT_PAGES:
        raise damaged(key)
    if count > MAX_EXTENTS or resume <= number or packed not in {0, -(-pages // CHUNK_PAGES)}:
        raise damaged(key)
    begin = _HEAD.size + count * _EXTENT.size
    found = []
    for start, amount, index in _EXTENT.iter_unpack(head[_HEAD.size : begin]) if extents else ():
        hole = index == 0xFFFFFFFF
        if not hole and index + amount > pages:
            raise damaged(key)
        found.append(Extent(start, amount, -1 if hole else index))
    sums = head[begin : begin + 4 * pages]
    chunks = struct.unpack_from(f"<{packed}I", head, begin + 4 * pages)
    if any(not 0 < one <= CHUNK_PAGES * PAGE for one in chunks):
        raise damaged(key)
    ends, follows = bool(bits & _ENDS), bool(bits & _FOLLOWS)
    return Segment(
        volume, number, epoch, length, last, resume, pages, found, sums, chunks, token, ends, follows
    )


def sums(pages: memoryview) -> bytes:
    """Return the CRC-32C of each page."""
    found = [crc(bytes(pages[at : at + PAGE])) for at in range(0, len(pages), PAGE)]
    return struct.pack(f"<{len(found)}I", *found)


def compressed(pages: memoryview, level: int) -> tuple[tuple[int, ...], bytes]:
    """Return a segment's pages with each chunk compressed by zstd, and the chunks' lengths in bytes."""
    packer, size = zstandard.ZstdCompressor(level), CHUNK_PAGES * PAGE
    bodies = []
    for at in range(0, len(pages), size):
        chunk = pages[at : at + size]
        packed = packer.compress(chunk)
        bodies.append(packed if len(packed) < len(chunk) else bytes(chunk))
    return tuple(map(len, bodies)), b"".join(bodies)


def open_chunk(segment: Segment, chunk: int, data: bytes) -> bytes:
    """Return a chunk's pages, whose sums nobody has looked at yet. Raises CorruptError for what is none."""
    amount = min(CHUNK_PAGES, segment.pages - chunk * CHUNK_PAGES)
    key = segment_key(segment.volume, segment.number)
    if amount <= 0:
        raise damaged(key)
    if segment.chunks and segment.chunks[chunk] < amount * PAGE:
        try:
            # What a frame says of its length goes before any limit that is given with it.
            if zstandard.frame_content_size(data) != amount * PAGE:
                raise damaged(f"Chunk {chunk} of {key}")
            data = zstandard.ZstdDecompressor().decompress(data)
        except zstandard.ZstdError as error:
            raise damaged(f"Chunk {chunk} of {key}") from error
    if len(data) < amount * PAGE:
        raise damaged(key)
    return data


def is_page(segment: Segment, page: int, data: bytes) -> bool:
    """Tell whether these are the bytes of a segment's page that were written."""
    return len(data) == PAGE and crc(data) == int.from_bytes(segment.sums[4 * page : 4 * page + 4], "little")


def damaged(key: str) -> CorruptError:
    """Return the error for an object that is not what was stored."""
    return CorruptError(f"{key} is damaged.", remedy="Ask the store for an earlier version, or revert.")


def pack_root(root: Root) -> bytes:
    """Return a root's bytes."""
    body = msgspec.msgpack.encode(root)
    return _ROOT_MAGIC + crc(body).to_bytes(4, "little") + body


def unpack_root(data: bytes, key: str) -> Root:
    """Return a root. Raises CorruptError."""
    if len(data) > MAX_ROOT_BYTES or data[:8] != _ROOT_MAGIC:
        raise damaged(key)
    if crc(data[12:]) != int.from_bytes(data[8:12], "little"):
        raise damaged(key)
    try:
        root = msgspec.msgpack.decode(data[12:], type=Root)
    except msgspec.DecodeError as error:
        raise damaged(key) from error
    known = range(len(root.sources))
    named = {source for source, _ in root.leaves.values()} | {source for source, _, _ in root.tails}
    if root.own not in known or not all(one in known for one in named):
        raise damaged(key)
    if not all(map(_NAME.fullmatch, root.sources)) or root.sources[root.own] != root.volume:
        raise damaged(key)
    return root


def pack_leaf(entries: "array[int]") -> bytes:
    """Return a leaf's bytes: by planes, as the upper bytes hardly change and then pack to nothing."""
    raw = _little(entries)
    planes = b"".join(raw[plane::8] for plane in range(8))
    body = zlib.compress(planes, 1)
    return _LEAF_MAGIC + crc(body).to_bytes(4, "little") + body


def pack_changed(base: "array[int] | None", changes: dict[int, int]) -> bytes:
    """Return the bytes of a leaf with changes; nothing if it is all holes."""
    if base is None:
        base = array("Q", bytes(LEAF_PAGES * 8))
    elif changes:
        base = base[:]
    for index, value in changes.items():
        base[index] = value
    return pack_leaf(base) if any(base) else b""


def unpack_leaf(data: bytes, key: str) -> "array[int]":
    """Return a leaf's entries. Raises CorruptError."""
    if data[:8] != _LEAF_MAGIC or crc(data[12:]) != int.from_bytes(data[8:12], "little"):
        raise damaged(key)
    unpacker = zlib.decompressobj()
    try:
        planes = unpacker.decompress(data[12:], LEAF_PAGES * 8 + 1)
    except zlib.error as error:
        raise damaged(key) from error
    if len(planes) != LEAF_PAGES * 8:
        raise damaged(key)
    raw = bytearray(len(planes))
    for plane in range(8):
        raw[plane::8] = planes[plane * LEAF_PAGES : (plane + 1) * LEAF_PAGES]
    entries = array("Q", bytes(raw))
    if sys.byteorder == "big":
        entries.byteswap()
    return entries


def pages_by_segment(entries: "array[int]") -> Counter[tuple[int, int]]:
    """Count a leaf's pages by source and segment."""
    # Four numbers of 16 bits each: the index in the segment, and three of the rest.
    halves = array("H", _little(entries))
    if sys.byteorder == "big":
        halves.byteswap()
    counts = Counter(zip(halves[1::4], halves[2::4], halves[3::4], strict=True))
    holes = array("H", halves[0::4]).count(0)
    if holes:
        counts[0, 0, 0] -= holes
    return Counter(
        {
            (high >> 4, (high & 15) << 32 | middle << 16 | low): pages
            for (low, middle, high), pages in counts.items()
            if pages
        }
    )


def _little(entries: "array[int]") -> bytes:
    if sys.byteorder == "little":
        return entries.tobytes()
    swapped = entries[:]
    swapped.byteswap()
    return swapped.tobytes()
