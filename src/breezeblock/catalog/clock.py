"""Times and time-ordered ids, as the catalog writes them."""

import os
import time
import uuid
from datetime import UTC, datetime, timedelta


def now() -> str:
    """Return the time in UTC as ISO 8601 text with microseconds and no zone."""
    return datetime.now(UTC).replace(tzinfo=None).isoformat(timespec="microseconds")


def later(seconds: float) -> str:
    """Return the time `seconds` from now, in the form of `now`."""
    moment = datetime.now(UTC).replace(tzinfo=None) + timedelta(seconds=seconds)
    return moment.isoformat(timespec="microseconds")


def new_id() -> str:
    """Return a random RFC 4122 id for something that users name."""
    return str(uuid.uuid4())


def ordered_id() -> str:
    """Return a UUID version 7 (RFC 9562 section 5.7) whose text sorts by the time of its making.

    The 12 bits after the millisecond hold its fraction (method 3 of section 6.2): the queue's order
    rests on these ids, and many operations begin within one millisecond.
    """
    nanoseconds = time.time_ns()
    milliseconds, rest = divmod(nanoseconds, 1_000_000)
    fraction = (rest * 4096) // 1_000_000
    value = (milliseconds << 80) | (0x7 << 76) | (fraction << 64) | (0b10 << 62)
    value |= int.from_bytes(os.urandom(8), "big") & ((1 << 62) - 1)
    return str(uuid.UUID(int=value))
