"""The numbers by which endpoints are used and left alone."""

from typing import Literal

import msgspec


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """Times in seconds."""

    on_no_path: Literal["queue", "error"] = "queue"
    """When no endpoint is up: wait for one, for as long as it takes, or fail."""
    attempt_s: float = 5.0
    """For one request to one endpoint, and a second more for each `slowest_bytes` that it moves."""
    slowest_bytes: int = 1 << 20
    deadline_s: float = 60.0
    """For one operation with all its attempts; the time in which no endpoint was up does not count."""
    probe_s: float = 120.0
    fails: int = 3
    """So many failures in a row take an endpoint down."""
    down_first_s: float = 0.2
    """How long it is left alone then, doubled each time that it does not show the pool's identity."""
    down_most_s: float = 30.0
    retry_first_s: float = 0.05
    retry_most_s: float = 5.0
    rest_most_s: float = 30.0
    """The longest that a server may ask to be left alone (Retry-After)."""
    hedge_share: float = 0.05
    """How many second requests may be sent for each read."""
    hedge_after: int = 20
    """Reads that must have been seen before it is known what is late."""
    concurrent_first: int = 64
    concurrent_most: int = 256
    """Requests to one endpoint at a time: halved when it is busy, then grown again by one a round."""
