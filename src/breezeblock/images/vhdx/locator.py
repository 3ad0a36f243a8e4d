"""The parent locator: which parent a differencing image was made for ([MS-VHDX] 2.6.2.6)."""

import re
from uuid import UUID

import msgspec

from breezeblock.images.layer import WrongBytesError
from breezeblock.images.vhdx.layout import (
    LOCATOR_ENTRY,
    LOCATOR_HEADER,
    LOCATOR_TYPE,
    MAX_PAIRS,
    NIL,
    guid_text,
)

LINKAGE, LINKAGE2 = "parent_linkage", "parent_linkage2"
RELATIVE = "relative_path"
PATHS = (RELATIVE, "volume_path", "absolute_win32_path")
"""In the order in which Windows tries them."""
_GUID = re.compile(r"\{[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\}\Z")


class Locator(msgspec.Struct, frozen=True):
    """The pairs of a locator, checked."""

    pairs: dict[str, str]
    linkage: UUID
    """The DataWriteGuid of the parent."""
    linkage2: UUID | None = None
    """What it may be instead while the parent takes in this image, and after."""

    @property
    def paths(self) -> tuple[str, ...]:
        """Where the parent is said to be, best first."""
        return tuple(self.pairs[key] for key in PATHS if key in self.pairs)

    def accepts(self, data_write: UUID) -> bool:
        """Tell whether a parent with that DataWriteGuid is the right one."""
        return data_write in (self.linkage, self.linkage2)


def make(name: str, linkage: UUID, linkage2: UUID | None = None) -> Locator:
    """Return a locator for a parent in the same directory.

    Only the relative path: a stale absolute one makes Windows call the disk damaged.
    """
    pairs = {LINKAGE: f"{{{linkage}}}"}
    if linkage2:
        pairs[LINKAGE2] = f"{{{linkage2}}}"
    pairs[RELATIVE] = f".\\{name}"
    return Locator(pairs, linkage, linkage2)


def with_linkage2(locator: Locator, linkage2: UUID) -> Locator:
    """Return the same locator with another second linkage."""
    return Locator({**locator.pairs, LINKAGE2: f"{{{linkage2}}}"}, locator.linkage, linkage2)


def encode(locator: Locator) -> bytes:
    """Return the metadata item."""
    front, strings = bytearray(LOCATOR_HEADER.pack(LOCATOR_TYPE, 0, len(locator.pairs))), bytearray()
    base = LOCATOR_HEADER.size + LOCATOR_ENTRY.size * len(locator.pairs)
    for key, value in locator.pairs.items():
        raw_key, raw_value = (text.encode("utf-16-le", "surrogatepass") for text in (key, value))
        at = base + len(strings)
        front += LOCATOR_ENTRY.pack(at, at + len(raw_key), len(raw_key), len(raw_value))
        strings += raw_key + raw_value
    return bytes(front + strings)


def parse(data: bytes) -> Locator:
    """Decode the item. Raises WrongBytesError."""
    if len(data) < LOCATOR_HEADER.size:
        raise WrongBytesError(f"a parent locator of {len(data)} bytes cannot be", 0)
    kind, _, count = LOCATOR_HEADER.unpack_from(data)
    if kind != LOCATOR_TYPE:
        raise WrongBytesError(f"the parent locator's type {guid_text(kind)} is unknown", 0)
    if count > MAX_PAIRS or LOCATOR_HEADER.size + count * LOCATOR_ENTRY.size > len(data):
        raise WrongBytesError(f"a parent locator of {count} pairs cannot be", 18)
    pairs: dict[str, str] = {}
    for number in range(count):
        at = LOCATOR_HEADER.size + number * LOCATOR_ENTRY.size
        key_at, value_at, key_bytes, value_bytes = LOCATOR_ENTRY.unpack_from(data, at)
        key, value = (
            _text(data, start, length, at) for start, length in ((key_at, key_bytes), (value_at, value_bytes))
        )
        if key in pairs:
            raise WrongBytesError(f"the parent locator has {key[:40]!a} twice", at)
        pairs[key] = value
    linkage = _guid(pairs, LINKAGE)
    if linkage is None:
        raise WrongBytesError("the parent locator has no parent_linkage", 0)
    return Locator(pairs, linkage, _guid(pairs, LINKAGE2))


def _text(data: bytes, start: int, length: int, at: int) -> str:
    if length % 2 or start + length > len(data):
        raise WrongBytesError(f"a text of {length} bytes at {start} in the parent locator cannot be", at)
    return data[start : start + length].decode("utf-16-le", "surrogatepass")


def _guid(pairs: dict[str, str], key: str) -> UUID | None:
    value = pairs.get(key)
    if value is None or (key == LINKAGE2 and value == f"{{{NIL}}}"):
        return None
    if not _GUID.match(value):
        raise WrongBytesError(f"{key} is {value[:60]!a}, no GUID", 0)
    return UUID(value)
