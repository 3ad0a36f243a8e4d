"""Putting new clusters into a qcow2 image, so that a stop at any write changes nothing.

Order: payload, new L2 tables and refcounts, which nothing refers to yet; flush; the refcount table, if
refcount blocks were added; flush; L2 and L1 entries; flush. A stop may leave clusters that are counted
and not used: leaks, which `qemu-img check -r leaks` frees.
"""

import struct
import sys
from array import array
from collections.abc import Iterator

from breezeblock.errors import UnsupportedError
from breezeblock.images.clusters import stretches
from breezeblock.images.file import File
from breezeblock.images.layer import corrupt
from breezeblock.images.qcow2 import Header

_OFFSET = 0x00FF_FFFF_FFFF_FE00
_COPIED = 1 << 63
_COMPRESSED = 1 << 62
_ZERO = 1
_WIDTHS = {3: "B", 4: "H", 5: "I", 6: "Q"}
_MAX_TABLES = 64
"""L2 tables and refcount blocks kept at once, at most."""


class Writer:
    """What was placed since the last commit."""

    def __init__(self, file: File, header: Header) -> None:
        if not header.editable:
            raise UnsupportedError(
                f"{file.name}: its bitmaps would no longer fit after a write.",
                remedy="Remove them with `qemu-img bitmap --remove`.",
            )
        reftable, clusters = struct.unpack(">QI", file.read(48, 12))
        order = struct.unpack(">I", file.read(96, 4))[0] if header.version == 3 else 4
        if order not in _WIDTHS:
            raise UnsupportedError(f"{file.name}: refcounts of {1 << order} bits are not written natively.")
        self._file = file
        self._header = header
        self._bytes = header.cluster_bytes
        self._width = _WIDTHS[order]
        self._reftable_at = reftable
        self._reftable = self._load("Q", reftable, clusters * self._bytes)
        self._l1 = self._load("Q", header.l1_offset, header.l1_entries * 8)
        self._next = -(-file.size() // self._bytes)
        self._tables: dict[int, array[int]] = {}
        self._counts: dict[int, array[int]] = {}
        self._dirty: set[int] = set()
        self._new_tables: dict[int, int] = {}
        self._new_counts: dict[int, int] = {}

    def place(self, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """Yield (where in the file, length); see `Layer.place`. Neighbouring clusters in one go."""
        if len(self._tables) > _MAX_TABLES or len(self._counts) > _MAX_TABLES:
            self.commit()
        end, start, run = offset + length, 0, 0
        while offset < end:
            inside = offset % self._bytes
            at, count = self._clusters(offset, -(-(end - offset + inside) // self._bytes))
            stop = min(end, offset - inside + count * self._bytes)
            if run and start + run != at + inside:
                yield start, run
                run = 0
            if not run:
                start = at + inside
            run += stop - offset
            offset = stop
        if run:
            yield start, run

    def _clusters(self, offset: int, wanted: int) -> tuple[int, int]:
        """Return where at most `wanted` clusters' bytes go, and how many side by side; allocates them."""
        index, number = divmod(offset // self._bytes, self._bytes // 8)
        table = self._table(index)
        _, count, entry = next(stretches(table[number : number + wanted], self._bytes))
        if entry & _COPIED and entry & _OFFSET and not entry & (_COMPRESSED | _ZERO):
            return entry & _OFFSET, count
        host, count = self._allocate(count)
        first = host | _COPIED
        table[number : number + count] = array("Q", range(first, first + count * self._bytes, self._bytes))
        self._dirty.add(index)
        return host, count

    def zero(self, offset: int, length: int) -> None:
        """Let whole clusters read as zeros; see `Layer.zero`."""
        if len(self._tables) > _MAX_TABLES:
            self.commit()
        hides = self._header.backing is not None
        reach = self._header.l1_reach
        end = offset + length
        while offset < end:
            index, number = offset // reach, offset % reach // self._bytes
            if not hides and not self._l1[index] and index not in self._tables:
                offset = (index + 1) * reach
                continue
            entry = self._table(index)[number]
            if entry or hides:
                self._zero(index, number, entry, offset)
            offset = (offset // self._bytes + 1) * self._bytes

    def _zero(self, index: int, number: int, entry: int, offset: int) -> None:
        if self._header.version == 2:
            # Version 2 has no mark for zeros: a cluster of them is needed.
            at, _ = self._clusters(offset, 1)
            self._file.zero(at, self._bytes)
        elif not entry & _ZERO or entry & _COMPRESSED:
            self._tables[index][number] = _ZERO
            self._dirty.add(index)

    def commit(self) -> None:
        """Make payload durable, then what refers to it; see `Layer.commit`."""
        if self._file.size() < self._next * self._bytes:
            self._file.truncate(self._next * self._bytes)
        for block, counts in self._counts.items():
            place = self._new_counts.get(block) or self._reftable[block] & _OFFSET
            self._file.write(place, _packed(counts))
        for index, place in self._new_tables.items():
            self._file.write(place, _packed(self._tables[index]))
        self._file.flush()
        if self._new_counts:
            for block, place in self._new_counts.items():
                self._reftable[block] = place
                self._file.write(self._reftable_at + block * 8, struct.pack(">Q", place))
            self._file.flush()
        for index in self._dirty - self._new_tables.keys():
            self._file.write(self._l1[index] & _OFFSET, _packed(self._tables[index]))
        for index, place in self._new_tables.items():
            self._l1[index] = place | _COPIED
            self._file.write(self._header.l1_offset + index * 8, struct.pack(">Q", place | _COPIED))
        if self._dirty:
            self._file.flush()
        for kept in (self._tables, self._counts, self._dirty, self._new_tables, self._new_counts):
            kept.clear()

    def _table(self, index: int) -> "array[int]":
        """Return an L2 table, a new one if there is none."""
        if index not in self._tables:
            at = self._l1[index] & _OFFSET
            if at:
                if at % self._bytes or not self._l1[index] & _COPIED:
                    raise corrupt(self._file, f"L1 entry {index}", self._header.l1_offset + index * 8)
                self._tables[index] = self._load("Q", at, self._bytes)
            else:
                self._new_tables[index], _ = self._allocate(1)
                self._tables[index] = array("Q", bytes(self._bytes))
                self._dirty.add(index)
        return self._tables[index]

    def _allocate(self, wanted: int) -> tuple[int, int]:
        """Count clusters at the end of the file as used; return where they begin, and how many they are."""
        per_block = self._bytes // array(self._width).itemsize
        while True:
            cluster = self._next
            block, first = divmod(cluster, per_block)
            if block >= len(self._reftable):
                raise UnsupportedError(
                    f"{self._file.name}: its refcount table is full.",
                    remedy="`qemu-img convert` makes an image with room for more.",
                )
            if block in self._counts or self._reftable[block]:
                count = min(wanted, per_block - first)
                self._next += count
                counts = self._counted(block)
                counts[first : first + count] = array(
                    self._width, [old + 1 for old in counts[first : first + count]]
                )
                return cluster * self._bytes, count
            # This cluster becomes the refcount block that counts itself; the next one is the answer.
            self._next += 1
            self._new_counts[block] = cluster * self._bytes
            self._counts[block] = array(self._width, bytes(self._bytes))
            self._counts[block][first] = 1

    def _counted(self, block: int) -> "array[int]":
        if block not in self._counts:
            self._counts[block] = self._load(self._width, self._reftable[block] & _OFFSET, self._bytes)
        return self._counts[block]

    def _load(self, width: str, offset: int, length: int) -> "array[int]":
        table = array(width, self._file.read(offset, length))
        return _swapped(table)


def _swapped(table: "array[int]") -> "array[int]":
    if sys.byteorder == "little":
        table.byteswap()
    return table


def _packed(table: "array[int]") -> bytes:
    return _swapped(array(table.typecode, table)).tobytes()
