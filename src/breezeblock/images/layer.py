"""The one abstraction of this room: a layer gives extents and reads them; a chain is layers.

An image file of whatever format is a `Layer`. It divides its virtual bytes into extents: DATA that lies
somewhere in its file, ZERO, or PARENT = "ask the layer below". Everything above the formats (reading a
chain, merging, flattening, converting, comparing) works on extents and knows no format. A format is a
module that offers what `Format` asks for.

Writing is offline and has two halves, so that a stop at any write leaves the old or the new content:
`place` says where in the file bytes are to be put, without anything reading them yet; `commit` flushes
them and then publishes all places since the last commit in the tables, durably. Bytes that the layer
held already are overwritten where they are.

All offsets and lengths are bytes. Errors: `CorruptError` for what is wrong in a file (made by `corrupt`,
naming the offset), `InvalidInputError` for what a caller must not ask, `UnsupportedError` for what a
format cannot do; the kernel's OSError passes.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, NamedTuple, Protocol

import msgspec

from breezeblock.errors import CorruptError, UnsupportedError
from breezeblock.images.file import File


class Kind(Enum):
    """Where an extent's bytes come from."""

    DATA = "data"
    """They lie as they are in the layer's file, at `Extent.at`."""
    ZERO = "zero"
    """They are zeros, whatever the layer below holds."""
    PARENT = "parent"
    """The layer below has them; zeros where there is none, or where it is shorter."""
    PACKED = "packed"
    """They are the layer's own but stored compressed: `Layer.unpack` returns them."""


class Extent(NamedTuple):
    """Neighbouring virtual bytes of one kind."""

    offset: int
    length: int
    kind: Kind
    at: int = 0
    """Where in the file DATA begins; for PACKED whatever the format needs to find it."""

    @property
    def end(self) -> int:
        """The first byte behind it."""
        return self.offset + self.length

    def clip(self, start: int, end: int) -> "Extent":
        """Return the part of it between two virtual offsets."""
        first = max(self.offset, start)
        at = self.at + first - self.offset if self.kind is Kind.DATA else self.at
        return Extent(first, min(self.end, end) - first, self.kind, at)


def joined(extents: Iterable[Extent]) -> Iterator[Extent]:
    """Yield the extents with neighbours of one kind made one, and empty ones left out."""
    last: Extent | None = None
    for one in extents:
        if last and _continues(last, one):
            last = last._replace(length=last.length + one.length)
            continue
        if last and last.length:
            yield last
        last = one
    if last and last.length:
        yield last


def _continues(last: Extent, one: Extent) -> bool:
    if last.kind is Kind.DATA is one.kind:
        return last.at + last.length == one.at
    return last.kind is one.kind and last.kind is not Kind.PACKED


class Parent(msgspec.Struct, frozen=True):
    """What a layer records of the layer below it."""

    paths: tuple[str, ...]
    """As recorded, best first; whether one may be followed is decided in `stack`, never in a format."""
    identity: str
    """What the parent's `identity` must be; empty if the format records none."""
    format: str
    """Which format the parent must be of."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that `check` found."""

    text: str
    offset: int
    """Where in the file."""
    repairable: bool
    """`repair` mends it without losing anything that could be read."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How to make an image; each format takes what applies to it and refuses what it cannot do."""

    fixed: bool = False
    """All blocks are there from the start."""
    block_bytes: int | None = None
    """VHD block, VHDX block or QCOW2 cluster; None = the format's best."""
    sector_bytes: int = 512
    """Logical sector (VHDX: 512 or 4096)."""
    creator: str | None = None
    """For whom a VHD is tagged: `windows` (Hyper-V, QEMU) or `xen` (XenServer); None = as the parent is."""


