"""One image of a chain, as every other part of this room is told of it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One image of a chain."""

    name: str
    format: str
    virtual_bytes: int
    allocated_bytes: int
    """What it takes on storage."""
    backing: str | None = None
    backing_format: str | None = None
