"""What a store's HTTP status means to us: the one place."""

from breezeblock.errors import (
    BreezeblockError,
    ForbiddenError,
    NoSpaceError,
    NotFoundError,
    UnavailableError,
    UnsupportedError,
)
from breezeblock.objects.http.client import Reply
from breezeblock.objects.stores.port import ChangedError, ExistsError

_BUSY = {408, 409, 423, 425, 429, 500, 502, 503, 504}


def expect(reply: Reply, what: str, *good: int, create: bool = False) -> Reply:
    """Return the reply if its status is one of `good`; else raise what it means."""
    if reply.status in good:
        return reply
    raise _error(reply.status, what, create=create)


def _error(status: int, what: str, *, create: bool) -> BreezeblockError:
    text = f"{what}: the store answered {status}."
    if status == 412:
        return ExistsError(text) if create else ChangedError(text)
    if status in {404, 410}:
        return NotFoundError(text)
    if status in {401, 403}:
        return ForbiddenError(text, remedy="Look at the pool's credentials, and the host's clock.")
    if status in {413, 507}:
        return NoSpaceError(text, remedy="Free space in the store, or raise its limits.")
    if status in _BUSY:
        return UnavailableError(text)
    return UnsupportedError(text, remedy="Probe the pool: it says what this store cannot do.")


def part(reply: Reply, key: str, first: int, length: int) -> bytes:
    """Return the bytes of a ranged GET, which may be fewer at the object's end (RFC 9110, 14.4).

    Raises UnsupportedError for a whole object: a server that ignores ranges would be read again and again.
    """
    if reply.status == 416:
        return b""
    expect(reply, f"GET {key}", 200, 206)
    said = reply.headers.get("content-range", "")
    if reply.status == 200 or not said.startswith(f"bytes {first}-") or len(reply.body) > length:
        if reply.status == 200 and first == 0 and len(reply.body) <= length:
            return reply.body
        raise UnsupportedError(f"GET {key}: the store did not answer with the range that was asked for.")
    last = said[len(f"bytes {first}-") :].partition("/")[0]
    if last != str(first + len(reply.body) - 1):
        raise UnavailableError(f"GET {key}: the answer has not the bytes that its header names.")
    return reply.body
