"""What operators are shown of a pool's endpoints."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Literal

import msgspec

State = Literal["joining", "up", "down", "refused", "leaving"]
"""`joining`: not looked at yet. `down`: it failed, and is tried again. `refused`: it answers, but is not the
pool, cannot hold it, or gave damaged data; that is tried again too. `leaving`: its last requests end."""


class EndpointStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One endpoint."""

    url: str
    state: State
    trouble: str
    """Its last failure."""
    for_s: float
    """Since when it is in this state, in seconds before now."""
    connections: int
    requests: int
    """On their way now."""
    limit: int
    """How many may be."""
    asked: int
    """Since the start, as all that follow."""
    failed: int
    hedged: int
    """Second requests, sent because another endpoint was late."""
    bytes_read: int
    bytes_written: int
    read_ms: float
    """What a read takes, lately."""
    write_ms: float


_COUNTED = (
    *("connections", "requests", "limit", "asked", "failed"),
    *("hedged", "bytes_read", "bytes_written"),
)


def unreached(urls: Iterable[str], trouble: str) -> list[EndpointStatus]:
    """Tell of endpoints none of which could be used."""
    counted: dict[str, int] = dict.fromkeys(_COUNTED, 0)
    return [
        EndpointStatus(url=url, state="down", trouble=trouble, for_s=0, read_ms=0, write_ms=0, **counted)
        for url in urls
    ]


def together(looks: Iterable[Iterable[EndpointStatus]]) -> list[EndpointStatus]:
    """Add up what several users of the same endpoints tell.

    States are the first one's who tells; what requests take is told by who made the most.
    """
    same: defaultdict[str, list[EndpointStatus]] = defaultdict(list)
    for look in looks:
        for one in look:
            same[one.url].append(one)
    return [_sum(found) for found in same.values()]


def _sum(same: list[EndpointStatus]) -> EndpointStatus:
    busiest = max(same, key=lambda one: one.asked)
    return msgspec.structs.replace(
        same[0],
        read_ms=busiest.read_ms,
        write_ms=busiest.write_ms,
        **{name: sum(getattr(one, name) for one in same) for name in _COUNTED},
    )


class MirrorsStatus(msgspec.Struct, frozen=True, kw_only=True):
    """All endpoints of a pool."""

    pool: str
    on_no_path: str
    waiting: int
    """Operations that wait for an endpoint."""
    late_ms: float
    """A read that takes longer is asked for a second time."""
    endpoints: list[EndpointStatus]
