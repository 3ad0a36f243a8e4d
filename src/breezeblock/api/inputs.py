"""Checking what clients write into bodies; every refusal names the field and the limit."""

import re
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from breezeblock.errors import InvalidInputError
from breezeblock.service.core import GIB

MAX_GIB = 2**31 - 1
MAX_TEXT = 255

_TRUE = frozenset({"1", "t", "true", "on", "y", "yes"})
_FALSE = frozenset({"0", "f", "false", "off", "n", "no"})
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_CONTROL_IN_PROSE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def refuse(field: str, value: object, why: str) -> InvalidInputError:
    """Return the error for a field's value."""
    shown = repr(value)
    if len(shown) > 80:
        shown = f"{shown[:77]}..."
    return InvalidInputError(f"Invalid input for field/attribute {field}. Value: {shown}. {why}")


def name(field: str, value: object, *, required: bool = False) -> str | None:
    """Check a name: stripped, at most 255 characters, no control characters."""
    if value is None and not required:
        return None
    if not isinstance(value, str):
        raise refuse(field, value, "It must be a string.")
    stripped = value.strip()
    if len(stripped) > MAX_TEXT:
        raise refuse(field, value, f"It has {len(stripped)} characters; at most {MAX_TEXT} are allowed.")
    if _CONTROL.search(stripped):
        raise refuse(field, value, "Control characters are not allowed.")
    if required and not stripped:
        raise refuse(field, value, "It must not be empty.")
    return stripped


def prose(field: str, value: object) -> str | None:
    """Check a description: like a name, but lines may break."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise refuse(field, value, "It must be a string.")
    stripped = value.strip()
    if len(stripped) > MAX_TEXT:
        raise refuse(field, value, f"It has {len(stripped)} characters; at most {MAX_TEXT} are allowed.")
    if _CONTROL_IN_PROSE.search(stripped):
        raise refuse(field, value, "Control characters other than line breaks and tabs are not allowed.")
    return stripped


def whole(field: str, value: object, *, low: int, high: int, unit: str = "") -> int:
    """Check a whole number, which may also come as decimal text."""
    number: int | None = None
    if isinstance(value, int) and not isinstance(value, bool):
        number = value
    elif isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,20}", value.strip(), re.ASCII):
        number = int(value)
    if number is None:
        raise refuse(field, value, "It must be a whole number.")
    if not low <= number <= high:
        raise refuse(field, value, f"It must be between {low} and {high}{unit}.")
    return number


def gibibytes(field: str, value: object) -> int:
    """Check a size in GiB; return it in bytes."""
    return whole(field, value, low=1, high=MAX_GIB, unit=" GiB") * GIB


def flag(field: str, value: object) -> bool:
    """Check a boolean, which may also come as one of the usual words."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int | str):
        word = str(value).strip().lower()
        if word in _TRUE:
            return True
        if word in _FALSE:
            return False
    raise refuse(field, value, "It must be true or false.")


def identifier(field: str, value: object) -> str:
    """Check an RFC 4122 id; return it in lower case with its dashes."""
    try:
        if isinstance(value, str) and len(value) <= 36:
            return str(uuid.UUID(value))
    except ValueError:
        pass
    raise refuse(field, value, "It must be a UUID.")


def optional_identifier(field: str, value: object) -> str | None:
    """Check an id that may be absent."""
    return None if value is None or value == "" else identifier(field, value)


def pairs(field: str, value: object) -> dict[str, str]:
    """Check metadata or extra specs: an object of short strings under short keys."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise refuse(field, value, "It must be an object of strings.")
    for key, item in value.items():
        if not 1 <= len(key) <= MAX_TEXT or _CONTROL.search(key) or not key.strip():
            raise refuse(
                f"{field} key", key, f"A key has 1 to {MAX_TEXT} characters, and no control characters."
            )
        if not isinstance(item, str):
            raise refuse(f"{field}[{key!r}]", item, "It must be a string.")
        if len(item) > MAX_TEXT:
            raise refuse(
                f"{field}[{key!r}]",
                item,
                f"It has {len(item)} characters; at most {MAX_TEXT} are allowed.",
            )
        if _CONTROL_IN_PROSE.search(item):
            raise refuse(f"{field}[{key!r}]", item, "Control characters are not allowed.")
    return value


def member(body: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return an object out of an object."""
    value = body.get(key)
    if not isinstance(value, dict):
        raise refuse(key, value, "It must be an object.")
    return value


def only(body: Mapping[str, Any], allowed: Iterable[str]) -> None:
    """Refuse keys that nobody knows."""
    extra = sorted(set(body) - set(allowed))
    if extra:
        listed = ", ".join(repr(key[:64]) for key in extra[:8])
        verb = "was" if len(extra) == 1 else "were"
        raise InvalidInputError(f"Additional properties are not allowed ({listed} {verb} unexpected).")
