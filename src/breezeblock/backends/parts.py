"""What must be known of a back end so that its pools can be served by processes of their own."""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

Key = tuple[str, ...]
"""Pools that one process serves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """How a back end falls into pools that can be served apart."""

    pools: Key
    narrow: Callable[[Key], msgspec.Struct]
    """The settings of a back end that has only these pools."""
    ping: Callable[[str], None]
    """Ask a pool's server, outside any mount, whether it is there; raises UnavailableError in seconds."""
    answer_timeout_s: float
    """Silence after which a pool is looked at."""
    look_limit_s: float
    """For one look at a pool, with mounting it; the look itself gives up earlier where it can."""
    silence_timeout_s: float
    """Silence of a call after which it is given up although its pool answers."""
