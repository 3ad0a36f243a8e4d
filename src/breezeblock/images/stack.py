"""A chain: layers one above the other, read as one disk.

A parent is looked for in the child's own directory, under a bare file name, in the format and with the
identity that the child records. Nothing else in a header is ever followed.

A layer may be longer than the one below it: what lies beyond that one's end is zeros.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from breezeblock.errors import InvalidInputError, UnsupportedError
from breezeblock.images import formats
from breezeblock.images.file import File, open_named
from breezeblock.images.layer import Extent, Kind, Layer, Parent, corrupt

MAX_DEPTH = 256
_PREFIX = re.compile(r"(?:file://)?(?:\./|\.\\)?")
_BARE = re.compile(r"[^/\\:\0]{1,255}\Z")
_MOST_LETTERS = 300
"""Of a recorded path that is a bare name, its prefix included."""


class Part(NamedTuple):
    """An extent and the layer that it is of."""

    extent: Extent
    layer: Layer


class Stack(NamedTuple):
    """The open layers of a chain, the topmost first."""

    layers: tuple[Layer, ...]
    directory: Path
    """In which all of them are."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """Where the layers are, as they were named when they were opened."""
        return tuple(self.directory / layer.file.name for layer in self.layers)

    @property
    def top(self) -> Layer:
        """The layer that a consumer opens."""
        return self.layers[0]

    @property
    def virtual_bytes(self) -> int:
        """How many bytes the disk has: those of the topmost layer."""
        return self.top.virtual_bytes

    def below(self, depth: int = 1) -> "Stack":
        """Return the chain without its topmost layers."""
        return Stack(self.layers[depth:], self.directory)


@contextmanager
def opened_stack(path: Path, image_format: str | None = None, *, write: int = 0) -> Iterator[Stack]:
    """Open an image and all its parents, the topmost `write` layers for writing.

    `image_format` is the first one's; the parents' are recorded. None = what the file claims to be.
    Raises CorruptError for a parent that is missing, foreign, its own ancestor, or too deep.
    """
    files: list[File] = []
    layers: list[Layer] = []
    seen: set[tuple[int, int]] = set()
    place, name, directory = str(path), path.name, str(path.parent)
    try:
        while True:
            file = _opened(place, name, layers, write=len(layers) < write)
            files.append(file)
            inode = (file.status.st_dev, file.status.st_ino)
            if inode in seen:
                raise corrupt(layers[-1].file, f"its parent {name} is its own child", 0)
            seen.add(inode)
            layer = formats.open_layer(file, image_format or formats.guess(file))
            if layers:
                layers[-1].verify_parent(layer)
            layers.append(layer)
            recorded = layer.parent
            if recorded is None:
                break
            if len(layers) == MAX_DEPTH:
                raise corrupt(file, f"more than {MAX_DEPTH} layers", 0)
            name, image_format = parent_name(layer, recorded), recorded.format
            place = f"{directory}/{name}"
        yield Stack(tuple(layers), path.parent)
    finally:
        for file in files:
            os.close(file.fd)


def _opened(place: str, name: str, layers: list[Layer], *, write: bool) -> File:
    try:
        return open_named(place, name, write=write)
    except FileNotFoundError as error:
        if not layers:
            raise
        raise corrupt(
            layers[-1].file,
            f"its parent {name} is missing",
            0,
            remedy="Bring it back beside the image, or name another by `breezeblock image reparent`.",
        ) from error


def parent_name(layer: Layer, recorded: Parent) -> str:
    """Return the first recorded path that is a bare name. Raises CorruptError if there is none."""
    for path in recorded.paths:
        if len(path) <= _MOST_LETTERS and (name := _bare(path)):
            return name
    told = ", ".join(ascii(path[:120]) for path in recorded.paths) or "nothing"
    raise corrupt(
        layer.file,
        f"its parent must be in the same directory, but {told} is recorded",
        0,
        remedy="Move the parent beside it and run `breezeblock image reparent`.",
    )


@lru_cache(4096)
def _bare(path: str) -> str:
    """Return the file name that a path is but for its prefix; empty if it is more."""
    name = path[_PREFIX.match(path).end() :]  # type: ignore[union-attr]
    return name if _BARE.match(name) and name not in {".", ".."} else ""


def require_room(below: Stack) -> None:
    """Raise UnsupportedError if a chain with one more layer could not be read again."""
    if len(below.layers) >= MAX_DEPTH:
        raise UnsupportedError(
            f"{below.top.file.name} is the last that can be: chains have at most {MAX_DEPTH} layers.",
            remedy="Flatten or merge some of them first.",
        )


def check_name(name: str) -> str:
    """Return a name that a child can record. Raises InvalidInputError."""
    if not _BARE.match(name) or name in {".", ".."} or _PREFIX.match(name).end():  # type: ignore[union-attr]
        raise InvalidInputError(f"{name[:80]!a} is no bare file name.")
    return name


def extents(stack: Stack, offset: int, length: int, depth: int = 0) -> Iterator[Part]:
    """Divide a range of the disk: who has each part. Yields no PARENT extents."""
    layer = stack.layers[depth]
    beneath = stack.layers[depth + 1].virtual_bytes if depth + 1 < len(stack.layers) else 0
    for one in layer.extents(offset, length):
        if one.kind is not Kind.PARENT:
            yield Part(one, layer)
            continue
        if one.offset < beneath:
            yield from extents(stack, one.offset, min(one.end, beneath) - one.offset, depth + 1)
        if one.end > beneath:
            start = max(one.offset, beneath)
            yield Part(Extent(start, one.end - start, Kind.ZERO), layer)


def load(part: Part) -> bytes:
    """Return a part's bytes."""
    extent, layer = part
    if extent.kind is Kind.DATA:
        return layer.file.read(extent.at, extent.length)
    if extent.kind is Kind.PACKED:
        return layer.unpack(extent)
    return bytes(extent.length)


def read(stack: Stack, offset: int, length: int) -> bytes:
    """Return exactly `length` bytes of the disk. Raises InvalidInputError outside it."""
    if offset < 0 or length < 0 or offset + length > stack.virtual_bytes:
        raise InvalidInputError(
            f"Bytes {offset}+{length} are outside the {stack.virtual_bytes} bytes of {stack.top.file.name}."
        )
    return b"".join(load(part) for part in extents(stack, offset, length))


def is_zero(part: Part) -> bool:
    """Tell whether a part is zeros without reading it."""
    return part.extent.kind is Kind.ZERO
