"""Writing a QCOW2 overlay that holds chosen ranges, in one pass.

The file is new and nobody reads it before it is published, so its tables need no ordering: everything is
laid out beforehand, each cluster is used once, and the data lies in the order of the disk.
"""

import os
import sys
from array import array
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass

from breezeblock.attempt import Attempt
from breezeblock.images import clusters, qcow2, raw
from breezeblock.images.qcow2 import CLUSTER_BYTES, Header

_COPIED = 1 << 63
_L2_ENTRIES = CLUSTER_BYTES // 8
_REFCOUNTS = CLUSTER_BYTES // 2


@dataclass(frozen=True, slots=True)
class Place:
    """A range of whole clusters of the disk, and where the file has it."""

    offset: int
    length: int
    host_offset: int


def cover(ranges: Iterable[tuple[int, int]], virtual_bytes: int) -> list[tuple[int, int]]:
    """Return the ranges (offset, length) widened to whole clusters, joined and sorted."""
    joined: list[tuple[int, int]] = []
    for offset, length in sorted(ranges):
        start = offset // CLUSTER_BYTES * CLUSTER_BYTES
        end = -(-min(offset + length, virtual_bytes) // CLUSTER_BYTES) * CLUSTER_BYTES
        if joined and start <= joined[-1][0] + joined[-1][1]:
            first, old = joined[-1]
            joined[-1] = (first, max(old, end - first))
        elif start < end:
            joined.append((start, end - start))
    return joined


def create(
    fd: int,
    virtual_bytes: int,
    backing: str,
    backing_format: str,
    ranges: list[tuple[int, int]],
) -> list[Place]:
    """Write an overlay in which `ranges` (from `cover`) are allocated, and still read as zeros."""
    qcow2.create(fd, virtual_bytes, backing=backing, backing_format=backing_format)
    header = qcow2.parse(fd)
    tables = sorted({at for offset, length in ranges for at in _tables_of(offset, length)})
    used = os.fstat(fd).st_size // CLUSTER_BYTES
    first_data = used + len(tables)
    total = first_data + sum(length for _offset, length in ranges) // CLUSTER_BYTES
    # One refcount block is there already; more of them need to be counted themselves.
    blocks = 1
    while blocks * _REFCOUNTS < total + blocks - 1:
        blocks += 1
    first_data, total = first_data + blocks - 1, total + blocks - 1
    places = []
    host = first_data * CLUSTER_BYTES
    for offset, length in ranges:
        places.append(Place(offset, length, host))
        host += length
    os.ftruncate(fd, total * CLUSTER_BYTES)
    _write_mapping(fd, header, tables, used, places)
    _write_refcounts(fd, total, [2, *range(first_data - blocks + 1, first_data)])
    return places


def _tables_of(offset: int, length: int) -> range:
    reach = _L2_ENTRIES * CLUSTER_BYTES
    return range(offset // reach, (offset + length - 1) // reach + 1)


def _write_mapping(fd: int, header: Header, tables: list[int], at: int, places: list[Place]) -> None:
    entries = {number: array("Q", bytes(CLUSTER_BYTES)) for number in tables}
    for place in places:
        for step in range(0, place.length, CLUSTER_BYTES):
            number, index = divmod((place.offset + step) // CLUSTER_BYTES, _L2_ENTRIES)
            entries[number][index] = (place.host_offset + step) | _COPIED
    for position, number in enumerate(tables, start=at):
        os.pwrite(
            fd, _big_endian(array("Q", [position * CLUSTER_BYTES | _COPIED])), header.l1_offset + 8 * number
        )
        os.pwrite(fd, _big_endian(entries[number]), position * CLUSTER_BYTES)


def _write_refcounts(fd: int, total: int, blocks: list[int]) -> None:
    os.pwrite(fd, _big_endian(array("Q", [block * CLUSTER_BYTES for block in blocks])), CLUSTER_BYTES)
    for number, block in enumerate(blocks):
        count = min(_REFCOUNTS, total - number * _REFCOUNTS)
        os.pwrite(fd, b"\0\1" * count, block * CLUSTER_BYTES)


def _big_endian(table: "array[int]") -> bytes:
    if sys.byteorder == "little":
        table.byteswap()
    return table.tobytes()


def fill_from_raw(fd: int, places: list[Place], source: int, attempt: Attempt) -> None:
    """Give the places what a raw image holds there; zeros beyond its end."""
    for place in places:
        for step in range(0, place.length, raw.SLICE_BYTES):
            raw.check_cancelled(attempt)
            length = min(raw.SLICE_BYTES, place.length - step)
            raw.move(source, place.offset + step, fd, place.host_offset + step, length)


def fill_from_layer(fd: int, places: list[Place], source: int, header: Header, attempt: Attempt) -> None:
    """Lay what a QCOW2 layer itself holds over the places. Compressed clusters are an error."""
    starts = [place.offset for place in places]
    for run in clusters.runs(source, header):
        raw.check_cancelled(attempt)
        number = max(0, bisect_right(starts, run.offset) - 1)
        while number < len(places) and places[number].offset < run.offset + run.length:
            place = places[number]
            start = max(run.offset, place.offset)
            length = min(run.offset + run.length, place.offset + place.length) - start
            if length > 0:
                target = place.host_offset + start - place.offset
                clusters.move(source, header, run, start - run.offset, fd, target, length)
            number += 1
