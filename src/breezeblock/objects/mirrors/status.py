"""What operators are shown of a pool's endpoints."""

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


class MirrorsStatus(msgspec.Struct, frozen=True, kw_only=True):
    """All endpoints of a pool."""

    pool: str
    on_no_path: str
    waiting: int
    """Operations that wait for an endpoint."""
    late_ms: float
    """A read that takes longer is asked for a second time."""
    endpoints: list[EndpointStatus]