class Layer(ABC):
    """One open image file."""

    format: ClassVar[str]

    def __init__(self, file: File) -> None:
        self.file = file

    @property
    @abstractmethod
    def virtual_bytes(self) -> int:
        """How many bytes the disk has."""

    @property
    def sector_bytes(self) -> int:
        """The unit of `place`, `zero` and of the extents' borders; 1 where there is none."""
        return 512

    @property
    def identity(self) -> str:
        """What a child records to know its parent again; empty if the format has none."""
        return ""

    @property
    def parent(self) -> Parent | None:
        """What it records of the layer below; None for a layer that stands alone."""
        return None

    @property
    def details(self) -> Mapping[str, object]:
        """What else `info` tells of it: plain values (str, int, bool, None) under snake_case names."""
        return {}

    @abstractmethod
    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        """Divide a range inside the virtual bytes: in order, without gaps, clipped to the range.

        Neighbouring extents that can be one should be one. Reads tables piecemeal: memory stays bounded
        whatever the size. Raises CorruptError where a table is impossible.
        """

    def unpack(self, extent: Extent) -> bytes:
        """Return a PACKED extent's bytes."""
        raise UnsupportedError(f"{self.file.name}: {self.format} has no compression ({extent.offset}).")

    def verify_parent(self, parent: "Layer") -> None:
        """Raise CorruptError unless `parent` is, by format and identity, the one that was recorded.

        A parent with this layer's own identity passes too: it has taken in all that this layer holds and
        is about to replace it (`adopt`), so that reading both is right.
        """
        recorded = self.parent
        if recorded is None or recorded.format != parent.format:
            expected = recorded.format if recorded else "nothing"
            raise corrupt(self.file, f"its parent must be {expected}, not {parent.format}", 0)
        if parent.identity not in {recorded.identity, self.identity}:
            raise corrupt(
                self.file,
                f"it was made for a parent with the identity {recorded.identity}, "
                f"but that of {parent.file.name} is {parent.identity}",
                0,
            )

    # --- changing it -----------------------------------------------------------------------------

    @abstractmethod
    def place(self, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """Yield (where in the file, length) for bytes that the caller then writes there; see `commit`.

        `offset` and `length` are multiples of `sector_bytes`, or end where the virtual bytes end.
        New places hold zeros until written, never what lay there before.
        """

    @abstractmethod
    def zero(self, offset: int, length: int) -> None:
        """Let a range (as in `place`) read as zeros after the next `commit`, hiding the parent's bytes."""

    @abstractmethod
    def commit(self) -> None:
        """Flush what was written, then publish it durably. Without anything to publish: only flush."""

    def grow(self, virtual_bytes: int) -> None:
        """Raise the virtual bytes, durably; the new ones are zeros. Never shrinks."""
        raise UnsupportedError(f"{self.file.name}: cannot grow {self.format} to {virtual_bytes} bytes here.")

    def reparent(self, parent: "Layer", name: str) -> None:
        """Record another parent that reads the same, by its bare file name, durably."""
        raise UnsupportedError(f"{self.file.name}: {self.format} has no parent ({name}, {parent.format}).")

    def receive(self, child: "Layer") -> None:  # noqa: B027 - most formats have nothing to do
        """Prepare for taking in what `child` holds: `child` must verify this parent before and after.

        Called once before a merge writes; safe to repeat.
        """

    def adopt(self, child: "Layer") -> None:
        """Take `child`'s identity after a merge, durably, so that it can stand in the child's place."""
        raise UnsupportedError(f"{self.file.name}: {self.format} cannot adopt {child.file.name}.")

    def check(self) -> Iterator[Problem]:
        """Look at every table and yield what is wrong; raises CorruptError if it cannot go on."""
        yield from ()

    def repair(self) -> list[str]:
        """Mend what is repairable without loss; return what was done."""
        return []


class Format(Protocol):
    """What a format's module (or package) offers; `formats` lists them."""

    NAME: str
    """As commands and callers write it."""

    def recognises(self, head: bytes, tail: bytes) -> bool:
        """Tell by the file's first and last 512 bytes (or all of it) whether it claims to be this format."""
        ...

    def open_layer(self, file: File) -> Layer:
        """Read the headers. Raises CorruptError. Follows no name; writes nothing."""
        ...

    def create(self, file: File, virtual_bytes: int, options: Options) -> None:
        """Write an image of zeros into an empty file that nobody can see yet; the caller flushes.

        Raises InvalidInputError, naming the limit, for what the format cannot hold exactly.
        """
        ...

    def create_child(self, file: File, parent: Layer, name: str, options: Options) -> None:
        """Write an image that holds nothing, above `parent`, into an empty file; the caller flushes.

        `name` is the parent's bare file name, in the same directory as the new file will be.
        """
        ...


class WrongBytesError(Exception):
    """Something wrong in bytes that were read from a file; whoever knows the file makes `corrupt` of it.

    So decoding is a function of the bytes alone, whose results can be kept: the layers of a chain, and a
    chain looked at again, mostly hold the same.
    """

    def __init__(self, problem: str, at: int) -> None:
        super().__init__(problem)
        self.problem, self.at = problem, at

    def of(self, file: File, offset: int) -> CorruptError:
        """Return the error for the file in which the bytes lie at `offset`."""
        return corrupt(file, self.problem, offset + self.at)


def corrupt(file: File, problem: str, offset: int, *, remedy: str = "") -> CorruptError:
    """Return the error for something wrong in a file."""
    return CorruptError(
        f"{file.name}: {problem} (at byte {offset}).",
        remedy=remedy
        or "`breezeblock image check` lists what is wrong; restore the file if it was cut short.",
    )
