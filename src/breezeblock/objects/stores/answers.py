"""What a store's HTTP status means to us: the one place."""

import datetime as dt
from email.utils import parsedate_to_datetime

from breezeblock.errors import (
    BreezeblockError,
    ForbiddenError,
    NoSpaceError,
    NotFoundError,
    UnavailableError,
    UnsupportedError,
)
from breezeblock.objects.http.client import Reply
from breezeblock.objects.stores.port import ChangedError, ExistsError, Item, same

CLOCKS_AGREE = dt.timedelta(minutes=1)
"""Differences below this are not why a signature is refused."""
_MAX_STAMP = 1 << 10
_LATER = {408, 409, 423, 425, 500, 502, 504}


class BusyError(UnavailableError):
    """The server says that it has too much to do."""

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        """How long it wants to be left alone; None if it does not say."""


def expect(reply: Reply, what: str, *good: int, create: bool = False) -> Reply:
    """Return the reply if its status is one of `good`; else raise what it means."""
    if reply.status in good:
        return reply
    raise _error(reply, what, create=create)


def _error(reply: Reply, what: str, *, create: bool) -> BreezeblockError:
    status = reply.status
    text = f"{what}: the store answered {status}."
    if status in {401, 403}:
        return ForbiddenError(text, remedy="Look at the pool's credentials, and the host's clock.")
    if status in {413, 507}:
        return NoSpaceError(text, remedy="Free space in the store, or raise its limits.")
    if 300 <= status < 400:
        # Where it leads to is not shown: such addresses may have a key in them.
        return UnsupportedError(text, remedy="It leads elsewhere. Name the address at which the store is.")
    if status in {429, 503}:
        return BusyError(text, retry_after_s=_pause(reply.headers, 1.0 if status == 429 else None))
    plain = {412: ExistsError if create else ChangedError, 404: NotFoundError, 410: NotFoundError}
    kind = UnavailableError if status in _LATER else plain.get(status)
    if kind:
        return kind(text)
    return UnsupportedError(text, remedy="Probe the pool: it says what this store cannot do.")


def _pause(headers: dict[str, str], silent: float | None) -> float | None:
    """Return what Retry-After asks for (RFC 9110, 10.2.3), `silent` if it is not there or makes no sense.

    A date counts from the server's own clock.
    """
    said = headers.get("retry-after", "").strip()
    if said.isdecimal():
        return float(said[:9])
    try:
        then, now = parsedate_to_datetime(said), parsedate_to_datetime(headers.get("date", ""))
        return max(0.0, (then - now).total_seconds())
    except (ValueError, TypeError):
        return silent


def clock_ahead(reply: Reply) -> dt.timedelta:
    """Return how far the server's clock is ahead of ours; nothing if it does not tell."""
    try:
        return parsedate_to_datetime(reply.headers.get("date", "")) - dt.datetime.now(dt.UTC)
    except (ValueError, TypeError):
        return dt.timedelta(0)


def seen(reply: Reply, key: str, length: int) -> Item:
    """Return the object of so many bytes that an answer is from; a weak tag counts as none.

    So does what is too long to be kept.
    """
    tag, modified = (reply.headers.get(name, "") for name in ("etag", "last-modified"))
    told = [one if len(one) <= _MAX_STAMP else "" for one in (tag, modified)]
    return Item(key, length, "" if tag.startswith("W/") else told[0], told[1])


def part_of(reply: Reply, item: Item, first: int, length: int) -> bytes:
    """Return what `part` does, of an object that is what it was. Raises ChangedError."""
    data = part(reply, item.key, first, length)
    if not same(item, seen(reply, item.key, item.length)):
        raise ChangedError(
            f"The object {item.key} was changed while it was read.",
            remedy="Put it back as it was; or manage it anew.",
        )
    return data


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
