"""What a QCOW2 layer itself holds: its allocated clusters, and copying them into a raw image.

A cluster that is not allocated belongs to the backing file. The mapping comes from the file's tables,
which are checked entry by entry: an image whose tables point outside the file is refused, not read as
zeros.
"""

import os
import sys
import time
from array import array
from collections import deque
from collections.abc import Iterator
from enum import Enum
from itertools import compress, count
from typing import NamedTuple

from breezeblock.attempt import Attempt
from breezeblock.errors import CorruptError
from breezeblock.images import raw
from breezeblock.images.qcow2 import Header

_OFFSET = 0x00FF_FFFF_FFFF_FE00
_COMPRESSED = 1 << 62
_L2_RESERVED = 0x3F00_0000_0000_01FE
_L1_RESERVED = 0x7F00_0000_0000_01FF


class Kind(Enum):
    """How a run of clusters is stored."""

    DATA = "data"
    ZERO = "zero"
    """Reads as zeros, whatever the backing file holds."""
    COMPRESSED = "compressed"


class Run(NamedTuple):
    """Neighbouring clusters of one kind; offsets and length in bytes."""

    offset: int
    length: int
    kind: Kind
    host_offset: int
    """Where DATA begins in the file; of COMPRESSED the L2 entry, else 0."""


def is_empty(fd: int, header: Header) -> bool:
    """Tell whether the layer holds nothing of its own."""
    return next(runs(fd, header), None) is None


def runs(fd: int, header: Header, start: int = 0, stop: int | None = None) -> Iterator[Run]:
    """Yield what is allocated, in order of virtual offsets, clipped to the virtual bytes.

    With `start` and `stop` only clusters that touch that range.
    """
    pending: Run | None = None
    stop = header.virtual_bytes if stop is None else min(stop, header.virtual_bytes)
    for run in _clusters(fd, header, start - start % header.cluster_bytes, stop):
        if pending and _continues(pending, run):
            pending = pending._replace(length=pending.length + run.length)
            continue
        if pending:
            yield pending
        pending = run
    if pending:
        yield pending


def _continues(before: Run, run: Run) -> bool:
    return (
        before.kind is run.kind
        and run.kind is not Kind.COMPRESSED
        and before.offset + before.length == run.offset
        and (run.kind is not Kind.DATA or before.host_offset + before.length == run.host_offset)
    )


def _clusters(fd: int, header: Header, start: int, stop: int) -> Iterator[Run]:
    size = header.cluster_bytes
    first = start // header.l1_reach
    last = min(header.l1_entries, -(-stop // header.l1_reach))
    l1 = _table(fd, header.l1_offset + first * 8, max(0, last - first) * 8)
    # Tables are mostly zeros, so this loops in C.
    for index, entry in ((first + found, l1[found]) for found in compress(count(), l1)):
        table = entry & _OFFSET
        if entry & _L1_RESERVED or not table or table % size or table + size > header.file_bytes:
            raise _bad(f"L1 entry {index} ({entry:#x})", header, header.l1_offset + index * 8)
        base = index * header.l1_reach
        begin, end = max(start - base, 0) // size, min(-(-(stop - base) // size), size // 8)
        l2 = _table(fd, table + begin * 8, (end - begin) * 8)
        for number, length, value in stretches(l2, size):
            run = _run(value, base + (begin + number) * size, length, header, table + (begin + number) * 8)
            if run:
                yield run


def stretches(table: "array[int]", size: int) -> Iterator[tuple[int, int, int]]:
    """Divide a table into (first index, how many, first entry): equal entries, or clusters side by side.

    Compares whole slices, in C, each twice as long as the one before: most tables are a few long runs.
    """
    index, stop = 0, len(table)
    while index < stop:
        value = table[index]
        step = size if value & _OFFSET and not value & (_L2_RESERVED | _COMPRESSED) else 0
        length, more, doubling = 1, 1, True
        while more and index + length < stop and not value & _COMPRESSED:
            more = min(more, stop - index - length)
            if table[index + length : index + length + more] == _expected(value + length * step, more, step):
                length += more
            else:
                doubling = False
            more = more * 2 if doubling else (more + 1) // 2 if more > 1 else 0
        yield index, length, value
        index += length


def _expected(value: int, length: int, step: int) -> "array[int]":
    if step:
        return array("Q", range(value, value + length * step, step))
    return array("Q", (value,)) * length


def _run(value: int, offset: int, clusters: int, header: Header, place: int) -> Run | None:
    length = min(clusters * header.cluster_bytes, header.virtual_bytes - offset)
    if value & _COMPRESSED:
        return Run(offset, length, Kind.COMPRESSED, value)
    host = value & _OFFSET
    if value & _L2_RESERVED or host % header.cluster_bytes or (value & 1 and header.version < 3):
        raise _bad(f"the L2 entry for virtual byte {offset} ({value:#x})", header, place)
    if value & 1:
        return Run(offset, length, Kind.ZERO, 0)
    if host and host + (clusters - 1) * header.cluster_bytes >= header.file_bytes:
        raise _bad(f"the data of virtual byte {offset} at {host}", header, place)
    return Run(offset, length, Kind.DATA, host) if host else None


def _table(fd: int, offset: int, length: int) -> "array[int]":
    table = array("Q", os.pread(fd, length, offset).ljust(length, b"\0"))
    if sys.byteorder == "little":
        table.byteswap()
    return table


def _bad(what: str, header: Header, place: int) -> CorruptError:
    return CorruptError(
        f"{header.name}: {what} is impossible in a file of {header.file_bytes} bytes (at byte {place}).",
        remedy="`qemu-img check -f qcow2` lists the damage; restore the file if it was cut short.",
    )


def validate(fd: int, header: Header) -> None:
    """Raise CorruptError unless every entry of the tables is possible."""
    deque(runs(fd, header), maxlen=0)


def has_compressed(fd: int, header: Header) -> bool:
    """Tell whether clusters are compressed, which only qemu-img unpacks."""
    return any(run.kind is Kind.COMPRESSED for run in runs(fd, header))


def commit_to_raw(fd: int, header: Header, target: int, attempt: Attempt) -> None:
    """Write what the layer holds into a raw image that is at least as long; repeating it changes nothing.

    Compressed clusters are an error here: look with `has_compressed` first.
    """
    for run in runs(fd, header):
        for start in range(0, run.length, raw.SLICE_BYTES):
            raw.check_cancelled(attempt)
            length = min(raw.SLICE_BYTES, run.length - start)
            move(fd, header, run, start, target, run.offset + start, length)
            attempt.progress(run.offset + start, header.virtual_bytes)
            if attempt.io_bytes_per_s and run.kind is Kind.DATA:
                time.sleep(length / attempt.io_bytes_per_s)


def move(fd: int, header: Header, run: Run, start: int, target: int, offset: int, length: int) -> None:
    """Write a part of a run, from `start` within it, to `offset` in another file."""
    if run.kind is Kind.ZERO:
        raw.zero(target, offset, length)
    elif run.kind is Kind.DATA:
        raw.move(fd, run.host_offset + start, target, offset, length)
    else:
        raise _bad("a compressed cluster", header, 0)
