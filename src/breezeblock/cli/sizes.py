"""Sizes as people write and read them."""

import re

from breezeblock.errors import InvalidInputError

GIB = 1024**3
_UNITS = {
    "": GIB,
    "m": 1024**2,
    "mib": 1024**2,
    "g": GIB,
    "gib": GIB,
    "t": 1024**4,
    "tib": 1024**4,
    "p": 1024**5,
    "pib": 1024**5,
    "mb": 1000**2,
    "gb": 1000**3,
    "tb": 1000**4,
}
_SIZE = re.compile(r"(?P<number>[0-9]{1,19})\s*(?P<unit>[A-Za-z]*)")


def gibibytes(text: str) -> int:
    """Return the whole GiB that `10`, `10G`, `10GiB`, `1T`, `2048M` … mean; a bare number is GiB.

    Raises InvalidInputError for anything else, and for what is no whole number of GiB: the Block
    Storage API counts volumes in GiB, and rounding silently would surprise somebody.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None or match["unit"].lower() not in _UNITS:
        raise InvalidInputError(f"{text!r} is no size", remedy="Write 10, 10G, 10GiB or 1TiB.")
    count, rest = divmod(int(match["number"]) * _UNITS[match["unit"].lower()], GIB)
    if rest:
        raise InvalidInputError(
            f"{text!r} is no whole number of GiB",
            remedy=f"Write {count + 1}GiB, or {count}GiB." if count else "The smallest volume has 1GiB.",
        )
    return count


def of_bytes(text: str) -> int:
    """Return the bytes that `10GiB`, `512MiB`, `1536B` … mean; a bare number is GiB.

    Raises InvalidInputError for anything else.
    """
    match = _SIZE.fullmatch(text.strip())
    units = {**_UNITS, "b": 1, "k": 1024, "kib": 1024, "kb": 1000}
    if match is None or match["unit"].lower() not in units:
        raise InvalidInputError(f"{text!r} is no size", remedy="Write 10GiB, 512MiB or 1536B.")
    return int(match["number"]) * units[match["unit"].lower()]


def human(count: float | None) -> str:
    """Return a byte count with a binary unit, `-` for None."""
    if count is None:
        return "-"
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB", "PiB"):
        if abs(value) < 1024 or unit == "PiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" or value == int(value) else f"{value:.1f} {unit}"
