"""Looking at images without changing them: probe, info, chain, map, check, compare."""

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

import msgspec

from breezeblock.attempt import Attempt
from breezeblock.errors import CorruptError
from breezeblock.images import formats, stack
from breezeblock.images.file import opened
from breezeblock.images.layer import Kind, Layer
from breezeblock.images.raw import check_cancelled
from breezeblock.images.stack import Stack, opened_stack

_CHUNK_BYTES = 4 << 20
_MOST = 1000
"""Problems of one layer that are told."""


class Info(msgspec.Struct, frozen=True, kw_only=True):
    """One image."""

    name: str
    format: str
    virtual_bytes: int
    file_bytes: int
    allocated_bytes: int
    """What it takes on storage."""
    identity: str
    parent: str | None
    """The parent's recorded path; only a bare name is ever followed."""
    parent_format: str | None
    details: Mapping[str, object]
    """What only its format has."""


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """Something wrong in an image."""

    name: str
    text: str
    offset: int
    repairable: bool


class Mapped(msgspec.Struct, frozen=True, kw_only=True):
    """Where a part of the disk is."""

    start: int
    length: int
    zero: bool
    """It reads as zeros without being stored."""
    depth: int
    """Which layer has it; 0 is the image itself."""
    offset: int | None
    """Where in that layer's file, if it lies there as it is."""


def probe(path: Path, image_format: str | None = None) -> Info:
    """Tell what a file is and records, from bounded reads of this one file; no name is followed.

    Without `image_format` it is what the file claims to be. Raises CorruptError.
    """
    with opened(path) as file:
        return _info(formats.open_layer(file, image_format or formats.guess(file)))


info = probe


def chain(path: Path, image_format: str | None = None) -> tuple[Info, ...]:
    """Describe an image and all its parents, the image first. Raises CorruptError."""
    with opened_stack(path, image_format) as layers:
        return tuple(_info(layer) for layer in layers.layers)


def _info(layer: Layer) -> Info:
    status, recorded = layer.file.status, layer.parent
    return Info(
        name=layer.file.name,
        format=layer.format,
        virtual_bytes=layer.virtual_bytes,
        file_bytes=status.st_size,
        allocated_bytes=status.st_blocks * 512,
        identity=layer.identity,
        parent=None if recorded is None else recorded.paths[0] if recorded.paths else "",
        parent_format=recorded.format if recorded else None,
        details=layer.details,
    )


def extents(path: Path, image_format: str | None = None) -> Iterator[Mapped]:
    """Yield where each part of the disk is, in order and without gaps."""
    with opened_stack(path, image_format) as layers:
        depths = {id(layer): depth for depth, layer in enumerate(layers.layers)}
        for one, layer in stack.extents(layers, 0, layers.virtual_bytes):
            data = one.kind is Kind.DATA
            yield Mapped(
                start=one.offset,
                length=one.length,
                zero=one.kind is Kind.ZERO,
                depth=depths[id(layer)],
                offset=one.at if data else None,
            )


def check(path: Path, image_format: str | None = None) -> list[Found]:
    """Look at all tables of an image and its parents; return what is wrong, nothing if all is right."""
    found: list[Found] = []
    name = path.name
    try:
        with opened_stack(path, image_format) as layers:
            for layer in layers.layers:
                name = layer.file.name
                found += (
                    Found(name=name, text=one.text, offset=one.offset, repairable=one.repairable)
                    for one in islice(layer.check(), _MOST)
                )
    except CorruptError as error:
        found.append(Found(name=name, text=error.message, offset=0, repairable=False))
    return found


def compare(
    one: Path,
    other: Path,
    formats_: tuple[str | None, str | None] = (None, None),
    attempt: Attempt | None = None,
) -> int | None:
    """Return the first virtual byte in which two disks differ, None if they are equal.

    Disks of different lengths differ at the shorter one's end, if not before. Changes nothing, so that an
    `attempt` is only told of progress, and asked whether to stop.
    """
    attempt = attempt or Attempt("image", "compare")
    with opened_stack(one, formats_[0]) as left, opened_stack(other, formats_[1]) as right:
        shared = min(left.virtual_bytes, right.virtual_bytes)
        for offset, length in _worth_reading(left, right, shared):
            check_cancelled(attempt)
            attempt.progress(offset, shared)
            a, b = stack.read(left, offset, length), stack.read(right, offset, length)
            if a != b:
                return offset + _first_difference(a, b)
        return None if left.virtual_bytes == right.virtual_bytes else shared


def _worth_reading(left: Stack, right: Stack, end: int) -> Iterator[tuple[int, int]]:
    """Yield ranges, in order, leaving out where both are zeros for certain."""
    sides = [_spans(left, end), _spans(right, end)]
    current = [next(side, None) for side in sides]
    offset = 0
    while offset < end:
        stop = min([one[0] for one in current if one] + [end, offset + _CHUNK_BYTES])
        if any(one and one[1] for one in current):
            yield offset, stop - offset
        elif all(current):
            stop = min(one[0] for one in current if one)
        offset = stop
        for index, one in enumerate(current):
            if one and one[0] <= offset:
                current[index] = next(sides[index], None)


def _spans(side: Stack, end: int) -> Iterator[tuple[int, bool]]:
    """Yield (end, may hold data) for each extent, holes of files counting as zeros."""
    for part in stack.extents(side, 0, end):
        if part.extent.kind is Kind.DATA:
            for at, length, is_data in part.layer.file.spans(part.extent.at, part.extent.length):
                yield part.extent.offset + at + length - part.extent.at, is_data
        else:
            yield part.extent.end, part.extent.kind is not Kind.ZERO


def _first_difference(a: bytes, b: bytes) -> int:
    low, high = 0, len(a)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if a[low:middle] != b[low:middle] else (middle, high)
    return low
