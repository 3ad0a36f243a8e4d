"""Comparing a qcow2's refcounts with what its tables refer to.

A cluster that is counted and not used is a leak, which a stop in the middle of a write leaves; freeing it
changes one number. One that is used more often than counted, or by two owners, is damage.
"""

import struct
import sys
from array import array
from collections.abc import Iterator

from breezeblock.errors import UnsupportedError
from breezeblock.images import clusters
from breezeblock.images.file import File
from breezeblock.images.layer import Problem, corrupt
from breezeblock.images.qcow2 import Header

_OFFSET = 0x00FF_FFFF_FFFF_FE00
_WIDTHS = {3: "B", 4: "H", 5: "I", 6: "Q"}
_MAX_CLUSTERS = 1 << 26
"""In a file: 4 TiB of 64 KiB, for which 128 MiB of memory are used."""


class Counts:
    """A file's refcount structures."""

    def __init__(self, file: File, header: Header) -> None:
        self.file, self.header, self.size = file, header, header.cluster_bytes
        self.total = -(-file.size() // self.size)
        if self.total > _MAX_CLUSTERS:
            raise UnsupportedError(
                f"{file.name} has more than {_MAX_CLUSTERS} clusters.", remedy="Use `qemu-img check`."
            )
        self.table_at, self.table_clusters = struct.unpack(">QI", file.read(48, 12))
        order = struct.unpack(">I", file.read(96, 4))[0] if header.version == 3 else 4
        if order not in _WIDTHS:
            raise UnsupportedError(f"{file.name}: refcounts of {1 << order} bits are not looked at.")
        self.width = _WIDTHS[order]
        self.per_block = self.size // array(self.width).itemsize
        length = min(self.table_clusters * self.size, max(0, file.size() - self.table_at))
        self.blocks = _loaded(file, "Q", self.table_at, length // 8 * 8)

    def used(self) -> "array[int]":
        """Return how often each cluster of the file is referred to. Raises CorruptError."""
        used = array("H", bytes(2 * self.total))
        header = self.header
        self._mark(used, 0, self.size)
        self._mark(used, self.table_at, self.table_clusters * self.size)
        for index, entry in enumerate(self.blocks):
            if entry:
                place = self.table_at + index * 8
                if entry & ~_OFFSET or entry % self.size or entry + self.size > self.total * self.size:
                    raise corrupt(self.file, f"refcount block {index} at {entry}", place)
                self._mark(used, entry, self.size)
        self._mark(used, header.l1_offset, header.l1_entries * 8)
        for entry in _loaded(self.file, "Q", header.l1_offset, header.l1_entries * 8):
            if entry & _OFFSET:
                self._mark(used, entry & _OFFSET, self.size)
        if max(used, default=0) > 1:
            # Before the tables are walked: millions of them could be one and the same.
            at = used.index(max(used)) * self.size
            raise corrupt(self.file, "two tables lie on each other", at)
        for run in clusters.runs(self.file.fd, header):
            self._mark_run(used, run)
        return used

    def _mark_run(self, used: "array[int]", run: clusters.Run) -> None:
        if run.kind is clusters.Kind.DATA:
            self._mark(used, run.host_offset, run.length)
        elif run.kind is clusters.Kind.COMPRESSED:
            width = 62 - (self.header.cluster_bits - 8)
            place = run.host_offset & ((1 << width) - 1)
            sectors = (run.host_offset & ((1 << 62) - 1)) >> width
            self._mark(used, place, sectors * 512 + 512 - place % 512)

    def _mark(self, used: "array[int]", offset: int, length: int) -> None:
        for cluster in range(offset // self.size, min(self.total, -(-(offset + length) // self.size))):
            used[cluster] = min(used[cluster] + 1, 0xFFFF)

    def block(self, index: int) -> "array[int]":
        """Return the counts of one refcount block; zeros if there is none."""
        if not self.blocks[index]:
            return array(self.width, bytes(self.size))
        return _loaded(self.file, self.width, self.blocks[index], self.size)

    def differences(self) -> Iterator[tuple[int, int, int]]:
        """Yield (cluster, counted, used) where they differ, and where a cluster has two owners."""
        used = self.used()
        for index in range(min(len(self.blocks), -(-self.total // self.per_block))):
            counted, base = self.block(index), index * self.per_block
            part = used[base : base + self.per_block]
            if counted[: len(part)].tobytes() != part.tobytes() or max(part, default=0) > 1:
                for number, real in enumerate(part):
                    if counted[number] != real or real > 1:
                        yield base + number, counted[number], real


def check(file: File, header: Header) -> Iterator[Problem]:
    """Yield damage, and leaks as one problem."""
    counts = Counts(file, header)
    leaks, first = 0, 0
    for cluster, counted, used in counts.differences():
        at = cluster * counts.size
        if counted > used:
            leaks, first = leaks + 1, first or at
        elif counted < used:
            yield Problem(f"a cluster is used {used} times and counted {counted} times", at, False)
        # Equal and more than one: compressed clusters share one, and so does nothing else of ours.
    if leaks:
        yield Problem(f"{leaks} clusters are counted and not used", first, True)


def repair(file: File, header: Header) -> list[str]:
    """Free leaked clusters; nothing is changed in a file that is damaged otherwise."""
    found = list(check(file, header))
    if not found or any(not one.repairable for one in found):
        return []
    counts = Counts(file, header)
    for cluster, _counted, used in list(counts.differences()):
        index, number = divmod(cluster, counts.per_block)
        width = array(counts.width).itemsize
        file.write(counts.blocks[index] + number * width, used.to_bytes(width, "big"))
    file.flush()
    return [f"{one.text} (at byte {one.offset})" for one in found]


def _loaded(file: File, width: str, offset: int, length: int) -> "array[int]":
    table = array(width, file.read(offset, length))
    if sys.byteorder == "little":
        table.byteswap()
    return table
